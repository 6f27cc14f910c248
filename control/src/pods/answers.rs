//! What is answered to those who bring pods and take them away.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipnet::IpNet;
use weft_api::{Attach, Check, PodInterface, Query, Refusal, Reply, Retain};
use weft_netns::Netns;

use super::evidence::{cookie, identity};
use super::ledger::{Refused, Route};
use super::plan::{Surroundings, check_room, plan};
use super::steps::{self};
use super::waiting::Added;
use crate::agent::Agent;
use crate::api::Question;
use crate::show;
use crate::trace::begin;

impl Agent {
    /// Answers a question, now or when the store has what it is about.
    pub(crate) fn answer(&mut self, question: Question) {
        let (query, descriptor, answer) = question.take();
        let reply = match query {
            Query::Attach(ask) => match self.attach_pod(&ask, descriptor) {
                Ok(added) => return self.answer_attached(&ask, added, answer),
                Err(refused) => Err(refused),
            },
            Query::Detach(id) => self.detach_pod(&id).map(|()| Reply::Done),
            Query::Check(check) => self.check_pod(&check).map(|()| Reply::Done),
            Query::Retain(retain) => self.retain_pods(&retain).map(Reply::Detached),
            Query::Unreleased(network) => Ok(Reply::Detached(self.unreleased(&network))),
            Query::Released(ids) => self.release_pods(&ids).map(|()| Reply::Done),
            Query::Ready { addresses } => self.ready(addresses).map(|()| Reply::Done),
            Query::Trace(filter) => match begin(self, &filter) {
                Ok(stream) => return answer.go_on_with(stream),
                Err(message) => Ok(Reply::Error { message, refusal: None }),
            },
            query => Ok(show::reply(self, query)),
        };
        answer.give(reply.unwrap_or_else(refusal));
    }

    fn attach_pod(&mut self, ask: &Attach, descriptor: Option<OwnedFd>) -> Result<Added, Refused> {
        self.settle_before(&ask.pod)?;
        let failed = |error: weft_netns::NetnsError| Refused::new(Refusal::Failed, error.to_string());
        let netns = match descriptor {
            Some(descriptor) => Netns::from_descriptor(descriptor, &ask.netns),
            None => Netns::open(&ask.netns),
        };
        let netns = Arc::new(netns.map_err(failed)?);
        let seen = netns.links(|links| Ok((links.default_routes(&ask.pod.interface)?, cookie())));
        let (has_default, cookie) = seen.map_err(failed)?;
        let namespace = identity(&netns, &ask.netns, cookie);
        let before = self.pods.open.insert(ask.pod.clone(), netns);
        let pod = self.with_ledger(|ledger, agent| {
            let config = agent.config.clone();
            let ranges = agent.pods.ranges.clone();
            let vnis: Vec<_> = config.vnis.iter().map(|(vni, _)| *vni).collect();
            let names: Vec<String> = agent.ports.iter().map(|port| port.config.name.clone()).collect();
            let addresses = agent.other_addresses();
            let planned = |ledger: &super::ledger::Ledger| {
                let names =
                    names.iter().map(String::as_str).chain(ledger.living().map(|pod| pod.port.as_str())).collect();
                let network = config.network.as_ref();
                let around = Surroundings { network, ranges: &ranges, vnis: &vnis, addresses, names, has_default };
                plan(ledger, &around, ask, namespace.clone())
            };
            steps::attach(ledger, agent, &ask.pod, &namespace, planned)
        });
        let (pod, is_new) = pod.inspect_err(|_| {
            // What was known before stays so.
            match before {
                Some(netns) if self.pods.ledger.get(&ask.pod).is_some() => {
                    _ = self.pods.open.insert(ask.pod.clone(), netns);
                }
                _ => _ = self.pods.open.remove(&ask.pod),
            }
        })?;
        let mtu = self.port_of(&ask.pod).map_or(0, |port| port.mtu);
        tracing::info!(port = pod.port, vni = pod.vni.get(), netns = ask.netns, mac = %pod.mac, mtu, "pod attached");
        Ok(Added { vni: pod.vni, attached: pod.attached(mtu), number: self.tell_ports(), is_new })
    }

    pub(super) fn detach_pod(&mut self, id: &PodInterface) -> Result<(), Refused> {
        while let Some(answer) = self.pods.waits.take(id) {
            answer.give(refusal(Refused::new(Refusal::Later, "the pod was detached before it was published")));
        }
        if let Some(pod) = self.with_ledger(|ledger, agent| steps::detach(ledger, agent, id))? {
            tracing::info!(port = pod.port, netns = pod.namespace.path, "pod detached");
            self.tell_ports();
        }
        Ok(())
    }

