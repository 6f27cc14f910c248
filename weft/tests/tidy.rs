//! What every file has to keep to.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

#[expect(dead_code, reason = "the other test reads more of it")]
mod workspace;

use std::fs;
use std::path::{Path, PathBuf};

use workspace::{packages, root};

const LINES: usize = 500;
const TEST_LINES: usize = 800;
/// Lines above unsafe code within which its reason has to stand.
const SAFETY_LINES: usize = 4;

/// Where unsafe code lives: of the product, and of the tests for what std does not offer.
const UNSAFE: [&str; 3] = ["switch/src/sys/", "encap/src/checksum.rs", "integration/src/sys.rs"];
/// Files that have so many marked places of it besides.
const UNSAFE_PLACES: [(&str, usize); 5] = [
    ("netns/src/named.rs", 1),
    ("netns/src/child.rs", 1),
    ("testbed/src/agent.rs", 1),
    // Allocators that count, for tests.
    ("integration/tests/allocations.rs", 5),
    ("switch/src/worker_tests.rs", 5),
];

/// Never written, with what to do instead. In two parts, so as not to be found here.
const NOWHERE: [([&str; 2], &str); 4] = [
    (["to", "do!("], "write it, or leave it out"),
    (["unimpl", "emented!("], "write it, or leave it out"),
    (["FIX", "ME"], "fix it, or open an issue"),
    (["#[ig", "nore"], "a test that cannot run says so by name, and why"),
];
/// Never written outside of tests.
const NOT_IN_PRODUCT: [([&str; 2], &str); 1] = [(["thread::", "sleep"], "wait for what you wait for")];

/// The one way to skip a test.
const SKIP: &str = "integration/src/skip.rs";

struct Source {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let directories = ["/tests/", "/benches/", "integration/", "fuzz/", "/fdb/model.rs"];
        directories.iter().any(|part| self.path.contains(part)) || name.ends_with("tests.rs")
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let mut children: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    children.sort();
    children.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        !name.starts_with('.') && name != "target" && name != "generated"
    });
    children
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut waiting = children(&root());
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(children(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
            found.push(Source { path, text });
        }
    }
    assert!(found.len() > 80, "the walk found {} files", found.len());
    found
}

/// Numbers, from 0, of the lines that have the keyword outside of comments and texts.
fn unsafe_lines(text: &str) -> Vec<usize> {
    let has = |line: &str| {
        let code: String = line.split('"').step_by(2).collect();
        let code = code.split("//").next().unwrap_or_default();
        code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|word| word == concat!("uns", "afe"))
    };
    text.lines().enumerate().filter(|(_, line)| has(line)).map(|(number, _)| number).collect()
}

#[test]
fn files_are_short_enough_to_be_read() {
    for source in sources() {
        let (lines, limit) = (source.text.lines().count(), if source.is_test() { TEST_LINES } else { LINES });
        assert!(
            lines <= limit,
            "{} has {lines} lines, {limit} are allowed: split it by what its parts do",
            source.path
        );
    }
}

#[test]
fn unsafe_code_keeps_to_its_places() {
    for source in sources() {
        let found = unsafe_lines(&source.text);
        let places = UNSAFE_PLACES.iter().find(|(path, _)| *path == source.path).map(|(_, places)| *places);
        match places {
            Some(places) => {
                let marked = source.text.contains(concat!("#[expect(uns", "afe_code, reason = "));
                assert!(
                    marked && found.len() == places,
                    "{}: {} places, {places} are listed",
                    source.path,
                    found.len()
                );
            }
            None => {
                let home = UNSAFE.iter().any(|home| source.path.starts_with(home));
                assert!(home || found.is_empty(), "{} has code that belongs in {}", source.path, UNSAFE[0]);
            }
        }
    }
}

#[test]
fn unsafe_code_says_why_it_is_sound() {
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for number in unsafe_lines(&source.text) {
            // Functions of a trait that is implemented: the reason stands at the block inside.
            if lines[number].trim_start().starts_with(concat!("uns", "afe fn")) {
                continue;
            }
            let near = &lines[number.saturating_sub(SAFETY_LINES)..=number];
            let said = near.iter().any(|line| line.contains("SAFETY:"));
            assert!(said, "{}:{}: say why it is sound, in a line that begins with SAFETY:", source.path, number + 1);
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    for source in sources() {
        let product = NOT_IN_PRODUCT.iter().filter(|_| !source.is_test());
        for ([start, end], instead) in NOWHERE.iter().chain(product) {
            let word = [*start, *end].concat();
            assert!(!source.text.contains(&word), "{} has `{word}`: {instead}", source.path);
        }
    }
}

#[test]
fn tests_are_skipped_in_one_way() {
    let mark = ["\"SKIP", "PED "].concat();
    for source in sources() {
        let says = |line: &&str| ["print", "write"].iter().any(|verb| line.contains(verb)) && line.contains(&mark);
        let said = source.text.lines().filter(says).count();
        assert_eq!(said, usize::from(source.path == SKIP), "{}: skip by {SKIP}, which reports it", source.path);
    }
}

#[test]
fn the_readme_names_every_folder() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for folder in children(&root()).into_iter().filter(|path| path.is_dir()) {
        let name = format!("`{}/`", folder.file_name().unwrap().to_string_lossy());
        assert!(readme.contains(&name), "README.md does not say what {name} is for");
    }
}

/// Targets of the links in a page that lead to files, `[text](file#heading)`: each part empty where it is left out.
fn links(page: &str) -> impl Iterator<Item = (&str, &str)> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let files = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    files.map(|target| target.split_once('#').unwrap_or((target, "")))
}

/// What links call the headings of a page: in small letters, with dashes for blanks and without other signs.
fn headings(page: &str) -> impl Iterator<Item = String> {
    let lines = page.lines().filter(|line| line.starts_with('#'));
    lines.map(|line| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    })
}

#[test]
fn links_lead_somewhere() {
    let mut pages = 0;
    let mut waiting = children(&root());
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(children(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages += 1;
            let page = fs::read_to_string(&path).unwrap();
            for (file, heading) in links(&page) {
                let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
                assert!(target.exists(), "{} links to {file}, which does not exist", path.display());
                let there =
                    heading.is_empty() || headings(&fs::read_to_string(&target).unwrap()).any(|one| one == heading);
                assert!(there, "{} links to {file}#{heading}, a heading that does not exist", path.display());
            }
        }
    }
    assert!(pages > 5, "the walk found {pages} pages");
}

#[test]
fn every_dependency_has_its_reason() {
    let page = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let packages = packages();
    let others = packages.iter().flat_map(|package| &package.dependencies).filter(|dependency| !dependency.ours);
    let mut names: Vec<&str> = others.map(|dependency| dependency.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let row = format!("| `{name}` |");
        assert!(page.lines().any(|line| line.starts_with(&row)), "docs/dependencies.md has no row for `{name}`");
    }
    for row in page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')) {
        assert!(names.contains(&row.0), "docs/dependencies.md has a row for `{}`, which nothing uses", row.0);
    }
}
