//! The `socket` underlay: plain UDP sockets, with UDP_SEGMENT and UDP_GRO where the kernel has them.
//!
//! Theory of operation. One socket for each local address and tunnel port receives; a pool of sockets for
//! each address family only sends, each from a UDP source port of its own, so that receivers and switches
//! on the way spread flows while one flow keeps to one port. The kernel writes the outer IP and UDP headers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use weft_encap::Encapsulation;
use weft_encap::outer::DEFAULT_TTL;

use super::lane::{Lane, Outcome};
use super::sender::{Sender, Sockets};
use super::{Datagram, Form, LANES, ReceiveCounts, Underlay};
use crate::levels::{Level, Levels};
use crate::sys::udp::{self, Messages};

/// Bytes that one receive slot takes: the longest UDP payload, or a group merged by the kernel.
const SLOT_BYTES: usize = 65_536;
/// Datagrams, or merged groups, received in one system call at most.
const RECEIVE_SLOTS: usize = 16;
/// Bytes asked for in each receive buffer: more than a hundred 64 KiB groups while the worker is elsewhere.
const RECEIVE_BUFFER_BYTES: i32 = 8 * 1024 * 1024;
/// Bytes asked for in each send buffer.
const SEND_BUFFER_BYTES: i32 = 4 * 1024 * 1024;
/// Where source ports begin: the dynamic range (RFC 7348 section 5, RFC 6335).
const FIRST_SOURCE_PORT: u16 = 49_152;
/// Ports tried for each lane before the kernel may choose.
const SOURCE_PORT_TRIES: u16 = 64;

/// Where to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// A local address and the UDP port.
    pub at: SocketAddr,
    /// What the port is for.
    pub encapsulation: Encapsulation,
}

/// How the sockets are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Take tunnel packets without a UDP checksum over IPv6 (RFC 6935); over IPv4 they are always taken.
    pub zero_checksums_over_ipv6: bool,
}

/// Why the underlay could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The tunnel port is taken.
    #[error(
        "UDP {at} is in use by another program: stop it (a second agent? a kernel VXLAN device?), or choose another port"
    )]
    InUse {
        /// The address and port.
        at: SocketAddr,
    },
    /// No interface has the address.
    #[error("no interface of this node has the address {address}: give it to one, or correct `underlay.addresses`")]
    NoSuchAddress {
        /// The address.
        address: IpAddr,
    },
    /// A socket is not among those that were handed over.
    #[error("the sockets handed over are not those of this configuration{}", at.map(|at| format!(": UDP {at}")).unwrap_or_default())]
    NotHanded {
        /// The address and port, if it is a single one.
        at: Option<SocketAddr>,
    },
    /// Anything else.
    #[error("UDP {at}: {source}")]
    Socket {
        /// The address and port.
        at: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

struct Receiver {
    socket: Arc<Socket>,
    encapsulation: Encapsulation,
    overflow: u32,
}

/// The sockets that send, for each address family: all workers', so that a flow has one source port whoever sends it.
#[derive(Debug)]
struct Lanes {
    ipv4: Vec<Socket>,
    ipv6: Vec<Socket>,
}

/// All sockets of a node, to be handed on.
#[derive(Clone, Debug)]
pub struct NodeSockets {
    /// Each worker's, as [`Listen`]s are in order.
    receivers: Vec<Vec<Arc<Socket>>>,
    lanes: Arc<Lanes>,
}

/// Sockets that another process opened for the same [`Listen`]s and as many workers.
#[derive(Debug, Default)]
pub struct HandedSockets {
    /// Each worker's receivers, as [`Listen`]s are in order.
    pub receivers: Vec<Vec<OwnedFd>>,
    /// Those that send, IPv4 before IPv6, as many of each family.
    pub senders: Vec<OwnedFd>,
}

impl NodeSockets {
    /// The receivers of each worker.
    pub fn receivers(&self) -> impl Iterator<Item = Vec<BorrowedFd<'_>>> {
        self.receivers.iter().map(|sockets| sockets.iter().map(|socket| socket.as_fd()).collect())
    }

    /// Those that send, IPv4 before IPv6: 16 of each family that the node has.
    #[must_use]
    pub fn senders(&self) -> Vec<BorrowedFd<'_>> {
        self.lanes.ipv4.iter().chain(&self.lanes.ipv6).map(AsFd::as_fd).collect()
    }
}

/// One worker's share of the underlay.
pub struct SocketUnderlay {
    receivers: Vec<Receiver>,
    lanes: Arc<Lanes>,
    incoming: Messages,
    sender: Sender,
}

