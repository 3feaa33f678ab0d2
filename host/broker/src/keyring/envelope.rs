//! What makes a row unreadable and unchangeable without the root key: subkeys, envelopes, and the list of all rows under a MAC.
//! Knows no database and no files.

use std::num::NonZeroU64;

use chacha20poly1305::{AeadInPlace as _, KeyInit as _, XChaCha20Poly1305};
use claviger_core::profile::Profile;
use claviger_core::{KeyAlgorithm, KeyIdentity, KeyRef, KeyVersion, Secret};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use rand_core::{OsRng, RngCore as _};
use sha2::{Digest as _, Sha256};

use super::columns::{LifeCells, LifeColumns, RotationPlan, append_optional, duration, seconds};
use super::list::{List, Rows};
use super::record::{
    KeyRecord, KeySource, KeyState, RootKind, assurance_named, custody_named, key_source_named,
};
use super::{FORMAT, KeyringError, KeyringInfo, RootSpec};

#[cfg(test)]
mod vectors;

const NONCE: usize = 24;
const TAG: usize = 16;

/// What a subkey is for. One name, one use: a subkey never serves two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The seed of the audit log's signing key.
    AuditLog,
    /// Authenticates compiled components.
    CompileCache,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AuditLog => "audit-log",
            Self::CompileCache => "compile-cache",
        }
    }
}

/// Derives a subkey (HKDF-SHA256, RFC 5869, without salt: the root key is uniform).
pub(super) fn subkey(root: &Secret, purpose: Purpose, len: usize) -> Result<Secret, KeyringError> {
    derive(root, purpose.as_str(), len)
}

fn derive(root: &Secret, purpose: &str, len: usize) -> Result<Secret, KeyringError> {
    let info = [b"claviger/v1/", purpose.as_bytes()].concat();
    Secret::fill_with(len, |bytes| {
        Hkdf::<Sha256>::new(None, root.expose())
            .expand(&info, bytes)
            .map_err(|_| KeyringError::Encryption)
    })
}

/// 1 to 64 KiB of fresh random bytes of the operating system.
pub(super) fn random(len: usize) -> Result<Secret, KeyringError> {
    Secret::fill_with(len, |bytes| {
        OsRng
            .try_fill_bytes(bytes)
            .map_err(|e| KeyringError::Random(e.to_string()))
    })
}

/// The subkeys that the keyring keeps to itself.
pub(super) struct Envelope {
    material: Secret,
    secrets: Secret,
    list: Secret,
}

/// An encrypted text and its nonce, as they are stored.
pub(super) struct Sealed {
    pub(super) nonce: Vec<u8>,
    pub(super) material: Vec<u8>,
}

impl Envelope {
    pub(super) fn new(root: &Secret) -> Result<Self, KeyringError> {
        Ok(Self {
            material: derive(root, "envelope", 32)?,
            secrets: derive(root, "secret-envelope", 32)?,
            list: derive(root, "row-mac", 32)?,
        })
    }

    /// Encrypts material into its row. Every plaintext column is associated data: material cannot be moved to another row.
    pub(super) fn seal(&self, row: &mut Row, material: &Secret) -> Result<(), KeyringError> {
        let sealed = seal(&self.material, &row.associated(), material)?;
        row.nonce = sealed.nonce;
        row.material = sealed.material;
        Ok(())
    }

    /// The row as the newest format has it, with the material encrypted anew.
    pub(super) fn converted(&self, row: &Row) -> Result<Row, KeyringError> {
        let material = self.open(row)?;
        let mut row = Row::new(&row.record()?)?;
        self.seal(&mut row, &material)?;
        Ok(row)
    }

    /// Decrypts the material of a row.
    pub(super) fn open(&self, row: &Row) -> Result<Secret, KeyringError> {
        let changed = || KeyringError::integrity(format!("key `{}` was changed", row.label()));
        open(
            &self.material,
            &row.associated(),
            &row.nonce,
            &row.material,
            &changed,
        )
    }

    /// As [`Envelope::seal`], for a secret: under a key of its own, so that neither is ever taken for the other.
    pub(super) fn seal_secret(&self, associated: &[u8], value: &Secret) -> Result<Sealed, KeyringError> {
        seal(&self.secrets, associated, value)
    }

