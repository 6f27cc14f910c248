use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weft_netns::Netns;

use super::{ProbeError, icmp, socket_error};
use crate::Lab;
use crate::process::poll_until;

/// Echo requests of one ping at most.
pub const PING_COUNT_MAX: usize = 65_535;
/// Payload of one echo request at most, in bytes.
pub const PING_PAYLOAD_MAX: usize = 65_000;

/// Largest packet an IPv4 raw socket delivers, in bytes.
const PACKET_MAX: usize = 65_535;

/// How a ping is done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PingOptions {
    /// Echo requests, 1 to [`PING_COUNT_MAX`]. Default: 3.
    pub count: usize,
    /// Time between two requests. Default: 20 ms.
    pub interval: Duration,
    /// How long the last answer is waited for. Default: 1 s.
    pub timeout: Duration,
    /// Payload of each request in bytes, up to [`PING_PAYLOAD_MAX`]. Default: 56.
    pub payload: usize,
}

impl Default for PingOptions {
    fn default() -> Self {
        Self { count: 3, interval: Duration::from_millis(20), timeout: Duration::from_secs(1), payload: 56 }
    }
}

/// What came of a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PingReport {
    /// Requests sent, those the pod's own network refused included.
    pub sent: usize,
    /// Requests answered.
    pub received: usize,
    /// Answers beyond the first to the same request.
    pub duplicates: usize,
    /// Shortest, median and longest time to an answer; none without answers.
    pub rtt: Option<Rtt>,
    /// Why the pod's own network refused requests, the last time it did: no neighbour, too big.
    pub refused: Option<String>,
}

/// Times from request to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rtt {
    /// The shortest.
    pub min: Duration,
    /// The median; of an even number the upper one.
    pub median: Duration,
    /// The longest.
    pub max: Duration,
}

/// Sends ICMP echo requests from a pod (or a node) and waits for the answers: until all have come, or the
/// timeout has passed since the last request.
///
/// # Errors
/// [`ProbeError`] where nothing can be sent at all, for example for want of a route; lost requests are no error.
pub fn ping(lab: &Lab, from: &str, to: IpAddr, options: &PingOptions) -> Result<PingReport, ProbeError> {
    run(&lab.netns(from)?, from, to, options)
}

/// The same from a namespace that need not belong to a lab.
///
/// # Errors
/// As [`ping`]; the namespace stands where it names a pod.
pub fn ping_from(from: &Netns, to: IpAddr, options: &PingOptions) -> Result<PingReport, ProbeError> {
    run(from, from.label(), to, options)
}

fn run(netns: &Netns, from: &str, to: IpAddr, options: &PingOptions) -> Result<PingReport, ProbeError> {
    let limit = |what, seen, min, max| ProbeError::Limit { what, seen, min, max };
    if options.count == 0 || options.count > PING_COUNT_MAX {
        return Err(limit("count", options.count, 1, PING_COUNT_MAX));
    }
    if options.payload > PING_PAYLOAD_MAX {
        return Err(limit("payload", options.payload, 0, PING_PAYLOAD_MAX));
    }
    let socket = netns.run(|| open(to)).map_err(crate::LabError::from)?.map_err(socket_error("ping", from))?;
    let mut exchange = Exchange::new(&socket, to, options);
    exchange.run().map_err(socket_error("ping", from))?;
    Ok(exchange.report())
}

/// A socket which delivers the ICMP messages of that host only.
fn open(to: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) =
        if to.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    // Ping sockets without privilege would need a sysctl in every pod; who makes labs may open raw ones.
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::from(SocketAddr::new(to, 0)))?;
    Ok(socket)
}

struct Exchange<'a> {
    socket: &'a Socket,
    to: IpAddr,
    options: &'a PingOptions,
    identifier: u16,
    sent: Vec<Instant>,
    rtts: Vec<Option<Duration>>,
    duplicates: usize,
    refused: Option<String>,
    buffer: Vec<u8>,
}

impl<'a> Exchange<'a> {
    fn new(socket: &'a Socket, to: IpAddr, options: &'a PingOptions) -> Self {
        Self {
            socket,
            to,
            options,
            identifier: identifier(),
            sent: Vec::with_capacity(options.count),
            rtts: vec![None; options.count],
            duplicates: 0,
            refused: None,
            buffer: vec![0; PACKET_MAX],
        }
    }

    fn run(&mut self) -> io::Result<()> {
        let begin = Instant::now();
        for number in 0..self.options.count {
            let due = begin + self.options.interval * u32::try_from(number).unwrap_or(u32::MAX);
            self.listen_until(due, false)?;
            self.send(number)?;
        }
        self.listen_until(Instant::now() + self.options.timeout, true)
    }

    fn send(&mut self, number: usize) -> io::Result<()> {
        let sequence = u16::try_from(number).unwrap_or(u16::MAX);
        let message = icmp::request(self.to, self.identifier, sequence, self.options.payload);
        self.sent.push(Instant::now());
        match self.socket.send(&message) {
            Ok(_) => Ok(()),
            Err(error) => self.absorb(error),
        }
    }

    /// Takes in answers until `deadline`, or until all have come.
    fn listen_until(&mut self, deadline: Instant, until_all: bool) -> io::Result<()> {
        while !(until_all && self.rtts.iter().all(Option::is_some)) {
            let mut fds = [PollFd::new(self.socket, PollFlags::IN)];
            if !poll_until(&mut fds, deadline)? {
                break;
            }
            match (&mut &*self.socket).read(&mut self.buffer) {
                Ok(length) => self.take_in(length),
                Err(error) => self.absorb(error)?,
            }
        }
        Ok(())
    }

    fn take_in(&mut self, length: usize) {
        let now = Instant::now();
        let answer = icmp::reply(self.to, &self.buffer[..length], self.identifier, self.options.payload);
        let Some(number) = answer.map(usize::from).filter(|number| *number < self.sent.len()) else { return };
        let rtt = now - self.sent[number];
        if self.rtts[number].replace(rtt).is_some() {
            self.duplicates += 1;
        }
    }

    /// What one request may meet is part of the measurement; what the next would meet too is an error.
    fn absorb(&mut self, error: io::Error) -> io::Result<()> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
            ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown | ErrorKind::PermissionDenied => Err(error),
            _ => {
                self.refused = Some(error.to_string());
                Ok(())
            }
        }
    }

    fn report(self) -> PingReport {
        let mut rtts: Vec<Duration> = self.rtts.into_iter().flatten().collect();
        rtts.sort_unstable();
        let rtt = match rtts.as_slice() {
            [] => None,
            [min, ..] => Some(Rtt { min: *min, median: rtts[rtts.len() / 2], max: rtts[rtts.len() - 1] }),
        };
        let Self { sent, duplicates, refused, .. } = self;
        PingReport { sent: sent.len(), received: rtts.len(), duplicates, rtt, refused }
    }
}

/// A number that tells this ping from others of the same pod.
fn identifier() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    let [high, low, ..] = RandomState::new().hash_one("ping").to_be_bytes();
    u16::from_be_bytes([high, low])
}
