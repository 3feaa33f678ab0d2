//! What a backup says of each thing in it, as JSON. Not the values: those follow each item, in the same encrypted file.

use std::num::NonZeroU64;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::http::{InjectionKind, Origin};
use claviger_core::profile::Profile;
use claviger_core::{KeyAlgorithm, KeyIdentity, KeyName, KeyRef, KeyVersion, SecretName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::keyring::{KeyRecord, KeySource, KeyState, Reason, RotationPlan, SecretRecord, has_use};

/// What precedes the items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// When it was made.
    pub(crate) made: Timestamp,
    /// By which version of Claviger.
    pub(crate) version: String,
    /// The audit log's verifier key: of which keyring it is, and who signed it.
    pub(crate) vkey: String,
    /// How hard that keyring was.
    pub(crate) assurance: Assurance,
    /// How often it had been changed.
    pub(crate) generation: u64,
    /// How many versions of keys and secrets follow.
    pub(crate) items: u64,
}

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyItem {
    name: KeyName,
    version: KeyVersion,
    state: String,
    profile: Profile,
    algorithm: KeyAlgorithm,
    custody: CustodyKind,
    assurance: Assurance,
    /// The public half, or the identifier, as base64url.
    identity: String,
    created: Timestamp,
    updated: Timestamp,
    source: String,
    /// Whether the TPM refuses it once it is revoked: then it does not leave that TPM.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    hardware: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotate_every: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotate_uses: Option<NonZeroU64>,
    overlap: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    locked: bool,
}

/// One version of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretItem {
    name: SecretName,
    version: KeyVersion,
    state: String,
    kind: InjectionKind,
    origin: Origin,
    assurance: Assurance,
    created: Timestamp,
    updated: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    source: SecretSource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotate_every: Option<u64>,
    overlap: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    locked: bool,
}

/// What follows the items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct End {
    /// By the audit log's key, over all that precedes (base64).
    pub(crate) signature: String,
}

impl KeyItem {
    pub(crate) fn new(record: &KeyRecord) -> Self {
        Self {
            name: record.key.name.clone(),
            version: record.key.version,
            state: record.state.to_string(),
            profile: record.profile.clone(),
            algorithm: record.algorithm,
            custody: record.custody,
            assurance: record.assurance,
            identity: Base64UrlUnpadded::encode_string(record.identity.as_bytes()),
            created: record.created,
            updated: record.updated,
            source: record.source.to_string(),
            hardware: record.hardware.is_some()
                && record.custody == CustodyKind::TpmSealed
                && has_use(record.state),
            rotate_every: record.plan.every.map(|every| every.as_secs()),
            rotate_uses: record.plan.uses,
            overlap: record.plan.overlap.as_secs(),
            until: record.until,
            deleted: record.deleted,
            reason: record.reason.as_ref().map(ToString::to_string),
            locked: record.locked,
        }
    }

    /// The record, if it is one that a keyring can have. What a custody kept of its own is not in it.
    pub(crate) fn record(self) -> Result<KeyRecord, String> {
        let label = format!("key `{}@{}`", self.name, self.version);
        let wrong = |what: &str| format!("{label} has an impossible {what}");
        self.profile.validate().map_err(|_| wrong("profile"))?;
        self.profile
            .accept(self.algorithm)
            .map_err(|_| wrong("algorithm"))?;
        let identity = Base64UrlUnpadded::decode_vec(&self.identity)
            .ok()
            .and_then(|bytes| KeyIdentity::from_bytes(self.algorithm, &bytes))
            .ok_or_else(|| wrong("public key"))?;
        if self.version.0 == 0 {
            return Err(wrong("version"));
        }
        let state = self.state.parse::<KeyState>().map_err(|_| wrong("state"))?;
        Ok(KeyRecord {
            key: KeyRef {
                name: self.name,
                version: self.version,
            },
            state,
            profile: self.profile,
            algorithm: self.algorithm,
            custody: self.custody,
            assurance: self.assurance,
            identity,
            created: self.created,
            updated: self.updated,
            source: self.source.parse::<KeySource>().map_err(|_| wrong("source"))?,
            plan: RotationPlan {
                every: plan(self.rotate_every, &wrong)?,
                uses: self.rotate_uses,
                overlap: Duration::from_secs(self.overlap),
            },
            until: self.until,
            deleted: self.deleted,
            reason: self.reason.as_deref().and_then(Reason::new),
            locked: self.locked,
            // What the TPM needs to refuse it stayed there. That there was something tells that the key did, too.
            hardware: (self.hardware && has_use(state)).then(Vec::new),
        })
    }
}

impl SecretItem {
    pub(crate) fn new(record: &SecretRecord) -> Self {
        Self {
            name: record.secret.name.clone(),
            version: record.secret.version,
            state: record.state.to_string(),
            kind: record.kind,
            origin: record.origin.clone(),
            assurance: record.assurance,
            created: record.created,
            updated: record.updated,
            expires: record.expires,
            source: record.source,
            rotate_every: record.rotate_every.map(|every| every.as_secs()),
            overlap: record.overlap.as_secs(),
            until: record.until,
            deleted: record.deleted,
            reason: record.reason.as_ref().map(ToString::to_string),
            locked: record.locked,
        }
    }

    /// The record, if it is one that a keyring can have.
    pub(crate) fn record(self) -> Result<SecretRecord, String> {
        let label = format!("secret `{}@{}`", self.name, self.version);
        let wrong = |what: &str| format!("{label} has an impossible {what}");
        if self.version.0 == 0 {
            return Err(wrong("version"));
        }
        Ok(SecretRecord {
            secret: SecretRef {
                name: self.name,
                version: self.version,
            },
            state: self.state.parse::<KeyState>().map_err(|_| wrong("state"))?,
            kind: self.kind,
            origin: self.origin,
            assurance: self.assurance,
            created: self.created,
            updated: self.updated,
            expires: self.expires,
            rotate_every: plan(self.rotate_every, &wrong)?,
            overlap: Duration::from_secs(self.overlap),
            source: self.source,
            until: self.until,
            deleted: self.deleted,
            reason: self.reason.as_deref().and_then(Reason::new),
            locked: self.locked,
        })
    }
}

fn plan(seconds: Option<u64>, wrong: &dyn Fn(&str) -> String) -> Result<Option<Duration>, String> {
    match seconds {
        Some(0) => Err(wrong("rotation plan")),
        Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
        None => Ok(None),
    }
}
