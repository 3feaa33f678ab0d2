//! What an operator does to the life of a key or secret beside rotating it: single versions, staged values, plans, deletion. And what time
//! does to it. Written once for both; only their names and their entries on the log differ.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use claviger_core::audit::{Event, SecretRef, SecretSource};
use claviger_core::{KeyName, KeyRef, KeyVersion, SecretName};

use super::LocalBroker;
use super::keys::NewKeyError;
use super::rotator::WITHDRAWAL;
use super::secrets::{NewSecretError, added};
use crate::keyring::{
    KeyRecord, KeyState, KeyringError, LifeEvent, Living, Lock, RotationPlan, SecretRecord, SecretReplacement,
};

/// What has a life whose changes are on the log.
trait Logged: Living + Send + Sync {
    type Error: From<KeyringError>;

    /// No overlap of it is longer.
    fn longest_overlap(&self) -> Duration {
        self.overlap()
    }

    /// Ends what is under way with what was stopped, and puts the new states on the log.
    fn log(
        broker: &LocalBroker,
        changed: &[Arc<Self>],
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl Logged for KeyRecord {
    type Error = NewKeyError;

    async fn log(broker: &LocalBroker, changed: &[Arc<Self>]) -> Result<(), NewKeyError> {
        broker.log_keys(changed).await
    }
}

impl Logged for SecretRecord {
    type Error = NewSecretError;

    /// What a rotator replaced may be kept for longer than its plan says, until its provider was seen to refuse it.
    fn longest_overlap(&self) -> Duration {
        self.overlap.saturating_add(WITHDRAWAL)
    }

    async fn log(broker: &LocalBroker, changed: &[Arc<Self>]) -> Result<(), NewSecretError> {
        broker.log_secrets(None, changed).await
    }
}

impl LocalBroker {
    /// Lets something happen to one version of a key. What is disabled, revoked or deleted is released to nobody from then on, also not
    /// what is being signed; what happened before changes nothing.
    ///
    /// # Errors
    /// When there is no such version, it cannot go that way, or something cannot be written. If only the log failed, the key is in the
    /// new state, and nothing is released any more.
    pub async fn step_key(&self, key: &KeyRef, event: &LifeEvent) -> Result<Arc<KeyRecord>, NewKeyError> {
        self.step_version(&key.name, key.version, event).await
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
        self.step_every(name, |_| LifeEvent::Delete { window }).await
    }

    /// Takes a deletion back: every version is as it was.
    ///
    /// # Errors
    /// When there is no such key, all of it is destroyed, or something cannot be written.
    pub async fn restore_key(&self, name: &KeyName) -> Result<Vec<Arc<KeyRecord>>, NewKeyError> {
        self.step_every(name, restoring).await
    }

    /// Destroys the material of every version of a deleted key, after its window. That it was there stays on record.
    ///
    /// # Errors
    /// When there is no such key, it is not deleted, its window is not over, or something cannot be written.
    pub async fn purge_key(&self, name: &KeyName) -> Result<Vec<Arc<KeyRecord>>, NewKeyError> {
        self.step_every(name, |_| LifeEvent::Purge).await
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
        self.keyring.plan_of(name, plan, lock, self.now())
    }

    /// Gives up the pending version of a key; its material is destroyed.
    ///
    /// # Errors
    /// When none waits, or something cannot be written.
    pub async fn cancel_key(&self, name: &KeyName) -> Result<Arc<KeyRecord>, NewKeyError> {
        self.cancel(name).await
    }

    /// Adds a new value for a secret that waits beside the one in use.
    ///
    /// # Errors
    /// When there is no such secret, one waits already, the value does not fit its kind, or something cannot be written.
    pub async fn stage_secret(
        &self,
        replacement: SecretReplacement,
    ) -> Result<Arc<SecretRecord>, NewSecretError> {
        let record = self
            .keyring
            .stage_secret(replacement, SecretSource::Operator, self.now())?;
        self.log_staged(record).await
    }

    /// As [`LocalBroker::stage_secret`], of what a provider has issued, if it becomes the version that the log knows it by.
    pub(super) async fn stage_issued(
        &self,
        replacement: SecretReplacement,
        becomes: KeyVersion,
    ) -> Result<Arc<SecretRecord>, NewSecretError> {
        let record = self
            .keyring
            .stage_issued_secret(replacement, becomes, self.now())?;
        self.log_staged(record).await
    }

    async fn log_staged(&self, record: Arc<SecretRecord>) -> Result<Arc<SecretRecord>, NewSecretError> {
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
        self.cancel(name).await
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
        self.step_version(&secret.name, secret.version, event).await
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
        self.step_every(name, |_| LifeEvent::Delete { window }).await
    }

    /// As [`LocalBroker::restore_key`], of a secret.
    ///
    /// # Errors
    /// As there.
    pub async fn restore_secret(&self, name: &SecretName) -> Result<Vec<Arc<SecretRecord>>, NewSecretError> {
        self.step_every(name, restoring).await
    }

    /// As [`LocalBroker::purge_key`], of a secret.
    ///
    /// # Errors
    /// As there.
    pub async fn purge_secret(&self, name: &SecretName) -> Result<Vec<Arc<SecretRecord>>, NewSecretError> {
        self.step_every(name, |_| LifeEvent::Purge).await
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
        let plan = RotationPlan {
            every,
            uses: None,
            overlap,
        };
        self.keyring.plan_of(name, plan, lock, self.now())
    }

    /// Retires what is at the end of its overlap, and says how much did.
    ///
    /// # Errors
    /// When something cannot be written.
    pub(super) async fn pass_time(&self) -> Result<usize, NewKeyError> {
        let keys = self.tick::<KeyRecord>().await?;
        let secrets = self.tick::<SecretRecord>().await.map_err(|error| match error {
            NewSecretError::Keyring(error) => NewKeyError::Keyring(error),
            NewSecretError::Audit(error) => NewKeyError::Audit(error),
        })?;
        Ok(keys + secrets)
    }

    pub(super) fn key_changed(&self, record: &KeyRecord) -> Event {
        Event::KeyStateChanged {
            key: record.key.clone(),
            state: record.standing().to_owned(),
            reason: record.reason.as_ref().map(ToString::to_string),
            keyring: self.keyring.info().generation,
        }
    }

    async fn step_version<R: Logged>(
        &self,
        name: &R::Name,
        version: KeyVersion,
        event: &LifeEvent,
    ) -> Result<Arc<R>, R::Error> {
        let changed = self.keyring.step_one::<R>(name, version, event, self.now())?;
        let changed: Vec<_> = changed.into_iter().collect();
        R::log(self, &changed).await?;
        let record = self.keyring.version_of(name, version);
        record.ok_or_else(|| R::absent(name, Some(version)).into())
    }

    /// Lets something happen to every version that is not destroyed. If nothing is left, the last one says what it is.
    async fn step_every<R: Logged>(
        &self,
        name: &R::Name,
        event: impl Fn(&R) -> LifeEvent + Send + Sync,
    ) -> Result<Vec<Arc<R>>, R::Error> {
        let current = self.keyring.current_of::<R>(name);
        let current = current.ok_or_else(|| R::absent(name, None))?;
        let only = (current.state() == KeyState::Destroyed).then(|| current.version());
        let changed = self.keyring.step_each::<R>(name, self.now(), &|record| {
            (record.state() != KeyState::Destroyed || only == Some(record.version())).then(|| event(record))
        })?;
        R::log(self, &changed).await?;
        Ok(self.keyring.versions_of(name))
    }

    async fn cancel<R: Logged>(&self, name: &R::Name) -> Result<Arc<R>, R::Error> {
        let pending = self.keyring.pending_of::<R>(name);
        let pending = pending.ok_or_else(|| KeyringError::NotWaiting {
            name: name.to_string(),
        })?;
        self.step_version(name, pending.version(), &LifeEvent::Cancel)
            .await
    }

    async fn tick<R: Logged>(&self) -> Result<usize, R::Error> {
        let now = self.now();
        let names: Vec<R::Name> = R::shelf(&self.keyring).keys().cloned().collect();
        let mut retired = 0;
        for name in names {
            let changed = self.keyring.step_each::<R>(&name, now, &|record| {
                Some(LifeEvent::Tick {
                    overlap: record.longest_overlap(),
                })
            })?;
            retired += changed.len();
            R::log(self, &changed).await?;
        }
        Ok(retired)
    }
}

/// A deletion that is taken back: an overlap that a version was in is as long as its plan says.
fn restoring<R: Living>(record: &R) -> LifeEvent {
    LifeEvent::Restore {
        overlap: record.overlap(),
    }
}
