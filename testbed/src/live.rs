//! What a lab that runs has to say beside its file.

use std::collections::HashMap;

use weft_api::{Client, ClientError, Query, Reply};

use crate::{Lab, LabError, LabSpec, NodeKind};

/// A line for pods and nodes of a drawing. None of them by default, as a file has nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pods: HashMap<String, String>,
    nodes: HashMap<String, String>,
}

impl Live {
    /// The line of a pod.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<&str> {
        self.pods.get(name).map(String::as_str)
    }

    /// The line of a node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&str> {
        self.nodes.get(name).map(String::as_str)
    }

    /// Adds a pod's line.
    pub fn set_pod(&mut self, name: &str, line: String) {
        self.pods.insert(name.to_owned(), line);
    }

    /// Adds a node's line.
    pub fn set_node(&mut self, name: &str, line: String) {
        self.nodes.insert(name.to_owned(), line);
    }
}

impl Lab {
    /// The lab with its links as they are now, and what its agents have counted.
    ///
    /// # Errors
    /// [`LabError`] if the state of a link cannot be read. An agent that does not answer has that in its node's line.
    pub fn live(&self) -> Result<(LabSpec, Live), LabError> {
        let mut spec = self.spec().clone();
        let mut live = Live::default();
        for node in &mut spec.nodes {
            let link = self.link(&node.name)?.settings;
            let cut = match (link.down, link.partitioned) {
                (true, _) => Some("link down"),
                (false, true) => Some("partitioned"),
                (false, false) => None,
            };
            node.link = link.impairments;
            let counted = (node.kind == NodeKind::Weft)
                .then(|| self.counted(&node.name, &mut live).unwrap_or_else(|_| "no agent".to_owned()));
            let told: Vec<&str> = counted.as_deref().into_iter().chain(cut).collect();
            if !told.is_empty() {
                live.set_node(&node.name, told.join(", "));
            }
        }
        Ok((spec, live))
    }

    /// The line of a node, and those of its pods.
    fn counted(&self, node: &str, live: &mut Live) -> Result<String, ClientError> {
        let mut client = Client::connect(&self.run_dir_of(node))?;
        let mut drops = 0;
        if let Reply::Ports(ports) = client.ask(Query::Ports)? {
            for port in ports {
                drops += port.link.drops;
                live.set_pod(&port.name, up_and_down(port.link.rx_frames, port.link.tx_frames));
            }
        }
        let (mut sent, mut received) = (0, 0);
        if let Reply::Vteps(vteps) = client.ask(Query::Vteps)? {
            for vtep in vteps {
                drops += vtep.link.drops;
                sent += vtep.link.tx_frames;
                received += vtep.link.rx_frames;
            }
        }
        let dropped = if drops == 0 { String::new() } else { format!(", {drops} dropped") };
        Ok(format!("tunnels {}{dropped}", up_and_down(sent, received)))
    }
}

/// Frames away from pods, and to them.
fn up_and_down(up: u64, down: u64) -> String {
    format!("↑ {up} ↓ {down}")
}
