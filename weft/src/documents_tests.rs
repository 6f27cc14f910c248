//! What documents, messages and units tell people to type, against the command line that there is.
//!
//! A fenced block of `console`, `console demo` or `console node` is run as well, by `integration/tests/documents/`. One of
//! `console cluster` needs machines of its own, one of `console minutes` as much: they are looked at here alone, as is what
//! stands between backticks. Nothing else may hold commands.

#![expect(clippy::print_stdout, reason = "how many of each there are is for whoever looks at the test")]

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::Cli;

/// Programs of others. Whoever writes one in a document has it looked at here: a name that is mistyped is none of them.
const OTHERS: &str = "\
    $EDITOR cat cd chmod cp curl docker echo etcdctl ethtool export git ip iperf3 journalctl jq kill kubectl ls mkdir nft \
    ping podman rm sleep ss sysctl tc tshark umount unshare wait wireshark";
/// What stands between two commands, and what before one.
const BETWEEN: [&str; 5] = ["|", "||", "&&", "&", ";"];
const BEFORE: [&str; 9] = ["!", "do", "done", "else", "fi", "if", "then", "until", "while"];
/// What fences may say: blocks in other languages are no commands.
const LANGUAGES: [&str; 7] = ["", "ini", "json", "rust", "text", "toml", "yaml"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Run by the integration tests.
    Run,
    /// It would need a cluster, or minutes.
    Parsed,
    /// Indented: drawings, and what is no command.
    Indented,
}

struct Block {
    kind: Kind,
    /// From 1.
    line: usize,
    text: String,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files of the repository with this ending, below a folder.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// A page's blocks of commands, and its text without blocks.
fn taken_apart(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose) = (Vec::new(), String::new());
    let mut lines = page.lines().enumerate().peekable();
    let mut blank_before = true;
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let kind = match language {
                "console" | "console demo" | "console node" => Kind::Run,
                "console cluster" | "console minutes" => Kind::Parsed,
                other if LANGUAGES.contains(&other) => continue,
                other => panic!("line {}: what is a block of `{other}`?", number + 1),
            };
            blocks.push(Block { kind, line: number + 1, text: text.join("\n") });
        } else if let Some(first) = line.strip_prefix("    ").filter(|_| blank_before) {
            let mut text = vec![first];
            while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with("    ")) {
                text.push(&line[4..]);
            }
            blocks.push(Block { kind: Kind::Indented, line: number + 1, text: text.join("\n") });
        } else {
            prose += line;
            prose.push('\n');
        }
        blank_before = line.is_empty();
    }
    (blocks, prose)
}

/// The commands of a block, each as its words: without comments, here-documents, redirections and what joins them.
fn commands(block: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let joined = block.replace("\\\n", " ");
    let mut lines = joined.lines();
    while let Some(line) = lines.next() {
        let line = line.strip_prefix("$ ").unwrap_or(line);
        if let Some((_, end)) = line.split_once("<<") {
            let end = end.trim_matches(['\'', '"', '-']);
            let _ = lines.by_ref().take_while(|line| *line != end).count();
        }
        let spaced = line.replace("; ", " ; ");
        let words = shlex::split(&spaced).unwrap_or_else(|| panic!("`{line}` is no command"));
        for part in words.split(|word| BETWEEN.contains(&word.as_str())) {
            let mut part = part.to_vec();
            if let Some(end) = part.iter().position(|word| word.starts_with(['>', '<']) || word.starts_with("2>")) {
                part.truncate(end);
            }
            let before = part.iter().take_while(|word| BEFORE.contains(&word.as_str())).count();
            part.drain(..before);
            let is_setting = |word: &String| word.split_once('=').is_some_and(|(name, _)| name.chars().all(is_name));
            let settings = part.iter().take_while(|word| is_setting(word)).count();
            part.drain(..settings);
            if !part.is_empty() {
                commands.push(part);
            }
        }
    }
    commands
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_'
}

/// Whether it stands for something else, as `FILE`, `LAB.NODE` and `{name}` do.
fn is_placeholder(word: &str) -> bool {
    word.contains('{') || word.chars().all(|letter| is_name(letter) || "./-:".contains(letter))
}

