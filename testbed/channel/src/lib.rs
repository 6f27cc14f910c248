//! How the links of a lab misbehave, whether it is made of namespaces or stands in memory.
//!
//! [`Impairment`] says what happens to the frames of one direction, [`Channel`] decides it frame by frame, by its
//! seed and the time it is told. Neither knows of interfaces or clocks.

mod channel;
mod impairment;
#[cfg(test)]
mod tests;

pub use channel::{Channel, ChannelCounters, HELD_MAX, Loss};
pub use impairment::{
    Burst, DELAY_MAX, Direction, Impairment, ImpairmentError, Impairments, LINK_MTU_MIN, Probability, QUEUE_DEFAULT,
    QUEUE_MAX, RATE_MIN, Rate, TooBig, time,
};
