//! The picture: a view, and how it is drawn.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use weft_api::{PortRow, VtepRow};

use super::rates::{Between, Rates, Sample, percent, short};

/// Lines of the screen that drops take at most, their heading included.
const DROP_LINES: usize = 6;
/// The same of workers.
const WORKER_LINES: usize = 9;

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Bytes,
    Drops,
    Name,
}

impl Order {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Bytes => Self::Drops,
            Self::Drops => Self::Name,
            Self::Name => Self::Bytes,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Drops => "drops",
            Self::Name => "name",
        }
    }
}

/// What is shown, and how.
#[derive(Debug)]
pub(super) struct View {
    before: Sample,
    now: Sample,
    /// Why the last look failed.
    failed: Option<String>,
    pub(super) is_held: bool,
    pub(super) order: Order,
    pub(super) seconds: u64,
    first_row: usize,
}

impl View {
    pub(super) fn new(first: Sample, seconds: u64) -> Self {
        let before = first.clone();
        Self { before, now: first, failed: None, is_held: false, order: Order::Bytes, seconds, first_row: 0 }
    }

    /// The next look; one that failed leaves what is known.
    pub(super) fn take(&mut self, sample: anyhow::Result<Sample>) {
        match sample {
            Ok(sample) => {
                self.before = std::mem::replace(&mut self.now, sample);
                self.failed = None;
            }
            Err(error) => self.failed = Some(error.to_string()),
        }
    }

    pub(super) fn scroll(&mut self, rows: isize) {
        let last = self.now.ports.len().max(self.now.vteps.len()).saturating_sub(1);
        self.first_row = self.first_row.saturating_add_signed(rows).min(last);
    }

    fn between(&self) -> Between<'_> {
        Between { before: &self.before, now: &self.now }
    }

    /// In the order that is wanted, without what is scrolled away.
    fn sorted<'a, T>(&self, rows: &'a [T], rates: impl Fn(&T) -> Rates, name: fn(&T) -> &str) -> Vec<(&'a T, Rates)> {
        let mut rows: Vec<_> = rows.iter().map(|row| (row, rates(row))).collect();
        let by_name = |a: &(&T, Rates), b: &(&T, Rates)| name(a.0).cmp(name(b.0));
        match self.order {
            Order::Bytes => rows.sort_by(|a, b| b.1.bits().total_cmp(&a.1.bits()).then_with(|| by_name(a, b))),
            Order::Drops => rows.sort_by(|a, b| b.1.drops.total_cmp(&a.1.drops).then_with(|| by_name(a, b))),
            Order::Name => rows.sort_by(by_name),
        }
        let hidden = self.first_row.min(rows.len().saturating_sub(1));
        rows.split_off(hidden)
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let workers = (view.now.workers.len() + 1).min(WORKER_LINES);
    let drops = happened(view);
    let drop_lines = if drops.is_empty() { 1 } else { (drops.len() + 1).min(DROP_LINES) };
    let length = |lines: usize| Constraint::Length(lines as u16);
    let free = usize::from(frame.area().height).saturating_sub(3 + workers + 1 + drop_lines + 1 + 1);
    // Each with its heading, and a line between.
    let [ports, vteps] = shares(free, [view.now.ports.len() + 2, view.now.vteps.len() + 2]);
    let areas = Layout::vertical([
        length(3),
        length(workers + 1),
        length(ports),
        length(vteps),
        length(drop_lines + 1),
        Constraint::Fill(1),
        length(1),
    ])
    .split(frame.area());
    head(frame, areas[0], view);
    draw_workers(frame, areas[1], view);
    draw_ports(frame, areas[2], view);
    draw_vteps(frame, areas[3], view);
    draw_drops(frame, areas[4], &drops);
    let foot = "q ends   space holds   s sorts   up/down scroll   +/- how often";
    frame.render_widget(Paragraph::new(foot).style(dim()), areas[6]);
}

/// Lines for each of two lists that want so many: what they want, or where that is too much, half for each but for what
/// one of them leaves.
fn shares(free: usize, [one, other]: [usize; 2]) -> [usize; 2] {
    let half = free / 2;
    match (one + other <= free, one <= half, other <= half) {
        (true, ..) => [one, other],
        (_, true, _) => [one, free - one],
        (_, _, true) => [free - other, other],
        _ => [free - half, half],
    }
}

fn head(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let status = &view.now.status;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let held = if view.is_held { "  held" } else { "" };
    let first = Line::from(vec![
        Span::styled(status.node.clone(), bold),
        Span::raw(format!("  up {} s  {}  MTU {}", status.uptime_seconds, status.underlay.level, status.underlay.mtu)),
        Span::raw(store(view)),
        Span::styled(format!("  every {} s by {}{held}", view.seconds, view.order.name()), dim()),
    ]);
    let total = view.now.ports.iter().map(|row| view.between().port(row)).fold(Rates::default(), Rates::plus);
    let second = match &view.failed {
        Some(error) => Line::styled(format!("no answer: {error}"), alarm()),
        None => Line::raw(format!(
            "pods send {} frames/s, {}bit/s; get {} frames/s, {}bit/s",
            short(total.rx_frames),
            unit(total.rx_bits),
            short(total.tx_frames),
            unit(total.tx_bits)
        )),
    };
    frame.render_widget(Paragraph::new(vec![first, second]), area);
}

/// A number before the name of a unit: without a prefix it needs a blank of its own.
fn unit(number: f64) -> String {
    let short = short(number);
    if short.contains(' ') { short } else { format!("{short} ") }
}

