//! The two channels: data on stdout, messages on stderr; for people or, with `--json`, for programs. Knows no command.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use claviger_core::name::escape;
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// How text may be drawn. Without a terminal it is plain.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
}

impl Style {
    /// The parameters of the terminal's SGR sequence (ECMA-48).
    const fn parameters(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warn => "1;33",
            Self::Bad => "1;31",
        }
    }
}

/// Where a command writes. A closed pipe is no error: nobody reads on, and the command does its work all the same.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    terminal_out: bool,
    colour_out: bool,
    colour_err: bool,
    closed: AtomicBool,
    broken: Mutex<Option<io::Error>>,
}

impl Output {
    /// Looks at both channels and at `NO_COLOR` once.
    pub(crate) fn new(json: bool) -> Self {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let terminal_out = io::stdout().is_terminal();
        Self {
            json,
            terminal_out,
            colour_out: colour && !json && terminal_out,
            colour_err: colour && !json && io::stderr().is_terminal(),
            closed: AtomicBool::new(false),
            broken: Mutex::new(None),
        }
    }

    /// Whether programs read.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether messages may be coloured.
    pub(crate) const fn colours_messages(&self) -> bool {
        self.colour_err
    }

    /// Whether nobody reads stdout any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes one value: as JSON on one line, or as `human` writes it.
    pub(crate) fn value<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(text) if self.terminal_out => self.line(&plain_json(&text)),
                Ok(text) => self.line(&text),
                Err(error) => self.remember(error.into()),
            }
        } else {
            self.line(&human(value));
        }
    }

    /// Writes a line to stdout.
    pub(crate) fn line(&self, text: &str) {
        let text = text.strip_suffix('\n').unwrap_or(text);
        self.bytes(format!("{text}\n").as_bytes());
    }

    /// Writes bytes to stdout as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        if self.is_closed() {
            return;
        }
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            self.remember(error);
        }
    }

    /// Writes what an agent said to stdout: as it is for programs, escaped for a terminal, where it could do harm.
    pub(crate) fn said(&self, bytes: &[u8]) {
        if self.terminal_out {
            self.bytes(shown(&String::from_utf8_lossy(bytes)).as_bytes());
        } else {
            self.bytes(bytes);
        }
    }

    /// Draws text for stdout.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        paint(self.colour_out, style, text)
    }

    /// Says something that is no problem.
    pub(crate) fn note(&self, text: &str) {
        self.message("note", Style::Bold, text);
    }

    /// Says something that the operator should know.
    pub(crate) fn warn(&self, text: &str) {
        self.message("warning", Style::Warn, text);
    }

    /// Says why the command failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            self.err_line(&failure.to_json().to_string());
            return;
        }
        let mut text = format!(
            "{} {}",
            paint(self.colour_err, Style::Bad, "error:"),
            shown(&failure.message)
        );
        for cause in &failure.causes {
            text.push_str("\n  because: ");
            text.push_str(&shown(cause));
        }
        for help in &failure.help {
            text.push_str(&format!(
                "\n{} {}",
                paint(self.colour_err, Style::Bold, "help:"),
                shown(help)
            ));
        }
        self.err_line(&text);
    }

    /// Writes a line to stderr as it is. Nothing can be said if that fails.
    pub(crate) fn err_line(&self, text: &str) {
        err_line(text);
    }

    /// Whether all data was written, if anybody wanted it.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        match self.broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some(error) => {
                Err(Failure::new(Exit::Failed, "the output cannot be written").because(Some(&error)))
            }
        }
    }

    fn message(&self, kind: &str, style: Style, text: &str) {
        if self.json {
            self.err_line(&serde_json::json!({ kind: text }).to_string());
        } else {
            let kind = paint(self.colour_err, style, &format!("{kind}:"));
            self.err_line(&format!("{kind} {}", shown(text)));
        }
    }

    fn remember(&self, error: io::Error) {
        self.closed.store(true, Ordering::Relaxed);
        if error.kind() != io::ErrorKind::BrokenPipe {
            *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }
}

/// Writes a line to stderr as it is. Nothing can be said if that fails.
pub(crate) fn err_line(text: &str) {
    let text = text.strip_suffix('\n').unwrap_or(text);
    io::stderr().lock().write_all(format!("{text}\n").as_bytes()).ok();
}

/// JSON without characters that a terminal obeys or hides: outside strings there are none, inside `\\u` says the same.
fn plain_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\\' || escape(c.encode_utf8(&mut [0; 4]), 1).starts_with(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

fn paint(colour: bool, style: Style, text: &str) -> String {
    if colour {
        format!("\u{1b}[{}m{text}\u{1b}[0m", style.parameters())
    } else {
        text.to_owned()
    }
}

/// Text that somebody else may have chosen, safe for a terminal: as [`escape`], but lines stay lines, and what was escaped
/// before is not escaped again.
pub(crate) fn shown(text: &str) -> String {
    let line = |line: &str| {
        line.split('\\')
            .map(|part| escape(part, usize::MAX))
            .collect::<Vec<_>>()
            .join("\\")
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// As [`shown`], for text that was painted by [`Output::paint`]: only the painting is obeyed.
pub(crate) fn shown_styled(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        let (before, from) = rest.split_at(at);
        out.push_str(&shown(before));
        let length = from.find('m').map_or(0, |end| end + 1);
        match from.split_at_checked(length) {
            Some((sequence, after)) if is_painting(sequence) => {
                out.push_str(sequence);
                rest = after;
            }
            Some(_) | None => {
                out.push_str("\\u{1b}");
                rest = from.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(&shown(rest));
    out
}

/// Only digits and semicolons between `ESC [` and `m`: colours, which move nothing.
fn is_painting(sequence: &str) -> bool {
    sequence
        .strip_prefix("\u{1b}[")
        .and_then(|rest| rest.strip_suffix('m'))
        .is_some_and(|parameters| parameters.bytes().all(|b| b.is_ascii_digit() || b == b';'))
}

/// Columns of text, two spaces apart, each as wide as its widest cell; the last is as long as it is.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            let gap = (width(column) + 2).saturating_sub(cell.chars().count());
            line.extend(std::iter::repeat_n(' ', gap));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_cannot_move_the_cursor() {
        assert_eq!(
            shown("a\u{1b}[2Jb\r\nc\u{202e}"),
            "a\\u{1b}[2Jb\\u{d}\nc\\u{202e}"
        );
        assert_eq!(shown("a\\u{1b}"), "a\\u{1b}");
        assert_eq!(
            shown_styled("\u{1b}[1mb\u{1b}[0m \u{1b}[2J \u{1b}"),
            "\u{1b}[1mb\u{1b}[0m \\u{1b}[2J \\u{1b}"
        );
    }

    #[test]
    fn columns_are_aligned_without_trailing_spaces() {
        let rows = [vec!["a".into(), "b".into()], vec!["long".into(), String::new()]];
        assert_eq!(columns(&rows), "a     b\nlong\n");
    }
}
