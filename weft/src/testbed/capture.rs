use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use weft_testbed::{Lab, LabName};

use crate::interrupt::Guard;
use crate::out::remark;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The lab
    lab: LabName,
    /// The link or the pod
    place: String,
    /// The file that is written (pcapng); `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// End after so many frames
    #[arg(short, long, value_name = "FRAMES")]
    count: Option<u64>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { lab, place, write, count } = args;
    let capture = Lab::open(lab)?.capture(place)?;
    let standard = write.as_os_str() == "-";
    let mut file: Box<dyn Write> = if standard {
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(File::create(write).with_context(|| format!("making {}", write.display()))?)
    };
    let frames = Arc::new(AtomicU64::new(0));
    let told = frames.clone();
    let guard = Guard::arm(move || remark(format_args!("{} frames", told.load(Ordering::Relaxed))))?;
    remark(format_args!("capturing at {}; Ctrl-C ends it", capture.interface()));
    let seen = capture
        .write(&mut file, *count, |seen| frames.store(seen, Ordering::Relaxed))
        .with_context(|| format!("capturing at {}", capture.interface()))?;
    drop(guard);
    remark(format_args!("{seen} frames"));
    Ok(ExitCode::SUCCESS)
}
