use super::{Direction, ImpairmentError, Impairments, LinkSettings};

/// What is to become of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkChange {
    /// Further impairments, as [`Impairments::set`] reads them.
    Set {
        /// In one direction only.
        direction: Option<Direction>,
        /// Each as `KEY=VALUE`.
        words: Vec<String>,
    },
    /// No impairments.
    Clear,
    /// Unplugged.
    Down,
    /// Plugged in.
    Up,
}

impl LinkChange {
    /// Reads the words of a change: `set KEY=VALUE... [to|from]`, `clear`, `down` or `up`.
    ///
    /// # Errors
    /// [`ImpairmentError`], which says what is allowed.
    pub fn read(words: &[&str]) -> Result<Self, ImpairmentError> {
        match words {
            ["set", words @ ..] => Self::read_set(words),
            ["clear"] => Ok(Self::Clear),
            ["down"] => Ok(Self::Down),
            ["up"] => Ok(Self::Up),
            _ => Err(ImpairmentError::Change { seen: words.join(" ") }),
        }
    }

    /// Reads `KEY=VALUE... [to|from]`.
    ///
    /// # Errors
    /// [`ImpairmentError`], which says what is allowed.
    pub fn read_set(words: &[&str]) -> Result<Self, ImpairmentError> {
        let (directions, words): (Vec<&str>, Vec<&str>) =
            words.iter().copied().partition(|word| matches!(*word, "to" | "from"));
        let direction = match directions.as_slice() {
            ["to"] => Some(Direction::To),
            ["from"] => Some(Direction::From),
            // Both named is both meant.
            _ => None,
        };
        if words.is_empty() {
            return Err(ImpairmentError::Shape { seen: directions.join(" ") });
        }
        let mut tried = Impairments::default();
        words.iter().try_for_each(|word| tried.set(direction, word))?;
        Ok(Self::Set { direction, words: words.into_iter().map(str::to_owned).collect() })
    }

    /// Changes how a link is set.
    pub fn apply(&self, settings: &mut LinkSettings) {
        match self {
            Self::Set { direction, words } => {
                for word in words {
                    // It was read before.
                    let _ = settings.impairments.set(*direction, word);
                }
            }
            Self::Clear => settings.impairments = Impairments::default(),
            Self::Down => settings.down = true,
            Self::Up => settings.down = false,
        }
    }
}