fn store(view: &View) -> String {
    view.now.status.control.as_ref().map_or(String::new(), |control| format!("  store {}", control.state))
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let rows = view.now.workers.iter().map(|row| {
        let work = view.between().worker(row);
        let at_once = work.at_once.map_or_else(|| "-".to_owned(), |frames| format!("{frames:.1}"));
        vec![row.name.clone(), percent(work.ran), percent(work.waited), short(work.frames), at_once, short(work.looks)]
    });
    let columns = [("WORKER", NAME), ("#RAN", 8), ("#WAITED", 7), ("#FRAMES/S", 8), ("#AT ONCE", 7), ("#LOOKS/S", 8)];
    table(frame, area, &columns, rows.map(|cells| (cells, Style::new())).collect());
}

fn draw_ports(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let rates = |row: &PortRow| view.between().port(row);
    let rows = view.sorted(&view.now.ports, rates, |row| &row.name).into_iter().map(|(row, rates)| {
        let is_well = row.state == "forwarding";
        let cells = [vec![row.name.clone(), row.vni.to_string()], of_link(rates), vec![row.state.clone()]].concat();
        (cells, if is_well { Style::new() } else { alarm() })
    });
    let columns = [("PORT", NAME), ("#VNI", 8)];
    let columns = [&columns[..], &LINK, &[("STATE", 10)]].concat();
    table(frame, area, &columns, rows.collect());
}

fn draw_vteps(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let rates = |row: &VtepRow| view.between().vtep(row);
    let rows = view.sorted(&view.now.vteps, rates, |row| &row.address).into_iter().map(|(row, rates)| {
        let path_mtu = row.path_mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string());
        let rtt = row.path_rtt_us.map_or_else(|| "-".to_owned(), |us| format!("{:.2} ms", us as f64 / 1e3));
        let state = format!("{} {rtt}", row.path);
        let cells = [vec![row.address.clone(), path_mtu], of_link(rates), vec![state]].concat();
        let is_well = !["down", "black hole"].contains(&row.path.as_str());
        (cells, if is_well { Style::new() } else { alarm() })
    });
    let columns = [("PEER", NAME), ("#PATH MTU", 8)];
    let columns = [&columns[..], &LINK, &[("PATH", 10)]].concat();
    table(frame, area, &columns, rows.collect());
}

/// Columns of a name at least and at most: the longest one decides.
const NAME: u16 = 15;
const LONGEST_NAME: u16 = 39;
/// Columns of what goes through a link.
const LINK: [(&str, u16); 5] = [("#RX/S", 7), ("#RX BIT/S", 8), ("#TX/S", 7), ("#TX BIT/S", 8), ("#DROPS/S", 7)];

fn of_link(rates: Rates) -> Vec<String> {
    [rates.rx_frames, rates.rx_bits, rates.tx_frames, rates.tx_bits, rates.drops].map(short).to_vec()
}

/// Reasons for which anything was dropped, those of now first: reason, rate, total and hint.
fn happened(view: &View) -> Vec<(f64, Vec<String>)> {
    let rows = view.now.drops.iter().filter(|row| row.count > 0);
    let mut rows: Vec<_> = rows
        .map(|row| {
            let rate = view.between().dropped(row);
            (rate, vec![row.reason.clone(), short(rate), row.count.to_string(), row.hint.clone()])
        })
        .collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    rows
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, drops: &[(f64, Vec<String>)]) {
    if drops.is_empty() {
        frame.render_widget(Paragraph::new("nothing was dropped").style(dim()), area);
        return;
    }
    let rows = drops.iter().map(|(rate, cells)| (cells.clone(), if *rate > 0.0 { alarm() } else { Style::new() }));
    table(frame, area, &[("DROPPED", 22), ("#PER S", 7), ("#EVER", 10), ("WHAT TO DO", 30)], rows.collect());
}

/// Rows under headings; those that begin with `#` hold numbers.
fn table(frame: &mut Frame<'_>, area: Rect, columns: &[(&'static str, u16)], rows: Vec<(Vec<String>, Style)>) {
    let aligned = |text: String, column: usize| {
        let right = columns.get(column).is_some_and(|(heading, _)| heading.starts_with('#'));
        Cell::from(Line::raw(text).alignment(if right { Alignment::Right } else { Alignment::Left }))
    };
    let names = rows.iter().filter_map(|(cells, _)| cells.first());
    let longest = names.map(|name| name.chars().count() as u16).max().unwrap_or_default();
    let headings = columns.iter().enumerate().map(|(n, (text, _))| aligned(text.trim_start_matches('#').to_owned(), n));
    let rows = rows.into_iter().map(|(cells, style)| {
        Row::new(cells.into_iter().enumerate().map(|(n, cell)| aligned(cell, n)).collect::<Vec<_>>()).style(style)
    });
    let widths = columns.iter().enumerate().map(|(n, (heading, width))| match n {
        0 => Constraint::Length(longest.clamp(*width, LONGEST_NAME)),
        n if n == columns.len() - 1 && !heading.starts_with('#') => Constraint::Min(*width),
        _ => Constraint::Length(*width),
    });
    let heading = Row::new(headings.collect::<Vec<_>>()).style(dim());
    frame.render_widget(Table::new(rows, widths).header(heading).column_spacing(1), area);
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn alarm() -> Style {
    Style::new().fg(Color::Red)
}
