//! Packets that explain themselves: what is said beforehand, what is told live, and what a capture holds.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use rustix::io::write;
use weft_integration::{CommandLab, MacAddr, Requirement, eventually, test_name, udp_over_ipv4, unmet, vxlan, weft};
use weft_switch::PacketTap;
use weft_switch::trace::MAX_LISTENERS;
use weft_testbed::Lab;

const TOOLS: [Requirement; 3] = [Requirement::Root, Requirement::Tool("ip"), Requirement::Tool("ping")];
/// Bytes of IPv4 and UDP headers.
const HEADERS: usize = 28;
const ETHERNET_LEN: usize = 14;
/// Source ports of the frames that are counted, one for each.
const FIRST_PORT: u16 = 20_000;
/// The source port of the frame that comes last.
const LAST_PORT: u16 = 19_999;
/// How often a datagram is sent that is like the one before, and how many of them at most.
const BEAT: Duration = Duration::from_millis(100);
const BEATS: usize = 150;
const NOBODY: &str = "02:09:09:09:09:09";

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(purpose: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-it-{}-{purpose}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Two nodes; pods of several MTUs, another network beside them, and one whose device is switched off.
const FAULTY: &str = "
name: faulty
nodes:
  - name: n1
    pods:
      - {name: a, vni: 100, addresses: [10.0.0.1/24]}
      - {name: b, vni: 100, addresses: [10.0.0.2/24], mtu: 1000}
      - {name: x, vni: 200, addresses: [10.0.0.9/24]}
  - name: n2
    pods:
      - {name: c, vni: 100, addresses: [10.0.0.3/24]}
      - {name: d, vni: 100, addresses: [10.0.0.4/24], mtu: 1200}
      - {name: off, vni: 100, addresses: [10.0.0.5/24]}
      - {name: y, vni: 200, addresses: [10.0.0.8/24]}
";
/// Two nodes whose tunnel packets pass the host's stack by, so that damaged ones arrive.
const UPLINK: &str = "
name: refused
nodes:
  - {name: n1, underlay: {kind: uplink}, pods: [{name: a, vni: 100, addresses: [10.0.0.1/24]}]}
  - {name: n2, underlay: {kind: uplink}, pods: [{name: c, vni: 100, addresses: [10.0.0.3/24]}]}
";
const PODS: [(&str, u8); 7] = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("off", 5), ("x", 9), ("y", 8)];

fn socket(lab: &Lab, pod: &str) -> PacketTap {
    let netns = lab.netns(pod).unwrap();
    let index = netns.links(|links| Ok(links.get("eth0")?.unwrap().index)).unwrap();
    netns.run(|| PacketTap::open(index)).unwrap().unwrap()
}

