//! Writes a backup: a head, the items, an end with a signature, each in a frame. Not the age file around it: `stream` writes that.

use std::io::Write;

use base64ct::{Base64, Encoding as _};
use claviger_core::Secret;
use claviger_core::stack::wipe_below;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::item::{End, Head, KeyItem, SecretItem};
use super::stream::{PADDING, Sealing};
use super::{BackupError, FORMAT, MAX_FRAME, MAX_RECIPIENTS, Recipient, STACK_WORDS};

/// The content's first bytes; the format follows.
pub(super) const PRELUDE: &[u8; 16] = b"claviger backup\0";
/// What is signed: this, then the digest of all frames before the end's.
pub(super) const SIGNED: &[u8] = b"claviger backup v1\0";

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Head,
    Key,
    Secret,
    End,
}

impl Kind {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Head => 1,
            Self::Key => 2,
            Self::Secret => 3,
            Self::End => 4,
        }
    }

    pub(super) fn of(byte: u8) -> Option<Self> {
        [Self::Head, Self::Key, Self::Secret, Self::End]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// A backup that is being written. Dropping it leaves a file that does not open.
pub(crate) struct Writer<W: Write> {
    out: Sealing<W>,
    chain: Chain,
    item: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W, recipients: &[Recipient], head: &Head) -> Result<Self, BackupError> {
        check_recipients(recipients)?;
        let mut writer = Self {
            out: Sealing::new(out, recipients)?,
            chain: Chain::default(),
            item: 0,
        };
        writer.out.write(PRELUDE)?;
        writer.out.write(&FORMAT.to_be_bytes())?;
        writer.frame(Kind::Head, head, &[])?;
        Ok(writer)
    }

    pub(crate) fn key(&mut self, item: &KeyItem, material: Option<&Secret>) -> Result<(), BackupError> {
        self.item = self.item.saturating_add(1);
        self.frame(Kind::Key, item, bytes(material))
    }

    pub(crate) fn secret(&mut self, item: &SecretItem, value: Option<&Secret>) -> Result<(), BackupError> {
        self.item = self.item.saturating_add(1);
        self.frame(Kind::Secret, item, bytes(value))
    }

    /// Signs what was written, and ends the file.
    pub(crate) fn finish(
        mut self,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, BackupError>,
    ) -> Result<W, BackupError> {
        let signature = sign(&self.chain.signed())?;
        let end = End {
            signature: Base64::encode_string(&signature),
        };
        // Behind all that is secret: it overwrites the last of it in memory.
        self.frame(Kind::End, &end, &PADDING)?;
        self.out.finish()
    }

    fn frame(&mut self, kind: Kind, head: &impl Serialize, value: &[u8]) -> Result<(), BackupError> {
        let item = self.item;
        let json = serde_json::to_vec(head).map_err(|_| BackupError::Encryption)?;
        if json.len() > MAX_FRAME || value.len() > MAX_FRAME {
            let what = format!("it has over {MAX_FRAME} bytes");
            return Err(BackupError::Content { item, what });
        }
        self.chain.add(kind, &json, value);
        self.out.write(&[kind.byte()])?;
        for part in [json.as_slice(), value] {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.out.write(&length.to_be_bytes())?;
            self.out.write(part)?;
        }
        Ok(())
    }
}

fn bytes(value: Option<&Secret>) -> &[u8] {
    value.map(Secret::expose).unwrap_or_default()
}

/// Refuses a number of recipients that a backup cannot have.
pub(crate) fn check_recipients(recipients: &[Recipient]) -> Result<(), BackupError> {
    if (1..=MAX_RECIPIENTS).contains(&recipients.len()) {
        return Ok(());
    }
    Err(BackupError::Recipients {
        allowed: MAX_RECIPIENTS,
        found: recipients.len(),
    })
}

/// The digest of all frames: of each its kind, its head, and the digest of its value.
#[derive(Default)]
pub(super) struct Chain(Sha256);

impl Chain {
    /// Adds a frame, and returns what tells it from every other.
    pub(super) fn add(&mut self, kind: Kind, head: &[u8], value: &[u8]) -> [u8; 32] {
        let digest = digest_of(value);
        wipe_below::<STACK_WORDS>();
        let frame: [u8; 32] = Sha256::new()
            .chain_update([kind.byte()])
            .chain_update(u64::try_from(head.len()).unwrap_or(u64::MAX).to_be_bytes())
            .chain_update(head)
            .chain_update(digest)
            .finalize()
            .into();
        self.0.update(frame);
        frame
    }

    pub(super) fn signed(&self) -> Vec<u8> {
        let digest = self.0.clone().finalize();
        [SIGNED, &digest].concat()
    }
}

/// A call of its own: the hash keeps what it is given on the stack.
#[inline(never)]
fn digest_of(value: &[u8]) -> [u8; 32] {
    Sha256::digest(value).into()
}
