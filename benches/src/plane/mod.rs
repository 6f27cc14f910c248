//! What joins the pods.

mod kernel;
mod naive;
mod open_vswitch;
mod weft;

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_api::{Client, Query, Reply};
use weft_encap::Encapsulation;

use crate::error::socket;
use crate::load::Side;
use crate::stage::{INTERFACE, Stage};
use crate::{BenchError, load};

/// The virtual network of every plane that has tunnels.
const VNI: u32 = 5000;
/// Bytes of outer Ethernet, IPv4, UDP and VXLAN (RFC 7348 section 5) or Geneve (RFC 8926 section 3.4) headers, of
/// which the outer Ethernet header does not count towards the cable's MTU, but the inner one does.
const OVERHEAD: u16 = 50;
/// How long pods may take to reach each other after a plane was set up.
const REACHED_WITHIN: Duration = Duration::from_secs(6);
/// How soon a datagram that was not answered is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// What TCP has to carry, and how soon, for a plane to count as working: a superframe path that is broken carries
/// a stream at the pace of its retransmissions, or never.
const TCP_BYTES: usize = 4 << 20;
const TCP_WITHIN: Duration = Duration::from_secs(5);

/// One way to join pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// A Linux bridge on each node with the cable as a port: no tunnel. What is left when an overlay costs nothing.
    Bridge,
    /// A Linux bridge on each node and the kernel's VXLAN device.
    KernelVxlan,
    /// Open vSwitch with its userspace datapath.
    OpenVswitch {
        /// The tunnel.
        encapsulation: Encapsulation,
        /// Its setting `userspace-tso-enable`. Without it, pods' own offloads have to be off.
        tso: bool,
    },
    /// A process that reads one frame and sends one datagram, without offloads.
    Naive,
    /// An agent of Weft's on each node.
    Weft {
        /// How tunnel packets travel.
        underlay: WeftUnderlay,
        /// The tunnel.
        encapsulation: Encapsulation,
    },
    /// As [`Self::WEFT`], by another build of the program: its index among them, from 0.
    OtherWeft(u8),
}

/// How Weft's tunnel packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeftUnderlay {
    /// As Weft chooses by itself.
    Auto,
    /// UDP sockets without UDP_SEGMENT and UDP_GRO.
    PlainSocket,
    /// UDP sockets with both.
    Socket,
    /// A TAP that is joined to the NIC.
    Uplink,
}

/// What Weft's workers did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effort {
    /// Frames that they took in.
    frames: u64,
    /// System calls that they made.
    calls: u64,
}

impl Effort {
    /// System calls for each frame since an earlier moment. None without frames, and once an agent started anew.
    pub(crate) fn calls_per_frame(self, earlier: Self) -> Option<f64> {
        let frames = self.frames.checked_sub(earlier.frames).filter(|frames| *frames > 0)?;
        Some(self.calls.checked_sub(earlier.calls)? as f64 / frames as f64)
    }
}

impl Plane {
    /// Weft as it comes: nothing set but its addresses.
    pub const WEFT: Self = Self::Weft { underlay: WeftUnderlay::Auto, encapsulation: Encapsulation::Vxlan };

