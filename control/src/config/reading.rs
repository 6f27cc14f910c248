//! What the TOML reader refused, told in terms of fields and of what is allowed in them.

use std::ops::Range;

use super::allowed::allowed;
use super::check::Wrong;

/// Bytes of a refused value that are repeated at most.
const VALUE_BYTES: usize = 40;
/// How messages begin that are about a value and not about the form of the file.
const ABOUT_VALUES: [&str; 5] = ["invalid type", "invalid value", "invalid IP", "unknown variant", "wanted "];
/// Words of messages about values that say themselves what is allowed.
const COMPLETE: [&str; 2] = ["is out of range: allowed", "is not a MAC address: expected"];

pub(super) fn refused(text: &str, error: &toml::de::Error) -> Wrong {
    let span = error.span().filter(|span| span.end <= text.len()).unwrap_or(0..0);
    let told = describe(text, &span, error.message());
    Wrong { message: told.unwrap_or_else(|| error.message().to_owned()), span }
}

fn describe(text: &str, span: &Range<usize>, message: &str) -> Option<String> {
    if let Some(field) = message.strip_prefix("missing field ") {
        let name = field.trim_matches('`');
        let table = if name == "underlay" { "" } else { table_of(&text[..span.end]) };
        return Some(format!("{field} is missing: {}", allowed(table, name)?));
    }
    if let Some(unknown) = message.strip_prefix("unknown field ") {
        let (field, known) = unknown.split_once(", expected ")?;
        return Some(format!("{field} is no field here: allowed are {}", known.trim_start_matches("one of ")));
    }
    let about_value = ABOUT_VALUES.iter().any(|start| message.starts_with(start));
    let value = text[span.clone()].trim();
    if about_value && let Some(header) = value.strip_prefix('[').filter(|_| is_line_start(&text[..span.start])) {
        let field = header.trim_matches(['[', ']']);
        return Some(format!("`{field}` is written otherwise: {}", allowed("", field)?));
    }
    let (field, in_list) = field_of(&text[..span.start])?;
    if COMPLETE.iter().any(|words| message.contains(words)) {
        return Some(format!("`{field}`: {message}"));
    }
    if !about_value {
        return None;
    }
    let value = if value.len() <= VALUE_BYTES && !value.contains('\n') { value } else { "wrong" };
    let verb = if in_list { "has" } else { "is" };
    Some(format!("`{field}` {verb} {value}: {}", allowed(table_of(&text[..span.start]), field)?))
}

/// The last table header in a text; the empty name before the first.
fn table_of(text: &str) -> &str {
    let headers = text.lines().rev().filter_map(|line| {
        let name = line.trim().strip_prefix('[')?.trim_start_matches('[').split(']').next()?;
        is_key(name).then_some(name)
    });
    headers.into_iter().next().unwrap_or_default()
}

/// The key whose value has begun where the text ends, and whether that value is a list.
fn field_of(text: &str) -> Option<(&str, bool)> {
    let mut end = text.len();
    loop {
        let start = text[..end].rfind('\n').map_or(0, |newline| newline + 1);
        if let Some((key, _)) = text[start..end].split_once('=').filter(|(key, _)| is_key(key.trim())) {
            let value = &text[start + key.len() + 1..];
            return Some((key.trim(), value.trim_start().starts_with('[')));
        }
        end = start.checked_sub(1)?;
    }
}

fn is_line_start(text: &str) -> bool {
    text.is_empty() || text.ends_with('\n')
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}
