//! What can go wrong in an agent. Never says why the host refused: that is on the operator's audit log.

use std::fmt;

use crate::bindings::claviger::credentials::types::Refusal as Wit;

/// Why the host refused. Shown, it says what to ask the operator for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// No grant of this name, or it does not cover the request.
    NotGranted,
    /// The grant's time is over.
    Expired,
    /// The key or the grant was revoked.
    Revoked,
    /// Suspended until an operator resumes it.
    Suspended,
    /// The grant's uses are spent.
    OverBudget,
    /// Too many requests, or outside the allowed hours: later may succeed.
    Throttled,
    /// An operator was asked and did not approve.
    NotApproved,
    /// The content cannot be signed under this key's profile, a bound was exceeded, or a box does not open.
    Invalid,
    /// The host cannot serve now: later may succeed.
    Unavailable,
}

impl Refusal {
    /// Of its word in WIT.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "not-granted" => Self::NotGranted,
            "expired" => Self::Expired,
            "revoked" => Self::Revoked,
            "suspended" => Self::Suspended,
            "over-budget" => Self::OverBudget,
            "throttled" => Self::Throttled,
            "not-approved" => Self::NotApproved,
            "invalid" => Self::Invalid,
            "unavailable" => Self::Unavailable,
            _ => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotGranted => "not granted: the manifest has no such grant; ask the operator to add it",
            Self::Expired => "expired: the grant's time is over; ask the operator for a later `expires`",
            Self::Revoked => "revoked: the key or the grant was withdrawn; ask the operator which one replaces it",
            Self::Suspended => "suspended: ask the operator to look at the audit log and resume the grant",
            Self::OverBudget => "over budget: the grant's uses are spent; ask the operator for more `uses`",
            Self::Throttled => "throttled: too many requests or outside the grant's hours; try again later",
            Self::NotApproved => "not approved: the operator was asked and said no",
            Self::Invalid => "invalid: the key's profile does not allow this content, it is too large, or the box does not open",
            Self::Unavailable => "unavailable: the host cannot serve now; try again later or ask the operator to run `claviger doctor`",
        })
    }
}

impl std::error::Error for Refusal {}

impl From<Wit> for Refusal {
    fn from(refusal: Wit) -> Self {
        match refusal {
            Wit::NotGranted => Self::NotGranted,
            Wit::Expired => Self::Expired,
            Wit::Revoked => Self::Revoked,
            Wit::Suspended => Self::Suspended,
            Wit::OverBudget => Self::OverBudget,
            Wit::Throttled => Self::Throttled,
            Wit::NotApproved => Self::NotApproved,
            Wit::Invalid => Self::Invalid,
            Wit::Unavailable => Self::Unavailable,
        }
    }
}

/// What an agent fails with. `?` makes one of a [`Refusal`], of text, and of what the standard library fails with; for the errors
/// of other crates there is [`Error::other`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The host refused.
    Refused(Refusal),
    /// A request came to nothing.
    Http(crate::http::Error),
    /// Anything else, as text.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Http(error) => error.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// An error with the text of anything that is shown: `.map_err(Error::other)?`.
    #[must_use]
    pub fn other(error: impl fmt::Display) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<crate::http::Error> for Error {
    fn from(error: crate::http::Error) -> Self {
        Self::Http(error)
    }
}

macro_rules! from {
    ($($other:ty),* $(,)?) => {
        $(impl From<$other> for Error {
            fn from(error: $other) -> Self {
                Self::other(error)
            }
        })*
    };
}

// What the standard library fails with. A blanket `From` would exclude text.
from! {
    String,
    &str,
    Box<dyn std::error::Error>,
    Box<dyn std::error::Error + Send + Sync>,
    std::env::VarError,
    fmt::Error,
    std::io::Error,
    std::num::ParseFloatError,
    std::num::ParseIntError,
    std::num::TryFromIntError,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::time::SystemTimeError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stays_one_and_other_errors_keep_their_text() {
        let refused = || -> Result<(), Error> { Err(Refusal::Expired)? };
        assert!(matches!(refused(), Err(Error::Refused(Refusal::Expired))));
        let failed = || -> Result<u8, Error> { Ok("x".parse::<u8>()?) };
        assert_eq!(failed().unwrap_err().to_string(), "invalid digit found in string");
        let said = || -> Result<(), Error> { Err("no input")? };
        assert_eq!(said().unwrap_err().to_string(), "no input");
    }
}
