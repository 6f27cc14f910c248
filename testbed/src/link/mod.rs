//! The links of a lab: how they misbehave.
//!
//! [`Impairment`] says what happens to the frames of one direction, [`Channel`] decides it frame by frame, by its
//! seed and the time it is told. Neither knows of interfaces. The relay does: it is the process that carries the
//! frames of an impaired link, and `splice` puts it between the node's cable and the switch, and takes it out.

mod change;
mod channel;
mod impairment;
mod relay;
mod splice;
mod status;
#[cfg(test)]
mod tests;

pub use change::LinkChange;
pub use channel::{Channel, ChannelCounters, HELD_MAX, Loss};
pub(crate) use impairment::time;
pub use impairment::{
    Burst, DELAY_MAX, Direction, Impairment, ImpairmentError, Impairments, LINK_MTU_MIN, Probability, QUEUE_DEFAULT,
    QUEUE_MAX, RATE_MIN, Rate, TooBig,
};
pub use relay::{DirectionCounters, RelayCounters, RelayError, run_relay};
pub use status::{LinkSettings, LinkStatus};
