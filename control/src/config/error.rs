use std::io;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::check::Wrong;

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
        /// Line of the first wrong character, from 1; 1 for what is missing from the file as a whole.
        line: usize,
        /// What is wrong and what is allowed.
        message: String,
        /// Both, with the lines of the file.
        rendered: String,
    },
}

impl ConfigError {
    pub(super) fn new(path: &Path, text: &str, Wrong { span, message }: Wrong) -> Self {
        let line = text[..span.start].matches('\n').count() + 1;
        if span.is_empty() && span.start == 0 {
            let rendered = format!("{}: {message}", path.display());
            return Self::Wrong { line, message, rendered };
        }
        let file = path.display().to_string();
        let snippet = Snippet::source(text).path(&*file).annotation(AnnotationKind::Primary.span(span));
        let report = [Level::ERROR.primary_title(&*message).element(snippet)];
        let rendered = Renderer::plain().render(&report);
        let rendered = rendered.strip_prefix("error: ").unwrap_or(&rendered).to_owned();
        Self::Wrong { line, message, rendered }
    }
}
