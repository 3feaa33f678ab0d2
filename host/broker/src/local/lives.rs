//! What an operator does to the life of a key or secret beside rotating it: single versions, staged values, plans, deletion. And what time
//! does to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use claviger_core::audit::{Event, SecretRef, SecretSource};
use claviger_core::{KeyName, KeyRef, SecretName};

use super::LocalBroker;
use super::keys::NewKeyError;
use super::rotator::WITHDRAWAL;
use super::secrets::{NewSecretError, added};
use crate::keyring::{
    KeyRecord, KeyState, KeyringError, LifeEvent, Lock, RotationPlan, SecretRecord, SecretReplacement,
};

impl LocalBroker {
    /// Lets something happen to one version of a key. What is disabled, revoked or deleted is released to nobody from then on, also not
    /// what is being signed; what happened before changes nothing.
    ///
    /// # Errors
    /// When there is no such version, it cannot go that way, or something cannot be written. If only the log failed, the key is in the
    /// new state, and nothing is released any more.
    pub async fn step_key(&self, key: &KeyRef, event: &LifeEvent) -> Result<Arc<KeyRecord>, NewKeyError> {
        let changed = self.keyring.step(key, event, self.now())?;
        let changed: Vec<_> = changed.into_iter().collect();
        self.log_keys(&changed).await?;
        self.keyring
            .record(key)
            .ok_or_else(|| KeyringError::NoKey { key: key.clone() }.into())
    }

    /// Deletes a key: no version of it is used from now on. It can be restored for so long, and its name is not free before it is purged.
    ///
    /// # Errors
    /// When there is no such key, the window is out of bounds or under a lock's, or something cannot be written.
    pub async fn delete_key(
        &self,
        name: &KeyName,
        window: Duration,
    ) -> Result<Vec<Arc<KeyRecord>>, NewKeyError> {
        self.step_every_version(name, &LifeEvent::Delete { window }).await
    }

    /// Takes a deletion back: every version is as it was.
    ///
    /// # Errors
    /// When there is no such key, all of it is destroyed, or something cannot be written.
    pub async fn restore_key(&self, name: &KeyName) -> Result<Vec<Arc<KeyRecord>>, NewKeyError> {
        let overlap = self.current_key(name)?.plan.overlap;
        self.step_every_version(name, &LifeEvent::Restore { overlap })
            .await
    }

    /// Destroys the material of every version of a deleted key, after its window. That it was there stays on record.
    ///
    /// # Errors
    /// When there is no such key, it is not deleted, its window is not over, or something cannot be written.
    pub async fn purge_key(&self, name: &KeyName) -> Result<Vec<Arc<KeyRecord>>, NewKeyError> {
        self.step_every_version(name, &LifeEvent::Purge).await
    }

    async fn step_every_version(
        &self,
        name: &KeyName,
        event: &LifeEvent,
    ) -> Result<Vec<Arc<KeyRecord>>, NewKeyError> {
        let current = self.current_key(name)?;
        // If nothing is left of it, the last one says what it is.
        let only = (current.state == KeyState::Destroyed).then(|| current.key.clone());
        let changed = self.keyring.step_all(name, self.now(), &|record| {
            (record.state != KeyState::Destroyed || only.as_ref() == Some(&record.key)).then(|| event.clone())
        })?;
        self.log_keys(&changed).await?;
        Ok(self.keyring.versions(name))
    }

    /// Sets when a key is rotated, and locks its purge if that is asked. A lock is never taken away.
    ///
    /// # Errors
    /// When there is no such key, or the keyring cannot be written.
    pub fn plan_key(
        &self,
        name: &KeyName,
        plan: RotationPlan,
        lock: Option<Lock>,
    ) -> Result<Vec<Arc<KeyRecord>>, KeyringError> {
        self.keyring.set_plan(name, plan, lock, self.now())
    }

    /// Adds a new value for a secret that waits beside the one in use.
    ///
    /// # Errors
    /// When there is no such secret, one waits already, the value does not fit its kind, or something cannot be written.
    pub async fn stage_secret(
        &self,
        replacement: SecretReplacement,
    ) -> Result<Arc<SecretRecord>, NewSecretError> {
        self.stage_secret_by(replacement, SecretSource::Operator).await
    }

    pub(super) async fn stage_secret_by(
        &self,
        replacement: SecretReplacement,
        by: SecretSource,
    ) -> Result<Arc<SecretRecord>, NewSecretError> {
        let record = self.keyring.stage_secret(replacement, by, self.now())?;
        self.log_secrets(Some(added(&record)), &[Arc::clone(&record)])
            .await?;
        Ok(record)
    }

    /// Puts the pending value of a secret into use from the next request on; what is under way goes on with the old one, which is kept
    /// over its overlap.
    ///
    /// # Errors
    /// When none waits, the secret is deleted, or something cannot be written.
    pub async fn promote_secret(&self, name: &SecretName) -> Result<Arc<SecretRecord>, NewSecretError> {
        let changed = self.keyring.promote_secret(name, self.now())?;
        self.log_secrets(None, &changed).await?;
        Ok(self.keyring.current_secret(name)?)
    }

