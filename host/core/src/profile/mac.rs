//! The frame and the tag of `mac` keys. Does not compute a MAC: custody does.
//!
//! ```text
//! message  0xC1 0xFE "claviger mac v1" 0x00  u8 length of label ‖ label  u64 length of content (big-endian) ‖ SHA-256 of content
//! tag      u8 0xA1 ‖ u32 version of the key (big-endian) ‖ 32 bytes HMAC-SHA-256 (RFC 2104) of the message
//! ```
//! The content is hashed first so that a TPM takes any in one command. The first bytes are those of `labeled` frames. Why so:
//! docs/adr/0011-boxes-and-macs.md.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{InputError, Profile, ProfileError, Serial};
use crate::digest::ContentDigest;
use crate::key::KeyVersion;
use crate::name::{Label, MAX_NAME};

/// The most content that one tag covers, in bytes: the body of a webhook, a record, a small file. Hashing it takes about a millisecond, which
/// is as long as a task may keep others from a thread that runs many.
pub const MAX_MAC_CONTENT: usize = 1024 * 1024;
/// The longest message that a MAC is computed of, in bytes. Any TPM 2.0 takes 1024 at once.
pub const MAX_MAC_MESSAGE: usize = MAGIC.len() + 1 + MAX_NAME + 8 + 32;
/// The length of a tag in bytes.
pub const TAG: usize = 5 + MacValue::LENGTH;

/// What a tag begins with; a box begins otherwise. Another format of tags will have another.
const FORMAT: u8 = 0xA1;
const MAGIC: &[u8] = b"\xC1\xFEclaviger mac v1\0";

impl Profile {
    /// How a grant makes MACs with a key of this profile. A grant may repeat the label, so that the manifest can be read alone.
    ///
    /// # Errors
    /// When the key is for something else, or for another label.
    pub fn macs(&self, label: Option<&Label>) -> Result<MacRule, ProfileError> {
        match (self, label) {
            (Self::Mac { label: own }, Some(asked)) if asked != own => Err(ProfileError::NotAmong {
                field: "label",
                asked: asked.to_string(),
                allowed: format!("`{own}`"),
            }),
            (Self::Mac { label: own }, Some(_) | None) => Ok(MacRule { label: own.clone() }),
            (other, _) => Err(ProfileError::Purpose {
                grant: "mac",
                found: other.kind(),
            }),
        }
    }
}

/// How one grant makes MACs: under the label of its key. Only [`Profile::macs`] makes one. Frozen at admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacRule {
    label: Label,
}

impl MacRule {
    /// Frames content: the only way to a [`MacInput`], hence the only way to a tag.
    ///
    /// # Errors
    /// When the content is too long. The message does not quote it.
    pub fn frame(&self, content: &[u8]) -> Result<MacInput, InputError> {
        if content.len() > MAX_MAC_CONTENT {
            return Err(InputError::TooLarge {
                allowed: MAX_MAC_CONTENT,
                sent: content.len(),
            });
        }
        let digest = ContentDigest::of(content);
        let label = self.label.as_str().as_bytes();
        let mut message = Vec::with_capacity(MAX_MAC_MESSAGE);
        message.extend_from_slice(MAGIC);
        message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        message.extend_from_slice(label);
        message.extend_from_slice(&(content.len() as u64).to_be_bytes());
        message.extend_from_slice(digest.as_bytes());
        Ok(MacInput {
            message,
            content: digest,
            size: content.len(),
            serial: Serial::next(),
        })
    }

    /// The label.
    #[must_use]
    pub const fn label(&self) -> &Label {
        &self.label
    }
}

/// A message for one MAC. Private fields and no other constructor: custody computes no other.
pub struct MacInput {
    // Invariant: built by `MacRule`; at most `MAX_MAC_MESSAGE` bytes.
    message: Vec<u8>,
    content: ContentDigest,
    size: usize,
    serial: Serial,
}

impl MacInput {
    /// What the MAC is computed of; at most [`MAX_MAC_MESSAGE`] bytes.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
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

    pub(super) const fn serial(&self) -> Serial {
        self.serial
    }
}

impl fmt::Debug for MacInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MacInput")
            .field("content", &self.content)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// A computed MAC. Wiped on drop and not printed: of content that came with a wrong tag it is the right one.
#[expect(
    missing_debug_implementations,
    reason = "a MAC that prints is a MAC that leaks into logs"
)]
pub struct MacValue(Zeroizing<[u8; MacValue::LENGTH]>);

impl MacValue {
    /// The length of an HMAC-SHA-256 in bytes. Never cut.
    pub const LENGTH: usize = 32;

    /// Takes a MAC from whoever computed it.
    #[must_use]
    pub fn new(bytes: [u8; Self::LENGTH]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Writes the tag that is given out, with the version of the key in front.
    #[must_use]
    pub fn tag(&self, version: KeyVersion) -> Vec<u8> {
        let mut tag = Vec::with_capacity(TAG);
        tag.push(FORMAT);
        tag.extend_from_slice(&version.0.to_be_bytes());
        tag.extend_from_slice(self.0.as_slice());
        tag
    }
}

/// A tag that an agent brings. Whether it is right is [`Tag::matches`]'s to say.
#[derive(Debug, Clone, Copy)]
pub struct Tag {
    version: KeyVersion,
    value: [u8; MacValue::LENGTH],
}

impl Tag {
    /// Reads a tag; none if it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; TAG] = bytes.try_into().ok()?;
        let (format, rest) = bytes.split_first()?;
        let (version, value) = rest.split_first_chunk()?;
        (*format == FORMAT).then_some(Self {
            version: KeyVersion(u32::from_be_bytes(*version)),
            value: value.try_into().ok()?,
        })
    }

    /// Which version of its key it names, which nothing proves yet.
    #[must_use]
    pub const fn version(&self) -> KeyVersion {
        self.version
    }

    /// Whether it is this MAC. Takes as long for a wrong one as for the right one.
    #[must_use]
    pub fn matches(&self, value: &MacValue) -> bool {
        self.value.as_slice().ct_eq(value.0.as_slice()).into()
    }
}
