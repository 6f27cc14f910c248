//! Follows what nodes tell of frames that pass.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::bail;
use weft_api::{Client, ClientError, TraceBatch, TraceClient, TraceFilter};

use super::join::{Joiner, Timeline};
use super::nodes::Nodes;
use super::{Matching, tell};
use crate::interrupt::on_interrupt;
use crate::out::{complain, remark};

/// What is waited for.
pub(crate) enum Event {
    /// A node tells.
    Told(usize, TraceBatch),
    /// A node tells no more.
    Ended(usize, ClientError),
    /// The user has seen enough.
    Interrupted,
}

/// Traces on several nodes, which end when this is dropped.
pub(crate) struct Live {
    pub(crate) events: Receiver<Event>,
    /// The nodes' names.
    pub(crate) names: Vec<String>,
    hang_up: Vec<Box<dyn Fn() + Send>>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.hang_up.iter().for_each(|hang_up| hang_up());
    }
}

/// Begins to listen on the nodes that are meant.
pub(crate) fn listen(nodes: &mut Nodes, matching: &Matching, bytes: bool) -> anyhow::Result<Live> {
    let (sender, events) = channel();
    let mut live = Live { events, names: Vec::new(), hang_up: Vec::new() };
    for (place, filter) in filters(nodes, matching, bytes)?.into_iter().enumerate() {
        let trace = Client::connect(&nodes.members[place].run_dir)?.trace(filter)?;
        live.names.push(trace.node().to_owned());
        live.hang_up.push(Box::new(trace.hang_up()?));
        hand_on(trace, sender.clone(), move |told| match told {
            Ok(batch) => Event::Told(place, batch),
            Err(error) => Event::Ended(place, error),
        });
    }
    on_interrupt(move || {
        let _ = sender.send(Event::Interrupted);
    })?;
    Ok(live)
}

/// Hands on what a node tells, on a thread of its own, until the node ends, is hung up, or nobody listens any more.
pub(crate) fn hand_on<T: Send + 'static>(
    mut trace: TraceClient,
    listener: Sender<T>,
    event: impl Fn(Result<TraceBatch, ClientError>) -> T + Send + 'static,
) {
    std::thread::spawn(move || {
        loop {
            let told = trace.next_batch();
            let last = told.is_err();
            if listener.send(event(told)).is_err() || last {
                return;
            }
        }
    });
}

/// What each node is asked: a pod is known by its port on its own node, and by its MAC on the others.
fn filters(nodes: &mut Nodes, matching: &Matching, bytes: bool) -> anyhow::Result<Vec<TraceFilter>> {
    let Matching { pod, vni, peer, ip, proto, port, drops } = matching;
    let protocols = proto.map_or_else(Vec::new, |proto| proto.numbers().to_vec());
    let all =
        TraceFilter { vni: *vni, ip: *ip, protocols, port: *port, drops: *drops, bytes, ..TraceFilter::default() };
    let home = pod.as_ref().map(|pod| nodes.with_pod(pod)).transpose()?;
    let mac = match (home, pod) {
        (Some(home), Some(pod)) => {
            nodes.members[home].ports()?.iter().find(|port| port.name == *pod).map(|port| port.mac.clone())
        }
        _ => None,
    };
    // The peer's own node sees these frames come from others.
    let peers_own = peer.and_then(|peer| nodes.with_address(peer));
    let own = |place: usize| TraceFilter {
        pod: pod.clone().filter(|_| home == Some(place)),
        mac: mac.clone().filter(|_| home != Some(place)),
        peer: peer.filter(|_| peers_own != Some(place)),
        ..all.clone()
    };
    Ok((0..nodes.watched()).map(own).collect())
}

/// Prints what becomes of so many frames.
pub(super) fn watch(nodes: &mut Nodes, matching: &Matching, count: u64, json: bool) -> anyhow::Result<()> {
    let live = listen(nodes, matching, false)?;
    remark(format_args!("tracing on {}; Ctrl-C ends it", live.names.join(", ")));
    let started = Instant::now();
    let (mut joiner, mut told) = (Joiner::default(), 0);
    let mut lost = vec![0; live.names.len()];
    let mut ended = 0;
    let print = |timelines: Vec<Timeline>, told: &mut u64| -> anyhow::Result<()> {
        for timeline in timelines {
            if *told < count {
                *told += 1;
                tell::timeline(&timeline, json)?;
            }
        }
        Ok(())
    };
    while told < count && ended < live.names.len() {
        let event = match joiner.patience(started.elapsed()) {
            // All that is under way is told before long: what comes meanwhile wakes us as well.
            Some(patience) => live.events.recv_timeout(patience.max(Duration::from_millis(1))),
            None => live.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(Event::Told(place, batch)) => {
                lost[place] = batch.lost;
                let now = started.elapsed();
                batch.rows.into_iter().for_each(|row| joiner.take(row, now));
            }
            Ok(Event::Ended(place, error)) => {
                complain!("{} tells no more: {error}", live.names[place]);
                ended += 1;
            }
            Ok(Event::Interrupted) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        print(joiner.settled(started.elapsed()), &mut told)?;
    }
    print(joiner.rest(), &mut told)?;
    let lost: u64 = lost.iter().sum();
    let lost = if lost > 0 { format!(", and {lost} records lost: a filter lets fewer through") } else { String::new() };
    remark(format_args!("{told} frames{lost}"));
    if ended > 0 {
        bail!("{ended} of {} nodes ended", live.names.len());
    }
    Ok(())
}
