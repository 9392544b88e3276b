//! The archive the kernel unpacks as its first file system ("newc", kernel's early-userspace/buffer-format). It must
//! never depend on the machine's clock or users: equal content gives equal bytes.

use std::fmt::Write as _;

/// File type bits of a mode.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8], permissions: u32) {
        self.entry(path, REGULAR | permissions, content);
    }

    pub(super) fn symlink(&mut self, path: &str, to: &str) {
        self.entry(path, SYMLINK | 0o777, to.as_bytes());
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries, // inode
            mode,
            0,                                                // owner
            0,                                                // group
            1,                                                // links
            0,                                                // time of modification
            u32::try_from(content.len()).unwrap_or(u32::MAX), // an initramfs is far below 4 GiB
            0,
            0,
            0,
            0, // devices: of the file, of a node
            u32::try_from(path.len() + 1).unwrap_or(u32::MAX),
            0, // checksum, unused by this format
        ];
        let mut header = String::from("070701");
        for field in fields {
            let _ = write!(header, "{field:08x}");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entry_is_header_name_and_content_each_padded_to_four_bytes() {
        let mut archive = Archive::default();
        archive.file("a", b"hello", 0o644);
        let bytes = archive.finish();
        let expected = "070701\
            00000001000081a400000000000000000000000100000000\
            00000005000000000000000000000000000000000000000200000000\
            a\0hello\0\0\0";
        assert_eq!(&bytes[..expected.len()], expected.as_bytes());
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(11).any(|window| window == b"TRAILER!!!\0"));
    }
}
