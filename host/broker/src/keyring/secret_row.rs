//! One version of a secret as it is stored, and what the keyring says of it. Not its value: that is the encrypted column.

use std::fmt;
use std::time::Duration;

use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::custody::Assurance;
use claviger_core::http::{InjectionKind, Origin};
use claviger_core::{KeyVersion, Secret, SecretName};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::KeyringError;
use super::columns::{LifeCells, LifeColumns, Reason, duration, seconds};
use super::envelope::append;
use super::life::Life;
use super::record::{KeyState, assurance_named, due, secret_source_named};

/// One version of a secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecretRecord {
    /// Its name and version.
    pub secret: SecretRef,
    /// Where it is in its life. Only an active version is used. One that was replaced is kept for the overlap, in case the new one turns
    /// out wrong, and then retired: its value is gone.
    pub state: KeyState,
    /// What it is for. The same for every version.
    pub kind: InjectionKind,
    /// Where alone it may be sent. The same for every version.
    pub origin: Origin,
    /// How hard the keyring is that it was put into.
    pub assurance: Assurance,
    /// When this version was added.
    pub created: Timestamp,
    /// When its state last changed.
    pub updated: Timestamp,
    /// When whoever issued it stops accepting it, if that is known. It is not used from then on.
    pub expires: Option<Timestamp>,
    /// How often it shall be replaced, if there is a plan. In whole seconds. A plan reminds; it stops nothing.
    pub rotate_every: Option<Duration>,
    /// How long the version before is kept after a replacement, in whole seconds.
    pub overlap: Duration,
    /// Who put this version there.
    pub source: SecretSource,
    /// When the present state ends by itself: a retiring version retires. Of a deleted one: when it may be purged. Of a revoked one:
    /// [`SecretRecord::lacks_successor`], and since when.
    pub until: Option<Timestamp>,
    /// When it was deleted, if it is: it is used for nothing, and can be restored until it is purged.
    pub deleted: Option<Timestamp>,
    /// Why it was disabled or revoked.
    pub reason: Option<Reason>,
    /// Whether its purge is locked: the recovery window cannot be made shorter, and the lock cannot be taken away.
    pub locked: bool,
}

impl SecretRecord {
    /// Its state in a word, `deleted` if it is.
    #[must_use]
    pub const fn standing(&self) -> &'static str {
        self.state.standing(self.deleted)
    }

    /// Whether it may be used.
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        self.state.is_in_use(self.deleted)
    }

    /// Whether what was allowed with it goes on to its end: it was not stopped, only replaced.
    #[must_use]
    pub const fn may_finish(&self) -> bool {
        self.state.may_finish(self.deleted)
    }

    /// Whether its server may take it: it is used, waits, or was used until a moment ago.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        matches!(
            self.state,
            KeyState::Active | KeyState::Retiring | KeyState::Pending
        ) && self.deleted.is_none()
    }

    /// Where it is in its life.
    #[must_use]
    pub fn life(&self) -> Life {
        Life {
            state: self.state,
            until: self.until,
            deleted: self.deleted,
            reason: self.reason.clone(),
            locked: self.locked,
        }
    }

    /// Whether it was compromised while it was in use, and no value has taken its place yet.
    #[must_use]
    pub fn lacks_successor(&self) -> bool {
        self.life().lacks_successor()
    }

    /// When it shall be replaced, if there is a plan. One that was added after now was added by a clock that had run ahead, and is due at
    /// once.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        self.rotate_every.map(|every| due(self.created, every, now))
    }

    /// Whether it has expired at this time.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

/// A secret to add. It becomes active at once.
pub struct NewSecret {
    /// Its name.
    pub name: SecretName,
    /// What it is for. Cannot be changed later.
    pub kind: InjectionKind,
    /// Where alone it may be sent. Cannot be changed later.
    pub origin: Origin,
    /// How hard it is.
    pub assurance: Assurance,
    /// When it stops being accepted, if that is known.
    pub expires: Option<Timestamp>,
    /// How often it shall be replaced; at least a second.
    pub rotate_every: Option<Duration>,
    /// How long the version before is kept after a replacement.
    pub overlap: Duration,
    /// Whether its purge is locked.
    pub locked: bool,
    /// Its value.
    pub value: Secret,
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSecret")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// One row of `secrets` as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretRow {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) state: String,
    pub(super) kind: String,
    pub(super) origin: String,
    pub(super) assurance: String,
    pub(super) created: String,
    pub(super) updated: String,
    pub(super) expires: Option<String>,
    pub(super) rotate_every: Option<i64>,
    /// What format 4 added; none in a row of an earlier format.
    pub(super) life: Option<LifeColumns>,
    pub(super) nonce: Vec<u8>,
    pub(super) material: Vec<u8>,
}