    /// Gives up the pending value of a secret, which is destroyed.
    ///
    /// # Errors
    /// When none waits, or something cannot be written.
    pub async fn cancel_secret(&self, name: &SecretName) -> Result<Arc<SecretRecord>, NewSecretError> {
        let pending = self
            .keyring
            .pending_secret(name)
            .ok_or_else(|| KeyringError::NotWaiting {
                name: name.to_string(),
            })?;
        self.step_secret(&pending.secret, &LifeEvent::Cancel).await
    }

    /// As [`LocalBroker::step_key`], of one version of a secret.
    ///
    /// # Errors
    /// As there.
    pub async fn step_secret(
        &self,
        secret: &SecretRef,
        event: &LifeEvent,
    ) -> Result<Arc<SecretRecord>, NewSecretError> {
        let changed = self.keyring.step_secret(secret, event, self.now())?;
        let changed: Vec<_> = changed.into_iter().collect();
        self.log_secrets(None, &changed).await?;
        let record = self.keyring.secret_record(secret);
        Ok(record.ok_or_else(|| KeyringError::NoSecret {
            name: secret.name.clone(),
        })?)
    }

    /// As [`LocalBroker::delete_key`], of a secret.
    ///
    /// # Errors
    /// As there.
    pub async fn delete_secret(
        &self,
        name: &SecretName,
        window: Duration,
    ) -> Result<Vec<Arc<SecretRecord>>, NewSecretError> {
        self.step_every_value(name, &LifeEvent::Delete { window }).await
    }

    /// As [`LocalBroker::restore_key`], of a secret.
    ///
    /// # Errors
    /// As there.
    pub async fn restore_secret(&self, name: &SecretName) -> Result<Vec<Arc<SecretRecord>>, NewSecretError> {
        let overlap = self.keyring.current_secret(name)?.overlap;
        self.step_every_value(name, &LifeEvent::Restore { overlap }).await
    }

    /// As [`LocalBroker::purge_key`], of a secret.
    ///
    /// # Errors
    /// As there.
    pub async fn purge_secret(&self, name: &SecretName) -> Result<Vec<Arc<SecretRecord>>, NewSecretError> {
        self.step_every_value(name, &LifeEvent::Purge).await
    }

    async fn step_every_value(
        &self,
        name: &SecretName,
        event: &LifeEvent,
    ) -> Result<Vec<Arc<SecretRecord>>, NewSecretError> {
        let current = self.keyring.current_secret(name)?;
        let only = (current.state == KeyState::Destroyed).then(|| current.secret.clone());
        let changed = self.keyring.step_secrets(name, self.now(), &|record| {
            (record.state != KeyState::Destroyed || only.as_ref() == Some(&record.secret))
                .then(|| event.clone())
        })?;
        self.log_secrets(None, &changed).await?;
        Ok(self.keyring.secret_versions(name))
    }

    /// Sets how a secret is rotated, and locks its purge if that is asked. A lock is never taken away.
    ///
    /// # Errors
    /// When there is no such secret, or the keyring cannot be written.
    pub fn plan_secret(
        &self,
        name: &SecretName,
        every: Option<Duration>,
        overlap: Duration,
        lock: Option<Lock>,
    ) -> Result<Vec<Arc<SecretRecord>>, KeyringError> {
        self.keyring
            .set_secret_plan(name, every, overlap, lock, self.now())
    }

    /// Retires what is at the end of its overlap, and says what did.
    ///
    /// # Errors
    /// When something cannot be written.
    pub(super) async fn pass_time(&self) -> Result<usize, NewKeyError> {
        let now = self.now();
        let keys: BTreeSet<KeyName> = self
            .keyring
            .keys()
            .iter()
            .map(|one| one.key.name.clone())
            .collect();
        let mut retired = 0;
        for name in keys {
            let changed = self.keyring.step_all(&name, now, &|record| {
                Some(LifeEvent::Tick {
                    overlap: record.plan.overlap,
                })
            })?;
            retired += changed.len();
            self.log_keys(&changed).await?;
        }
        let secrets = self.keyring.secrets();
        let secrets: BTreeSet<SecretName> = secrets.iter().map(|one| one.secret.name.clone()).collect();
        for name in secrets {
            let changed = self.keyring.step_secrets(&name, now, &|record| {
                // What a rotator replaced may be kept for longer than its plan says, until its provider was seen to refuse it.
                Some(LifeEvent::Tick {
                    overlap: record.overlap.max(WITHDRAWAL),
                })
            })?;
            retired += changed.len();
            self.log_secrets(None, &changed)
                .await
                .map_err(|error| match error {
                    NewSecretError::Keyring(error) => NewKeyError::Keyring(error),
                    NewSecretError::Audit(error) => NewKeyError::Audit(error),
                })?;
        }
        Ok(retired)
    }

    pub(super) fn key_changed(&self, record: &KeyRecord) -> Event {
        Event::KeyStateChanged {
            key: record.key.clone(),
            state: record.standing().to_owned(),
            reason: record.reason.as_ref().map(ToString::to_string),
            keyring: self.keyring.info().generation,
        }
    }
}
