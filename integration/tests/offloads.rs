//! Every level of offload off in turn: traffic stays right, and it is told why a level is off.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use weft_api::{Client, OffloadRow, Query, Reply};
use weft_control::config::file::Switch;
use weft_integration::{
    AgentConfig, AgentNode, Child, Encapsulation, Family, Host, MIB, Node, Overlay, Site, UnderlayKind, eventually,
    exchange, exchange_superframes, ping_all, send_superframe, site, stream, weft,
};
use weft_switch::levels::{Level, Levels};
use weft_switch::port::{Tap, TapOffloads};
use weft_switch::self_test::{self, Segmentation};
use weft_switch::underlay::UplinkDevice;

/// What is switched off, and which levels are off then.
const CASES: [(&[Level], &[&str]); 10] = [
    (&[], &[]),
    (&[Level::Checksum], &["checksum", "tcp4", "tcp6", "udp4", "udp6"]),
    (&[Level::Tcp4], &["tcp4"]),
    (&[Level::Tcp6], &["tcp6"]),
    (&[Level::Udp4], &["udp4", "udp6"]),
    (&[Level::Udp6], &["udp4", "udp6"]),
    (&[Level::Uplink], &["uplink"]),
    (&[Level::Segment, Level::Uplink], &["segment", "uplink"]),
    (&[Level::Gro, Level::Uplink], &["gro", "uplink"]),
    (&Level::ALL, &["checksum", "tcp4", "tcp6", "udp4", "udp6", "segment", "gro", "uplink"]),
];
/// What one system call has to carry for a plain group, in packets on the average: far below what it does.
const PACKETS_A_CALL: u64 = 4;
/// Bytes of each datagram, datagrams in a superframe, datagrams in all.
const DATAGRAMS: (usize, usize, usize) = (1200, 40, 400);

/// Two pods on the first node and one on the second.
struct Lab {
    nodes: [Node; 2],
    pods: [Host; 3],
}

const NEIGHBOUR: [&str; 2] = ["10.0.0.3", "fd00::3"];

impl Lab {
    fn new(site: &Site) -> Self {
        Self { nodes: site.pair(), pods: ["a", "b", "c"].map(|name| site.host(name)) }
    }

    /// Agents, of which those of `switched` have these levels switched off.
    fn start(&self, site: &Site, levels: &[Level], switched: [bool; 2]) -> [AgentNode; 2] {
        [0, 1].map(|own| {
            let mut config = AgentConfig::new(site, &self.nodes[own], &[Family::Ipv4])
                .underlay(UnderlayKind::Auto)
                .vni(Overlay::VNI)
                .peer(self.nodes[1 - own].address(Family::Ipv4), Encapsulation::Vxlan, &[Overlay::VNI])
                .port(&self.pods[own], Overlay::VNI, &Overlay::NETWORKS[own])
                .without_probes();
            if own == 0 {
                config = config.port(&self.pods[2], Overlay::VNI, &["10.0.0.3/24", "fd00::3/64"]);
            }
            for level in levels.iter().filter(|_| switched[own]) {
                *config.file.offloads.switch(*level) = Switch::Off;
            }
            config.start()
        })
    }

    /// Streams and datagrams of both families in both directions, across and within a node.
    fn exercise(&self) {
        let [a, b, c] = &self.pods;
        let (size, group, count) = DATAGRAMS;
        for family in [0, 1] {
            let own = [Overlay::IPV4, Overlay::IPV6][family];
            for (from, to, address) in [(a, b, own[1]), (b, a, own[0]), (a, c, NEIGHBOUR[family]), (c, a, own[0])] {
                stream(from, to, address, 2 * MIB);
                exchange(from, to, address, 100, 50);
                exchange_superframes(from, to, address, size, group, count);
            }
        }
    }
}

fn off(rows: &[OffloadRow]) -> Vec<&str> {
    rows.iter().filter(|row| !row.used).map(|row| row.level.as_str()).collect()
}

fn row<'a>(rows: &'a [OffloadRow], level: &str) -> &'a OffloadRow {
    rows.iter().find(|row| row.level == level).unwrap()
}