impl SocketUnderlay {
    /// Opens the sockets in the calling thread's network namespace, for so many workers. UDP_SEGMENT and UDP_GRO are used
    /// as `levels` say. Of several receivers on one port the kernel gives each flow's packets to one (SO_REUSEPORT).
    ///
    /// # Errors
    /// [`SocketError`], naming the address.
    pub fn open(
        listen: &[Listen],
        options: &SocketOptions,
        levels: &Arc<Levels>,
        workers: usize,
    ) -> Result<Vec<Self>, SocketError> {
        let shared = workers > 1;
        if shared {
            // A port that is shared could be shared with another agent.
            listen.iter().try_for_each(|listen| receiver(listen, options, levels, false).map(drop))?;
        }
        let family = |ipv6: bool| {
            let local = listen.iter().map(|listen| listen.at.ip()).find(|address| address.is_ipv6() == ipv6);
            local.map_or(Ok(Vec::new()), |address| (0..LANES).map(|lane| sender(address, lane)).collect())
        };
        let lanes = Arc::new(Lanes { ipv4: family(false)?, ipv6: family(true)? });
        let worker = |_| {
            let receivers = listen.iter().map(|listen| receiver(listen, options, levels, shared));
            Ok(Self {
                receivers: receivers.collect::<Result<_, _>>()?,
                lanes: lanes.clone(),
                incoming: Messages::with_capacity(RECEIVE_SLOTS, RECEIVE_SLOTS),
                sender: Sender::new(levels.clone()),
            })
        };
        (0..workers).map(worker).collect()
    }

    /// Goes on, as one of so many workers, with sockets as [`Self::open`] left them in another process; what waits in
    /// them is received here.
    ///
    /// # Errors
    /// [`SocketError::NotHanded`] where one is missing or is bound elsewhere.
    pub fn adopt(
        listen: &[Listen],
        levels: &Arc<Levels>,
        workers: usize,
        handed: HandedSockets,
    ) -> Result<Vec<Self>, SocketError> {
        let HandedSockets { receivers, senders } = handed;
        let ipv4 = listen.iter().find(|listen| listen.at.is_ipv4()).map_or(0, |_| LANES);
        let ipv6 = listen.iter().find(|listen| listen.at.is_ipv6()).map_or(0, |_| LANES);
        if receivers.len() != workers || senders.len() != ipv4 + ipv6 {
            return Err(SocketError::NotHanded { at: None });
        }
        let mut senders: Vec<Socket> = senders.into_iter().map(Socket::from).collect();
        let lanes = Arc::new(Lanes { ipv6: senders.split_off(ipv4), ipv4: senders });
        let worker = |sockets: Vec<OwnedFd>| {
            if sockets.len() != listen.len() {
                return Err(SocketError::NotHanded { at: None });
            }
            let receivers = listen.iter().zip(sockets).map(|(listen, socket)| adopted(listen, levels, socket));
            Ok(Self {
                receivers: receivers.collect::<Result<_, _>>()?,
                lanes: lanes.clone(),
                incoming: Messages::with_capacity(RECEIVE_SLOTS, RECEIVE_SLOTS),
                sender: Sender::new(levels.clone()),
            })
        };
        receivers.into_iter().map(worker).collect()
    }

    /// The sockets of all workers.
    #[must_use]
    pub(crate) fn sockets(workers: &[Self]) -> Option<NodeSockets> {
        let own = |worker: &Self| worker.receivers.iter().map(|receiver| receiver.socket.clone()).collect();
        let lanes = workers.first()?.lanes.clone();
        Some(NodeSockets { receivers: workers.iter().map(own).collect(), lanes })
    }

    /// The UDP source port of a lane, in one address family.
    pub(crate) fn source_port(&self, lane: usize, ipv6: bool) -> Option<u16> {
        let socket = if ipv6 { self.lanes.ipv6.get(lane) } else { self.lanes.ipv4.get(lane) };
        Some(socket?.local_addr().ok()?.as_socket()?.port())
    }

    /// Sends some of a lane's groups.
    pub(super) fn send_some(
        &mut self,
        lane: usize,
        queued: &Lane,
        range: Range<usize>,
        arena: &[u8],
        report: &mut dyn FnMut(usize, Outcome),
    ) -> u64 {
        let sockets = Sockets { ipv4: self.lanes.ipv4.get(lane), ipv6: self.lanes.ipv6.get(lane) };
        self.sender.send(sockets, queued, range, &queued.buffers(arena), report)
    }

