use std::io::{ErrorKind, Write};

/// Whoever read standard output has gone: there is nothing left to do, and nothing to complain about.
#[derive(Debug)]
pub(crate) struct NobodyReads;

impl std::fmt::Display for NobodyReads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for NobodyReads {}

/// Writes a line to standard output; `say!` formats it.
pub(crate) fn line(text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(NobodyReads.into()),
        written => Ok(written?),
    }
}

/// Writes a line to standard error that is no complaint, if anybody reads it.
pub(crate) fn remark(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a line to standard error, if anybody reads it; `complain!` formats it.
pub(crate) fn complaint(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "weft: {text}");
}

/// A line on standard output, as `println!` writes it, but an error where that would panic.
macro_rules! say {
    () => { $crate::out::line(format_args!("")) };
    ($($format:tt)*) => { $crate::out::line(format_args!($($format)*)) };
}

/// A line on standard error that begins with the program's name.
macro_rules! complain {
    ($($format:tt)*) => { $crate::out::complaint(format_args!($($format)*)) };
}

pub(crate) use {complain, say};