    /// Decrypts a secret; `changed` is the error if it does not authenticate.
    pub(super) fn open_secret(
        &self,
        associated: &[u8],
        nonce: &[u8],
        material: &[u8],
        changed: &dyn Fn() -> KeyringError,
    ) -> Result<Secret, KeyringError> {
        open(&self.secrets, associated, nonce, material, changed)
    }

    /// Puts the MAC on the list of rows.
    pub(super) fn authenticate(&self, meta: &mut Meta) -> Result<(), KeyringError> {
        meta.mac = self.mac(meta)?.finalize().into_bytes().to_vec();
        Ok(())
    }

    /// Checks that exactly these rows are what was written last.
    pub(super) fn verify(&self, meta: &Meta, rows: &Rows) -> Result<(), KeyringError> {
        self.mac(meta)?
            .verify_slice(&meta.mac)
            .map_err(|_| KeyringError::integrity("its list of keys or its settings do not authenticate"))?;
        meta.list()?.compare(rows)
    }

    fn mac(&self, meta: &Meta) -> Result<Hmac<Sha256>, KeyringError> {
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(self.list.expose())
            .map_err(|_| KeyringError::Encryption)?;
        mac.update(&meta.authenticated());
        Ok(mac)
    }
}

fn cipher(key: &Secret) -> Result<XChaCha20Poly1305, KeyringError> {
    XChaCha20Poly1305::new_from_slice(key.expose()).map_err(|_| KeyringError::Encryption)
}

fn seal(key: &Secret, associated: &[u8], text: &Secret) -> Result<Sealed, KeyringError> {
    let mut nonce = [0; NONCE];
    OsRng
        .try_fill_bytes(&mut nonce)
        .map_err(|e| KeyringError::Random(e.to_string()))?;
    let mut tag = [0; TAG];
    let sealed = Secret::fill_with(text.len(), |bytes| {
        bytes.copy_from_slice(text.expose());
        tag = cipher(key)?
            .encrypt_in_place_detached(&nonce.into(), associated, bytes)
            .map_err(|_| KeyringError::Encryption)?
            .into();
        Ok::<(), KeyringError>(())
    })?;
    Ok(Sealed {
        nonce: nonce.to_vec(),
        material: [sealed.expose(), &tag].concat(),
    })
}

fn open(
    key: &Secret,
    associated: &[u8],
    nonce: &[u8],
    material: &[u8],
    changed: &dyn Fn() -> KeyringError,
) -> Result<Secret, KeyringError> {
    let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| changed())?;
    let split = material.len().saturating_sub(TAG);
    let (sealed, tag) = material.split_at_checked(split).ok_or_else(changed)?;
    let tag: [u8; TAG] = tag.try_into().map_err(|_| changed())?;
    if sealed.is_empty() {
        return Err(changed());
    }
    Secret::fill_with(sealed.len(), |bytes| {
        bytes.copy_from_slice(sealed);
        cipher(key)?
            .decrypt_in_place_detached(&nonce.into(), associated, bytes, &tag.into())
            .map_err(|_| changed())
    })
}

/// One row of `keys` as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) state: String,
    pub(super) profile: String,
    pub(super) algorithm: String,
    pub(super) custody: String,
    pub(super) assurance: String,
    pub(super) public: Vec<u8>,
    pub(super) created: String,
    pub(super) updated: String,
    /// What format 4 added; none in a row of an earlier format.
    pub(super) life: Option<KeyLife>,
    pub(super) nonce: Vec<u8>,
    pub(super) material: Vec<u8>,
}

/// The columns of a key that format 4 added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyLife {
    pub(super) shared: LifeColumns,
    pub(super) rotate_every: Option<i64>,
    pub(super) rotate_uses: Option<i64>,
    pub(super) hardware: Option<Vec<u8>>,
}

impl KeyLife {
    fn new(record: &KeyRecord) -> Self {
        let cells = LifeCells {
            overlap: record.plan.overlap,
            until: record.until,
            deleted: record.deleted,
            reason: record.reason.clone(),
            locked: record.locked,
        };
        Self {
            shared: LifeColumns::new(record.source.as_str(), &cells),
            rotate_every: record.plan.every.map(seconds),
            rotate_uses: record
                .plan
                .uses
                .map(|uses| i64::try_from(uses.get()).unwrap_or(i64::MAX)),
            hardware: record.hardware.clone(),
        }
    }
}

