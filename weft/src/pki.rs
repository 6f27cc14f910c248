use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::Subcommand;
use weft_store::pki::{AUTHORITY_DAYS, Authority, CERTIFICATE_DAYS, Holder, Issued, MAX_DAYS};

use crate::out::say;

/// Permissions of private keys, and of certificates.
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;
/// Permissions of a directory that is made for keys.
const DIRECTORY: u32 = 0o700;
/// The authority's files.
const AUTHORITY: &str = "ca";
/// A store's files.
const STORE: &str = "store";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a certificate authority of the cluster's own, and sign certificates with it
    Init {
        /// Where its files go; made if it is not there
        dir: PathBuf,
        /// How long the authority lasts
        #[arg(long, value_name = "DAYS", default_value_t = AUTHORITY_DAYS, value_parser = days())]
        ca_days: u32,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Sign more certificates with an authority that is there
    Issue {
        /// Where `ca.pem` and `ca.key` are
        dir: PathBuf,
        /// Where the new files go, if not there
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        wanted: Wanted,
    },
}

#[derive(clap::Args)]
struct Wanted {
    /// An address or host name by which agents ask for the store; several are one certificate
    #[arg(long = "store", value_name = "NAME")]
    stores: Vec<String>,
    /// The name of a node; a certificate for each
    #[arg(long = "node", value_name = "NODE", value_parser = node_name)]
    nodes: Vec<String>,
    /// How long the certificates last
    #[arg(long, value_name = "DAYS", default_value_t = CERTIFICATE_DAYS, value_parser = days())]
    days: u32,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_DAYS))
}

/// A node's name, which is a file's name here as well.
fn node_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if !(1..=63).contains(&text.len()) || !text.bytes().all(allowed) || text.starts_with('.') {
        return Err("allowed are 1 to 63 of a-z, 0-9, - and .".to_owned());
    } else if [AUTHORITY, STORE].contains(&text) {
        return Err("the files of that name are the authority's and the store's: give the node another".to_owned());
    }
    Ok(text.to_owned())
}

/// What is to be written under a name.
struct Pair {
    directory: PathBuf,
    name: String,
    issued: Issued,
    /// What is said of it.
    of: String,
}

impl Pair {
    fn paths(&self) -> [PathBuf; 2] {
        ["pem", "key"].map(|ending| self.directory.join(format!("{}.{ending}", self.name)))
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid from one day to another")]
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now();
    let (wanted, out, authority, mut pairs) = match &args.verb {
        Verb::Init { dir, ca_days, wanted } => {
            let authority = Authority::new(now, *ca_days)?;
            let of = format!("the authority, {ca_days} days: who has its key makes certificates");
            let own = Pair { directory: dir.clone(), name: AUTHORITY.to_owned(), issued: authority.issued(), of };
            (wanted, dir, authority, vec![own])
        }
        Verb::Issue { dir, out, wanted } => {
            if wanted.stores.is_empty() && wanted.nodes.is_empty() {
                bail!("nothing to sign: say --node NAME for each node, or --store with an address of the store");
            }
            (wanted, out.as_ref().unwrap_or(dir), open(dir)?, Vec::new())
        }
    };
    let issue = |name: &str, holder: &Holder, of: String| {
        let issued = authority.issue(holder, now, wanted.days)?;
        let of = format!("{of}, {} days", wanted.days);
        Ok::<_, anyhow::Error>(Pair { directory: out.clone(), name: name.to_owned(), issued, of })
    };
    if !wanted.stores.is_empty() {
        let of = format!("the store at {}", wanted.stores.join(", "));
        pairs.push(issue(STORE, &Holder::Store(wanted.stores.clone()), of)?);
    }
    for node in &wanted.nodes {
        pairs.push(issue(node, &Holder::Node(node.clone()), format!("node {node}"))?);
    }
    write(&pairs)?;
    Ok(ExitCode::SUCCESS)
}

fn open(dir: &Path) -> anyhow::Result<Authority> {
    let read = |ending: &str| {
        let path = dir.join(format!("{AUTHORITY}.{ending}"));
        fs::read_to_string(&path).with_context(|| format!("{}: `weft pki init` makes it", path.display()))
    };
    Authority::open(read("pem")?, &read("key")?).with_context(|| dir.display().to_string())
}

/// Nothing is written if anything would be overwritten.
fn write(pairs: &[Pair]) -> anyhow::Result<()> {
    if let Some(there) = pairs.iter().flat_map(Pair::paths).find(|path| path.symlink_metadata().is_ok()) {
        bail!("{} is there, and is not overwritten: take another directory, or move it away", there.display());
    }
    for pair in pairs {
        let [certificate, key] = pair.paths();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY)
            .create(&pair.directory)
            .with_context(|| pair.directory.display().to_string())?;
        for (path, text, mode) in [(&key, &pair.issued.key, PRIVATE), (&certificate, &pair.issued.certificate, PUBLIC)]
        {
            let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
            let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
            written.with_context(|| path.display().to_string())?;
        }
        say!("{} and {}: {}", certificate.display(), key.display(), pair.of)?;
    }
    Ok(())
}
