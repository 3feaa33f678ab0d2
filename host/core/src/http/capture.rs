//! Taking a new credential out of the answer of whoever issued it. What is taken goes into locked memory, and nothing else of the answer
//! is kept: not given to anybody, not quoted.

use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::place::{JsonPlace, Step};
use crate::rotator::ProviderId;
use crate::secret::Secret;

/// An answer that a credential is taken out of has at most this many bytes.
pub const MAX_CAPTURED: u64 = 64 * 1024;
/// A credential that lives for longer is taken as one that lives so long: some 100 years.
const MAX_LIFE: u64 = 100 * 366 * 86_400;

/// Where in an answer a new credential is, and what is said of it. No place has `*` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// A string: its value.
    pub value: JsonPlace,
    /// A string or a whole number: what the provider calls it.
    pub id: Option<JsonPlace>,
    /// A whole number of seconds: how long it is good for. Zero or `null`: for ever.
    pub lifetime: Option<JsonPlace>,
}

/// What was taken.
pub struct Captured {
    /// Its value. Not looked at: whether it is one of its kind is for whoever stores it to see.
    pub value: Secret,
    /// What the provider calls it.
    pub id: Option<ProviderId>,
    /// How long it is good for.
    pub lifetime: Option<Duration>,
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured")
            .field("id", &self.id)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// Why nothing was taken. Quotes nothing of the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotCaptured {
    /// Not JSON, nothing there, there twice, or something else than was expected.
    #[error("the answer has no {what} at `{place}`; expected {expected}, once, without escapes")]
    Place {
        /// What was looked for.
        what: &'static str,
        /// Where.
        place: String,
        /// What must stand there.
        expected: &'static str,
    },
    /// It cannot be held in locked memory.
    #[error("the new credential cannot be kept: {0}")]
    Memory(String),
}

impl Capture {
    /// Takes the credential out of a body.
    ///
    /// # Errors
    /// When it is not there, or not as it must be; of what else is named, too: a credential that cannot be withdrawn later, or that
    /// ends at an unknown time, is not what the operator asked for.
    pub fn take(&self, body: &[u8]) -> Result<Captured, NotCaptured> {
        let value = found(body, &self.value, "credential", "a string", |found| match found {
            Found::Text(text) if !text.is_empty() => Some(text.as_bytes()),
            Found::Text(_) | Found::Number(_) | Found::Null => None,
        })?;
        let value = Secret::fill_with(value.len(), |bytes| {
            bytes.copy_from_slice(value);
            Ok::<(), crate::secret::SecretError>(())
        })
        .map_err(|error| NotCaptured::Memory(error.to_string()))?;
        let id = self.id.as_ref().map(|place| {
            let expected = "a string of at most 256 visible characters or a whole number";
            found(
                body,
                place,
                "name of the credential",
                expected,
                |found| match found {
                    Found::Text(text) => text.parse().ok(),
                    Found::Number(number) => number.to_string().parse().ok(),
                    Found::Null => None,
                },
            )
        });
        let lifetime = self.lifetime.as_ref().map(|place| {
            found(
                body,
                place,
                "life of the credential",
                "a whole number of seconds",
                |found| match found {
                    Found::Number(0) | Found::Null => Some(None),
                    Found::Number(seconds) => Some(Some(Duration::from_secs(seconds.min(MAX_LIFE)))),
                    Found::Text(_) => None,
                },
            )
        });
        Ok(Captured {
            value,
            id: id.transpose()?,
            lifetime: lifetime.transpose()?.flatten(),
        })
    }
}

/// What stands at a place.
#[derive(Clone, Copy)]
enum Found<'a> {
    Text(&'a str),
    Number(u64),
    Null,
}

fn found<'a, T>(
    body: &'a [u8],
    place: &JsonPlace,
    what: &'static str,
    expected: &'static str,
    read: impl FnOnce(Found<'a>) -> Option<T>,
) -> Result<T, NotCaptured> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let found = Walk(place.steps())
        .deserialize(&mut reader)
        .ok()
        .filter(|_| reader.end().is_ok());
    found.flatten().and_then(read).ok_or_else(|| NotCaptured::Place {
        what,
        place: place.to_string(),
        expected,
    })
}

