//! A byte stream of which every receiver knows every byte.
//!
//! The stream is made of chunks, each a window of one table of random-looking bytes. Chunk `n` begins at
//! offset `n * STRIDE mod OFFSETS`, which is another one for each of the first `OFFSETS` chunks: a chunk that
//! is repeated, left out or shifted, by however little, does not fit. Neither end copies or computes anything
//! but the comparison.

/// Bytes of a chunk.
pub(crate) const CHUNK: usize = 65_536;
/// Offsets at which a chunk can begin. Prime, so that every stride visits all of them.
const OFFSETS: usize = 65_521;
/// From the offset of one chunk to that of the next.
const STRIDE: usize = 40_503;

/// The table.
pub(crate) struct Pattern {
    table: Box<[u8]>,
}

/// The first byte that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) position: u64,
    pub(crate) expected: u8,
    pub(crate) seen: u8,
}

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = (CHUNK + OFFSETS).div_ceil(size_of::<u64>());
        let table = (0..words).flat_map(|_| {
            // xorshift64: all that is asked of it is that no two windows are alike.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        Self { table: table.collect() }
    }

    /// The stream from `position` to the end of the chunk.
    pub(crate) fn at(&self, position: u64) -> &[u8] {
        let (chunk, within) = (position / CHUNK as u64, (position % CHUNK as u64) as usize);
        let offset = ((chunk % OFFSETS as u64) as usize * STRIDE) % OFFSETS;
        &self.table[offset + within..offset + CHUNK]
    }

    /// Compares what arrived at `position` with the stream.
    pub(crate) fn check(&self, mut position: u64, mut seen: &[u8]) -> Result<(), Mismatch> {
        while !seen.is_empty() {
            let expected = self.at(position);
            let length = expected.len().min(seen.len());
            let (now, later) = seen.split_at(length);
            if now != &expected[..length] {
                return Err(first_mismatch(position, &expected[..length], now));
            }
            position += length as u64;
            seen = later;
        }
        Ok(())
    }
}

#[cold]
fn first_mismatch(position: u64, expected: &[u8], seen: &[u8]) -> Mismatch {
    let index = expected.iter().zip(seen).position(|(expected, seen)| expected != seen).unwrap_or_default();
    Mismatch { position: position + index as u64, expected: expected[index], seen: seen[index] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pattern: &Pattern, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            bytes.extend_from_slice(pattern.at(bytes.len() as u64));
        }
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn the_stream_fits_itself_however_it_is_cut() {
        let pattern = Pattern::new();
        let bytes = stream(&pattern, 3 * CHUNK + 17);
        for cut in [1, 1448, CHUNK - 1, CHUNK, CHUNK + 1, bytes.len()] {
            let mut position = 0;
            for piece in bytes.chunks(cut) {
                assert_eq!(pattern.check(position, piece), Ok(()));
                position += piece.len() as u64;
            }
        }
    }

    #[test]
    fn a_changed_byte_is_found() {
        let pattern = Pattern::new();
        let mut bytes = stream(&pattern, 2 * CHUNK);
        bytes[CHUNK + 5] ^= 0x10;
        let expected = pattern.at(CHUNK as u64 + 5)[0];
        let mismatch = Mismatch { position: CHUNK as u64 + 5, expected, seen: expected ^ 0x10 };
        assert_eq!(pattern.check(0, &bytes), Err(mismatch));
    }

    #[test]
    fn a_shifted_repeated_or_missing_piece_is_found() {
        let pattern = Pattern::new();
        let bytes = stream(&pattern, 4 * CHUNK);
        for distance in [1, 2, 8, 1448, CHUNK, 2 * CHUNK] {
            assert!(pattern.check(0, &bytes[distance..distance + 64]).is_err(), "left out {distance}");
            assert!(pattern.check(distance as u64, &bytes[..64]).is_err(), "repeated {distance}");
        }
    }

    #[test]
    fn chunks_repeat_only_after_all_offsets() {
        let pattern = Pattern::new();
        let first = &pattern.at(0)[..64];
        for chunk in 1..OFFSETS as u64 {
            assert_ne!(&pattern.at(chunk * CHUNK as u64)[..64], first, "chunk {chunk}");
        }
    }
}
