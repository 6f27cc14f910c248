//! UDP between two hosts, each datagram told from every other and compared where it arrives.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crate::bytes::random_bytes;
use crate::host::Host;
use crate::sys;
use crate::wait::BOUND;

/// Datagrams under way at most, so that no queue on the way overflows.
const WINDOW: usize = 64;
const RECEIVE_BUFFER: i32 = 8 << 20;

/// Sends `count` datagrams with `size` bytes of payload each; all have to arrive, once, in order and unchanged.
///
/// # Panics
/// If they do not.
#[track_caller]
pub fn exchange(from: &Host, to: &Host, address: &str, size: usize, count: usize) {
    run(from, to, address, size, 1, count, false);
}

/// The same, with `group` datagrams handed to the sender's kernel at once, as one superframe.
///
/// # Panics
/// If they do not arrive as [`exchange`] asks.
#[track_caller]
pub fn exchange_superframes(from: &Host, to: &Host, address: &str, size: usize, group: usize, count: usize) {
    run(from, to, address, size, group, count, false);
}

/// The same, with DF clear; a `group` of one is no superframe.
///
/// # Panics
/// If they do not arrive as [`exchange`] asks.
#[track_caller]
pub fn exchange_fragmentable(from: &Host, to: &Host, address: &str, size: usize, group: usize, count: usize) {
    run(from, to, address, size, group, count, true);
}

/// Whether datagrams with `size` bytes of payload get from one host to the other's address without being fragmented:
/// all of `group`, which are handed to the kernel as one superframe, or none.
///
/// # Panics
/// If some do, or a short one that follows does not.
#[track_caller]
pub fn passes(from: &Host, to: &Host, address: IpAddr, size: usize, group: usize) -> bool {
    let receiver = to.netns().run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    receiver.set_read_timeout(Some(BOUND)).unwrap();
    let sender = from.netns().run(|| UdpSocket::bind(any(address))).unwrap().unwrap();
    sys::may_fragment(&sender, address.is_ipv6(), false).unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    if group > 1 {
        sys::segment_size(&sender, size as u16).unwrap();
    }
    sender.send(&vec![1; size * group]).unwrap();
    sys::segment_size(&sender, 0).unwrap();
    // What comes behind them on the same way says that they are lost and not late.
    sender.send(b"last").unwrap();
    let mut buffer = vec![0; 1 << 16];
    for arrived in 0.. {
        let length = receiver.recv(&mut buffer).unwrap();
        if buffer[..length] == *b"last" {
            assert!([0, group].contains(&arrived), "{arrived} of {group} datagrams came");
            return arrived == group;
        }
        assert_eq!(length, size);
    }
    unreachable!("it counts for ever")
}

/// Sends one superframe of datagrams with `size` bytes of this payload each, and waits for nothing.
///
/// # Panics
/// If the sender's kernel refuses.
pub fn send_superframe(from: &Host, (own, to): (Ipv4Addr, Ipv4Addr), size: usize, payload: &[u8]) {
    let sender = from.netns().run(|| UdpSocket::bind((own, 0))).unwrap().unwrap();
    sys::segment_size(&sender, size as u16).unwrap();
    sender.send_to(payload, (to, 9)).unwrap();
}

#[track_caller]
fn run(from: &Host, to: &Host, address: &str, size: usize, group: usize, count: usize, may_fragment: bool) {
    let address: IpAddr = address.parse().unwrap();
    let receiver = to.netns().run(|| UdpSocket::bind(SocketAddr::new(address, 0))).unwrap().unwrap();
    receiver.set_read_timeout(Some(BOUND)).unwrap();
    sys::receive_buffer(&receiver, RECEIVE_BUFFER).unwrap();
    let sender = from.netns().run(|| UdpSocket::bind(any(address))).unwrap().unwrap();
    if may_fragment {
        sys::may_fragment(&sender, address.is_ipv6(), true).unwrap();
    }
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    if group > 1 {
        sys::segment_size(&sender, size as u16).unwrap();
    }
    let mut buffer = vec![0; 1 << 16];
    let mut received = 0;
    while received < count {
        let window = WINDOW.max(group).min(count - received);
        let numbers: Vec<usize> = (received..received + window).collect();
        for numbers in numbers.chunks(group) {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| random_bytes(*number as u64, size)).collect();
            sender.send(&bytes).unwrap_or_else(|error| panic!("sending {} datagrams: {error}", numbers.len()));
        }
        for number in numbers {
            let length = receiver.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("{} to {address}: {number} of {count} datagrams of {size} B came: {error}", from.name())
            });
            assert_eq!(length, size, "datagram {number}");
            assert!(buffer[..length] == random_bytes(number as u64, size), "datagram {number} is another or changed");
        }
        received += window;
    }
    receiver.set_nonblocking(true).unwrap();
    assert!(receiver.recv(&mut buffer).is_err(), "more than {count} datagrams came");
}

fn any(like: IpAddr) -> SocketAddr {
    if like.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap()
}
