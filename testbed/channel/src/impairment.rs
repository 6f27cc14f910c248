//! What is wrong with a link, as it is written and as it is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest delay and jitter of a link.
pub const DELAY_MAX: Duration = Duration::from_secs(60);
/// Frames that may wait for a link with a rate, unless `queue` says otherwise.
pub const QUEUE_DEFAULT: u32 = 1000;
/// Frames that may wait at most, whatever `queue` says.
pub const QUEUE_MAX: u32 = 100_000;
/// The least MTU of a link, in bytes (RFC 791).
pub const LINK_MTU_MIN: u16 = 68;
/// The least rate of a link, in bits a second.
pub const RATE_MIN: u64 = 1000;

/// A probability, to one in a million; written in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probability(u32);

/// A rate in bits a second, counted over whole Ethernet frames without their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u64);

/// Losses in bursts, by the model of Gilbert and Elliott: two states, of which each frame may meet the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// From the good state to the bad one.
    pub enter: Probability,
    /// From the bad state to the good one: its reciprocal is the mean length of a burst, in frames.
    pub leave: Probability,
    /// A frame's loss in the bad state.
    pub bad: Probability,
    /// A frame's loss in the good state.
    pub good: Probability,
}

/// What becomes of frames that are longer than the MTU of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TooBig {
    /// They vanish: a black hole.
    #[default]
    Drop,
    /// They vanish, and their sender is told by ICMP as a router would.
    Icmp,
}

/// What happens to the frames of one direction. The default does nothing. In files it is a map of what is set, in
/// the words in which it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
#[non_exhaustive]
pub struct Impairment {
    /// How much later frames arrive, up to [`DELAY_MAX`].
    pub delay: Duration,
    /// By how much that varies, evenly to both sides, up to [`DELAY_MAX`]. It reorders nothing.
    pub jitter: Duration,
    /// How many are lost, each by itself.
    pub loss: Probability,
    /// How many are lost in bursts.
    pub burst: Option<Burst>,
    /// How many arrive twice.
    pub duplicate: Probability,
    /// How many overtake: they have no delay.
    pub reorder: Probability,
    /// How many arrive with one bit turned over, somewhere behind the Ethernet header.
    pub corrupt: Probability,
    /// How fast frames leave, one after the other: [`RATE_MIN`] at least.
    pub rate: Option<Rate>,
    /// How many frames may wait for that; more are lost. Default: [`QUEUE_DEFAULT`].
    pub queue: Option<u32>,
    /// The longest IP packet that passes, in bytes: [`LINK_MTU_MIN`] to 65,535.
    pub mtu: Option<u16>,
    /// What becomes of longer ones.
    pub too_big: TooBig,
}

/// The directions of a link, seen from the node at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the node.
    To,
    /// From the node.
    From,
}

/// Both directions of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Impairments {
    /// Frames towards the node.
    pub to: Impairment,
    /// Frames from the node.
    pub from: Impairment,
    /// Begins the sequence of chances, 64 bits: the same seed and the same frames have the same fate.
    pub seed: u64,
}

/// A text that is no impairment.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImpairmentError {
    /// Not `KEY=VALUE`.
    #[error("`{seen}` is no impairment: write KEY=VALUE, with one of {KEYS}")]
    Shape {
        /// The text seen.
        seen: String,
    },
    /// No change of a link.
    #[error("`{seen}` is no change of a link: write set KEY=VALUE... [to|from], clear, down or up")]
    Change {
        /// The text seen.
        seen: String,
    },
    /// No such impairment.
    #[error("there is no impairment `{key}`: allowed are {KEYS}")]
    Key {
        /// The key seen.
        key: String,
    },
    /// A value that the impairment cannot have.
    #[error("{key}: `{seen}` is not allowed: {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value seen.
        seen: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// One impairment that means nothing without another.
    #[error("{key} without {needs} changes nothing: set both")]
    Alone {
        /// The one given.
        key: &'static str,
        /// The one missing.
        needs: &'static str,
    },
}

/// The impairments there are.
const KEYS: &str = "delay, jitter, loss, burst, duplicate, reorder, corrupt, rate, queue, mtu, too-big and seed";
const TIME: &str = "allowed are times up to 60 s, such as 20ms, 1.5s or 300us";
const PERCENT: &str = "allowed are 0% to 100%, in steps of 0.0001%";
const RATE: &str = "allowed are rates from 1kbit on, such as 512kbit, 10mbit or 1gbit, and off";
const BURST: &str =
    "allowed are ENTER/LEAVE, ENTER/LEAVE/LOSS and ENTER/LEAVE/LOSS/LOSS-OUTSIDE in percent, such as 1%/25%, and off";
