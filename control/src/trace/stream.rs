//! Live traces on the local socket.

use std::io;

use tokio::net::unix::pipe::Receiver;
use weft_api::{Reply, TraceBatch, TraceFilter};
use weft_encap::Vni;
use weft_switch::trace::{Depth, Filter, Trace};
use weft_switch::underlay::LANES;

use super::rows::{Here, row};
use crate::agent::Agent;

/// Rows in one reply at most.
const BATCH_ROWS: usize = 256;
/// Rows with bytes in one reply at most: some MiB of the longest frames, in hex.
const BATCH_CAPTURED_ROWS: usize = 32;

/// A trace that is on until this is dropped, or the conversation ends.
pub(crate) struct TraceStream {
    trace: Trace,
    news: Receiver,
    rows: usize,
    here: Here,
}

/// Begins a trace, in the runtime that it is called in.
pub(crate) fn begin(agent: &Agent, wanted: &TraceFilter) -> Result<TraceStream, String> {
    let TraceFilter { pod, vni, peer, mac, ip, protocols, port, drops, bytes } = wanted.clone();
    if let Some(name) = &pod
        && agent.ports.iter().all(|port| port.config.name != *name)
    {
        let names: Vec<_> = agent.ports.iter().map(|port| port.config.name.as_str()).collect();
        return Err(format!("node {} has no port `{name}`; it has {}", agent.config.node, names.join(", ")));
    }
    let vni = vni.map(Vni::new).transpose().map_err(|error| error.to_string())?;
    let mac = mac.map(|mac| mac.parse()).transpose().map_err(|error: weft_encap::MacAddrError| error.to_string())?;
    let filter = Filter { pod, vni, peer, mac, ip, protocols, port, drops };
    let (depth, rows) = if bytes { (Depth::Bytes, BATCH_CAPTURED_ROWS) } else { (Depth::Fates, BATCH_ROWS) };
    let no_trace = |error: io::Error| format!("starting a trace: {error}");
    let trace = agent.switch.trace(&filter, depth).map_err(no_trace)?;
    let news = trace.descriptor().and_then(Receiver::from_owned_fd).map_err(no_trace)?;
    let here = Here {
        node: agent.config.node.clone(),
        addresses: agent.config.addresses.clone(),
        listen: agent.config.listen.clone(),
        source_ports: std::array::from_fn::<_, LANES, _>(|lane| {
            [false, true].map(|ipv6| agent.switch.source_port(lane, ipv6))
        }),
    };
    Ok(TraceStream { trace, news, rows, here })
}

impl TraceStream {
    /// What is answered first.
    pub(crate) fn head(&self) -> Reply {
        Reply::Tracing { node: self.here.node.clone() }
    }

    /// Waits for what is told next.
    pub(crate) async fn next(&mut self) -> io::Result<TraceBatch> {
        self.news.readable().await?;
        // What is in the pipe says nothing but that it is there.
        while self.news.try_read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
        let records = self.trace.take(self.rows);
        let tables = self.trace.tables();
        let rows = records.iter().map(|(worker, record)| row(&self.here, &tables, *worker, record)).collect();
        Ok(TraceBatch { rows, lost: self.trace.lost() })
    }
}
