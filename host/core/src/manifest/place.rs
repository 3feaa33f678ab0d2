//! Where a grant stands in a manifest's text, for whoever has something to say of it that the text alone does not tell. Judges nothing.

use std::ops::Range;

use toml::de::DeTable;

use super::fields;
use super::problem::{Problem, Severity, code};
use crate::name::{GrantAlias, escape};

/// A message has at most this many characters: names, a reason, and what to type.
const MAX_MESSAGE: usize = 600;

impl Problem {
    /// That a keyring does not have what a grant needs. `field` is the one that asks for it; texts are escaped and cut.
    #[must_use]
    pub fn of_credential(text: &str, alias: &GrantAlias, field: &str, problem: &str, fix: &str) -> Self {
        Self {
            severity: Severity::Error,
            code: code::CREDENTIAL,
            message: format!("[grants.{alias}]: {}", escape(problem, MAX_MESSAGE)),
            span: place(text, alias, field).unwrap_or_default(),
            label: "not as the keyring is now".to_owned(),
            help: Some(escape(fix, MAX_MESSAGE)),
        }
    }
}

/// The name of the field, else the grant's.
fn place(text: &str, alias: &GrantAlias, field: &str) -> Option<Range<usize>> {
    let (document, _) = DeTable::parse_recoverable(text);
    let grants = document
        .get_ref()
        .get(fields::GRANTS_TABLE.name)?
        .get_ref()
        .as_table()?;
    let (name, grant) = grants
        .iter()
        .find(|(name, _)| name.get_ref().as_ref() == alias.as_str())?;
    let asking = grant.get_ref().as_table().and_then(|grant| {
        let found = grant.iter().find(|(name, _)| name.get_ref().as_ref() == field);
        found.map(|(name, _)| name.span())
    });
    let span = asking.unwrap_or_else(|| name.span());
    let start = text.floor_char_boundary(span.start);
    Some(start..text.ceil_char_boundary(span.end.max(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_stands_at_the_field_that_asks_or_at_its_grant() {
        let text = "schema = 1\n[grants]\na = { sign = { key = \"k\" } }\n[grants.\"b\"]\nhttp = {}\n[grants.b.inject]\nbearer = \"ü\"\n";
        let alias = |text: &str| text.parse::<GrantAlias>().unwrap();
        for (grant, field, shown) in [
            ("a", "sign", Some("sign")),
            ("b", "inject", Some("inject")),
            ("b", "http", Some("http")),
            ("b", "seal", Some("\"b\"")),
            ("c", "sign", None),
        ] {
            let found = place(text, &alias(grant), field).map(|span| &text[span]);
            assert_eq!(found, shown, "{grant} {field}");
        }
        assert_eq!(place("not [ toml", &alias("a"), "sign"), None);
        let problem = Problem::of_credential(text, &alias("a"), "sign", "no\u{1b}", "make\none");
        assert_eq!(problem.message, "[grants.a]: no\\u{1b}");
        assert_eq!(problem.help.as_deref(), Some("make\\u{a}one"));
    }
}
