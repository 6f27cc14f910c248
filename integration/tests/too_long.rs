//! What pods send that is longer than the path or the receiving port: cut where DF allows it, answered where not.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::net::{SocketAddr, TcpListener, TcpStream};

use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};
use weft_bridge::DropReason;
use weft_integration::{
    AgentConfig, AgentNode, Capture, ETHERNET_LEN, Encapsulation, Family, Host, MIB, Overlay, Site, eventually,
    exchange_fragmentable, site, stream,
};

/// A pod on each of two nodes, with a link between that is narrower than theirs, and whose MTU the agents know already.
struct Narrow {
    pods: [Host; 2],
    agents: [AgentNode; 2],
    /// Longest packet of a pod on the path, in bytes.
    fits: [u16; 2],
}

impl Narrow {
    fn new(site: &Site, mtu: u16, clamp_mss: bool) -> Self {
        let (switch, nodes) = site.switched::<2>();
        switch.ip(&format!("link set port2 mtu {mtu}"));
        let pods = ["a", "b"].map(|name| site.host(name));
        let agents = [0, 1].map(|own: usize| {
            let mut config = AgentConfig::new(site, &nodes[own], &[Family::Ipv4]).vni(7);
            config.file.vnis.last_mut().unwrap().clamp_mss = clamp_mss;
            let peer = nodes[1 - own].address(Family::Ipv4);
            config.peer(peer, Encapsulation::Vxlan, &[7]).port(&pods[own], 7, &Overlay::NETWORKS[own]).start()
        });
        let fits = agents.each_ref().map(|agent| {
            eventually("the path is found", || {
                let row = agent.vteps().remove(0);
                // A veth takes four bytes more than its MTU, for a VLAN tag.
                let found = row.path == "up" && row.path_mtu.is_some_and(|found| (mtu..=mtu + 4).contains(&found));
                if found { Ok(row.pod_mtu) } else { Err(format!("{row:?}")) }
            })
        });
        Self { pods, agents, fits }
    }
}

/// Keeps the IPv4 fragments that reach a pod.
fn fragments_at(pod: &Host) -> Capture {
    Capture::start_where(pod, "eth0", |frame| match (&frame[12..ETHERNET_LEN], &frame[ETHERNET_LEN..]) {
        ([0x08, 0x00], [_, _, _, _, _, _, flags, offset, ..]) => flags & 0x3f != 0 || *offset != 0,
        _ => false,
    })
}

/// Sends what may be fragmented from one pod to the other, all of which has to arrive, and in fragments that fit.
fn datagrams_and_streams_arrive_cut(from: &Host, to: &Host, address: &str, fits: u16) {
    let assert_cut = |capture: Capture| {
        let fragments = capture.stop();
        assert!(!fragments.is_empty(), "nothing was cut");
        let longest = fragments.iter().map(Vec::len).max().unwrap();
        assert!(longest <= ETHERNET_LEN + usize::from(fits), "a fragment of {longest} bytes");
    };
    for group in [1, 20] {
        let capture = fragments_at(to);
        exchange_fragmentable(from, to, address, 1400, group, 400);
        assert_cut(capture);
    }
    // TCP whose sender does without path MTU discovery.
    from.set("ipv4/ip_no_pmtu_disc", "1");
    let capture = fragments_at(to);
    stream(from, to, address, 4 * MIB);
    assert_cut(capture);
    from.set("ipv4/ip_no_pmtu_disc", "0");
}

#[test]
fn superframes_without_df_cross_a_narrow_path_in_fragments() {
    let site = site!("ip");
    let narrow = Narrow::new(&site, 1380, false);
    let [a, b] = &narrow.pods;
    datagrams_and_streams_arrive_cut(a, b, Overlay::IPV4[1], narrow.fits[0]);
    for agent in narrow.agents {
        assert_eq!(agent.dropped(), []);
        agent.finish();
    }
}

