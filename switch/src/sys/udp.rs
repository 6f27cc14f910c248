//! UDP with segmentation offload: many datagrams in one system call (net/ipv4/udp.c, udp_offload.c).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use weft_encap::outer::DEFAULT_TTL;

use super::check;
use super::iovec::IoVecs;
use crate::gather::{Buffers, Piece};

const UDP_NO_CHECK6_RX: libc::c_int = 102;
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
/// Linux 4.12; its words (include/uapi/linux/sock_diag.h).
const SO_MEMINFO: libc::c_int = 55;
const MEMINFO_WORDS: usize = 9;
const MEMINFO_DROPS: usize = 8;

/// Bytes for the control messages of one datagram, as 64-bit words for their alignment.
type Control = [u64; 12];

/// One datagram, or a group of equal ones in one.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) to: SocketAddr,
    pub(crate) pieces: &'a [Piece],
    /// Bytes in each datagram of the group; None for a single one.
    pub(crate) segment: Option<u16>,
    /// DSCP and ECN of the outer header.
    pub(crate) tos: u8,
    /// TTL, or hop limit, of the outer header, 1 to 255.
    pub(crate) ttl: u8,
}

/// One datagram as it came in, or a group of equal ones in one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming {
    pub(crate) source: SocketAddr,
    pub(crate) len: usize,
    /// Bytes in each datagram of the group; `len` for a single one.
    pub(crate) segment: usize,
    /// DSCP and ECN of the outer header.
    pub(crate) tos: u8,
    /// Datagrams lost for a full socket buffer since it was opened (SO_RXQ_OVFL), where the kernel says so.
    pub(crate) overflow: Option<u32>,
}

/// Room for the messages of one system call.
pub(crate) struct Messages {
    headers: Vec<libc::mmsghdr>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    iovecs: IoVecs,
}

// SAFETY: the pointers in `headers` are dead outside of the calls in this module, which refill them first.
unsafe impl Send for Messages {}

impl Messages {
    pub(crate) fn with_capacity(messages: usize, pieces: usize) -> Self {
        // SAFETY: all bytes zero is a valid mmsghdr and a valid sockaddr_storage.
        let (header, name) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Self {
            headers: vec![header; messages],
            names: vec![name; messages],
            controls: vec![[0; 12]; messages],
            iovecs: IoVecs::with_capacity(pieces),
        }
    }

    /// Sends as many as the kernel takes; returns how many.
    ///
    /// # Errors
    /// The kernel's answer to the first one, if it took none.
    pub(crate) fn send<'a>(
        &mut self,
        socket: impl AsFd,
        outgoing: impl Iterator<Item = Outgoing<'a>>,
        buffers: &Buffers<'_>,
    ) -> io::Result<usize> {
        self.iovecs.clear();
        let mut count = 0;
        for (index, message) in outgoing.take(self.headers.len()).enumerate() {
            let first = self.iovecs.len();
            self.iovecs.extend(message.pieces, buffers);
            let name_len = write_address(message.to, &mut self.names[index]);
            let control_len = write_control(&message, &mut self.controls[index]);
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = name_len;
            // The list may still grow and move: this holds the place until all are there.
            header.msg_iov = std::ptr::without_provenance_mut(first);
            header.msg_iovlen = self.iovecs.len() - first;
            header.msg_control = (&raw mut self.controls[index]).cast();
            header.msg_controllen = control_len;
            header.msg_flags = 0;
            count = index + 1;
        }
        for header in &mut self.headers[..count] {
            let first = header.msg_hdr.msg_iov.addr();
            header.msg_hdr.msg_iov = self.iovecs.as_mut_ptr_at(first);
        }
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: the first `count` headers point into names, controls and iovecs of this struct, and the
        // iovecs into `buffers`; all of them are borrowed for the whole call.
        let sent = unsafe { libc::sendmmsg(fd, self.headers.as_mut_ptr(), count as libc::c_uint, 0) };
        check(sent.into())
    }

    /// Receives what is there into consecutive slots of `slot_len` bytes. Returns how many came; none when
    /// the socket is empty.
    pub(crate) fn receive(&mut self, socket: impl AsFd, arena: &mut [u8], slot_len: usize) -> io::Result<usize> {
        self.iovecs.clear();
        for slot in arena.chunks_exact_mut(slot_len).take(self.headers.len()) {
            self.iovecs.push(slot);
        }
        let count = self.iovecs.len();
        for index in 0..count {
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = self.iovecs.as_mut_ptr_at(index);
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[index]).cast();
            header.msg_controllen = size_of::<Control>();
            header.msg_flags = 0;
        }
        let fd = socket.as_fd().as_raw_fd();
        let (headers, count) = (self.headers.as_mut_ptr(), count as libc::c_uint);
        // SAFETY: the headers point into this struct and into `arena`, which is borrowed mutably for the whole
        // call; the slots do not overlap.
        let received = unsafe { libc::recvmmsg(fd, headers, count, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        match check(received.into()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    /// One of the messages that the last [`Self::receive`] brought; None if it was cut or has no sender.
    pub(crate) fn incoming(&self, index: usize) -> Option<Incoming> {
        let message = &self.headers[index];
        let len = message.msg_len as usize;
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let source = read_address(&self.names[index])?;
        let mut incoming = Incoming { source, len, segment: len, tos: 0, overflow: None };
        let header = &raw const message.msg_hdr;
        // SAFETY: the kernel filled msg_control up to msg_controllen, and `controls` is still there; each
        // control message is read unaligned, by the type that its level and kind promise.
        unsafe {
            let mut control = libc::CMSG_FIRSTHDR(header);
            while !control.is_null() {
                let data = libc::CMSG_DATA(control);
                match ((*control).cmsg_level, (*control).cmsg_type) {
                    (libc::SOL_UDP, UDP_GRO) => {
                        let size = data.cast::<libc::c_int>().read_unaligned();
                        incoming.segment = usize::try_from(size).ok().filter(|size| *size > 0).unwrap_or(len);
                    }
                    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                        incoming.overflow = Some(data.cast::<u32>().read_unaligned());
                    }
                    (libc::IPPROTO_IP, libc::IP_TOS) => incoming.tos = data.read(),
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        incoming.tos = data.cast::<libc::c_int>().read_unaligned() as u8;
                    }
                    _ => {}
                }
                control = libc::CMSG_NXTHDR(header, control);
            }
        }
        Some(incoming)
    }
}