/// A datagram in an IPv4 packet of so many bytes.
fn datagram((from, src): (MacAddr, u8), (to, dst): (MacAddr, u8), port: u16, size: usize, df: bool) -> Vec<u8> {
    let end = |mac: MacAddr, host: u8, port: u16| (mac, Ipv4Addr::new(10, 0, 0, host), port);
    let mut frame = udp_over_ipv4(end(from, src, port), end(to, dst, 9), &vec![0; size - HEADERS]);
    frame[18..20].copy_from_slice(&port.to_be_bytes());
    frame[20] = if df { 0x40 } else { 0 };
    (frame[24], frame[25]) = (0, 0);
    let sum = weft_encap::checksum::finish(weft_encap::checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The source port of a datagram to port 9 that a pod was given, if it is one and no later fragment.
fn port_of(frame: &[u8]) -> Option<u16> {
    let is_udp =
        frame.get(12..14)? == [8, 0] && frame.get(23)? == &17 && frame.get(20)? & 0x1f == 0 && frame.get(21)? == &0;
    let ports = frame.get(34..38)?;
    (is_udp && ports[2..] == [0, 9]).then(|| u16::from_be_bytes([ports[0], ports[1]]))
}

#[test]
fn what_is_told_beforehand_happens_between_real_nodes() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let directory = Directory::new("told");
    let file = directory.0.join("faulty.yaml");
    std::fs::write(&file, FAULTY).unwrap();
    let command = CommandLab::up_file(&file);
    let lab = Lab::open(&command.name().parse().unwrap()).unwrap();
    command.exec("off", &["ip", "link", "set", "eth0", "down"]);
    let macs: BTreeMap<&str, MacAddr> = PODS
        .iter()
        .map(|(pod, _)| {
            let eth0 = lab.netns(pod).unwrap().links(|links| links.get("eth0")).unwrap().unwrap();
            (*pod, eth0.mac.unwrap())
        })
        .collect();
    let sockets: BTreeMap<&str, PacketTap> =
        PODS.iter().filter(|(pod, _)| *pod != "off").map(|(pod, _)| (*pod, socket(&lab, pod))).collect();
    let mut port = FIRST_PORT;
    let mut expected: BTreeMap<u16, (String, BTreeSet<String>)> = BTreeMap::new();
    for (from, host) in [("a", 1), ("c", 3), ("x", 9)] {
        let others = PODS.iter().filter(|(pod, _)| *pod != from).map(|(pod, host)| (macs[pod], *host));
        let odd = [(NOBODY.parse().unwrap(), 77), (MacAddr::BROADCAST, 255)];
        for (mac, to) in others.chain(odd) {
            for size in [HEADERS, 1001, 1201, 1450] {
                for df in [false, true] {
                    let (text, bytes) = (mac.to_string(), size.to_string());
                    let (sport, lab_name) = (port.to_string(), command.name());
                    let mut arguments = vec!["trace", "--lab", lab_name, "--from", from, "--to", &text, "--json"];
                    arguments.extend(["--ip", "10.0.0.77", "--proto", "udp", "--size", &bytes, "--sport", &sport]);
                    arguments.extend(df.then_some("--df"));
                    let told = CommandLab::try_run(&arguments);
                    let story: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|error| {
                        panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&told.stderr))
                    });
                    let ends = story["ends"].as_array().unwrap();
                    assert!(!ends.is_empty(), "{story:#}");
                    let delivered = ends.iter().filter(|end| end["end"] == "delivered");
                    let pods: BTreeSet<String> = delivered.map(|end| end["pod"].as_str().unwrap().to_owned()).collect();
                    assert_eq!(told.status.success(), !pods.is_empty(), "{story:#}");
                    let said = ends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                    // Twice: what happens once happens again.
                    for _ in 0..2 {
                        let frame = datagram((macs[from], host), (mac, to), port, size, df);
                        assert_eq!(frame.len(), size + ETHERNET_LEN);
                        let what = format!("{from} to {mac}, {size} bytes, DF {df}: {said}");
                        expected.insert(port, (what, pods.clone()));
                        assert_eq!(write(&sockets[from], &frame).unwrap(), frame.len());
                        port += 1;
                    }
                }
            }
        }
    }
    let mut met: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    let mut buffer = vec![0; 1 << 17];
    let mut receive = |met: &mut BTreeMap<u16, BTreeSet<String>>| {
        for (pod, tap) in &sockets {
            while let Some(frame) = tap.receive(&mut buffer).unwrap() {
                if let Some(port) = port_of(&frame.bytes).filter(|_| !frame.outgoing) {
                    met.entry(port).or_default().insert((*pod).to_owned());
                }
            }
        }
    };
    eventually("every frame that was to be delivered", || {
        receive(&mut met);
        let has_come = |port: &u16, pods: &BTreeSet<String>| {
            pods.is_empty() || met.get(port).is_some_and(|met| pods.is_subset(met))
        };
        match expected.iter().find(|(port, (_, pods))| !has_come(port, pods)) {
            Some((_, (what, _))) => Err(what.clone()),
            None => Ok(()),
        }
    });
    // Whatever else was under way has come before this.
    for (from, host) in [("a", 1), ("x", 9)] {
        let last = datagram((macs[from], host), (MacAddr::BROADCAST, 255), LAST_PORT, HEADERS, true);
        write(&sockets[from], &last).unwrap();
    }
    let hearers: BTreeSet<String> = ["b", "c", "d", "y"].map(str::to_owned).into();
    eventually("the last frame", || {
        receive(&mut met);
        let heard = met.get(&LAST_PORT).cloned().unwrap_or_default();
        if heard == hearers { Ok(()) } else { Err(format!("{heard:?}")) }
    });
    met.remove(&LAST_PORT);
    assert!(expected.len() > 300, "{}", expected.len());
    let (mut delivered, mut lost) = (0, 0);
    for (port, (what, pods)) in &expected {
        let seen = met.remove(port).unwrap_or_default();
        assert_eq!(seen, *pods, "{what}");
        if pods.is_empty() { lost += 1 } else { delivered += 1 }
    }
    println!("{} frames: {delivered} delivered, {lost} not", expected.len());
    assert!(delivered > 50 && lost > 50, "{delivered} delivered, {lost} not");
    assert!(met.is_empty(), "nobody sent {met:?}");
}

