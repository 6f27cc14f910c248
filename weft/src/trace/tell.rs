//! A story for people.

use weft_api::{CopyEnd, DropHint, Step};

use super::ink::Ink;
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
    for end in ends {
        match end {
            End::Delivered { node, pod } => say!("{} to {pod} on {node}", ink.good("delivered"))?,
            End::Left { node, vtep } => {
                say!("{} {node} towards VTEP {vtep}, whose node cannot be asked from here", ink.strong("left"))?;
            }
            End::Dropped { node, towards, dropped } => {
                let towards = towards.as_ref().map_or_else(String::new, |to| format!(", the copy to {to}"));
                say!("{} on {node}{towards}: {}", ink.bad("dropped"), ink.bad(&dropped.reason))?;
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
    let detail = dropped.detail.as_ref().map_or_else(String::new, |detail| format!(" ({detail})"));
    let stage = ink.bad(format_args!("{:<STAGE$}", "DROP"));
    say!("  {name}{stage} {}: {}{detail}", ink.bad(&dropped.reason), dropped.meaning)
}
