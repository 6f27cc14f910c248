use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::IpEndpoint;
use weft_bridge::Seconds;
use weft_switch::memory::{MemoryPort, MemorySwitch};

use crate::pod::{Pod, PodConfig};
use crate::stream::{Stream, StreamId, socket};
use crate::trace::Trace;
use crate::wire::{Arrival, Wire};

/// The port on which pods listen for the first stream of a lab; the others have the next ones.
const FIRST_STREAM_PORT: u16 = 5000;
/// The port from which pods begin the first.
const FIRST_CLIENT_PORT: u16 = 40_000;
/// Datagrams, and bytes of them, that wait in a pod at most, in each direction.
const DATAGRAMS: (usize, usize) = (1024, 1 << 21);
/// Steps without time passing at most: more are a storm of frames that never ends.
const STEPS_AT_ONCE: usize = 100_000;

/// Where the switches are: whoever has them may change their tables between two steps.
pub trait Nodes {
    /// Shows every switch that runs, with its node's address, always in the same order.
    fn each(&mut self, look: &mut dyn FnMut(IpAddr, &mut MemorySwitch));
}

impl Nodes for (IpAddr, MemorySwitch) {
    fn each(&mut self, look: &mut dyn FnMut(IpAddr, &mut MemorySwitch)) {
        look(self.0, &mut self.1);
    }
}

impl Nodes for Vec<(IpAddr, MemorySwitch)> {
    fn each(&mut self, look: &mut dyn FnMut(IpAddr, &mut MemorySwitch)) {
        self.iter_mut().for_each(|node| node.each(look));
    }
}

/// A pod of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodId(usize);

/// Pods, and the wire between their nodes. Nothing moves but in [`Self::run_until`].
pub struct MemoryLab {
    seed: u64,
    now: Duration,
    pods: Vec<Pod>,
    streams: Vec<Stream>,
    wire: Wire,
    trace: Trace,
}

