mod ink;
mod join;
pub(crate) mod live;
pub(crate) mod nodes;
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

/// Frames that a live trace tells of, if nothing else is asked for.
const FRAMES: u64 = 100;
/// The port from which packets come that nobody sent, if no other is named: the first dynamic one (RFC 6335 section 6).
const SOURCE_PORT: u16 = 49_152;
/// The port to which they go: discard (RFC 863).
const DESTINATION_PORT: u16 = 9;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    weft trace --lab demo --from a --to c\n  \
    weft trace --lab demo --from a --to 10.244.2.2 --proto tcp --dport 80 --size 1500 --df\n  \
    weft trace --lab demo --live --pod a --proto icmp -n 10\n  \
    weft trace --live --drops\n\n\
    Without --live it exits with 0 if the packet is delivered, and with 1 if it is not.")]
pub(crate) struct Args {
    #[command(flatten)]
    asked: Asked,
    /// Watch frames that pass, instead of asking about one that nobody sent
    #[arg(long, conflicts_with_all = ["from", "to"])]
    live: bool,
    #[command(flatten)]
    matching: Matching,
    /// With --live: end after so many frames
    #[arg(short = 'n', long, value_name = "FRAMES", default_value_t = FRAMES, requires = "live")]
    count: u64,
    #[command(flatten)]
    target: Target,
    /// A lab: whichever of its nodes has the pod; live, all its nodes
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
pub(crate) enum Proto {
    Tcp,
    Udp,
    Icmp,
}

/// Which frames are meant; all of it has to match.
#[derive(Group)]
pub(crate) struct Matching {
    /// Frames of this pod
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
    /// Frames of this virtual network
    #[arg(long, value_name = "VNI")]
    pub(crate) vni: Option<u32>,
    /// Frames from or to the node with this VTEP address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) peer: Option<IpAddr>,
    /// Frames from or to this address; of a packet to a MAC that nobody sent: the address in it
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<IpAddr>,
    /// TCP, UDP or ICMP; of a packet that nobody sent: a SYN, a datagram, or an echo request, which it is if not given
    #[arg(long, value_enum)]
    pub(crate) proto: Option<Proto>,
    /// Frames from or to this TCP or UDP port
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Dropped frames alone
    #[arg(long)]
    pub(crate) drops: bool,
}

impl Proto {
    /// The protocol's numbers: that of ICMP depends on the version of IP.
    pub(crate) const fn numbers(self) -> &'static [u8] {
        match self {
            Self::Tcp => &[6],
            Self::Udp => &[17],
            Self::Icmp => &[1, 58],
        }
    }
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
    if args.live {
        live::watch(&mut nodes, &args.matching, args.count, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(from), Some(to)) = (&args.asked.from, &args.asked.to) else {
        bail!("say which packet: `--from POD --to IP`, a MAC or a pod; or `--live`");
    };
    let story = what_if::story(&mut nodes, (from, to), &args.asked, &args.matching)?;
    tell::story(&story, args.json)?;
    Ok(if story.is_delivered() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whom a packet is for.
enum Towards {
    Address(IpAddr),
    Mac(String),
}