/// Why the command line would refuse these words. `mentioned` ones may lack what is needed, and have placeholders.
pub(crate) fn refusal(words: &[String], mentioned: bool) -> Option<String> {
    let error = Cli::command().try_get_matches_from(words).err()?;
    let allowed = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => mentioned,
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidSubcommand => {
            let value = error.get(ContextKind::InvalidValue).or_else(|| error.get(ContextKind::InvalidSubcommand));
            mentioned && matches!(value, Some(ContextValue::String(value)) if is_placeholder(value))
        }
        _ => false,
    };
    (!allowed).then(|| error.to_string())
}

/// What is wrong with a command in a block.
fn wrong(words: &[String]) -> Option<String> {
    let root = root();
    let (program, arguments) = words.split_first()?;
    let after =
        |option: &'static str| arguments.windows(2).filter(move |pair| pair[0] == option).map(|pair| pair[1].as_str());
    match program.as_str() {
        "weft" => return refusal(words, false),
        "make" => {
            let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
            let verbs = arguments.iter().filter(|word| !word.contains('='));
            let unknown = verbs.into_iter().find(|verb| !makefile.contains(&format!("\n{verb}:")))?;
            return Some(format!("the Makefile has no `{unknown}`"));
        }
        "cargo" => {
            let manifests = files(&root, "Cargo.toml");
            let known = |name: &str| {
                let line = format!("name = \"{name}\"\n");
                manifests.iter().any(|path| fs::read_to_string(path).unwrap().contains(&line))
            };
            if let Some(unknown) = after("-p").find(|name| !known(name)) {
                return Some(format!("there is no crate `{unknown}`"));
            }
            for (option, folder) in [("--test", "tests"), ("--bench", "benches")] {
                let sources = files(&root, ".rs");
                let known = |name: &str| {
                    let [file, folder] = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/main.rs")];
                    sources.iter().any(|path| path.ends_with(&file) || path.ends_with(&folder))
                };
                if let Some(unknown) = after(option).find(|name| !known(name)) {
                    return Some(format!("there is no `{option} {unknown}`"));
                }
            }
        }
        "systemctl" => {
            let unit = arguments.iter().find(|word| word.starts_with("weft"))?;
            let exists = root.join(format!("deploy/systemd/{}.service", unit.trim_end_matches(".service"))).exists();
            return (!exists).then(|| format!("there is no unit `{unit}`"));
        }
        other if !OTHERS.split(' ').any(|known| known == other) => return Some(format!("what is `{other}`?")),
        _ => {}
    }
    let ours =
        |word: &&String| ["examples/", "deploy/", "docs/", "scripts/"].iter().any(|folder| word.starts_with(folder));
    let missing = arguments.iter().filter(ours).find(|path| !root.join(path).exists())?;
    Some(format!("there is no `{missing}`"))
}

/// What a text says between backticks of `weft`.
fn mentions(text: &str) -> impl Iterator<Item = Vec<String>> {
    let spans = text.split('`').skip(1).step_by(2).filter(|span| span.starts_with("weft "));
    spans.filter_map(|span| {
        let span = span.replace(['[', ']'], " ").replace("...", " ").replace("\\\"", "\"");
        commands(&span).into_iter().next()
    })
}

