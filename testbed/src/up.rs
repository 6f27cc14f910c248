//! Making a lab.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use weft_netns::Netns;

use crate::agent::Service;
use crate::error::io_error;
use crate::journal::{AgentEntry, Claim, Journal, directory};
use crate::link::LinkSettings;
use crate::{
    Lab, LabError, LabName, LabSpec, NodeKind, NodeSpec, Progress, agent, agent_config, down, neighbours, store,
};

/// How a lab is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpOptions {
    /// The agent's executable, started as `weft agent --config FILE`.
    pub weft: PathBuf,
    /// How long the agents may take to become ready, and then to know each other. Default: 30 s.
    pub ready_timeout: Duration,
}

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
    /// Makes a lab and returns once all its agents forward and, by a store, know each other. What was made is removed again if that fails.
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
        neighbours::make_room(self.spec(), progress)?;
        self.make_namespaces(progress)?;
        self.connect(progress)?;
        self.start_store(options, progress)?;
        self.impair_links(options, progress)?;
        self.make_kernel_nodes(progress)?;
        self.start_agents(options, progress)?;
        self.wait_joined(options.ready_timeout, progress)?;
        self.start_commands(progress)?;
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

    /// Impairs the links that the file says so of.
    fn impair_links(&mut self, options: &UpOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        for index in 0..self.spec().nodes.len() {
            let NodeSpec { name, link, .. } = self.spec().nodes[index].clone();
            if !link.is_none() {
                let settings = LinkSettings { impairments: link, ..LinkSettings::default() };
                self.set_link(&name, settings, &options.weft, progress)?;
            }
        }
        Ok(())
    }

    fn start_agents(&mut self, options: &UpOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        let prefix = store::prefix(&self.name, &self.spec().control);
        let mut starting = Vec::new();
        for index in 0..self.spec().nodes.len() {
            if self.spec().nodes[index].kind != NodeKind::Weft {
                continue;
            }
            let node = self.spec().nodes[index].name.clone();
            let config = self.write_agent_config(index, &prefix)?;
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

    fn write_agent_config(&self, index: usize, prefix: &str) -> Result<PathBuf, LabError> {
        let node = &self.spec().nodes[index].name;
        let run_dir = directory(&self.name).join(node);
        DirBuilder::new().mode(0o755).create(&run_dir).map_err(io_error("make", &run_dir))?;
        let text = agent_config::render(&self.name, self.spec(), index, &run_dir, prefix)
            .map_err(|source| LabError::AgentConfig { node: node.clone(), source })?;
        let path = self.config_of(node);
        fs::write(&path, text).map_err(io_error("write", &path))?;
        Ok(path)
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
