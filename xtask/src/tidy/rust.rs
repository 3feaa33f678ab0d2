//! Rust files: how they begin and how long they are. Not their style: rustfmt and clippy have that.

use super::{Finding, Source};

/// A longer file has more than one idea.
const MAX_LINES: usize = 600;

/// Marks a file that a program wrote.
const GENERATED: &str = concat!("@", "generated");

fn written(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources
        .iter()
        .filter(|source| source.is("rs") && !source.text.lines().take(3).any(|line| line.contains(GENERATED)))
}

/// Files whose first line that is not blank does not say what they are.
pub(super) fn headers(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in written(sources) {
        let first = source.lines().find(|(_, line)| !line.trim().is_empty());
        let described = first.is_some_and(|(_, line)| {
            line.strip_prefix("//!")
                .is_some_and(|rest| !rest.trim().is_empty())
        });
        if !described {
            let line = first.map_or(1, |(line, _)| line);
            findings.push(Finding::new(
                &source.path,
                line,
                "expected `//!` and what this file is, then what it is not",
            ));
        }
    }
    findings
}

/// Files over the bound.
pub(super) fn sizes(sources: &[Source]) -> Vec<Finding> {
    let sized = written(sources).map(|source| (source, source.text.lines().count()));
    sized
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(source, lines)| {
            Finding::new(
                &source.path,
                0,
                format!("{lines} lines, at most {MAX_LINES}: it has more than one idea"),
            )
        })
        .collect()
}

/// How long files are: the number to keep an eye on.
pub(super) fn statistics(sources: &[Source]) -> String {
    let mut lines: Vec<usize> = written(sources)
        .map(|source| source.text.lines().count())
        .collect();
    lines.sort_unstable();
    let at = |percent: usize| lines.get(lines.len() * percent / 100).copied().unwrap_or(0);
    let total: usize = lines.iter().sum();
    format!(
        "{} Rust files with {total} lines: median {}, p90 {}",
        lines.len(),
        at(50),
        at(90)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    #[test]
    fn a_file_that_does_not_say_what_it_is_is_caught() {
        for bad in [
            "use std::fmt;\n",
            "\n\n// Not a doc comment.\n",
            "//!\nfn main() {}\n",
            "",
            "#![forbid(unsafe_code)]\n//! Late.\n",
        ] {
            assert_eq!(headers(&[source("a.rs", bad)]).len(), 1, "{bad:?}");
        }
        let good = [
            source("a.rs", "\n//! Says it.\n"),
            source("b.md", "No Rust."),
            source("c.rs", &format!("// {GENERATED}\n")),
        ];
        assert_eq!(headers(&good), []);
    }

    #[test]
    fn a_file_that_is_too_long_is_caught() {
        let long = "x\n".repeat(MAX_LINES + 1);
        assert_eq!(sizes(&[source("a.rs", &long)]).len(), 1);
        assert_eq!(sizes(&[source("a.rs", &long[2..]), source("a.json", &long)]), []);
    }

    #[test]
    fn statistics_are_of_rust_files() {
        let text = statistics(&[
            source("a.rs", "1\n"),
            source("b.rs", "1\n2\n"),
            source("c.rs", "1\n2\n3\n"),
            source("d.md", "x\n"),
        ]);
        assert_eq!(text, "3 Rust files with 6 lines: median 2, p90 3");
    }
}
