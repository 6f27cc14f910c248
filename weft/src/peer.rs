use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use weft_control::ClusterRows;
use weft_control::cluster::record::{ForeignVtep, RECORD_VERSION};
use weft_control::config::Config;
use weft_control::config::file::Encapsulation;
use weft_encap::Vni;

use crate::out::say;
use crate::table::print;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// An agent's configuration, whose `[control]` names the store
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Add a foreign VTEP for all nodes, or change it
    Add {
        /// Its address
        address: IpAddr,
        /// The virtual networks it takes part in
        #[arg(long = "vni", value_name = "VNI", required = true, value_parser = vni)]
        vnis: Vec<Vni>,
        /// How frames travel to it
        #[arg(long, value_name = "vxlan|geneve", default_value = "vxlan", value_parser = encapsulation)]
        encapsulation: Encapsulation,
        /// UDP destination port; by default 4789 for VXLAN and 6081 for Geneve
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
    },
    /// Remove a foreign VTEP
    Remove {
        /// Its address
        address: IpAddr,
    },
    /// List the foreign VTEPs
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn vni(text: &str) -> Result<Vni, String> {
    let number = text.parse::<u32>().map_err(|error| error.to_string())?;
    Vni::new(number).map_err(|error| error.to_string())
}

fn encapsulation(text: &str) -> Result<Encapsulation, String> {
    match text {
        "vxlan" => Ok(Encapsulation::Vxlan),
        "geneve" => Ok(Encapsulation::Geneve),
        _ => Err("allowed are vxlan and geneve".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let rows = ClusterRows::of(&config)?;
        match &args.verb {
            Verb::Add { address, vnis, encapsulation, port } => {
                let udp_port = port.unwrap_or(encapsulation.default_port());
                let (address, encapsulation, vnis) = (*address, *encapsulation, vnis.clone());
                let version = RECORD_VERSION;
                rows.add_foreign(&ForeignVtep { version, address, encapsulation, udp_port, vnis }).await?;
            }
            Verb::Remove { address } => {
                if !rows.remove_foreign(*address).await? {
                    bail!(
                        "the store has no foreign VTEP {address}: `weft peer list` shows those that it has; agents that had it \
                         from before the store went back let it go now"
                    );
                }
            }
            Verb::List { json } => list(&rows.foreign().await?, *json)?,
        }
        Ok::<_, anyhow::Error>(ExitCode::SUCCESS)
    })
}

fn list(peers: &[ForeignVtep], json: bool) -> anyhow::Result<()> {
    if json {
        return say!("{}", serde_json::to_string_pretty(peers)?);
    }
    let row = |peer: &ForeignVtep| {
        let vnis: Vec<_> = peer.vnis.iter().map(ToString::to_string).collect();
        let (address, port) = (peer.address.to_string(), peer.udp_port.to_string());
        vec![address, peer.encapsulation.to_string(), port, vnis.join(", ")]
    };
    print(&["address", "encapsulation", "#port", "vnis"], peers.iter().map(row))
}