    /// The descriptors to wait on; their places are the `source` of [`Underlay::recv`].
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.receivers.iter().map(|receiver| receiver.socket.as_fd())
    }
}

impl Underlay for SocketUnderlay {
    fn recv(
        &mut self,
        source: usize,
        arena: &mut [u8],
        datagrams: &mut Vec<Datagram>,
        counts: &mut ReceiveCounts,
    ) -> io::Result<()> {
        let receiver = &mut self.receivers[source];
        counts.receives += 1;
        let count = self.incoming.receive(&*receiver.socket, arena, SLOT_BYTES)?;
        for index in 0..count {
            let Some(incoming) = self.incoming.incoming(index) else { continue };
            if let Some(overflow) = incoming.overflow {
                counts.overflow += u64::from(overflow.wrapping_sub(receiver.overflow));
                receiver.overflow = overflow;
            }
            let start = index * SLOT_BYTES;
            datagrams.push(Datagram {
                range: start..start + incoming.len,
                segment: incoming.segment,
                source: incoming.source.ip(),
                source_port: incoming.source.port(),
                encapsulation: receiver.encapsulation,
                tos: incoming.tos,
                form: Form::Untold,
            });
        }
        Ok(())
    }

    fn send(&mut self, lane: usize, queued: &Lane, arena: &[u8], report: &mut dyn FnMut(usize, Outcome)) -> u64 {
        self.send_some(lane, queued, 0..queued.groups().len(), arena, report)
    }
}

fn receiver(listen: &Listen, options: &SocketOptions, levels: &Levels, shared: bool) -> Result<Receiver, SocketError> {
    let at = listen.at;
    let open = || -> io::Result<Socket> {
        let socket = bind(at, shared)?;
        udp::receive_buffer(&socket, RECEIVE_BUFFER_BYTES)?;
        udp::enable_overflow_count(&socket)?;
        udp::enable_tos(&socket, at.is_ipv6())?;
        if options.zero_checksums_over_ipv6 && at.is_ipv6() {
            udp::accept_zero_checksums(&socket)?;
        }
        if levels.uses(Level::Gro)
            && let Err(error) = udp::enable_gro(&socket)
        {
            levels.demote(Level::Gro, format!("the kernel has no UDP_GRO: {error}"));
        }
        Ok(socket)
    };
    let socket = open().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => SocketError::InUse { at },
        io::ErrorKind::AddrNotAvailable => SocketError::NoSuchAddress { address: at.ip() },
        _ => SocketError::Socket { at, source },
    })?;
    Ok(Receiver { socket: Arc::new(socket), encapsulation: listen.encapsulation, overflow: 0 })
}

/// One that another process opened, with what may be another wish than its own.
fn adopted(listen: &Listen, levels: &Levels, socket: OwnedFd) -> Result<Receiver, SocketError> {
    let at = listen.at;
    let socket = Socket::from(socket);
    if socket.local_addr().ok().and_then(|address| address.as_socket()) != Some(at) {
        return Err(SocketError::NotHanded { at: Some(at) });
    }
    let set_up = || {
        udp::set_gro(&socket, levels.uses(Level::Gro))?;
        udp::drops(&socket)
    };
    let overflow = set_up().map_err(|source| SocketError::Socket { at, source })?;
    Ok(Receiver { socket: Arc::new(socket), encapsulation: listen.encapsulation, overflow })
}

fn sender(address: IpAddr, lane: usize) -> Result<Socket, SocketError> {
    let spacing = (u16::MAX - FIRST_SOURCE_PORT) / LANES as u16;
    let first = FIRST_SOURCE_PORT + lane as u16 * spacing;
    let at = SocketAddr::new(address, first);
    let open = || -> io::Result<Socket> {
        let candidates = (first..first + SOURCE_PORT_TRIES).chain([0]);
        let mut bound = candidates.map(|port| bind(SocketAddr::new(address, port), false));
        let taken =
            |result: &io::Result<Socket>| matches!(result, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
        let socket = bound.find(|result| !taken(result)).unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))?;
        udp::refuse_all(&socket)?;
        udp::never_fragment(&socket, address.is_ipv6())?;
        udp::set_ttl(&socket, address.is_ipv6(), DEFAULT_TTL)?;
        udp::send_buffer(&socket, SEND_BUFFER_BYTES)?;
        Ok(socket)
    };
    open().map_err(|source| SocketError::Socket { at, source })
}

fn bind(at: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    socket.bind(&at.into())?;
    Ok(socket)
}
