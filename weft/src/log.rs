//! The log of agents and stores: words or JSON on standard error, and of each kind of line so many a minute at most.

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use weft_control::config::LogFormat;

/// Lines of one kind, which is one place in the code, in a [`PERIOD`] at most.
const LINES: u32 = 20;
/// The time that [`LINES`] are for.
const PERIOD: Duration = Duration::from_secs(60);

/// Logs from now on what the filter lets through.
pub(crate) fn start(filter: EnvFilter, format: LogFormat) {
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let lines = Format::default().with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(terminal).event_format(Limited::new(lines, left_out_in_words)).init(),
        LogFormat::Json => {
            let lines: Format<Json> = lines.json();
            let log = log.with_ansi(false).fmt_fields(JsonFields::new());
            log.event_format(Limited::new(lines, left_out_in_json)).init();
        }
    }
}

/// How many lines of one kind were let through, and how many not.
#[derive(Debug, Default)]
struct Kind {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Kind {
    /// Notes a line. If it is to be written: how many were left out before it.
    fn note(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= PERIOD) {
            self.began = Some(now);
            self.lines = 0;
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Lines in a format, but for those that are too many.
struct Limited<F> {
    lines: F,
    left_out: fn(&mut Writer<'_>, u64) -> fmt::Result,
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

impl<F> Limited<F> {
    fn new(lines: F, left_out: fn(&mut Writer<'_>, u64) -> fmt::Result) -> Self {
        Self { lines, left_out, kinds: Mutex::default() }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let kind = event.metadata().callsite();
        // Whoever panicked here left whole numbers.
        let noted = {
            let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            kinds.entry(kind).or_default().note(Instant::now())
        };
        let Some(left_out) = noted else { return Ok(()) };
        self.lines.format_event(context, writer.by_ref(), event)?;
        if left_out > 0 { (self.left_out)(&mut writer, left_out) } else { Ok(()) }
    }
}

fn left_out_in_words(writer: &mut Writer<'_>, count: u64) -> fmt::Result {
    writeln!(writer, "    {count} lines of this kind were left out before this one: {LINES} a minute are written")
}

fn left_out_in_json(writer: &mut Writer<'_>, count: u64) -> fmt::Result {
    let message = "lines of the kind of the one before were left out";
    writeln!(writer, r#"{{"level":"INFO","fields":{{"message":"{message}","count":{count}}}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_cut_and_counted() {
        let start = Instant::now();
        let mut kind = Kind::default();
        let written = (0..100).filter(|_| kind.note(start) == Some(0)).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(kind.note(start + PERIOD - Duration::from_millis(1)), None);
        assert_eq!(kind.note(start + PERIOD), Some(u64::from(100 - LINES) + 1));
        assert_eq!(kind.note(start + PERIOD), Some(0));
    }

    #[test]
    fn what_is_said_of_it_is_json_among_json() {
        let mut text = String::new();
        left_out_in_json(&mut Writer::new(&mut text), 7).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["fields"]["count"], 7);
    }
}
