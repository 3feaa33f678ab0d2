//! Shared dependencies: each line of the root's `[workspace.dependencies]` ends with why it is there. Not a judgement of the reason.

use super::{Finding, Source};

/// Dependencies without a comment on their line. Our own crates need none.
pub(super) fn reasons(sources: &[Source]) -> Vec<Finding> {
    let Some(root) = sources.iter().find(|source| source.path == "Cargo.toml") else {
        return vec![Finding::new("Cargo.toml", 0, "is missing")];
    };
    let section = root
        .lines()
        .skip_while(|(_, line)| line.trim() != "[workspace.dependencies]")
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
                &root.path,
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
    fn a_tree_without_a_manifest_is_caught() {
        assert_eq!(reasons(&[]).len(), 1);
    }
}
