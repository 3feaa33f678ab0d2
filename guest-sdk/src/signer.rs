//! The right to sign under a grant. The key stays in the host.

use std::fmt;

use crate::bindings::claviger::credentials::signing;
use crate::error::Refusal;

/// A grant to sign that was opened. Every call is decided anew: one that worked can be refused later.
pub struct Signer(signing::Signer);

/// What an agent may know of the key behind a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignerInfo {
    /// What the key is for: `sshsig`, `jws`, `labeled`, `git` or `ssh-auth`.
    pub profile: String,
    /// `ed25519` or `p256`.
    pub algorithm: String,
    /// The RFC 7638 thumbprint of the public key.
    pub key_id: String,
    /// The version that signs now, counted from 1.
    pub version: u32,
    /// The public key as one OpenSSH line.
    pub public_key: String,
}

impl Signer {
    /// Opens the grant of this alias; at most 64 bytes. Uses nothing up. At most 64 signers are open at a time: the host stops
    /// an agent that opens more.
    ///
    /// # Errors
    /// When there is no such grant. Whether it would be honoured now is decided when it is used.
    pub fn open(grant: &str) -> Result<Self, Refusal> {
        Ok(Self(signing::Signer::open(grant)?))
    }

    /// Signs the content as the key's profile prescribes: at most 16 MiB for `sshsig`, 64 KiB for `jws`, `labeled` and
    /// `git` (a commit or tag without its signature), 16 KiB for `ssh-auth`.
    ///
    /// Gives an armoured SSHSIG, a compact JWS, 64 bytes, or an SSH signature. May wait for a device or for the operator.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn sign(&self, content: impl AsRef<[u8]>) -> Result<Vec<u8>, Refusal> {
        Ok(self.0.sign(content.as_ref())?)
    }

    /// Describes the key that signs now.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn info(&self) -> Result<SignerInfo, Refusal> {
        let info = self.0.info()?;
        Ok(SignerInfo {
            profile: info.profile,
            algorithm: info.algorithm,
            key_id: info.key_id,
            version: info.version,
            public_key: info.public_key,
        })
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}
