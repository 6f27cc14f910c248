use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::sys;

/// Between two sends.
const PAUSE: Duration = Duration::from_millis(1);
/// Datagrams sent at once at most, by a sender that was kept from sending for longer.
const BURST: u64 = 40;
const RECEIVE_BUFFER: i32 = 16 << 20;
/// How long the last ones may be under way.
const LAST: Duration = Duration::from_secs(2);
/// Bytes of each payload.
const SIZE: usize = 200;

/// Numbered datagrams at a steady rate, until it is finished.
#[derive(Debug)]
pub struct NumberedFlow {
    over: Arc<AtomicBool>,
    /// How many were sent in all, once that is known.
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<Sent>,
    receiver: JoinHandle<Received>,
}

/// What became of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbered {
    /// Datagrams that were to be sent by then, by the rate.
    pub intended: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that did not arrive.
    pub lost: u64,
    /// Datagrams that arrived behind a later one, or twice.
    pub late: u64,
    /// The longest time between two of them.
    pub longest_pause: Duration,
}

struct Sent {
    intended: u64,
    count: u64,
}

#[derive(Default)]
struct Received {
    count: u64,
    late: u64,
    longest_pause: Duration,
}

impl NumberedFlow {
    /// Sends so many datagrams a second from one host to the other, which has this address.
    ///
    /// # Panics
    /// If a socket cannot be had.
    #[must_use]
    pub fn start(from: &Host, to: &Host, address: &str, per_second: u32) -> Self {
        let socket = to.netns().run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        sys::receive_buffer(&socket, RECEIVE_BUFFER).unwrap();
        let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let sender = from.netns().run(|| UdpSocket::bind(any)).unwrap().unwrap();
        sender.connect(socket.local_addr().unwrap()).unwrap();
        let (over, received) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let sent = Arc::new(AtomicU64::new(u64::MAX));
        let (is_over, all, seen) = (over.clone(), sent.clone(), received.clone());
        Self {
            sender: std::thread::spawn(move || send(&sender, per_second, &is_over)),
            receiver: std::thread::spawn(move || receive(&socket, &all, &seen)),
            over,
            sent,
            received,
        }
    }

    /// How many datagrams have arrived.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends it, once what is under way had time to arrive.
    ///
    /// # Panics
    /// If a thread did.
    #[must_use]
    pub fn finish(self) -> Numbered {
        self.over.store(true, Ordering::Relaxed);
        let Sent { intended, count: sent } = self.sender.join().unwrap();
        self.sent.store(sent, Ordering::Relaxed);
        let Received { count, late, longest_pause } = self.receiver.join().unwrap();
        Numbered { intended, sent, lost: sent.saturating_sub(count), late, longest_pause }
    }
}

fn send(socket: &UdpSocket, per_second: u32, over: &AtomicBool) -> Sent {
    let (begun, mut number) = (Instant::now(), 0_u64);
    let due = || (begun.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
    let mut payload = [0; SIZE];
    while !over.load(Ordering::Relaxed) {
        let until = due().min(number + BURST);
        while number < until {
            payload[..8].copy_from_slice(&number.to_le_bytes());
            socket.send(&payload).unwrap();
            number += 1;
        }
        std::thread::sleep(PAUSE);
    }
    Sent { intended: due(), count: number }
}

fn receive(socket: &UdpSocket, all: &AtomicU64, seen: &AtomicU64) -> Received {
    let mut received = Received::default();
    let (mut next, mut last) = (0_u64, Instant::now());
    let mut payload = [0; SIZE];
    loop {
        match socket.recv(&mut payload) {
            Ok(length) => {
                assert_eq!(length, SIZE);
                let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
                received.count += 1;
                if number < next {
                    received.late += 1;
                }
                next = next.max(number + 1);
                if received.count > 1 {
                    received.longest_pause = received.longest_pause.max(last.elapsed());
                }
                last = Instant::now();
                seen.store(received.count, Ordering::Relaxed);
            }
            Err(_) => {
                let all = all.load(Ordering::Relaxed);
                if received.count >= all || all < u64::MAX && last.elapsed() > LAST {
                    return received;
                }
            }
        }
    }
}
