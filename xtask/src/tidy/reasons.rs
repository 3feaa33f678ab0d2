//! Shared dependencies: each line of the root's `[workspace.dependencies]`, and of the fuzz targets' `[dependencies]`, ends with why it
//! is there. Not a judgement of the reason.

use super::{Finding, Source};

/// Where dependencies are listed. The fuzz targets are a workspace of their own.
const LISTS: [(&str, &str); 2] = [
    ("Cargo.toml", "[workspace.dependencies]"),
    ("fuzz/Cargo.toml", "[dependencies]"),
];

/// Dependencies without a comment on their line. Our own crates need none.
pub(super) fn reasons(sources: &[Source]) -> Vec<Finding> {
    if !sources.iter().any(|source| source.path == LISTS[0].0) {
        return vec![Finding::new(LISTS[0].0, 0, "is missing")];
    }
    let listed = |(path, section): (&str, &'static str)| {
        let source = sources.iter().find(|source| source.path == path);
        source.map(|source| without_reason(source, section))
    };
    LISTS.into_iter().filter_map(listed).flatten().collect()
}

fn without_reason(source: &Source, section: &str) -> Vec<Finding> {
    let section = source
        .lines()
        .skip_while(|(_, line)| line.trim() != section)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with('['));
    section
        .filter(|(_, line)| line.contains('=') && !line.starts_with('#') && !line.contains("path = "))
        .filter(|(_, line)| {
            line.rsplit_once(" # ")
                .is_none_or(|(_, reason)| reason.trim().len() < 4)
        })
        .map(|(number, _)| {
            Finding::new(
                &source.path,
                number,
                "expected ` # ` and the reason for this dependency",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    fn lines(dependencies: &str) -> Vec<usize> {
        let text = format!(
            "[workspace]\nresolver = \"3\"\n[workspace.dependencies]\n{dependencies}\n[profile.dev]\ndebug = 1\n"
        );
        reasons(&[source("Cargo.toml", &text)])
            .iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn a_dependency_without_a_reason_is_caught() {
        assert_eq!(
            lines("# Data.\nserde = \"1\"\nhex = \"0.4\" # digests as text\ntoml = \"1\" # \n"),
            [5, 7]
        );
        assert_eq!(lines("# Ours.\nclaviger = { path = \"host/runtime\" }\n"), [0; 0]);
    }

    #[test]
    fn the_fuzz_targets_give_reasons_too() {
        let root = source("Cargo.toml", "[workspace.dependencies]\n");
        let fuzz = source(
            "fuzz/Cargo.toml",
            "[dependencies]\nurl = \"2\"\nhex = \"0.4\" # digests\n",
        );
        let found = reasons(&[root, fuzz]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("fuzz/Cargo.toml", 2));
    }

    #[test]
    fn a_tree_without_a_manifest_is_caught() {
        assert_eq!(reasons(&[]).len(), 1);
    }
}
