//! The links of a lab of namespaces: an impaired one is carried by a process of its own.
//!
//! What happens to a frame is decided by a [`Channel`]. The relay asks one for each direction; `splice` puts it between
//! the node's cable and the switch, and takes it out.

mod change;
mod relay;
mod splice;
mod status;

pub use change::LinkChange;
pub use relay::{DirectionCounters, RelayCounters, RelayError, run_relay};
pub use status::{LinkSettings, LinkStatus};
pub(crate) use weft_channel::time;
pub use weft_channel::{
    Burst, Channel, ChannelCounters, DELAY_MAX, Direction, HELD_MAX, Impairment, ImpairmentError, Impairments,
    LINK_MTU_MIN, Loss, Probability, QUEUE_DEFAULT, QUEUE_MAX, RATE_MIN, Rate, TooBig,
};
