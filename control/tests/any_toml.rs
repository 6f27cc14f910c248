//! No TOML, and nothing that only resembles it, makes the configuration's reader panic, and every refusal can be shown.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use weft_control::config::{Config, ConfigError};

const DOC: &str = include_str!("../../docs/configuration.md");
const FIELDS: &str = include_str!("../src/config/file.rs");
const UNDERLAY: &str = "[underlay]\naddresses = [\"192.0.2.1\"]\n";
const HEADERS: [&str; 10] = [
    "[underlay]",
    "[fdb]",
    "[[vni]]",
    "[[vtep]]",
    "[[port]]",
    "[[underlay]]",
    "[vni]",
    "[port.name]",
    "[[vni.id]]",
    "[\"\"]",
];

fn example() -> &'static str {
    DOC.split_once("```toml\n").and_then(|(_, rest)| rest.split_once("```")).map_or("", |(example, _)| example)
}

/// Names of fields, taken from the structs that are read.
fn field() -> impl Strategy<Value = String> {
    let names: Vec<String> = FIELDS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        .collect();
    assert!(names.len() >= 24, "{names:?}");
    prop_oneof![
        8 => prop::sample::select(names),
        1 => prop::sample::select(vec!["vni", "vtep", "port"]).prop_map(str::to_owned),
        1 => "[a-z.\"]{0,8}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    let likely = [
        "\"inherit\"",
        "\"auto\"",
        "\"off\"",
        "\"geneve\"",
        "\"learning\"",
        "\"192.0.2.7\"",
        "\"fd00::1\"",
        "\"10.0.0.1/24\"",
        "\"02:00:00:00:00:01\"",
        "\"/run\"",
        "nan",
        "-inf",
        "1e400",
        "1979-05-27T07:32:00Z",
        "07:32:00",
        "0x10",
        "0o7",
        "0b1",
        "1_000",
        "''",
        "\"\"\"\n\"\"\"",
        "{}",
        "{ a = 1 }",
    ];
    let leaf = prop_oneof![
        4 => prop::sample::select(likely.to_vec()).prop_map(str::to_owned),
        3 => any::<i64>().prop_map(|number| number.to_string()),
        3 => (-2..70_000i64).prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_map(|number| number.to_string()),
        1 => any::<bool>().prop_map(|yes| yes.to_string()),
        2 => any::<String>().prop_map(|text| format!("{text:?}")),
        1 => "[^\n]{0,6}",
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(", "))),
            vec(inner, 0..4).prop_map(|values| format!("[\n{}\n]", values.join(",\n"))),
        ]
    })
}

fn document() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => (field(), value()).prop_map(|(field, value)| format!("{field} = {value}")),
        2 => prop::sample::select(HEADERS.to_vec()).prop_map(str::to_owned),
    ];
    (any::<bool>(), vec(line, 0..12)).prop_map(|(underlay, lines)| {
        let start = if underlay { UNDERLAY } else { "" };
        format!("{start}{}\n", lines.join("\n"))
    })
}

/// The example with some of its characters and lines changed.
fn damaged() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..4usize, any::<char>());
    vec(edit, 1..6).prop_map(|edits| {
        let mut text: Vec<char> = example().chars().collect();
        for (at, kind, other) in edits {
            let at = at.index(text.len());
            let line_end = text[at..].iter().position(|char| *char == '\n').map_or(text.len(), |len| at + len + 1);
            match kind {
                0 => text[at] = other,
                1 => text.insert(at, other),
                2 => drop(text.drain(at..line_end)),
                _ => {
                    let line = text[at..line_end].to_vec();
                    text.splice(at..at, line);
                }
            }
        }
        text.into_iter().collect()
    })
}

/// Reads a text; whatever is said of it is said of a line that it has.
fn read(text: &str) -> Result<(), TestCaseError> {
    match Config::parse(text, Path::new("n1.toml")) {
        Ok(config) => prop_assert!(!config.listen.is_empty()),
        Err(ConfigError::Wrong { line, message, rendered }) => {
            prop_assert!(!message.is_empty() && rendered.contains("n1.toml"));
            prop_assert!((1..=text.lines().count() + 1).contains(&line), "line {} of\n{}", line, text);
        }
        Err(error) => prop_assert!(false, "{} of\n{}", error, text),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn fields_and_values_in_any_order(text in document()) {
        read(&text)?;
    }

    #[test]
    fn the_example_damaged(text in damaged()) {
        read(&text)?;
    }

    #[test]
    fn any_text(text in any::<String>(), underlay in any::<bool>()) {
        let start = if underlay { UNDERLAY } else { "" };
        read(&format!("{start}{text}"))?;
    }
}
