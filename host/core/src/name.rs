//! Names that are safe in a path, a log line and a label. Not free text: what does not fit is refused, never changed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name has at most this many bytes: it fits a log line, a file name and a TPM label.
pub const MAX_NAME: usize = 64;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {max} characters of {allowed}")]
pub struct NotAName {
    max: usize,
    allowed: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $max:expr, $allowed:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(
            // Invariant: not empty, within the bound, only allowed characters.
            Arc<str>,
        );

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NotAName;
            fn from_str(text: &str) -> Result<Self, NotAName> {
                let check: fn(u8) -> bool = $check;
                if text.is_empty() || text.len() > $max || !text.bytes().all(check) {
                    return Err(NotAName { max: $max, allowed: $allowed });
                }
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// The name of a key: 1 to 64 of `[a-z0-9-]`.
    KeyName, MAX_NAME, "a-z, 0-9 and -", |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}
name! {
    /// The name of a secret: 1 to 64 of `[a-z0-9-]`.
    SecretName, MAX_NAME, "a-z, 0-9 and -", |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}
name! {
    /// The name of an agent: 1 to 64 of `[a-z0-9-]`.
    AgentName, MAX_NAME, "a-z, 0-9 and -", |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}
name! {
    /// The alias by which an agent opens a grant: 1 to 64 of `[a-z0-9-]`.
    GrantAlias, MAX_NAME, "a-z, 0-9 and -", |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}
name! {
    /// An SSHSIG namespace (OpenSSH PROTOCOL.sshsig): 1 to 64 of `[A-Za-z0-9._@/-]`.
    Namespace, MAX_NAME, "A-Z, a-z, 0-9 and . _ @ / -", |b| b.is_ascii_alphanumeric() || b"._@/-".contains(&b)
}
name! {
    /// What a labeled signature is for: 1 to 64 of `[A-Za-z0-9._/-]`.
    Label, MAX_NAME, "A-Z, a-z, 0-9 and . _ / -", |b| b.is_ascii_alphanumeric() || b"._/-".contains(&b)
}
name! {
    /// An issuer, audience or subject of a JWS (RFC 7519 StringOrURI): 1 to 255 visible ASCII characters without quotes or backslash.
    Principal, 255, "visible ASCII without \" and \\", |b| b.is_ascii_graphic() && b != b'"' && b != b'\\'
}
name! {
    /// The `typ` of a JWS (RFC 7515 §4.1.9): 1 to 64 of `[A-Za-z0-9.+/-]`.
    TokenType, MAX_NAME, "A-Z, a-z, 0-9 and . + / -", |b| b.is_ascii_alphanumeric() || b".+/-".contains(&b)
}
name! {
    /// A user on a server that is logged into over SSH: 1 to 32 of `[A-Za-z0-9._-]`.
    SshUser, 32, "A-Z, a-z, 0-9 and . _ -", |b| b.is_ascii_alphanumeric() || b"._-".contains(&b)
}
name! {
    /// The name of an environment variable: 1 to 64 of `[A-Z0-9_]`.
    VariableName, MAX_NAME, "A-Z, 0-9 and _", |b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'
}

/// The allowed name nearest to a misspelt one, if one is near.
#[must_use]
pub fn nearest<'a>(misspelt: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    allowed
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(misspelt, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Text that somebody else chose, made safe to show on one line: control, bidirectional and other invisible characters are
/// escaped, and what is longer than `max` characters is cut and marked.
#[must_use]
pub fn escape(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == max {
            out.push('…');
            break;
        }
        if c == '\\' {
            out.push_str("\\\\");
        } else if c.is_control() || is_invisible(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that change how their neighbours are shown, or show as nothing.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_name_cannot_be_a_path() {
        for bad in [
            "",
            "..",
            "a/b",
            "a\\b",
            "A",
            "a b",
            "a\0",
            "ä",
            "a.b",
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<KeyName>().is_err(), "{bad:?}");
        }
        assert!("release-2026".parse::<KeyName>().is_ok());
        assert!("a".repeat(64).parse::<KeyName>().is_ok());
    }

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        assert_eq!(nearest("methds", ["uses", "methods"]), Some("methods"));
        assert_eq!(nearest("zzz", ["uses", "methods"]), None);
    }

    #[test]
    fn escaped_text_stays_on_one_line_and_is_bounded() {
        assert_eq!(
            escape("a\n\u{1b}]0;x\u{202e}b\\", 99),
            "a\\u{a}\\u{1b}]0;x\\u{202e}b\\\\"
        );
        assert_eq!(escape(&"x".repeat(9), 4), "xxxx…");
    }
}