impl MemoryLab {
    /// Without pods, at time zero. All that happens by chance follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Duration::ZERO,
            pods: Vec::new(),
            streams: Vec::new(),
            wire: Wire::new(seed),
            trace: Trace::new(),
        }
    }

    /// Adds a pod at this port.
    ///
    /// # Panics
    /// If it has more addresses than an endpoint takes.
    pub fn add_pod(&mut self, config: &PodConfig, port: MemoryPort) -> PodId {
        let seed = self.seed.wrapping_add(self.pods.len() as u64);
        self.pods.push(Pod::new(config, port, seed, self.now));
        PodId(self.pods.len() - 1)
    }

    /// Moves a pod to another port, with its connections.
    pub fn plug(&mut self, pod: PodId, port: MemoryPort) {
        self.pods[pod.0].plug(port);
    }

    /// Begins a TCP connection over which so many bytes go. It stays open.
    ///
    /// # Panics
    /// If there are too many streams.
    pub fn stream(&mut self, from: PodId, to: PodId, address: IpAddr, bytes: u64) -> StreamId {
        let number = u16::try_from(self.streams.len()).unwrap_or_else(|_| panic!("too many streams"));
        let (port, client) = (FIRST_STREAM_PORT + number, FIRST_CLIENT_PORT + number);
        let mut server = socket();
        server.listen(port).unwrap_or_else(|error| panic!("listening at {port}: {error}"));
        let to = (to, self.pods[to.0].sockets.add(server));
        let from = (from, self.pods[from.0].sockets.add(socket()));
        let (interface, sockets) = self.pods[from.0.0].interface_and_sockets();
        let socket = sockets.get_mut::<tcp::Socket<'_>>(from.1);
        let began = socket.connect(interface.context(), IpEndpoint::from((address, port)), client);
        began.unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
        self.streams.push(Stream::new(from, to, self.seed ^ u64::from(number), bytes));
        StreamId(self.streams.len() - 1)
    }

    /// Whether every byte has come.
    #[must_use]
    pub fn stream_is_done(&self, stream: StreamId) -> bool {
        self.streams[stream.0].is_done()
    }

    /// Bytes that have come, each as it was sent.
    #[must_use]
    pub fn stream_read(&self, stream: StreamId) -> u64 {
        self.streams[stream.0].read
    }

    /// Opens a UDP socket in a pod.
    ///
    /// # Panics
    /// If the port is zero.
    pub fn udp(&mut self, pod: PodId, port: u16) -> SocketHandle {
        let (count, bytes) = DATAGRAMS;
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; count], vec![0; bytes]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap_or_else(|error| panic!("binding {port}: {error}"));
        self.pods[pod.0].sockets.add(socket)
    }

    /// Sends a datagram as soon as time moves.
    ///
    /// # Panics
    /// If as many wait as the socket takes.
    pub fn send(&mut self, (pod, socket): (PodId, SocketHandle), to: SocketAddr, payload: &[u8]) {
        let socket = self.pods[pod.0].sockets.get_mut::<udp::Socket<'_>>(socket);
        socket.send_slice(payload, IpEndpoint::from(to)).unwrap_or_else(|error| panic!("sending to {to}: {error}"));
    }

    /// Takes the datagrams that have come.
    pub fn received(&mut self, (pod, socket): (PodId, SocketHandle)) -> Vec<Vec<u8>> {
        let socket = self.pods[pod.0].sockets.get_mut::<udp::Socket<'_>>(socket);
        std::iter::from_fn(|| socket.recv().ok().map(|(payload, _)| payload.to_vec())).collect()
    }

    /// The underlay.
    pub const fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Time since the beginning.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// A hash over every frame that left or reached a pod or a node, and when.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace.hash()
    }

    /// Moves the clock on by that much.
    pub fn run(&mut self, nodes: &mut impl Nodes, time: Duration) {
        self.run_until(nodes, self.now + time, |_| false);
    }

    /// Moves the clock, from one thing that happens to the next, until it is done or that time has come. Whether it is
    /// done.
    ///
    /// # Panics
    /// If frames go round without end.
    pub fn run_until(&mut self, nodes: &mut impl Nodes, until: Duration, done: impl Fn(&Self) -> bool) -> bool {
        nodes.each(&mut |address, _| self.wire.join(address));
        loop {
            let mut steps = 0;
            while self.step(nodes) {
                steps += 1;
                assert!(steps < STEPS_AT_ONCE, "frames go round without end at {:?}", self.now);
            }
            if done(self) {
                return true;
            }
            if self.now >= until {
                return false;
            }
            let now = self.now;
            let timers = self.pods.iter_mut().filter_map(|pod| pod.next(now));
            let next = timers.chain(self.wire.next()).min().unwrap_or(until);
            // Endpoints count in microseconds: what is due within this one is due in the next.
            self.now = next.max(now + Duration::from_micros(1)).min(until);
        }
    }

    /// All that can happen without time passing, once: from the wire to the switches, and from these to the pods, so that
    /// nothing lies in between when nothing happens any more. Whether anything did.
    fn step(&mut self, nodes: &mut impl Nodes) -> bool {
        let Self { now, pods, streams, wire, trace, .. } = self;
        let mut busy = false;
        while let Some(Arrival { to, from, encapsulation, tos, payload }) = wire.take(*now, trace) {
            busy = true;
            let mut payload = Some(payload);
            nodes.each(&mut |address, switch| {
                if let Some(payload) = payload.take_if(|_| address == to) {
                    switch.underlay().arrives(from, encapsulation, payload.len(), tos, payload);
                }
            });
            if payload.is_some() {
                wire.nobody_there();
            }
        }
        let seconds = Seconds(u32::try_from(now.as_secs()).unwrap_or(u32::MAX));
        nodes.each(&mut |address, switch| {
            switch.run(seconds);
            for datagram in switch.underlay().sent() {
                busy = true;
                wire.send(address, &datagram, *now, trace);
            }
        });
        for (place, pod) in pods.iter_mut().enumerate() {
            busy |= pod.poll(*now, place as u64, trace);
        }
        for stream in streams {
            busy |= stream.read(&mut pods[stream.to.0.0].sockets);
            busy |= stream.write(&mut pods[stream.from.0.0].sockets);
        }
        busy
    }
}
