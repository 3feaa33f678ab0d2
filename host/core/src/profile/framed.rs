//! A framed message: what custody signs, and how its signature is given out. Not the frames: each profile has its own file.

use std::fmt;

use crate::digest::ContentDigest;
use crate::key::{Algorithm, KeyError, PublicKey, Signature};
use crate::name::Namespace;

use super::serial::Serial;
use super::{jws, ssh, sshsig};

/// A message that a profile framed for one key. Private fields and no other constructor: custody signs nothing else.
pub struct Framed {
    // Invariant: built by a profile of this module.
    message: Vec<u8>,
    finish: Finish,
    key: PublicKey,
    content: ContentDigest,
    size: usize,
    pub(super) serial: Serial,
}

pub(super) enum Finish {
    Sshsig { namespace: Namespace },
    Jws,
    Labeled,
    SshAuth,
    // Of a proof that is put together elsewhere: the signature alone.
    Raw,
}

impl Finish {
    /// The most bytes that [`Framed::finish`] makes of a signature over this message. Of a token, the very number.
    pub(super) fn longest(&self, message: &[u8], algorithm: Algorithm) -> usize {
        match self {
            Self::Sshsig { .. } => sshsig::MAX_ARMOURED,
            Self::Jws => jws::compact_length(message, algorithm),
            Self::SshAuth => ssh::MAX_SIGNATURE_BLOB,
            Self::Labeled | Self::Raw => algorithm.signature_length(),
        }
    }
}

impl Framed {
    pub(super) fn new(message: Vec<u8>, finish: Finish, key: &PublicKey, content: &[u8]) -> Self {
        Self {
            message,
            finish,
            key: key.clone(),
            content: ContentDigest::of(content),
            size: content.len(),
            serial: Serial::next(),
        }
    }

    /// The bytes to sign (Ed25519) or to hash with SHA-256 and sign (P-256, RSA).
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// The key it was framed for.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The digest of the agent's content, for the audit log.
    #[must_use]
    pub const fn content(&self) -> ContentDigest {
        self.content
    }

    /// The length of the agent's content in bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Puts a signature into the form the profile gives out.
    ///
    /// # Errors
    /// When the signature is of another algorithm than the key.
    pub fn finish(&self, signature: &Signature) -> Result<Vec<u8>, KeyError> {
        if signature.algorithm() != self.key.algorithm() {
            return Err(KeyError::BadSignature(self.key.algorithm()));
        }
        match &self.finish {
            Finish::Sshsig { namespace } => sshsig::armour(namespace, &self.key, signature),
            Finish::Jws => Ok(jws::compact(&self.message, signature)),
            Finish::SshAuth => ssh::signature_blob(signature),
            Finish::Labeled | Finish::Raw => Ok(signature.as_bytes().to_vec()),
        }
    }
}

impl fmt::Debug for Framed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framed")
            .field("content", &self.content)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
