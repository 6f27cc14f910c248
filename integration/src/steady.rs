use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::sys;

/// Bytes handed to the kernel at once.
const CHUNK: usize = 1 << 16;

/// A TCP stream that goes on until it is dropped, watched where it arrives.
#[derive(Debug)]
pub struct SteadyStream {
    /// Both ends.
    ends: [TcpStream; 2],
    progress: Arc<Mutex<Progress>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    bytes: u64,
    last: Instant,
    /// The longest time without a byte.
    longest: Duration,
}

impl SteadyStream {
    /// Sends from one host to the other with this address, at most so many bytes a second. The words that it sends
    /// count up, and are compared where they arrive.
    ///
    /// # Panics
    /// If there is no connection; later, in [`Self::stall`], if a byte is not what was sent or the stream ended.
    #[must_use]
    pub fn start(from: &Host, to: &Host, address: &str, bytes_per_second: u32) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let listener = to.netns().run(|| TcpListener::bind(SocketAddr::new(address, 0))).unwrap().unwrap();
        let target = listener.local_addr().unwrap();
        let sender = from.netns().run(|| TcpStream::connect(target)).unwrap().unwrap();
        let (receiver, _) = listener.accept().unwrap();
        sys::max_pacing_rate(&sender, bytes_per_second).unwrap();
        let progress = Progress { bytes: 0, last: Instant::now(), longest: Duration::ZERO };
        let progress = Arc::new(Mutex::new(progress));
        let ends = [&sender, &receiver].map(|end| end.try_clone().unwrap());
        let seen = progress.clone();
        let threads =
            vec![std::thread::spawn(move || send(sender)), std::thread::spawn(move || receive(receiver, &seen))];
        Self { ends, progress, threads }
    }

    /// Bytes that have arrived.
    ///
    /// # Panics
    /// If the stream has ended.
    #[track_caller]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        assert!(self.threads.iter().all(|thread| !thread.is_finished()), "the stream has ended");
        self.progress.lock().unwrap().bytes
    }

    /// The longest time without a byte since the last call, that which is still under way included.
    ///
    /// # Panics
    /// If the stream has ended.
    #[track_caller]
    pub fn stall(&self) -> Duration {
        assert!(self.threads.iter().all(|thread| !thread.is_finished()), "the stream has ended");
        let mut progress = self.progress.lock().unwrap();
        std::mem::take(&mut progress.longest).max(progress.last.elapsed())
    }
}

impl Drop for SteadyStream {
    fn drop(&mut self) {
        for end in &self.ends {
            // It has ended already where this fails.
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the stream failed");
        }
    }
}

/// Words that count up from this place of the stream on.
fn words(place: u64) -> Vec<u8> {
    (0..CHUNK as u64 / 8).flat_map(|word| (place / 8 + word).to_le_bytes()).collect()
}

fn send(mut to: TcpStream) {
    for place in (0..).step_by(CHUNK) {
        if to.write_all(&words(place)).is_err() {
            return;
        }
    }
}

fn receive(mut from: TcpStream, progress: &Mutex<Progress>) {
    let mut chunk = vec![0; CHUNK];
    for place in (0..).step_by(CHUNK) {
        let expected = words(place);
        let mut filled = 0;
        while filled < CHUNK {
            match from.read(&mut chunk[filled..]) {
                Ok(0) => return,
                Ok(length) => {
                    let (now, mut progress) = (Instant::now(), progress.lock().unwrap());
                    progress.longest = progress.longest.max(now - progress.last);
                    progress.last = now;
                    progress.bytes += length as u64;
                    filled += length;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        assert!(chunk == expected, "bytes from {place} on are not what was sent");
    }
}
