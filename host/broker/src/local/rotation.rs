//! New versions in the place of old ones: rotation of keys, staged versions. Not when: `schedule` says what is due. Not of what was
//! compromised: `compromise` has that.

use std::sync::Arc;
use std::time::Duration;

use claviger_core::audit::Event;
use claviger_core::key::KeyVersion;
use claviger_core::profile::Profile;
use claviger_core::{BoxFuture, KeyName, KeyRef};
use jiff::Timestamp;

use super::hardware::{Enforced, gone_for_good};
use super::keys::{NewKeyError, created};
use super::{LocalBroker, Stop};
use crate::keyring::{
    KeyRecord, KeyRotation, KeySource, KeyringError, NewKey, RotationPlan, Start, Succession,
};

/// How to rotate a key.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// Only if this version is the one in use: whoever asks again, or asks at the same time, gets what the first one made.
    pub of: Option<KeyVersion>,
    /// How long the version before stays retiring; none is as the key's plan says. Kept as the key's plan.
    pub overlap: Option<Duration>,
    /// Whether the new version is used at once.
    pub start: Start,
}

impl Default for Rotation {
    /// Of whatever is in use, at once, as the plan says.
    fn default() -> Self {
        Self {
            of: None,
            overlap: None,
            start: Start::AtOnce,
        }
    }
}

impl LocalBroker {
    /// Makes the next version of a key, of the same profile, algorithm and custody. The version before retires over the overlap: what it
    /// made is good until then, and what it is signing is released. One transaction: a crash leaves the old one in use or the new one.
    ///
    /// Of several at once, or of one that is asked again with the same `of`, one rotates, and all get its version. Dropping the future
    /// leaves the old version in use, or the new one.
    ///
    /// # Errors
    /// When there is no such key, it is disabled, deleted or waits for a promotion, another version than `of` or its successor is in use,
    /// its custody fails, or something cannot be written.
    pub async fn rotate_key(
        &self,
        name: &KeyName,
        rotation: Rotation,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        let current = self.current_key(name)?;
        self.rotate_seen(&current, rotation).await
    }

