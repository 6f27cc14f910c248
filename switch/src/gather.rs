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

/// Cuts a list of pieces into lists of `length` bytes each, the last one shorter.
pub(crate) fn cut(pieces: &[Piece], length: usize) -> impl Iterator<Item = Vec<Piece>> {
    let mut rest = pieces.to_vec();
    rest.reverse();
    std::iter::from_fn(move || {
        let mut wanted = u32::try_from(length).unwrap_or(u32::MAX);
        let mut segment = Vec::new();
        while wanted > 0 {
            let Some(mut piece) = rest.pop() else { break };
            if piece.len > wanted {
                rest.push(Piece { start: piece.start + wanted, len: piece.len - wanted, ..piece });
                piece.len = wanted;
            }
            wanted -= piece.len;
            segment.push(piece);
        }
        (!segment.is_empty()).then_some(segment)
    })
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
        let segments: Vec<_> = cut(&[arena(0, 5), arena(10, 17)], 4).collect();
        assert_eq!(segments, [vec![arena(0, 4)], vec![arena(4, 5), arena(10, 13)], vec![arena(13, 17)]]);
    }
}