/// A command of ours that runs until it is interrupted, and what it said first.
fn running(arguments: &[&str]) -> (Child, BufReader<std::process::ChildStderr>, String) {
    let mut child = Command::new(weft()).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    told.read_line(&mut first).unwrap();
    (child, told, first)
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn both_nodes_tell_of_one_frame_in_one_piece() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let arguments = [
        "trace",
        "--lab",
        lab.name(),
        "--live",
        "--pod",
        "a",
        "--ip",
        "10.244.2.2",
        "--proto",
        "icmp",
        "-n",
        "2",
        "--json",
    ];
    let (mut child, _told, first) = running(&arguments);
    assert!(first.starts_with("tracing on n1, n2"), "{first}");
    lab.ping_all("a", "10.244.2.2");
    let mut told = String::new();
    child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(child.wait().unwrap().success());
    let frames: Vec<Vec<serde_json::Value>> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(frames.len(), 2, "{told}");
    for rows in &frames {
        let ways: BTreeSet<_> =
            rows.iter().map(|row| (row["node"].as_str().unwrap(), row["to_kind"].as_str().unwrap())).collect();
        let request = [("n1", "vtep"), ("n2", "port")].into_iter().collect::<BTreeSet<_>>();
        let reply = [("n2", "vtep"), ("n1", "port")].into_iter().collect::<BTreeSet<_>>();
        assert!(ways == request || ways == reply, "{rows:?}");
    }
    // Ended by hand, it ends well, and nothing stays on.
    let (mut child, _told, _) = running(&["trace", "--lab", lab.name(), "--live"]);
    interrupt(&child);
    assert!(child.wait().unwrap().success());
    let drops = ["trace", "--node", &format!("{}.n1", lab.name()), "--live", "--drops", "-n", "1"];
    let (mut child, _told, first) = running(&drops);
    assert!(first.starts_with("tracing on n1;"), "the node that was named, and no other: {first}");
    let macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"].map(|mac| mac.parse::<MacAddr>().unwrap());
    let wrong = datagram((macs[0], 1), (macs[1], 2), FIRST_PORT, HEADERS, true);
    let opened = Lab::open(&lab.name().parse().unwrap()).unwrap();
    write(socket(&opened, "a"), &wrong).unwrap();
    let mut told = String::new();
    child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(told.contains("DROP spoofed_mac") && told.contains("10.0.0.1:20000 > 10.0.0.2:9 UDP"), "{told}");
    assert!(!told.contains('\x1b'), "no colours but on a terminal");
}

