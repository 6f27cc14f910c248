mod ink;
mod nodes;
mod tell;
mod what_if;

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args as Group, ValueEnum};
use weft_api::Protocol;
use weft_testbed::LabName;

use crate::target::Target;
use nodes::Nodes;

/// The port from which packets come that nobody sent, if no other is named: the first dynamic one (RFC 6335 section 6).
const SOURCE_PORT: u16 = 49_152;
/// The port to which they go: discard (RFC 863).
const DESTINATION_PORT: u16 = 9;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    weft trace --lab demo --from a --to c\n  \
    weft trace --lab demo --from a --to 10.244.2.2 --proto tcp --dport 80 --size 1500 --df\n\n\
    Exits with 0 if the packet is delivered, and with 1 if it is not.")]
pub(crate) struct Args {
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    target: Target,
    /// A lab: whichever of its nodes has the pod
    #[arg(long, value_name = "LAB", conflicts_with_all = ["node", "run_dir"])]
    lab: Option<LabName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A packet that nobody sent.
#[derive(Group)]
struct Asked {
    /// The pod that sends the packet: its port's name
    #[arg(long, value_name = "POD")]
    from: Option<String>,
    /// To whom: an address, a MAC, or another pod's name
    #[arg(long, value_name = "IP|MAC|POD", requires = "from")]
    to: Option<String>,
    /// What it is: an echo request, the SYN of a connection, or a datagram
    #[arg(long, value_enum, default_value = "icmp")]
    proto: Proto,
    /// Source port of TCP and UDP
    #[arg(long, value_name = "PORT", default_value_t = SOURCE_PORT)]
    sport: u16,
    /// Destination port of TCP and UDP
    #[arg(long, value_name = "PORT", default_value_t = DESTINATION_PORT)]
    dport: u16,
    /// Bytes of the IP packet; the least possible if not given
    #[arg(long, value_name = "BYTES")]
    size: Option<u16>,
    /// Forbid fragments (DF)
    #[arg(long)]
    df: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Proto {
    Tcp,
    Udp,
    Icmp,
}

impl From<Proto> for Protocol {
    fn from(proto: Proto) -> Self {
        match proto {
            Proto::Tcp => Self::Tcp,
            Proto::Udp => Self::Udp,
            Proto::Icmp => Self::Icmp,
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut nodes = Nodes::of(&args.target, args.lab.as_ref())?;
    let (Some(from), Some(to)) = (&args.asked.from, &args.asked.to) else {
        bail!("say which packet: --from POD --to IP, MAC or POD");
    };
    let story = what_if::story(&mut nodes, from, to, &args.asked)?;
    tell::story(&story, args.json)?;
    Ok(if story.is_delivered() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whom a packet is for.
enum Towards {
    Address(IpAddr),
    Mac(String),
}