/// Goes to the place that these steps lead to, and passes everything else by.
struct Walk<'p>(&'p [Step]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Found<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Found<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place that is looked for")
    }

    // A string with escapes is not borrowed, and no copy is made of it.
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.is_empty().then_some(Found::Text(text)))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(self.0.is_empty().then_some(Found::Number(number)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.0.is_empty().then_some(Found::Null))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let step = match self.0.split_first() {
            Some((Step::To { name, .. }, rest)) => Some((name, rest)),
            Some((Step::Every, _)) | None => None,
        };
        let mut found = None;
        let mut met = false;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match step {
                Some((name, rest)) if key == name.as_str() => {
                    // Which of two counts would be a guess.
                    if std::mem::replace(&mut met, true) {
                        return Err(A::Error::custom("a member is there twice"));
                    }
                    found = map.next_value_seed(Walk(rest))?;
                }
                Some(_) | None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let step = match self.0.split_first() {
            Some((Step::To { index, .. }, rest)) => index.map(|index| (index, rest)),
            Some((Step::Every, _)) | None => None,
        };
        let mut found = None;
        let mut at = 0_usize;
        loop {
            match step {
                Some((index, rest)) if index == at => match items.next_element_seed(Walk(rest))? {
                    Some(item) => found = item,
                    None => return Ok(found),
                },
                Some(_) | None => {
                    if items.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(found);
                    }
                }
            }
            at = at.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(value: &str, id: Option<&str>, lifetime: Option<&str>) -> Capture {
        let place = |text: &str| text.parse().unwrap();
        Capture {
            value: place(value),
            id: id.map(place),
            lifetime: lifetime.map(place),
        }
    }

    #[test]
    fn a_credential_is_taken_from_where_the_operator_said() {
        let cases = [
            (r#"{"token":"s3cret"}"#, capture("/token", None, None)),
            (
                r#"{"auth":{"x":[1,{"token":"no"}],"token":"s3cret"},"token":"no"}"#,
                capture("/auth/token", None, None),
            ),
            (
                r#"{"keys":[{"v":"no"},{"v":"s3cret"}]}"#,
                capture("/keys/1/v", None, None),
            ),
            (r#"{"0":{"a/b":"s3cret"}}"#, capture("/0/a~1b", None, None)),
        ];
        for (body, capture) in cases {
            let taken = capture.take(body.as_bytes()).unwrap();
            assert_eq!(taken.value.expose(), b"s3cret", "{body}");
            assert!(!format!("{taken:?}").contains("s3cret"));
        }
        let all = capture("/token", Some("/id"), Some("/ttl"));
        let taken = all.take(br#"{"token":"s3cret","id":17,"ttl":60}"#).unwrap();
        assert_eq!(taken.id, Some("17".parse().unwrap()));
        assert_eq!(taken.lifetime, Some(Duration::from_secs(60)));
        for unlimited in ["0", "null"] {
            let body = format!(r#"{{"token":"s3cret","id":"tok_1","ttl":{unlimited}}}"#);
            assert_eq!(all.take(body.as_bytes()).unwrap().lifetime, None);
        }
        let body = format!(r#"{{"token":"s3cret","id":"a","ttl":{}}}"#, u64::MAX);
        assert!(all.take(body.as_bytes()).unwrap().lifetime.is_some());
    }

    #[test]
    fn what_is_not_there_as_expected_is_refused_and_not_quoted() {
        let all = capture("/token", Some("/id"), Some("/ttl"));
        for body in [
            "",
            "s3cret",
            r#""s3cret""#,
            r#"{"token":"s3cret","id":"a","ttl":1} x"#,
            r#"{"token":"s3cret","id":"a","ttl":1"#,
            // Which of two counts would be a guess.
            r#"{"token":"s3cret","token":"s3cret","id":"a","ttl":1}"#,
            r#"{"token":["s3cret"],"id":"a","ttl":1}"#,
            r#"{"token":{"s3cret":1},"id":"a","ttl":1}"#,
            r#"{"token":12345678,"id":"a","ttl":1}"#,
            r#"{"token":null,"id":"a","ttl":1}"#,
            r#"{"token":"","id":"a","ttl":1}"#,
            r#"{"token":"s3cr\u0065t","id":"a","ttl":1}"#,
            r#"{"Token":"s3cret","id":"a","ttl":1}"#,
            r#"{"token":"s3cret","ttl":1}"#,
            r#"{"token":"s3cret","id":"","ttl":1}"#,
            r#"{"token":"s3cret","id":"a b","ttl":1}"#,
            r#"{"token":"s3cret","id":1.5,"ttl":1}"#,
            r#"{"token":"s3cret","id":"a"}"#,
            r#"{"token":"s3cret","id":"a","ttl":-1}"#,
            r#"{"token":"s3cret","id":"a","ttl":"1"}"#,
            r#"{"token":"s3cret","id":"a","ttl":1e3}"#,
        ] {
            let error = all.take(body.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("s3cr"), "{body}: {error}");
        }
        // The same, whole.
        assert!(all.take(br#"{"token":"s3cret","id":"a","ttl":1}"#).is_ok());
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(all.take(deep.as_bytes()).is_err());
    }
}
