//! What a broker says when it admits an agent. Not the broker's own record: that stays with it, and this is only a description.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::{ComponentDigest, ManifestDigest};
use crate::name::AgentName;

/// Names an admission at the broker that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AdmissionId(pub u64);

/// A capability that needs an interface of its own linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CapabilityKind {
    /// `claviger:credentials/signing`.
    Sign,
    /// `wasi:http/outgoing-handler`.
    Http,
    /// `claviger:credentials/attestation`.
    Attest,
    /// `claviger:credentials/sealing`.
    Seal,
    /// `claviger:credentials/mac`.
    Mac,
}

impl CapabilityKind {
    /// The name in manifests and WIT.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Http => "http",
            Self::Attest => "attest",
            Self::Seal => "seal",
            Self::Mac => "mac",
        }
    }
}

impl fmt::Display for CapabilityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An agent that may run: these bytes, under this manifest. Holding one gives nothing; the broker decides by its own record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// At the broker that admitted.
    pub id: AdmissionId,
    /// The agent.
    pub agent: AgentName,
    /// Its code.
    pub component: ComponentDigest,
    /// The manifest's bytes.
    pub manifest: ManifestDigest,
    /// What to link: exactly the capabilities that the grants name.
    pub capabilities: BTreeSet<CapabilityKind>,
}

/// Why an agent was not admitted; every reason at once. On the log before it is returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("agent `{agent}` is not admitted: {}", .reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct NotAdmitted {
    /// The agent.
    pub agent: AgentName,
    /// Why.
    pub reasons: Vec<NotAdmittedReason>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum NotAdmittedReason {
    /// The component's bytes are not those that were pinned.
    #[error(
        "the component is {actual}, the manifest pins {pinned}; if the change is yours, run `claviger pin`"
    )]
    Digest {
        /// What the bytes have.
        actual: ComponentDigest,
        /// What the manifest says.
        pinned: ComponentDigest,
    },
    /// The manifest pins no digest.
    #[error("the manifest pins no digest; run `claviger pin` to approve these bytes")]
    NotPinned,
    /// A grant cannot be honoured.
    #[error("grant `{alias}`: {problem}")]
    Grant {
        /// Which.
        alias: String,
        /// Why, and what to type.
        problem: String,
    },
    /// The audit log cannot be written.
    #[error("{problem}")]
    Audit {
        /// Why.
        problem: String,
    },
}
