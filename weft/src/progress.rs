use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the line moves while nothing new happens.
const TICK: Duration = Duration::from_millis(120);

/// One line on the terminal that says what is being done; nothing where standard error is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn start(what: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(TICK);
        Self { bar }
    }

    pub(crate) fn say(&self, message: impl std::fmt::Display) {
        self.bar.set_message(message.to_string());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
