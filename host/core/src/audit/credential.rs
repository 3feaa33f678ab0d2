//! Credentials as the log and the keyring name them. Holds no value.

use serde::{Deserialize, Serialize};

use crate::key::KeyVersion;
use crate::name::{KeyName, SecretName};

/// Names a credential.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialName {
    /// A key.
    Key(KeyName),
    /// A secret.
    Secret(SecretName),
}

/// Names one version of a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretRef {
    /// The secret.
    pub name: SecretName,
    /// Which version of it.
    pub version: KeyVersion,
}

impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// Who put a secret into the keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretSource {
    /// An operator.
    Operator,
    /// An authorization server, which rotated a refresh token.
    Server,
    /// Whoever issues it, asked by a rotator.
    Rotator,
}

impl SecretSource {
    /// The name in the keyring and on the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Server => "server",
            Self::Rotator => "rotator",
        }
    }
}