#[test]
fn documents_name_nothing_that_is_not_there() {
    let (mut problems, mut blocks_of, mut commands_of) = (Vec::new(), [0; 2], [0; 2]);
    let mut mentioned = 0;
    for path in files(&root(), ".md") {
        let page = fs::read_to_string(&path).unwrap();
        let place = path.strip_prefix(root()).unwrap().display().to_string();
        let (blocks, prose) = taken_apart(&page);
        for block in blocks {
            if block.kind == Kind::Indented {
                let program = block.text.split_ascii_whitespace().next().unwrap_or_default();
                let mut known = ["weft", "make", "cargo", "systemctl"].into_iter().chain(OTHERS.split(' '));
                if known.any(|known| known == program) || program.starts_with("WEFT_") {
                    problems.push(format!("{place}:{}: commands belong between fences", block.line));
                }
                continue;
            }
            let commands = commands(&block.text);
            blocks_of[block.kind as usize] += 1;
            commands_of[block.kind as usize] += commands.len();
            let wrong = commands.iter().filter_map(|words| Some((words, wrong(words)?)));
            problems.extend(wrong.map(|(words, why)| format!("{place}:{}: {}: {why}", block.line, words.join(" "))));
        }
        for words in mentions(&prose) {
            mentioned += 1;
            problems.extend(refusal(&words, true).map(|why| format!("{place}: {}: {why}", words.join(" "))));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    for (kind, what) in [(Kind::Run, "run"), (Kind::Parsed, "for a cluster, or take minutes: parsed")] {
        let (blocks, commands) = (blocks_of[kind as usize], commands_of[kind as usize]);
        println!("documents: {blocks} blocks with {commands} commands are {what}");
        assert!(blocks > 0, "no block is {what}");
    }
    println!("documents: {mentioned} mentions of `weft` are parsed");
    assert!(commands_of.iter().sum::<usize>() > 100 && mentioned > 100, "{commands_of:?}, {mentioned}");
}

#[test]
fn messages_and_help_name_nothing_that_is_not_there() {
    let (mut problems, mut mentioned) = (Vec::new(), 0);
    let is_product = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "src");
    for path in
        files(&root(), ".rs").into_iter().filter(is_product).filter(|path| !path.ends_with("documents_tests.rs"))
    {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            for words in mentions(line) {
                mentioned += 1;
                let why = refusal(&words, true);
                problems
                    .extend(why.map(|why| format!("{}:{}: {}: {why}", path.display(), number + 1, words.join(" "))));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    println!("messages: {mentioned} mentions of `weft` are parsed");
    assert!(mentioned > 50, "{mentioned}");
    for example in crate::EXAMPLES.lines().filter(|line| line.starts_with("  weft ")) {
        let words = shlex::split(example.trim().split("  ").next().unwrap()).unwrap();
        assert_eq!(refusal(&words, true), None, "{words:?}");
    }
}

#[test]
fn units_start_what_there_is() {
    let mut started = 0;
    for path in files(&root().join("deploy/systemd"), ".service") {
        let unit = fs::read_to_string(&path).unwrap();
        let commands = unit.lines().filter_map(|line| line.split_once("=@BINDIR@/"));
        for (_, line) in commands.filter(|(name, _)| name.starts_with("Exec")) {
            started += 1;
            assert_eq!(refusal(&shlex::split(line).unwrap(), false), None, "{}: {line}", path.display());
        }
    }
    assert_eq!(started, 3);
}

#[test]
fn what_is_not_there_is_found() {
    let words = |line: &str| commands(line).remove(0);
    for (bad, why) in [
        ("weft show fbd", "invalid value 'fbd'"),
        ("weft trace --from a --to b --sise 9", "unexpected argument '--sise'"),
        ("WEFT_BIN=x make tests", "no `tests`"),
        ("cargo test -p weft-nothing", "no crate `weft-nothing`"),
        ("cargo bench --bench nothing", "no `--bench nothing`"),
        ("systemctl start weft-agents", "no unit"),
        ("pingg -c 1 10.0.0.1", "what is `pingg`"),
        ("cat examples/none.yaml", "no `examples/none.yaml`"),
    ] {
        let told = wrong(&words(bad)).unwrap_or_default();
        assert!(told.contains(why), "{bad}: {told}");
    }
    for good in ["weft show fdb --node demo.n1 # also: ports", "make test", "ping -c 1 10.0.0.1 > /tmp/out"] {
        assert_eq!(wrong(&words(good)), None, "{good}");
    }
    let mention = |line: &str| refusal(&mentions(line).next().unwrap(), true);
    assert_eq!(mention("say `weft testbed link LAB [LINK]`"), None);
    assert!(mention("say `weft nodes remove NAME`").is_some() && mention("`weft show --nothing`").is_some());
}

#[test]
fn whole_configurations_in_documents_are_in_order() {
    let mut checked = 0;
    for path in files(&root(), ".md") {
        let page = fs::read_to_string(&path).unwrap();
        let blocks = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        for block in blocks.filter(|block| block.starts_with("node = ")) {
            checked += 1;
            let outcome = weft_control::config::Config::parse(block, &path);
            assert!(outcome.is_ok(), "{}: {}", path.display(), outcome.unwrap_err());
        }
    }
    assert_eq!(checked, 2);
}
