use crate::gather::{Buffers, Piece};

/// A reusable list of `iovec`s. Its pointers are only followed by the system call for which it was just
/// filled, while the buffers are still borrowed.
pub(super) struct IoVecs {
    list: Vec<libc::iovec>,
}

// SAFETY: the pointers are dead outside of the calls in this module, which refill the list first.
unsafe impl Send for IoVecs {}

impl IoVecs {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { list: Vec::with_capacity(capacity) }
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.list.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
    }

    pub(super) fn extend(&mut self, pieces: &[Piece], buffers: &Buffers<'_>) {
        for piece in pieces {
            self.push(piece.bytes(buffers));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn as_slice(&self) -> &[libc::iovec] {
        &self.list
    }

    pub(super) fn as_mut_ptr_at(&mut self, index: usize) -> *mut libc::iovec {
        self.list[index..].as_mut_ptr()
    }
}
