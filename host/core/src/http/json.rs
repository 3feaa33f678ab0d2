//! What the body of a request may be: its type, its size, and what stands at which place of its JSON. Not a schema language.

use bytes::Bytes;
use serde_json::Value;

use crate::glob::matches;
use crate::json::{StrictError, strict};
use crate::manifest;

/// A grant has at most this many predicates: each is looked up in each body.
pub const MAX_PREDICATES: usize = 64;

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
    /// A JSON pointer (RFC 6901).
    pub pointer: String,
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
    /// A predicate does not hold.
    #[error("`{pointer}` of the body must be {expected}")]
    Predicate {
        /// Where.
        pointer: String,
        /// What the grant says.
        expected: String,
    },
}

impl JsonRule {
    /// Checks a body and returns it as it was understood: what is sent cannot be read in another way than it was checked.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self, body: &[u8]) -> Result<Bytes, JsonError> {
        let value = strict(body)?;
        let Value::Object(members) = &value else {
            return Err(JsonError::NotAnObject);
        };
        if let Some(fields) = &self.fields
            && let Some(other) = members.keys().find(|name| !fields.contains(name))
        {
            return Err(JsonError::Field(crate::name::escape(other, 64)));
        }
        for predicate in &self.predicates {
            predicate.check(&value)?;
        }
        Ok(value.to_string().into())
    }
}

impl JsonPredicate {
    fn check(&self, body: &Value) -> Result<(), JsonError> {
        self.refuse_aliases(body)?;
        let found = body.pointer(&self.pointer);
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
            pointer: crate::name::escape(&self.pointer, 64),
            expected: self.test.to_string(),
        })
    }

    /// Servers in several languages ignore the case of member names, so that `BCC` would be what a rule about `bcc` keeps out.
    fn refuse_aliases(&self, body: &Value) -> Result<(), JsonError> {
        let mut at = body;
        for token in self.pointer.split('/').skip(1) {
            let name = token.replace("~1", "/").replace("~0", "~");
            let next = match at {
                Value::Object(members) => {
                    let folded = fold(&name);
                    if let Some(alias) = members.keys().find(|key| **key != name && fold(key) == folded) {
                        return Err(JsonError::Alias(crate::name::escape(alias, 64)));
                    }
                    members.get(&name)
                }
                Value::Array(items) => name.parse().ok().and_then(|index: usize| items.get(index)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
            };
            let Some(next) = next else { break };
            at = next;
        }
        Ok(())
    }
}

/// A name without its case. First to upper case: the long s and the Kelvin sign are `s` and `k` to who compares without case.
fn fold(name: &str) -> String {
    name.chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
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
                pointer: "/to".to_owned(),
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
                pointer: pointer.to_owned(),
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
