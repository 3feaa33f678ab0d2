//! Mail addresses and names of tags, and patterns of them. Not all of RFC 5321 and of git's refs: the part that everybody reads alike.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::glob::matches;

/// The longest mail address and the longest pattern of one, in bytes (RFC 5321 §4.5.3.1.3).
pub const MAX_MAIL: usize = 254;
/// The longest name and the longest pattern of a tag, in bytes.
pub const MAX_TAG: usize = 128;

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct NotAPattern(pub(super) &'static str);

macro_rules! pattern {
    ($(#[$doc:meta])* $type:ident, $check:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(
            // Invariant: `FromStr` took it.
            String,
        );

        impl $type {
            /// As it was written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NotAPattern;
            fn from_str(text: &str) -> Result<Self, NotAPattern> {
                let check: fn(&str) -> bool = $check;
                check(text).then(|| Self(text.to_owned())).ok_or(NotAPattern($expected))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NotAPattern;
            fn try_from(text: String) -> Result<Self, NotAPattern> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(pattern: $type) -> Self {
                pattern.0
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
    };
}

pattern! {
    /// Mail addresses: one, or a pattern in which `*` stands for any characters but `@`.
    MailPattern, |text| is_mail(&text.replace('*', "x")), "a mail address; `*` in it stands for any characters but `@`"
}
pattern! {
    /// Names of tags: one, or a pattern in which `*` stands for any characters, `/` among them.
    TagPattern, |text| text.len() <= MAX_TAG && is_tag_name(&text.replace('*', "x")), "the name of a tag; `*` in it stands for any characters"
}

impl MailPattern {
    /// Whether this address is one of them. An address, or a pattern of addresses: then whether all of them are.
    #[must_use]
    pub fn covers(&self, mail: &str) -> bool {
        match (self.0.split_once('@'), mail.split_once('@')) {
            (Some((local, domain)), Some((of, at))) => matches(local, of) && matches(domain, at),
            (None, _) | (_, None) => false,
        }
    }
}

impl TagPattern {
    /// Whether this name is one of them. A name, or a pattern of names: then whether all of them are.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        matches(&self.0, name)
    }
}

/// An address as git writes it, in the part of RFC 5321 that everybody reads alike: no quotes, no comments, no address literals.
pub(super) fn is_mail(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    let atom = |b: u8| b.is_ascii_alphanumeric() || b".!#$%&'+-/=?^_{|}~[]".contains(&b);
    let label = |b: u8| b.is_ascii_alphanumeric() || b".-".contains(&b);
    text.len() <= MAX_MAIL
        && !local.is_empty()
        && local.bytes().all(atom)
        && !domain.is_empty()
        && domain.bytes().all(label)
}

/// A strict part of what `git check-ref-format` takes: what no shell, path or ref syntax reads as something else.
pub(super) fn is_tag_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._/+@-".contains(&b);
    let component = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && !part.ends_with(".lock")
    };
    text.len() <= MAX_TAG
        && text.bytes().all(allowed)
        && text.split('/').all(component)
        && !text.starts_with('-')
        && !text.contains("..")
        && text != "@"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_of_addresses_and_names_alone() {
        for bad in [
            "",
            "*",
            "acme.example",
            "@acme.example",
            "bot@",
            "a@b@c",
            "a b@c",
            "*@*@*",
            "<a@b>",
            "a@b\n",
            "ü@b",
            "a\"b@c",
        ] {
            assert!(bad.parse::<MailPattern>().is_err(), "{bad:?}");
        }
        for good in [
            "a@b",
            "*@acme.example",
            "1+x[bot]@users.noreply.example",
            "*@*.acme.example",
        ] {
            assert_eq!(good.parse::<MailPattern>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "/", "a/", "-*", "..", "*..*", "a\n", "é"] {
            assert!(bad.parse::<TagPattern>().is_err(), "{bad:?}");
        }
        for good in ["*", "v*", "release/*", "*-rc*"] {
            assert_eq!(good.parse::<TagPattern>().unwrap().as_str(), good);
        }
        for (pattern, mail, expected) in [
            ("*@acme.example", "a@acme.example", true),
            ("*@acme.example", "a@b@acme.example", false),
            ("a*@acme.example", "a@acme.example", true),
            ("*@*.example", "a@x.example", true),
            ("*@*.example", "a@example", false),
            ("a@b", "A@b", false),
        ] {
            assert_eq!(
                pattern.parse::<MailPattern>().unwrap().covers(mail),
                expected,
                "{pattern} {mail}"
            );
        }
    }

    proptest::proptest! {
        /// What a narrower pattern takes, the wider takes: a grant that was admitted never signs more than its key's profile.
        #[test]
        fn a_pattern_that_covers_another_covers_all_that_it_covers(
            wide in "[ab*]{1,5}", narrow in "[ab*]{1,6}", name in "[ab]{1,8}",
        ) {
            let (wide, narrow): (TagPattern, TagPattern) = (wide.parse().unwrap(), narrow.parse().unwrap());
            if wide.covers(narrow.as_str()) && narrow.covers(&name) {
                proptest::prop_assert!(wide.covers(&name), "{wide} {narrow} {name}");
            }
        }
    }
}