    /// All of them, in the order of reports, but for other builds.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut planes = vec![Self::KernelVxlan, Self::Bridge];
        for tso in [false, true] {
            planes.extend(
                [Encapsulation::Vxlan, Encapsulation::Geneve]
                    .map(|encapsulation| Self::OpenVswitch { encapsulation, tso }),
            );
        }
        planes.extend([Self::Naive, Self::WEFT]);
        for underlay in [WeftUnderlay::PlainSocket, WeftUnderlay::Socket, WeftUnderlay::Uplink] {
            planes.extend(
                [Encapsulation::Vxlan, Encapsulation::Geneve]
                    .map(|encapsulation| Self::Weft { underlay, encapsulation }),
            );
        }
        planes
    }

    /// Its name, unique.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Bridge => "bridge".to_owned(),
            Self::KernelVxlan => KERNEL.to_owned(),
            Self::OpenVswitch { encapsulation, tso: false } => format!("ovs-{encapsulation}"),
            Self::OpenVswitch { encapsulation, tso: true } => format!("ovs-tso-{encapsulation}"),
            Self::Naive => "naive".to_owned(),
            Self::Weft { underlay: WeftUnderlay::Auto, .. } => "weft".to_owned(),
            Self::OtherWeft(index) => format!("weft-other-{}", index + 1),
            Self::Weft { underlay: WeftUnderlay::PlainSocket, encapsulation } => format!("weft-plain-{encapsulation}"),
            Self::Weft { underlay: WeftUnderlay::Socket, encapsulation } => format!("weft-socket-{encapsulation}"),
            Self::Weft { underlay: WeftUnderlay::Uplink, encapsulation } => format!("weft-uplink-{encapsulation}"),
        }
    }

    /// What it is, in a sentence.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Bridge => "Linux bridge and veth, the cable as a port: no overlay, so the limit of this machine.",
            Self::KernelVxlan => "Linux bridge, veth and the kernel's VXLAN device, bridge-nf-call-iptables off.",
            Self::OpenVswitch { tso: false, .. } => {
                "Open vSwitch, userspace datapath, veth; userspace-tso-enable off, so the pods' offloads are off too."
            }
            Self::OpenVswitch { tso: true, .. } => {
                "Open vSwitch, userspace datapath, veth; userspace-tso-enable on, the pods' offloads on."
            }
            Self::Naive => "One process a node: reads a frame from a TAP, sends a datagram, VXLAN; no offloads.",
            Self::Weft { underlay: WeftUnderlay::Auto, .. } => {
                "Weft as it comes, VXLAN: it chooses the underlay itself."
            }
            Self::OtherWeft(_) => "Weft as it comes, VXLAN, by another build: the program of --other.",
            Self::Weft { underlay: WeftUnderlay::PlainSocket, .. } => {
                "Weft over UDP sockets with offloads.segment and offloads.gro off: sendmmsg and recvmmsg."
            }
            Self::Weft { underlay: WeftUnderlay::Socket, .. } => {
                "Weft over UDP sockets with UDP_SEGMENT and UDP_GRO: underlay.kind = \"socket\"."
            }
            Self::Weft { underlay: WeftUnderlay::Uplink, .. } => {
                "Weft over a TAP joined to the NIC: underlay.kind = \"uplink\"."
            }
        }
    }

    /// Whether it is one of ours.
    #[must_use]
    pub const fn is_weft(self) -> bool {
        matches!(self, Self::Weft { .. } | Self::OtherWeft(_))
    }

    /// What Weft's workers did until now. None for other planes.
    pub(crate) fn effort(self, stage: &Stage) -> Option<Effort> {
        self.is_weft().then(|| weft::effort(stage)).flatten()
    }

    /// Joins the pods of a stage. `weft` is the program of the agents and of the naive forwarder.
    ///
    /// # Errors
    /// What is missing or refused; what was set up until then goes with the stage.
    pub fn set_up(self, stage: &Stage, weft: &Path) -> Result<(), BenchError> {
        match self {
            Self::Bridge => kernel::bridge(stage),
            Self::KernelVxlan => kernel::vxlan(stage),
            Self::OpenVswitch { encapsulation, tso } => open_vswitch::set_up(stage, encapsulation, tso),
            Self::Naive => naive::set_up(stage, weft),
            Self::Weft { underlay, encapsulation } => weft::set_up(stage, weft, underlay, encapsulation),
            Self::OtherWeft(_) => Self::WEFT.set_up(stage, weft),
        }
    }

    /// Waits until every pod reaches every other one it is measured with, by datagrams and by TCP; for Weft, until
    /// tunnel packets travel as they are meant to.
    ///
    /// # Errors
    /// [`BenchError::Late`].
    pub fn wait_until_joined(self, stage: &Stage) -> Result<(), BenchError> {
        let [a, b, c] = stage.pods().each_ref().map(|pod| Side::new(pod, stage.pinning()));
        for (client, server) in [(&a, &c), (&a, &b)] {
            reach(stage, client, server)?;
        }
        match self {
            Self::Weft { underlay, .. } => weft::wait_for(stage, underlay)?,
            Self::OtherWeft(_) => weft::wait_for(stage, WeftUnderlay::Auto)?,
            _ => {}
        }
        for (client, server) in [(&a, &c), (&a, &b)] {
            let late = || BenchError::Late {
                what: format!("pings get through, but not {} MiB of TCP", TCP_BYTES >> 20),
                bound: TCP_WITHIN,
                log: stage.logged(),
            };
            load::transfer(client, server, TCP_BYTES, TCP_WITHIN).map_err(|_| late())?;
        }
        Ok(())
    }
}

