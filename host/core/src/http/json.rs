//! What the body of a request may be: its type, its size, and what stands at which place of its JSON. Not a schema language.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::place::{JsonPlace, Step, fold};
use crate::glob::matches;
use crate::json::{StrictError, strict_within};
use crate::manifest;

/// A grant has at most this many predicates: each is looked up in each body.
pub const MAX_PREDICATES: usize = 64;
/// A body has at most this many values: each takes some 100 bytes of memory and a step of the processor, however short it is written.
/// As many as a large table of numbers has.
pub const MAX_VALUES: usize = 256 * 1024;

/// What the body of a request may be.
#[derive(Debug, Clone, PartialEq)]
pub struct BodyRule {
    /// The media types that may be sent, without parameters, in lower case. Empty: any.
    pub content_types: Vec<String>,
    /// At most this many bytes.
    pub max: manifest::Bytes,
    /// What its JSON must be. With one, the body is read whole before the request is decided, and sent as it was understood.
    pub json: Option<JsonRule>,
}

/// What a JSON body must be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JsonRule {
    /// The members that the top-level object may have. None: any.
    pub fields: Option<Vec<String>>,
    /// What stands where.
    pub predicates: Vec<JsonPredicate>,
}

/// What stands at one place.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPredicate {
    /// Where.
    pub place: JsonPlace,
    /// What must stand there.
    pub test: JsonTest,
}

/// What must stand at a place.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonTest {
    /// Nothing.
    Absent,
    /// This value.
    Equals(Value),
    /// One of these values; if an array stands there, each of its items must be one.
    OneOf(Vec<Value>),
    /// A string of this pattern, in which `*` stands for any characters; if an array stands there, each of its items must be one.
    Pattern(String),
}

/// Why a body is not sent. Names the place, never what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Not JSON that every parser reads alike.
    #[error("the body is not acceptable: {0}")]
    Strict(#[from] StrictError),
    /// No object at the top.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A member that the grant does not list.
    #[error("the body has the member `{0}`, which the grant does not allow")]
    Field(String),
    /// A member beside the one that a predicate is about, which some servers take for it.
    #[error("the body has the member `{0}`, which differs only in case from what the grant has a rule for")]
    Alias(String),
    /// The way to a place leads into something else.
    #[error("the body has {found} on the way to `{place}`, where the grant has a rule")]
    Shape {
        /// Where.
        place: String,
        /// What stands on the way.
        found: &'static str,
    },
    /// A predicate does not hold.
    #[error("`{place}` of the body must be {expected}")]
    Predicate {
        /// Where.
        place: String,
        /// What the grant says.
        expected: String,
    },
}

impl JsonRule {
    /// Whether a body that is not there would break it: something must stand at some place.
    #[must_use]
    pub fn demands(&self) -> bool {
        self.predicates.iter().any(|predicate| match predicate.test {
            JsonTest::Absent => false,
            JsonTest::Equals(_) | JsonTest::OneOf(_) | JsonTest::Pattern(_) => true,
        })
    }

    /// Checks a body and returns it as it was understood: what is sent cannot be read in another way than it was checked. Takes a time
    /// linear in the body, on the thread of whoever calls.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self, body: &[u8]) -> Result<Bytes, JsonError> {
        let value = strict_within(body, MAX_VALUES)?;
        let Value::Object(members) = &value else {
            return Err(JsonError::NotAnObject);
        };
        if let Some(fields) = &self.fields
            && let Some(other) = members.keys().find(|name| !fields.contains(name))
        {
            return Err(JsonError::Field(crate::name::escape(other, 64)));
        }
        let all: Vec<Open<'_>> = self
            .predicates
            .iter()
            .map(|predicate| (predicate, predicate.place.steps()))
            .collect();
        walk(&value, &all)?;
        Ok(value.to_string().into())
    }
}

/// A predicate, and the rest of the way to its place.
type Open<'a> = (&'a JsonPredicate, &'a [Step]);

