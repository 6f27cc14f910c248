use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::out;

/// How often the line moves while nothing new happens.
const TICK: Duration = Duration::from_millis(120);
/// How long a step takes that is worth a line where there is no terminal.
const LONG: Duration = Duration::from_secs(1);

/// Says on standard error what is being done: on a terminal by one line that moves, elsewhere by a plain line for
/// each step that takes long.
pub(crate) struct Progress(Kind);

enum Kind {
    Moving(ProgressBar),
    Plain(Option<(Sender<String>, JoinHandle<()>)>),
}

impl Progress {
    pub(crate) fn start(what: &str) -> Self {
        Self(if std::io::stderr().is_terminal() { moving(what) } else { plain(what) })
    }

    pub(crate) fn say(&self, message: impl std::fmt::Display) {
        match &self.0 {
            Kind::Moving(bar) => bar.set_message(message.to_string()),
            Kind::Plain(Some((steps, _))) => {
                // The other end lives as long as this one.
                let _ = steps.send(message.to_string());
            }
            Kind::Plain(None) => {}
        }
    }

    /// Says what is to stay on the screen.
    pub(crate) fn keep(&self, message: impl std::fmt::Display) {
        match &self.0 {
            Kind::Moving(bar) => bar.println(message.to_string()),
            Kind::Plain(_) => out::remark(format_args!("{message}")),
        }
    }
}

fn moving(what: &str) -> Kind {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {wide_msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(TICK);
    Kind::Moving(bar)
}

fn plain(what: &str) -> Kind {
    let (sender, steps) = channel();
    let what = what.to_owned();
    let line = move |step: &str| out::remark(format_args!("{what} {step}"));
    Kind::Plain(Some((sender, std::thread::spawn(move || say_long_ones(&steps, LONG, line)))))
}

/// Calls `line` with every step that no other one follows for so long.
fn say_long_ones(steps: &Receiver<String>, long: Duration, mut line: impl FnMut(&str)) {
    while let Ok(mut step) = steps.recv() {
        loop {
            match steps.recv_timeout(long) {
                Ok(next) => step = next,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        line(&step);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match &mut self.0 {
            Kind::Moving(bar) => bar.finish_and_clear(),
            Kind::Plain(running) => {
                if let Some((steps, thread)) = running.take() {
                    drop(steps);
                    // It has nothing to give back.
                    let _ = thread.join();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_if_no_other_follows_soon() {
        let (sender, steps) = channel();
        let (told, lines) = channel();
        let long = Duration::from_millis(100);
        let thread =
            std::thread::spawn(move || say_long_ones(&steps, long, |step| told.send(step.to_owned()).unwrap()));
        ["short", "short too", "long"].into_iter().for_each(|step| sender.send(step.to_owned()).unwrap());
        assert_eq!(lines.recv().unwrap(), "long");
        sender.send("cut off".to_owned()).unwrap();
        drop(sender);
        thread.join().unwrap();
        assert!(lines.recv().is_err());
    }
}
