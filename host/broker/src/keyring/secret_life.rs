//! Changes to the lives of secrets: staged replacements, states, deletion, time. One transaction each, by the rules of `life`. A value is
//! kept only while its version may come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::{KeyVersion, Secret, SecretName};
use jiff::Timestamp;

use super::life::{LifeError, LifeEvent, after, next};
use super::secrets::{check_plan, check_value, next_version};
use super::{
    KeyState, Keyring, KeyringError, Lock, OpenFile, Reason, RotationPlan, SecretRecord, SecretReplacement,
};

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
        self.promote_waiting(name, Duration::ZERO, &|| true, now)
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
        self.promote_waiting(name, least, &as_seen, now)
    }

    fn promote_waiting(
        &self,
        name: &SecretName,
        least: Duration,
        as_seen: &dyn Fn() -> bool,
        now: Timestamp,
    ) -> Result<Vec<Arc<SecretRecord>>, KeyringError> {
        let pending = self
            .pending_secret(name)
            .ok_or_else(|| KeyringError::NotWaiting {
                name: name.to_string(),
            })?;
        let superseded = LifeEvent::Supersede {
            until: after(now, pending.overlap.max(least)),
        };
        // Asked again under the lock: promoted or given up meanwhile, it must not leave the secret without a value in use.
        let waits = || {
            self.pending_secret(name)
                .is_some_and(|now| now.secret == pending.secret)
                && as_seen()
        };
        let changed = self.step_secrets(name, now, &|record| match record.state {
            KeyState::Pending if record.secret == pending.secret && as_seen() => Some(LifeEvent::Activate),
            KeyState::Active | KeyState::Disabled | KeyState::Revoked if waits() => Some(superseded.clone()),
            KeyState::Pending
            | KeyState::Active
            | KeyState::Disabled
            | KeyState::Retiring
            | KeyState::Retired
            | KeyState::Revoked
            | KeyState::Destroyed => None,
        })?;
        if changed.is_empty() {
            return Err(KeyringError::NotWaiting {
                name: name.to_string(),
            });
        }
        Ok(changed)
    }

    /// Revokes every value of a secret that somebody else may have, or this version, in one step. One that waits is left to wait unless it is
    /// named: whoever issued it may take no other any more.
    ///
    /// # Errors
    /// When the disk fails; then it is as it was.
    pub(crate) fn compromise_secret(
        &self,
        name: &SecretName,
        version: Option<KeyVersion>,
        reason: &Reason,
        now: Timestamp,
    ) -> Result<Vec<Arc<SecretRecord>>, KeyringError> {
        let event = LifeEvent::Compromise(reason.clone());
        self.step_secrets(name, now, &|record| {
            let affected = match version {
                Some(version) => record.secret.version == version,
                None => record.state != KeyState::Pending,
            };
            affected.then(|| event.clone())
        })
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
        if self.secret_record(secret).is_none() {
            return Err(KeyringError::NoSecret {
                name: secret.name.clone(),
            });
        }
        let changed = self.step_secrets(&secret.name, now, &|record| {
            (record.secret == *secret).then(|| event.clone())
        })?;
        Ok(changed.into_iter().next())
    }

    /// Lets something happen to each version of a secret, in one step; those that changed.
    ///
    /// # Errors
    /// As [`Keyring::step_secret`].
    pub(crate) fn step_secrets(
        &self,
        name: &SecretName,
        now: Timestamp,
        event: &dyn Fn(&SecretRecord) -> Option<LifeEvent>,
    ) -> Result<Vec<Arc<SecretRecord>>, KeyringError> {
        let mut file = self.file();
        let mut changed = Vec::new();
        let mut active = false;
        for record in self.secret_versions(name) {
            let stepped = match event(&record) {
                Some(event) => stepped(&record, &event, now)?,
                None => None,
            };
            if stepped.as_ref().unwrap_or(&record).state == KeyState::Active
                && std::mem::replace(&mut active, true)
            {
                return Err(KeyringError::SecretTransition {
                    secret: record.secret.clone(),
                    from: record.state,
                    to: KeyState::Active,
                });
            }
            changed.extend(stepped);
        }
        self.write_changed(&mut file, &changed)?;
        Ok(changed.into_iter().map(Arc::new).collect())
    }

    /// Sets how a secret is rotated, and locks its purge if that is asked; a lock is never taken away.
    ///
    /// # Errors
    /// When there is no such secret, the plan is out of bounds, or the disk fails.
    pub(crate) fn set_secret_plan(
        &self,
        name: &SecretName,
        every: Option<Duration>,
        overlap: Duration,
        lock: Option<Lock>,
        now: Timestamp,
    ) -> Result<Vec<Arc<SecretRecord>>, KeyringError> {
        let plan = RotationPlan {
            every,
            uses: None,
            overlap,
        };
        plan.check()?;
        let mut file = self.file();
        let changed: Vec<SecretRecord> = self
            .secret_versions(name)
            .into_iter()
            .filter(|record| {
                matches!(
                    record.state,
                    KeyState::Pending | KeyState::Active | KeyState::Disabled
                )
            })
            .map(|record| SecretRecord {
                rotate_every: every,
                overlap,
                locked: record.locked || lock.is_some(),
                updated: now,
                ..(*record).clone()
            })
            .collect();
        if changed.is_empty() {
            return Err(KeyringError::NoSecret { name: name.clone() });
        }
        self.write_changed(&mut file, &changed)?;
        Ok(changed.into_iter().map(Arc::new).collect())
    }

    fn write_changed(&self, file: &mut OpenFile, changed: &[SecretRecord]) -> Result<(), KeyringError> {
        if changed.is_empty() {
            return Ok(());
        }
        let values = file.values_of(changed)?;
        let rows = changed
            .iter()
            .zip(&values)
            .map(|(record, value)| (record.clone(), value.as_ref()))
            .collect();
        self.write_secrets(file, rows)
    }

    /// The version that is in use, else the newest that was; never one that waits, unless there is no other.
    ///
    /// # Errors
    /// When there is no such secret.
    pub fn current_secret(&self, name: &SecretName) -> Result<Arc<SecretRecord>, KeyringError> {
        let versions = self.secret_versions(name);
        let newest =
            |of: &dyn Fn(&SecretRecord) -> bool| versions.iter().rev().find(|record| of(record)).cloned();
        newest(&|record| record.state == KeyState::Active)
            .or_else(|| newest(&|record| !matches!(record.state, KeyState::Pending | KeyState::Destroyed)))
            .or_else(|| newest(&|_| true))
            .ok_or_else(|| KeyringError::NoSecret { name: name.clone() })
    }

    /// The version that waits to be promoted, if there is one.
    #[must_use]
    pub fn pending_secret(&self, name: &SecretName) -> Option<Arc<SecretRecord>> {
        self.secret_versions(name)
            .into_iter()
            .find(|record| record.state == KeyState::Pending)
    }

    /// Every version of a secret that is on record, by number.
    #[must_use]
    pub fn secret_versions(&self, name: &SecretName) -> Vec<Arc<SecretRecord>> {
        self.secret_records()
            .get(name)
            .into_iter()
            .flat_map(|versions| versions.values().cloned())
            .collect()
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
        let versions: BTreeMap<KeyVersion, Arc<SecretRecord>> = self
            .secret_versions(name)
            .into_iter()
            .map(|record| (record.secret.version, record))
            .collect();
        next_version(Some(&versions))
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
        return Err(no_life(&current.secret, LifeError::Deleted));
    }
    Ok(())
}

/// The record after an event, if that is another.
pub(super) fn stepped(
    record: &SecretRecord,
    event: &LifeEvent,
    now: Timestamp,
) -> Result<Option<SecretRecord>, KeyringError> {
    let life = record.life();
    let after = next(&life, event, now).map_err(|problem| no_life(&record.secret, problem))?;
    Ok((after != life).then(|| record.at(after, now)))
}

pub(super) fn no_life(secret: &SecretRef, problem: LifeError) -> KeyringError {
    match problem {
        LifeError::Transition { from, to } => KeyringError::SecretTransition {
            secret: secret.clone(),
            from,
            to,
        },
        problem => KeyringError::Life {
            what: format!("secret `{secret}`"),
            problem,
        },
    }
}
