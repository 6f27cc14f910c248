use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use crate::out::say;

/// The plugin's program.
const PROGRAM: &str = "weft-cni";
/// The network configuration, as it is where nothing else is asked for.
const LIST: &str = include_str!("../../deploy/cni/10-weft.conflist");

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Put the plugin and a network configuration where container runtimes look for them
    Install(Install),
}

#[derive(clap::Args)]
struct Install {
    /// Remove both again
    #[arg(long)]
    uninstall: bool,
    /// Where runtimes look for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where runtimes look for network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Name of the network configuration's file: runtimes take the first in order
    #[arg(long, value_name = "NAME", default_value = "10-weft.conflist")]
    file: String,
    /// Name of the network, the same on all nodes [default: weft]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Version of CNI that the runtime speaks [default: 1.0.0]
    #[arg(long, value_name = "VERSION")]
    cni_version: Option<String>,
    /// The agent's run directory [default: /run/weft]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The plugin to install [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Verb::Install(install) = &args.verb;
    if install.file.contains('/') || !install.file.ends_with(".conflist") {
        bail!("`--file {}` names no configuration list: it is a name that ends in .conflist", install.file);
    }
    let (program, list) = (install.bin_dir.join(PROGRAM), install.conf_dir.join(&install.file));
    if install.uninstall {
        // The configuration first: no runtime is to find one without its plugin.
        remove(&list)?;
        remove(&program)?;
        return Ok(ExitCode::SUCCESS);
    }
    let plugin = match &install.plugin {
        Some(plugin) => plugin.clone(),
        None => std::env::current_exe()?.with_file_name(PROGRAM),
    };
    let bytes = fs::read(&plugin).with_context(|| {
        format!("{}: name the plugin with --plugin; `cargo build --release -p weft-cni` makes it", plugin.display())
    })?;
    put(&program, &bytes, 0o755)?;
    put(&list, configuration(install)?.as_bytes(), 0o644)?;
    Ok(ExitCode::SUCCESS)
}

/// The network configuration with what is to be another in it.
fn configuration(install: &Install) -> anyhow::Result<String> {
    let Install { name, cni_version, run_dir, .. } = install;
    if name.is_none() && cni_version.is_none() && run_dir.is_none() {
        return Ok(LIST.to_owned());
    }
    let mut list: serde_json::Value = serde_json::from_str(LIST)?;
    let mut set = |pointer: &str, value: serde_json::Value| {
        if let Some(place) = list.pointer_mut(pointer).filter(|_| !value.is_null()) {
            *place = value;
        }
    };
    set("/name", json!(name));
    set("/cniVersion", json!(cni_version));
    set("/plugins/0/runDir", json!(run_dir));
    Ok(format!("{list:#}\n"))
}

/// Puts a file in place as a whole, and says so; one that is there and the same is left as it is.
fn put(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let written = path.display();
    let has_mode = fs::metadata(path).is_ok_and(|seen| seen.permissions().mode() & 0o7777 == mode);
    if has_mode && fs::read(path).is_ok_and(|seen| seen == bytes) {
        return say!("{written} is as it should be");
    }
    let was_there = path.exists();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Runtimes pass by what begins with a dot, or ends in another way.
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || -> io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&new);
        return Err(error).with_context(|| format!("{written}: this needs a directory that may be written"));
    }
    say!("{written} {}", if was_there { "replaced" } else { "written" })
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => say!("{} removed", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => say!("{} is not there", path.display()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}
