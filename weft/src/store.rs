use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use weft_control::config::LogFormat;
use weft_store::{Durability, KEEP_REVISIONS, PROGRESS, Server, ServerTls, Settings};

use crate::agent::say_ready;
use crate::log;
use crate::out::say;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the data is kept; made if it is not there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to listen for etcd clients; port 0 takes any
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2379")]
    listen: SocketAddr,
    /// The server's certificates (PEM, its own first); without them it speaks plain text
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let in only clients whose certificate this one signed (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Answer before the disk has a write: survives a crash of the store, not of the machine. For labs and tests
    #[arg(long)]
    relaxed: bool,
    /// How many revisions of history to keep
    #[arg(long, value_name = "REVISIONS", default_value_t = KEEP_REVISIONS, value_parser = clap::value_parser!(i64).range(1..))]
    keep: i64,
    /// Log as lines of JSON
    #[arg(long)]
    log_json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    log::start(EnvFilter::new("info"), if args.log_json { LogFormat::Json } else { LogFormat::Text });
    let settings = Settings {
        data: args.data.clone(),
        listen: args.listen,
        tls: tls(args)?,
        durability: if args.relaxed { Durability::Relaxed } else { Durability::Synced },
        keep: args.keep,
        progress: PROGRESS,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let server = Server::open(settings).await?;
        say!("listening on {}", server.address())?;
        tracing::info!(address = %server.address(), data = %args.data.display(), tls = args.tls_cert.is_some(), "serving");
        if args.client_ca.is_none() {
            tracing::warn!("whoever reaches that address may read and write everything: --client-ca asks for certificates");
        }
        say_ready();
        tokio::select! {
            ended = server.serve() => ended?,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn tls(args: &Args) -> anyhow::Result<Option<ServerTls>> {
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    let client_ca = args.client_ca.as_deref().map(read).transpose()?;
    Ok(Some(ServerTls { cert: read(cert)?, key: read(key)?, client_ca }))
}
