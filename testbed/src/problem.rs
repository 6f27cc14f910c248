//! What is wrong with a lab file, and where.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde_saphyr::{Location, UserMessageFormatter};
use thiserror::Error;

/// Size of a lab file at most, in bytes.
pub const LAB_FILE_MAX: u64 = 1 << 20;

/// Why a lab file was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabFileError {
    /// It could not be read.
    #[error("cannot read the lab file {}: {source}{}", path.display(), next_step(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is bigger than [`LAB_FILE_MAX`].
    #[error("the lab file {} is bigger than {LAB_FILE_MAX} bytes", path.display())]
    TooBig {
        /// The file.
        path: PathBuf,
    },
    /// What stands in it is not a lab.
    #[error(transparent)]
    Invalid(Problems),
}

/// Everything that is wrong with the text of a lab file.
#[derive(Debug, Error)]
pub struct Problems {
    file: String,
    text: String,
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Which field has which value.
    pub message: String,
    /// What is allowed instead.
    pub allowed: String,
    /// Line of the value, from 1.
    pub line: usize,
    /// Column of the value in characters, from 1.
    pub column: usize,
    place: Range<usize>,
    earlier: Option<Range<usize>>,
}

impl Problems {
    /// One after the other, in the order of the file.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.problems
    }

    /// As text with the lines concerned, in colour or not; [`fmt::Display`] is without.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let rendered: Vec<String> = self.problems.iter().map(|problem| self.render_one(problem, &renderer)).collect();
        rendered.join("\n\n")
    }

    fn render_one(&self, problem: &Problem, renderer: &Renderer) -> String {
        let mut snippet = Snippet::source(&self.text)
            .path(&self.file)
            .annotation(AnnotationKind::Primary.span(problem.place.clone()).label(&problem.allowed));
        if let Some(earlier) = &problem.earlier {
            snippet = snippet.annotation(AnnotationKind::Context.span(earlier.clone()).label("first here"));
        }
        renderer.render(&[Level::ERROR.primary_title(&problem.message).element(snippet)])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Collects problems while a file is checked.
pub(crate) struct Collector<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Collector<'a> {
    pub(crate) const fn new(text: &'a str, file: &'a str) -> Self {
        Self { file, text, problems: Vec::new() }
    }

    pub(crate) fn add(&mut self, place: Location, message: String, allowed: impl Into<String>) {
        self.add_pair(place, None, message, allowed);
    }

    pub(crate) fn add_pair(
        &mut self,
        place: Location,
        earlier: Option<Location>,
        message: String,
        allowed: impl Into<String>,
    ) {
        let earlier = earlier.map(|earlier| bytes_of(self.text, earlier));
        let (line, column) = (place.line() as usize, place.column() as usize);
        let place = bytes_of(self.text, place);
        self.problems.push(Problem { message, allowed: allowed.into(), line, column, place, earlier });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn into_error(mut self) -> LabFileError {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        LabFileError::Invalid(Problems {
            file: self.file.to_owned(),
            text: self.text.to_owned(),
            problems: self.problems,
        })
    }

    /// The error of a file whose shape is wrong.
    pub(crate) fn shape_error(mut self, error: &serde_saphyr::Error) -> LabFileError {
        let place = error.location().unwrap_or(Location::UNKNOWN);
        let message = error.without_snippet().render_with_formatter(&UserMessageFormatter);
        let message =
            message.strip_suffix(&format!(" at line {}, column {}", place.line(), place.column())).unwrap_or(&message);
        let (message, allowed) = match message {
            "expected mapping start" => ("this has fields".to_owned(), "write `field: value` here"),
            "expected sequence start" => ("this is a list".to_owned(), "write `[...]`, or one `- ` a line, here"),
            other => (other.to_owned(), "here"),
        };
        self.add(place, message, allowed);
        self.into_error()
    }
}

fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; examples/ has lab files, and docs/testbed.md lists their fields",
        io::ErrorKind::InvalidData => "; a lab file is YAML, and docs/testbed.md lists its fields",
        _ => "",
    }
}

pub(crate) fn read(path: &Path) -> Result<String, LabFileError> {
    let unreadable = |source| LabFileError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LAB_FILE_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LAB_FILE_MAX {
        return Err(LabFileError::TooBig { path: path.to_owned() });
    }
    Ok(text)
}

/// Bytes of the text that a location stands for: at least one where there is one.
fn bytes_of(text: &str, place: Location) -> Range<usize> {
    let start = line_start(text, place.line()) + column_bytes(text, place);
    let start = start.min(text.len());
    let rest = text.get(start..).unwrap_or_default();
    let characters = usize::try_from(place.span().len()).unwrap_or(0).max(1);
    let end_of_line = rest.find('\n').unwrap_or(rest.len());
    let wanted = rest.char_indices().nth(characters).map_or(rest.len(), |(offset, _)| offset);
    start..start + wanted.min(end_of_line)
}

fn line_start(text: &str, line: u64) -> usize {
    let before = usize::try_from(line).unwrap_or(0).saturating_sub(1);
    text.split_inclusive('\n').take(before).map(str::len).sum()
}

fn column_bytes(text: &str, place: Location) -> usize {
    let line = text.get(line_start(text, place.line())..).unwrap_or_default();
    let before = usize::try_from(place.column()).unwrap_or(0).saturating_sub(1);
    line.chars().take(before).map(char::len_utf8).sum()
}
