//! Packet sockets: every frame of an interface, both ways, with the time at which the kernel saw it (packet(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::check;

const ETH_P_ALL: u16 = 0x0003;
/// Bytes of receive buffer: a burst of thousands of frames.
const RECEIVE_BUFFER: libc::c_int = 32 << 20;
/// Bytes of an Ethernet header's addresses, behind which a VLAN tag stands.
const ADDRESSES_LEN: usize = 12;

/// Listens at one interface and keeps nothing from anybody.
#[derive(Debug)]
pub struct PacketTap {
    socket: Socket,
}

/// A frame that an interface received or sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenFrame {
    /// The frame with its VLAN tags; a superframe as one, with a checksum that may not be filled in yet.
    pub bytes: Vec<u8>,
    /// Whether the interface sent it.
    pub outgoing: bool,
    /// When the kernel saw it, since 1970; zero from kernels that do not say.
    pub time: Duration,
}

impl PacketTap {
    /// Listens at the interface with that number in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says: without CAP_NET_RAW, or without such an interface.
    pub fn open(interface: u32) -> io::Result<Self> {
        // Protocol 0 receives nothing: what came between here and `bind` could be of any interface.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        set_int(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
            .or_else(|_| set_int(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER))?;
        set_int(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        set_int(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: sockaddr_ll is plain numbers, all of whose values are valid, and smaller than the storage.
        let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = ETH_P_ALL.to_be();
        address.sll_ifindex = interface as libc::c_int;
        // SAFETY: the storage holds an address of this family and length.
        let address = unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
        socket.bind(&address)?;
        Ok(Self { socket })
    }

    /// The next frame; none when nothing waits. `buffer` bounds its length.
    ///
    /// # Errors
    /// What the kernel says, such as ENETDOWN for an interface that was switched off: others may follow unless it
    /// [is gone](Self::is_gone).
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<SeenFrame>> {
        let mut control = [0_u64; 16];
        let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all bytes zero is a valid sockaddr_ll and a valid msghdr.
        let (mut name, mut message): (libc::sockaddr_ll, libc::msghdr) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = size_of_val(&name) as libc::socklen_t;
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: the message points to buffers that outlive the call.
        let result = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let len = match check(result as libc::c_long) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            result => result?,
        };
        let mut frame = SeenFrame {
            bytes: buffer[..len].to_vec(),
            outgoing: name.sll_pkttype == libc::PACKET_OUTGOING,
            time: Duration::ZERO,
        };
        // SAFETY: the kernel filled `control` up to msg_controllen; what is read has the type its level promises.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                let data = libc::CMSG_DATA(header);
                match ((*header).cmsg_level, (*header).cmsg_type) {
                    (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                        frame.put_back_tag(&data.cast::<libc::tpacket_auxdata>().read_unaligned());
                    }
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        let time = data.cast::<libc::timespec>().read_unaligned();
                        frame.time = Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32);
                    }
                    _ => {}
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        Ok(Some(frame))
    }

    /// Whether the interface was removed: nothing will come any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_gone(&self) -> io::Result<bool> {
        let address = self.socket.local_addr()?;
        // SAFETY: the kernel filled in a sockaddr_ll, the address of every packet socket.
        let address = unsafe { address.as_ptr().cast::<libc::sockaddr_ll>().read_unaligned() };
        // No interface has a number below 1 (`packet_notifier`, net/packet/af_packet.c, puts -1).
        Ok(address.sll_ifindex < 1)
    }
}

impl SeenFrame {
    /// The kernel takes the outer VLAN tag off and hands it over beside the frame.
    fn put_back_tag(&mut self, beside: &libc::tpacket_auxdata) {
        if beside.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && self.bytes.len() >= ADDRESSES_LEN {
            let tag = beside.tp_vlan_tpid.to_be_bytes().into_iter().chain(beside.tp_vlan_tci.to_be_bytes());
            self.bytes.splice(ADDRESSES_LEN..ADDRESSES_LEN, tag);
        }
    }
}

impl AsFd for PacketTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn set_int(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let place = (&raw const value).cast();
    // SAFETY: the kernel reads one int during the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, place, len) }.into())?;
    Ok(())
}
