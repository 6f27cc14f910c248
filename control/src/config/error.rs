use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}: name a readable file with --config; docs/configuration.md shows one", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{rendered}")]
    Wrong {
        /// Line of the first wrong character, from 1.
        line: usize,
        /// What is wrong and what is allowed.
        message: String,
        /// Both, with the lines of the file.
        rendered: String,
    },
}

impl ConfigError {
    pub(super) fn at(path: &Path, text: &str, span: Option<Range<usize>>, message: &str) -> Self {
        let span = span.filter(|span| span.end <= text.len()).unwrap_or(0..0);
        let line = text[..span.start].lines().count().max(1) + usize::from(text[..span.start].ends_with('\n'));
        let file = path.display().to_string();
        let snippet = Snippet::source(text).path(&*file).annotation(AnnotationKind::Primary.span(span));
        let report = [Level::ERROR.primary_title(message).element(snippet)];
        let rendered = Renderer::plain().render(&report);
        let rendered = rendered.strip_prefix("error: ").unwrap_or(&rendered).to_owned();
        Self::Wrong { line, message: message.to_owned(), rendered }
    }
}
