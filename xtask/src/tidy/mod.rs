//! `tidy`: the rules of the source tree that no compiler checks. Each rule is a function from text to findings, and has a test with a
//! sample that must be caught. Not a formatter and not a linter: nothing is changed, and clippy knows Rust better.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::metadata;

mod banned;
mod crates;
mod docs;
mod examples;
mod reasons;
mod rust;
mod wit;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Where, relative to the root.
    path: String,
    /// The line, counted from 1; 0 for the whole file.
    line: usize,
    /// What is wrong, and what was expected.
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// A text file of the tree.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The lines, numbered from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    fn is(&self, extension: &str) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|own| own == extension)
    }
}

/// Checks every rule and prints what breaks one.
///
/// # Errors
/// When a rule is broken, or the tree cannot be read.
pub fn tidy(root: &Path) -> anyhow::Result<()> {
    let sources = sources(root)?;
    let workspace = metadata::workspace(root)?;
    let mut rules = vec![
        ("arrows between our crates", crates::arrows(&workspace.packages)),
        ("third-party crates kept away", crates::strangers(root)?),
        ("every Rust file begins with `//!`", rust::headers(&sources)),
        ("no file is too long", rust::sizes(&sources)),
        ("the contract with agents", wit::packages(root)?),
        ("every shared dependency has a reason", reasons::reasons(&sources)),
        ("no banned text", banned::banned(&sources)),
        ("links in the documentation lead somewhere", docs::links(&sources)),
        ("examples are complete", examples::examples(&sources)),
    ];
    let mut count = 0;
    for (rule, findings) in &mut rules {
        eprintln!(
            "tidy: {rule}: {}",
            if findings.is_empty() { "ok" } else { "BROKEN" }
        );
        findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
        for finding in findings.iter() {
            println!("{finding}");
        }
        count += findings.len();
    }
    eprintln!("tidy: {}", rust::statistics(&sources));
    match count {
        0 => Ok(()),
        1 => bail!("one thing is not tidy"),
        _ => bail!("{count} things are not tidy"),
    }
}

/// The text files that git tracks or would track. Binary files are passed over.
fn sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    // A checkout that somebody else owns, as on a build machine, is still ours to read.
    let out = Command::new("git")
        .args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .stdin(Stdio::null())
        .output()
        .context("cannot start git, which knows the files of the tree; install it")?;
    if !out.status.success() {
        bail!(
            "`git ls-files` failed: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    let names = String::from_utf8_lossy(&out.stdout);
    let mut sources = Vec::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        // A file that is removed but not committed so is still listed.
        let Ok(bytes) = std::fs::read(root.join(name)) else {
            continue;
        };
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source {
                path: name.to_owned(),
                text,
            });
        }
    }
    if sources.is_empty() {
        bail!("git lists no files in {}", root.display());
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source for the rules' tests.
    pub(super) fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_tree_is_listed_with_its_text() {
        let sources = sources(&metadata::root().unwrap()).unwrap();
        let own = sources
            .iter()
            .find(|source| source.path == "xtask/src/tidy/mod.rs")
            .unwrap();
        assert!(own.text.starts_with("//! `tidy`"));
        assert!(!sources.iter().any(|source| source.path.starts_with("target/")));
    }

    #[test]
    fn a_finding_can_be_clicked() {
        assert_eq!(Finding::new("a/b.rs", 3, "wrong").to_string(), "a/b.rs:3: wrong");
        assert_eq!(Finding::new("a/b.rs", 0, "wrong").to_string(), "a/b.rs: wrong");
    }
}
