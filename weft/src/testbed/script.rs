use std::path::PathBuf;
use std::process::ExitCode;

use weft_testbed::script::{Script, StepReport};
use weft_testbed::{Lab, LabName};

use super::own_executable;
use crate::out::say;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The lab
    lab: LabName,
    /// The script (YAML; docs/testbed.md says what stands in one)
    file: PathBuf,
    /// Print what came of it as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let lab = Lab::open(&args.lab)?;
    let script = Script::read(&args.file, lab.spec())?;
    let report = script.run(&lab, &own_executable()?, &|step| {
        if !args.json {
            // Who does not read the steps can still see how it ends.
            let _ = tell(step);
        }
    });
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        let failed = report.steps.iter().filter(|step| step.failure.is_some()).count();
        let left = script.steps.len() - report.steps.len();
        match (failed, left) {
            (0, _) => say!("passed: {} steps", report.steps.len())?,
            (failed, 0) => say!("failed: {failed} of {} steps", report.steps.len())?,
            (failed, left) => say!("failed: {failed} of {} steps, {left} more not begun", report.steps.len())?,
        }
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line, with the time at which the step began and ended.
fn tell(report: &StepReport) -> anyhow::Result<()> {
    let StepReport { line, step, began_ms, ended_ms, failure, measured, .. } = report;
    let seconds = |ms: u128| ms as f64 / 1e3;
    let (word, detail) = match failure {
        Some(failure) => ("FAIL", format!(": {failure}")),
        None => ("ok", measured.as_ref().map(|seen| format!(": {seen}")).unwrap_or_default()),
    };
    say!("{:8.3} {:8.3}  {word:4}  line {line}: {step}{detail}", seconds(*began_ms), seconds(*ended_ms))
}
