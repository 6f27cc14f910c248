//! A story for people.

use std::fmt::Write;

use weft_api::{CopyEnd, DropHint, Step, TraceRow};

use super::ink::Ink;
use super::join::Timeline;
use super::what_if::{End, Hop, Story};
use crate::out::say;

/// Columns that a stage takes.
const STAGE: usize = 12;
/// Copies of a flood that are told one by one at most.
const COPIES: usize = 12;

pub(super) fn story(story: &Story, json: bool) -> anyhow::Result<()> {
    if json {
        return say!("{}", serde_json::to_string_pretty(story)?);
    }
    let ink = Ink::of_stdout();
    let Story { from, to, packet, question, mac, journey, ends } = story;
    say!("{}", ink.strong(format_args!("{from} to {to}: {packet}")))?;
    if let Some(question) = question {
        say!("\n{}", ink.strong("the question"))?;
        hop(question, ink)?;
        if let Some(mac) = mac {
            say!("so {from} sends to {mac}")?;
        }
    }
    if let Some(journey) = journey {
        say!("\n{}", ink.strong("the packet"))?;
        hop(journey, ink)?;
    }
    say!()?;
    if mac.is_none() {
        say!("{} nobody who can be asked answers the question, so {from} sends nothing", ink.bad("unresolved:"))?;
    }
    let what = if mac.is_none() { "the question " } else { "" };
    for end in ends {
        match end {
            End::Delivered { node, pod } => say!("{} to {pod} on {node}", ink.good("delivered"))?,
            End::Left { node, vtep } => {
                say!("{what}{} {node} towards VTEP {vtep}, whose node cannot be asked from here", ink.strong("left"))?;
            }
            End::Dropped { node, towards, dropped } => {
                let towards = towards.as_ref().map_or_else(String::new, |to| format!(", the copy to {to}"));
                let verb = if mac.is_none() { "was dropped" } else { "dropped" };
                say!("{what}{} on {node}{towards}: {}", ink.bad(verb), ink.bad(&dropped.reason))?;
                say!("  what to do: {}", dropped.hint)?;
            }
        }
    }
    Ok(())
}

fn hop(hop: &Hop, ink: Ink) -> anyhow::Result<()> {
    let Hop { told, then } = hop;
    let mut node = Some(told.node.as_str());
    for step in &told.steps {
        line(&mut node, step, ink)?;
    }
    if let Some(dropped) = &told.dropped {
        drop_line(&mut node, dropped, ink)?;
    }
    let several = told.copies.len() > 1;
    for (copy, then) in told.copies.iter().zip(then).take(COPIES) {
        if several {
            say!("  {:<10}{}", "", ink.faint(format_args!("-- the copy to {}", copy.to)))?;
        }
        // Behind another node's steps, a line has to say again where it is.
        let mut node = if node.is_some() || several { Some(told.node.as_str()) } else { None };
        for step in &copy.steps {
            line(&mut node, step, ink)?;
        }
        match (&copy.end, then) {
            (CopyEnd::Dropped(dropped), _) => drop_line(&mut node, dropped, ink)?,
            (_, Some(next)) => self::hop(next, ink)?,
            (CopyEnd::Port { .. } | CopyEnd::Vtep { .. }, None) => {}
        }
    }
    let untold = told.copies.len().saturating_sub(COPIES);
    if untold > 0 {
        say!("  {:<10}{}", "", ink.faint(format_args!("-- {untold} more copies: --json has them")))?;
    }
    Ok(())
}

fn line(node: &mut Option<&str>, step: &Step, ink: Ink) -> anyhow::Result<()> {
    let name = ink.strong(format_args!("{:<10}", node.take().unwrap_or_default()));
    say!("  {name}{} {}", ink.faint(format_args!("{:<STAGE$}", step.stage)), step.text)
}

fn drop_line(node: &mut Option<&str>, dropped: &DropHint, ink: Ink) -> anyhow::Result<()> {
    let name = ink.strong(format_args!("{:<10}", node.take().unwrap_or_default()));
    let detail = dropped.detail.as_ref().map_or_else(String::new, |detail| format!(" Here: {detail}."));
    let stage = ink.bad(format_args!("{:<STAGE$}", "DROP"));
    say!("  {name}{stage} {}: {}{detail}", ink.bad(&dropped.reason), dropped.meaning)
}

