//! Showing something again and again.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedI64ValueParser;

use crate::out::say;

/// Seconds between two looks.
const SECONDS: std::ops::RangeInclusive<i64> = 1..=3600;
/// Puts the cursor into the upper left corner and empties the screen.
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(clap::Args)]
pub(crate) struct Watch {
    /// Show it again every second, or after so many, until Ctrl-C; with `--json` a line each time
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
          value_parser = RangedI64ValueParser::<u32>::new().range(SECONDS))]
    watch: Option<u32>,
}

impl Watch {
    pub(crate) const fn is_on(&self) -> bool {
        self.watch.is_some()
    }

    /// Shows once, or again and again: then on a screen of its own if there is one.
    pub(crate) fn run(&self, mut show: impl FnMut() -> anyhow::Result<()>, json: bool) -> anyhow::Result<ExitCode> {
        let Some(seconds) = self.watch else { return show().map(|()| ExitCode::SUCCESS) };
        let clears = std::io::stdout().is_terminal() && !json;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut again = tokio::time::interval(Duration::from_secs(seconds.into()));
            loop {
                again.tick().await;
                if clears {
                    say!("{CLEAR}every {seconds} s; Ctrl-C ends it")?;
                }
                show()?;
            }
        })
    }
}
