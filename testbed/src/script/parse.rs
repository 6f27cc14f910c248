//! From the text of a script to its steps.

use std::time::Duration;

use serde::Deserialize;

use super::{Action, Expectation, STEPS_MAX, Script, Step, TIME_MAX};
use crate::file::Text;
use crate::link::{LinkChange, time};
use crate::problem::Collector;
use crate::{LabFileError, LabSpec};

const STEP: &str = "write one of `expect`, `link`, `node` and `wait`";
const TIME: &str = "allowed are times up to 600 s, such as 500ms or 5s";
const EXPECT: &str = "allowed are: ping A->B within TIME, no ping A->B during TIME, no loss A->B during TIME, \
                      tcp A->B, tcp A->B within TIME";
/// How long TCP may take unless the script says so.
const TCP_WITHIN: Duration = Duration::from_secs(10);
/// Every link of the lab.
const ALL: &str = "all";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    steps: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    at: Option<Text>,
    expect: Option<Text>,
    link: Option<Text>,
    node: Option<Text>,
    wait: Option<Text>,
}

pub(super) fn parse(text: &str, file: &str, spec: &LabSpec) -> Result<Script, LabFileError> {
    let mut collector = Collector::new(text, file);
    let File { steps } = match serde_saphyr::from_str::<File>(text) {
        Ok(file) => file,
        Err(error) => return Err(collector.shape_error(&error)),
    };
    let mut read = Vec::new();
    for entry in &steps {
        read.extend(step(&mut collector, entry, spec));
    }
    if let Some(entry) = steps.get(STEPS_MAX)
        && let Some((_, text)) = only(entry)
    {
        let message = format!("steps: {} are too many", steps.len());
        collector.add(text.referenced, message, format!("allowed are {STEPS_MAX}"));
    }
    if collector.is_empty() { Ok(Script { steps: read }) } else { Err(collector.into_error()) }
}

/// The one thing that an entry does.
fn only(entry: &Entry) -> Option<(&'static str, &Text)> {
    let all = [("expect", &entry.expect), ("link", &entry.link), ("node", &entry.node), ("wait", &entry.wait)];
    let mut written = all.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
    written.next().filter(|_| written.next().is_none())
}

fn step(collector: &mut Collector<'_>, entry: &Entry, spec: &LabSpec) -> Option<Step> {
    let Some((name, text)) = only(entry) else {
        let texts = [&entry.at, &entry.expect, &entry.link, &entry.node, &entry.wait];
        let place = texts.into_iter().flatten().next().map_or(serde_saphyr::Location::UNKNOWN, |text| text.referenced);
        collector.add(place, "a step does one thing".to_owned(), STEP);
        return None;
    };
    let action = match name {
        "expect" => expect(&text.value, spec),
        "link" => link(&text.value, spec),
        "node" => node(&text.value, spec),
        _ => duration(&text.value).map(Action::Wait).ok_or_else(|| not_allowed(&text.value, TIME)),
    };
    let at = entry.at.as_ref().map(|text| (text, duration(&text.value)));
    if let Some((text, None)) = at {
        collector.add(text.referenced, format!("at: `{}` is not allowed", text.value), TIME);
    }
    match action {
        Ok(action) => {
            let line = text.referenced.line() as usize;
            let at = at.and_then(|(_, at)| at);
            Some(Step { line, text: format!("{name} {}", text.value), at, action })
        }
        Err((message, allowed)) => {
            collector.add(text.referenced, format!("{name}: {message}"), allowed);
            None
        }
    }
}

type Wrong = (String, String);

fn not_allowed(text: &str, allowed: &str) -> Wrong {
    (format!("`{text}` is not allowed"), allowed.to_owned())
}

fn duration(text: &str) -> Option<Duration> {
    time(text).filter(|time| *time <= TIME_MAX)
}

fn expect(text: &str, spec: &LabSpec) -> Result<Action, Wrong> {
    let words = text.replace("->", " -> ");
    let words: Vec<&str> = words.split_whitespace().collect();
    let wrong = || not_allowed(text, EXPECT);
    let within = |text: &str| duration(text).ok_or_else(|| not_allowed(text, TIME));
    let (from, to, expectation) = match words.as_slice() {
        ["ping", from, "->", to, "within", time] => (from, to, Expectation::PingWithin(within(time)?)),
        ["no", "ping", from, "->", to, "during", time] => (from, to, Expectation::NoPingDuring(within(time)?)),
        ["no", "loss", from, "->", to, "during", time] => (from, to, Expectation::NoLossDuring(within(time)?)),
        ["tcp", from, "->", to] => (from, to, Expectation::TcpWithin(TCP_WITHIN)),
        ["tcp", from, "->", to, "within", time] => (from, to, Expectation::TcpWithin(within(time)?)),
        _ => return Err(wrong()),
    };
    for name in [from, to] {
        if spec.addresses_of(name).is_empty() {
            return Err((format!("`{name}` is no pod or node with an address"), known_members(spec)));
        }
    }
    if spec.common_address(from, to).is_none() {
        return Err((format!("`{from}` and `{to}` have no address family in common"), "name two others".to_owned()));
    }
    Ok(Action::Expect { from: (*from).to_owned(), to: (*to).to_owned(), expectation })
}

fn link(text: &str, spec: &LabSpec) -> Result<Action, Wrong> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [name, change @ ..] = words.as_slice() else { return Err(not_allowed(text, "write LINK and what to do")) };
    let known: Vec<String> = spec.links().collect();
    let links = if *name == ALL { known.clone() } else { vec![(*name).to_owned()] };
    if links.iter().any(|link| !known.contains(link)) {
        return Err((format!("there is no link `{name}`"), format!("links are {}", known.join(", "))));
    }
    let change = LinkChange::read(change).map_err(|error| (error.to_string(), "here".to_owned()))?;
    Ok(Action::Link { links, change })
}

fn node(text: &str, spec: &LabSpec) -> Result<Action, Wrong> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [name, event] = words.as_slice() else { return Err(not_allowed(text, "write NODE and what happens to it")) };
    if spec.nodes.iter().all(|node| node.name != *name) {
        return Err((format!("there is no node `{name}`"), known_members(spec)));
    }
    let event = event.parse().map_err(|error: crate::NodeEventError| (error.to_string(), "here".to_owned()))?;
    Ok(Action::Node { node: (*name).to_owned(), event })
}

fn known_members(spec: &LabSpec) -> String {
    format!("the lab has {}", spec.members().collect::<Vec<_>>().join(", "))
}
