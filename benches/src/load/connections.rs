use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{Figures, Side, Timing, latencies};
use crate::BenchError;
use crate::error::socket;

/// One TCP connection after the other: connect, one byte there, one byte back, close.
///
/// Figures: those of round trips, where a round is all of it. The client closes by a reset, so that no ports run out.
///
/// # Errors
/// [`BenchError`]: no connection, or one that stands still for three seconds.
pub fn connections(client: &Side<'_>, server: &Side<'_>, timing: Timing) -> Result<Figures, BenchError> {
    let (listener, address) = server.listen()?;
    let done = AtomicBool::new(false);
    let once = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, super::PATIENCE)?;
        stream.set_read_timeout(Some(super::PATIENCE))?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.write_all(&[0])?;
        stream.read_exact(&mut [0; 1])
    };
    thread::scope(|scope| {
        server.thread(scope, || {
            while !done.load(Ordering::Relaxed) {
                // A timeout, or the last connection.
                let Ok((mut stream, _)) = listener.accept() else { continue };
                let mut byte = [0; 1];
                let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
            }
        });
        // Sockets belong to the namespace of the thread that opens them.
        let asked = client.netns.run(|| {
            client.pinning.keep_to(client.node);
            let outcome = rounds(timing, once);
            done.store(true, Ordering::Relaxed);
            // Wakes the server, which may be waiting for a connection.
            let _ = TcpStream::connect_timeout(&address, super::PATIENCE);
            outcome
        });
        done.store(true, Ordering::Relaxed);
        asked?
    })
}

fn rounds(timing: Timing, once: impl Fn() -> std::io::Result<()>) -> Result<Figures, BenchError> {
    let begin = Instant::now();
    while begin.elapsed() < timing.warm_up {
        once().map_err(socket("connect"))?;
    }
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < timing.period {
        let started = Instant::now();
        once().map_err(socket("connect"))?;
        times.push(started.elapsed().as_nanos() as u64);
    }
    latencies(times, begin.elapsed().as_secs_f64())
}
