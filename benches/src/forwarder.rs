//! The naive forwarder: what an overlay in userspace is when nothing is done about its costs. One system call for
//! each frame read and one for each datagram sent, no offloads, no batches.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::str::FromStr;
use std::thread;

use ipnet::{IpNet, Ipv4Net};
use rustix::event::{PollFd, PollFlags, poll};
use weft_netns::Netns;
use weft_switch::open_plain_tap;

use crate::BenchError;
use crate::error::{file, socket};
use crate::stage::INTERFACE;

/// UDP port of VXLAN, and the bytes of its header (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;
const VXLAN_LEN: usize = 8;
const VXLAN_FLAG_VNI: u8 = 0x08;
/// Bytes of a frame's addresses, and of each.
const MAC_LEN: usize = 6;
/// The longest frame there can be, in bytes.
const FRAME_MAX: usize = 1 << 16;

/// What a naive forwarder joins.
#[derive(Clone, Debug)]
pub struct Forwarder {
    /// This node's address.
    pub local: Ipv4Addr,
    /// The other node's.
    pub remote: Ipv4Addr,
    /// The VNI, 1 to 16,777,215.
    pub vni: u32,
    /// MTU of its pods in bytes.
    pub mtu: u16,
    /// Its pods.
    pub pods: Vec<PodPort>,
}

/// A pod of a naive forwarder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// The name of its namespace.
    pub netns: String,
    /// Its address.
    pub address: Ipv4Net,
}

impl FromStr for PodPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(netns, address)| Some((netns, address.parse().ok()?)));
        let (netns, address) = parts.ok_or_else(|| format!("`{text}` is no NETNS=ADDRESS/LENGTH"))?;
        Ok(Self { netns: netns.to_owned(), address })
    }
}

/// Forwards between pods and the other node until standard input ends.
///
/// # Errors
/// What the kernel refuses.
pub fn forward(what: &Forwarder) -> Result<(), BenchError> {
    thread::spawn(|| {
        // Whoever started this holds the other end.
        let _ = std::io::stdin().read(&mut [0; 1]);
        std::process::exit(0);
    });
    let mut taps = Vec::new();
    for pod in &what.pods {
        let netns = Netns::open(&pod.netns)?;
        let tap = netns.run(|| open_plain_tap(INTERFACE))?.map_err(file("make a TAP by", "/dev/net/tun"))?;
        let mac = netns.links(|links| {
            links.set_mtu(INTERFACE, what.mtu.into())?;
            links.set_up(INTERFACE)?;
            links.add_address(INTERFACE, IpNet::from(pod.address))?;
            Ok(links.get(INTERFACE)?.and_then(|link| link.mac))
        })?;
        taps.push(Tap { file: tap, mac: mac.map_or([0; MAC_LEN], |mac| mac.0) });
    }
    let tunnel = UdpSocket::bind((what.local, VXLAN_PORT)).map_err(socket("bind the tunnel's port"))?;
    tunnel.set_nonblocking(true).map_err(socket("change the tunnel's socket"))?;
    tunnel.connect((what.remote, VXLAN_PORT)).map_err(socket("connect the tunnel's socket"))?;
    run(&taps, &tunnel, what.vni)
}

struct Tap {
    file: File,
    mac: [u8; MAC_LEN],
}

fn run(taps: &[Tap], tunnel: &UdpSocket, vni: u32) -> Result<(), BenchError> {
    let [_, high, middle, low] = vni.to_be_bytes();
    // Header and frame lie in one buffer, so a frame is neither gathered nor copied.
    let mut buffer = vec![0; VXLAN_LEN + FRAME_MAX];
    loop {
        let mut fds: Vec<_> = taps.iter().map(|tap| PollFd::new(&tap.file, PollFlags::IN)).collect();
        fds.push(PollFd::new(tunnel, PollFlags::IN));
        poll(&mut fds, None).map_err(|error| socket("wait for frames")(error.into()))?;
        let mut busy = true;
        while busy {
            busy = false;
            for (index, tap) in taps.iter().enumerate() {
                let Ok(length) = (&tap.file).read(&mut buffer[VXLAN_LEN..]) else { continue };
                busy = true;
                buffer[..VXLAN_LEN].copy_from_slice(&[VXLAN_FLAG_VNI, 0, 0, 0, high, middle, low, 0]);
                if !deliver(taps, Some(index), &buffer[VXLAN_LEN..VXLAN_LEN + length]) {
                    // What the kernel has no room for is lost, as on any wire.
                    let _ = tunnel.send(&buffer[..VXLAN_LEN + length]);
                }
            }
            match tunnel.recv(&mut buffer) {
                Ok(length) if length > VXLAN_LEN => {
                    busy = true;
                    if buffer[4..7] == [high, middle, low] {
                        deliver(taps, None, &buffer[VXLAN_LEN..length]);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Refusals of earlier datagrams, and what is too short.
                _ => busy = true,
            }
        }
    }
}

/// Writes a frame to the pods that it is for. Whether it was for one of them alone.
fn deliver(taps: &[Tap], from: Option<usize>, frame: &[u8]) -> bool {
    let Some(target) = frame.first_chunk::<MAC_LEN>() else { return true };
    let to_group = target[0] & 1 == 1;
    for (index, tap) in taps.iter().enumerate() {
        if Some(index) != from && (to_group || tap.mac == *target) {
            let _ = (&tap.file).write(frame);
            if !to_group {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_a_namespace_and_an_address() {
        let pod: PodPort = "weft-bench.1.a=10.244.0.1/24".parse().unwrap();
        assert_eq!((pod.netns.as_str(), pod.address.to_string().as_str()), ("weft-bench.1.a", "10.244.0.1/24"));
        assert!("a".parse::<PodPort>().unwrap_err().contains("NETNS=ADDRESS"));
    }
}
