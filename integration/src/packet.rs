use std::io;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::host::Host;
use crate::sys;

/// Bytes of receive buffer: a burst of thousands of frames.
const RECEIVE_BUFFER: i32 = 32 << 20;

/// Sends and receives whole frames at one interface, whatever they say.
#[derive(Debug)]
pub struct PacketSocket {
    pub(crate) socket: Socket,
    address: SockAddr,
}

impl PacketSocket {
    /// At an interface of a host.
    ///
    /// # Panics
    /// If it cannot be had.
    #[must_use]
    pub fn open(host: &Host, interface: &str) -> Self {
        let address = sys::packet_address(host.link(interface).index);
        // Protocol 0 receives nothing: what came between here and `bind` could be of any interface.
        let socket = host.netns().run(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))));
        let socket = socket.unwrap().unwrap();
        sys::receive_buffer(&socket, RECEIVE_BUFFER).unwrap();
        sys::only_incoming_with_tags(&socket).unwrap();
        socket.bind(&address).unwrap();
        Self { socket, address }
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
        let sent = self.socket.send_to(frame, &self.address)?;
        if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}
