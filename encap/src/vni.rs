use std::fmt;

/// A virtual network identifier: 24 bits, 1 to 16,777,215 (RFC 7348 section 5, RFC 8926 section 3.4).
///
/// Zero is refused: peers disagree on its meaning, and Linux uses it for "no VNI".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

/// A number that is not a VNI (RFC 7348 section 5, RFC 8926 section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VniError {
    /// What stands for the VNI: 0, or 2^24 and more.
    pub seen: u64,
}

impl Vni {
    /// The greatest VNI, 2^24 - 1.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// Checks the range.
    ///
    /// # Errors
    /// [`VniError`] for zero and for what does not fit in 24 bits.
    pub const fn new(value: u32) -> Result<Self, VniError> {
        if value == 0 || value > Self::MAX.0 {
            return Err(VniError { seen: value as u64 });
        }
        Ok(Self(value))
    }

    /// The VNI as a number, 1 to 16,777,215.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The three bytes as they stand in both headers, network byte order.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// Reads the three bytes of a header.
    ///
    /// # Errors
    /// [`VniError`] for zero.
    pub const fn from_bytes([a, b, c]: [u8; 3]) -> Result<Self, VniError> {
        Self::new(u32::from_be_bytes([0, a, b, c]))
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vni({})", self.0)
    }
}

impl fmt::Display for VniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VNI {} is out of range: allowed are 1 to {}", self.seen, Vni::MAX)
    }
}

impl std::error::Error for VniError {}

#[cfg(feature = "serde")]
impl serde::Serialize for Vni {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Vni {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seen = u64::deserialize(deserializer)?;
        u32::try_from(seen).map_err(|_| VniError { seen }).and_then(Self::new).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_is_24_bits_without_zero() {
        assert_eq!(Vni::new(0), Err(VniError { seen: 0 }));
        assert_eq!(Vni::new(1).unwrap().to_bytes(), [0, 0, 1]);
        assert_eq!(Vni::new(0x00ff_ffff), Ok(Vni::MAX));
        assert_eq!(Vni::new(0x0100_0000), Err(VniError { seen: 0x0100_0000 }));
        assert_eq!(Vni::from_bytes([0x12, 0x34, 0x56]).unwrap().get(), 0x12_3456);
    }
}
