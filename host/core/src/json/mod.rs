//! JSON that every parser reads alike: unique member names, numbers that survive. Not a schema: it does not know what is in it.

use std::cell::Cell;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
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
    /// More values than are read.
    #[error("it has too many values")]
    Values,
}

/// Reads a text that every parser reads alike: members are unique, also in nested objects, and every number keeps its value when it
/// is written again. Of any size: for texts whose own bound is small.
///
/// # Errors
/// What about it is not so.
pub fn strict(text: &[u8]) -> Result<Value, StrictError> {
    strict_within(text, usize::MAX)
}

/// As [`strict`], and of at most so many values, counted before memory is taken for them.
///
/// # Errors
/// What about it is not so.
pub fn strict_within(text: &[u8], values: usize) -> Result<Value, StrictError> {
    // First whether it is JSON at all, since numbers are checked as they are written.
    serde_json::from_slice::<serde::de::IgnoredAny>(text).map_err(|_| StrictError::Syntax)?;
    if !number::all_survive(text) {
        return Err(StrictError::Number);
    }
    let (left, over) = (Cell::new(values), Cell::new(false));
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Strict {
        left: &left,
        over: &over,
    }
    .deserialize(&mut reader);
    match read {
        Ok(value) if reader.end().is_ok() => Ok(value),
        Ok(_) => Err(StrictError::Syntax),
        Err(_) if over.get() => Err(StrictError::Values),
        Err(_) => Err(StrictError::Syntax),
    }
}

/// Reads a value, if there is room for one more.
#[derive(Clone, Copy)]
struct Strict<'a> {
    left: &'a Cell<usize>,
    over: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            self.over.set(true);
            return Err(serde::de::Error::custom("too many values"));
        };
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON with unique member names")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let value = access.next_value_seed(self)?;
            if map.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a member occurs twice"));
            }
        }
        Ok(Value::Object(map))
    }
}
