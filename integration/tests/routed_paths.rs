//! Path MTU over a router that says nothing of what it drops: TCP goes on while the path shrinks and grows.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weft_integration::{
    AgentConfig, AgentNode, Capture, ETHERNET_LEN, Encapsulation, Family, Host, MIB, Node, Overlay, Site, SteadyStream,
    eventually, passes, ping_all, site, stream, weft,
};

/// The MTU of every link to begin with.
const WIDEST: u16 = 9000;
/// Bytes a second: enough for superframes, and little for a machine that does other things too.
const RATE: u32 = 5_000_000;
/// How long a stream may stand still.
const LONGEST_STALL: Duration = Duration::from_secs(3);
/// How long the first pod remembers what it was told of a path, in seconds; ten minutes by itself. What follows the answer
/// takes less, and a pod that forgets earlier is told again.
const REMEMBERS: u8 = 15;
/// How long a wider path may go unnoticed.
const GROWS_WITHIN: Duration = Duration::from_secs(60);
const NO_OFFLOAD: &str = "tso off gso off gro off tx-udp-segmentation off";

/// What the nodes hand to the router.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nics {
    /// Superframes.
    Offload,
    /// Packets.
    Plain,
}

struct Lab {
    family: Family,
    router: Host,
    nodes: [Node; 2],
    /// `a` and `c` are on the first node, `b` is on the other.
    pods: [Host; 3],
    agents: [AgentNode; 2],
}

impl Lab {
    fn new(site: &Site, family: Family, nics: Nics) -> Self {
        let (router, nodes) = site.routed(WIDEST);
        for port in ["port1", "port2"] {
            router.ethtool(&format!("-K {port} {NO_OFFLOAD}"));
        }
        if nics == Nics::Plain {
            nodes.iter().for_each(|node| _ = node.ethtool(&format!("-K eth0 {NO_OFFLOAD}")));
        }
        let pods = ["a", "b", "c"].map(|name| site.host(name));
        let agent = |own: usize| {
            AgentConfig::new(site, &nodes[own], &[family])
                .vni(7)
                .peer(nodes[1 - own].address(family), Encapsulation::Vxlan, &[7])
                .port(&pods[own], 7, &Overlay::NETWORKS[own])
        };
        let expires = |ip: &str| std::fs::write(format!("/proc/sys/net/{ip}/route/mtu_expires"), REMEMBERS.to_string());
        pods[0].netns().run(|| ["ipv4", "ipv6"].into_iter().try_for_each(expires)).unwrap().unwrap();
        let agents = [agent(0).port(&pods[2], 7, &["10.0.0.3/24", "fd00::3/64"]).start(), agent(1).start()];
        Self { family, router, nodes, pods, agents }
    }

    /// The pods speak the family of their nodes.
    fn address(&self) -> &'static str {
        if self.family == Family::Ipv4 { Overlay::IPV4[1] } else { Overlay::IPV6[1] }
    }

    fn overhead(&self) -> u16 {
        if self.family == Family::Ipv4 { 50 } else { 70 }
    }

    /// Changes what the path carries, in both directions.
    fn set_path(&self, mtu: u16) {
        for port in ["port1", "port2"] {
            self.router.ip(&format!("link set {port} mtu {mtu}"));
        }
    }

    /// Checks that the path carries so much and not a byte more, in packets and in superframes.
    #[track_caller]
    fn assert_path(&self, mtu: u16) {
        let [one, two] = &self.nodes;
        let fits = usize::from(mtu) - if self.family == Family::Ipv4 { 28 } else { 48 };
        for (from, to) in [(one, two), (two, one)] {
            for group in [1, 4] {
                let through = |size| passes(from, to, to.address(self.family), size, group);
                assert!(through(fits), "{group} packets of {mtu} B do not pass");
                assert!(!through(fits + 1), "{group} packets longer than {mtu} B pass");
            }
        }
    }

    /// What the first pod takes the path to the other to carry, if it was told.
    fn told(&self) -> Option<u16> {
        let route = self.pods[0].ip(&format!("route get {}", self.address()));
        let mut words = route.split_ascii_whitespace().skip_while(|word| *word != "mtu");
        words.nth(1).map(|mtu| mtu.parse().unwrap())
    }

    /// The path MTU that the command shows at the first node.
    fn shown(&self) -> Option<u64> {
        let (program, run_dir) = (weft(), self.agents[0].run_dir().to_str().unwrap());
        let shown = self.nodes[0].run(&[program.to_str().unwrap(), "show", "vteps", "--json", "--run-dir", run_dir]);
        let rows: serde_json::Value = serde_json::from_str(&shown).unwrap();
        rows[0]["path_mtu"].as_u64()
    }

    #[track_caller]
    fn path_becomes(&self, mtu: u16) {
        eventually(&format!("the path MTU becomes {mtu}"), || {
            let row = self.agents[0].vteps().remove(0);
            if (row.path.as_str(), row.path_mtu) == ("up", Some(mtu)) { Ok(()) } else { Err(format!("{row:?}")) }
        });
    }
}

