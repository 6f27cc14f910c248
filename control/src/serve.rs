//! The agent's own loop: signals, housekeeping and questions.

use std::time::Duration;

use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::agent::{Agent, AgentError};
use crate::cluster::NoRanges;
use crate::following::Following;
use crate::metrics::{Scrapes, Server};
use crate::privileges::Confinement;
use crate::supervisor::Supervisor;
use crate::sync::News;
use crate::takeover::Successors;
use crate::{api, show};

/// How often silent MACs are looked for, and lost ports reported.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// For how long the store may keep an agent from being ready: which name and ranges are its own is known then, or has
/// to be found out while it serves.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

impl Agent {
    /// Takes what the store told, and forwards by it.
    fn follow(&mut self, news: Option<News>, is_ready: bool) -> Result<(), AgentError> {
        let (Some(following), Some(news)) = (&mut self.following, news) else { return Ok(()) };
        match following.take(news) {
            Ok(true) => following.publish(&self.switch, self.paths.as_mut()),
            Ok(false) => {}
            Err(holder) => return Err(AgentError::NameTaken { name: self.config.node.clone(), holder }),
        }
        let new_ranges = following.new_ranges();
        match new_ranges {
            None => {}
            Some(Ok(ranges)) => self.take(&ranges, is_ready)?,
            Some(Err(refused @ (NoRanges::Disagrees { .. } | NoRanges::Unreadable { .. }))) if !is_ready => {
                return Err(AgentError::Network(refused));
            }
            Some(Err(refused)) => {
                tracing::error!(%refused, "the node has no ranges of addresses");
                self.take(&[], is_ready)?;
            }
        }
        if let Some(uplink) = &self.uplink {
            uplink.follow(&self.switch.tables());
        }
        self.answer_the_patient();
        Ok(())
    }

    /// Takes part with these ranges. What keeps it from that ends an agent that starts, and no other.
    fn take(&mut self, ranges: &[IpNet], is_ready: bool) -> Result<(), AgentError> {
        match self.take_ranges(ranges) {
            Err(error) if is_ready => tracing::error!(%error, "the node itself does not take part; it is tried again"),
            other => other?,
        }
        if let Some(following) = &self.following {
            following.tell(&self.ports);
        }
        Ok(())
    }

    /// How it is, in a line.
    fn state(&self) -> String {
        let lost = self.ports.iter().filter(|port| port.lost.is_some()).count();
        let ports = self.ports.len() - lost;
        let lost = if lost > 0 { format!(", {lost} lost") } else { String::new() };
        let store = self.following.as_ref().map(|following| format!(", store {}", following.state()));
        format!("{ports} ports{lost}, {} VTEPs{}", self.switch.tables().vteps().count(), store.unwrap_or_default())
    }

    /// Serves until SIGTERM or SIGINT. `ready` is called once the local socket answers, and it is clear how the agent
    /// stands with its store.
    ///
    /// # Errors
    /// [`AgentError`] when signals, or what serves the local socket, cannot be had, and when another has the node's name
    /// or the cluster's network is another.
    pub fn run(mut self, ready: impl FnOnce()) -> Result<(), AgentError> {
        Confinement::of(&self.config).confine();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| AgentError::Process { what: "starting the control loop", source })?;
        runtime.block_on(async {
            let no_signal = |source| AgentError::Process { what: "waiting for signals", source };
            let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
            let mut hangup = signal(SignalKind::hangup()).map_err(no_signal)?;
            let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
            let known = self.inherited_view.take();
            self.following = Following::start(&self.config, &self.ports, self.underlay_mtu, known)?;
            let mut next_paths = self.look_at_paths().map(|pause| Instant::now() + pause);
            let conversations = api::Conversations::new(&self.listener);
            let mut conversations =
                conversations.map_err(|source| AgentError::Process { what: "serving the local socket", source })?;
            let no_metrics = |source| AgentError::Process { what: "serving metrics", source };
            let mut scrapes = self.metrics.as_ref().map(Server::serve).transpose().map_err(no_metrics)?;
            let supervisor = Supervisor::default();
            let successors = Successors::at(&self.successors);
            let successors =
                successors.map_err(|source| AgentError::Process { what: "waiting for a successor", source })?;
            tracing::info!(
                node = self.config.node,
                ports = self.ports.len(),
                vteps = self.config.vteps.len(),
                underlay_mtu = self.underlay_mtu,
                "forwarding"
            );
            self.keep_devices();
            let mut ready = Some(ready);
            let patience = Instant::now() + STORE_PATIENCE;
            loop {
                let settled = self.following.as_ref().is_none_or(Following::is_settled);
                if let Some(ready) = ready.take_if(|_| settled || Instant::now() >= patience) {
                    supervisor.ready();
                    ready();
                }
                let next_round = self.pods.waits.round_at().map(Instant::from_std);
                tokio::select! {
                    () = tokio::time::sleep_until(patience), if ready.is_some() => {}
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => {
                        if let Err(error) = self.reload() {
                            tracing::error!(%error, "the configuration is not read again: the one in force stays");
                        }
                    }
                    _ = housekeeping.tick() => {
                        self.keep_house();
                        supervisor.tell(&self.state());
                    }
                    () = tokio::time::sleep_until(next_paths.unwrap_or_else(Instant::now)), if next_paths.is_some() => {
                        next_paths = self.look_at_paths().map(|pause| Instant::now() + pause);
                    }
                    () = tokio::time::sleep_until(next_round.unwrap_or_else(Instant::now)), if next_round.is_some() => {
                        self.answer_the_patient();
                    }
                    news = news(&mut self.following) => {
                        self.follow(news, ready.is_none())?;
                        next_paths = self.look_at_paths().map(|pause| Instant::now() + pause);
                    }
                    successor = successors.next() => {
                        if let Err(error) = self.hand_over(successor).await {
                            tracing::warn!(%error, "nothing was handed over: this agent goes on");
                        }
                    }
                    question = conversations.next() => {
                        self.answer(question);
                    }
                    scrape = Scrapes::next(scrapes.as_mut()) => {
                        scrape.answer(|| show::snapshot(&self, ready.is_none()));
                    }
                }
            }
            supervisor.stopping();
            tracing::info!("stopping; the pods' devices stay");
            Ok(())
        })
    }
}

/// What comes from the store next; nothing ever, without one.
async fn news(following: &mut Option<Following>) -> Option<News> {
    match following {
        Some(following) => following.next().await,
        None => std::future::pending().await,
    }
}
