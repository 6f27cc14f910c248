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
    /// Name of the network, the same on all nodes
    #[arg(long, value_name = "NAME", default_value = "weft")]
    name: String,
    /// Version of CNI that the runtime speaks
    #[arg(long, value_name = "VERSION", default_value = "1.0.0")]
    cni_version: String,
    /// The agent's run directory
    #[arg(long, value_name = "DIR", default_value = "/run/weft")]
    run_dir: PathBuf,
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
    put(&list, format!("{:#}\n", configuration(install)).as_bytes(), 0o644)?;
    Ok(ExitCode::SUCCESS)
}

fn configuration(install: &Install) -> serde_json::Value {
    json!({
        "cniVersion": install.cni_version,
        "name": install.name,
        "plugins": [{
            "type": PROGRAM,
            "runDir": install.run_dir,
            "capabilities": { "ips": true, "mac": true },
        }],
    })
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