/// As long as one that looks the same comes before the last one was told, a trace that joins them tells nothing.
#[test]
fn datagrams_that_are_all_alike_are_told_one_by_one() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let pod = Lab::open(&lab.name().parse().unwrap()).unwrap().netns("a").unwrap();
    let arguments = ["trace", "--lab", lab.name(), "--live", "--proto", "udp", "--port", "9", "-n", "5", "--json"];
    let (mut child, _told, first) = running(&arguments);
    assert!(first.starts_with("tracing on n1, n2"), "{first}");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (mut output, tracing) = (child.stdout.take().unwrap(), &child);
    let told = std::thread::scope(|scope| {
        scope.spawn(move || {
            let socket = pod.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
            for _ in 0..BEATS {
                // The pod answers that nobody listens.
                let _ = socket.send_to(b"x", "10.244.2.2:9");
                if stopped.recv_timeout(BEAT) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
            // It was to be done long ago: what it has told by now is what it tells.
            interrupt(tracing);
        });
        let mut told = String::new();
        output.read_to_string(&mut told).unwrap();
        drop(stop);
        told
    });
    assert!(child.wait().unwrap().success());
    let frames: Vec<Vec<serde_json::Value>> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(frames.len(), 5, "{told}");
    for rows in &frames {
        let nodes: Vec<&str> = rows.iter().map(|row| row["node"].as_str().unwrap()).collect();
        assert_eq!(nodes, ["n1", "n2"]);
    }
}

#[test]
fn tunnel_packets_that_are_refused_are_told_with_their_sender() {
    if unmet(test_name!(), &[&TOOLS[..], &[Requirement::Linux(6, 17)]].concat()) {
        return;
    }
    let directory = Directory::new("refused");
    let file = directory.0.join("refused.yaml");
    std::fs::write(&file, UPLINK).unwrap();
    let lab = CommandLab::up_file(&file);
    let opened = Lab::open(&lab.name().parse().unwrap()).unwrap();
    let mac = |node: &str| opened.netns(node).unwrap().links(|links| links.get("eth0")).unwrap().unwrap().mac.unwrap();
    let (n1, n2) = ((mac("n1"), Ipv4Addr::new(10, 199, 0, 1), 4789), (mac("n2"), Ipv4Addr::new(10, 199, 0, 2), 50_000));
    let stranger = (mac("n2"), Ipv4Addr::new(10, 199, 0, 77), 50_000);
    // No two are alike: they would be told as one.
    let inside = |port| datagram((MacAddr([2; 6]), 3), (MacAddr([4; 6]), 1), port, HEADERS, true);
    let packet = |from, vni, port| udp_over_ipv4(from, n1, &vxlan(vni, &inside(port)));
    let mut damaged = packet(n2, 100, 1);
    *damaged.last_mut().unwrap() ^= 0x55;
    let packets = [
        ("bad_outer", "VTEP 10.199.0.2", "VNI 100", damaged),
        ("unknown_source", "stranger 10.199.0.77", "VNI 100", packet(stranger, 100, 2)),
        ("unknown_vni", "VTEP 10.199.0.2", "VNI 4000", packet(n2, 4000, 3)),
        ("tunnel_truncated", "VTEP 10.199.0.2", "tunnel packet without a frame", udp_over_ipv4(n2, n1, &[8, 0, 0])),
    ];
    let node = format!("{}.n1", lab.name());
    let count = packets.len().to_string();
    let (mut child, _told, first) = running(&["trace", "--node", &node, "--live", "--drops", "-n", &count]);
    assert!(first.starts_with("tracing on n1;"), "{first}");
    let underlay = socket(&opened, "n2");
    packets.iter().for_each(|(.., packet)| assert_eq!(write(&underlay, packet).unwrap(), packet.len()));
    let mut told = String::new();
    child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(child.wait().unwrap().success());
    let lines: Vec<&str> = told.lines().collect();
    for (reason, sender, what, _) in &packets {
        // What it is, and then who tells of it.
        let dropped = format!("DROP {reason}");
        let pair =
            lines.chunks(2).find(|pair| pair[1].contains(&dropped)).unwrap_or_else(|| panic!("{reason}: {told}"));
        assert!(pair[0].contains(what) && pair[1].contains(sender), "{reason}: {told}");
    }
}

