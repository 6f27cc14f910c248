use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

/// What a frame did.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// It left a pod.
    FromPod,
    /// It reached a pod.
    ToPod,
    /// It left a node.
    FromNode,
    /// It reached a node.
    ToNode,
}

/// A hash over every frame, where and when it was.
#[derive(Clone, Debug)]
pub(crate) struct Trace(DefaultHasher);

impl Trace {
    pub(crate) fn new() -> Self {
        Self(DefaultHasher::new())
    }

    pub(crate) fn note(&mut self, now: Duration, event: Event, place: u64, bytes: &[u8]) {
        self.0.write_u64(now.as_micros() as u64);
        self.0.write_u8(event as u8);
        self.0.write_u64(place);
        self.0.write_usize(bytes.len());
        self.0.write(bytes);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.0.finish()
    }
}
