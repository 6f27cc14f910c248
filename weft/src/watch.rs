//! Showing something again and again.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedI64ValueParser;

use crate::out::{NobodyReads, complain, say};

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
        let clears = io::stdout().is_terminal() && !json;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut looks = Looks::default();
            let mut again = tokio::time::interval(Duration::from_secs(seconds.into()));
            loop {
                again.tick().await;
                if clears {
                    say!("{CLEAR}every {seconds} s; Ctrl-C ends it")?;
                }
                if let Some(missed) = looks.after(show())? {
                    complain!("{missed}");
                }
            }
        })
    }
}

/// What came of the looks until now.
#[derive(Default)]
struct Looks {
    /// Whether one has shown something.
    shown: bool,
    /// What the last one failed for.
    missed: Option<String>,
}

impl Looks {
    /// What to say of a look: an agent that was there may come back. It is said once, and not each time.
    ///
    /// # Errors
    /// That of the first look, which may have the wrong name, and those of standard output.
    fn after(&mut self, look: anyhow::Result<()>) -> anyhow::Result<Option<String>> {
        let error = match look {
            Ok(()) => {
                (self.shown, self.missed) = (true, None);
                return Ok(None);
            }
            Err(error) if !self.shown || error.is::<NobodyReads>() || error.is::<io::Error>() => return Err(error),
            Err(error) => format!("{error:#}; looking again"),
        };
        let said = self.missed.replace(error.clone()).filter(|before| *before == error);
        Ok(said.is_none().then_some(error))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_agent_that_restarts_does_not_end_it() {
        let mut looks = Looks::default();
        assert_eq!(looks.after(Ok(())).unwrap(), None);
        let away = || Err(anyhow!("no agent answers"));
        assert_eq!(looks.after(away()).unwrap().unwrap(), "no agent answers; looking again");
        assert_eq!(looks.after(away()).unwrap(), None, "it was said");
        assert!(looks.after(Err(anyhow!("another"))).unwrap().is_some());
        assert_eq!(looks.after(Ok(())).unwrap(), None);
        assert!(looks.after(away()).unwrap().is_some(), "it is away again");
    }

    #[test]
    fn one_that_never_was_there_and_nobody_who_reads_end_it() {
        assert!(Looks::default().after(Err(anyhow!("no agent answers"))).is_err());
        for gone in [NobodyReads.into(), io::Error::from(io::ErrorKind::StorageFull).into()] {
            let mut looks = Looks { shown: true, missed: None };
            assert!(looks.after(Err(gone)).is_err());
        }
    }
}
