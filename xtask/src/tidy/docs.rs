//! Markdown: every link to a file of the tree leads to one, and every link to a heading too. Links to the outside are not followed.

use std::collections::BTreeSet;

use super::{Finding, Source};

/// Links that lead nowhere.
pub(super) fn links(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is("md")) {
        for (number, line) in prose(source) {
            for target in targets(line) {
                if let Some(what) = broken(sources, source, target) {
                    findings.push(Finding::new(&source.path, number, what));
                }
            }
        }
    }
    findings
}

/// The lines outside fenced blocks.
fn prose(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    source.lines().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// What the links of a line point at: the text between `](` and `)`. Code spans hold no links.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let spoken = line.split('`').step_by(2);
    spoken
        .flat_map(|part| part.split("](").skip(1))
        .filter_map(|rest| rest.split(')').next())
}

fn broken(sources: &[Source], from: &Source, target: &str) -> Option<String> {
    if ["https://", "http://", "mailto:"]
        .iter()
        .any(|scheme| target.starts_with(scheme))
    {
        return None;
    }
    let (path, heading) = target
        .split_once('#')
        .map_or((target, None), |(path, heading)| (path, Some(heading)));
    let full = if path.is_empty() {
        from.path.clone()
    } else {
        resolve(&from.path, path)
    };
    let folder = format!("{}/", full.trim_end_matches('/'));
    let file = sources.iter().find(|source| source.path == full);
    if file.is_none() && !sources.iter().any(|source| source.path.starts_with(&folder)) {
        return Some(format!("the link leads to `{full}`, which does not exist"));
    }
    let (file, heading) = (file?, heading?);
    (!headings(file).contains(heading)).then(|| format!("`{full}` has no heading `#{heading}`"))
}

/// A link relative to the folder of the file it is in.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// The anchors of a file, as GitHub makes them of headings.
fn headings(source: &Source) -> BTreeSet<String> {
    let titles = prose(source).filter_map(|(_, line)| line.strip_prefix('#'));
    titles
        .map(|title| anchor(title.trim_start_matches('#')))
        .collect()
}

fn anchor(title: &str) -> String {
    let kept = title
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    fn check(text: &str) -> usize {
        let other = source(
            "docs/other.md",
            "# The Title\n## 2. What is `not` promised?\n```\n# no heading\n```\n",
        );
        links(&[source("docs/adr/one.md", text), other]).len()
    }

    #[test]
    fn a_link_to_nowhere_is_caught() {
        for bad in [
            "[a](none.md)",
            "[a](../../none.md)",
            "[a](../other.md#nothing)",
            "[a](#nothing)",
            "[a](../other.md#no-heading)",
        ] {
            assert_eq!(check(bad), 1, "{bad}");
        }
        assert_eq!(check("[a](x.md) and [b](y.md)"), 2);
    }

    #[test]
    fn a_link_to_a_file_a_folder_or_a_heading_passes() {
        for good in [
            "[a](../other.md)",
            "[a](../other.md#the-title)",
            "[a](../other.md#2-what-is-not-promised)",
            "[a](..)",
            "# Own\n[a](#own)",
            "[a](https://example.com/none.md)",
            "```\n[a](none.md)\n```",
            "`[a](none.md)`",
        ] {
            assert_eq!(check(good), 0, "{good}");
        }
    }
}