/// Whether an outer IP packet is a fragment.
fn is_fragment(frame: &[u8]) -> bool {
    match (&frame[12..ETHERNET_LEN], &frame[ETHERNET_LEN..]) {
        ([0x08, 0x00], [_, _, _, _, _, _, flags, offset, ..]) => flags & 0x3f != 0 || *offset != 0,
        ([0x86, 0xdd], [_, _, _, _, _, _, next_header, ..]) => *next_header == 44,
        _ => false,
    }
}

/// Keeps the fragments that reach the router from a node, and the length of the longest frame.
fn watch(router: &Host, port: &str) -> (Capture, Arc<AtomicUsize>) {
    let longest = Arc::new(AtomicUsize::new(0));
    let seen = longest.clone();
    let capture = Capture::start_where(router, port, move |frame| {
        seen.fetch_max(frame.len(), Ordering::Relaxed);
        is_fragment(frame)
    });
    (capture, longest)
}

fn follow(site: &Site, family: Family, nics: Nics, paths: &[u16]) {
    let lab = Lab::new(site, family, nics);
    let ([a, b, c], address) = (&lab.pods, lab.address());
    lab.path_becomes(WIDEST);
    let steady = SteadyStream::start(a, b, address, RATE);
    let flows_on = || {
        let before = steady.bytes();
        eventually("the stream flows", || {
            let came = steady.bytes() - before;
            if came >= MIB { Ok(()) } else { Err(format!("{came} bytes came")) }
        });
    };
    flows_on();
    steady.stall();
    let watched = ["port1", "port2"].map(|port| watch(&lab.router, port));

    let mut narrowest = WIDEST;
    for (before, mtu) in [WIDEST].iter().chain(paths).zip(paths) {
        lab.set_path(*mtu);
        let changed = Instant::now();
        if mtu > before {
            while lab.agents[0].vteps().remove(0).path_mtu != Some(*mtu) {
                assert!(changed.elapsed() < GROWS_WITHIN, "{:?}", lab.agents[0].vteps());
                std::thread::sleep(Duration::from_millis(50));
            }
        } else {
            lab.path_becomes(*mtu);
        }
        let noticed = changed.elapsed();
        assert_eq!(lab.shown(), Some(u64::from(*mtu)));
        lab.assert_path(*mtu);
        let fits = *mtu - lab.overhead();
        flows_on();
        if *mtu < narrowest {
            narrowest = *mtu;
            assert_eq!(lab.told(), Some(fits));
        } else {
            // A pod that was told of less goes on with that until it forgets; others use what there is.
            let fills_the_path = |pod: &Host| {
                let longest = (fits - if family == Family::Ipv4 { 28 } else { 48 }).to_string();
                let full = pod.try_run(&["ping", "-M", "do", "-c", "1", "-W", "5", "-s", &longest, address]);
                assert!(full.status.success(), "{}{}", full.stdout, full.stderr);
                stream(pod, b, address, MIB);
            };
            fills_the_path(c);
            // Then it tries what its device has, and is told of what there is now.
            eventually("the pod is told of the wider path", || match lab.told() {
                Some(told) if told == fits => Ok(()),
                other => Err(format!("{other:?}, and {fits} B fit")),
            });
            fills_the_path(a);
        }
        let stall = steady.stall();
        println!("{before} to {mtu}: noticed after {noticed:?}, the stream stood still for {stall:?} at most");
        assert!(stall < LONGEST_STALL, "from {before} to {mtu} the stream stood still for {stall:?}");
    }
    drop(steady);
    let longest = watched.map(|(capture, longest)| {
        let fragments = capture.stop();
        assert!(fragments.is_empty(), "{} outer fragments, such as {:02x?}", fragments.len(), fragments[0]);
        longest.load(Ordering::Relaxed)
    });
    // The data came by the first port, and over the other its acknowledgements.
    let packet = ETHERNET_LEN + usize::from(WIDEST);
    assert_eq!(longest[0] > packet, nics == Nics::Offload, "the longest frame has {} bytes", longest[0]);
    assert!(longest[1] > 0, "the capture saw nothing");
    ping_all(a, address);
    lab.agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn superframes_follow_an_ipv4_path() {
    follow(&site!("ip", "ping", "nft", "ethtool"), Family::Ipv4, Nics::Offload, &[1500, 1380, 1450, 1280]);
}

#[test]
fn packets_follow_an_ipv4_path() {
    follow(&site!("ip", "ping", "nft", "ethtool"), Family::Ipv4, Nics::Plain, &[1500, 1380, 1450, 1280]);
}

#[test]
fn superframes_follow_an_ipv6_path() {
    follow(&site!("ip", "ping", "nft", "ethtool"), Family::Ipv6, Nics::Offload, &[1500, 1380, 1450]);
}

#[test]
fn packets_follow_an_ipv6_path() {
    follow(&site!("ip", "ping", "nft", "ethtool"), Family::Ipv6, Nics::Plain, &[1500, 1380, 1450]);
}
