//! A place in a JSON body: a JSON pointer (RFC 6901) in which `*` stands for every item of an array. Not what must stand there.

use std::fmt;
use std::str::FromStr;

/// A place is written with at most this many bytes.
pub const MAX_PLACE: usize = 256;

/// A place in a JSON body.
///
/// A step that is a number leads to the item of an array, or to the member of an object that has this name; `*` leads to every item of
/// an array; every other step leads to a member of an object. Nothing else is led into: where an array stands and the next step is a
/// name, the place is not in the body, and the body is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPlace {
    text: String,
    // Invariant: at least one, the first not `*`.
    steps: Vec<Step>,
}

/// One step on the way to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// To every item of an array.
    Every,
    /// To a member, or to the item at an index.
    To {
        name: String,
        /// The name as it looks to who ignores case.
        folded: String,
        /// Where it is one (RFC 6901 §4).
        index: Option<usize>,
    },
}

/// A text is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAPlace {
    /// Not RFC 6901, or the whole body.
    #[error("expected a JSON pointer of at most {MAX_PLACE} bytes, in which `~` is `~0`")]
    Pointer,
    /// An index that RFC 6901 does not have.
    #[error("expected an index without a zero before it")]
    Index,
    /// `*` where no array can be.
    #[error("expected a member's name first: the body is an object, and `*` is every item of an array")]
    Top,
}

impl JsonPlace {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The member of the body that it is in.
    #[must_use]
    pub fn member(&self) -> &str {
        match self.steps.first() {
            Some(Step::To { name, .. }) => name,
            Some(Step::Every) | None => "",
        }
    }

    /// Whether it is one place in any body: it has no `*`.
    #[must_use]
    pub fn is_one(&self) -> bool {
        !self.steps.contains(&Step::Every)
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }
}

impl FromStr for JsonPlace {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        let escaped = |part: &str| part.starts_with(['0', '1']);
        let pointer = text.len() <= MAX_PLACE && text.split('~').skip(1).all(escaped);
        let Some(rest) = text.strip_prefix('/').filter(|_| pointer) else {
            return Err(NotAPlace::Pointer);
        };
        let steps = rest.split('/').map(Step::parse).collect::<Result<Vec<_>, _>>()?;
        if steps.first() == Some(&Step::Every) {
            return Err(NotAPlace::Top);
        }
        Ok(Self {
            text: text.to_owned(),
            steps,
        })
    }
}

impl Step {
    fn parse(text: &str) -> Result<Self, NotAPlace> {
        if text == "*" {
            return Ok(Self::Every);
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits && text.len() > 1 && text.starts_with('0') {
            return Err(NotAPlace::Index);
        }
        let name = text.replace("~1", "/").replace("~0", "~");
        Ok(Self::To {
            folded: fold(&name),
            index: text.parse().ok().filter(|_| digits),
            name,
        })
    }
}

/// A name without its case. First to upper case: the long s and the Kelvin sign are `s` and `k` to who compares without case.
pub(super) fn fold(name: &str) -> String {
    name.chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
}

impl fmt::Display for JsonPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_pointer_with_one_spelling_of_an_index() {
        for (text, member) in [
            ("/a", "a"),
            ("/", ""),
            ("/a~1b~0/0/*/10", "a/b~"),
            ("/0", "0"),
            // A name, and to an array no index.
            ("/a/+0", "a"),
            ("/a/-", "a"),
            ("/a/**", "a"),
        ] {
            let place: JsonPlace = text.parse().unwrap();
            assert_eq!((place.as_str(), place.member()), (text, member));
        }
        let long = format!("/{}", "a".repeat(MAX_PLACE));
        for (text, why) in [
            ("", NotAPlace::Pointer),
            ("a", NotAPlace::Pointer),
            ("/~", NotAPlace::Pointer),
            ("/a~2", NotAPlace::Pointer),
            (&long, NotAPlace::Pointer),
            ("/a/00", NotAPlace::Index),
            ("/a/01/b", NotAPlace::Index),
            ("/*", NotAPlace::Top),
            ("/*/a", NotAPlace::Top),
        ] {
            assert_eq!(text.parse::<JsonPlace>(), Err(why), "{text}");
        }
    }
}
