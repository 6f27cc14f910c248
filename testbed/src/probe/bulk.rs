use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use weft_netns::Netns;

use super::pattern::{Mismatch, Pattern};
use super::{ProbeError, socket_error};
use crate::{Family, Lab, LabError, PodSpec};

/// Default of [`BulkOptions::patience`].
const IDLE_MAX: Duration = Duration::from_secs(10);
/// What the receiver asks for at once, in bytes.
const RECEIVE_SIZE: usize = 1 << 18;

/// How much a bulk transfer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// That many bytes.
    Bytes(u64),
    /// As much as goes through in that time.
    For(Duration),
}

/// How a bulk transfer is done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BulkOptions {
    /// How much is sent.
    pub amount: Amount,
    /// The family used. Default: that of the receiver's first address which both pods have.
    pub family: Option<Family>,
    /// Congestion control of the sender, by the kernel's name. Default: the pod's.
    pub congestion_control: Option<String>,
    /// Time without any progress after which the transfer is given up. Default: 10 s.
    pub patience: Duration,
}

impl BulkOptions {
    /// The defaults, for that much.
    #[must_use]
    pub const fn new(amount: Amount) -> Self {
        Self { amount, family: None, congestion_control: None, patience: IDLE_MAX }
    }
}

/// What came of a bulk transfer; every byte of it was checked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BulkReport {
    /// Bytes that arrived.
    pub bytes: u64,
    /// From the connection to the last byte, at the receiver.
    pub elapsed: Duration,
    /// The two divided, in bit/s.
    pub bits_per_second: f64,
    /// Congestion control of the sender, without which the figure means little.
    pub congestion_control: String,
}

/// Sends a stream over one TCP connection from one pod to another and checks every byte where it arrives.
///
/// # Errors
/// [`ProbeError`]: no connection, nothing moving for [`BulkOptions::patience`], or bytes that are not those sent.
pub fn bulk(lab: &Lab, from: &str, to: &str, options: &BulkOptions) -> Result<BulkReport, ProbeError> {
    let address = address(lab, from, to, options.family)?;
    let (sender, receiver) = (lab.netns(from)?, lab.netns(to)?);
    Transfer { from, to, address, patience: options.patience, pattern: Pattern::new() }
        .between(&sender, &receiver, options)
}

/// The same between two namespaces that need not belong to a lab, to an address of the receiver's.
///
/// # Errors
/// As [`bulk`]; namespaces stand where it names pods.
pub fn bulk_between(
    sender: &Netns,
    receiver: &Netns,
    address: IpAddr,
    options: &BulkOptions,
) -> Result<BulkReport, ProbeError> {
    let (from, to, patience) = (sender.label(), receiver.label(), options.patience);
    let transfer = Transfer { from, to, address, patience, pattern: Pattern::new() };
    transfer.between(sender, receiver, options)
}

struct Transfer<'a> {
    from: &'a str,
    to: &'a str,
    address: IpAddr,
    patience: Duration,
    pattern: Pattern,
}

