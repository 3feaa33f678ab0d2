//! Texts that have no place in the tree: ways round a test, unfinished code, and traces of one machine.

use super::{Finding, Source};

/// In Rust files: the text, and what to do instead. Written in two parts, so that this file does not ban itself.
const IN_RUST: [(&str, &str); 4] = [
    (
        concat!("#[", "ignore"),
        "a test that does not run is not a test; a missing tool fails with its install line",
    ),
    (
        concat!("#[", "should_panic"),
        "assert what fails, not that something does",
    ),
    (concat!("todo", "!("), "finish it, or leave it out"),
    (concat!("unimplemented", "!("), "finish it, or leave it out"),
];

/// Anywhere: folders of one machine. They are caught at the start of a path, not in the middle of one.
const FOLDERS: [&str; 4] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
];

/// Anywhere: hosts that packages come from. Cargo, npm and pip know where; a mirror of one machine must not get in.
const HOSTS: [&str; 6] = [
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("registry.", "npmjs.org"),
    concat!("files.", "pythonhosted.org"),
    concat!("pypi.", "org/simple"),
    concat!("deb.", "debian.org"),
];

/// Every line with a banned text.
pub(super) fn banned(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for (number, line) in source.lines() {
            let mut found = |text: &str, instead: &str| {
                findings.push(Finding::new(&source.path, number, format!("`{text}`: {instead}")));
            };
            if source.is("rs") {
                for (text, instead) in IN_RUST.iter().filter(|(text, _)| line.contains(text)) {
                    found(text, instead);
                }
            }
            for folder in FOLDERS.iter().filter(|folder| begins_a_path(line, folder)) {
                found(folder, "a path of one machine");
            }
            for host in HOSTS.iter().filter(|host| line.contains(**host)) {
                found(host, "the package manager knows where packages come from");
            }
        }
    }
    findings
}

/// Whether the folder occurs in the line as the start of an absolute path.
fn begins_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/*}>)".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    #[test]
    fn every_banned_text_is_caught() {
        for (text, _) in IN_RUST {
            assert_eq!(
                banned(&[source("a.rs", &format!("    {text}\n"))]).len(),
                1,
                "{text}"
            );
            assert_eq!(banned(&[source("a.md", text)]), [], "prose may speak of {text}");
        }
        for text in FOLDERS.iter().chain(&HOSTS) {
            for path in ["a.rs", "a.md", "Cargo.toml"] {
                assert_eq!(
                    banned(&[source(path, &format!("see \"{text}x\"\n"))]).len(),
                    1,
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn the_middle_of_a_path_is_not_a_machine_and_the_line_is_named() {
        let inside = format!("target{}x and $ROOT.{}y", FOLDERS[0], FOLDERS[1]);
        assert_eq!(banned(&[source("a.rs", &inside)]), []);
        let third = format!("\n\n{}x\n", FOLDERS[0]);
        assert_eq!(banned(&[source("a.rs", &third)])[0].line, 3);
    }
}
