//! What the worker asks of the broker and what it gets back: plain, bounded, serialisable data. No decisions are made here.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::GrantAlias;
use crate::profile::Plaintext;
use crate::proposal::WishText;
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
    /// Asks for evidence of the agent, for somebody else to verify.
    Attest {
        /// For whom: any text, at most [`MAX_AUDIENCE_TEXT`] bytes.
        audience: String,
        /// What the verifier gave; at most [`MAX_NONCE_BYTES`].
        nonce: Vec<u8>,
    },
    /// Lists the agent's own grants.
    ListGrants,
    /// Asks for a grant. Gives none: it goes on record as a proposal.
    ProposeGrant {
        /// The alias that it would have: any text, at most [`MAX_ALIAS_TEXT`] bytes.
        alias: String,
        /// What it would allow.
        wish: WishText,
        /// Why; cut to [`crate::proposal::MAX_REASON`] characters.
        reason: String,
    },
    /// Opens a grant to seal or unseal. Uses nothing up.
    OpenSealer {
        /// As of [`Request::OpenSigner`].
        alias: String,
    },
    /// Describes the key behind a grant to seal.
    DescribeSealer {
        /// The grant.
        grant: GrantAlias,
    },
    /// Seals a text under an opened grant.
    Seal {
        /// The grant.
        grant: GrantAlias,
        /// The text; at most [`crate::profile::MAX_PLAINTEXT`] bytes.
        plaintext: Plaintext,
        /// The context; 1 to [`crate::profile::MAX_CONTEXT`] bytes.
        context: Vec<u8>,
    },
    /// Opens a box under an opened grant.
    Unseal {
        /// The grant.
        grant: GrantAlias,
        /// The box; at most [`crate::profile::MAX_BOX`] bytes.
        sealed: Vec<u8>,
        /// The context that it was sealed with.
        context: Vec<u8>,
    },
    /// Opens a grant for MACs. Uses nothing up.
    OpenAuthenticator {
        /// As of [`Request::OpenSigner`].
        alias: String,
    },
    /// Describes the key behind a grant for MACs.
    DescribeAuthenticator {
        /// The grant.
        grant: GrantAlias,
    },
    /// Makes a tag under an opened grant.
    GenerateTag {
        /// The grant.
        grant: GrantAlias,
        /// The content; at most [`crate::profile::MAX_MAC_CONTENT`] bytes.
        content: Vec<u8>,
    },
    /// Says whether a tag is right.
    VerifyTag {
        /// The grant.
        grant: GrantAlias,
        /// The content.
        content: Vec<u8>,
        /// The tag: [`crate::profile::TAG`] bytes.
        tag: Vec<u8>,
    },
}

/// The worker cuts an alias to this many bytes, four times a valid one, so that the log shows what was tried.
pub const MAX_ALIAS_TEXT: usize = 256;

/// The worker cuts an audience to this many bytes, four times the longest that a manifest holds.
pub const MAX_AUDIENCE_TEXT: usize = 1024;
/// The worker cuts a nonce to this many bytes, one more than any that is taken.
pub const MAX_NONCE_BYTES: usize = crate::attest::MAX_NONCE + 1;

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenSigner { alias } => write!(f, "OpenSigner({})", crate::name::escape(alias, 64)),
            Self::DescribeSigner { grant } => write!(f, "DescribeSigner({grant})"),
            Self::Sign { grant, content } => write!(f, "Sign({grant}, {} bytes)", content.len()),
            Self::Attest { audience, nonce } => {
                write!(
                    f,
                    "Attest({}, {} bytes)",
                    crate::name::escape(audience, 64),
                    nonce.len()
                )
            }
            Self::ListGrants => f.write_str("ListGrants"),
            Self::ProposeGrant { alias, .. } => write!(f, "ProposeGrant({})", crate::name::escape(alias, 64)),
            Self::OpenSealer { alias } => write!(f, "OpenSealer({})", crate::name::escape(alias, 64)),
            Self::DescribeSealer { grant } => write!(f, "DescribeSealer({grant})"),
            Self::Seal { grant, plaintext, .. } => write!(f, "Seal({grant}, {plaintext:?})"),
            Self::Unseal { grant, sealed, .. } => write!(f, "Unseal({grant}, {} bytes)", sealed.len()),
            Self::OpenAuthenticator { alias } => {
                write!(f, "OpenAuthenticator({})", crate::name::escape(alias, 64))
            }
            Self::DescribeAuthenticator { grant } => write!(f, "DescribeAuthenticator({grant})"),
            Self::GenerateTag { grant, content } => {
                write!(f, "GenerateTag({grant}, {} bytes)", content.len())
            }
            Self::VerifyTag { grant, content, .. } => {
                write!(f, "VerifyTag({grant}, {} bytes)", content.len())
            }
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
    /// Evidence of the agent.
    Evidence(EvidenceInfo),
    /// The agent's grants.
    Grants {
        /// By alias.
        grants: Vec<GrantInfo>,
    },
    /// The proposal is on record.
    Proposed,
    /// The grant exists and is a right to seal or unseal.
    SealerOpened {
        /// The alias, now known to be one.
        grant: GrantAlias,
    },
    /// About a key that seals.
    Sealer(SymmetricInfo),
    /// A box.
    Sealed {
        /// At most [`crate::profile::MAX_BOX`] bytes.
        sealed: Vec<u8>,
    },
    /// What was in a box.
    Unsealed {
        /// At most [`crate::profile::MAX_PLAINTEXT`] bytes.
        plaintext: Plaintext,
    },
    /// The grant exists and is a right to MACs.
    AuthenticatorOpened {
        /// The alias, now known to be one.
        grant: GrantAlias,
    },
    /// About a key for MACs.
    Authenticator(SymmetricInfo),
    /// A tag.
    Tag {
        /// [`crate::profile::TAG`] bytes.
        tag: Vec<u8>,
    },
    /// Whether a tag is right.
    Verified {
        /// True if it is.
        valid: bool,
    },
}

/// What an agent may know of a key without a public half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymmetricInfo {
    /// `xchacha20-poly1305` or `hmac-sha256`.
    pub algorithm: String,
    /// Its identifier: 22 characters.
    pub key_id: String,
    /// The version that is used for what is new.
    pub version: u32,
    /// What its MACs are for; none of a key that seals.
    pub label: Option<String>,
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

/// Evidence as the agent passes it on. Nothing in it is a secret, and none of it works for another audience or nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceInfo {
    /// A compact JWS: an Entity Attestation Token (RFC 9711).
    pub token: String,
    /// `TPMS_ATTEST` of a quote; its `extraData` is the SHA-256 digest of the token up to its second dot.
    pub quote: Vec<u8>,
    /// Over the quote: ECDSA on P-256 with SHA-256, in DER.
    pub quote_signature: Vec<u8>,
    /// The values of the registers 0 to 7 of the bank of SHA-256, one after the other.
    pub pcrs: Vec<u8>,
    /// The key that signed the quote, as SubjectPublicKeyInfo in PEM.
    pub attestation_key: String,
    /// The key that signed the token, likewise.
    pub token_key: String,
}

/// What an agent may know of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantInfo {
    /// Its alias.
    pub alias: GrantAlias,
    /// Its capability: `sign`, `http`, `seal`, `mac` or `attest`.
    pub capability: String,
    /// Uses left, if counted.
    pub uses_left: Option<u64>,
    /// Seconds since 1970, if it ends.
    pub expires: Option<u64>,
    /// Whether a use would be refused now.
    pub refused: Option<Refusal>,
}
