//! What the worker asks of the broker and what it gets back: plain, bounded, serialisable data. No decisions are made here.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::GrantAlias;
use crate::refusal::Refusal;

/// One running agent. Given out by the broker; never by the agent or the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub u64);

impl InstanceId {
    /// No agent: an operator asks. Instances are counted from 1.
    pub const OPERATOR: Self = Self(0);
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What an agent asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Opens a grant to sign. Uses nothing up.
    OpenSigner {
        /// What the agent called it: any text, at most [`MAX_ALIAS_TEXT`] bytes.
        alias: String,
    },
    /// Describes the key behind an opened grant.
    DescribeSigner {
        /// The grant.
        grant: GrantAlias,
    },
    /// Signs content under an opened grant.
    Sign {
        /// The grant.
        grant: GrantAlias,
        /// The content; at most [`crate::profile::MAX_SSHSIG_CONTENT`] bytes.
        content: Vec<u8>,
    },
    /// Lists the agent's own grants.
    ListGrants,
}

/// The worker cuts an alias to this many bytes, four times a valid one, so that the log shows what was tried.
pub const MAX_ALIAS_TEXT: usize = 256;

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenSigner { alias } => write!(f, "OpenSigner({})", crate::name::escape(alias, 64)),
            Self::DescribeSigner { grant } => write!(f, "DescribeSigner({grant})"),
            Self::Sign { grant, content } => write!(f, "Sign({grant}, {} bytes)", content.len()),
            Self::ListGrants => f.write_str("ListGrants"),
        }
    }
}

/// What a request that was not refused gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Outcome {
    /// The grant exists and is a right to sign.
    SignerOpened {
        /// The alias, now known to be one.
        grant: GrantAlias,
    },
    /// About the key.
    Signer(SignerInfo),
    /// In the form of the key's profile.
    Signed {
        /// Armoured SSHSIG, compact JWS, 64 bytes, or an SSH signature.
        signature: Vec<u8>,
    },
    /// The agent's grants.
    Grants {
        /// By alias.
        grants: Vec<GrantInfo>,
    },
}

/// What an agent may know of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerInfo {
    /// `sshsig`, `jws`, `labeled`, `git` or `ssh-auth`.
    pub profile: String,
    /// `ed25519` or `p256`.
    pub algorithm: String,
    /// RFC 7638 thumbprint.
    pub key_id: String,
    /// The version that signs.
    pub version: u32,
    /// One OpenSSH line.
    pub public_key: String,
}

/// What an agent may know of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantInfo {
    /// Its alias.
    pub alias: GrantAlias,
    /// Its capability: `sign`.
    pub capability: String,
    /// Uses left, if counted.
    pub uses_left: Option<u64>,
    /// Seconds since 1970, if it ends.
    pub expires: Option<u64>,
    /// Whether a use would be refused now.
    pub refused: Option<Refusal>,
}
