//! Whether the agents of a lab know each other by the store. Each is asked on its own socket.

use std::time::{Duration, Instant};

use weft_api::{Client, ClientError, NodeRow, Query, Reply};

use crate::agent::tail;
use crate::process::wait_until;
use crate::{Lab, LabError, NodeKind, NodeSpec, Progress};

/// Between two questions to an agent that does not know everybody yet.
const PAUSE: Duration = Duration::from_millis(5);
/// What an agent says of its part in the cluster when the store has all its rows.
const CONNECTED: &str = "connected";
/// What is said of a node that has published everything.
const PRESENT: &str = "present";

impl Lab {
    /// Waits until every agent knows every other, with all its pods.
    pub(crate) fn wait_joined(&self, bound: Duration, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        if !self.spec().has_store() {
            return Ok(());
        }
        let deadline = Instant::now() + bound;
        let ours: Vec<&NodeSpec> = self.spec().nodes.iter().filter(|node| node.kind == NodeKind::Weft).collect();
        for node in &ours {
            self.wait_for(&node.name, bound, deadline, |client| missing(client, &node.name, &ours))?;
        }
        progress(Progress::AgentsJoined);
        Ok(())
    }

    /// Waits until an agent has heard of the others and published itself, unless its link keeps it from that.
    pub(crate) fn wait_published(&self, node: &str, bound: Duration) -> Result<(), LabError> {
        let link = self.journal.link(node).map(|entry| &entry.settings);
        if !self.spec().has_store() || link.is_some_and(|link| link.partitioned || link.down) {
            return Ok(());
        }
        self.wait_for(node, bound, Instant::now() + bound, |client| unpublished(client, node))
    }

    /// Asks an agent until nothing is missing.
    fn wait_for(
        &self,
        node: &str,
        bound: Duration,
        deadline: Instant,
        missing: impl Fn(&mut Client) -> Result<Option<String>, ClientError>,
    ) -> Result<(), LabError> {
        let mut client = Client::connect(&self.run_dir_of(node))?;
        while let Some(missing) = missing(&mut client)? {
            if Instant::now() >= deadline {
                return Err(LabError::NotJoined { seconds: bound.as_secs(), missing, log: tail(&self.log_of(node)) });
            }
            wait_until(Instant::now() + PAUSE);
        }
        Ok(())
    }
}

/// What an agent has not published yet.
fn unpublished(client: &mut Client, node: &str) -> Result<Option<String>, ClientError> {
    let Reply::Status(status) = client.ask(Query::Status)? else { return Ok(Some(unexpected(node))) };
    let control = status.control.unwrap_or_default();
    let reason = control.reason.map_or_else(String::new, |reason| format!(", {reason}"));
    let state = control.state;
    Ok((state != CONNECTED).then(|| format!("node `{node}` is not published in the store ({state}{reason})")))
}

/// What an agent has not published, or has not heard yet.
fn missing(client: &mut Client, node: &str, wanted: &[&NodeSpec]) -> Result<Option<String>, ClientError> {
    if let Some(own) = unpublished(client, node)? {
        return Ok(Some(own));
    }
    let Reply::Nodes(rows) = client.ask(Query::Nodes)? else { return Ok(Some(unexpected(node))) };
    let is_whole = |wanted: &NodeSpec, row: &NodeRow| {
        row.name == wanted.name && row.state == PRESENT && row.endpoints == wanted.pods.len()
    };
    let absent = wanted.iter().filter(|wanted| !rows.iter().any(|row| is_whole(wanted, row)));
    let absent: Vec<_> = absent.map(|wanted| format!("`{}`", wanted.name)).collect();
    let told = || format!("node `{node}` does not know all of {}", absent.join(", "));
    Ok((!absent.is_empty()).then(told))
}

fn unexpected(node: &str) -> String {
    format!("node `{node}` answered something else")
}