    /// As [`LocalBroker::rotate_key`], of what was seen: if it was stopped since, it is not rotated.
    pub(super) async fn rotate_seen(
        &self,
        current: &KeyRecord,
        rotation: Rotation,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        let name = &current.key.name;
        let of = rotation.of.unwrap_or(current.key.version);
        if let Some(faster) = self.rotated_already(name, of, rotation.start) {
            return Ok(faster);
        }
        if rotation.start == Start::AtOnce && is_certified(&current.profile) {
            return Err(NewKeyError::NeedsStaging(name.clone()));
        }
        let new = self.successor(current, rotation.overlap).await?;
        let succession = match rotation.start {
            Start::AtOnce => Succession::Rotated,
            Start::Staged => Succession::Staged,
        };
        match self.keyring.rotate_seen(new, current, of, succession, self.now()) {
            Ok(rotated) => self.log_rotation(&rotated, rotation.start).await,
            Err(
                error @ (KeyringError::Stale { .. }
                | KeyringError::KeyExists { .. }
                | KeyringError::Waiting { .. }),
            ) => self
                .rotated_already(name, of, rotation.start)
                .ok_or_else(|| error.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the pending version of a key into use.
    ///
    /// # Errors
    /// When none waits, the key is deleted, or something cannot be written.
    pub async fn promote_key(&self, name: &KeyName) -> Result<Arc<KeyRecord>, NewKeyError> {
        let changed = self
            .keyring
            .promote_of::<KeyRecord>(name, Duration::ZERO, &|| true, self.now())?;
        self.log_keys(&changed).await?;
        self.current_key(name)
    }

    /// The version in use, else the newest that was.
    pub(crate) fn current_key(&self, name: &KeyName) -> Result<Arc<KeyRecord>, NewKeyError> {
        self.keyring.current(name).ok_or_else(|| {
            let key = KeyRef {
                name: name.clone(),
                version: KeyVersion::FIRST,
            };
            KeyringError::NoKey { key }.into()
        })
    }

    /// What another rotation of the same version made, if one did.
    fn rotated_already(&self, name: &KeyName, of: KeyVersion, start: Start) -> Option<Arc<KeyRecord>> {
        match start {
            Start::AtOnce => self
                .keyring
                .key(name)
                .filter(|record| record.key.version.0 == of.0.saturating_add(1)),
            Start::Staged => self
                .keyring
                .pending(name)
                .filter(|record| record.key.version > of),
        }
    }

    /// Material for the next version, made by the same custody.
    pub(super) async fn successor(
        &self,
        current: &KeyRecord,
        overlap: Option<Duration>,
    ) -> Result<NewKey, NewKeyError> {
        let key = KeyRef {
            name: current.key.name.clone(),
            version: self.keyring.next_version(&current.key.name),
        };
        let enforced = if current.hardware.is_some() {
            Enforced::Hardware
        } else {
            Enforced::Keyring
        };
        let made = self
            .make(
                &key,
                &current.profile,
                current.algorithm,
                current.custody,
                enforced,
            )
            .await?;
        Ok(NewKey {
            key,
            profile: current.profile.clone(),
            algorithm: current.algorithm,
            custody: current.custody,
            assurance: self.assurance,
            identity: made.identity,
            source: KeySource::Generated,
            plan: RotationPlan {
                overlap: overlap.unwrap_or(current.plan.overlap),
                ..current.plan
            },
            locked: current.locked,
            material: made.material,
            hardware: made.hardware,
        })
    }

    /// Puts a rotation on the log: the new version first, so that whoever reads it never finds a key without one.
    pub(super) async fn log_rotation(
        &self,
        rotated: &KeyRotation,
        start: Start,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        let mut events = vec![created(&rotated.new)];
        match start {
            Start::AtOnce => {}
            Start::Staged => events.push(self.key_changed(&rotated.new)),
        }
        self.log_with(events, &rotated.changed).await?;
        Ok(Arc::clone(&rotated.new))
    }

    /// Closes what is out of use, ends what is under way with what was stopped, and puts the new states on the log.
    pub(super) async fn log_keys(&self, changed: &[Arc<KeyRecord>]) -> Result<(), NewKeyError> {
        self.log_with(Vec::new(), changed).await
    }

    async fn log_with(&self, events: Vec<Event>, changed: &[Arc<KeyRecord>]) -> Result<(), NewKeyError> {
        // All have their places in the log before one is waited for: whoever goes away meanwhile takes none of them along.
        let mut appended: Vec<BoxFuture<'static, _>> = Vec::new();
        for event in events {
            appended.push(Box::pin(self.record.append(event)));
        }
        for record in changed {
            self.open_keys.close(&record.key);
            let stop = || {
                if !record.may_finish() {
                    self.exchanges
                        .stop(Stop::Revoked, |one| one.keys.contains(&record.key));
                }
            };
            appended.push(Box::pin(
                self.record.append_stopping(self.key_changed(record), &stop),
            ));
        }
        for one in appended {
            one.await?;
        }
        // Last: what the keyring says is on disk and holds, whatever becomes of the device.
        let mut told = Ok(());
        for record in changed.iter().filter(|record| gone_for_good(record.state)) {
            // One that fails keeps the device from none of the others.
            told = told.and(self.enforce_revocation(record).await);
        }
        told
    }

    /// Now, and never before what is on record: a clock that jumps back revives nothing.
    pub(super) fn now(&self) -> Timestamp {
        let now = self.clock.now();
        self.ledger().latest().map_or(now, |latest| latest.max(now))
    }
}

/// Whether somebody else certifies the public half: a new version is worth nothing before that.
pub(super) const fn is_certified(profile: &Profile) -> bool {
    match profile {
        Profile::Mtls {} => true,
        Profile::Sshsig { .. }
        | Profile::Jws { .. }
        | Profile::Git { .. }
        | Profile::SshAuth { .. }
        | Profile::Attest {}
        | Profile::Seal {}
        | Profile::Mac { .. }
        | Profile::Labeled { .. }
        | Profile::HttpSignature { .. }
        | Profile::Dpop {}
        | Profile::ClientAssertion { .. }
        | Profile::GithubApp { .. } => false,
    }
}
