use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use super::{Figures, Side, Timing, joined, latencies};
use crate::BenchError;
use crate::error::socket;

/// How long the answer to a datagram may take before it counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// How often an echo without work looks whether it is done.
const IDLE: Duration = Duration::from_millis(20);
/// Bytes of the number that a datagram carries there and back.
const NUMBER_LEN: usize = 8;
/// Events taken from epoll at once.
const EVENTS: usize = 64;

/// One byte there and one byte back over one TCP connection, the next when the last has come.
///
/// Figures: `p50`, `p99` and `p99.9` in microseconds, `rate` in round trips a second.
///
/// # Errors
/// [`BenchError`]: no connection, or one that stands still for three seconds.
pub fn tcp_round_trips(client: &Side<'_>, server: &Side<'_>, timing: Timing) -> Result<Figures, BenchError> {
    let (asking, answering) = client.connect(server, 1, |_| Ok(()))?.swap_remove(0);
    thread::scope(|scope| {
        server.thread(scope, || echo(&answering));
        let asked = client.thread(scope, || {
            let outcome = take(timing, || exchange(&asking));
            let _ = asking.shutdown(Shutdown::Both);
            outcome
        });
        joined(asked)
    })
}

/// Repeats an exchange for warm-up and period, and times those of the period.
fn take(timing: Timing, mut exchange: impl FnMut() -> Result<(), BenchError>) -> Result<Figures, BenchError> {
    let begin = Instant::now();
    while begin.elapsed() < timing.warm_up {
        exchange()?;
    }
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < timing.period {
        let asked = Instant::now();
        exchange()?;
        times.push(asked.elapsed().as_nanos() as u64);
    }
    latencies(times, begin.elapsed().as_secs_f64())
}

fn exchange(mut asking: &TcpStream) -> Result<(), BenchError> {
    asking.write_all(&[0]).and_then(|()| asking.read_exact(&mut [0; 1])).map_err(socket("ask over TCP"))
}

fn echo(mut answering: &TcpStream) {
    let mut byte = [0; 1];
    // Ends with the connection.
    while answering.read_exact(&mut byte).and_then(|()| answering.write_all(&byte)).is_ok() {}
}

/// The same in datagrams. One that is not answered is not timed, and another one sent.
///
/// # Errors
/// [`BenchError`]: no socket, or no answer at all.
pub fn udp_round_trips(client: &Side<'_>, server: &Side<'_>, timing: Timing) -> Result<Figures, BenchError> {
    let (asking, answering) = (client.udp()?, server.udp()?);
    let target = answering.local_addr().map_err(socket("look at a socket"))?;
    client.netns.run(|| asking.connect(target))?.map_err(socket("connect"))?;
    asking.set_read_timeout(Some(LOST_AFTER)).map_err(socket("set a timeout"))?;
    answering.set_read_timeout(Some(IDLE)).map_err(socket("set a timeout"))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        server.thread(scope, || {
            let mut number = [0; NUMBER_LEN];
            while !done.load(Ordering::Relaxed) {
                if let Ok((length, from)) = answering.recv_from(&mut number) {
                    // What the kernel has no room for is lost.
                    let _ = answering.send_to(&number[..length], from);
                }
            }
        });
        let asked = client.thread(scope, || {
            let outcome = take_datagrams(&asking, timing);
            done.store(true, Ordering::Relaxed);
            outcome
        });
        joined(asked)
    })
}

fn take_datagrams(asking: &UdpSocket, timing: Timing) -> Result<Figures, BenchError> {
    let begin = Instant::now();
    let mut measured = None;
    let mut times = Vec::new();
    for number in 0_u64.. {
        if begin.elapsed() >= timing.warm_up + timing.period {
            break;
        }
        let asked = Instant::now();
        let answered = ask(asking, number)?;
        if asked - begin >= timing.warm_up {
            measured.get_or_insert(asked);
            times.extend(answered.then(|| asked.elapsed().as_nanos() as u64));
        }
    }
    let seconds = measured.map_or(0.0, |since| since.elapsed().as_secs_f64());
    latencies(times, seconds)
}

