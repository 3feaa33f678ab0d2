//! Examples: each folder has a manifest, or the template of one, and a README short enough to be read. Not whether they run: the tests run them.

use std::collections::BTreeSet;

use super::{Finding, Source};

/// An example that needs more explaining is not an example.
const MAX_README: usize = 10;

/// Folders in `examples/` that lack something.
pub(super) fn examples(sources: &[Source]) -> Vec<Finding> {
    let names: BTreeSet<&str> = sources
        .iter()
        .filter_map(|source| source.path.strip_prefix("examples/")?.split_once('/'))
        .map(|(name, _)| name)
        .collect();
    let mut findings = Vec::new();
    for name in names {
        let find = |file: &str| {
            sources
                .iter()
                .find(|source| source.path == format!("examples/{name}/{file}"))
        };
        // One that is filled in when it runs is a template.
        if find("manifest.toml")
            .or_else(|| find("manifest.toml.in"))
            .is_none()
        {
            findings.push(Finding::new(
                &format!("examples/{name}"),
                0,
                "expected a `manifest.toml`",
            ));
        }
        let lines = find("README.md").map_or(0, |readme| readme.text.lines().count());
        if lines == 0 || lines > MAX_README {
            let what = format!("expected a `README.md` of 1 to {MAX_README} lines, not {lines}");
            findings.push(Finding::new(&format!("examples/{name}"), 0, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    #[test]
    fn an_incomplete_example_is_caught() {
        let code = || source("examples/bot/src/lib.rs", "");
        let manifest = || source("examples/bot/manifest.toml", "schema = 1\n");
        let readme = || source("examples/bot/README.md", "A bot.\n");
        assert_eq!(examples(&[code(), manifest(), readme()]), []);
        assert_eq!(examples(&[code()]).len(), 2);
        assert_eq!(examples(&[code(), readme()]).len(), 1);
        let long = source("examples/bot/README.md", &"line\n".repeat(MAX_README + 1));
        assert_eq!(examples(&[code(), manifest(), long]).len(), 1);
    }
}
