use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use weft_api::{Client, Foretold, PortRow, Query, Reply, WhatIf};
use weft_testbed::{Lab, LabName};

use crate::target::{Target, agents_of};

/// The nodes that can be asked: one, or those of a lab.
pub(crate) struct Nodes {
    pub(crate) members: Vec<Member>,
    /// Whether one was named, which is then the first.
    pub(crate) named: bool,
}

/// A node with an agent.
pub(crate) struct Member {
    pub(crate) run_dir: PathBuf,
    ports: Option<Vec<PortRow>>,
    addresses: Option<Vec<IpAddr>>,
}

impl Member {
    fn new(run_dir: PathBuf) -> Self {
        Self { run_dir, ports: None, addresses: None }
    }

    fn ask(&self, query: Query) -> anyhow::Result<Reply> {
        let asked = Client::connect(&self.run_dir).and_then(|mut client| client.ask(query));
        asked.map_err(anyhow::Error::from)
    }

    pub(crate) fn what_if(&self, asked: WhatIf) -> anyhow::Result<Foretold> {
        match self.ask(Query::WhatIf(Box::new(asked)))? {
            Reply::WhatIf(told) => Ok(*told),
            _ => bail!("the agent answered another question"),
        }
    }

    pub(crate) fn ports(&mut self) -> anyhow::Result<&[PortRow]> {
        if self.ports.is_none() {
            let Reply::Ports(rows) = self.ask(Query::Ports)? else { bail!("the agent answered another question") };
            self.ports = Some(rows);
        }
        Ok(self.ports.as_deref().unwrap_or_default())
    }

    fn addresses(&mut self) -> anyhow::Result<&[IpAddr]> {
        if self.addresses.is_none() {
            let Reply::Status(status) = self.ask(Query::Status)? else { bail!("the agent answered another question") };
            let addresses = status.underlay.addresses.iter().map(|address| address.parse());
            self.addresses = Some(addresses.collect::<Result<_, _>>().context("reading the node's addresses")?);
        }
        Ok(self.addresses.as_deref().unwrap_or_default())
    }
}

impl Nodes {
    pub(crate) fn of(target: &Target, lab: Option<&LabName>) -> anyhow::Result<Self> {
        let (lab, first) = match (lab, target.lab_and_node()?) {
            (Some(name), _) => (Lab::open(name)?, None),
            (None, Some((lab, node))) => (lab, Some(node)),
            (None, None) => {
                return Ok(Self { members: vec![Member::new(target.run_dir()?)], named: true });
            }
        };
        let mut names = agents_of(&lab);
        names.sort_by_key(|name| first.as_ref() != Some(name));
        if names.is_empty() {
            bail!("lab {} has no agent that runs", lab.name());
        }
        let members = names.iter().map(|name| Member::new(lab.run_dir_of(name))).collect();
        Ok(Self { members, named: first.is_some() })
    }

    /// How many of them, from the first one on, a live trace is of: the one that was named, or all.
    pub(crate) fn watched(&self) -> usize {
        if self.named { 1 } else { self.members.len() }
    }

    /// The node that has a pod.
    pub(crate) fn with_pod(&mut self, pod: &str) -> anyhow::Result<usize> {
        let looked_at = self.watched();
        let mut known = Vec::new();
        for (place, member) in self.members.iter_mut().take(looked_at).enumerate() {
            let ports = member.ports()?;
            if ports.iter().any(|port| port.name == pod) {
                return Ok(place);
            }
            known.extend(ports.iter().map(|port| port.name.clone()));
        }
        bail!("there is no pod `{pod}`; there are {}", known.join(", "))
    }

    /// The addresses of a pod of this name, on whichever node.
    pub(crate) fn addresses_of(&mut self, pod: &str) -> anyhow::Result<Vec<IpAddr>> {
        for member in &mut self.members {
            if let Some(port) = member.ports()?.iter().find(|port| port.name == pod) {
                let address = |net: &String| net.split('/').next().and_then(|address| address.parse().ok());
                return Ok(port.addresses.iter().filter_map(address).collect());
            }
        }
        Ok(Vec::new())
    }

    /// The node with a VTEP address, if it can be asked.
    pub(crate) fn with_address(&mut self, address: IpAddr) -> Option<usize> {
        // A node whose agent does not answer cannot be followed to.
        self.members.iter_mut().position(|member| member.addresses().is_ok_and(|own| own.contains(&address)))
    }
}