/// Lets the kernel hand over groups of equal datagrams whole.
pub(crate) fn enable_gro(socket: impl AsFd) -> io::Result<()> {
    set_gro(socket, true)
}

/// Lets the kernel hand over groups of equal datagrams whole, or one by one.
pub(crate) fn set_gro(socket: impl AsFd, whole: bool) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, UDP_GRO, whole.into())
}

/// Datagrams lost for a full buffer since the socket was opened (SO_MEMINFO, net/core/sock.c: sk_get_meminfo).
pub(crate) fn drops(socket: impl AsFd) -> io::Result<u32> {
    let mut words = [0_u32; MEMINFO_WORDS];
    let mut len = size_of_val(&words) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    let place = words.as_mut_ptr().cast();
    // SAFETY: the kernel writes `len` bytes of `words` at most, and how many to `len`, during the call.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_MEMINFO, place, &raw mut len) }.into())?;
    Ok(words[MEMINFO_DROPS])
}

/// Hands over DSCP and ECN of what is received.
pub(crate) fn enable_tos(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
    } else {
        set_int(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
    }
}

/// Sets the time to live, or hop limit, of what is sent without one of its own, [`DEFAULT_TTL`] for [`Messages::send`].
pub(crate) fn set_ttl(socket: impl AsFd, ipv6: bool, ttl: u8) -> io::Result<()> {
    if ipv6 {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl.into())
    } else {
        set_int(socket, libc::IPPROTO_IP, libc::IP_TTL, ttl.into())
    }
}

/// Takes datagrams without a checksum over IPv6 too (RFC 6935).
pub(crate) fn accept_zero_checksums(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, UDP_NO_CHECK6_RX, 1)
}

/// Counts datagrams lost for a full buffer.
pub(crate) fn enable_overflow_count(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)
}

/// Sets DF on everything sent and never lets the kernel fragment, whatever path MTU it believes in.
pub(crate) fn never_fragment(socket: impl AsFd + Copy, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
    } else {
        set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    }
}

/// Sets the receive buffer past the system's limit where we may, else up to it. Returns bytes granted.
pub(crate) fn receive_buffer(socket: impl AsFd + Copy, bytes: libc::c_int) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
}

/// Sets the send buffer past the system's limit where we may, else up to it.
pub(crate) fn send_buffer(socket: impl AsFd + Copy, bytes: libc::c_int) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)
        .or_else(|_| set_int(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes))
}

/// Sends without checksums, with which the kernel refuses every group.
#[cfg(test)]
pub(crate) fn send_no_checksums(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
}

/// Lets nothing in: for sockets that only send.
pub(crate) fn refuse_all(socket: impl AsFd) -> io::Result<()> {
    let mut instruction = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut instruction };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn set_int(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set(socket, level, name, &value)
}

fn set<T>(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from `value`, and what it points to, during the call.
    check(unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), len) }.into())?;
    Ok(())
}

/// Writes the control messages that a datagram needs; returns their length in bytes.
fn write_control(message: &Outgoing<'_>, control: &mut Control) -> usize {
    let mut len = 0;
    if let Some(size) = message.segment {
        len += push_control(control, len, libc::SOL_UDP, UDP_SEGMENT, size);
    }
    if message.tos != 0 {
        let (level, kind) = match message.to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        len += push_control(control, len, level, kind, libc::c_int::from(message.tos));
    }
    if message.ttl != DEFAULT_TTL {
        let (level, kind) = match message.to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
        };
        len += push_control(control, len, level, kind, libc::c_int::from(message.ttl));
    }
    len
}

/// Writes one control message at `at`, a sum of earlier returns; returns the bytes it takes.
fn push_control<T>(control: &mut Control, at: usize, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    const { assert!(3 * size_of::<libc::cmsghdr>() + 3 * size_of::<u64>() <= size_of::<Control>()) };
    const { assert!(size_of::<T>() <= size_of::<u64>()) };
    let len = size_of::<T>() as u32;
    // SAFETY: at most three messages of at most eight bytes each are written, for which the buffer has room, and
    // each begins where the alignment of CMSG_SPACE puts it.
    unsafe {
        let header = control.as_mut_ptr().byte_add(at).cast::<libc::cmsghdr>();
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(len) as usize;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        libc::CMSG_SPACE(len) as usize
    }
}

fn write_address(address: SocketAddr, storage: &mut libc::sockaddr_storage) -> libc::socklen_t {
    let place = std::ptr::from_mut(storage);
    match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large and aligned enough for every address family.
            unsafe { place.cast::<libc::sockaddr_in>().write(name) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { place.cast::<libc::sockaddr_in6>().write(name) };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

fn read_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let place = std::ptr::from_ref(storage);
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of this family.
            let name = unsafe { place.cast::<libc::sockaddr_in>().read() };
            let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(address.into(), u16::from_be(name.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { place.cast::<libc::sockaddr_in6>().read() };
            Some(SocketAddr::new(Ipv6Addr::from(name.sin6_addr.s6_addr).into(), u16::from_be(name.sin6_port)))
        }
        _ => None,
    }
}
