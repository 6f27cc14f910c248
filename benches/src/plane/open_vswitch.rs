//! Open vSwitch with its userspace datapath: a database and a switch on each node.

use std::path::Path;
use std::process::Command;

use ipnet::{IpNet, Ipv4Net};
use weft_encap::Encapsulation;

use super::{OVERHEAD, VNI, connect, directory_of, eventually};
use crate::BenchError;
use crate::stage::{INTERFACE, Stage, run};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Seconds that `ovs-vsctl` waits for the switch.
const PATIENCE: &str = "--timeout=15";

/// The underlay's address moves to a bridge that has the cable as its port; another bridge has tunnel and pods.
pub(super) fn set_up(stage: &Stage, encapsulation: Encapsulation, tso: bool) -> Result<(), BenchError> {
    for node in [0, 1] {
        start(stage, node, encapsulation, tso)?;
    }
    let mtu = stage.cable().mtu - OVERHEAD;
    for (index, pod) in stage.pods().iter().enumerate() {
        let port = connect(stage, index, mtu)?;
        if !tso {
            // Its datapath hands on as they are the checksums that pods leave unfilled, and cuts nothing.
            stage.run_in(&pod.netns, &format!("ethtool -K {INTERFACE} tx off"))?;
        }
        vsctl(&directory_of(stage, pod.node)?, &format!("add-port br-int {port}"))?;
    }
    Ok(())
}

fn start(stage: &Stage, node: usize, encapsulation: Encapsulation, tso: bool) -> Result<(), BenchError> {
    let directory = directory_of(stage, node)?;
    run(Command::new("ovsdb-tool").arg("create").arg(directory.join("conf.db")).arg(SCHEMA))?;
    let daemon = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&directory);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
            command.env(variable, &directory);
        }
        stage.start(node, command)
    };
    let exists = |file: &'static str| {
        eventually(stage, "Open vSwitch's sockets", || directory.join(file).exists().then_some(()))
    };
    daemon("ovsdb-server", &["--remote=punix:db.sock", "--unixctl=db.ctl", "conf.db"])?;
    exists("db.sock")?;
    vsctl(&directory, "--no-wait init")?;
    vsctl(&directory, &format!("--no-wait set Open_vSwitch . other_config:userspace-tso-enable={tso}"))?;
    daemon("ovs-vswitchd", &["--unixctl=switch.ctl", "unix:db.sock"])?;
    exists("switch.ctl")?;
    vsctl(
        &directory,
        &format!("add-br br-phy -- set bridge br-phy datapath_type=netdev -- add-port br-phy {INTERFACE}"),
    )?;
    let (local, remote) = (stage.vtep(node), stage.vtep(1 - node));
    stage.run_in(stage.node(node), &format!("ip address flush dev {INTERFACE}"))?;
    stage.node(node).links(|links| {
        links.set_up("br-phy")?;
        links.add_address("br-phy", IpNet::from(Ipv4Net::new_assert(local, 24)))
    })?;
    vsctl(
        &directory,
        &format!(
            "add-br br-int -- set bridge br-int datapath_type=netdev -- add-port br-int tun0 -- set interface tun0 \
             type={encapsulation} options:remote_ip={remote} options:local_ip={local} options:key={VNI}"
        ),
    )
}

fn vsctl(directory: &Path, words: &str) -> Result<(), BenchError> {
    let database = format!("--db=unix:{}", directory.join("db.sock").display());
    run(Command::new("ovs-vsctl").arg(PATIENCE).arg(database).args(words.split_ascii_whitespace()))
}
