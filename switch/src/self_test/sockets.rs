//! UDP_SEGMENT and UDP_GRO, between addresses of this node and themselves.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Instant;

use super::failure::{Failure, same, same_bytes};
use super::{GROUP_BYTES, SIZE, WAIT, note, pattern, send, wait};
use crate::levels::{Level, Levels};
use crate::sys::udp::{Messages, enable_gro};

/// Messages taken in one call, and bytes of room for each: a whole group fits one.
const SLOTS: usize = 8;
const SLOT_BYTES: usize = 8192;

const _: () = assert!(GROUP_BYTES <= SLOT_BYTES);

/// Tests those of the two levels that are not off already, over each of these addresses of the node, in the calling
/// thread's network namespace.
pub fn sockets(levels: &Levels, addresses: &[IpAddr]) {
    for (level, gro) in [(Level::Segment, false), (Level::Gro, true)] {
        if levels.uses(level) {
            note(levels, level, addresses.iter().try_for_each(|address| group(*address, gro)));
        }
    }
}

/// Sends a group and takes it in, as one or in pieces as the kernel likes: each datagram has to be what was sent.
fn group(address: IpAddr, gro: bool) -> Result<(), Failure> {
    let (sender, to) = socket(address)?;
    let (receiver, from) = socket(address)?;
    receiver.connect(to).map_err(|error| Failure::call("connecting a socket", error))?;
    if gro {
        enable_gro(&receiver).map_err(|error| Failure::call("asking for UDP_GRO", error))?;
    }
    let bytes = pattern(GROUP_BYTES);
    let first = &bytes[..usize::from(SIZE)];
    send(&sender, from, first, None).map_err(|error| Failure::call("sending a datagram", error))?;
    let alone = receive(&receiver, first.len());
    let alone = alone.map_err(|failure| match failure {
        Failure::Missing { .. } => Failure::Deaf { address },
        other => other,
    })?;
    compare(&alone, first)?;
    send(&sender, from, &bytes, Some(SIZE)).map_err(|error| Failure::call("sending a group", error))?;
    compare(&receive(&receiver, bytes.len())?, &bytes)
}

fn compare(datagrams: &[Vec<u8>], expected: &[u8]) -> Result<(), Failure> {
    let expected: Vec<_> = expected.chunks(SIZE.into()).collect();
    same("the number of datagrams", &datagrams.len(), &expected.len())?;
    datagrams.iter().zip(expected).try_for_each(|(seen, expected)| same_bytes("a datagram", seen, expected))
}

/// A socket, and where it is.
fn socket(address: IpAddr) -> Result<(UdpSocket, SocketAddr), Failure> {
    let open = || {
        let socket = UdpSocket::bind((address, 0))?;
        let at = socket.local_addr()?;
        Ok((socket, at))
    };
    open().map_err(|error| Failure::call("opening a socket", error))
}

/// Takes in datagrams of so many bytes in all.
fn receive(socket: &UdpSocket, bytes: usize) -> Result<Vec<Vec<u8>>, Failure> {
    let mut messages = Messages::with_capacity(SLOTS, SLOTS);
    let mut arena = vec![0; SLOTS * SLOT_BYTES];
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    let until = Instant::now() + WAIT;
    while datagrams.iter().map(Vec::len).sum::<usize>() < bytes {
        wait(socket, "a group of datagrams", until)?;
        let count = messages.receive(socket, &mut arena, SLOT_BYTES);
        let count = count.map_err(|error| Failure::call("receiving", error))?;
        for (incoming, slot) in (0..count).filter_map(|place| messages.incoming(place)).zip(arena.chunks(SLOT_BYTES)) {
            datagrams.extend(slot[..incoming.len].chunks(incoming.segment.max(1)).map(<[u8]>::to_vec));
        }
    }
    Ok(datagrams)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_group_comes_back_over_both_families() {
        let levels = Levels::default();
        let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        sockets(&levels, if super::super::has_ipv6() { &addresses } else { &addresses[..1] });
        for level in [Level::Segment, Level::Gro] {
            assert!(levels.is_proven(level), "{level}: {:?}", levels.off(level));
        }
    }

    #[test]
    fn the_group_really_comes_as_one() {
        let (sender, to) = socket(Ipv4Addr::LOCALHOST.into()).unwrap();
        let (receiver, from) = socket(Ipv4Addr::LOCALHOST.into()).unwrap();
        receiver.connect(to).unwrap();
        enable_gro(&receiver).unwrap();
        send(&sender, from, &pattern(GROUP_BYTES), Some(SIZE)).unwrap();
        let mut messages = Messages::with_capacity(1, 1);
        wait(&receiver, "a group", Instant::now() + WAIT).unwrap();
        assert_eq!(messages.receive(&receiver, &mut [0; SLOT_BYTES], SLOT_BYTES).unwrap(), 1);
        let incoming = messages.incoming(0).unwrap();
        assert_eq!((incoming.len, incoming.segment), (GROUP_BYTES, usize::from(SIZE)));
    }

    #[test]
    fn an_address_that_is_not_the_nodes_is_a_reason() {
        let levels = Levels::default();
        sockets(&levels, &[Ipv4Addr::new(192, 0, 2, 77).into()]);
        let why = levels.off(Level::Segment).unwrap().to_string();
        assert!(why.starts_with("self-test: opening a socket: Cannot assign"), "{why}");
    }

    #[test]
    fn one_byte_or_one_boundary_too_many_is_found() {
        let bytes = pattern(GROUP_BYTES);
        let mut datagrams: Vec<Vec<u8>> = bytes.chunks(SIZE.into()).map(<[u8]>::to_vec).collect();
        assert!(compare(&datagrams, &bytes).is_ok());
        datagrams[3][17] ^= 1;
        let told = compare(&datagrams, &bytes).unwrap_err().to_string();
        assert_eq!(told, "a datagram: byte 17 of 1000 differs");
        assert!(compare(&datagrams[..4], &bytes).is_err());
        let other: Vec<Vec<u8>> = bytes.chunks(900).map(<[u8]>::to_vec).collect();
        assert_eq!(other.len(), datagrams.len(), "as many, of other sizes");
        assert!(compare(&other, &bytes).is_err());
    }
}
