use std::path::{Path, PathBuf};

use anyhow::bail;
use weft_api::{Client, Query, Reply};

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
    pub(crate) fn ask(&self, query: Query) -> anyhow::Result<Reply> {
        Ok(Client::connect(&self.run_dir()?)?.ask(query)?)
    }

    fn run_dir(&self) -> anyhow::Result<PathBuf> {
        let Some(node) = &self.node else { return Ok(self.run_dir.clone()) };
        let Some((lab, node)) = node.split_once('.') else {
            bail!("`--node {node}` names no lab's node: write LAB.NODE, as `weft testbed list` shows them");
        };
        Ok(Path::new("/run/weft/labs").join(lab).join(node))
    }
}
