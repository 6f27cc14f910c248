use std::path::PathBuf;

use anyhow::bail;
use weft_api::{Client, ClientError, Query, Reply};
use weft_control::config::Config;
use weft_control::doctor::gather::Place;
use weft_netns::Netns;
use weft_testbed::{AgentState, Lab, LabName};

/// Which agent is meant.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// A lab's node, as `weft testbed list` names it
    #[arg(long, value_name = "LAB.NODE", conflicts_with = "run_dir")]
    node: Option<String>,
    /// The agent's run directory
    #[arg(long, value_name = "DIR", default_value = "/run/weft")]
    run_dir: PathBuf,
}

impl Target {
    /// What to type before a command so that it runs inside a lab's node; none for this machine's.
    pub(crate) fn inside(&self) -> Option<String> {
        let (lab, node) = self.node.as_deref()?.split_once('.')?;
        Some(format!("weft testbed exec {lab} {node} --"))
    }

    /// Where a doctor looks.
    pub(crate) fn place(&self, config: Option<Config>) -> anyhow::Result<Place> {
        let Some(name) = &self.node else {
            let run_dir = config.as_ref().map_or(&self.run_dir, |config| &config.run_dir).clone();
            return Ok(Place {
                netns: Netns::current()?,
                run_dir,
                config,
                namespaces: namespaces_outside_labs()?,
                shares_clock: false,
            });
        };
        let (lab, node) = lab_and_node(name)?;
        let (netns, run_dir) = (lab.netns(node)?, lab.run_dir_of(node));
        let pods = lab.spec().nodes.iter().filter(|spec| spec.name == node).flat_map(|spec| &spec.pods);
        let namespaces = pods.map(|pod| format!("{}.{}", lab.name(), pod.name)).collect();
        Ok(Place { netns, run_dir, config, namespaces, shares_clock: true })
    }

    pub(crate) fn ask(&self, query: Query) -> anyhow::Result<Reply> {
        Ok(self.connect()?.ask(query)?)
    }

    pub(crate) fn connect(&self) -> anyhow::Result<Client> {
        let Some(name) = &self.node else { return Ok(Client::connect(&self.run_dir)?) };
        let (lab, node) = lab_and_node(name)?;
        Client::connect(&lab.run_dir_of(node)).map_err(|error| explained(error, &lab, node))
    }

    /// The lab's node that is meant, if it is one.
    pub(crate) fn lab_and_node(&self) -> anyhow::Result<Option<(Lab, String)>> {
        let Some(name) = &self.node else { return Ok(None) };
        let (lab, node) = lab_and_node(name)?;
        if let Err(error) = Client::connect(&lab.run_dir_of(node)) {
            return Err(explained(error, &lab, node));
        }
        Ok(Some((lab, node.to_owned())))
    }

    /// The agent's run directory.
    pub(crate) fn run_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(match self.lab_and_node()? {
            Some((lab, node)) => lab.run_dir_of(&node),
            None => self.run_dir.clone(),
        })
    }
}

/// The nodes of a lab whose agents run.
pub(crate) fn agents_of(lab: &Lab) -> Vec<String> {
    let nodes = lab.status().nodes.into_iter();
    nodes.filter(|node| matches!(node.agent, AgentState::Running { .. })).map(|node| node.name).collect()
}

/// Labs have agents of their own, which are asked about by name.
fn namespaces_outside_labs() -> anyhow::Result<Vec<String>> {
    let labs: Vec<String> = Lab::list()?.into_iter().map(|lab| format!("{}.", lab.name)).collect();
    let mut names = Netns::list()?;
    names.retain(|name| !labs.iter().any(|lab| name.starts_with(lab)));
    Ok(names)
}

fn lab_and_node(name: &str) -> anyhow::Result<(Lab, &str)> {
    let Some((lab, node)) = name.split_once('.') else {
        bail!("`--node {name}` names no lab's node: write LAB.NODE, as `weft testbed list` shows them");
    };
    let lab = Lab::open(&lab.parse::<LabName>()?)?;
    let nodes: Vec<_> = lab.spec().nodes.iter().map(|node| node.name.as_str()).collect();
    if !nodes.contains(&node) {
        bail!("lab `{}` has no node `{node}`; it has {}", lab.name(), nodes.join(", "));
    }
    Ok((lab, node))
}

/// What a lab knows of an agent that does not answer.
fn explained(error: ClientError, lab: &Lab, node: &str) -> anyhow::Error {
    let state = lab.status().nodes.into_iter().find(|status| status.name == node).map(|status| status.agent);
    let (log, lab) = (lab.log_of(node), lab.name());
    match (&error, state) {
        (ClientError::NotRunning { .. }, Some(AgentState::Ended)) => {
            anyhow::anyhow!("the agent of {lab}.{node} has ended: see {}", log.display())
        }
        (ClientError::NotRunning { .. }, Some(AgentState::NotStarted)) => {
            anyhow::anyhow!("the agent of {lab}.{node} was not started: `weft testbed down {lab}` removes the lab")
        }
        (ClientError::NotRunning { .. }, _) => {
            anyhow::anyhow!("the agent of {lab}.{node} does not answer yet: see {}", log.display())
        }
        _ => error.into(),
    }
}
