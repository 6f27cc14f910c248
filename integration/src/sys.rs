//! The system calls of which no crate in use has a safe form.

#![expect(unsafe_code, reason = "packet sockets, UDP_SEGMENT and pre_exec have no safe form in std or socket2")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};
use socket2::{SockAddr, SockAddrStorage, Socket};

const ETH_P_ALL: u16 = 0x0003;

/// What a packet socket delivered besides the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    /// Type and value of the VLAN tag that the kernel took off.
    pub(crate) tag: Option<(u16, u16)>,
}

/// Lets the process be killed with the thread that starts it, so that it outlives no test.
pub(crate) fn die_with_parent(command: &mut Command) {
    let act = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor locks.
    unsafe { command.pre_exec(act) };
}

/// Every packet of one interface.
pub(crate) fn packet_address(interface: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain numbers, all of whose values are valid, and smaller than the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = interface as libc::c_int;
    // SAFETY: the storage holds an address of this family and length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// Leaves out what this host itself sends, and asks for the tags that the kernel takes off.
pub(crate) fn only_incoming_with_tags(socket: &Socket) -> io::Result<()> {
    set_int(socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    set_int(socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)
}

/// A receive buffer beyond the system's limit.
pub(crate) fn receive_buffer(socket: impl AsFd, bytes: libc::c_int) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
}

/// Lets the kernel cut what is sent at once into datagrams of `size` bytes; 0 ends that.
pub(crate) fn segment_size(socket: impl AsFd, size: u16) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, libc::UDP_SEGMENT, size.into())
}

/// Whether what is sent may be fragmented on its way: DF clear and the path's MTU left to others, or DF set whatever
/// the MTU is taken to be.
pub(crate) fn may_fragment(socket: impl AsFd, ipv6: bool, may: bool) -> io::Result<()> {
    let (level, name, value) = match (ipv6, may) {
        (false, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        (false, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        (true, true) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
        (true, false) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    set_int(socket, level, name, value)
}

/// Bounds what a TCP socket sends, in bytes a second.
pub(crate) fn max_pacing_rate(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, bytes as libc::c_int)
}

/// The next packet of a packet socket. Does not wait.
pub(crate) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0_u64; 16];
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all bytes zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to buffers that outlive the call.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let mut tag = None;
    // SAFETY: the kernel filled `control` up to msg_controllen; what is read has the type its level promises.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
                let data = libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned();
                if data.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    tag = Some((data.tp_vlan_tpid, data.tp_vlan_tci));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received { len, tag })
}

fn set_int(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let place = (&raw const value).cast();
    // SAFETY: the kernel reads one int during the call.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, place, len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