const QUEUE: &str = "allowed are 1 to 100000 frames";
const MTU: &str = "allowed are 68 to 65535 bytes, and off";
const TOO_BIG: &str = "allowed are drop and icmp";
const SEED: &str = "allowed are whole numbers from 0 on";
/// What takes an impairment back.
const OFF: &str = "off";

impl Impairments {
    /// Changes both directions, or one of them, as `KEY=VALUE` says.
    ///
    /// # Errors
    /// [`ImpairmentError`]; nothing is changed then.
    pub fn set(&mut self, direction: Option<Direction>, text: &str) -> Result<(), ImpairmentError> {
        let shape = || ImpairmentError::Shape { seen: text.to_owned() };
        let (key, value) = text.split_once('=').ok_or_else(shape)?;
        self.set_value(direction, key, value)
    }

    /// The same, with key and value apart.
    ///
    /// # Errors
    /// [`ImpairmentError`]; nothing is changed then.
    pub fn set_value(&mut self, direction: Option<Direction>, key: &str, value: &str) -> Result<(), ImpairmentError> {
        if key == "seed" {
            self.seed = read("seed", value, SEED, |text| text.parse().ok())?;
            return Ok(());
        }
        let mut changed = self.clone();
        if direction != Some(Direction::From) {
            changed.to.set(key, value)?;
        }
        if direction != Some(Direction::To) {
            changed.from.set(key, value)?;
        }
        *self = changed;
        Ok(())
    }

    /// Refuses what would change nothing without saying so.
    ///
    /// # Errors
    /// [`ImpairmentError::Alone`].
    pub fn check(&self) -> Result<(), ImpairmentError> {
        self.to.check()?;
        self.from.check()
    }

    /// Whether frames pass untouched in both directions.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.to == Impairment::default() && self.from == Impairment::default()
    }
}