#[test]
fn traffic_is_right_with_each_level_off() {
    let site = site!();
    let lab = Lab::new(&site);
    for (levels, expected) in CASES {
        // The other node has them: what one sends whole the other has to take, and the reverse.
        for switched in [[true, false], [false, true]] {
            let agents = lab.start(&site, levels, switched);
            for (agent, switched) in agents.iter().zip(switched) {
                let rows = agent.status().offloads;
                let expected = if switched { expected } else { &[] };
                assert_eq!(off(&rows), expected, "{rows:?}");
                for level in levels.iter().filter(|_| switched) {
                    let reason = &row(&rows, level.name()).reason;
                    let said = [format!("switched off by `offloads.{level}`"), "cannot be had without".to_owned()];
                    assert!(said.iter().any(|said| reason.starts_with(said)), "{level}: {reason}");
                }
                for row in rows.iter().filter(|row| row.used) {
                    assert_eq!(row.reason, "passed its self-test", "{}", row.level);
                }
            }
            lab.exercise();
            agents.iter().for_each(|agent| assert_eq!(agent.dropped(), [], "{levels:?} off"));
            agents.into_iter().for_each(AgentNode::finish);
            if levels.is_empty() {
                break;
            }
        }
    }
}

#[test]
fn a_pods_device_has_what_is_left_on() {
    let site = site!("ethtool");
    let lab = Lab::new(&site);
    let features = |pod: &Host| {
        let said = pod.ethtool("-k eth0");
        let has = |name: &str| said.lines().any(|line| line.trim().starts_with(&format!("{name}: on")));
        ["tx-checksumming", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation"].map(has)
    };
    for (levels, expected, names) in [
        (&[][..], [true; 4], "checksum tcp4 tcp6 udp4 udp6"),
        (&[Level::Checksum], [false; 4], ""),
        (&[Level::Tcp4], [true, false, true, true], "checksum tcp6 udp4 udp6"),
        (&[Level::Udp6], [true, true, true, false], "checksum tcp4 tcp6"),
    ] {
        // The device stays from start to start, with what the last agent asked of it.
        let agents = lab.start(&site, levels, [true, false]);
        assert_eq!(features(&lab.pods[0]), expected, "{levels:?} off");
        assert_eq!(agents[0].port("a").offloads.join(" "), names);
        agents.into_iter().for_each(AgentNode::finish);
    }
}

/// Without UDP_SEGMENT and UDP_GRO every packet is walked alone by the stack, but many share a system call.
#[test]
fn packets_share_system_calls_without_offload() {
    let site = site!();
    let lab = Lab::new(&site);
    let agents = lab.start(&site, &[Level::Segment, Level::Gro, Level::Uplink], [true; 2]);
    let [a, b, _] = &lab.pods;
    ping_all(a, Overlay::IPV4[1]);
    let (size, group, count) = DATAGRAMS;
    let counts = |agent: &AgentNode, names: [&str; 2]| names.map(|name| agent.forwarded(name));
    let names = ["underlay_datagrams_out", "underlay_sends"];
    let before = counts(&agents[0], names);
    exchange_superframes(a, b, Overlay::IPV4[1], size, group, count);
    agents.iter().for_each(AgentNode::assert_laws);
    let after = counts(&agents[0], names);
    let [packets, calls] = [0, 1].map(|place| after[place] - before[place]);
    assert!(packets >= count as u64 && calls * PACKETS_A_CALL <= packets, "{packets} packets in {calls} calls");
    // One burst that waits for the receiver comes in few calls, too.
    let names = ["underlay_datagrams_in", "underlay_receives"];
    let before = counts(&agents[1], names);
    let payload = vec![7; size * group];
    agents[1].frozen(|| {
        let own = Overlay::IPV4.map(|address| address.parse().unwrap());
        send_superframe(a, (own[0], own[1]), size, &payload);
        let sent = agents[0].forwarded("underlay_datagrams_out");
        eventually("the burst leaves", || {
            let now = agents[0].forwarded("underlay_datagrams_out");
            if now >= after[0] + group as u64 { Ok(()) } else { Err(format!("{sent} to {now}")) }
        });
    });
    agents[1].wait_for_frames(before[0] + group as u64);
    let after = counts(&agents[1], names);
    let [packets, calls] = [0, 1].map(|place| after[place] - before[place]);
    assert!(packets >= group as u64 && calls * PACKETS_A_CALL <= packets, "{packets} packets in {calls} calls");
    agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn a_test_that_hears_nothing_is_a_reason() {
    let site = site!("ip");
    let [node, _] = site.pair();
    node.ip("link set lo down");
    let agent = AgentConfig::new(&site, &node, &[Family::Ipv4, Family::Ipv6]).underlay(UnderlayKind::Socket).start();
    let status = agent.status();
    assert_eq!(off(&status.offloads), ["segment", "gro", "uplink"], "{status:?}");
    for level in ["segment", "gro"] {
        let reason = &row(&status.offloads, level).reason;
        assert!(reason.contains("192.0.2.1 to itself did not arrive: does a firewall drop it"), "{reason}");
    }
    assert_eq!(status.underlay.level, "socket");
    assert!(agent.log().contains("not used: self-test: a datagram"), "{}", agent.log());
    agent.finish();
}

#[test]
fn a_test_that_cannot_run_is_a_reason() {
    let site = site!("unshare", "mount");
    let [node, _] = site.pair();
    let config = AgentConfig::new(&site, &node, &[Family::Ipv4]);
    let (file, run_dir) = (config.write(), site.directory().join(node.name()));
    let program = weft();
    let hidden = "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"";
    let words = ["unshare", "--mount", "sh", "-c", hidden, program.to_str().unwrap(), "agent", "--config"];
    let mut agent = Child::spawn(node.command(&[&words[..], &[file.to_str().unwrap()]].concat()));
    let status = eventually("the agent answers", || {
        match Client::connect(&run_dir).and_then(|mut client| client.ask(Query::Status)) {
            Ok(Reply::Status(status)) => Ok(*status),
            other => Err(format!("{other:?}")),
        }
    });
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    assert_eq!(off(&status.offloads), ["checksum", "tcp4", "tcp6", "udp4", "udp6", "uplink"], "{status:?}");
    let reason = &row(&status.offloads, "tcp4").reason;
    assert!(reason.contains("cannot be had without checksum"), "{reason}");
    let reason = &row(&status.offloads, "checksum").reason;
    assert!(
        reason.contains("there is no device to test it on") && reason.contains("making a TAP: No such file"),
        "{reason}"
    );
    let reason = status.underlay.reason.unwrap();
    let told = "no uplink: self-test: there is no device to test it on: making the uplink's TAP: No such file";
    assert!(reason.contains(told) && status.underlay.level == "socket+offload", "{reason}");
}

/// Has the kernel answer each worker's first system call of this kind with an error, until the test ends it.
fn refuse_first(call: &str, pid: u32, error: &str) -> Child {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let is_worker = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|c| c.starts_with("worker-"));
    let workers: Vec<_> = tasks.filter(is_worker).collect();
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:error={error}:when=1")]);
    for worker in &workers {
        strace.arg("-p").arg(worker.file_name().unwrap());
    }
    let strace = Child::spawn(strace);
    eventually("strace holds every worker", || {
        let tracer = format!("TracerPid:\t{}\n", strace.pid());
        let is_held = |task: &PathBuf| std::fs::read_to_string(task.join("status")).unwrap().contains(&tracer);
        if workers.iter().all(is_held) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    strace
}

/// Why an agent left a level for such a refusal. `send` has the worker make that call, for what the level is for.
fn left_for(agent: &AgentNode, level: Level, call: &str, error: &str, send: impl Fn()) -> String {
    eventually("the level is left", || {
        // The first call may be for something else that a pod's kernel has to say; the next ones are left alone.
        let mut strace = refuse_first(call, agent.pid(), error);
        send();
        strace.signal(Signal::TERM);
        strace.wait();
        let rows = agent.status().offloads;
        let row = row(&rows, level.name());
        if row.used { Err(format!("{rows:?}")) } else { Ok(row.reason.clone()) }
    })
}

/// What a device or route that lost its offloads makes the kernel say (`udp_send_skb`, net/ipv4/udp.c).
#[test]
fn segmentation_that_fails_in_use_is_left_and_no_packet_is_lost() {
    let site = site!("strace");
    let lab = Lab::new(&site);
    let [a, b, _] = &lab.pods;
    for (error, said) in [("EIO", "Input/output error"), ("EINVAL", "Invalid argument")] {
        let agents = lab.start(&site, &[Level::Uplink], [true; 2]);
        ping_all(a, Overlay::IPV4[1]);
        let send = || exchange_superframes(a, b, Overlay::IPV4[1], 1200, 2, 2);
        let reason = left_for(&agents[0], Level::Segment, "sendmmsg", error, send);
        let told = format!("the kernel refused 2 packets as a group and took each alone: {said}");
        assert!(reason.starts_with("demoted") && reason.contains(&told), "{reason}");
        assert!(agents[0].log().contains("segmentation offload of the underlay is off from now on"));
        assert_eq!(off(&agents[1].status().offloads), ["uplink"], "the other node's kernel refused nothing");
        lab.exercise();
        agents.into_iter().for_each(AgentNode::finish);
    }
}

/// Within a node and across: what was read whole, and what the worker joined.
#[test]
fn a_ports_offload_that_fails_in_use_is_left_and_no_frame_is_lost() {
    let site = site!("strace");
    let lab = Lab::new(&site);
    let [a, b, c] = &lab.pods;
    for (place, to, address) in [(0, c, NEIGHBOUR[0]), (1, b, Overlay::IPV4[1])] {
        let agents = lab.start(&site, &[Level::Uplink], [true; 2]);
        ping_all(a, address);
        let send = || exchange_superframes(a, to, address, 1200, 2, 2);
        let reason = left_for(&agents[place], Level::Udp4, "writev", "EINVAL", send);
        let told = "the kernel refused a pod's frame as it was and took it finished: EINVAL";
        assert!(reason.starts_with("demoted") && reason.contains(told), "{reason}");
        assert!(agents[place].log().contains("it is off from now on"));
        assert_eq!(off(&agents[place].status().offloads), ["udp4", "udp6", "uplink"]);
        assert_eq!(off(&agents[1 - place].status().offloads), ["uplink"], "the other node's kernel refused nothing");
        lab.exercise();
        agents.into_iter().for_each(AgentNode::finish);
    }
}

/// A host with the device that the self-test asks for.
fn scratch(site: &Site, name: &str) -> (Host, Tap) {
    let host = site.host(name);
    let tap = host.netns().run(|| Tap::open(self_test::DEVICE, TapOffloads::NONE)).unwrap().unwrap();
    let prepare = |links: &mut weft_netns::Links| {
        links.set_mac(self_test::DEVICE, self_test::MAC)?;
        links.set_arp(self_test::DEVICE, false)?;
        links.set_up(self_test::DEVICE)?;
        let mut nets = self_test::addresses().map(|(address, prefix)| format!("{address}/{prefix}").parse().unwrap());
        nets.try_for_each(|net| links.add_address(self_test::DEVICE, net))
    };
    host.netns().links(prepare).unwrap();
    (host, tap)
}

/// What the test says of a kernel that does this to packets on their way, or nothing.
fn told(site: &Site, name: &str, rule: &str) -> Vec<(&'static str, String)> {
    let (host, mut tap) = scratch(site, name);
    if !rule.is_empty() {
        host.run(&["nft", "add table inet t; add chain inet t c { type filter hook output priority 0; }"]);
        host.run(&["nft", "add chain inet t i { type filter hook input priority 0; }"]);
        host.run(&["nft", &format!("add rule inet t {rule}")]);
    }
    let levels = Levels::default();
    let segmentation = host.netns().run(|| self_test::ports(&levels, &mut tap)).unwrap();
    assert_eq!(segmentation, Segmentation::AllDevices);
    Level::ALL.into_iter().filter_map(|level| Some((level.name(), levels.off(level)?.to_string()))).collect()
}

/// "An offload bug gave 2.2 instead of 400 Mbit/s" (tailscale#21335): such a bug has to be found before it is met.
#[test]
fn an_offload_bug_is_found_before_it_is_met() {
    let site = site!("nft");
    assert_eq!(told(&site, "right", ""), []);
    let seen = told(&site, "byte", "c ip version 4 udp length > 2000 @th,128,8 set 0x01");
    let byte = "self-test: a superframe from a socket: byte 8 of 4333 differs";
    let plain = "self-test: a device without offloads: a datagram of a group: byte 8 of 1000 differs";
    let udp6 = "cannot be had without udp4";
    assert_eq!(seen, [("udp4", byte), ("udp6", udp6), ("segment", plain)].map(|(level, why)| (level, why.to_owned())));
    let seen = told(&site, "lost", "i ip6 version 6 meta length > 2000 meta l4proto tcp drop");
    let lost = "self-test: receiving a superframe: Resource temporarily unavailable (os error 11)";
    assert_eq!(seen, [("tcp6", lost.to_owned())]);
    let seen = told(&site, "checksum", "c ip version 4 udp length < 2000 drop");
    assert_eq!(seen[0], ("checksum", "self-test: sending a datagram: Operation not permitted (os error 1)".to_owned()));
    assert_eq!(seen.len(), 5, "{seen:?}");
}

/// What the test says of an uplink whose devices were prepared so, or nothing.
fn told_of_uplink(site: &Site, name: &str, prepare: impl FnOnce(&Host, [&str; 2])) -> Option<String> {
    let host = site.host(name);
    let make = || host.netns().run(UplinkDevice::make).unwrap().unwrap();
    let (mut uplink, mut nic) = (make(), make());
    let names = [uplink.name(), nic.name()].map(str::to_owned);
    let [one, other] = names.each_ref().map(String::as_str);
    let join = |links: &mut weft_netns::Links| {
        [one, other].iter().try_for_each(|name| links.set_up(name))?;
        links.redirect_all(one, other)?;
        links.redirect_udp(other, &self_test::tunnel_ends(), one)
    };
    host.netns().links(join).unwrap();
    prepare(&host, [one, other]);
    let levels = Levels::default();
    host.netns().run(|| self_test::uplink(&levels, &mut uplink, &mut nic)).unwrap();
    assert_eq!(levels.is_proven(Level::Uplink), levels.uses(Level::Uplink));
    levels.off(Level::Uplink).map(ToString::to_string)
}

/// The same for the uplink: packets that are lost on the way, of one family in one direction, and superframes that are cut.
#[test]
fn a_bug_on_the_way_of_the_uplink_is_found_before_it_is_met() {
    let site = site!("ethtool", "tc");
    assert_eq!(told_of_uplink(&site, "right", |_, _| ()), None);
    let seen = told_of_uplink(&site, "lost", |host, [_, nic]| {
        host.tc(&format!("filter add dev {nic} ingress prio 1 protocol ipv6 u32 match u32 0 0 at 0 flowid 1:1"));
    });
    let lost = "self-test: a TCP superframe inside a tunnel did not arrive within 200 ms";
    assert_eq!(seen.as_deref(), Some(lost));
    let seen = told_of_uplink(&site, "cut", |host, [_, nic]| {
        host.ethtool(&format!("-K {nic} tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off"));
    });
    let cut = "self-test: a TCP superframe inside a tunnel is 1104 bytes long, and should be 4437 bytes long";
    assert_eq!(seen.as_deref(), Some(cut));
}

#[test]
fn a_device_that_fills_no_checksums_is_told_by_its_name() {
    let site = site!();
    let (host, _tap) = scratch(&site, "plain");
    for (segmentation, device, expected) in [
        (Segmentation::ChecksummingDevices, "lo", None),
        (Segmentation::AllDevices, self_test::DEVICE, None),
        (Segmentation::ChecksummingDevices, "gone", None),
        (Segmentation::ChecksummingDevices, self_test::DEVICE, Some("self-test: scratch0 fills no checksums, and")),
    ] {
        let levels = Levels::default();
        let devices = ["lo", device].map(str::to_owned);
        host.netns().run(|| self_test::devices(&levels, segmentation, &devices)).unwrap();
        let seen = levels.off(Level::Segment).map(ToString::to_string);
        let told = seen.as_deref().zip(expected).is_some_and(|(seen, expected)| seen.starts_with(expected));
        assert!(told || seen.is_none() && expected.is_none(), "{device}: {seen:?}");
    }
}
