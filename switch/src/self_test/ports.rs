//! Checksums and superframes, between a TAP and real sockets of its namespace.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::io::Errno;
use socket2::SockRef;
use weft_bridge::DropReason;
use weft_encap::Offload;

use super::failure::{Failure, same, same_bytes};
use super::frames::{ACK, Filled, Flow, PSH, SYN, Sent, Tcp};
use super::{FAR, GROUP_BYTES, NEAR, SIZE, Segmentation, WAIT, has_ipv6, note, pattern, send, wait};
use crate::gather::{Buffer, Buffers, Piece};
use crate::levels::{Level, Levels, Off};
use crate::port::{MAX_FRAME_LEN, Port, PortFrame, Tap, TapOffloads};

/// The far end's port, and where its sequence numbers begin: so that they wrap within the test.
const FAR_PORT: u16 = 9000;
const FIRST_SEQ: u32 = u32::MAX - 1500;
/// Frames read at one time at most.
const FRAMES: usize = 16;

/// The scratch device and what was read from it.
struct Device<'a> {
    tap: &'a mut Tap,
    arena: Vec<u8>,
    read: VecDeque<(Vec<u8>, Offload)>,
}

/// Tests those levels of ports that are not off already, on the scratch device: a TAP named [`super::DEVICE`] that
/// is up, has [`super::MAC`] and [`super::addresses`], and resolves no neighbours. To be called in its network
/// namespace, of which nothing is expected to be left. Finds out besides for which devices the kernel cuts groups.
pub fn ports(levels: &Levels, tap: &mut Tap) -> Segmentation {
    let mut device = Device { tap, arena: vec![0; FRAMES * MAX_FRAME_LEN], read: VecDeque::new() };
    let checksum = TapOffloads { checksum: true, ..TapOffloads::NONE };
    let families = &[false, true][..if has_ipv6() { 2 } else { 1 }];
    if levels.uses(Level::Checksum) {
        let outcome = device.ask(checksum).and_then(|()| families.iter().try_for_each(|ipv6| device.checksum(*ipv6)));
        note(levels, Level::Checksum, outcome);
    }
    type Test<'a> = fn(&mut Device<'a>, bool) -> Result<(), Failure>;
    let superframes: [(Level, TapOffloads, bool, Test<'_>); 4] = [
        (Level::Tcp4, TapOffloads { tcp4: true, ..checksum }, false, Device::tcp),
        (Level::Tcp6, TapOffloads { tcp6: true, ..checksum }, true, Device::tcp),
        (Level::Udp4, TapOffloads { udp: true, ..checksum }, false, Device::udp),
        (Level::Udp6, TapOffloads { udp: true, ..checksum }, true, Device::udp),
    ];
    for (level, offloads, ipv6, test) in superframes {
        if levels.uses(level) && families.contains(&ipv6) {
            note(levels, level, device.ask(offloads).and_then(|()| test(&mut device, ipv6)));
        }
    }
    if !levels.uses(Level::Segment) {
        return Segmentation::AllDevices;
    }
    match device.ask(TapOffloads::NONE).and_then(|()| device.plain()) {
        Ok(()) => Segmentation::AllDevices,
        Err(failure) if failure.errno() == Some(Errno::IO.raw_os_error()) => Segmentation::ChecksummingDevices,
        Err(failure) => {
            levels.turn_off(Level::Segment, Off::Failed(format!("a device without offloads: {failure}")));
            Segmentation::AllDevices
        }
    }
}

