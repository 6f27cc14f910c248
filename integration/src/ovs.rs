//! Open vSwitch with its userspace datapath, an instance for each node.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use weft_testbed::Family;

use crate::child::Child;
use crate::host::Host;
use crate::site::{Node, Site};
use crate::wait::eventually;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Seconds that a tool of Open vSwitch waits for its daemon.
const PATIENCE: &str = "--timeout=20";

/// A node whose pods are joined by Open vSwitch over Geneve.
#[derive(Debug)]
pub struct OvsNode {
    node: Node,
    directory: PathBuf,
    _switch: Child,
    _database: Child,
}

impl OvsNode {
    /// Starts both daemons on a node. The underlay's address moves from `eth0` to the bridge `br-phy`, which has
    /// `eth0` as its port; `br-int` has a Geneve tunnel to `remote` and will have the pods.
    ///
    /// # Panics
    /// If a daemon does not start.
    #[must_use]
    pub fn new(site: &Site, node: &Node, family: Family, remote: &Node, vni: u32) -> Self {
        let directory = site.directory().join(format!("ovs-{}", node.name()));
        fs::create_dir(&directory).unwrap();
        let database =
            start(node, &directory, &["ovsdb-server", "--remote=punix:db.sock", "--unixctl=db.ctl", "conf.db"]);
        appears(&directory, "db.sock");
        let socket = format!("unix:{}", directory.join("db.sock").display());
        vsctl(&directory, "--no-wait init");
        let switch = start(node, &directory, &["ovs-vswitchd", "--unixctl=switch.ctl", &socket]);
        appears(&directory, "switch.ctl");
        let ovs = Self { node: node.clone(), directory, _switch: switch, _database: database };
        node.ip("address flush dev eth0");
        ovs.vsctl("add-br br-phy -- set bridge br-phy datapath_type=netdev -- add-port br-phy eth0");
        node.ip("link set br-phy up");
        node.netns().links(|links| links.set_addresses("br-phy", &[node.network(family)])).unwrap();
        let (local, peer) = (node.address(family), remote.address(family));
        ovs.vsctl(&format!(
            "add-br br-int -- set bridge br-int datapath_type=netdev -- add-port br-int tun0 \
             -- set interface tun0 type=geneve options:remote_ip={} options:local_ip={} options:key={vni}",
            word(peer),
            word(local)
        ));
        ovs
    }

    /// Adds a pod with these addresses.
    ///
    /// # Panics
    /// If the kernel or Open vSwitch refuses.
    #[must_use]
    pub fn pod(&self, site: &Site, name: &str, addresses: &[&str], mtu: u32) -> Host {
        let pod = site.host(name);
        let port = format!("to-{name}");
        self.node.netns().links(|links| links.add_veth(&port, "eth0", pod.netns())).unwrap();
        self.node.ip(&format!("link set {port} mtu {mtu} up"));
        pod.ip(&format!("link set eth0 mtu {mtu} up"));
        // Its datapath hands on what is unfilled as it is.
        pod.ethtool("-K eth0 tx off");
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        pod.netns().links(|links| links.set_addresses("eth0", &addresses)).unwrap();
        self.vsctl(&format!("add-port br-int {port}"));
        pod
    }

    /// Runs `ovs-vsctl` with these words, parted by blanks.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn vsctl(&self, words: &str) {
        vsctl(&self.directory, words);
    }

    /// Runs `ovs-ofctl COMMAND br-int ARGUMENT`, and waits until packets are treated accordingly.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ofctl(&self, command: &str, argument: &str) {
        let bridge = format!("unix:{}", self.directory.join("br-int.mgmt").display());
        run(Command::new("ovs-ofctl").args([PATIENCE, "-O", "OpenFlow13", command, &bridge, argument]));
        let control = self.directory.join("switch.ctl");
        run(Command::new("ovs-appctl").arg(PATIENCE).arg("-t").arg(control).arg("revalidator/wait"));
    }
}

fn start(node: &Node, directory: &Path, argv: &[&str]) -> Child {
    if argv[0] == "ovsdb-server" {
        run(Command::new("ovsdb-tool").arg("create").arg(directory.join("conf.db")).arg(SCHEMA));
    }
    let log = File::create(directory.join(format!("{}.log", argv[0]))).unwrap();
    let mut command = node.command(argv);
    command.current_dir(directory);
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
        command.env(variable, directory);
    }
    command.stdout(log.try_clone().unwrap()).stderr(log);
    Child::spawn(command)
}

fn appears(directory: &Path, file: &str) {
    eventually(file, || {
        let logs = || fs::read_to_string(directory.join("ovs-vswitchd.log")).unwrap_or_default();
        // A socket is there a moment before anybody listens at it.
        UnixStream::connect(directory.join(file)).map(drop).map_err(|error| format!("{error}: {}", logs()))
    });
}

#[track_caller]
fn vsctl(directory: &Path, words: &str) {
    let database = format!("--db=unix:{}", directory.join("db.sock").display());
    run(Command::new("ovs-vsctl").arg(PATIENCE).arg(database).args(words.split_ascii_whitespace()));
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An address as a value in Open vSwitch's database.
fn word(address: IpAddr) -> String {
    if address.is_ipv6() { format!("\"{address}\"") } else { address.to_string() }
}
