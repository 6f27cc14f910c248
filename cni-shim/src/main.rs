//! The CNI plugin: environment and standard input in, JSON out (CNI specification 1.1.0).
//!
//! So far it answers VERSION and refuses all else by the specification's error codes.

mod error;
mod request;

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use error::{CniError, Code};
use request::{NetworkConfig, Verb};
use serde::Serialize;

/// Versions of the specification whose messages we speak.
const SUPPORTED_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", NEWEST_VERSION];
const NEWEST_VERSION: &str = "1.1.0";
/// Bytes of a network configuration at most.
const CONFIG_BYTES: u64 = 1 << 20;

const ABOUT: &str = "weft-cni is a CNI plugin: a container runtime runs it with CNI_COMMAND set and a network \
                     configuration on standard input; by hand, try `echo '{}' | CNI_COMMAND=VERSION weft-cni`";

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
    match answer(environment, std::io::stdin()) {
        Ok(result) if print(&result) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // Without a command there is a sentence on a human's screen already.
            if environment(request::COMMAND).is_some() || !std::io::stdout().is_terminal() {
                let CniError { code, msg, details } = &error;
                print(&ErrorResult { cni_version: NEWEST_VERSION, code: *code as u32, msg, details });
            }
            ExitCode::FAILURE
        }
    }
}

/// What to say to a call. Input is read only once the environment is in order.
fn answer(environment: impl Fn(&str) -> Option<String>, input: impl Read) -> Result<VersionResult, CniError> {
    let verb = Verb::from_environment(&environment)?;
    let config = NetworkConfig::read(input)?;
    if verb == Verb::Version {
        // Whatever the caller speaks: this is how it finds out.
        let cni_version = config.cni_version.unwrap_or_else(|| NEWEST_VERSION.to_owned());
        return Ok(VersionResult { cni_version, supported_versions: SUPPORTED_VERSIONS });
    }
    let version = config.cni_version.as_deref().unwrap_or_default();
    if !SUPPORTED_VERSIONS.contains(&version) {
        return Err(CniError::new(
            Code::IncompatibleVersion,
            format!("`cniVersion` is `{version}`"),
            format!("supported are {}", SUPPORTED_VERSIONS.join(", ")),
        ));
    }
    // A runtime asks STATUS whether ADD would work, and knows this code as no.
    let code = if verb == Verb::Status { Code::NotAvailable } else { Code::NotImplemented };
    Err(CniError::new(
        code,
        format!("this version of weft-cni does not attach pods: {} is not implemented yet", verb.name()),
        "VERSION works; pods are attached by `[[port]]` entries of the agent's configuration".to_owned(),
    ))
}

/// Whether the one line that is our answer could be written.
fn print(result: &impl Serialize) -> bool {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, result).is_ok() && writeln!(stdout).is_ok()
}
