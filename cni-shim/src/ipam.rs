//! Addresses by another plugin: the one that `ipam` names is run as the runtime would run it (CNI specification 1.1.0,
//! section 4, "Plugin Delegation").

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;
use weft_api::PodInterface;

use crate::error::{CniError, Code};
use crate::request::{self, Verb};
use crate::result::CniResult;

/// The newest version that plugins know which do not know ours.
const FALLBACK_VERSION: &str = "1.0.0";

/// A plugin that gives addresses.
pub(crate) struct Ipam<'a> {
    program: PathBuf,
    /// The network configuration as it came.
    config: &'a [u8],
}

#[derive(Deserialize)]
struct Failure {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    supported_versions: Vec<String>,
}

impl<'a> Ipam<'a> {
    /// The plugin of that name in the runtime's directories.
    pub(crate) fn find(name: &str, path: &str, config: &'a [u8]) -> Result<Self, CniError> {
        let is_name = !name.contains('/') && name != "..";
        let directories = path.split(':').filter(|directory| !directory.is_empty());
        let mut programs = directories.map(|directory| Path::new(directory).join(name));
        match programs.find(|program| is_name && program.is_file()) {
            Some(program) => Ok(Self { program, config }),
            None => Err(CniError::new(
                Code::InvalidConfig,
                format!("`ipam` names the plugin `{name}`, which is not in {} ({path})", request::PATH),
                "install it there, or leave `ipam` out: the agent gives addresses of the node's ranges",
            )),
        }
    }

    pub(crate) fn add(&self) -> Result<CniResult, CniError> {
        let output = self.run(Verb::Add, &[])?;
        serde_json::from_slice(&output).map_err(|error| self.garbled(Verb::Add, &error))
    }

    pub(crate) fn check(&self) -> Result<(), CniError> {
        self.run(Verb::Check, &[]).map(drop)
    }

    pub(crate) fn del(&self) -> Result<(), CniError> {
        self.run(Verb::Del, &[]).map(drop)
    }

    /// Takes the addresses of an interface back that was found to be unused.
    pub(crate) fn del_unused(&self, pod: &PodInterface) -> Result<(), CniError> {
        let of_pod =
            [(request::CONTAINER_ID, pod.container.as_str()), (request::IFNAME, &pod.interface), (request::NETNS, "")];
        self.run(Verb::Del, &of_pod).map(drop)
    }

    /// Has it do what plugins know since 1.1.0, if it does.
    pub(crate) fn newer(&self, verb: Verb) -> Result<(), CniError> {
        let output = self.run(Verb::Version, &[])?;
        let versions: Versions =
            serde_json::from_slice(&output).map_err(|error| self.garbled(Verb::Version, &error))?;
        let knows = versions.supported_versions.iter().any(|version| version == verb.since());
        if knows { self.run(verb, &[]).map(drop) } else { Ok(()) }
    }

    /// One that does not know the version of the caller is asked once more, in one that it knows.
    fn run(&self, verb: Verb, environment: &[(&str, &str)]) -> Result<Vec<u8>, CniError> {
        match self.run_with(verb, environment, self.config) {
            Err(error) if error.is(Code::IncompatibleVersion) => {
                let Ok(Value::Object(mut config)) = serde_json::from_slice(self.config) else { return Err(error) };
                config.insert("cniVersion".to_owned(), FALLBACK_VERSION.into());
                self.run_with(verb, environment, Value::Object(config).to_string().as_bytes())
            }
            outcome => outcome,
        }
    }

    fn run_with(&self, verb: Verb, environment: &[(&str, &str)], config: &[u8]) -> Result<Vec<u8>, CniError> {
        let mut command = Command::new(&self.program);
        command.env(request::COMMAND, verb.name()).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let failed = |error: std::io::Error| {
            let msg = format!("running {} {}: {error}", self.program.display(), verb.name());
            CniError::new(Code::Io, msg, "it has to be a program that root may run")
        };
        let mut process = command.spawn().map_err(failed)?;
        if let Some(mut stdin) = process.stdin.take() {
            // One that ends without having read its configuration says why.
            let _ = stdin.write_all(config);
        }
        let output = process.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let name = self.program.display();
        Err(match serde_json::from_slice::<Failure>(&output.stdout) {
            Ok(Failure { code, msg, details }) => CniError { code, msg: format!("{name}: {msg}"), details },
            Err(_) => {
                let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                CniError::new(
                    Code::Io,
                    format!("{name} {}: {}: {said}", verb.name(), output.status),
                    "its log may say more",
                )
            }
        })
    }

    fn garbled(&self, verb: Verb, error: &serde_json::Error) -> CniError {
        let msg = format!("what {} {} says: {error}", self.program.display(), verb.name());
        CniError::new(Code::Undecodable, msg, "it has to be a CNI plugin")
    }
}
