//! `weft top`: ports, peers, drops and workers of an agent, live.

mod rates;
mod screen;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use weft_api::{Query, Reply};

use self::rates::Sample;
use self::screen::View;
use crate::interrupt::Guard;
use crate::target::Target;

/// Seconds between two looks at least and at most.
const SECONDS: std::ops::RangeInclusive<u64> = 1..=60;

/// What `weft top --help` says at its end.
const KEYS: &str = "\
Keys:
  q, Esc, Ctrl-C   end
  space            hold the picture, and go on
  s                sort by bytes, by drops, or by name
  up, down, j, k   scroll ports and peers
  +, -             look less or more often";

#[derive(clap::Args)]
#[command(after_help = KEYS)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !std::io::stdout().is_terminal() {
        bail!("standard output is no terminal: weft show ports --watch prints lines instead");
    }
    let started = Instant::now();
    // An agent that does not answer at all is told of on the terminal as it was.
    let first = sample(&args.target, started)?;
    // Signals come past the terminal's keys.
    let guard = Guard::arm(leave)?;
    let mut terminal = ratatui::init();
    let restores = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        leave();
        restores(panic);
    }));
    let shown = show(&mut terminal, args, started, first);
    leave();
    drop(guard);
    shown.map(|()| ExitCode::SUCCESS)
}

/// Gives the terminal back as it was. The cursor is no part of what ratatui restores.
fn leave() {
    ratatui::restore();
    // A terminal that is gone has no cursor.
    let _ = execute!(std::io::stdout(), Show);
}

fn show(terminal: &mut ratatui::DefaultTerminal, args: &Args, started: Instant, first: Sample) -> anyhow::Result<()> {
    let mut view = View::new(first, args.every);
    let mut next = Instant::now() + Duration::from_secs(view.seconds);
    loop {
        terminal.draw(|frame| screen::draw(frame, &view))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press && obey(&mut view, key) == Next::End => {
                    return Ok(());
                }
                _ => {}
            }
        }
        if Instant::now() >= next {
            next = Instant::now() + Duration::from_secs(view.seconds);
            if !view.is_held {
                view.take(sample(&args.target, started));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

/// Does what a key says.
fn obey(view: &mut View, key: KeyEvent) -> Next {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return Next::End,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Next::End,
        KeyCode::Char(' ') => view.is_held = !view.is_held,
        KeyCode::Char('s') => view.order = view.order.next(),
        KeyCode::Char('j') | KeyCode::Down => view.scroll(1),
        KeyCode::Char('k') | KeyCode::Up => view.scroll(-1),
        KeyCode::Char('+') => view.seconds = (view.seconds + 1).min(*SECONDS.end()),
        KeyCode::Char('-') => view.seconds = (view.seconds - 1).max(*SECONDS.start()),
        _ => {}
    }
    Next::GoOn
}

fn sample(target: &Target, started: Instant) -> anyhow::Result<Sample> {
    let mut sample = Sample { at: started.elapsed(), ..Sample::default() };
    let mut client = target.connect()?;
    for query in [Query::Status, Query::Ports, Query::Vteps, Query::Drops, Query::Workers] {
        match client.ask(query)? {
            Reply::Status(status) => sample.status = *status,
            Reply::Ports(rows) => sample.ports = rows,
            Reply::Vteps(rows) => sample.vteps = rows,
            Reply::Drops(rows) => sample.drops = rows,
            Reply::Workers(rows) => sample.workers = rows,
            Reply::Error { message, .. } => bail!("{message}"),
            _ => {}
        }
    }
    Ok(sample)
}
