//! What replaces a secret at whoever issued it: the provider's part of a rotation as a trait, and what a provider calls a credential. Not
//! the rotation, which is the broker's, and no value: a rotator never sees one.

use std::fmt::{self, Debug};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::future::BoxFuture;
use crate::name::{SecretName, escape};

/// What a provider calls a credential has at most this many bytes: a UUID, an accessor, the path of a resource.
pub const MAX_PROVIDER_ID: usize = 256;
/// Of what a rotator says of its failure, so many characters are kept.
const MAX_SAID: usize = 200;

/// What a provider calls a credential that it issued: by this it is withdrawn. Not secret; 1 to [`MAX_PROVIDER_ID`] visible ASCII
/// characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProviderId(
    // Invariant: 1 to `MAX_PROVIDER_ID` visible ASCII characters.
    String,
);

/// A text is no name of a credential at its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {MAX_PROVIDER_ID} visible ASCII characters without spaces")]
pub struct NotAProviderId;

impl ProviderId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProviderId {
    type Err = NotAProviderId;

    fn from_str(text: &str) -> Result<Self, NotAProviderId> {
        let fits = (1..=MAX_PROVIDER_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.to_owned())).ok_or(NotAProviderId)
    }
}

impl TryFrom<String> for ProviderId {
    type Error = NotAProviderId;

    fn try_from(text: String) -> Result<Self, NotAProviderId> {
        text.parse()
    }
}

impl From<ProviderId> for String {
    fn from(id: ProviderId) -> Self {
        id.0
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One step of a rotation, as far as the provider has a part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RotationStep {
    /// Ask the provider for a new credential. The host takes its value out of the answer.
    Issue,
    /// Make a request with the version that the host attaches, so that the host sees whether the provider takes it.
    Probe,
    /// Have the provider take this credential no more.
    Withdraw(ProviderId),
}

impl RotationStep {
    /// In a word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Probe => "probe",
            Self::Withdraw(_) => "withdraw",
        }
    }
}

/// The provider's part of replacing one secret. It is given no value and asked for none: the broker, which starts each step, takes values
/// out of answers and attaches them to requests, and judges by the status whether one was taken.
pub trait Rotator: Debug + Send + Sync {
    /// The secret that it replaces.
    fn secret(&self) -> &SecretName;

    /// Does one step. Dropping the future stops it; the provider may have done its part all the same.
    ///
    /// # Errors
    /// What it says of its failure.
    fn step(&self, step: RotationStep) -> BoxFuture<'_, Result<(), RotatorError>>;
}

/// A rotator did not do its step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RotatorError(
    // Invariant: escaped and cut.
    String,
);

impl RotatorError {
    /// Escapes what a component says of itself, and cuts it to 200 characters.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(escape(text, MAX_SAID))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_providers_name_of_a_credential_is_visible_and_bounded() {
        let long = "a".repeat(MAX_PROVIDER_ID);
        for good in ["1", "tok_9-A/b?c=d", &long] {
            assert_eq!(good.parse::<ProviderId>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "é", &format!("{long}a")] {
            assert!(bad.parse::<ProviderId>().is_err(), "{bad:?}");
            assert!(serde_json::from_value::<ProviderId>(serde_json::json!(bad)).is_err());
        }
    }

    #[test]
    fn what_a_component_says_of_itself_cannot_pass_for_more_than_a_text() {
        assert_eq!(RotatorError::new("a\x1b[2J\nb").to_string(), "a\\u{1b}[2J\\u{a}b");
        assert!(RotatorError::new(&"x".repeat(10_000)).to_string().chars().count() < 300);
    }
}
