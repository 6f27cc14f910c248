//! Making a lab.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use weft_netns::{Links, Netns};

use crate::agent::Service;
use crate::error::io_error;
use crate::journal::{AgentEntry, Claim, Journal, directory};
use crate::spec::{NODE_INTERFACE, SWITCH, UNDERLAY};
use crate::{Family, Lab, LabError, LabName, LabSpec, Progress, agent, agent_config, down};

/// How a lab is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpOptions {
    /// The agent's executable, started as `weft agent --config FILE`.
    pub weft: PathBuf,
    /// How long the agents may take to become ready. Default: 30 s.
    pub ready_timeout: Duration,
}

/// Whether interfaces made from now on have IPv6, in the namespace of the thread that asks.
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
/// Default of [`UpOptions::ready_timeout`].
const READY_TIMEOUT: Duration = Duration::from_secs(30);

impl UpOptions {
    /// The defaults, with this agent.
    #[must_use]
    pub const fn new(weft: PathBuf) -> Self {
        Self { weft, ready_timeout: READY_TIMEOUT }
    }
}

impl Lab {
    /// Makes a lab and returns once all its agents forward. What was made is removed again if that fails.
    ///
    /// # Errors
    /// [`LabError`]: a name in the way, an agent that cannot be run or does not become ready, or what the
    /// kernel refused.
    pub fn up(
        spec: &LabSpec,
        name: &LabName,
        options: &UpOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, LabError> {
        let executable = agent::find(&options.weft)?;
        let claim = Claim::make(name)?;
        if let Err(error) = check_namespaces(spec, name) {
            claim.remove(name)?;
            return Err(error);
        }
        let options = UpOptions { weft: executable, ..options.clone() };
        let mut lab = Self { name: name.clone(), journal: Journal::new(spec.clone()) };
        match lab.build(&options, progress) {
            Ok(()) => Ok(lab),
            Err(cause) => match down::remove(claim, name, progress) {
                Ok(()) => Err(cause),
                Err(cleanup) => Err(LabError::Leftover { cause: Box::new(cause), cleanup: Box::new(cleanup) }),
            },
        }
    }

    fn build(&mut self, options: &UpOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        self.journal.write(&self.name)?;
        progress(Progress::Claimed);
        self.make_namespaces(progress)?;
        self.connect(progress)?;
        self.start_agents(options, progress)?;
        self.journal.complete = true;
        self.journal.write(&self.name)
    }

    fn make_namespaces(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        for member in self.spec().members() {
            let namespace = self.name.namespace_of(member);
            Netns::create(&namespace)?;
            progress(Progress::Namespace { name: &namespace });
        }
        Ok(())
    }

    /// Cables every node to the underlay switch.
    fn connect(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        let mtu = self.spec().underlay.mtu.into();
        let underlay = self.netns(UNDERLAY)?;
        underlay.run(silence_ipv6)?.map_err(io_error("switch IPv6 off by", NO_IPV6))?;
        underlay.links(|links| {
            links.add_bridge(SWITCH)?;
            links.set_up(SWITCH)
        })?;
        for (index, node) in self.spec().nodes.iter().enumerate() {
            let netns = self.netns(&node.name)?;
            underlay.links(|links| {
                links.add_veth(&node.name, NODE_INTERFACE, &netns)?;
                links.set_mtu(&node.name, mtu)?;
                links.set_master(&node.name, SWITCH)?;
                links.set_up(&node.name)
            })?;
            let addresses = [Family::Ipv4, Family::Ipv6].map(|family| self.spec().node_address(index, family));
            netns.links(|links: &mut Links| {
                links.set_mtu(NODE_INTERFACE, mtu)?;
                links.set_up(NODE_INTERFACE)?;
                addresses.iter().flatten().try_for_each(|address| links.add_address(NODE_INTERFACE, *address))
            })?;
            progress(Progress::Connected { node: &node.name });
        }
        Ok(())
    }

    fn start_agents(&mut self, options: &UpOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        let mut starting = Vec::new();
        for index in 0..self.spec().nodes.len() {
            let node = self.spec().nodes[index].name.clone();
            let config = self.write_agent_config(index)?;
            let netns = self.netns(&node)?;
            let service = Service::Agent(node.clone());
            let agent = agent::start(service, &netns, &options.weft, &config, &self.log_of(&node))?;
            self.journal.agents.push(AgentEntry { node, process: agent.id });
            self.journal.write(&self.name)?;
            progress(agent.service.started(agent.id.pid));
            starting.push(agent);
        }
        agent::wait_ready(starting, options.ready_timeout, progress)
    }

    fn write_agent_config(&self, index: usize) -> Result<PathBuf, LabError> {
        let node = &self.spec().nodes[index].name;
        let run_dir = directory(&self.name).join(node);
        DirBuilder::new().mode(0o755).create(&run_dir).map_err(io_error("make", &run_dir))?;
        let text = agent_config::render(&self.name, self.spec(), index, &run_dir)
            .map_err(|source| LabError::AgentConfig { node: node.clone(), source })?;
        let path = self.config_of(node);
        fs::write(&path, text).map_err(io_error("write", &path))?;
        Ok(path)
    }
}

/// Keeps the switch's own IPv6 out of the underlay: its ports would send what nobody asked for through links whose
/// chances are decided frame by frame.
fn silence_ipv6() -> std::io::Result<()> {
    match fs::write(NO_IPV6, "1") {
        // A kernel without IPv6 sends none.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// Refuses to go on where a namespace is in the way: removing the lab would remove it too.
fn check_namespaces(spec: &LabSpec, name: &LabName) -> Result<(), LabError> {
    let existing = Netns::list()?;
    let wanted = spec.members().map(|member| name.namespace_of(member));
    match wanted.into_iter().find(|namespace| existing.contains(namespace)) {
        Some(namespace) => Err(LabError::NamespaceTaken { namespace }),
        None => Ok(()),
    }
}