impl Impairment {
    fn set(&mut self, key: &str, value: &str) -> Result<(), ImpairmentError> {
        match key {
            "delay" => self.delay = read("delay", value, TIME, delay)?,
            "jitter" => self.jitter = read("jitter", value, TIME, delay)?,
            "loss" => self.loss = read("loss", value, PERCENT, percent)?,
            "burst" => self.burst = read("burst", value, BURST, |text| unless_off(text, burst))?,
            "duplicate" => self.duplicate = read("duplicate", value, PERCENT, percent)?,
            "reorder" => self.reorder = read("reorder", value, PERCENT, percent)?,
            "corrupt" => self.corrupt = read("corrupt", value, PERCENT, percent)?,
            "rate" => self.rate = read("rate", value, RATE, |text| unless_off(text, rate))?,
            "queue" => self.queue = Some(read("queue", value, QUEUE, queue)?),
            "mtu" => self.mtu = read("mtu", value, MTU, |text| unless_off(text, mtu))?,
            "too-big" => self.too_big = read("too-big", value, TOO_BIG, too_big)?,
            _ => return Err(ImpairmentError::Key { key: key.to_owned() }),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ImpairmentError> {
        let alone = |key, needs| Err(ImpairmentError::Alone { key, needs });
        if self.reorder != Probability::NEVER && self.delay.is_zero() {
            return alone("reorder", "delay");
        }
        if self.jitter > self.delay {
            return alone("jitter", "a delay at least as long");
        }
        if self.queue.is_some() && self.rate.is_none() {
            return alone("queue", "rate");
        }
        if self.too_big == TooBig::Icmp && self.mtu.is_none() {
            return alone("too-big", "mtu");
        }
        Ok(())
    }
}

impl Probability {
    /// What never happens.
    pub const NEVER: Self = Self(0);
    /// What always happens.
    pub const ALWAYS: Self = Self(Self::SCALE);
    const SCALE: u32 = 1_000_000;

    /// A share in millionths, a million at most.
    #[must_use]
    pub const fn in_a_million(number: u32) -> Option<Self> {
        if number <= Self::SCALE { Some(Self(number)) } else { None }
    }

    /// Whether it happens, where `chance` is random, even over all numbers.
    #[must_use]
    pub const fn happens(self, chance: u64) -> bool {
        ((chance >> 32) * Self::SCALE as u64) >> 32 < self.0 as u64
    }

    /// As a share, 0 to 1.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::SCALE)
    }
}

impl Rate {
    /// How long a frame of so many bytes takes to leave.
    #[must_use]
    pub fn time_of(self, bytes: usize) -> Duration {
        let nanoseconds = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// In bits a second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }
}

fn read<T>(
    key: &'static str,
    value: &str,
    allowed: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, ImpairmentError> {
    parse(value).ok_or_else(|| ImpairmentError::Value { key, seen: value.to_owned(), allowed })
}

/// Without the outer `Some` the text is wrong; without the inner one it takes the impairment back.
#[expect(clippy::option_option, reason = "wrong and off are two answers")]
fn unless_off<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == OFF { Some(None) } else { parse(text).map(Some) }
}

/// A decimal number as a whole number of `10^-digits`, without rounding.
fn decimal(text: &str, digits: usize) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(part) || part.len() > digits || text.ends_with('.') {
        return None;
    }
    format!("{whole}{part:0<digits$}").parse().ok()
}

fn delay(text: &str) -> Option<Duration> {
    time(text).filter(|time| *time <= DELAY_MAX)
}

/// Reads a time with its unit (`ns`, `us`, `ms`, `s`), `0` alone included; none for what is no time.
#[must_use]
pub fn time(text: &str) -> Option<Duration> {
    let units = [("ns", 0), ("us", 3), ("ms", 6), ("s", 9)];
    let found = units.iter().find_map(|(unit, digits)| decimal(text.strip_suffix(unit)?, *digits));
    let nanoseconds = if text == "0" { 0 } else { found? };
    Some(Duration::from_nanos(nanoseconds))
}

fn percent(text: &str) -> Option<Probability> {
    let number = if text == "0" { 0 } else { decimal(text.strip_suffix('%')?, 4)? };
    Probability::in_a_million(u32::try_from(number).ok()?)
}

fn rate(text: &str) -> Option<Rate> {
    let units = [("kbit", 3), ("mbit", 6), ("gbit", 9)];
    let bits = units.iter().find_map(|(unit, digits)| decimal(text.strip_suffix(unit)?, *digits))?;
    (bits >= RATE_MIN).then_some(Rate(bits))
}

fn burst(text: &str) -> Option<Burst> {
    let parts: Vec<Probability> = text.split('/').map(percent).collect::<Option<_>>()?;
    let (enter, leave, rest) = match parts.as_slice() {
        [enter, leave, rest @ ..] if rest.len() <= 2 => (*enter, *leave, rest),
        _ => return None,
    };
    let bad = rest.first().copied().unwrap_or(Probability::ALWAYS);
    Some(Burst { enter, leave, bad, good: rest.get(1).copied().unwrap_or_default() })
}

fn queue(text: &str) -> Option<u32> {
    text.parse().ok().filter(|frames| (1..=QUEUE_MAX).contains(frames))
}

fn mtu(text: &str) -> Option<u16> {
    text.parse().ok().filter(|bytes| *bytes >= LINK_MTU_MIN)
}

fn too_big(text: &str) -> Option<TooBig> {
    match text {
        "drop" => Some(TooBig::Drop),
        "icmp" => Some(TooBig::Icmp),
        _ => None,
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / f64::from(Self::SCALE / 100))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("gbit", 9), ("mbit", 6), ("kbit", 3)];
        let whole = units.iter().find(|(_, digits)| self.0.is_multiple_of(10_u64.pow(*digits)));
        match whole {
            Some((unit, digits)) => write!(f, "{}{unit}", self.0 / 10_u64.pow(*digits)),
            None => write!(f, "{}.{:03}kbit", self.0 / 1000, self.0 % 1000),
        }
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { enter, leave, bad, good } = self;
        write!(f, "{enter}/{leave}/{bad}/{good}")
    }
}

impl fmt::Display for TooBig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Icmp => "icmp",
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::To => "to",
            Self::From => "from",
        })
    }
}

impl Impairment {
    /// What is not as by default, as it would be written to set it.
    fn parts(&self) -> impl Iterator<Item = (&'static str, String)> {
        let time = |time: Duration| (!time.is_zero()).then(|| format!("{time:?}").replace('µ', "u"));
        let chance = |chance: Probability| (chance != Probability::NEVER).then(|| chance.to_string());
        let parts = [
            ("delay", time(self.delay)),
            ("jitter", time(self.jitter)),
            ("loss", chance(self.loss)),
            ("burst", self.burst.map(|burst| burst.to_string())),
            ("duplicate", chance(self.duplicate)),
            ("reorder", chance(self.reorder)),
            ("corrupt", chance(self.corrupt)),
            ("rate", self.rate.map(|rate| rate.to_string())),
            ("queue", self.queue.map(|queue| queue.to_string())),
            ("mtu", self.mtu.map(|mtu| mtu.to_string())),
            ("too-big", (self.too_big != TooBig::Drop).then(|| self.too_big.to_string())),
        ];
        parts.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&parts.join(" "))
    }
}

impl From<Impairment> for BTreeMap<String, String> {
    fn from(impairment: Impairment) -> Self {
        impairment.parts().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl TryFrom<BTreeMap<String, String>> for Impairment {
    type Error = ImpairmentError;

    fn try_from(parts: BTreeMap<String, String>) -> Result<Self, ImpairmentError> {
        let mut impairment = Self::default();
        parts.iter().try_for_each(|(key, value)| impairment.set(key, value))?;
        Ok(impairment)
    }
}
