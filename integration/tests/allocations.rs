//! A busy switch allocates nothing: real TAPs and real sockets, with every level of offload and without any, and an
//! uplink.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{PortId, Stage, Tables};
use weft_encap::Vni;
use weft_encap::outer::{Addresses, Link};
use weft_integration::{
    Encapsulation, Family, Host, MIB, MacAddr, Node, Overlay, PacketSocket, Site, ethernet, eventually, exchange,
    exchange_superframes, mac_of, ping_all, site, stream, streams,
};
use weft_switch::counters::Totals;
use weft_switch::levels::{Level, Levels, Off};
use weft_switch::polling::Polling;
use weft_switch::port::{Tap, TapOffloads};
use weft_switch::underlay::{Listen, NextHop, NextHops, SocketOptions, Uplink, UplinkDevice, UplinkState};
use weft_switch::{Options, Switch};

const WORKER: &str = "worker-0";
const MTU: u16 = 1450;
const UNDERLAY_MTU: u16 = 1500;
const TUNNEL_PORT: u16 = 4789;
/// MACs that one round brings, each in a broadcast: two rounds stay below what a port may learn.
const NEW_MACS: u32 = 100;
/// An EtherType of nobody (IEEE 802 local experimental 1), so that no stack answers.
const EXPERIMENT: u16 = 0x88b5;

/// Threads whose allocations count, by number; zero is none.
static WORKERS: [AtomicI32; 2] = [AtomicI32::new(0), AtomicI32::new(0)];
static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            let own = rustix::thread::gettid().as_raw_nonzero().get();
            if WORKERS.iter().any(|worker| worker.load(Ordering::Relaxed) == own) {
                ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            }
        }
        // SAFETY: the caller keeps the allocator's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the allocator's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The numbers of this process's threads of that name.
fn threads(name: &str) -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    // Another thread may end meanwhile.
    let named = tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    named.map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// Allocations of the threads in [`WORKERS`] meanwhile.
fn counted(act: impl FnOnce()) -> usize {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    act();
    COUNTING.store(false, Ordering::SeqCst);
    ALLOCATIONS.load(Ordering::SeqCst)
}

fn vni() -> Vni {
    Vni::new(Overlay::VNI).unwrap()
}

/// A node's tables: the other node, and a learning port for each of its pods.
fn tables(nodes: &[Node; 2], own: usize, pods: &[(&Host, MacAddr)]) -> (Tables, Vec<PortId>) {
    let address = |node: usize| nodes[node].address(Family::Ipv4);
    let mut tables = Tables::new(vec![address(own)], vec![TUNNEL_PORT]);
    tables.add_domain(vni(), DomainOptions::default()).unwrap();
    let vtep = Vtep {
        address: address(1 - own),
        udp_port: TUNNEL_PORT,
        encapsulation: Encapsulation::Vxlan,
        kind: VtepKind::Foreign,
        pod_mtu: MTU,
    };
    tables.add_vtep(vtep, &[vni()]).unwrap();
    let add = |(pod, mac): &(&Host, MacAddr)| {
        let (name, mode) = (pod.name().to_owned(), PortMode::Learning { limit: 256 });
        tables.add_port(Port { name, vni: vni(), mac: *mac, mtu: MTU, mode }).unwrap()
    };
    let ids = pods.iter().map(add).collect();
    (tables, ids)
}

/// A device joined to a node's NIC, and the way to the other node.
fn uplink(nodes: &[Node; 2], own: usize, tables: &Tables) -> Uplink {
    let device = nodes[own].netns().run(UplinkDevice::make).unwrap().unwrap();
    let name = device.name().to_owned();
    let [src, dst] = [own, 1 - own].map(|node| match nodes[node].address(Family::Ipv4) {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}"),
    });
    let join = |links: &mut weft_netns::Links| {
        // What the node's own stack would say on it is nobody's traffic.
        fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
        links.set_up(&name)?;
        links.redirect_all(&name, "eth0")?;
        links.redirect_udp("eth0", &[(src, TUNNEL_PORT).into()], &name)
    };
    nodes[own].netns().links(join).unwrap();
    let link = Link { src: nodes[own].mac("eth0"), dst: nodes[1 - own].mac("eth0") };
    let mut hops = NextHops::default();
    let (vtep, _) = tables.vteps().next().unwrap();
    hops.insert(vtep, NextHop { link, addresses: Addresses::V4 { src, dst }, mtu: UNDERLAY_MTU });
    let state = UplinkState::new().unwrap();
    state.publish(hops);
    Uplink { device, state: Arc::new(state) }
}

/// A running switch on a node, with these pods and their addresses. It has an uplink where the level is used.
fn start(nodes: &[Node; 2], own: usize, pods: &[(&Host, MacAddr, [&str; 2])], levels: &Arc<Levels>) -> Switch {
    let rows: Vec<_> = pods.iter().map(|(pod, mac, _)| (*pod, *mac)).collect();
    let (tables, ids) = tables(nodes, own, &rows);
    let at = (nodes[own].address(Family::Ipv4), TUNNEL_PORT).into();
    let options = Options {
        listen: vec![Listen { at, encapsulation: Encapsulation::Vxlan }],
        socket: SocketOptions { zero_checksums_over_ipv6: false },
        levels: levels.clone(),
        fdb_capacity: 4096,
        polling: Polling::Off,
        workers: NonZero::<usize>::MIN,
        cpus: Vec::new(),
    };
    let uplink = levels.uses(Level::Uplink).then(|| uplink(nodes, own, &tables));
    let switch = nodes[own].netns().run(|| Switch::start(&options, tables, uplink)).unwrap().unwrap();
    for ((pod, mac, addresses), id) in pods.iter().zip(ids) {
        let tap = pod.netns().run(|| Tap::open("eth0", TapOffloads::of(levels))).unwrap().unwrap();
        let give = |links: &mut weft_netns::Links| {
            links.set_mac("eth0", *mac)?;
            links.set_mtu("eth0", MTU.into())?;
            links.set_up("eth0")?;
            addresses.iter().try_for_each(|address| links.add_address("eth0", address.parse().unwrap()))
        };
        pod.netns().links(give).unwrap();
        switch.add_port(id, vec![tap]);
    }
    switch
}

