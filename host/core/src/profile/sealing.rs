//! The box of `seal` keys: what is encrypted, what is bound to it, and how it is written. Does not encrypt: custody does.
//!
//! ```text
//! box         u8 0xB1 ‖ u32 version of the key (big-endian) ‖ 24 bytes nonce ‖ ciphertext ‖ 16 bytes tag
//! associated  0xC1 0xFE "claviger seal v1" 0x00  16 bytes id of the key ‖ u32 version ‖ u16 length of context ‖ context
//! ```
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) under the associated data. The first bytes are those of `labeled` frames: they open no known
//! signed structure. Why so: docs/adr/0011-boxes-and-macs.md.

use std::fmt;

use zeroize::Zeroize as _;

use super::{InputError, Profile, ProfileError, Serial};
use crate::digest::ContentDigest;
use crate::key::{KeyId, KeyVersion};

/// The most that one box holds, in bytes: a message, a token or a data key, not a file. It is in host memory several times during a call.
pub const MAX_PLAINTEXT: usize = 64 * 1024;
/// A context has 1 to this many bytes: room for a few names and a path. It is not in the box, and whoever opens it must say it again.
pub const MAX_CONTEXT: usize = 1024;
/// The length of a nonce. So many random bits do not repeat in practice, so nothing counts the boxes of a key.
pub const NONCE: usize = 24;
/// The length of the authenticator in a box.
const AUTHENTICATOR: usize = 16;
/// By how many bytes a box is longer than what it holds.
pub const BOX_OVERHEAD: usize = HEAD + NONCE + AUTHENTICATOR;
/// The longest box, in bytes.
pub const MAX_BOX: usize = MAX_PLAINTEXT + BOX_OVERHEAD;

/// Format and version.
const HEAD: usize = 5;
/// What a box begins with; a tag begins otherwise. Another format of boxes will have another.
const FORMAT: u8 = 0xB1;
const MAGIC: &[u8] = b"\xC1\xFEclaviger seal v1\0";

impl Profile {
    /// How a grant seals with a key of this profile.
    ///
    /// # Errors
    /// When the key is for something else.
    pub fn sealing(&self) -> Result<SealRule, ProfileError> {
        match self {
            Self::Seal {} => Ok(SealRule(())),
            other => Err(ProfileError::Purpose {
                grant: "seal",
                found: other.kind(),
            }),
        }
    }
}

/// What a box is for, said by whoever makes it and again by whoever opens it: 1 to [`MAX_CONTEXT`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    // Invariant: as long as `length`, which is within the bounds.
    bytes: &'a [u8],
    length: u16,
}

impl<'a> Context<'a> {
    /// Checks and takes a context.
    ///
    /// # Errors
    /// When it is missing or too long. The message does not quote it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InputError> {
        const {
            assert!(
                MAX_CONTEXT <= u16::MAX as usize,
                "the length of a context fits two bytes"
            );
        };
        match u16::try_from(bytes.len()) {
            Ok(length) if length > 0 && bytes.len() <= MAX_CONTEXT => Ok(Self { bytes, length }),
            Ok(_) | Err(_) => Err(InputError::Context(bytes.len())),
        }
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// How one grant seals: nothing is left to choose. Only [`Profile::sealing`] makes one. Frozen at admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealRule(());

impl SealRule {
    /// Frames a text for this version of a key: the only way to a [`SealInput`], hence the only way to a box.
    ///
    /// # Errors
    /// When the text is too long. The message does not quote it.
    pub fn seal(
        &self,
        key_id: KeyId,
        version: KeyVersion,
        plaintext: Plaintext,
        context: Context<'_>,
    ) -> Result<SealInput, InputError> {
        let sent = plaintext.as_bytes().len();
        if sent > MAX_PLAINTEXT {
            return Err(InputError::TooLarge {
                allowed: MAX_PLAINTEXT,
                sent,
            });
        }
        Ok(SealInput {
            associated: associated(key_id, version, context),
            // Not of the text: whoever reads the log could try texts until one has its digest.
            content: ContentDigest::of_parts([context.bytes]),
            plaintext,
            version,
            serial: Serial::next(),
        })
    }

    /// Says which version of its key a box wants, without believing it; none if it is no box.
    #[must_use]
    pub fn version(&self, sealed: &[u8]) -> Option<KeyVersion> {
        if sealed.len() < BOX_OVERHEAD || sealed.len() > MAX_BOX {
            return None;
        }
        let (format, rest) = sealed.split_first()?;
        let version = u32::from_be_bytes(*rest.first_chunk()?);
        (*format == FORMAT).then_some(KeyVersion(version))
    }

