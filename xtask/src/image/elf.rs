//! Whether a program is complete in itself: of an ELF file (System V ABI, chapters 4 and 5), only what answers that.

use anyhow::{Context as _, Result, bail};

/// Program headers' types.
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
/// Tag of an entry of the dynamic section that names a library.
const DT_NEEDED: u64 = 1;
/// Lengths of a 64-bit file's program header and of an entry of its dynamic section.
const HEADER_LEN: u64 = 56;
const ENTRY_LEN: u64 = 16;

/// Passes if the kernel can start this file without a dynamic linker and without libraries.
pub(super) fn is_static(file: &[u8]) -> Result<()> {
    let Some([0x7f, b'E', b'L', b'F', 2, order]) = file.get(..6) else { bail!("not a 64-bit ELF file") };
    let file = File { bytes: file, big_endian: *order == 2 };
    let headers = file.number(32, 8)?;
    let count = file.number(56, 2)?;
    for header in (0..count).map(|index| headers.saturating_add(index * HEADER_LEN)) {
        match file.number(header, 4)? {
            PT_INTERP => bail!("it asks for a dynamic linker"),
            PT_DYNAMIC => file.needs_nothing(header)?,
            _ => {}
        }
    }
    Ok(())
}

#[derive(Debug)]
struct File<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl File<'_> {
    /// The unsigned number of `len` bytes, 8 at most, at `at`.
    fn number(&self, at: u64, len: usize) -> Result<u64> {
        let bytes = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..at.checked_add(len)?));
        let bytes = bytes.with_context(|| format!("cut short at byte {at}"))?;
        let push = |number, byte: &u8| (number << 8) | u64::from(*byte);
        Ok(if self.big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) })
    }

    /// Of the dynamic section this header describes: a static program that can be loaded anywhere has one too.
    fn needs_nothing(&self, header: u64) -> Result<()> {
        let start = self.number(header.saturating_add(8), 8)?;
        let len = self.number(header.saturating_add(32), 8)?;
        for entry in (0..len / ENTRY_LEN).map(|index| start.saturating_add(index * ENTRY_LEN)) {
            if self.number(entry, 8)? == DT_NEEDED {
                bail!("it asks for a library");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian file with one program header of this type, followed by a dynamic section of one entry.
    fn file(header_type: u64, tag: u64) -> Vec<u8> {
        let mut file = vec![0; 64 + 56 + 16];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        for (at, value) in
            [(32, 64), (56, 1), (64, header_type), (64 + 8, 64 + 56), (64 + 32, 16), (64 + 56, tag)]
        {
            file[at..at + 2].copy_from_slice(&u16::try_from(value).unwrap().to_le_bytes());
        }
        file
    }

    fn fault(file: &[u8]) -> String {
        is_static(file).unwrap_err().to_string()
    }

    #[test]
    fn programs_that_need_others_are_told_from_those_that_do_not() {
        is_static(&file(1, 0)).unwrap();
        is_static(&file(PT_DYNAMIC, 5)).unwrap();
        assert_eq!(fault(&file(PT_INTERP, 0)), "it asks for a dynamic linker");
        assert_eq!(fault(&file(PT_DYNAMIC, DT_NEEDED)), "it asks for a library");
        assert_eq!(fault(&file(1, 0)[..66]), "cut short at byte 64");
        assert_eq!(fault(b"#!/bin/sh"), "not a 64-bit ELF file");
    }

    #[test]
    fn this_very_test_is_a_dynamic_program() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!fault(&program).is_empty());
    }
}