impl Row {
    /// A row without material.
    pub(super) fn new(record: &KeyRecord) -> Result<Self, KeyringError> {
        Ok(Self {
            name: record.key.name.to_string(),
            version: record.key.version.0,
            state: record.state.to_string(),
            profile: serde_json::to_string(&record.profile).map_err(|_| KeyringError::Encryption)?,
            algorithm: record.algorithm.to_string(),
            custody: record.custody.to_string(),
            assurance: record.assurance.to_string(),
            public: record.identity.as_bytes().to_vec(),
            created: record.created.to_string(),
            updated: record.updated.to_string(),
            life: Some(KeyLife::new(record)),
            nonce: Vec::new(),
            material: Vec::new(),
        })
    }

    /// Reads the columns back into types.
    pub(super) fn record(&self) -> Result<KeyRecord, KeyringError> {
        let label = self.label();
        let wrong =
            |column: &str| KeyringError::integrity(format!("key `{label}` has an impossible {column}"));
        let algorithm: KeyAlgorithm = self.algorithm.parse().map_err(|_| wrong("algorithm"))?;
        let profile: Profile = serde_json::from_str(&self.profile).map_err(|_| wrong("profile"))?;
        profile.validate().map_err(|_| wrong("profile"))?;
        profile.accept(algorithm).map_err(|_| wrong("algorithm"))?;
        let identity = KeyIdentity::from_bytes(algorithm, &self.public);
        let mut record = KeyRecord {
            key: KeyRef {
                name: self.name.parse().map_err(|_| wrong("name"))?,
                version: KeyVersion(self.version),
            },
            state: self.state.parse::<KeyState>().map_err(|_| wrong("state"))?,
            profile,
            algorithm,
            custody: custody_named(&self.custody).map_err(|_| wrong("custody"))?,
            assurance: assurance_named(&self.assurance).map_err(|_| wrong("assurance"))?,
            identity: identity.ok_or_else(|| wrong("public key"))?,
            created: self.created.parse::<Timestamp>().map_err(|_| wrong("time"))?,
            updated: self.updated.parse::<Timestamp>().map_err(|_| wrong("time"))?,
            source: KeySource::Generated,
            plan: RotationPlan::default(),
            until: None,
            deleted: None,
            reason: None,
            locked: false,
            hardware: None,
        };
        if let Some(life) = &self.life {
            let cells = life.shared.read(&wrong)?;
            let every = |seconds| duration(seconds).ok_or_else(|| wrong("rotation plan"));
            let uses = |uses| {
                u64::try_from(uses)
                    .ok()
                    .and_then(NonZeroU64::new)
                    .ok_or_else(|| wrong("rotation plan"))
            };
            record.source = key_source_named(&life.shared.source).map_err(|_| wrong("source"))?;
            record.plan = RotationPlan {
                every: life.rotate_every.map(every).transpose()?,
                uses: life.rotate_uses.map(uses).transpose()?,
                overlap: cells.overlap,
            };
            record.until = cells.until;
            record.deleted = cells.deleted;
            record.reason = cells.reason;
            record.locked = cells.locked;
            record.hardware.clone_from(&life.hardware);
        }
        Ok(record)
    }

    /// The digest of every column, for the list.
    pub(super) fn digest(&self) -> String {
        let mut bytes = self.associated();
        append(&mut bytes, &self.nonce);
        append(&mut bytes, &self.material);
        hex::encode(Sha256::digest(&bytes))
    }

    /// How the row is named in messages, whatever its name is.
    pub(super) fn label(&self) -> String {
        format!(
            "{}@v{}",
            claviger_core::name::escape(&self.name, 64),
            self.version
        )
    }

