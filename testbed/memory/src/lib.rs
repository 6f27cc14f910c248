//! Labs inside one process: whole TCP/IP endpoints as pods, switches in memory, and links that misbehave, on a clock
//! that is moved by hand. The same seed and the same calls have the same [trace](MemoryLab::trace).
//!
//! The switches stay with the caller, who may change their tables between two steps, as an agent does: see [`Nodes`].
//!
//! ```
//! use std::time::Duration;
//! use weft_bridge::Tables;
//! use weft_bridge::tables::{DomainOptions, Port, PortMode};
//! use weft_encap::{MacAddr, Vni};
//! use weft_memory_lab::{MemoryLab, PodConfig};
//! use weft_switch::memory::MemorySwitch;
//!
//! let (vni, macs) = (Vni::new(7)?, [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])]);
//! let mut tables = Tables::new(vec!["192.0.2.1".parse()?], vec![4789]);
//! tables.add_domain(vni, DomainOptions::default())?;
//! let mode = PortMode::Bound { addresses: Vec::new() };
//! let [a, b] = macs.map(|mac| {
//!     tables.add_port(Port { name: mac.to_string(), vni, mac, mtu: 1450, mode: mode.clone() })
//! });
//! let (a, b) = (a?, b?);
//! let mut switch = MemorySwitch::new(tables, 1024);
//!
//! let mut lab = MemoryLab::new(1);
//! let a = lab.add_pod(&PodConfig::new(macs[0], &["10.0.0.1/24"]), switch.attach(a));
//! let b = lab.add_pod(&PodConfig::new(macs[1], &["10.0.0.2/24"]), switch.attach(b));
//! let mut node = ("192.0.2.1".parse()?, switch);
//!
//! let stream = lab.stream(a, b, "10.0.0.2".parse()?, 1_000_000);
//! assert!(lab.run_until(&mut node, Duration::from_secs(10), |lab| lab.stream_is_done(stream)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod lab;
mod pod;
mod stream;
mod trace;
mod wire;

pub use lab::{MemoryLab, Nodes, PodId};
pub use pod::PodConfig;
pub use stream::StreamId;
pub use wire::{Wire, WireCounters};
