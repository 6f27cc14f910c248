//! The CNI plugin: environment and standard input in, JSON out (CNI specification 1.1.0).
//!
//! All that is done to pods the agent does; this asks it, over its local socket.

mod config;
mod error;
mod ipam;
mod request;
mod result;
mod verbs;

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use config::NetworkConfig;
use error::{CniError, Code};
use request::Verb;
use result::CniResult;
use serde::Serialize;

/// Versions of the specification whose messages we speak, oldest first.
const SUPPORTED_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", NEWEST_VERSION];
const NEWEST_VERSION: &str = "1.1.0";

const ABOUT: &str = "weft-cni is a CNI plugin: a container runtime runs it with CNI_COMMAND set and a network \
                     configuration on standard input; by hand, try `echo '{}' | CNI_COMMAND=VERSION weft-cni`";

/// What is printed.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Version(VersionResult),
    Added(CniResult),
    /// Nothing.
    Done,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionResult {
    cni_version: String,
    supported_versions: [&'static str; 4],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorResult<'a> {
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    details: &'a str,
}

fn main() -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    if environment(request::COMMAND).is_none() {
        eprintln!("{ABOUT}");
    }
    let mut version = NEWEST_VERSION.to_owned();
    match answer(environment, std::io::stdin(), &mut version) {
        Ok(Answer::Done) => ExitCode::SUCCESS,
        Ok(result) if print(&result) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // Without a command there is a sentence on a human's screen already.
            if environment(request::COMMAND).is_some() || !std::io::stdout().is_terminal() {
                let CniError { code, msg, details } = &error;
                print(&ErrorResult { cni_version: &version, code: *code, msg, details });
            }
            ExitCode::FAILURE
        }
    }
}

/// What to say to a call, and in which version. Input is read only once the environment is in order.
fn answer(
    environment: impl Fn(&str) -> Option<String>,
    input: impl Read,
    version: &mut String,
) -> Result<Answer, CniError> {
    let (verb, call) = request::read(&environment)?;
    let (config, raw) = NetworkConfig::read(input)?;
    if verb == Verb::Version {
        // Whatever the caller speaks: this is how it finds out.
        let cni_version = config.cni_version.unwrap_or_else(|| NEWEST_VERSION.to_owned());
        return Ok(Answer::Version(VersionResult { cni_version, supported_versions: SUPPORTED_VERSIONS }));
    }
    let spoken = config.cni_version.clone().unwrap_or_default();
    let place = |version: &str| SUPPORTED_VERSIONS.iter().position(|supported| *supported == version);
    if place(&spoken).is_none() {
        return Err(CniError::new(
            Code::IncompatibleVersion,
            format!("`cniVersion` is `{spoken}`"),
            format!("supported are {}", SUPPORTED_VERSIONS.join(", ")),
        ));
    }
    version.clone_from(&spoken);
    if place(&spoken) < place(verb.since()) {
        let msg = format!("`cniVersion` is `{spoken}`, and {} is of {} and later", verb.name(), verb.since());
        return Err(CniError::new(Code::IncompatibleVersion, msg, "write a newer `cniVersion`"));
    }
    match verb {
        Verb::Add => Ok(Answer::Added(verbs::add(&call, &config, &raw)?.of_version(&spoken))),
        Verb::Del => verbs::del(&call, &config, &raw).map(|()| Answer::Done),
        Verb::Check => verbs::check(&call, &config, &raw).map(|()| Answer::Done),
        Verb::Gc => verbs::gc(&call, &config, &raw).map(|()| Answer::Done),
        Verb::Status => verbs::status(&call, &config, &raw).map(|()| Answer::Done),
        Verb::Version => Ok(Answer::Done),
    }
}

/// Whether the one line that is our answer could be written.
fn print(result: &impl Serialize) -> bool {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, result).is_ok() && writeln!(stdout).is_ok()
}
