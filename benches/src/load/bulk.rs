use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::{BITS, Figures, Side, Timing, Window};
use crate::BenchError;
use crate::error::socket;

/// Bytes handed to the kernel at once, as iperf3 does, and asked from it.
const SEND_SIZE: usize = 128 << 10;
const RECEIVE_SIZE: usize = 256 << 10;
/// Where the receiver's buffer begins is a multiple of this. Some AMD processors copy at a twentieth of their speed to
/// an address whose place in its page is 1 to 31 bytes behind the source's, which is where allocators put large buffers:
/// 16 bytes into a page, and received data mostly begins with one.
const ALIGNMENT: usize = 4096;
const GIGA: f64 = 1e9;

/// As much TCP as goes through, over so many connections with that congestion control.
///
/// Figures: `throughput`, Gbit/s of payload that arrived; `cpu`, busy seconds of all processors for each 10^9 bytes.
///
/// # Errors
/// [`BenchError`]: no connection, or one that stands still for three seconds.
pub fn bulk(
    client: &Side<'_>,
    server: &Side<'_>,
    streams: usize,
    congestion_control: &str,
    timing: Timing,
) -> Result<Figures, BenchError> {
    let pairs = client.connect(server, streams, |socket| socket.set_tcp_congestion(congestion_control.as_bytes()))?;
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let (window, failures) = Window::new(timing);
    let counted = thread::scope(|scope| {
        for (out, inward) in &pairs {
            let (failed, received, done) = (failures.clone(), &received, &done);
            server.thread(scope, move || {
                if let Err(error) = receive(inward, received) {
                    // Nobody listens once the period is over.
                    let _ = failed.send(error);
                }
            });
            let failed = failures.clone();
            client.thread(scope, move || {
                if let Err(error) = send(out, done) {
                    let _ = failed.send(error);
                }
            });
        }
        let counted = window.count(&received);
        done.store(true, Ordering::Relaxed);
        for end in pairs.iter().flat_map(|(out, inward)| [out, inward]) {
            // Ends whatever waits; a connection that failed is closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
        counted
    })?;
    if counted.count == 0 {
        return Err(BenchError::Silence);
    }
    let bytes = counted.count as f64;
    Ok(vec![("throughput", bytes * BITS / counted.seconds / GIGA), ("cpu", counted.busy / (bytes / GIGA))])
}

fn send(mut out: &TcpStream, done: &AtomicBool) -> Result<(), BenchError> {
    let chunk = vec![0; SEND_SIZE];
    while !done.load(Ordering::Relaxed) {
        match out.write(&chunk) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(socket("send")(error)),
            _ => {}
        }
    }
    Ok(())
}

fn receive(mut inward: &TcpStream, received: &AtomicU64) -> Result<(), BenchError> {
    let mut buffer = vec![0; RECEIVE_SIZE + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut buffer[start..start + RECEIVE_SIZE];
    loop {
        match inward.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => received.fetch_add(length as u64, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(socket("receive")(error)),
        };
    }
}
