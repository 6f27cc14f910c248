//! The rows of the replies. Their fields are what `--json` prints, and stay.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The agent as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// How tunnel packets travel.
    pub underlay: UnderlayStatus,
    /// What is left to the kernel, level by level.
    pub offloads: Vec<OffloadRow>,
    /// Threads that forward frames.
    pub workers: usize,
    /// Ports by state: all of them, and those that are lost.
    pub ports: usize,
    /// Ports whose device is gone.
    pub ports_lost: usize,
    /// VTEPs known.
    pub vteps: usize,
    /// VNIs on this node, 1 to 16,777,215 each.
    pub vnis: Vec<u32>,
    /// Learned MACs.
    pub fdb_entries: u32,
    /// Learned MACs at most.
    pub fdb_capacity: u32,
    /// Seconds after which a silent MAC is forgotten.
    pub fdb_ageing_seconds: u32,
    /// How it stands with the store; none without a control plane.
    #[serde(default)]
    pub control: Option<ControlStatus>,
    /// What keeps pods from what is outside of the cluster, and what to do; nothing where nothing does.
    #[serde(default)]
    pub outside: Vec<String>,
    /// Which counting law does not hold, if one does not. None too in the rare case that the worker was in the
    /// middle of a turn whenever it was looked at.
    pub law_broken: Option<String>,
}

/// How it stands with the control plane's store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ControlStatus {
    /// Its endpoints.
    pub stores: Vec<String>,
    /// `connected`, `connecting`, `publishing`, `stale` (no store: forwarding goes on with what is known), or `refused`.
    pub state: String,
    /// Seconds since then.
    pub since_seconds: u64,
    /// Why it is stale or refused.
    pub reason: Option<String>,
    /// Whether it is stale because store and agent do not let each other in: by certificates, or user and password.
    #[serde(default)]
    pub denied: bool,
    /// Revision of the store up to which everything is known.
    pub revision: i64,
    /// Nodes known, this one included.
    pub nodes: usize,
    /// Endpoints known, this node's included.
    pub endpoints: usize,
    /// Nodes that do not reach the store, and that are held as they were.
    pub suspects: Vec<String>,
    /// Nodes that are there and have not published everything again.
    pub held: Vec<String>,
    /// What several claim, and who has it.
    pub conflicts: Vec<String>,
    /// How often something came to be claimed by several since the agent started, looked for once a second.
    #[serde(default)]
    pub conflicts_total: u64,
    /// Rows that are refused, and why.
    pub refused_rows: Vec<String>,
    /// How often a row was refused.
    pub refusals: u64,
    /// How often a pod's ADD was answered before all nodes that it waited for had the pod's row.
    #[serde(default)]
    pub unconfirmed_pods: u64,
    /// This node's ranges of addresses; none without a `[network]`, and as long as it is not known which it has.
    #[serde(default)]
    pub ranges: Vec<String>,
    /// The addresses by which pods reach this node itself.
    #[serde(default)]
    pub overlay_addresses: Vec<IpAddr>,
    /// Why it has no ranges, where it is to have some.
    #[serde(default)]
    pub no_ranges: Option<String>,
}

/// How tunnel packets travel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct UnderlayStatus {
    /// The level in use: `uplink`, `socket+offload`, `socket+segment`, `socket+gro` or `socket`.
    pub level: String,
    /// Why it is not a better one.
    pub reason: Option<String>,
    /// This node's VTEP addresses.
    pub addresses: Vec<String>,
    /// UDP ports with what they are for.
    pub listen: Vec<String>,
    /// MTU of the underlay in bytes.
    pub mtu: u16,
}

/// One level of what is left to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct OffloadRow {
    /// Its name, as in the configuration.
    pub level: String,
    /// Whether it is used.
    pub used: bool,
    /// Why, or why not: it passed its self-test, it is switched off, what differed in the test, or what it failed at.
    pub reason: String,
    /// Seconds since it failed while in use, if it did.
    pub demoted_seconds_ago: Option<u64>,
}

/// What went through one port or to and from one VTEP; rx and tx as the switch sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Link {
    /// Frames that entered here.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that left here.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that entered here and were dropped, and copies that should have left here and did not.
    pub drops: u64,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PortRow {
    /// Its name on this node.
    pub name: String,
    /// Its VNI, 1 to 16,777,215.
    pub vni: u32,
    /// The device in the pod.
    pub interface: String,
    /// The pod's network namespace.
    pub netns: String,
    /// Its own MAC.
    pub mac: String,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// `bound` or `learning`.
    pub mode: String,
    /// `forwarding`, or `lost: ` and why.
    pub state: String,
    /// Whether the device does UDP superframes.
    pub udp_superframes: bool,
    /// The levels of offload that the device has, by name.
    pub offloads: Vec<String>,
    /// MACs learned behind it.
    pub learned: u32,
    /// MACs that may be learned behind it; none for a bound port.
    #[serde(default)]
    pub learn_limit: Option<u32>,
    /// What went through it.
    #[serde(flatten)]
    pub link: Link,
    /// Frames that the kernel dropped because the device's queue was full before we read it.
    pub kernel_tx_dropped: Option<u64>,
}

