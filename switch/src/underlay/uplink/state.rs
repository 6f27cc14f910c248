use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::NextHops;

/// What the uplink is told, and what it says of itself.
///
/// It works until it is given up, by the worker or from outside, and not again after that.
#[derive(Debug)]
pub struct UplinkState {
    hops: Arc<ArcSwap<NextHops>>,
    given_up: AtomicBool,
    reason: OnceLock<String>,
    /// What is done to the second is seen at the first.
    end: (UnixStream, UnixStream),
}

impl UplinkState {
    /// One that reaches no VTEP yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        let end = UnixStream::pair()?;
        end.0.set_nonblocking(true)?;
        Ok(Self { hops: Arc::default(), given_up: AtomicBool::new(false), reason: OnceLock::new(), end })
    }

    /// Puts other next hops in force, for the next turn of every worker.
    pub fn publish(&self, hops: NextHops) {
        if !self.is_given_up() {
            self.hops.store(Arc::new(hops));
        }
        // It may have been given up in between.
        if self.is_given_up() {
            self.hops.store(Arc::default());
        }
    }

    /// From now on the sockets carry everything. The first reason is kept.
    pub fn give_up(&self, reason: String) {
        if self.reason.set(reason).is_ok() {
            self.given_up.store(true, Ordering::SeqCst);
            self.hops.store(Arc::default());
            // Of a pair that this holds itself, there is nothing to fail.
            let _ = self.end.1.shutdown(Shutdown::Both);
        }
    }

    /// Whether the sockets carry everything.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }

    /// Why it was given up, if it was.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// The next hops in force.
    #[must_use]
    pub fn hops(&self) -> Arc<NextHops> {
        self.hops.load_full()
    }

    /// Readable, without blocking, from the moment when it is given up.
    #[must_use]
    pub fn end(&self) -> &UnixStream {
        &self.end.0
    }

    pub(super) fn source(&self) -> Arc<ArcSwap<NextHops>> {
        self.hops.clone()
    }
}