    /// Takes a box apart for the version of a key that it names: the only way to an [`UnsealInput`]. None if it is no box, or is for
    /// another version.
    #[must_use]
    pub fn unseal(
        &self,
        key_id: KeyId,
        version: KeyVersion,
        sealed: &[u8],
        context: Context<'_>,
    ) -> Option<UnsealInput> {
        if self.version(sealed) != Some(version) {
            return None;
        }
        let (nonce, rest) = sealed.get(HEAD..)?.split_first_chunk()?;
        let (ciphertext, authenticator) = rest.split_last_chunk()?;
        Some(UnsealInput {
            associated: associated(key_id, version, context),
            nonce: *nonce,
            ciphertext: ciphertext.to_vec(),
            authenticator: *authenticator,
            content: ContentDigest::of_parts([context.bytes, sealed]),
            serial: Serial::next(),
        })
    }
}

fn associated(key_id: KeyId, version: KeyVersion, context: Context<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + KeyId::LENGTH + 6 + context.bytes.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(key_id.as_bytes());
    bytes.extend_from_slice(&version.0.to_be_bytes());
    bytes.extend_from_slice(&context.length.to_be_bytes());
    bytes.extend_from_slice(context.bytes);
    bytes
}

/// A text that will be sealed for one version of one key. Private fields and no other constructor: custody seals nothing else.
pub struct SealInput {
    // Invariant: built by `SealRule`; within the bounds.
    plaintext: Plaintext,
    associated: Vec<u8>,
    version: KeyVersion,
    content: ContentDigest,
    serial: Serial,
}

impl SealInput {
    /// The text to encrypt.
    #[must_use]
    pub fn plaintext(&self) -> &[u8] {
        self.plaintext.as_bytes()
    }

    /// The text again, to be framed anew.
    #[must_use]
    pub fn into_plaintext(self) -> Plaintext {
        self.plaintext
    }

    /// What the cipher binds to it.
    #[must_use]
    pub fn associated(&self) -> &[u8] {
        &self.associated
    }

    /// The digest of the context, for the audit log; nothing of the text.
    #[must_use]
    pub const fn content(&self) -> ContentDigest {
        self.content
    }

    /// The length of the text in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.plaintext.as_bytes().len()
    }

    /// Writes the box of what the cipher gave.
    #[must_use]
    pub fn finish(
        &self,
        nonce: &[u8; NONCE],
        ciphertext: &[u8],
        authenticator: &[u8; AUTHENTICATOR],
    ) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(BOX_OVERHEAD + ciphertext.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&self.version.0.to_be_bytes());
        sealed.extend_from_slice(nonce);
        sealed.extend_from_slice(ciphertext);
        sealed.extend_from_slice(authenticator);
        sealed
    }

    pub(super) const fn serial(&self) -> Serial {
        self.serial
    }
}

impl fmt::Debug for SealInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealInput")
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

/// A box that will be opened with one version of one key. Whether it opens is the cipher's to say.
pub struct UnsealInput {
    associated: Vec<u8>,
    nonce: [u8; NONCE],
    ciphertext: Vec<u8>,
    authenticator: [u8; AUTHENTICATOR],
    content: ContentDigest,
    serial: Serial,
}

impl UnsealInput {
    /// What the cipher bound to it, if it is what it says it is.
    #[must_use]
    pub fn associated(&self) -> &[u8] {
        &self.associated
    }

    /// The nonce.
    #[must_use]
    pub const fn nonce(&self) -> &[u8; NONCE] {
        &self.nonce
    }

    /// What to decrypt: as long as the text.
    #[must_use]
    pub fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }

    /// The cipher's authenticator.
    #[must_use]
    pub const fn authenticator(&self) -> &[u8; AUTHENTICATOR] {
        &self.authenticator
    }

    /// The digest of context and box, for the audit log.
    #[must_use]
    pub const fn content(&self) -> ContentDigest {
        self.content
    }

    /// The length of the text in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.ciphertext.len()
    }

    pub(super) const fn serial(&self) -> Serial {
        self.serial
    }
}

impl fmt::Debug for UnsealInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnsealInput")
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

/// What is to be in a box, or was in one. Wiped on drop; not printed.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Plaintext(Vec<u8>);

impl Plaintext {
    /// Takes the text.
    #[must_use]
    pub const fn new(text: Vec<u8>) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Hands the text over: from here on it is the caller's to wipe.
    #[must_use]
    pub fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Plaintext {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext({} bytes)", self.0.len())
    }
}