/// Two pods of one node, of which the second has the narrower device.
#[test]
fn ports_of_unequal_mtu_on_one_node() {
    const NARROW: u16 = 1300;
    let site = site!("ip", "ping");
    let [node] = site.nodes();
    let [a, b] = ["a", "b"].map(|name| site.host(name));
    let agent = AgentConfig::new(&site, &node, &[Family::Ipv4])
        .vni(7)
        .port(&a, 7, &Overlay::NETWORKS[0])
        .port(&b, 7, &Overlay::NETWORKS[1])
        .with_mtu(NARROW)
        .start();
    // With a segment size of its own: the other would announce one that fits.
    a.ip("route add 10.0.0.2/32 dev eth0 mtu lock 1450");
    b.ip("route add 10.0.0.1/32 dev eth0 advmss 1410");
    datagrams_and_streams_arrive_cut(&a, &b, Overlay::IPV4[1], NARROW);
    assert_eq!(agent.dropped(), []);
    a.ip("route delete 10.0.0.2/32 dev eth0");
    for (family, address) in [("-4", Overlay::IPV4[1]), ("-6", Overlay::IPV6[1])] {
        let _ = a.try_run(&["ping", family, "-M", "do", "-c", "2", "-i", "0.2", "-W", "1", "-s", "1380", address]);
        let route = a.ip(&format!("route get {address}"));
        assert!(route.contains(&format!("mtu {NARROW}")), "{route}");
        stream(&a, &b, address, 4 * MIB);
    }
    assert!(agent.dropped_as(DropReason::ExceedsPortMtu) >= 2);
    agent.finish();
}

#[test]
fn ipv6_over_a_path_too_narrow_for_it_is_refused_by_name() {
    let site = site!("ip", "ping");
    let narrow = Narrow::new(&site, 1300, false);
    let [a, b] = &narrow.pods;
    let ping = a.try_run(&["ping", "-M", "do", "-c", "1", "-W", "1", "-s", "1252", Overlay::IPV6[1]]);
    assert!(!ping.status.success(), "{}", ping.stdout);
    assert!(narrow.agents[0].dropped_as(DropReason::BelowIpv6Minimum) > 0);
    let route = a.ip(&format!("route get {}", Overlay::IPV6[1]));
    assert!(!route.contains("mtu"), "told what no sender of IPv6 may believe: {route}");
    stream(a, b, Overlay::IPV4[1], MIB);
    narrow.agents.into_iter().for_each(AgentNode::finish);
}

/// The segment size announced in the SYNs that reach a pod.
fn announced(syns: &[Vec<u8>]) -> Vec<u16> {
    let size = |frame: &Vec<u8>| {
        let Some(TransportSlice::Tcp(tcp)) = SlicedPacket::from_ethernet(frame).unwrap().transport else {
            panic!("{frame:02x?}")
        };
        let size = tcp.options_iterator().flatten().find_map(|option| match option {
            TcpOptionElement::MaximumSegmentSize(size) => Some(size),
            _ => None,
        });
        size.unwrap()
    };
    syns.iter().map(size).collect()
}

fn is_syn(frame: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ethernet(frame);
    sliced.is_ok_and(|packet| matches!(packet.transport, Some(TransportSlice::Tcp(tcp)) if tcp.syn()))
}

#[test]
fn syns_announce_what_the_tunnel_carries_where_that_is_asked_for() {
    for clamp_mss in [true, false] {
        let site = site!("ip");
        let narrow = Narrow::new(&site, 1380, clamp_mss);
        let [a, b] = &narrow.pods;
        let carries = if clamp_mss { narrow.fits.into_iter().min().unwrap() } else { narrow.agents[0].port("a").mtu };
        for (address, headers) in [(Overlay::IPV4[1], 40), (Overlay::IPV6[1], 60)] {
            // Both the SYN and its answer.
            let mut captures = [a, b].map(|pod| Capture::start_where(pod, "eth0", is_syn));
            let listener = b.netns().run(|| TcpListener::bind(SocketAddr::new(address.parse().unwrap(), 0)));
            let listener = listener.unwrap().unwrap();
            let connection = a.netns().run(|| TcpStream::connect(listener.local_addr().unwrap())).unwrap();
            for capture in &mut captures {
                let syns = capture.wait_for(1, |_| true);
                assert_eq!(announced(&syns)[0], carries - headers, "{address}, clamp_mss = {clamp_mss}");
            }
            drop(connection);
            stream(a, b, address, MIB);
        }
        narrow.agents.into_iter().for_each(AgentNode::finish);
    }
}