/// One VTEP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct VtepRow {
    /// Its address.
    pub address: String,
    /// UDP destination port, 1 to 65,535.
    pub port: u16,
    /// `vxlan` or `geneve`.
    pub encapsulation: String,
    /// `managed` or `foreign`.
    pub kind: String,
    /// Longest inner IP packet that fits through the tunnel to it, in bytes.
    pub pod_mtu: u16,
    /// How tunnel packets to it travel now: `uplink` or `socket`.
    #[serde(default)]
    pub via: String,
    /// What probes know of the path: `unprobed`, `searching`, `up`, `black hole`, `down`, or `off`.
    pub path: String,
    /// Longest outer IP packet that the path is proven to carry, in bytes.
    pub path_mtu: Option<u16>,
    /// Round trip of probes, in microseconds.
    pub path_rtt_us: Option<u64>,
    /// The VNIs it takes part in.
    pub vnis: Vec<u32>,
    /// MACs learned behind it.
    pub learned: u32,
    /// What went to and came from it.
    #[serde(flatten)]
    pub link: Link,
}

/// One MAC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct FdbRow {
    /// Its VNI, 1 to 16,777,215.
    pub vni: u32,
    /// The MAC.
    pub mac: String,
    /// `port` or `vtep`.
    pub attachment: String,
    /// The port's name or the VTEP's address.
    pub at: String,
    /// `static` or `learned`.
    pub kind: String,
    /// The node that published it, this one for the MACs of its own ports; none for a learned one.
    #[serde(default)]
    pub node: Option<String>,
    /// Seconds since it was last seen; none for a static one.
    pub age_seconds: Option<u32>,
}

/// The MAC of a pod's address, as questions of pods (ARP, neighbour discovery) are answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct NeighbourRow {
    /// Its VNI, 1 to 16,777,215.
    pub vni: u32,
    /// The address.
    pub address: IpAddr,
    /// The MAC.
    pub mac: String,
    /// The node that published it; none while its MAC leads nowhere.
    pub node: Option<String>,
}

/// A node of the cluster, as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its VTEP addresses.
    pub addresses: Vec<IpAddr>,
    /// `present`, `joining` (it has not published everything again), or `suspect` (its lease has ended).
    pub state: String,
    /// The VNIs on it.
    pub vnis: Vec<u32>,
    /// The ranges that its pods' addresses are from.
    #[serde(default)]
    pub ranges: Vec<String>,
    /// The addresses by which pods reach the node itself.
    #[serde(default)]
    pub overlay_addresses: Vec<IpAddr>,
    /// How many endpoints it has.
    pub endpoints: usize,
}

/// One drop reason.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DropRow {
    /// Its name.
    pub reason: String,
    /// `verdict` for frames, `egress` for single copies of them.
    pub stage: String,
    /// How many frames, or copies of them, were dropped so since the agent started.
    pub count: u64,
    /// How many of them within the last 5 to 10 seconds.
    #[serde(default)]
    pub recent: u64,
    /// What it means.
    pub meaning: String,
    /// What to look at or change.
    pub hint: String,
}

/// All counters but the drops by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Counters {
    /// Frames, copies, packets and system calls, by name.
    pub forwarding: BTreeMap<String, u64>,
    /// How often each outcome of learning came about, by name.
    pub learning: BTreeMap<String, u64>,
    /// What the kernel dropped before or after us, by name.
    pub kernel: BTreeMap<String, u64>,
    /// Frames that each worker took in, by its name.
    #[serde(default)]
    pub workers: BTreeMap<String, u64>,
}

/// One thread that forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct WorkerRow {
    /// Its name, that of the thread too.
    pub name: String,
    /// Frames that it took in.
    pub frames: u64,
    /// How often it slept until something came.
    pub sleeps: u64,
    /// How often it looked again instead.
    pub looks: u64,
    /// Turns in which it took frames in, by how many those were: single classes, not sums.
    pub batches: Vec<BatchRow>,
    /// Microseconds for which it ran, looking for frames included; none where the kernel does not say.
    pub run_us: Option<u64>,
    /// Microseconds for which it could have run, and others had the processor.
    pub waited_us: Option<u64>,
}

/// Turns of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct BatchRow {
    /// Frames in such a turn at most, and more than the class before has; none for the last class, which has no end.
    pub frames_at_most: Option<u64>,
    /// How often there was such a turn.
    pub turns: u64,
}

/// The configuration in force, with every default written out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConfigReply {
    /// As it would stand in the file.
    pub toml: String,
    /// The same, field by field.
    pub fields: serde_json::Value,
}

/// What has changed in a configuration that was read again, by the fields' names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reloaded {
    /// In force now.
    pub applied: Vec<String>,
    /// In force once another agent has taken over.
    pub takeover: Vec<String>,
    /// In force once the agent was ended and started again.
    pub restart: Vec<String>,
}
