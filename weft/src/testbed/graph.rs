use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use weft_testbed::{Lab, LabName, LabSpec};

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
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (spec, title) = find(&args.lab)?;
    match &args.svg {
        None => say!("{}", weft_testbed::draw(&spec, &title, terminal_width()).trim_end())?,
        Some(path) if path.as_os_str() == "-" => say!("{}", weft_testbed::draw_svg(&spec, &title).trim_end())?,
        Some(path) => std::fs::write(path, weft_testbed::draw_svg(&spec, &title))
            .with_context(|| format!("writing {}", path.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What cannot be the name of a lab is a file.
fn find(text: &str) -> anyhow::Result<(LabSpec, String)> {
    if let Ok(name) = text.parse::<LabName>() {
        return Ok((Lab::open(&name)?.spec().clone(), text.to_owned()));
    }
    let file = Path::new(text);
    let spec = LabSpec::read(file)?;
    let name = lab_name(file, None, &spec)?;
    Ok((spec, name.to_string()))
}
