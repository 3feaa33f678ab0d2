//! Rules for JSON bodies: what passes is what an independent reader sees, and the rules say what a plain reading of them says.
//!
//! An input is a `body` as in a manifest, on one line, and below it a body.

use claviger_core::Manifest;
use claviger_core::http::{JsonRule, JsonTest};
use claviger_core::json::strict;
use claviger_core::manifest::Capability;
use serde_json::Value;

/// What holds of any bytes.
pub fn hold(data: &[u8]) {
    let Some((rule, body)) = crate::split(data) else {
        return;
    };
    let manifest = format!(
        "schema = 1\nagent = {{ name = \"a\", component = \"a\" }}\n[grants.g.http]\norigin = \"https://h\"\nallow = [\"POST /\"]\nbody = {rule}\n"
    );
    let Ok((manifest, _)) = Manifest::parse(&manifest) else {
        return;
    };
    for grant in manifest.grants.values() {
        if let Capability::Http(http) = &grant.capability
            && let Some(rule) = &http.body.json
        {
            check(rule, body);
        }
    }
}

fn check(rule: &JsonRule, body: &[u8]) {
    let checked = rule.check(body);
    let Ok(value) = strict(body) else {
        assert!(checked.is_err(), "what parsers read differently passed");
        return;
    };
    let plain = serde_json::from_slice::<Value>(body).ok();
    assert_eq!(plain.as_ref(), Some(&value), "read in two ways");
    assert_eq!(
        checked.is_ok(),
        holds(rule, &value),
        "{rule:?} {value}: {checked:?}"
    );
    let Ok(sent) = checked else { return };
    assert_eq!(
        serde_json::from_slice::<Value>(&sent).ok(),
        Some(value),
        "sent as something else"
    );
    assert_eq!(
        rule.check(&sent).ok(),
        Some(sent),
        "what is sent would not pass, or not as it is"
    );
}

fn holds(rule: &JsonRule, value: &Value) -> bool {
    let Value::Object(members) = value else {
        return false;
    };
    let closed = rule
        .fields
        .as_ref()
        .is_none_or(|fields| members.keys().all(|name| fields.contains(name)));
    closed
        && rule.predicates.iter().all(|predicate| {
            reached(value, predicate.place.as_str())
                .is_some_and(|found| found.into_iter().all(|found| test(&predicate.test, found)))
        })
}

/// What stands at a place, each of it; none if the way leads into something else, or by a member that differs from what the place
/// names only in the case of ASCII letters, or of the two letters beyond it that fold to ASCII.
fn reached<'v>(value: &'v Value, place: &str) -> Option<Vec<Option<&'v Value>>> {
    let Some((first, rest)) = place.strip_prefix('/').map(|rest| match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    }) else {
        return Some(vec![Some(value)]);
    };
    let onward = |next: Option<&'v Value>| match next {
        Some(next) => reached(next, rest),
        None => Some(vec![None]),
    };
    match value {
        Value::Object(_) if first == "*" => None,
        Value::Object(members) => {
            let name = first.replace("~1", "/").replace("~0", "~");
            let alias = members.keys().any(|key| *key != name && fold(key) == fold(&name));
            if alias { None } else { onward(members.get(&name)) }
        }
        Value::Array(items) if first == "*" && items.is_empty() => Some(vec![None]),
        Value::Array(items) if first == "*" => {
            let each = items.iter().map(|item| reached(item, rest));
            each.collect::<Option<Vec<_>>>().map(|found| found.concat())
        }
        Value::Array(_) if !first.is_empty() && first.chars().all(|c| c.is_ascii_digit()) => {
            onward(value.pointer(&format!("/{first}")))
        }
        Value::Array(_) => None,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(vec![None]),
    }
}

fn fold(text: &str) -> String {
    text.to_uppercase().to_lowercase()
}

fn test(test: &JsonTest, found: Option<&Value>) -> bool {
    let each = |holds: &dyn Fn(&Value) -> bool| match found {
        None => false,
        Some(Value::Array(items)) => !items.is_empty() && items.iter().all(holds),
        Some(other) => holds(other),
    };
    match test {
        JsonTest::Absent => found.is_none(),
        JsonTest::Equals(expected) => found == Some(expected),
        JsonTest::OneOf(expected) => each(&|item| expected.contains(item)),
        JsonTest::Pattern(pattern) => each(&|item| {
            let wanted: Vec<char> = pattern.chars().collect();
            item.as_str().is_some_and(|text| matches(&wanted, text))
        }),
    }
}

/// The textbook's table: which beginnings of the pattern the text so far is one of.
fn matches(pattern: &[char], text: &str) -> bool {
    let mut row: Vec<bool> = vec![true];
    for c in pattern {
        let last = row.last().copied().unwrap_or(false);
        row.push(last && *c == '*');
    }
    for given in text.chars() {
        let mut next = vec![false];
        for (index, c) in pattern.iter().enumerate() {
            let at = |row: &[bool], index: usize| row.get(index).copied().unwrap_or(false);
            let fits = match c {
                '*' => at(&next, index) || at(&row, index + 1),
                c => *c == given && at(&row, index),
            };
            next.push(fits);
        }
        row = next;
    }
    row.last().copied().unwrap_or(false)
}
