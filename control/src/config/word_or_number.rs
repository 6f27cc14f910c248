//! Fields that hold either one of some words or a number.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserializer, de};

/// What was written.
pub(super) enum Written {
    /// One of the words, by its place among them.
    Word(usize),
    /// A number of the range.
    Number(u16),
}

/// What may be written.
pub(super) struct WordOrNumber {
    pub(super) words: &'static [&'static str],
    pub(super) numbers: RangeInclusive<u16>,
}

impl WordOrNumber {
    pub(super) fn read<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Written, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl de::Visitor<'_> for WordOrNumber {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.iter().try_for_each(|word| write!(f, "\"{word}\" or "))?;
        write!(f, "{} to {}", self.numbers.start(), self.numbers.end())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Written, E> {
        let place = self.words.iter().position(|word| *word == text);
        place.map(Written::Word).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Written, E> {
        let number = u16::try_from(value).ok().filter(|number| self.numbers.contains(number));
        number.map(Written::Number).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(value), &self))
    }
}