    fn retain_pods(&mut self, retain: &Retain) -> Result<Vec<PodInterface>, Refused> {
        let used: BTreeSet<(&str, &str)> = retain.used.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let is_used = |id: &PodInterface| used.contains(&(id.container.as_str(), id.interface.as_str()));
        let (detached, mut failed) = self.with_ledger(|ledger, agent| {
            let ids = ledger.pods().map(|pod| &pod.id).filter(|id| id.network == retain.network && !is_used(id));
            let ids = ids.cloned().collect();
            steps::end_all(ledger, agent, ids)
        });
        self.tell_ports();
        match failed.pop() {
            None => Ok(detached),
            Some((id, refused)) => Err(Refused::new(
                refused.refusal,
                format!("`{}` of container {} is still attached: {refused}", id.interface, id.container),
            )),
        }
    }

    fn unreleased(&self, network: &str) -> Vec<PodInterface> {
        let ended = self.pods.ledger.pods().filter(|pod| pod.ended && pod.id.network == network);
        ended.map(|pod| pod.id.clone()).collect()
    }

    fn release_pods(&mut self, ids: &[PodInterface]) -> Result<(), Refused> {
        let mut failed = self.with_ledger(|ledger, agent| steps::release(ledger, agent, ids));
        failed.pop().map_or(Ok(()), |(_, refused)| Err(refused))
    }

    fn check_pod(&mut self, check: &Check) -> Result<(), Refused> {
        let differs = |message: String| Err(Refused::new(Refusal::Differs, message));
        let Some(pod) = self.pods.ledger.get(&check.pod).filter(|pod| !pod.ended).cloned() else {
            let PodInterface { container, interface, .. } = &check.pod;
            return Err(Refused::new(
                Refusal::Unknown,
                format!("`{interface}` of container {container} is not attached: attach it (ADD)"),
            ));
        };
        let Some(port) = self.port_of(&check.pod) else {
            return differs(format!("the pod's namespace {} is not found: restart the pod", pod.namespace.path));
        };
        if let Some(why) = &port.lost {
            return differs(format!("`{}` does not forward: {why}", check.pod.interface));
        }
        let (mac, interface) = (pod.mac.to_string(), &check.pod.interface);
        if let Some(expected) = check.mac.as_ref().filter(|expected| !expected.eq_ignore_ascii_case(&mac)) {
            return differs(format!("`{interface}` has the MAC {mac}, expected is {expected}"));
        }
        let Some(place) = port.config.pod.clone() else { return Ok(()) };
        let failed = |error: weft_netns::NetnsError| Refused::new(Refusal::Failed, error.to_string());
        let looked = place.netns.links(|links| {
            let link = links.get(interface)?;
            let addresses = if link.is_some() { links.addresses(interface)? } else { Vec::new() };
            let routes = links.routes_through(interface)?;
            Ok((link, addresses, routes))
        });
        let (link, addresses, routes) = looked.map_err(failed)?;
        match link {
            None => return differs(format!("there is no `{interface}` in the pod")),
            Some(link) if !link.up => return differs(format!("`{interface}` is down in the pod")),
            Some(link) if link.mac != Some(pod.mac) => {
                return differs(format!("`{interface}` has another MAC than {mac} in the pod"));
            }
            Some(_) => {}
        }
        // What other plugins added is theirs, and what they took away is expected no longer.
        let expected: Vec<IpNet> = check.addresses.iter().filter_map(|address| address.parse().ok()).collect();
        let mut of_ours = pod.addresses.iter().map(|one| one.address).filter(|ours| expected.contains(ours));
        if let Some(missing) = of_ours.find(|ours| !addresses.contains(ours)) {
            return differs(format!("`{interface}` lacks {missing} in the pod"));
        }
        let is_expected = |route: &&Route| {
            check.routes.iter().any(|expected| {
                expected.destination.parse::<IpNet>().is_ok_and(|destination| destination.trunc() == route.destination)
                    && (expected.gateway.is_none() || expected.gateway == route.gateway)
            })
        };
        let mut of_ours = pod.routes.iter().filter(is_expected);
        match of_ours.find(|route| !routes.contains(&(route.destination, route.gateway))) {
            Some(missing) => differs(format!("the pod lacks the route to {} by `{interface}`", missing.destination)),
            None => Ok(()),
        }
    }

    fn ready(&self, addresses: bool) -> Result<(), Refused> {
        let later = |message: &str| Err(Refused::new(Refusal::Later, message));
        match (&self.config.network, &self.following) {
            (None, _) if addresses => later(
                "the agent's configuration has no `[network]`, so the node has no addresses for pods: add one, or name an `ipam` plugin in the network configuration",
            ),
            _ if addresses && self.pods.ranges.is_empty() => {
                later("the node has no ranges of addresses yet: `weft status` says why")
            }
            (_, Some(following)) if !following.is_connected() => later(
                "the agent is not in touch with its store, so other nodes would not find new pods: `weft status` says why",
            ),
            (Some(network), _) if addresses => {
                let around = Surroundings {
                    network: Some(network),
                    ranges: &self.pods.ranges,
                    vnis: &[],
                    addresses: self.other_addresses(),
                    names: BTreeSet::new(),
                    has_default: [false; 2],
                };
                check_room(&self.pods.ledger, &around, network.vni)
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn refusal(refused: Refused) -> Reply {
    Reply::Error { message: refused.message, refusal: Some(refused.refusal) }
}
