use std::ops::Bound;

use bytes::Bytes;

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// One key or several neighbours, in the order of their bytes.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyRange {
    /// This key.
    One(Bytes),
    /// This key and all after it.
    From(Bytes),
    /// The first key up to the second, which is not in it; none if that does not come after the first.
    Span(Bytes, Bytes),
}

impl KeyRange {
    /// As requests say it: an empty `end` for the one key, a zero byte for all keys from it on.
    #[must_use]
    pub fn of_request(key: &Bytes, end: &Bytes) -> Self {
        match end.as_ref() {
            [] => Self::One(key.clone()),
            [0] => Self::From(key.clone()),
            _ => Self::Span(key.clone(), end.clone()),
        }
    }

    /// All keys that begin so; every key if the prefix is empty.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix = prefix.into();
        if prefix.is_empty() {
            return Self::From(Bytes::from_static(&[0]));
        }
        // The next of the same length; where all bytes are 255 there is none, and all keys after it have the prefix
        // or come after whatever has.
        let Some(last) = prefix.iter().rposition(|byte| *byte < u8::MAX) else { return Self::From(prefix) };
        let mut end = prefix[..=last].to_vec();
        end[last] += 1;
        Self::Span(prefix, end.into())
    }

    /// As requests say it: the first key and the end.
    #[must_use]
    pub fn to_request(&self) -> (Bytes, Bytes) {
        match self {
            Self::One(key) => (key.clone(), Bytes::new()),
            Self::From(key) => (key.clone(), Bytes::from_static(&[0])),
            Self::Span(key, end) => (key.clone(), end.clone()),
        }
    }

    /// Whether the key is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::From(first) => first.as_ref() <= key,
            Self::Span(first, end) => first.as_ref() <= key && key < end.as_ref(),
        }
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Span(first, end) if end <= first)
    }

    /// For a look into an ordered map; a range that is empty has none.
    pub(crate) fn bounds(&self) -> Option<Bounds<'_>> {
        match self {
            _ if self.is_empty() => None,
            Self::One(key) => Some((Bound::Included(key), Bound::Included(key))),
            Self::From(first) => Some((Bound::Included(first), Bound::Unbounded)),
            Self::Span(first, end) => Some((Bound::Included(first), Bound::Excluded(end))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_what_begins_with_it_and_nothing_else() {
        let prefixes: [&[u8]; 6] = [b"", b"a", b"a\xff", b"\xff", b"\xff\xff", b"a/\x00"];
        let keys: [&[u8]; 12] = [
            b"\x00",
            b"a",
            b"a\x00",
            b"a\xff",
            b"a\xff\xff",
            b"b",
            b"\xfe",
            b"\xff",
            b"\xff\x00",
            b"\xff\xff",
            b"a/\x00x",
            b"a/\x01",
        ];
        for prefix in prefixes {
            let range = KeyRange::prefix(prefix.to_vec());
            for key in keys {
                assert_eq!(range.contains(key), key.starts_with(prefix), "{prefix:?} {key:?}");
            }
        }
    }

    #[test]
    fn what_requests_say_comes_back() {
        for (key, end) in [("a", ""), ("a", "\0"), ("a", "b"), ("b", "a")] {
            let range = KeyRange::of_request(&Bytes::from(key), &Bytes::from(end));
            assert_eq!(range.to_request(), (Bytes::from(key), Bytes::from(end)));
            assert_eq!(range.is_empty(), (key, end) == ("b", "a"));
            assert_eq!(range.bounds().is_none(), range.is_empty());
        }
    }
}
