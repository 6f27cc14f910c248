use std::io;

use rustix::io::write;
use weft_switch::PacketTap;

use crate::host::Host;

/// Sends and receives whole frames at one interface, whatever they say.
#[derive(Debug)]
pub struct PacketSocket {
    pub(crate) tap: PacketTap,
}

impl PacketSocket {
    /// At an interface of a host.
    ///
    /// # Panics
    /// If it cannot be had.
    #[must_use]
    pub fn open(host: &Host, interface: &str) -> Self {
        let index = host.link(interface).index;
        Self { tap: host.netns().run(|| PacketTap::open(index)).unwrap().unwrap() }
    }

    /// Sends a frame as it is.
    ///
    /// # Panics
    /// If the kernel refuses it.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        self.try_send(frame).unwrap_or_else(|error| panic!("a frame of {} bytes: {error}", frame.len()));
    }

    /// Sends a frame as it is, if the kernel takes it.
    ///
    /// # Errors
    /// The kernel's, such as EMSGSIZE for what is longer than the interface's MTU.
    pub fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = write(&self.tap, frame)?;
        if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}