/// Everything that pods do: both directions and both families, across nodes and within one, whole superframes and
/// single packets, known MACs, new ones and unknown ones.
fn busy([a, b, c]: &[Host; 3], round: u32) {
    for (one, other) in [(Overlay::IPV4, "10.0.0.3"), (Overlay::IPV6, "fd00::3")] {
        ping_all(a, one[1]);
        stream(a, b, one[1], 8 * MIB);
        stream(b, a, one[0], 8 * MIB);
        stream(a, c, other, 8 * MIB);
        streams(3, b, c, other, 2 * MIB);
        exchange(a, b, one[1], 100, 500);
        exchange_superframes(a, b, one[1], 1200, 40, 1200);
        exchange_superframes(c, a, one[0], 1200, 40, 1200);
    }
    for pod in [b, c] {
        let socket = PacketSocket::open(pod, "eth0");
        for number in 0..NEW_MACS {
            let [.., high, low] = (round * NEW_MACS + number).to_be_bytes();
            let place = u8::from(pod.name() == "c");
            let own = MacAddr([2, 1, 0, place, high, low]);
            socket.send(&ethernet(MacAddr::BROADCAST, own, EXPERIMENT, b"here I am"));
            socket.send(&ethernet(mac_of(200), own, EXPERIMENT, b"is anybody there?"));
        }
    }
}

/// The counters of a switch at rest.
fn at_rest(switch: &Switch) -> Totals {
    let mut last = switch.totals();
    eventually("the switch comes to rest", || {
        let before = std::mem::replace(&mut last, switch.totals());
        let still = before.frames_in == last.frames_in && last.check().is_ok();
        if still { Ok(()) } else { Err(format!("{} frames in, then {}", before.frames_in, last.frames_in)) }
    });
    last
}

fn learned(totals: &Totals) -> u64 {
    totals.learned.iter().find(|(name, _)| *name == "learned").unwrap().1
}

fn run(site: &Site, levels: Levels) {
    let (nodes, pods) = (site.pair(), ["a", "b", "c"].map(|name| site.host(name)));
    let levels = Arc::new(levels);
    let [a, b, c] = &pods;
    let switches = [
        start(
            &nodes,
            0,
            &[(a, mac_of(1), Overlay::NETWORKS[0]), (c, mac_of(3), ["10.0.0.3/24", "fd00::3/64"])],
            &levels,
        ),
        start(&nodes, 1, &[(b, mac_of(2), Overlay::NETWORKS[1])], &levels),
    ];
    // A thread has its name a moment after it was started.
    let workers =
        eventually("both workers run", || <[i32; 2]>::try_from(threads(WORKER)).map_err(|seen| format!("{seen:?}")));
    WORKERS.iter().zip(workers).for_each(|(place, number)| place.store(number, Ordering::Relaxed));
    busy(&pods, 0);
    let before = switches.each_ref().map(at_rest);
    let mut after = before.clone();
    let allocations = counted(|| {
        busy(&pods, 1);
        after = switches.each_ref().map(at_rest);
    });
    assert_eq!(allocations, 0, "allocations of busy workers");

    let offloaded = levels.uses(Level::Tcp4);
    for (before, after) in before.iter().zip(&after) {
        assert!(learned(after) >= learned(before) + 2 * u64::from(NEW_MACS), "{after:?}");
        assert!(after.flood >= before.flood + 4 * u64::from(NEW_MACS), "{after:?}");
        assert_eq!(after.dropped_at(Stage::Verdict), before.dropped_at(Stage::Verdict), "{after:?}");
        let more = |count: fn(&Totals) -> u64| count(after) - count(before);
        let (writes, came) = (more(|totals| totals.port_writes), more(|totals| totals.underlay_datagrams_in));
        let (left, read) = (more(|totals| totals.underlay_datagrams_out), more(|totals| totals.port_reads));
        if levels.uses(Level::Uplink) {
            assert!(came > 1000 && left > 1000, "{came} packets came, {left} left");
            assert!(came < 10_000 && left < 10_000, "whole: {came} packets came, {left} left");
        } else {
            assert!(came > 10_000 && left > 10_000, "{came} packets came, {left} left");
            assert_eq!(offloaded, writes < came / 2, "merged: {came} packets in {writes} writes");
            assert_eq!(offloaded, read < left / 2, "split: {left} packets of {read} reads");
        }
    }
}

#[test]
fn a_busy_switch_allocates_nothing() {
    let site = site!();
    // What counts is process-wide: so all of it is one test. The allocator first.
    WORKERS[0].store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    assert_eq!(counted(|| drop(std::hint::black_box(Box::new(1)))), 1);
    run(&site, Levels::default());
    drop(site);
    let site = site!();
    let sockets = Levels::default();
    sockets.turn_off(Level::Uplink, Off::Configured);
    run(&site, sockets);
    drop(site);
    let none = Levels::default();
    Level::ALL.into_iter().for_each(|level| {
        none.turn_off(level, Off::Configured);
    });
    let site = site!();
    run(&site, none);
}