impl SecretRow {
    /// A row without a value.
    pub(super) fn new(record: &SecretRecord) -> Self {
        Self {
            name: record.secret.name.to_string(),
            version: record.secret.version.0,
            state: record.state.to_string(),
            kind: record.kind.to_string(),
            origin: record.origin.to_string(),
            assurance: record.assurance.to_string(),
            created: record.created.to_string(),
            updated: record.updated.to_string(),
            expires: record.expires.map(|at| at.to_string()),
            rotate_every: record.rotate_every.map(seconds),
            life: Some(LifeColumns::new(
                record.source.as_str(),
                &LifeCells {
                    overlap: record.overlap,
                    until: record.until,
                    deleted: record.deleted,
                    reason: record.reason.clone(),
                    locked: record.locked,
                },
            )),
            nonce: Vec::new(),
            material: Vec::new(),
        }
    }

    /// Reads the columns back into types.
    pub(super) fn record(&self) -> Result<SecretRecord, KeyringError> {
        let label = self.label();
        let wrong =
            |column: &str| KeyringError::integrity(format!("secret `{label}` has an impossible {column}"));
        let time = |text: &str| text.parse::<Timestamp>().map_err(|_| wrong("time"));
        let kind = self.kind.parse::<InjectionKind>().map_err(|_| wrong("kind"))?;
        let mut record = SecretRecord {
            secret: SecretRef {
                name: self.name.parse().map_err(|_| wrong("name"))?,
                version: KeyVersion(self.version),
            },
            state: self.state.parse::<KeyState>().map_err(|_| wrong("state"))?,
            kind,
            origin: self.origin.parse::<Origin>().map_err(|_| wrong("origin"))?,
            assurance: assurance_named(&self.assurance).map_err(|_| wrong("assurance"))?,
            created: time(&self.created)?,
            updated: time(&self.updated)?,
            expires: self.expires.as_deref().map(time).transpose()?,
            rotate_every: self
                .rotate_every
                .map(|seconds| duration(seconds).ok_or_else(|| wrong("rotation plan")))
                .transpose()?,
            overlap: Duration::ZERO,
            // Before it was kept: nothing but a refresh token was ever replaced by anybody but an operator.
            source: match kind {
                InjectionKind::OauthRefresh if self.version > KeyVersion::FIRST.0 => SecretSource::Server,
                InjectionKind::OauthRefresh
                | InjectionKind::Bearer
                | InjectionKind::Basic
                | InjectionKind::Header
                | InjectionKind::Query
                | InjectionKind::OauthClient
                | InjectionKind::OauthSubject
                | InjectionKind::AwsSigv4
                | InjectionKind::WebhookHmac => SecretSource::Operator,
            },
            until: None,
            deleted: None,
            reason: None,
            locked: false,
        };
        if let Some(life) = &self.life {
            let cells = life.read(&wrong)?;
            record.source = secret_source_named(&life.source).map_err(|_| wrong("source"))?;
            record.overlap = cells.overlap;
            record.until = cells.until;
            record.deleted = cells.deleted;
            record.reason = cells.reason;
            record.locked = cells.locked;
        }
        Ok(record)
    }

    /// Whether the value is still there.
    pub(super) fn has_value(&self) -> bool {
        !self.material.is_empty()
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

    /// Every column that is not encrypted, each behind its length: a value cannot be moved to another secret, kind or origin.
    pub(super) fn associated(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(
            &mut bytes,
            match self.life {
                None => b"claviger secret v1",
                Some(_) => b"claviger secret v2",
            },
        );
        append(&mut bytes, self.name.as_bytes());
        append(&mut bytes, &self.version.to_be_bytes());
        for text in [
            &self.kind,
            &self.origin,
            &self.state,
            &self.assurance,
            &self.created,
            &self.updated,
        ] {
            append(&mut bytes, text.as_bytes());
        }
        // What is absent differs from what is empty or zero.
        append(&mut bytes, &[u8::from(self.expires.is_some())]);
        append(&mut bytes, self.expires.as_deref().unwrap_or_default().as_bytes());
        append(&mut bytes, &[u8::from(self.rotate_every.is_some())]);
        append(&mut bytes, &self.rotate_every.unwrap_or_default().to_be_bytes());
        if let Some(life) = &self.life {
            life.append_to(&mut bytes);
        }
        bytes
    }
}
