//! Reads a backup frame by frame, and believes nothing of it: every length has a bound, every item is parsed into what a keyring can have,
//! and the end's signature is checked. Not restoring: `local` does that, with what this gives it.

use std::io::Read;

use base64ct::{Base64, Encoding as _};
use claviger_core::Secret;
use claviger_core::custody::Assurance;
use claviger_core::name::escape;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use signed_note::{StandardVerifier, Verifier as _};

use super::item::{End, Head, KeyItem, SecretItem};
use super::stream::{Opened, PADDING};
use super::write::{Chain, Kind, PRELUDE};
use super::{BackupError, FORMAT, Identity, MAX_FRAME};
use crate::keyring::{KeyRecord, MAX_KEYS, SecretRecord};

/// A verifier key has at most this many bytes, as in the keyring.
const MAX_VKEY: usize = crate::keyring::MAX_SETTINGS;

/// A backup that is being read.
pub(crate) struct Reader<R: Read> {
    source: Opened<R>,
    head: Head,
    chain: Chain,
    item: u64,
    over: bool,
}

/// One thing in a backup.
pub(crate) enum Item {
    /// A version of a key, and its material if the backup has it.
    Key(Box<KeyRecord>, Option<Secret>),
    /// A version of a secret, and its value if the backup has it.
    Secret(Box<SecretRecord>, Option<Secret>),
}

impl<R: Read> Reader<R> {
    /// Opens a backup with one of these identities and reads what precedes its items.
    pub(crate) fn new(source: R, identities: &[Identity]) -> Result<Self, BackupError> {
        let mut source = Opened::new(source, identities)?;
        let mut prelude = [0; PRELUDE.len()];
        let stranger = "it is an age file of something else";
        source.read(&mut prelude).map_err(|error| match error {
            BackupError::Damaged { what, .. } if what.starts_with("it ends") => {
                BackupError::NotABackup(stranger)
            }
            other => other,
        })?;
        if prelude != *PRELUDE {
            return Err(BackupError::NotABackup(stranger));
        }
        let format = number(&mut source)?;
        if format != FORMAT {
            return Err(match format {
                0 => BackupError::Content {
                    item: 0,
                    what: "it has format 0, which there never was".to_owned(),
                },
                found => BackupError::Newer { found },
            });
        }
        let (kind, json, value) = frame(&mut source, 0)?;
        if kind != Kind::Head || value.is_some() {
            return Err(content(0, "it does not begin with its head"));
        }
        let head: Head = parse(0, &json)?;
        if head.vkey.len() > MAX_VKEY || usize::try_from(head.items).map_or(true, |items| items > MAX_KEYS) {
            return Err(content(0, "its head says what no keyring has"));
        }
        let mut chain = Chain::default();
        chain.add(kind, &json, &[]);
        Ok(Self {
            source,
            head,
            chain,
            item: 0,
            over: false,
        })
    }

    pub(crate) const fn head(&self) -> &Head {
        &self.head
    }

    /// The next item, and what tells it from every other; none at the end, once the signature was checked.
    pub(crate) fn next(&mut self) -> Result<Option<(Item, [u8; 32])>, BackupError> {
        if self.over {
            return Ok(None);
        }
        let item = self.item.saturating_add(1);
        let (kind, json, value) = frame(&mut self.source, item)?;
        match kind {
            Kind::Head => Err(content(item, "it is a second head")),
            Kind::Key | Kind::Secret if item > self.head.items => {
                Err(content(item, "the head says that there are fewer"))
            }
            Kind::Key => {
                let record = parse::<KeyItem>(item, &json)?.record();
                let record = record.map_err(|what| content(item, &what))?;
                let digest = self.take(kind, &json, value.as_ref());
                Ok(Some((Item::Key(Box::new(record), value), digest)))
            }
            Kind::Secret => {
                let record = parse::<SecretItem>(item, &json)?.record();
                let record = record.map_err(|what| content(item, &what))?;
                let digest = self.take(kind, &json, value.as_ref());
                Ok(Some((Item::Secret(Box::new(record), value), digest)))
            }
            Kind::End => {
                if self.item != self.head.items {
                    return Err(content(item, "the end comes too early"));
                }
                if value.is_none_or(|value| value.expose() != PADDING) {
                    return Err(content(item, "the end has another padding"));
                }
                self.verify(&parse::<End>(item, &json)?)?;
                if !self.source.is_over()? {
                    return Err(content(item, "something follows the end"));
                }
                self.over = true;
                Ok(None)
            }
        }
    }

