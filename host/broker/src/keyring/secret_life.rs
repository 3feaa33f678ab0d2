//! Staged values of secrets, and what a secret is to the changes of lives, which `living` has. One transaction each. A value is kept only
//! while its version may come back.

use std::sync::{Arc, RwLockReadGuard};
use std::time::Duration;

use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::{KeyVersion, Secret, SecretName};
use jiff::Timestamp;

use super::life::{Life, LifeError, LifeEvent};
use super::living::{Living, Shelf};
use super::secrets::{check_plan, check_value};
use super::{KeyState, Keyring, KeyringError, OpenFile, RotationPlan, SecretRecord, SecretReplacement};

impl Keyring {
    /// Adds a new value that waits beside the one in use until it is promoted.
    ///
    /// # Errors
    /// When there is no such secret, one waits already, the value does not fit its kind, or the disk fails; then the keyring is as it
    /// was.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the value is wiped when this returns"
    )]
    pub fn stage_secret(
        &self,
        new: SecretReplacement,
        by: SecretSource,
        now: Timestamp,
    ) -> Result<Arc<SecretRecord>, KeyringError> {
        self.stage(&new, by, None, now)
    }

    /// As [`Keyring::stage_secret`], of what a provider has issued, and only as this version.
    ///
    /// # Errors
    /// As there, and when it would become another version.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the value is wiped when this returns"
    )]
    pub(crate) fn stage_issued_secret(
        &self,
        new: SecretReplacement,
        becomes: KeyVersion,
        now: Timestamp,
    ) -> Result<Arc<SecretRecord>, KeyringError> {
        self.stage(&new, SecretSource::Rotator, Some(becomes), now)
    }

    fn stage(
        &self,
        new: &SecretReplacement,
        by: SecretSource,
        becomes: Option<KeyVersion>,
        now: Timestamp,
    ) -> Result<Arc<SecretRecord>, KeyringError> {
        let mut file = self.file();
        let current = self.replaceable(new, now)?;
        if let Some(pending) = self.pending_secret(&new.name) {
            return Err(KeyringError::Waiting {
                pending: pending.secret.to_string(),
            });
        }
        let record = self.successor(&current, new, by, KeyState::Pending, now);
        if becomes.is_some_and(|becomes| becomes != record.secret.version) {
            return Err(KeyringError::Secret {
                name: new.name.clone(),
                action: "replaced",
                problem: "another value was added meanwhile".to_owned(),
            });
        }
        self.write_secrets(&mut file, vec![(record.clone(), Some(&new.value))])?;
        Ok(Arc::new(record))
    }

    /// Puts the pending value of a secret into use; the one before retires over its overlap. One step.
    ///
    /// # Errors
    /// When none waits, the secret is deleted, or the disk fails.
    pub fn promote_secret(
        &self,
        name: &SecretName,
        now: Timestamp,
    ) -> Result<Vec<Arc<SecretRecord>>, KeyringError> {
        self.promote_of(name, Duration::ZERO, &|| true, now)
    }

    /// As [`Keyring::promote_secret`], of this version over that one, if both are still what they were seen to be: an operator who gives
    /// one up, stops the other or adds a third meanwhile is not overruled. The one before is kept at least so long.
    ///
    /// # Errors
    /// As there, and when one of them changed.
    pub(crate) fn promote_secret_over(
        &self,
        new: &SecretRef,
        over: &SecretRecord,
        least: Duration,
        now: Timestamp,
    ) -> Result<Vec<Arc<SecretRecord>>, KeyringError> {
        let name = &new.name;
        let as_seen = || {
            self.pending_secret(name)
                .is_some_and(|waits| waits.secret == *new)
                && self
                    .current_secret(name)
                    .is_ok_and(|current| current.secret == over.secret && current.life() == over.life())
        };
        self.promote_of(name, least, &as_seen, now)
    }

    /// Lets something happen to one version of a secret; nothing comes back if nothing changed.
    ///
    /// # Errors
    /// When there is no such version, it cannot go that way, another version would be in use, too, or the disk fails; then it is as it
    /// was.
    pub(crate) fn step_secret(
        &self,
        secret: &SecretRef,
        event: &LifeEvent,
        now: Timestamp,
    ) -> Result<Option<Arc<SecretRecord>>, KeyringError> {
        self.step_one(&secret.name, secret.version, event, now)
    }

    /// The version that is in use, else the newest that was; never one that waits, unless there is no other.
    ///
    /// # Errors
    /// When there is no such secret.
    pub fn current_secret(&self, name: &SecretName) -> Result<Arc<SecretRecord>, KeyringError> {
        self.current_of(name)
            .ok_or_else(|| SecretRecord::absent(name, None))
    }

    /// The version that waits to be promoted, if there is one.
    #[must_use]
    pub fn pending_secret(&self, name: &SecretName) -> Option<Arc<SecretRecord>> {
        self.pending_of(name)
    }

    /// Every version of a secret that is on record, by number.
    #[must_use]
    pub fn secret_versions(&self, name: &SecretName) -> Vec<Arc<SecretRecord>> {
        self.versions_of(name)
    }

    /// The version that the next value of a secret becomes, if one can be added that waits.
    ///
    /// # Errors
    /// When there is no such secret, it is destroyed or deleted, or one waits already.
    pub(crate) fn next_secret(&self, name: &SecretName) -> Result<SecretRef, KeyringError> {
        let current = self.current_secret(name)?;
        is_replaceable(&current)?;
        if let Some(pending) = self.pending_secret(name) {
            return Err(KeyringError::Waiting {
                pending: pending.secret.to_string(),
            });
        }
        Ok(SecretRef {
            name: name.clone(),
            version: self.next_secret_version(name),
        })
    }

    /// The number that the next value of a secret gets, whatever waits.
    pub(crate) fn next_secret_version(&self, name: &SecretName) -> KeyVersion {
        self.next_version_of::<SecretRecord>(name)
    }

    /// The version whose place a new value takes, if it can take it.
    pub(super) fn replaceable(
        &self,
        new: &SecretReplacement,
        now: Timestamp,
    ) -> Result<Arc<SecretRecord>, KeyringError> {
        let refused = |problem: String| KeyringError::Secret {
            name: new.name.clone(),
            action: "replaced",
            problem,
        };
        let current = self.current_secret(&new.name)?;
        check_value(current.kind, &new.value).map_err(refused)?;
        check_plan(new.expires, new.rotate_every, now).map_err(refused)?;
        is_replaceable(&current)?;
        if let Some(of) = &new.of
            && (current.secret != *of || current.state != KeyState::Active)
        {
            return Err(refused(format!("`{of}` is no longer the active version")));
        }
        Ok(current)
    }

    /// The record of a new value.
    pub(super) fn successor(
        &self,
        current: &SecretRecord,
        new: &SecretReplacement,
        by: SecretSource,
        state: KeyState,
        now: Timestamp,
    ) -> SecretRecord {
        SecretRecord {
            secret: SecretRef {
                name: new.name.clone(),
                version: self.next_secret_version(&new.name),
            },
            state,
            created: now,
            updated: now,
            expires: new.expires,
            rotate_every: new.rotate_every.or(current.rotate_every),
            source: by,
            until: None,
            deleted: None,
            reason: None,
            ..current.clone()
        }
    }
}