/// The plane that all others are compared with.
pub(crate) const KERNEL: &str = "kernel-vxlan";

/// Waits until a datagram comes back.
pub(crate) fn reach(stage: &Stage, client: &Side<'_>, server: &Side<'_>) -> Result<(), BenchError> {
    let deadline = Instant::now() + REACHED_WITHIN;
    // Agents and forwarders make the pods' devices in their own time.
    let open = |side: &Side<'_>| eventually(stage, "no device with the pod's address", || side.udp().ok());
    let (asking, answering) = (open(client)?, open(server)?);
    let target = (server.address, answering.local_addr().map_err(socket("look at a socket"))?.port());
    asking.set_read_timeout(Some(AGAIN_AFTER)).map_err(socket("set a timeout"))?;
    answering.set_read_timeout(Some(AGAIN_AFTER)).map_err(socket("set a timeout"))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| answer(&answering, &done));
        let mut reached = false;
        while !reached && Instant::now() < deadline {
            // Refused while ARP has no answer yet.
            let _ = asking.send_to(&[0], target);
            reached = asking.recv(&mut [0; 1]).is_ok();
        }
        done.store(true, Ordering::Relaxed);
        if reached {
            return Ok(());
        }
        let what = format!("no way from {} to {}", client.address, server.address);
        Err(BenchError::Late { what, bound: REACHED_WITHIN, log: stage.logged() })
    })
}

fn answer(socket: &UdpSocket, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut [0; 1]) {
            let _ = socket.send_to(&[0], from);
        }
    }
}

/// Gives a pod its device as one end of a veth pair, the other being `port` on its node. Both are up.
fn connect(stage: &Stage, index: usize, mtu: u16) -> Result<String, BenchError> {
    let (pod, port) = (&stage.pods()[index], format!("pod{index}"));
    stage.node(pod.node).links(|links| {
        links.add_veth(&port, INTERFACE, &pod.netns)?;
        links.set_mtu(&port, mtu.into())?;
        links.set_up(&port)
    })?;
    pod.netns.links(|links| {
        links.set_mtu(INTERFACE, mtu.into())?;
        links.set_up(INTERFACE)?;
        links.add_address(INTERFACE, IpNet::from(pod.address))
    })?;
    Ok(port)
}

/// Waits until `look` gives something.
fn eventually<T>(stage: &Stage, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, BenchError> {
    let deadline = Instant::now() + REACHED_WITHIN;
    // A timer on nothing: what is waited for here tells nobody when it happens.
    let (_nobody, timer) = std::sync::mpsc::channel::<()>();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(BenchError::Late { what: what.to_owned(), bound: REACHED_WITHIN, log: stage.logged() });
        }
        let _ = timer.recv_timeout(AGAIN_AFTER);
    }
}

/// What an agent says of itself.
fn ask(run_dir: &Path, query: Query) -> Option<Reply> {
    Client::connect(run_dir).ok()?.ask(query).ok()
}

/// A directory of its own for the processes of one node.
fn directory_of(stage: &Stage, node: usize) -> Result<std::path::PathBuf, BenchError> {
    let directory = stage.directory().join(format!("n{}", node + 1));
    fs::create_dir_all(&directory).map_err(crate::error::file("make", &directory))?;
    Ok(directory)
}

/// Bytes of memory that the processes of a stage hold: VmRSS of `/proc/PID/status`, of threads once.
pub(crate) fn resident_bytes(stage: &Stage) -> u64 {
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    stage.processes().into_iter().filter_map(of).sum::<u64>() << 10
}

/// The version of a program: the first line that it prints.
pub(crate) fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(str::to_owned)
}
