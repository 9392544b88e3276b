//! Frames as a file that Wireshark opens (pcap, nanosecond clock, link type Ethernet).
//!
//! Frames are written as they cross the cable: large segments whole, with the checksums their receiver sees.

use std::fs::File;
use std::io::{self, BufWriter, IoSlice, Write};
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// Nanosecond timestamps, host byte order.
const MAGIC: u32 = 0xa1b2_3c4d;
const LINK_TYPE_ETHERNET: u32 = 1;
/// Longest frame that readers accept without asking.
const SNAP_LEN: u32 = 262_144;

/// An open capture file.
#[derive(Debug)]
pub struct Capture {
    file: Option<BufWriter<File>>,
}

impl Capture {
    /// Creates or replaces the file at `path`.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        let words = [MAGIC, 4 << 16 | 2, 0, 0, SNAP_LEN, LINK_TYPE_ETHERNET];
        for word in words {
            file.write_all(&word.to_ne_bytes())?;
        }
        file.flush()?;
        Ok(Self { file: Some(file) })
    }

    /// Adds one frame. A write that fails ends the capture, not the program.
    pub fn write(&mut self, parts: &[IoSlice<'_>]) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = write_frame(file, parts) {
            tracing::warn!("the capture ends here: {error}");
            self.file = None;
        }
    }

    /// Brings what was written to the file; called when the relay has nothing else to do.
    pub fn flush(&mut self) {
        if let Some(file) = &mut self.file
            && file.flush().is_err()
        {
            self.file = None;
        }
    }
}

fn write_frame(file: &mut impl Write, parts: &[IoSlice<'_>]) -> io::Result<()> {
    let time = clock_gettime(ClockId::Realtime);
    let len = u32::try_from(parts.iter().map(|part| part.len()).sum::<usize>()).unwrap_or(SNAP_LEN);
    let seconds = u32::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    for word in [seconds, nanos, len, len] {
        file.write_all(&word.to_ne_bytes())?;
    }
    for part in parts {
        file.write_all(part)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_frame_have_the_layout_of_pcap() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pcap");
        let mut capture = Capture::create(&path).unwrap();
        capture.write(&[IoSlice::new(b"head"), IoSlice::new(b"tail!")]);
        capture.flush();
        let bytes = std::fs::read(&path).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(16), word(20)), (MAGIC, SNAP_LEN, 1));
        assert_eq!(&bytes[4..8], [2u16.to_ne_bytes(), 4u16.to_ne_bytes()].concat());
        assert_eq!((word(32), word(36)), (9, 9));
        assert_eq!(&bytes[40..], b"headtail!");
    }
}