/// What became of a frame that passed.
pub(super) fn timeline(timeline: &Timeline, json: bool) -> anyhow::Result<()> {
    if json {
        return say!("{}", serde_json::to_string(&timeline.rows)?);
    }
    let Some(first) = timeline.rows.first() else { return Ok(()) };
    let ink = Ink::of_stdout();
    let mut what = first.packet.clone();
    match first.packets_in {
        _ if first.bytes == 0 => {}
        0 | 1 => write!(what, ", {} bytes", first.bytes)?,
        packets => write!(what, ", {} bytes for {packets} packets", first.bytes)?,
    }
    if let Some(vni) = first.vni {
        write!(what, ", VNI {vni}")?;
    }
    say!("{} {}", clock(timeline.began_ns), ink.strong(what))?;
    for told in alike(&timeline.rows) {
        let Alike { row, frames, packets } = told;
        let after = row.entered_ns.saturating_sub(timeline.began_ns) / 1000;
        let times = if frames > 1 { format!("{frames} x ") } else { String::new() };
        let place = match row.from_kind.as_str() {
            "port" => row.from.clone(),
            "vtep" => format!("VTEP {}", row.from),
            _ => format!("stranger {}", row.from),
        };
        let end = match (&row.dropped, &row.to_kind, &row.to) {
            (Some(dropped), _, to) => {
                let to = to.as_ref().map_or_else(String::new, |to| format!("to {to}: "));
                let detail = dropped.detail.as_ref().map_or_else(String::new, |detail| format!(" ({detail})"));
                format!("{to}{} {}{detail}; {}", ink.bad("DROP"), ink.bad(&dropped.reason), dropped.hint)
            }
            (None, Some(kind), Some(to)) if kind == "port" => {
                let merged = if row.merged > 1 { ", merged with others" } else { "" };
                format!("{} {to}{merged}", ink.good("to"))
            }
            (None, _, Some(to)) => {
                let s = if packets == 1 { "" } else { "s" };
                format!("{} VTEP {to}, {packets} packet{s}", ink.good("to"))
            }
            (None, _, None) => row.why.as_ref().map_or_else(String::new, |mac| format!("{} {mac}", ink.good("with"))),
        };
        let why = match (row.verdict.as_str(), &row.why) {
            ("answer" | "drop", _) | (_, None) => row.verdict.clone(),
            (verdict, Some(why)) => format!("{verdict} ({why})"),
        };
        let times = format!("{times}from {place}");
        say!(
            "  {}{} {times:<24} {why:<19} {end}",
            ink.strong(format_args!("{:<10}", row.node)),
            ink.faint(format_args!("{after:>7} us"))
        )?;
    }
    Ok(())
}

/// Rows that say the same of several frames, the parts of one; the first of them.
struct Alike<'a> {
    row: &'a TraceRow,
    frames: usize,
    packets: u32,
}

fn alike(rows: &[TraceRow]) -> Vec<Alike<'_>> {
    let mut alike: Vec<Alike<'_>> = Vec::new();
    let reason = |row: &TraceRow| row.dropped.as_ref().map(|dropped| dropped.reason.clone());
    for row in rows {
        let same = |other: &&mut Alike<'_>| {
            let TraceRow { node, from, verdict, why, to, .. } = other.row;
            (node, from, verdict, why, to) == (&row.node, &row.from, &row.verdict, &row.why, &row.to)
                && reason(other.row) == reason(row)
        };
        match alike.iter_mut().find(same) {
            Some(known) => {
                known.frames += 1;
                known.packets += row.packets_out;
            }
            None => alike.push(Alike { row, frames: 1, packets: row.packets_out }),
        }
    }
    alike
}

/// The time of day (UTC), in microseconds.
fn clock(ns: u64) -> String {
    const DAY: u64 = 86_400;
    let (seconds, micros) = (ns / 1_000_000_000 % DAY, ns / 1000 % 1_000_000);
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
