use std::path::Path;
use std::process::Command;

use super::{OVERHEAD, VNI};
use crate::BenchError;
use crate::stage::Stage;

/// A forwarder on each node.
pub(super) fn set_up(stage: &Stage, weft: &Path) -> Result<(), BenchError> {
    for node in [0, 1] {
        let mut command = Command::new(weft);
        command.args(["bench", "forward"]);
        command.arg("--local").arg(stage.vtep(node).to_string());
        command.arg("--remote").arg(stage.vtep(1 - node).to_string());
        command.arg("--vni").arg(VNI.to_string());
        command.arg("--mtu").arg((stage.cable().mtu - OVERHEAD).to_string());
        for pod in stage.pods_of(node) {
            command.arg("--pod").arg(format!("{}={}", pod.netns.label(), pod.address));
        }
        stage.start(node, command)?;
    }
    Ok(())
}
