//! Load between two pods, from this very process: its threads hold sockets that were opened in the pods' namespaces.

mod bulk;
mod connections;
mod datagrams;
mod round_trips;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;
use weft_netns::Netns;

pub use bulk::bulk;
pub use connections::connections;
pub use datagrams::{Datagrams, datagrams};
pub use round_trips::{many_round_trips, tcp_round_trips, udp_round_trips};

use crate::error::socket;
use crate::processor::busy_seconds;
use crate::{BenchError, Pinning, Pod};

/// How long anything may stand still before the load is given up.
const PATIENCE: Duration = Duration::from_secs(3);
const BITS: f64 = 8.0;

/// What was measured: names of figures, each with its value in its unit.
pub type Figures = Vec<(&'static str, f64)>;

/// One end of a load.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Where its sockets are.
    pub netns: &'a Netns,
    /// Its address.
    pub address: Ipv4Addr,
    /// The node it is on, 0 or 1, for its threads' pinning.
    pub node: usize,
    /// Where its threads may run.
    pub pinning: Pinning,
}

/// How long a load is measured.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Load that is not counted: slow start, what is learned, processors that wake.
    pub warm_up: Duration,
    /// Load that is.
    pub period: Duration,
}

impl<'a> Side<'a> {
    /// A pod as an end.
    #[must_use]
    pub const fn new(pod: &'a Pod, pinning: Pinning) -> Self {
        Self { netns: &pod.netns, address: pod.address.addr(), node: pod.node, pinning }
    }

    /// A UDP socket with a port of the kernel's choice.
    pub(crate) fn udp(&self) -> Result<UdpSocket, BenchError> {
        let bound = self.netns.run(|| UdpSocket::bind((self.address, 0)))?;
        bound.map_err(socket("bind a UDP socket"))
    }

    fn listen(&self) -> Result<(TcpListener, SocketAddr), BenchError> {
        let listener = self.netns.run(|| TcpListener::bind((self.address, 0)))?.map_err(socket("listen"))?;
        SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).map_err(socket("set a timeout"))?;
        let address = listener.local_addr().map_err(socket("listen"))?;
        Ok((listener, address))
    }

    /// TCP connections to another side: its ends and the other's. `prepare` sees each socket before it connects.
    fn connect(
        &self,
        to: &Self,
        count: usize,
        prepare: impl Fn(&socket2::Socket) -> std::io::Result<()> + Send + Sync,
    ) -> Result<Vec<(TcpStream, TcpStream)>, BenchError> {
        let (listener, address) = to.listen()?;
        let open = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            prepare(&socket)?;
            socket.set_tcp_nodelay(true)?;
            socket.connect_timeout(&address.into(), PATIENCE)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(TcpStream::from(socket))
        };
        let mut pairs = Vec::with_capacity(count);
        self.netns.run(|| {
            for _ in 0..count {
                let own = open().map_err(socket("connect"))?;
                let (other, _) = listener.accept().map_err(socket("accept"))?;
                other.set_nodelay(true).map_err(socket("set TCP_NODELAY"))?;
                other.set_read_timeout(Some(PATIENCE)).map_err(socket("set a timeout"))?;
                other.set_write_timeout(Some(PATIENCE)).map_err(socket("set a timeout"))?;
                pairs.push((own, other));
            }
            Ok::<(), BenchError>(())
        })??;
        Ok(pairs)
    }

    /// Starts a thread of this side's.
    fn thread<'s, T: Send + 's>(
        &self,
        scope: &'s Scope<'s, '_>,
        work: impl FnOnce() -> T + Send + 's,
    ) -> ScopedJoinHandle<'s, T> {
        let (pinning, node) = (self.pinning, self.node);
        scope.spawn(move || {
            pinning.keep_to(node);
            work()
        })
    }
}

/// What a thread gave back; its panic goes on here.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What was counted in a period.
#[derive(Clone, Copy, Debug)]
struct Counted {
    count: u64,
    seconds: f64,
    /// Busy seconds of all processors.
    busy: f64,
}

/// The threads of a load tell it when they cannot go on.
struct Window {
    timing: Timing,
    failures: Receiver<BenchError>,
}

impl Window {
    fn new(timing: Timing) -> (Self, Sender<BenchError>) {
        let (sender, failures) = channel();
        (Self { timing, failures }, sender)
    }

    /// Lets the warm-up and the period pass, and says what was counted in the period.
    fn count(&self, counter: &AtomicU64) -> Result<Counted, BenchError> {
        self.pass(self.timing.warm_up)?;
        let (begin, before, busy) = (Instant::now(), counter.load(Ordering::Relaxed), busy_seconds()?);
        self.pass(self.timing.period)?;
        let (seconds, after) = (begin.elapsed().as_secs_f64(), counter.load(Ordering::Relaxed));
        Ok(Counted { count: after - before, seconds, busy: busy_seconds()? - busy })
    }

    fn pass(&self, time: Duration) -> Result<(), BenchError> {
        match self.failures.recv_timeout(time) {
            Ok(error) => Err(error),
            // Nobody is left who could fail: the load counts what it does itself.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

/// The value below which this share of sorted values lies, 0 to 1: the nearest rank.
fn percentile(sorted: &[u64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0) as f64
}

/// Figures of round trips, from their times in nanoseconds.
fn latencies(mut nanoseconds: Vec<u64>, seconds: f64) -> Result<Figures, BenchError> {
    if nanoseconds.is_empty() {
        return Err(BenchError::Silence);
    }
    nanoseconds.sort_unstable();
    let microseconds = |share| percentile(&nanoseconds, share) / 1e3;
    Ok(vec![
        ("p50", microseconds(0.5)),
        ("p99", microseconds(0.99)),
        ("p99.9", microseconds(0.999)),
        ("rate", nanoseconds.len() as f64 / seconds),
    ])
}

/// Sends so many bytes over TCP and waits until the other side has them all.
pub(crate) fn transfer(client: &Side<'_>, server: &Side<'_>, bytes: usize, within: Duration) -> Result<(), BenchError> {
    let (mut out, mut inward) = client.connect(server, 1, |_| Ok(()))?.swap_remove(0);
    let deadline = Instant::now() + within;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = vec![0; 1 << 16];
            for _ in 0..bytes.div_ceil(chunk.len()) {
                if out.write_all(&chunk).is_err() {
                    return;
                }
            }
        });
        let mut left = bytes;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 && Instant::now() < deadline {
            let length = inward.read(&mut buffer).map_err(socket("receive"))?;
            if length == 0 {
                return Err(BenchError::Silence);
            }
            left = left.saturating_sub(length);
        }
        let _ = inward.shutdown(std::net::Shutdown::Both);
        if left == 0 { Ok(()) } else { Err(BenchError::Silence) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<u64> = (1..=1000).collect();
        assert_eq!([0.5, 0.99, 0.999, 1.0].map(|share| percentile(&values, share)), [500.0, 990.0, 999.0, 1000.0]);
        assert_eq!(percentile(&[7], 0.5), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn latencies_are_in_microseconds() {
        let figures = latencies(vec![3_000, 1_000, 2_000], 0.5).unwrap();
        assert_eq!(figures, [("p50", 2.0), ("p99", 3.0), ("p99.9", 3.0), ("rate", 6.0)]);
        assert!(matches!(latencies(Vec::new(), 1.0), Err(BenchError::Silence)));
    }
}