#[test]
fn one_trace_too_many_is_refused_until_another_ends() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let node = format!("{}.n1", lab.name());
    // Nothing passes that matches: each is on for as long as it lives.
    let arguments = ["trace", "--node", &node, "--live", "--vni", "4000"];
    let mut traces: Vec<_> = (0..MAX_LISTENERS).map(|_| running(&arguments)).collect();
    assert!(traces.iter().all(|(_, _, first)| first.starts_with("tracing on n1")));
    let refused = CommandLab::try_run(&arguments);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("8 traces and captures are on: end one of them first"));
    // Killed, not ended: the agent notices that nobody reads.
    traces[0].0.kill().unwrap();
    traces[0].0.wait().unwrap();
    eventually("room for another", || {
        let (mut child, _told, first) = running(&arguments);
        interrupt(&child);
        child.wait().unwrap();
        if first.starts_with("tracing on n1") { Ok(()) } else { Err(first) }
    });
    for (child, ..) in &mut traces[1..] {
        interrupt(child);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_capture_pairs_what_is_inside_and_outside() {
    if unmet(test_name!(), &[&TOOLS[..], &[Requirement::Tool("tshark")]].concat()) {
        return;
    }
    let (lab, directory) = (CommandLab::up("two-node.yaml"), Directory::new("pairs"));
    let file = directory.0.join("pairs.pcapng");
    let path = file.display().to_string();
    let (mut child, told, first) =
        running(&["capture", "--lab", lab.name(), "--pod", "a", "--ip", "10.244.2.2", "--proto", "icmp", "-w", &path]);
    assert!(first.starts_with("capturing on n1, n2"), "{first}");
    assert!(lab.exec("a", &["ping", "-c", "3", "-i", "0.01", "10.244.2.2"]).contains(" 0% packet loss"));
    let read = |filter: &str, fields: &[&str]| {
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&file).args(["-Y", filter, "-T", "fields", "-E", "separator=|"]);
        let output = tshark.args(fields.iter().flat_map(|field| ["-e", field])).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // Each of six packets: on n1 and on n2, inside and outside.
    eventually("all packets", || {
        let seen = read("icmp", &["frame.interface_name"]);
        if seen.lines().count() >= 24 { Ok(()) } else { Err(seen) }
    });
    interrupt(&child);
    assert!(child.wait().unwrap().success());
    assert!(told.lines().map_while(Result::ok).last().unwrap().ends_with("12 frames and copies"));
    let seen = read("icmp", &["frame.interface_name", "icmp.type", "vxlan.vni", "udp.port", "frame.comment"]);
    let mut counts: BTreeMap<(String, bool), usize> = BTreeMap::new();
    let mut comments: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in seen.lines() {
        let fields: Vec<&str> = row.split('|').collect();
        let tunnel = !fields[2].is_empty();
        assert_eq!(fields[0].ends_with("outer"), tunnel, "{row}");
        assert!(!tunnel || fields[3].contains("4789"), "{row}");
        assert!(fields[4].starts_with("frame n") && fields[4].contains("unicast (static), to "), "{row}");
        *counts.entry((fields[0].to_owned(), fields[1].starts_with('8'))).or_default() += 1;
        comments.entry(fields[4].to_owned()).or_default().insert(fields[0].to_owned());
    }
    assert_eq!(counts.len(), 8, "{seen}");
    assert!(counts.values().all(|count| *count == 3), "{counts:?}");
    assert!(comments.values().all(|interfaces| interfaces.len() == 2), "a pair shares its comment: {seen}");
    let broken = read("_ws.malformed || ip.checksum.status == 0 || udp.checksum.status == 0", &["frame.number"]);
    assert_eq!(broken, "", "tshark finds nothing wrong");
}