impl OpenFile {
    /// The values that these versions still have; none of one whose value goes with its state.
    pub(super) fn values_of(&self, records: &[SecretRecord]) -> Result<Vec<Option<Secret>>, KeyringError> {
        records
            .iter()
            .map(|record| {
                if !record.state.keeps_value() {
                    return Ok(None);
                }
                let row = self.secret_row(&record.secret)?;
                row.has_value().then(|| self.open_secret(&row)).transpose()
            })
            .collect()
    }
}

/// Whether a new value can take the place of this one.
fn is_replaceable(current: &SecretRecord) -> Result<(), KeyringError> {
    if current.state == KeyState::Destroyed {
        return Err(KeyringError::Secret {
            name: current.secret.name.clone(),
            action: "replaced",
            problem: format!("`{}` is destroyed; add it anew", current.secret),
        });
    }
    if current.deleted.is_some() {
        return Err(current.refused(LifeError::Deleted));
    }
    Ok(())
}

impl Living for SecretRecord {
    type Name = SecretName;

    fn version(&self) -> KeyVersion {
        self.secret.version
    }

    fn state(&self) -> KeyState {
        self.state
    }

    fn is_in_use(&self) -> bool {
        self.is_in_use()
    }

    fn overlap(&self) -> Duration {
        self.overlap
    }

    fn life(&self) -> Life {
        self.life()
    }

    fn at(&self, life: Life, now: Timestamp) -> Self {
        Self {
            state: life.state,
            until: life.until,
            deleted: life.deleted,
            reason: life.reason,
            locked: life.locked,
            updated: now,
            ..self.clone()
        }
    }

    fn planned(&self, plan: RotationPlan, locked: bool, now: Timestamp) -> Self {
        Self {
            rotate_every: plan.every,
            overlap: plan.overlap,
            locked,
            updated: now,
            ..self.clone()
        }
    }

    fn refused(&self, problem: LifeError) -> KeyringError {
        match problem {
            LifeError::Transition { from, to } => KeyringError::SecretTransition {
                secret: self.secret.clone(),
                from,
                to,
            },
            problem => KeyringError::Life {
                what: format!("secret `{}`", self.secret),
                problem,
            },
        }
    }

    fn absent(name: &SecretName, version: Option<KeyVersion>) -> KeyringError {
        let name = name.clone();
        match version {
            Some(version) => KeyringError::NoSecretVersion {
                secret: SecretRef { name, version },
            },
            None => KeyringError::NoSecret { name },
        }
    }

    fn shelf(keyring: &Keyring) -> RwLockReadGuard<'_, Shelf<Self>> {
        keyring.secret_records()
    }

    fn write(
        keyring: &Keyring,
        file: &mut OpenFile,
        changed: Vec<Self>,
    ) -> Result<Vec<Arc<Self>>, KeyringError> {
        let values = file.values_of(&changed)?;
        let values = values.iter().map(Option::as_ref);
        keyring.write_secrets(file, changed.iter().cloned().zip(values).collect())?;
        Ok(changed.into_iter().map(Arc::new).collect())
    }
}
