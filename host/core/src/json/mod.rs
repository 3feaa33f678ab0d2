//! JSON that every parser reads alike: unique member names, numbers that survive. Not a schema: it does not know what is in it.

use serde::de::{MapAccess, Visitor};
use serde_json::{Map, Value};

mod number;

/// Why a text is not such JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StrictError {
    /// Not JSON (RFC 8259), or a member name is there twice.
    #[error("expected JSON with unique member names")]
    Syntax,
    /// A number that some parsers read differently.
    #[error("expected numbers that fit 64 bits and lose no digit")]
    Number,
}

/// Reads a text that every parser reads alike: members are unique, also in nested objects, and every number keeps its value when it
/// is written again.
///
/// # Errors
/// What about it is not so.
pub fn strict(text: &[u8]) -> Result<Value, StrictError> {
    // First whether it is JSON at all, since numbers are checked as they are written.
    serde_json::from_slice::<serde::de::IgnoredAny>(text).map_err(|_| StrictError::Syntax)?;
    if !number::all_survive(text) {
        return Err(StrictError::Number);
    }
    let Strict(value) = serde_json::from_slice(text).map_err(|_| StrictError::Syntax)?;
    Ok(value)
}

struct Strict(Value);

impl<'de> serde::Deserialize<'de> for Strict {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON with unique member names")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }
    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut access: A) -> Result<Strict, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Strict(Value::Array(items)))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Strict, A::Error> {
        let mut map = Map::new();
        while let Some((name, Strict(value))) = access.next_entry::<String, Strict>()? {
            if map.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a member occurs twice"));
            }
        }
        Ok(Strict(Value::Object(map)))
    }
}