impl Device<'_> {
    fn ask(&mut self, offloads: TapOffloads) -> Result<(), Failure> {
        self.tap.set_offloads(offloads).map_err(|error| Failure::call("asking the TAP for it (TUNSETOFFLOAD)", error))
    }

    /// A datagram in each direction, whose checksum its sender leaves open.
    fn checksum(&mut self, ipv6: bool) -> Result<(), Failure> {
        let (socket, flow) = udp_socket(ipv6)?;
        let bytes = pattern(SIZE.into());
        send(&socket, flow.far, &bytes, None).map_err(|error| Failure::call("sending a datagram", error))?;
        let sent = self.next(&flow, Filled::No, "a datagram from a socket")?;
        same("the offload of a single datagram", &sent.gso, &None)?;
        same_bytes("a datagram from a socket", &sent.payload, &bytes)?;
        self.write(flow.frame(Tcp::default(), &bytes))?;
        receive(&socket, &bytes)
    }

    /// A group of datagrams in each direction, as a superframe.
    fn udp(&mut self, ipv6: bool) -> Result<(), Failure> {
        let (socket, flow) = udp_socket(ipv6)?;
        let bytes = pattern(GROUP_BYTES);
        send(&socket, flow.far, &bytes, Some(SIZE)).map_err(|error| Failure::call("sending a group", error))?;
        let sent = self.next(&flow, Filled::No, "a superframe from a socket")?;
        same("the segment size of a superframe from a socket", &sent.gso, &Some((flow.kind(), SIZE)))?;
        same_bytes("a superframe from a socket", &sent.payload, &bytes)?;
        self.write(flow.frame(Tcp::default(), &bytes))?;
        bytes.chunks(SIZE.into()).try_for_each(|datagram| receive(&socket, datagram))
    }

    /// A group of datagrams through a device that does nothing by itself: the kernel cuts it and fills checksums.
    fn plain(&mut self) -> Result<(), Failure> {
        let (socket, flow) = udp_socket(false)?;
        let bytes = pattern(GROUP_BYTES);
        send(&socket, flow.far, &bytes, Some(SIZE)).map_err(|error| Failure::call("sending a group", error))?;
        bytes.chunks(SIZE.into()).try_for_each(|datagram| {
            let sent = self.next(&flow, Filled::Yes, "a datagram of a group")?;
            same_bytes("a datagram of a group", &sent.payload, datagram)
        })
    }

    /// A connection, of which the far end is played by hand, and a superframe over it in each direction.
    fn tcp(&mut self, ipv6: bool) -> Result<(), Failure> {
        let [near, far] = ends(ipv6);
        let call = |what| move |error| Failure::call(what, error);
        let listener = TcpListener::bind((near, 0)).map_err(call("listening"))?;
        let near = listener.local_addr().map_err(call("listening"))?;
        let flow = Flow { near, far: (far, FAR_PORT).into(), tcp: true };
        self.write(flow.frame(Tcp { seq: FIRST_SEQ, ack: 0, flags: SYN }, &[]))?;
        let welcome = self.next(&flow, Filled::No, "a connection's answer")?;
        same("the flags of a connection's answer", &welcome.flags, &(SYN | ACK))?;
        let (seq, ack) = (FIRST_SEQ.wrapping_add(1), welcome.seq.wrapping_add(1));
        self.write(flow.frame(Tcp { seq, ack, flags: ACK }, &[]))?;
        wait(&listener, "a connection", Instant::now() + WAIT)?;
        let (mut stream, _) = listener.accept().map_err(call("accepting a connection"))?;
        prepare(&stream).map_err(call("preparing a connection"))?;

        let bytes = pattern(GROUP_BYTES);
        self.write(flow.frame(Tcp { seq, ack, flags: ACK | PSH }, &bytes))?;
        let mut received = vec![0; bytes.len()];
        stream.read_exact(&mut received).map_err(call("receiving a superframe"))?;
        same_bytes("a superframe to a socket", &received, &bytes)?;

        stream.write_all(&bytes).map_err(call("sending a superframe"))?;
        self.stream(&flow, ack, &bytes)
    }

    /// What a socket wrote comes in superframes, and all of it in order.
    fn stream(&mut self, flow: &Flow, first: u32, bytes: &[u8]) -> Result<(), Failure> {
        let (mut received, mut superframes) = (Vec::new(), 0);
        while received.len() < bytes.len() {
            let sent = self.next(flow, Filled::No, "a superframe from a socket")?;
            if sent.payload.is_empty() {
                continue;
            }
            same("a sequence number", &sent.seq, &first.wrapping_add(received.len() as u32))?;
            if sent.payload.len() > usize::from(SIZE) {
                same("the segment size of a superframe from a socket", &sent.gso, &Some((flow.kind(), SIZE)))?;
                superframes += 1;
            }
            received.extend(sent.payload);
        }
        same_bytes("superframes from a socket", &received, bytes)?;
        same("superframes there", &(superframes > 0), &true)
    }

    /// The next frame of the flow.
    fn next(&mut self, flow: &Flow, filled: Filled, what: &'static str) -> Result<Sent, Failure> {
        let until = Instant::now() + WAIT;
        loop {
            while let Some((frame, offload)) = self.read.pop_front() {
                if let Some(sent) = flow.read(&frame, &offload, filled)? {
                    return Ok(sent);
                }
            }
            wait(&*self.tap, what, until)?;
            let mut frames = Vec::new();
            self.tap.recv(&mut self.arena, &mut frames, &mut 0).map_err(|error| Failure::call("reading", error))?;
            for PortFrame { range, offload } in frames {
                let offload =
                    offload.map_err(|error| Failure::call("reading a header", std::io::Error::other(error)))?;
                self.read.push_back((self.arena[range].to_vec(), offload));
            }
        }
    }

    fn write(&mut self, (frame, offload): (Vec<u8>, Offload)) -> Result<(), Failure> {
        let piece = Piece::new(Buffer::Arena, 0..frame.len());
        let sent = self.tap.send(offload, &[piece], &Buffers { arena: &frame, headers: &[] });
        sent.map_err(|reason| {
            Failure::call("writing to the TAP", std::io::Error::other(DropReason::from(reason).name()))
        })
    }
}

fn ends(ipv6: bool) -> [IpAddr; 2] {
    [NEAR, FAR].map(|addresses| addresses[usize::from(ipv6)])
}

/// A socket that hears the far end alone.
fn udp_socket(ipv6: bool) -> Result<(UdpSocket, Flow), Failure> {
    let [near, far] = ends(ipv6);
    let far = SocketAddr::new(far, FAR_PORT);
    let open = || {
        let socket = UdpSocket::bind((near, 0))?;
        socket.connect(far)?;
        let near = socket.local_addr()?;
        Ok((socket, Flow { near, far, tcp: false }))
    };
    open().map_err(|error| Failure::call("opening a socket", error))
}

fn receive(socket: &UdpSocket, expected: &[u8]) -> Result<(), Failure> {
    let mut buffer = vec![0; MAX_FRAME_LEN];
    wait(socket.as_fd(), "a datagram to a socket", Instant::now() + WAIT)?;
    let len = socket.recv(&mut buffer).map_err(|error| Failure::call("receiving a datagram", error))?;
    same_bytes("a datagram to a socket", &buffer[..len], expected)
}

/// What was written leaves at once, nothing is waited for without end, and nothing outlives the socket.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))
}
