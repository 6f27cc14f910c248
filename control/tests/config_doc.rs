//! docs/configuration.md against the code.

use std::path::Path;

use weft_control::config::Config;

const DOC: &str = include_str!("../../docs/configuration.md");
const FIELDS: [&str; 5] = [
    include_str!("../src/config/file.rs"),
    include_str!("../src/config/file/control.rs"),
    include_str!("../src/config/file/metrics.rs"),
    include_str!("../src/config/file/network.rs"),
    include_str!("../src/config/file/workers.rs"),
];

fn example() -> &'static str {
    DOC.split_once("```toml\n").and_then(|(_, rest)| rest.split_once("```")).map_or("", |(example, _)| example)
}

/// Every field of the file as it is written in it, tables as their header.
fn fields() -> Vec<String> {
    let mut renamed = None;
    let mut fields = Vec::new();
    for line in FIELDS.iter().flat_map(|file| file.lines()).map(str::trim) {
        if let Some((_, rest)) = line.split_once("rename = \"") {
            renamed = rest.split('"').next();
        }
        let field = line.strip_prefix("pub ").and_then(|line| line.split_once(": "));
        if let Some((name, kind)) = field.filter(|(name, _)| !name.contains(' ')) {
            let tables = [
                "Underlay,",
                "Offloads,",
                "Fdb,",
                "Workers,",
                "Option<Control>,",
                "Option<Metrics>,",
                "Option<Network>,",
            ];
            let is_table = tables.contains(&kind);
            fields.push(match renamed.take() {
                Some(name) => format!("`[[{name}]]`"),
                None if is_table => format!("`[{name}]`"),
                None => format!("`{name}`"),
            });
        }
    }
    fields
}

#[test]
fn the_example_is_in_order_and_leaves_no_field_out() {
    let config = Config::parse(example(), Path::new("docs/configuration.md")).unwrap();
    assert_eq!((config.vnis.len(), config.vteps.len(), config.ports.len()), (2, 2, 2));
    for field in fields() {
        let field = field.trim_matches('`');
        let written = |line: &str| line.starts_with(field) && (field.starts_with('[') || line.contains('='));
        assert!(example().lines().any(written), "{field} is not in the example");
    }
}

#[test]
fn every_field_has_its_row_or_its_section() {
    let fields = fields();
    assert!(fields.len() >= 31, "{fields:?}");
    for field in fields {
        let start = if field.starts_with("`[") { format!("## {field}") } else { format!("| {field} |") };
        assert!(DOC.lines().any(|line| line.starts_with(&start)), "docs/configuration.md has no `{start}`");
    }
}
