//! Draws the problems of a manifest: code, place, what was expected. Finds none: `claviger_core::manifest` does.

use std::fmt;

use claviger_core::manifest::{Problem, Severity};
use claviger_core::name::escape;
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};

/// Lines are drawn this wide where there is no terminal to ask.
const WIDTH: usize = 100;

/// One problem in its text.
struct Drawn<'a> {
    problem: &'a Problem,
    source: &'a miette::NamedSource<String>,
}

/// Draws problems one after another, as a compiler does.
pub(crate) fn draw(file: &str, text: &str, problems: &[Problem], colour: bool) -> String {
    let theme = if colour {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_width(WIDTH)
        .with_links(false);
    let source = miette::NamedSource::new(escape(file, 1024), harmless(text));
    let mut out = String::new();
    for problem in problems {
        let drawn = Drawn {
            problem,
            source: &source,
        };
        // Writing to a string does not fail; a problem that cannot be drawn is said in words.
        if handler.render_report(&mut out, &drawn).is_err() {
            out.push_str(&problem.message);
        }
        out.push('\n');
    }
    out
}

/// A problem as it is written with `--json`: lines and columns count from 1, columns in characters.
pub(crate) fn to_json(text: &str, problem: &Problem) -> serde_json::Value {
    let (line, column) = place(text, problem.span.start);
    serde_json::json!({
        "severity": match problem.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "code": problem.code,
        "message": problem.message,
        "label": problem.label,
        "help": problem.help,
        "line": line,
        "column": column,
        "span": { "start": problem.span.start, "end": problem.span.end },
    })
}

fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count();
    (before.matches('\n').count() + 1, column + 1)
}

/// The text with every character that a terminal would obey, or not show, replaced by as many bytes, so that spans still fit.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let kept = matches!(c, '\n' | '\t' | '\\') || (c == '\r' && characters.peek() == Some(&'\n'));
        if kept || escape(c.encode_utf8(&mut [0; 4]), 1).len() == c.len_utf8() {
            out.push(c);
            continue;
        }
        out.push_str(match c.len_utf8() {
            1 => "?",
            2 => "\u{b7}",
            3 => "\u{fffd}",
            _ => "\u{fffd}?",
        });
    }
    out
}

impl fmt::Debug for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Drawn<'_> {}

impl Diagnostic for Drawn<'_> {
    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        Some(Box::new(self.problem.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.problem.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.problem
            .help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = &self.problem.span;
        let label = (!self.problem.label.is_empty()).then(|| self.problem.label.clone());
        Some(Box::new(std::iter::once(LabeledSpan::new(
            label,
            span.start,
            span.len(),
        ))))
    }
}

#[cfg(test)]
mod tests {
    use claviger_core::Manifest;

    use super::*;

    #[test]
    fn hostile_text_keeps_its_length_and_loses_its_effect() {
        let hostile = "a\u{1b}[2J\u{9b}b\u{202e}c\u{e0001}\r\n\td\r\\";
        let drawn = harmless(hostile);
        assert_eq!(drawn.len(), hostile.len());
        assert_eq!(drawn, "a?[2J\u{b7}b\u{fffd}c\u{fffd}?\r\n\td?\\");
    }

    #[test]
    fn a_problem_is_drawn_with_its_code_and_place() {
        let text = "schema = 1\n[agent]\nnmae = \"x\"\n";
        let problems = Manifest::parse(text).unwrap_err();
        let drawn = draw("m.toml", text, &problems, false);
        for part in ["manifest::unknown-field", "m.toml:3:", "nmae"] {
            assert!(drawn.contains(part), "{part} missing in\n{drawn}");
        }
        assert!(!drawn.contains('\u{1b}'));
    }

    #[test]
    fn places_count_from_one() {
        assert_eq!(place("ab\ncd", 4), (2, 2));
        assert_eq!(place("", 0), (1, 1));
    }
}
