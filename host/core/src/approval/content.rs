//! Content of an agent as it is kept to be shown to whoever approves: bounded, and escaped where it is shown. Shows nothing itself.

use std::fmt::{self, Debug};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::digest::ContentDigest;
use crate::name::escape;

/// So many bytes of content are kept to be shown: some hundred lines. What is longer is cut, and its size and digest say so.
pub const MAX_SHOWN: usize = 32 * 1024;

/// Content as it is kept to be shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// How many bytes it has.
    pub size: u64,
    /// The digest of all of it.
    pub digest: ContentDigest,
    /// Its first bytes, at most [`MAX_SHOWN`]. Wiped on drop: what is to be sealed is shown, too.
    #[serde(with = "base64_text")]
    pub start: Zeroizing<Vec<u8>>,
}

impl Content {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            digest: ContentDigest::of(bytes),
            start: bytes.get(..MAX_SHOWN).unwrap_or(bytes).to_vec().into(),
        }
    }

    /// Of these bytes, of which none is kept: nobody could read them.
    #[must_use]
    pub fn unread(bytes: &[u8]) -> Self {
        Self {
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            digest: ContentDigest::of(bytes),
            start: Zeroizing::default(),
        }
    }

    /// How many bytes are not shown.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.size
            .saturating_sub(u64::try_from(self.start.len()).unwrap_or(u64::MAX))
    }

    /// The start as text, if it is one: UTF-8 without NUL, but for a character that was cut in two.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let text = match std::str::from_utf8(&self.start) {
            Ok(text) => text,
            Err(error) if self.left_out() > 0 && error.error_len().is_none() => {
                let whole = self.start.get(..error.valid_up_to())?;
                std::str::from_utf8(whole).ok()?
            }
            Err(_) => return None,
        };
        (!text.contains('\0')).then_some(text)
    }
}

impl Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes {}", self.size, self.digest)
    }
}

/// Bytes that somebody else chose, as text on one line: what is UTF-8 as [`escape`] writes it, every other byte as `\x` and two digits.
#[must_use]
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(&escape(chunk.valid(), usize::MAX));
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Bytes as base64 in JSON.
mod base64_text {
    use base64ct::{Base64, Encoding as _};
    use serde::{Deserialize as _, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base64::encode_string(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Zeroizing<Vec<u8>>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = Base64::decode_vec(&text).map_err(serde::de::Error::custom)?;
        Ok(Zeroizing::new(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_cut_between_bytes_and_still_counted_whole() {
        let long = "ä".repeat(MAX_SHOWN);
        let content = Content::of(format!("x{long}").as_bytes());
        assert_eq!(content.start.len(), MAX_SHOWN);
        assert_eq!(content.left_out(), MAX_SHOWN as u64 + 1);
        assert_eq!(
            content.text().unwrap().len(),
            MAX_SHOWN - 1,
            "half a character is left out"
        );
        assert_ne!(content.digest, Content::of(&content.start).digest);
        assert_eq!(Content::of(b"a\0b").text(), None);
        assert_eq!(Content::of(b"a\xff").text(), None);
        assert_eq!(Content::of(b"\xc3").text(), None, "cut by the agent, not by us");
        let json = serde_json::to_string(&content).unwrap();
        assert_eq!(serde_json::from_str::<Content>(&json).unwrap(), content);
    }

    #[test]
    fn bytes_are_shown_on_one_line_and_no_two_alike() {
        assert_eq!(escape_bytes(b"a\r\nb\xff\\x"), "a\\u{d}\\u{a}b\\xff\\\\x");
        assert_ne!(escape_bytes(b"\xff"), escape_bytes(b"\\xff"));
    }
}
