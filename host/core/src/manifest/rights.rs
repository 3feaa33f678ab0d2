//! What a `seal` or a `mac` grant allows: each operation is a right of its own. Not a decision: the broker decides each use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operation of a `seal` grant. Whoever stores secrets needs one, whoever reads them the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SealRight {
    /// Makes boxes.
    Seal,
    /// Opens boxes.
    Unseal,
}

impl SealRight {
    /// The name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Unseal => "unseal",
        }
    }
}

/// An operation of a `mac` grant. Whoever only verifies cannot make others believe anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MacRight {
    /// Makes tags.
    Generate,
    /// Says whether a tag is right.
    Verify,
}

impl MacRight {
    /// The name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Verify => "verify",
        }
    }
}

/// No right has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `{0}` or `{1}`")]
pub struct UnknownRight(&'static str, &'static str);

impl FromStr for SealRight {
    type Err = UnknownRight;
    fn from_str(text: &str) -> Result<Self, UnknownRight> {
        match text {
            "seal" => Ok(Self::Seal),
            "unseal" => Ok(Self::Unseal),
            _ => Err(UnknownRight("seal", "unseal")),
        }
    }
}

impl FromStr for MacRight {
    type Err = UnknownRight;
    fn from_str(text: &str) -> Result<Self, UnknownRight> {
        match text {
            "generate" => Ok(Self::Generate),
            "verify" => Ok(Self::Verify),
            _ => Err(UnknownRight("generate", "verify")),
        }
    }
}

impl fmt::Display for SealRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for MacRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