/// Whether the answer came in time.
fn ask(asking: &UdpSocket, number: u64) -> Result<bool, BenchError> {
    let number = number.to_le_bytes();
    let mut answer = [0; NUMBER_LEN];
    asking.send(&number).map_err(socket("ask in a datagram"))?;
    loop {
        match asking.recv(&mut answer) {
            // Another one is the late answer to an earlier number.
            Ok(_) if answer == number => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(socket("wait for an answer")(error)),
        }
    }
}

/// Round trips over many TCP connections at once, one under way on each: one thread on either side waits for all.
///
/// # Errors
/// [`BenchError`]: no connection, or none of them moving for three seconds.
pub fn many_round_trips(
    client: &Side<'_>,
    server: &Side<'_>,
    count: usize,
    timing: Timing,
) -> Result<Figures, BenchError> {
    let pairs = client.connect(server, count, |_| Ok(()))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (asking, answering): (Vec<_>, Vec<_>) = pairs.iter().map(|(own, other)| (own, other)).unzip();
        let done = &done;
        let echoing = server.thread(scope, move || -> Result<(), BenchError> {
            let poll = watch(&answering)?;
            while !done.load(Ordering::Relaxed) {
                for index in ready(&poll, IDLE)? {
                    let mut byte = [0; 1];
                    let mut end = answering[index];
                    end.read_exact(&mut byte).and_then(|()| end.write_all(&byte)).map_err(socket("answer over TCP"))?;
                }
            }
            Ok(())
        });
        let asked = client.thread(scope, move || {
            let outcome = take_many(&asking, timing);
            done.store(true, Ordering::Relaxed);
            outcome
        });
        let (echoed, figures) = (joined(echoing), joined(asked)?);
        echoed.map(|()| figures)
    })
}

fn take_many(asking: &[&TcpStream], timing: Timing) -> Result<Figures, BenchError> {
    let poll = watch(asking)?;
    let begin = Instant::now();
    let mut asked = vec![begin; asking.len()];
    for end in asking {
        let mut end: &TcpStream = end;
        end.write_all(&[0]).map_err(socket("ask over TCP"))?;
    }
    let mut times = Vec::new();
    let (measured, end) = (begin + timing.warm_up, begin + timing.warm_up + timing.period);
    loop {
        let indices = ready(&poll, super::PATIENCE)?;
        if indices.is_empty() {
            return Err(BenchError::Silence);
        }
        for index in indices {
            let mut own = asking[index];
            own.read_exact(&mut [0; 1]).map_err(socket("wait for an answer"))?;
            let now = Instant::now();
            if now >= end {
                return latencies(times, timing.period.as_secs_f64());
            }
            if now >= measured {
                times.push((now - asked[index]).as_nanos() as u64);
            }
            asked[index] = Instant::now();
            own.write_all(&[0]).map_err(socket("ask over TCP"))?;
        }
    }
}

fn watch(ends: &[&TcpStream]) -> Result<OwnedFd, BenchError> {
    let make = || -> std::io::Result<OwnedFd> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, end) in ends.iter().enumerate() {
            epoll::add(&poll, end.as_fd(), epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        }
        Ok(poll)
    };
    make().map_err(socket("watch connections"))
}

/// The ends that have something; none when the time is over.
fn ready(poll: &OwnedFd, within: Duration) -> Result<Vec<usize>, BenchError> {
    let within = rustix::event::Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
    let mut events = Vec::with_capacity(EVENTS);
    match epoll::wait(poll, rustix::buffer::spare_capacity(&mut events), Some(&within)) {
        Ok(_) => Ok(events.iter().map(|event: &epoll::Event| event.data.u64() as usize).collect()),
        Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
        Err(error) => Err(socket("wait for connections")(error.into())),
    }
}
