use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::park_timeout;
use std::time::Duration;

use anyhow::Context;
use weft_testbed::{Lab, LabName, LabSpec, Live, draw, draw_svg};

use super::{lab_name, terminal_width};
use crate::out::say;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A lab of this machine, or a lab file
    #[arg(value_name = "LAB|FILE")]
    lab: String,
    /// Write an SVG drawing to this file instead; `-` is standard output
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draw the lab again and again, with what its agents have counted; Ctrl-C ends it
    #[arg(long, conflicts_with = "svg")]
    watch: bool,
}

/// Between two drawings.
const PAUSE: Duration = Duration::from_secs(1);
/// To the upper left corner, and away with what was there (ECMA-48, CUP and ED).
const AGAIN: &str = "\x1b[H\x1b[J";

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    loop {
        let (spec, live, title) = find(&args.lab)?;
        match &args.svg {
            None => {
                let again = if args.watch && stdout().is_terminal() { AGAIN } else { "" };
                say!("{again}{}", draw(&spec, &live, &title, terminal_width()).trim_end())?;
            }
            Some(path) if path.as_os_str() == "-" => say!("{}", draw_svg(&spec, &live, &title).trim_end())?,
            Some(path) => std::fs::write(path, draw_svg(&spec, &live, &title))
                .with_context(|| format!("writing {}", path.display()))?,
        }
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        park_timeout(PAUSE);
    }
}

/// What cannot be the name of a lab is a file.
fn find(text: &str) -> anyhow::Result<(LabSpec, Live, String)> {
    if let Ok(name) = text.parse::<LabName>() {
        let (spec, live) = Lab::open(&name)?.live()?;
        return Ok((spec, live, text.to_owned()));
    }
    let file = Path::new(text);
    let spec = LabSpec::read(file)?;
    let name = lab_name(file, None, &spec)?;
    Ok((spec, Live::default(), name.to_string()))
}