impl Transfer<'_> {
    fn between(&self, sender: &Netns, receiver: &Netns, options: &BulkOptions) -> Result<BulkReport, ProbeError> {
        let Self { from, to, address, patience, .. } = *self;
        let listen = || TcpListener::bind((address, 0));
        let listener = receiver.run(listen).map_err(LabError::from)?.map_err(socket_error("listen", to))?;
        let port = listener.local_addr().map_err(socket_error("listen", to))?.port();
        let destination = SocketAddr::new(address, port);
        let connect = || TcpStream::connect_timeout(&destination, patience);
        let out = sender.run(connect).map_err(LabError::from)?.map_err(|error| self.explain("connect", from, error))?;
        let congestion_control = congestion_control(&out, options.congestion_control.as_deref())
            .map_err(socket_error("set the congestion control", from))?;
        SockRef::from(&listener).set_read_timeout(Some(patience)).map_err(socket_error("listen", to))?;
        let (inward, _) = listener.accept().map_err(|error| self.explain("accept", to, error))?;
        let (bytes, elapsed) = self.run(&out, &inward, options.amount)?;
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let bits_per_second = bytes as f64 * 8.0 / elapsed.as_secs_f64();
        Ok(BulkReport { bytes, elapsed, bits_per_second, congestion_control })
    }

    fn run(&self, out: &TcpStream, inward: &TcpStream, amount: Amount) -> Result<(u64, Duration), ProbeError> {
        out.set_write_timeout(Some(self.patience)).map_err(socket_error("send", self.from))?;
        inward.set_read_timeout(Some(self.patience)).map_err(socket_error("receive", self.to))?;
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let sent = self.send(out, amount);
                // Ends the receiver's waiting, whatever happened.
                let _ = out.shutdown(Shutdown::Write);
                sent
            });
            let received = self.receive(inward);
            if received.is_err() {
                let _ = inward.shutdown(Shutdown::Both);
            }
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // A sender fails after its receiver did: the receiver knows better why.
            let (received, elapsed) = received?;
            let sent = sent?;
            if sent == received { Ok((received, elapsed)) } else { Err(self.truncated(sent, received)) }
        })
    }

    fn send(&self, mut out: &TcpStream, amount: Amount) -> Result<u64, ProbeError> {
        let begin = Instant::now();
        let mut sent = 0;
        loop {
            let left = match amount {
                Amount::Bytes(bytes) => bytes - sent,
                Amount::For(time) if begin.elapsed() < time => u64::MAX,
                Amount::For(_) => 0,
            };
            let rest = self.pattern.at(sent);
            let length = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if length == 0 {
                return Ok(sent);
            }
            match out.write(&rest[..length]) {
                Ok(written) => sent += written as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain("send", self.from, error)),
            }
        }
    }

    fn receive(&self, mut inward: &TcpStream) -> Result<(u64, Duration), ProbeError> {
        let begin = Instant::now();
        let mut buffer = vec![0; RECEIVE_SIZE];
        let mut received = 0;
        loop {
            match inward.read(&mut buffer) {
                Ok(0) => return Ok((received, begin.elapsed())),
                Ok(length) => {
                    self.pattern.check(received, &buffer[..length]).map_err(|mismatch| self.corrupt(mismatch))?;
                    received += length as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain("receive", self.to, error)),
            }
        }
    }

    fn explain(&self, operation: &'static str, pod: &str, error: io::Error) -> ProbeError {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                ProbeError::Stalled { from: self.from.to_owned(), to: self.address, idle: self.patience }
            }
            _ => socket_error(operation, pod)(error),
        }
    }

    fn corrupt(&self, Mismatch { position, expected, seen }: Mismatch) -> ProbeError {
        ProbeError::Corrupt { from: self.from.to_owned(), to: self.address, position, expected, seen }
    }

    fn truncated(&self, sent: u64, received: u64) -> ProbeError {
        ProbeError::Truncated { from: self.from.to_owned(), to: self.address, sent, received }
    }
}

fn congestion_control(stream: &TcpStream, wanted: Option<&str>) -> io::Result<String> {
    let socket = SockRef::from(stream);
    if let Some(wanted) = wanted {
        socket.set_tcp_congestion(wanted.as_bytes())?;
    }
    let name = socket.tcp_congestion()?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

/// The receiver's first address of a family that the sender has too.
fn address(lab: &Lab, from: &str, to: &str, family: Option<Family>) -> Result<IpAddr, ProbeError> {
    let (sender, receiver) = (pod(lab, from)?, pod(lab, to)?);
    let fits = |address: &IpAddr| {
        let wanted = family.is_none_or(|family| (family == Family::Ipv4) == address.is_ipv4());
        wanted && sender.addresses.iter().any(|own| own.addr().is_ipv4() == address.is_ipv4())
    };
    let address = receiver.addresses.iter().map(|net| net.addr()).find(fits);
    address.ok_or_else(|| ProbeError::NoCommonFamily { pod: to.to_owned(), other: from.to_owned() })
}

fn pod<'a>(lab: &'a Lab, name: &str) -> Result<&'a PodSpec, LabError> {
    lab.spec().pod(name).ok_or_else(|| lab.no_such_member(name))
}
