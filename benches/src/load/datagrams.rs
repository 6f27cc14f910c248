use std::io::IoSlice;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::SockRef;

use super::{Counted, Figures, Side, Timing, Window, joined};
use crate::BenchError;
use crate::error::socket;

/// Datagrams that one turn sends, over all flows.
const TURN: usize = 32;
/// How long a receiver without datagrams waits before it looks whether it is done.
const IDLE: Duration = Duration::from_millis(20);
/// Bytes of a receiver's buffer.
const RECEIVE_BUFFER: usize = 4 << 20;
/// What stands in a datagram: flow and number.
const FLOW_LEN: usize = 4;
const STAMP_LEN: usize = 12;
const PERCENT: f64 = 100.0;
const MILLION: f64 = 1e6;

/// A load of UDP datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// Bytes of payload, 12 at least.
    pub size: usize,
    /// Source ports; datagrams of several go out by turns.
    pub flows: usize,
    /// Datagrams a second; as many as go through if none.
    pub rate: Option<u32>,
}

/// Sends datagrams and counts those that arrive.
///
/// Figures: `received`, datagrams a second; `loss` and `reordered`, in percent of what was sent or received from the
/// first to the last datagram; `cpu`, busy seconds of all processors for each 10^6 datagrams received.
///
/// # Errors
/// [`BenchError`]: no socket, or nothing that arrives.
pub fn datagrams(client: &Side<'_>, server: &Side<'_>, what: Datagrams, timing: Timing) -> Result<Figures, BenchError> {
    let inward = server.udp()?;
    // As much as the kernel allows: what overflows there is loss all the same.
    let _ = SockRef::from(&inward).set_recv_buffer_size(RECEIVE_BUFFER);
    inward.set_read_timeout(Some(IDLE)).map_err(socket("set a timeout"))?;
    let target = inward.local_addr().map_err(socket("look at a socket"))?;
    let out: Vec<UdpSocket> = (0..what.flows).map(|_| client.udp()).collect::<Result<_, _>>()?;
    client.netns.run(|| out.iter().try_for_each(|socket| socket.connect(target)))?.map_err(socket("connect"))?;
    let (received, done, drained) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let (window, failures) = Window::new(timing);
    let (counted, sent, seen) = thread::scope(|scope| {
        let failed: Sender<BenchError> = failures.clone();
        let (done, drained, received) = (&done, &drained, &received);
        let receiver = server.thread(scope, move || receive(&inward, what, received, drained));
        let sender = client.thread(scope, move || {
            send(&out, what, done).unwrap_or_else(|error| {
                let _ = failed.send(error);
                0
            })
        });
        let counted = window.count(received);
        done.store(true, Ordering::Relaxed);
        let sent = joined(sender);
        drained.store(true, Ordering::Relaxed);
        (counted, sent, joined(receiver))
    });
    let Counted { count, seconds, busy } = counted?;
    let Seen { all, reordered } = seen;
    if count == 0 {
        return Err(BenchError::Silence);
    }
    Ok(vec![
        ("received", count as f64 / seconds),
        ("loss", (1.0 - all as f64 / sent as f64).max(0.0) * PERCENT),
        ("reordered", reordered as f64 / all as f64 * PERCENT),
        ("cpu", busy / (count as f64 / MILLION)),
    ])
}

/// Sends by turns, a burst of each flow's after the other's. How many datagrams.
fn send(out: &[UdpSocket], what: Datagrams, done: &AtomicBool) -> Result<u64, BenchError> {
    let burst = (TURN / what.flows).max(1);
    let mut payloads = vec![vec![0; what.size.max(STAMP_LEN)]; burst];
    let mut numbers = vec![0_u64; what.flows];
    let (begin, mut sent) = (Instant::now(), 0_u64);
    while !done.load(Ordering::Relaxed) {
        for (flow, socket) in out.iter().enumerate() {
            if let Some(rate) = what.rate {
                wait_for_turn(begin, sent, rate);
            }
            for (index, payload) in payloads.iter_mut().enumerate() {
                payload[..FLOW_LEN].copy_from_slice(&(flow as u32).to_le_bytes());
                payload[FLOW_LEN..STAMP_LEN].copy_from_slice(&(numbers[flow] + index as u64).to_le_bytes());
            }
            let taken = send_burst(socket, &payloads)?;
            numbers[flow] += taken;
            sent += taken;
        }
    }
    Ok(sent)
}

/// Waits until so many datagrams may have been sent. Timers are coarser than a datagram's time, so it gives up the
/// processor instead.
fn wait_for_turn(begin: Instant, sent: u64, rate: u32) {
    let due = Duration::from_secs_f64(sent as f64 / f64::from(rate));
    while begin.elapsed() < due {
        thread::yield_now();
    }
}

/// How many of them the kernel took.
fn send_burst(out: &UdpSocket, payloads: &[Vec<u8>]) -> Result<u64, BenchError> {
    let slices: Vec<[IoSlice<'_>; 1]> = payloads.iter().map(|payload| [IoSlice::new(payload)]).collect();
    let mut controls: Vec<_> = payloads.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let headers = slices.iter().zip(&mut controls).map(|(slice, control)| MMsgHdr::new(slice, control));
    let mut headers: Vec<MMsgHdr<'_>> = headers.collect();
    match sendmmsg(out, &mut headers, SendFlags::empty()) {
        Ok(taken) => Ok(taken as u64),
        // Full for the moment, or a refusal of an earlier datagram.
        Err(Errno::NOBUFS | Errno::AGAIN | Errno::INTR | Errno::CONNREFUSED) => Ok(0),
        Err(error) => Err(socket("send datagrams")(error.into())),
    }
}

struct Seen {
    all: u64,
    reordered: u64,
}

/// Receives until nothing comes any more after the last was sent.
fn receive(inward: &UdpSocket, what: Datagrams, received: &AtomicU64, drained: &AtomicBool) -> Seen {
    let mut buffer = vec![0; what.size.max(STAMP_LEN)];
    let mut expected = vec![0_u64; what.flows];
    let mut seen = Seen { all: 0, reordered: 0 };
    loop {
        let last = drained.load(Ordering::Relaxed);
        let Ok(length) = inward.recv(&mut buffer) else {
            if last {
                return seen;
            }
            continue;
        };
        let Some((flow, number)) = stamp(&buffer[..length]) else { continue };
        let Some(expected) = expected.get_mut(flow as usize) else { continue };
        seen.all += 1;
        seen.reordered += u64::from(number < *expected);
        *expected = (*expected).max(number + 1);
        received.store(seen.all, Ordering::Relaxed);
    }
}

fn stamp(datagram: &[u8]) -> Option<(u32, u64)> {
    let (flow, rest) = datagram.split_first_chunk()?;
    Some((u32::from_le_bytes(*flow), u64::from_le_bytes(*rest.first_chunk()?)))
}