/// Walks to all places at once, so that each object on the way is looked through once, however many predicates there are.
fn walk(found: &Value, open: &[Open<'_>]) -> Result<(), JsonError> {
    let mut onward = Vec::new();
    for (predicate, steps) in open {
        match steps.split_first() {
            None => predicate.check(Some(found))?,
            Some((step, rest)) => onward.push((*predicate, step, rest)),
        }
    }
    if onward.is_empty() {
        return Ok(());
    }
    match found {
        Value::Object(members) => walk_object(members, &onward),
        Value::Array(items) => walk_array(items, &onward),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => onward
            .iter()
            .try_for_each(|(predicate, ..)| predicate.check(None)),
    }
}

type Onward<'a> = (&'a JsonPredicate, &'a Step, &'a [Step]);

fn walk_object(members: &Map<String, Value>, onward: &[Onward<'_>]) -> Result<(), JsonError> {
    let mut by_name: BTreeMap<&str, Vec<Open<'_>>> = BTreeMap::new();
    let mut folds: HashMap<&str, Vec<&str>> = HashMap::new();
    for (predicate, step, rest) in onward {
        match step {
            Step::Every => return Err(predicate.misses("an object")),
            Step::To { name, folded, .. } => {
                by_name.entry(name).or_default().push((predicate, rest));
                folds.entry(folded).or_default().push(name);
            }
        }
    }
    // Servers in several languages ignore the case of member names, so that `BCC` would be what a rule about `bcc` keeps out.
    for key in members.keys() {
        if let Some(names) = folds.get(fold(key).as_str())
            && names.iter().any(|name| name != key)
        {
            return Err(JsonError::Alias(crate::name::escape(key, 64)));
        }
    }
    for (name, open) in by_name {
        match members.get(name) {
            Some(next) => walk(next, &open)?,
            None => open.iter().try_for_each(|(predicate, _)| predicate.check(None))?,
        }
    }
    Ok(())
}

fn walk_array(items: &[Value], onward: &[Onward<'_>]) -> Result<(), JsonError> {
    let mut every: Vec<Open<'_>> = Vec::new();
    let mut by_index: BTreeMap<usize, Vec<Open<'_>>> = BTreeMap::new();
    for (predicate, step, rest) in onward {
        match step {
            Step::Every if items.is_empty() => predicate.check(None)?,
            Step::Every => every.push((predicate, rest)),
            Step::To {
                index: Some(index), ..
            } if *index >= items.len() => predicate.check(None)?,
            Step::To {
                index: Some(index), ..
            } => by_index.entry(*index).or_default().push((predicate, rest)),
            // A server that looks into the items would find there what the rule is about.
            Step::To { index: None, .. } => return Err(predicate.misses("an array")),
        }
    }
    if every.is_empty() {
        return by_index
            .iter()
            .filter_map(|(index, open)| Some((items.get(*index)?, open)))
            .try_for_each(|(item, open)| walk(item, open));
    }
    for (index, item) in items.iter().enumerate() {
        match by_index.get(&index) {
            Some(open) => walk(item, &[every.as_slice(), open].concat())?,
            None => walk(item, &every)?,
        }
    }
    Ok(())
}

impl JsonPredicate {
    fn check(&self, found: Option<&Value>) -> Result<(), JsonError> {
        let holds = match &self.test {
            JsonTest::Absent => found.is_none(),
            JsonTest::Equals(expected) => found == Some(expected),
            JsonTest::OneOf(expected) => {
                found.is_some_and(|found| each(found, |item| expected.contains(item)))
            }
            JsonTest::Pattern(pattern) => found.is_some_and(|found| {
                each(found, |item| {
                    item.as_str().is_some_and(|text| matches(pattern, text))
                })
            }),
        };
        if holds {
            return Ok(());
        }
        Err(JsonError::Predicate {
            place: crate::name::escape(self.place.as_str(), 64),
            expected: self.test.to_string(),
        })
    }

    fn misses(&self, found: &'static str) -> JsonError {
        JsonError::Shape {
            place: crate::name::escape(self.place.as_str(), 64),
            found,
        }
    }
}

/// Holds of a value, or of every item of an array that is not empty.
fn each(value: &Value, holds: impl Fn(&Value) -> bool) -> bool {
    match value {
        Value::Array(items) => !items.is_empty() && items.iter().all(holds),
        other => holds(other),
    }
}

impl std::fmt::Display for JsonTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Equals(value) => write!(f, "{value}"),
            Self::OneOf(values) => {
                let all: Vec<String> = values.iter().map(ToString::to_string).collect();
                write!(f, "one of {}", all.join(", "))
            }
            Self::Pattern(pattern) => write!(f, "of the pattern `{pattern}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(test: JsonTest, body: &str) -> bool {
        let rule = JsonRule {
            fields: None,
            predicates: vec![JsonPredicate {
                place: "/to".parse().unwrap(),
                test,
            }],
        };
        rule.check(body.as_bytes()).is_ok()
    }

    #[test]
    fn each_test_holds_and_does_not() {
        let text = |text: &str| Value::String(text.to_owned());
        assert!(check(JsonTest::Absent, r#"{"a":1}"#));
        assert!(!check(JsonTest::Absent, r#"{"to":null}"#));
        assert!(check(JsonTest::Equals(text("a")), r#"{"to":"a"}"#));
        assert!(!check(JsonTest::Equals(text("a")), r#"{"to":["a"]}"#));
        let some = || JsonTest::OneOf(vec![text("a"), text("b")]);
        assert!(check(some(), r#"{"to":"b"}"#));
        assert!(check(some(), r#"{"to":["b","a"]}"#));
        assert!(!check(some(), r#"{"to":["b","c"]}"#));
        assert!(!check(some(), r#"{"to":[]}"#));
        assert!(!check(some(), r#"{}"#));
        let pattern = || JsonTest::Pattern("*@acme.example".to_owned());
        assert!(check(pattern(), r#"{"to":"a@acme.example"}"#));
        assert!(!check(pattern(), r#"{"to":"a@acme.example.evil"}"#));
        assert!(!check(pattern(), r#"{"to":7}"#));
    }

    #[test]
    fn a_member_that_differs_only_in_case_does_not_pass_by_a_rule() {
        let rule = |pointer: &str| JsonRule {
            fields: None,
            predicates: vec![JsonPredicate {
                place: pointer.parse().unwrap(),
                test: JsonTest::Absent,
            }],
        };
        for (pointer, body) in [
            ("/bcc", r#"{"BCC":1}"#),
            ("/task", r#"{"ta\u017fk":1}"#),
            ("/key", r#"{"\u212aey":1}"#),
            ("/mail/bcc", r#"{"mail":{"bCc":1}}"#),
            ("/mail/bcc", r#"{"mail":{},"Mail":{"bcc":1}}"#),
            ("/0/bcc", r#"{"0":{"Bcc":1}}"#),
            ("/to/0/bcc", r#"{"to":[{"Bcc":1}]}"#),
            ("/a~1b", r#"{"A/B":1}"#),
        ] {
            let found = rule(pointer).check(body.as_bytes());
            assert!(
                matches!(found, Err(JsonError::Alias(_))),
                "{pointer} {body}: {found:?}"
            );
        }
        for (pointer, body) in [
            ("/bcc", r#"{"bc":1,"cc":2}"#),
            ("/mail/bcc", r#"{"mail":{"cc":1},"BCC":1}"#),
        ] {
            assert!(rule(pointer).check(body.as_bytes()).is_ok(), "{pointer} {body}");
        }
    }

    #[test]
    fn no_array_hides_what_a_rule_keeps_out() {
        let absent = |place: &str| JsonRule {
            fields: None,
            predicates: vec![JsonPredicate {
                place: place.parse().unwrap(),
                test: JsonTest::Absent,
            }],
        };
        let (message, each, first) = (
            "/message/bcc",
            "/personalizations/*/bcc",
            "/personalizations/0/bcc",
        );
        for (place, body, holds) in [
            (message, r#"{"message":{"to":1}}"#, true),
            (message, r#"{"message":[{"bcc":"x"}]}"#, false),
            (message, r#"{"message":[]}"#, false),
            (message, r#"{"message":null}"#, true),
            (each, r#"{}"#, true),
            (each, r#"{"personalizations":[]}"#, true),
            (each, r#"{"personalizations":[{"to":1},{}]}"#, true),
            (each, r#"{"personalizations":[{"to":1},{"bcc":1}]}"#, false),
            (each, r#"{"personalizations":[{"to":1},{"BCC":1}]}"#, false),
            (each, r#"{"personalizations":[[{"bcc":1}]]}"#, false),
            (each, r#"{"personalizations":{"*":{"to":1}}}"#, false),
            // An index is about one item, and no more.
            (first, r#"{"personalizations":[{"bcc":1}]}"#, false),
            (first, r#"{"personalizations":[{},{"bcc":1}]}"#, true),
            ("/to/1", r#"{"to":["a"]}"#, true),
            ("/to/1", r#"{"to":["a","b"]}"#, false),
            // What is no index to RFC 6901 is none here.
            ("/to/+0", r#"{"to":["a"]}"#, false),
            ("/to/-", r#"{"to":["a"]}"#, false),
        ] {
            assert_eq!(
                absent(place).check(body.as_bytes()).is_ok(),
                holds,
                "{place} {body}"
            );
        }
    }

    #[test]
    fn what_must_stand_in_every_item_stands_in_every_item() {
        let rule = |places: &[(&str, &str)]| JsonRule {
            fields: None,
            predicates: places
                .iter()
                .map(|(place, text)| JsonPredicate {
                    place: place.parse().unwrap(),
                    test: JsonTest::Equals(Value::String((*text).to_owned())),
                })
                .collect(),
        };
        let both = rule(&[("/a/*/b", "x"), ("/a/1/c", "y"), ("/d", "z")]);
        for (body, holds) in [
            (r#"{"a":[{"b":"x"},{"b":"x","c":"y"}],"d":"z"}"#, true),
            (r#"{"a":[{"b":"x"},{"b":"x"}],"d":"z"}"#, false),
            (r#"{"a":[{"b":"x"},{"c":"y"}],"d":"z"}"#, false),
            (r#"{"a":[{"b":"x"}],"d":"z"}"#, false),
            (r#"{"a":[],"d":"z"}"#, false),
            (r#"{"d":"z"}"#, false),
        ] {
            assert_eq!(both.check(body.as_bytes()).is_ok(), holds, "{body}");
        }
        assert!(both.demands());
        assert!(!JsonRule::default().demands());
    }

    #[test]
    fn a_body_of_too_many_values_is_refused_before_they_fill_memory() {
        let rule = JsonRule::default();
        // The object, the array, and what is in it.
        let body = |count: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(count - 3));
        assert!(rule.check(body(MAX_VALUES).as_bytes()).is_ok());
        assert_eq!(
            rule.check(body(MAX_VALUES + 1).as_bytes()),
            Err(JsonError::Strict(StrictError::Values))
        );
    }

    #[test]
    fn what_parsers_read_differently_is_refused_and_members_can_be_closed() {
        let rule = JsonRule {
            fields: Some(vec!["to".to_owned()]),
            predicates: Vec::new(),
        };
        assert_eq!(rule.check(br#" {"to" : "\u0061"} "#).unwrap(), r#"{"to":"a"}"#);
        assert_eq!(
            rule.check(br#"{"Bcc":"x"}"#),
            Err(JsonError::Field("Bcc".to_owned()))
        );
        for bad in [
            &br#"{"to":1,"to":2}"#[..],
            b"\xef\xbb\xbf{}",
            b"{} {}",
            b"[]",
            b"",
            b"{\"to\":1e400}",
            b"{\"to\":NaN}",
            b"{'to':1}",
            b"{\"to\":\"\xff\"}",
        ] {
            assert!(rule.check(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