    /// Every column that is not encrypted, each behind its length.
    fn associated(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(
            &mut bytes,
            match self.life {
                None => b"claviger key v1",
                Some(_) => b"claviger key v2",
            },
        );
        append(&mut bytes, self.name.as_bytes());
        append(&mut bytes, &self.version.to_be_bytes());
        for text in [
            &self.state,
            &self.profile,
            &self.algorithm,
            &self.custody,
            &self.assurance,
            &self.created,
            &self.updated,
        ] {
            append(&mut bytes, text.as_bytes());
        }
        append(&mut bytes, &self.public);
        if let Some(life) = &self.life {
            life.shared.append_to(&mut bytes);
            for number in [life.rotate_every, life.rotate_uses] {
                append_optional(
                    &mut bytes,
                    number.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice),
                );
            }
            append_optional(&mut bytes, life.hardware.as_deref());
        }
        bytes
    }
}

/// The one row of `meta` as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    /// Which format the file has: how the list is written, and a part of what is authenticated.
    pub(super) format: u32,
    pub(super) created: String,
    pub(super) root_kind: String,
    pub(super) root_settings: String,
    pub(super) root: Vec<u8>,
    /// A plain digest, not a MAC: tells an accident from a wrong passphrase before the root key is open. It stops no attacker.
    pub(super) root_digest: Vec<u8>,
    pub(super) vkey: Option<String>,
    pub(super) log_size: u64,
    pub(super) generation: u64,
    pub(super) list: String,
    pub(super) mac: Vec<u8>,
}

impl Meta {
    pub(super) fn info(&self) -> Result<KeyringInfo, KeyringError> {
        let wrong = |what: &str| KeyringError::integrity(format!("it has an impossible {what}"));
        let kind: RootKind = self.root_kind.parse().map_err(|_| wrong("kind of root"))?;
        Ok(KeyringInfo {
            format: self.format,
            created: self.created.parse().map_err(|_| wrong("time of creation"))?,
            root: RootSpec {
                kind,
                settings: self.root_settings.clone(),
            },
            assurance: kind.assurance(),
            vkey: self.vkey.clone(),
            log_size: self.log_size,
            generation: self.generation,
        })
    }

    /// Checks that what the root key is opened from is what was written: then what does not open it is wrong, not damaged.
    pub(super) fn check_root(&self) -> Result<(), KeyringError> {
        if self.root_digest == self.digest_of_root() {
            return Ok(());
        }
        Err(KeyringError::integrity(
            "its sealed root key, or what says how to open it, does not have its digest",
        ))
    }

    /// The SHA-256 of the sealed root key and of all that it is opened by.
    pub(super) fn digest_of_root(&self) -> [u8; 32] {
        let mut bytes = Vec::new();
        append(&mut bytes, b"claviger sealed root");
        append(&mut bytes, self.root_kind.as_bytes());
        append(&mut bytes, self.root_settings.as_bytes());
        append(&mut bytes, &self.root);
        Sha256::digest(&bytes).into()
    }

    pub(super) fn list(&self) -> Result<List, KeyringError> {
        List::read(self.format, &self.list)
    }

    /// The next generation with this list, in the newest format; to be authenticated.
    pub(super) fn next(&self, list: &List) -> Result<Self, KeyringError> {
        Ok(Self {
            format: FORMAT,
            generation: self.generation.saturating_add(1),
            list: list.written()?,
            mac: Vec::new(),
            ..self.clone()
        })
    }

    fn authenticated(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, b"claviger keyring");
        append(&mut bytes, &self.format.to_be_bytes());
        append(&mut bytes, self.created.as_bytes());
        append(&mut bytes, self.root_kind.as_bytes());
        append(&mut bytes, self.root_settings.as_bytes());
        append(&mut bytes, &self.root);
        append(&mut bytes, &self.root_digest);
        // An absent key and an empty one differ.
        append(&mut bytes, &[u8::from(self.vkey.is_some())]);
        append(&mut bytes, self.vkey.as_deref().unwrap_or_default().as_bytes());
        append(&mut bytes, &self.log_size.to_be_bytes());
        append(&mut bytes, &self.generation.to_be_bytes());
        append(&mut bytes, self.list.as_bytes());
        bytes
    }
}

/// Appends a field behind its length, so that no two lists of fields have the same bytes.
pub(super) fn append(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend_from_slice(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
    bytes.extend_from_slice(field);
}
