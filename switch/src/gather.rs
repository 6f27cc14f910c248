//! Frames as lists of pieces: headers that we wrote, and bytes as they arrived.

/// Which of the two buffers a piece lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// Bytes as they arrived.
    Arena,
    /// Headers that we wrote.
    Headers,
}

/// A run of bytes to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The buffer it lies in.
    pub buffer: Buffer,
    /// Its start, in bytes.
    pub start: u32,
    /// Its length, in bytes.
    pub len: u32,
}

/// The two buffers that pieces refer to.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a> {
    /// Bytes as they arrived.
    pub arena: &'a [u8],
    /// Headers that we wrote.
    pub headers: &'a [u8],
}

impl Piece {
    /// A piece of a buffer; ranges come from buffers far below 4 GiB.
    #[must_use]
    pub fn new(buffer: Buffer, range: std::ops::Range<usize>) -> Self {
        debug_assert!(range.start <= range.end && u32::try_from(range.end).is_ok());
        Self { buffer, start: range.start as u32, len: (range.end - range.start) as u32 }
    }

    /// The bytes it stands for; empty if it does not lie in its buffer.
    #[must_use]
    #[inline]
    pub fn bytes<'a>(&self, buffers: &Buffers<'a>) -> &'a [u8] {
        let buffer = match self.buffer {
            Buffer::Arena => buffers.arena,
            Buffer::Headers => buffers.headers,
        };
        let start = self.start as usize;
        buffer.get(start..start + self.len as usize).unwrap_or_default()
    }

    /// Whether `next` begins where this one ends.
    #[inline]
    fn adjoins(&self, next: &Self) -> bool {
        self.buffer == next.buffer && self.start + self.len == next.start
    }
}

/// Appends a piece, or lengthens the last one past `floor` where the two adjoin.
#[inline]
pub(crate) fn append(pieces: &mut Vec<Piece>, floor: usize, piece: Piece) {
    if let Some(last) = pieces.get_mut(floor..).and_then(<[Piece]>::last_mut)
        && last.adjoins(&piece)
    {
        last.len += piece.len;
        return;
    }
    pieces.push(piece);
}

/// Lists of pieces behind each other, kept for reuse.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    pieces: Vec<Piece>,
    ends: Vec<usize>,
}

impl Segments {
    pub(crate) fn with_capacity(segments: usize, pieces: usize) -> Self {
        Self { pieces: Vec::with_capacity(pieces), ends: Vec::with_capacity(segments) }
    }

    /// Cuts a list of pieces into segments of `length` bytes each, the last one shorter.
    pub(crate) fn cut(&mut self, pieces: &[Piece], length: usize) {
        self.pieces.clear();
        self.ends.clear();
        let length = u32::try_from(length).unwrap_or(u32::MAX).max(1);
        let mut wanted = length;
        for piece in pieces {
            let Piece { buffer, mut start, len: mut rest } = *piece;
            while rest > 0 {
                let len = rest.min(wanted);
                self.pieces.push(Piece { buffer, start, len });
                (start, rest, wanted) = (start + len, rest - len, wanted - len);
                if wanted == 0 {
                    self.ends.push(self.pieces.len());
                    wanted = length;
                }
            }
        }
        if wanted < length {
            self.ends.push(self.pieces.len());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The segments from this one on.
    pub(crate) fn from(&self, first: usize) -> impl Iterator<Item = &[Piece]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).skip(first).map(|(begin, end)| &self.pieces[begin..*end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(start: usize, end: usize) -> Piece {
        Piece::new(Buffer::Arena, start..end)
    }

    #[test]
    fn adjoining_pieces_become_one_above_the_floor() {
        let mut pieces = vec![arena(0, 4)];
        append(&mut pieces, 0, arena(4, 8));
        append(&mut pieces, 1, arena(8, 9));
        append(&mut pieces, 0, Piece::new(Buffer::Headers, 9..10));
        assert_eq!(pieces, [arena(0, 8), arena(8, 9), Piece::new(Buffer::Headers, 9..10)]);
    }

    #[test]
    fn cuts_across_pieces() {
        let mut segments = Segments::default();
        segments.cut(&[arena(0, 5), arena(10, 17)], 4);
        let cut: Vec<_> = segments.from(0).map(<[Piece]>::to_vec).collect();
        assert_eq!(cut, [vec![arena(0, 4)], vec![arena(4, 5), arena(10, 13)], vec![arena(13, 17)]]);
        assert_eq!((segments.len(), segments.from(2).count()), (3, 1));
        segments.cut(&[arena(0, 8)], 4);
        assert_eq!(segments.len(), 2);
    }
}