    fn take(&mut self, kind: Kind, json: &[u8], value: Option<&Secret>) -> [u8; 32] {
        self.item = self.item.saturating_add(1);
        self.chain
            .add(kind, json, value.map(Secret::expose).unwrap_or_default())
    }

    fn verify(&self, end: &End) -> Result<(), BackupError> {
        let untrusted = |what: &str| BackupError::Untrusted(what.to_owned());
        let verifier = StandardVerifier::new(&self.head.vkey)
            .map_err(|_| untrusted("what it says of its keyring's audit log is no verifier key"))?;
        let signature = Base64::decode_vec(&end.signature).unwrap_or_default();
        if verifier.verify(&self.chain.signed(), &signature) {
            return Ok(());
        }
        Err(untrusted(
            "it is not signed by the key of the audit log that it names; whoever knows a recipient can make such a file",
        ))
    }
}

fn content(item: u64, what: &str) -> BackupError {
    BackupError::Content {
        item,
        what: escape(what, 300),
    }
}

fn parse<T: DeserializeOwned>(item: u64, json: &[u8]) -> Result<T, BackupError> {
    serde_json::from_slice(json).map_err(|error| content(item, &error.to_string()))
}

fn number(source: &mut Opened<impl Read>) -> Result<u32, BackupError> {
    let mut bytes = [0; 4];
    source.read(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

/// A frame. Nothing is reserved before its length was compared with its bound.
fn frame(source: &mut Opened<impl Read>, item: u64) -> Result<(Kind, Vec<u8>, Option<Secret>), BackupError> {
    let mut kind = [0];
    source.read(&mut kind)?;
    let [byte] = kind;
    let kind =
        Kind::of(byte).ok_or_else(|| content(item, "it is of a kind that this format does not have"))?;
    let mut json = vec![0; length(source, item, "head")?];
    source.read(&mut json)?;
    let value = match length(source, item, "value")? {
        0 => None,
        length => Some(Secret::fill_with(length, |bytes| source.read(bytes))?),
    };
    Ok((kind, json, value))
}

fn length(source: &mut Opened<impl Read>, item: u64, what: &str) -> Result<usize, BackupError> {
    let length = number(source)?;
    match usize::try_from(length) {
        Ok(length) if length <= MAX_FRAME => Ok(length),
        Ok(_) | Err(_) => Err(content(
            item,
            &format!("its {what} has {length} bytes, and none has over {MAX_FRAME}"),
        )),
    }
}

/// What a backup holds, without any value.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Contents {
    /// When it was made.
    pub made: Timestamp,
    /// By which version of Claviger; escaped.
    pub version: String,
    /// The verifier key of the audit log of its keyring, which signed it; escaped.
    pub vkey: String,
    /// How hard that keyring was.
    pub assurance: Assurance,
    /// How often it had been changed.
    pub generation: u64,
    /// Each version of a key, and whether its material is in the backup: that of a key that lives in a TPM cannot be.
    pub keys: Vec<(KeyRecord, bool)>,
    /// Each version of a secret, and whether its value is in the backup.
    pub secrets: Vec<(SecretRecord, bool)>,
}

impl Contents {
    /// Reads a backup to its end, checks that it is whole and signed by the keyring that it names, and says what is in it.
    ///
    /// # Errors
    /// When it is something else, was changed or cut off, none of the identities opens it, or it cannot be read.
    ///
    /// # Security
    /// Whoever knows a recipient can make a backup of a keyring of their own. Only comparing [`Contents::vkey`] with what was noted when
    /// the keyring was made tells whose it is.
    pub fn read(source: impl Read, identities: &[Identity]) -> Result<Self, BackupError> {
        let mut reader = Reader::new(source, identities)?;
        let head = reader.head().clone();
        let mut contents = Self {
            made: head.made,
            version: escape(&head.version, 64),
            vkey: escape(&head.vkey, MAX_VKEY),
            assurance: head.assurance,
            generation: head.generation,
            keys: Vec::new(),
            secrets: Vec::new(),
        };
        while let Some((item, _)) = reader.next()? {
            match item {
                Item::Key(record, material) => contents.keys.push((*record, material.is_some())),
                Item::Secret(record, value) => contents.secrets.push((*record, value.is_some())),
            }
        }
        Ok(contents)
    }
}
