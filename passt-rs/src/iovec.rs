//! Pieces of memory for system calls, which somebody else may write at the same time.
//!
//! A guest's memory is shared with the guest, so no Rust reference to it may exist. A piece is an address and a
//! length with a lifetime: it can be given to the kernel, and copied from or to, but not looked at.
#![expect(unsafe_code, reason = "copies from and to memory that may change meanwhile")]

use std::fmt;
use std::marker::PhantomData;

/// Bytes to read. Has the layout of a `struct iovec`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Piece<'a>(libc::iovec, PhantomData<&'a [u8]>);

/// Bytes to write. Has the layout of a `struct iovec`.
#[repr(transparent)]
pub struct PieceMut<'a>(libc::iovec, PhantomData<&'a mut [u8]>);

impl<'a> Piece<'a> {
    pub const EMPTY: Self = Self(libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }, PhantomData);

    /// Memory of ours.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }, PhantomData)
    }

    /// Memory that others may write.
    ///
    /// # Safety
    /// `len` bytes at `address` must stay mapped and readable for `'a`.
    pub unsafe fn shared(address: *const u8, len: usize) -> Self {
        Self(libc::iovec { iov_base: address.cast_mut().cast(), iov_len: len }, PhantomData)
    }

    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    pub fn is_empty(&self) -> bool {
        self.0.iov_len == 0
    }

    /// Copies as much as fits to the start of `buffer`; gives how much.
    pub fn copy_to(&self, buffer: &mut [u8]) -> usize {
        let len = self.len().min(buffer.len());
        // SAFETY: the piece's memory is readable for its lifetime (see the constructors), `buffer` is ours alone,
        // and neither is shorter than `len`. What a concurrent writer leaves in it is some bytes, all of which are
        // valid.
        unsafe { std::ptr::copy_nonoverlapping(self.0.iov_base.cast::<u8>(), buffer.as_mut_ptr(), len) };
        len
    }

    /// The piece without its first `bytes`.
    #[must_use]
    pub fn skip(&self, bytes: usize) -> Self {
        let skipped = bytes.min(self.len());
        let base = self.0.iov_base.cast::<u8>().wrapping_add(skipped);
        Self(libc::iovec { iov_base: base.cast(), iov_len: self.len() - skipped }, PhantomData)
    }

    /// The first `len` bytes of the piece.
    #[must_use]
    pub fn first(&self, len: usize) -> Self {
        Self(libc::iovec { iov_base: self.0.iov_base, iov_len: len.min(self.len()) }, PhantomData)
    }
}

impl<'a> PieceMut<'a> {
    pub const EMPTY: PieceMut<'static> =
        PieceMut(libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }, PhantomData);

    /// Memory of ours.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }, PhantomData)
    }

    /// Memory that others may read and write.
    ///
    /// # Safety
    /// `len` bytes at `address` must stay mapped and writable for `'a`, and no reference to them may exist.
    pub unsafe fn shared(address: *mut u8, len: usize) -> Self {
        Self(libc::iovec { iov_base: address.cast(), iov_len: len }, PhantomData)
    }

    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    pub fn is_empty(&self) -> bool {
        self.0.iov_len == 0
    }

    /// Copies as much of `bytes` as fits to the start of the piece; gives how much.
    pub fn copy_from(&mut self, bytes: &[u8]) -> usize {
        let len = self.len().min(bytes.len());
        // SAFETY: the piece's memory is writable for its lifetime (see the constructors), `bytes` is none of it, and
        // neither is shorter than `len`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.iov_base.cast::<u8>(), len) };
        len
    }

    /// The piece without its first `bytes`.
    pub fn skip(&mut self, bytes: usize) -> PieceMut<'_> {
        let skipped = bytes.min(self.len());
        let base = self.0.iov_base.cast::<u8>().wrapping_add(skipped);
        PieceMut(libc::iovec { iov_base: base.cast(), iov_len: self.len() - skipped }, PhantomData)
    }

    /// What the kernel is given. The address is worth nothing after the piece's lifetime.
    pub const fn as_iovec(&self) -> libc::iovec {
        self.0
    }

    /// The same bytes, to read.
    pub fn as_piece(&self) -> Piece<'_> {
        Piece(self.0, PhantomData)
    }
}

impl fmt::Debug for Piece<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Piece({} bytes at {:p})", self.0.iov_len, self.0.iov_base)
    }
}

impl fmt::Debug for PieceMut<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PieceMut({} bytes at {:p})", self.0.iov_len, self.0.iov_base)
    }
}

/// Takes the first `bytes` off `pieces`, as `IoSlice::advance_slices` does; beyond the end nothing is left.
pub fn advance<'a>(pieces: &mut &mut [Piece<'a>], mut bytes: usize) {
    let mut whole = 0;
    for piece in pieces.iter() {
        if piece.len() > bytes {
            break;
        }
        bytes -= piece.len();
        whole += 1;
    }
    *pieces = std::mem::take(pieces).get_mut(whole..).unwrap_or_default();
    if let Some(first) = pieces.first_mut() {
        *first = first.skip(bytes);
    }
}

/// Copies `pieces` one behind the other to the start of `buffer`, as much as fits; gives how much.
pub fn copy_all<'a>(pieces: impl IntoIterator<Item = Piece<'a>>, buffer: &mut [u8]) -> usize {
    let mut copied = 0;
    for piece in pieces {
        let Some(rest) = buffer.get_mut(copied..) else { break };
        copied += piece.copy_to(rest);
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_takes_whole_pieces_and_a_part() {
        let mut pieces = [Piece::new(b"abc"), Piece::new(b""), Piece::new(b"defg")];
        let mut rest = pieces.as_mut_slice();
        advance(&mut rest, 4);
        let mut buffer = [0; 8];
        assert_eq!(copy_all(rest.iter().copied(), &mut buffer), 3);
        assert_eq!(&buffer[..3], b"efg");
        advance(&mut rest, 100);
        assert!(rest.is_empty());
    }

    #[test]
    fn copies_stop_at_the_shorter_end() {
        let mut bytes = [0; 3];
        assert_eq!(PieceMut::new(&mut bytes).copy_from(b"abcdef"), 3);
        let mut buffer = [0; 2];
        assert_eq!(Piece::new(&bytes).skip(1).copy_to(&mut buffer), 2);
        assert_eq!(&buffer, b"bc");
        assert_eq!(Piece::new(&bytes).first(2).len(), 2);
    }
}
