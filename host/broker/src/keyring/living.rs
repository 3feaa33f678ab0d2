//! The changes of lives, written once for keys and secrets: one transaction each, of one version or of all that a name has, by the rules of
//! `life`. A crash leaves what was or what shall be. Not new versions: `change` and `secret_life` make those.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, RwLockReadGuard};
use std::time::Duration;

use claviger_core::KeyVersion;
use jiff::Timestamp;

use super::life::{Life, LifeError, LifeEvent, after, next};
use super::{KeyState, Keyring, KeyringError, Lock, OpenFile, Reason, RotationPlan};

/// One version of a credential, as far as it has a life.
pub(crate) trait Living: Clone {
    /// What names all its versions.
    type Name: Ord + Clone + Display;

    fn version(&self) -> KeyVersion;
    fn state(&self) -> KeyState;
    fn is_in_use(&self) -> bool;
    fn overlap(&self) -> Duration;
    fn life(&self) -> Life;
    /// The same version at another place in its life.
    fn at(&self, life: Life, now: Timestamp) -> Self;
    /// The same version with another plan.
    fn planned(&self, plan: RotationPlan, locked: bool, now: Timestamp) -> Self;
    /// Why it cannot go that way.
    fn refused(&self, problem: LifeError) -> KeyringError;
    /// There is no version of this name, or not this one.
    fn absent(name: &Self::Name, version: Option<KeyVersion>) -> KeyringError;
    /// All that there are.
    fn shelf(keyring: &Keyring) -> RwLockReadGuard<'_, Shelf<Self>>;
    /// Writes these in the place of what they were, in one transaction, and remembers them.
    fn write(
        keyring: &Keyring,
        file: &mut OpenFile,
        changed: Vec<Self>,
    ) -> Result<Vec<Arc<Self>>, KeyringError>;
}

/// Every version of everything of one kind.
pub(crate) type Shelf<R> = BTreeMap<<R as Living>::Name, BTreeMap<KeyVersion, Arc<R>>>;

/// The record after an event, if that is another.
pub(super) fn stepped<R: Living>(
    record: &R,
    event: &LifeEvent,
    now: Timestamp,
) -> Result<Option<R>, KeyringError> {
    let life = record.life();
    let after = next(&life, event, now).map_err(|problem| record.refused(problem))?;
    Ok((after != life).then(|| record.at(after, now)))
}

impl Keyring {
    /// Every version, by number.
    pub(crate) fn versions_of<R: Living>(&self, name: &R::Name) -> Vec<Arc<R>> {
        R::shelf(self)
            .get(name)
            .into_iter()
            .flat_map(|versions| versions.values().cloned())
            .collect()
    }

    /// One version, whatever its state. Cheap.
    pub(crate) fn version_of<R: Living>(&self, name: &R::Name, version: KeyVersion) -> Option<Arc<R>> {
        R::shelf(self).get(name)?.get(&version).cloned()
    }

    /// The version that is used. Cheap: for every use.
    pub(super) fn in_use<R: Living>(&self, name: &R::Name) -> Option<Arc<R>> {
        R::shelf(self)
            .get(name)?
            .values()
            .rev()
            .find(|record| record.is_in_use())
            .cloned()
    }

    /// The version that is in use, else the newest that was; never one that waits, unless there is no other.
    pub(crate) fn current_of<R: Living>(&self, name: &R::Name) -> Option<Arc<R>> {
        let shelf = R::shelf(self);
        let versions = shelf.get(name)?;
        let newest = |of: &dyn Fn(KeyState) -> bool| {
            versions.values().rev().find(|record| of(record.state())).cloned()
        };
        newest(&|state| state == KeyState::Active)
            .or_else(|| newest(&|state| !matches!(state, KeyState::Pending | KeyState::Destroyed)))
            .or_else(|| newest(&|_| true))
    }

    /// The version that waits to be promoted, if there is one.
    pub(crate) fn pending_of<R: Living>(&self, name: &R::Name) -> Option<Arc<R>> {
        R::shelf(self)
            .get(name)?
            .values()
            .find(|record| record.state() == KeyState::Pending)
            .cloned()
    }

    /// The number of the next version: none is used twice.
    pub(super) fn next_version_of<R: Living>(&self, name: &R::Name) -> KeyVersion {
        let shelf = R::shelf(self);
        let last = shelf.get(name).and_then(|versions| versions.keys().next_back());
        last.map_or(KeyVersion::FIRST, |last| KeyVersion(last.0.saturating_add(1)))
    }

    /// Lets something happen to each version, in one step; those that changed.
    ///
    /// # Errors
    /// When one cannot go that way, two would be in use, or the disk fails; then all are as they were.
    pub(crate) fn step_each<R: Living>(
        &self,
        name: &R::Name,
        now: Timestamp,
        event: &dyn Fn(&R) -> Option<LifeEvent>,
    ) -> Result<Vec<Arc<R>>, KeyringError> {
        let mut file = self.file();
        let mut changed = Vec::new();
        let mut active: Option<Arc<R>> = None;
        for record in self.versions_of::<R>(name) {
            let stepped = match event(&record) {
                Some(event) => stepped(&*record, &event, now)?,
                None => None,
            };
            let state = stepped.as_ref().map_or(record.state(), R::state);
            if state == KeyState::Active
                && let Some(other) = active.replace(Arc::clone(&record))
            {
                // The one that would come into use beside the one that is.
                let late = if record.state() == KeyState::Active {
                    other
                } else {
                    record
                };
                let from = late.state();
                let to = KeyState::Active;
                return Err(late.refused(LifeError::Transition { from, to }));
            }
            changed.extend(stepped);
        }
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        R::write(self, &mut file, changed)
    }

    /// Lets something happen to one version; nothing comes back if nothing changed.
    ///
    /// # Errors
    /// When there is no such version, and as [`Keyring::step_each`].
    pub(crate) fn step_one<R: Living>(
        &self,
        name: &R::Name,
        version: KeyVersion,
        event: &LifeEvent,
        now: Timestamp,
    ) -> Result<Option<Arc<R>>, KeyringError> {
        if self.version_of::<R>(name, version).is_none() {
            return Err(R::absent(name, Some(version)));
        }
        let changed = self.step_each::<R>(name, now, &|record| {
            (record.version() == version).then(|| event.clone())
        })?;
        Ok(changed.into_iter().next())
    }

    /// Puts the pending version into use, if this holds under the lock; the one before retires over its overlap, which is at least so long.
    /// One step. What is in use already changes nothing.
    ///
    /// # Errors
    /// When none waits, it is deleted, or the disk fails.
    pub(crate) fn promote_of<R: Living>(
        &self,
        name: &R::Name,
        least: Duration,
        if_so: &dyn Fn() -> bool,
        now: Timestamp,
    ) -> Result<Vec<Arc<R>>, KeyringError> {
        let not_waiting = || KeyringError::NotWaiting {
            name: name.to_string(),
        };
        let pending = self.pending_of::<R>(name).ok_or_else(not_waiting)?;
        let superseded = LifeEvent::Supersede {
            until: after(now, pending.overlap().max(least)),
        };
        // Asked again under the lock: promoted or given up meanwhile, it must not leave the name without a version in use.
        let waits = || {
            self.pending_of::<R>(name)
                .is_some_and(|now| now.version() == pending.version())
                && if_so()
        };
        let changed = self.step_each::<R>(name, now, &|record| match record.state() {
            KeyState::Pending if record.version() == pending.version() && if_so() => {
                Some(LifeEvent::Activate)
            }
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
            return Err(not_waiting());
        }
        Ok(changed)
    }

    /// Revokes every version that somebody else may have, or this one, in one step. One that waits goes with them if it is named, or if
    /// `waiting` says so under the lock.
    ///
    /// # Errors
    /// When the disk fails; then all are as they were.
    pub(crate) fn compromise_of<R: Living>(
        &self,
        name: &R::Name,
        version: Option<KeyVersion>,
        reason: &Reason,
        now: Timestamp,
        waiting: &dyn Fn() -> bool,
    ) -> Result<Vec<Arc<R>>, KeyringError> {
        let event = LifeEvent::Compromise(reason.clone());
        self.step_each::<R>(name, now, &|record| {
            let affected = match version {
                Some(version) => record.version() == version,
                None => record.state() != KeyState::Pending,
            };
            let given_up = record.state() == KeyState::Pending && waiting();
            (affected || given_up).then(|| event.clone())
        })
    }

    /// Sets the plan of every version that is not over, and locks its purge if that is asked; a lock is never taken away.
    ///
    /// # Errors
    /// When there is none, the plan is out of bounds, or the disk fails.
    pub(crate) fn plan_of<R: Living>(
        &self,
        name: &R::Name,
        plan: RotationPlan,
        lock: Option<Lock>,
        now: Timestamp,
    ) -> Result<Vec<Arc<R>>, KeyringError> {
        plan.check()?;
        let mut file = self.file();
        let changed: Vec<R> = self
            .versions_of::<R>(name)
            .into_iter()
            .filter(|record| {
                matches!(
                    record.state(),
                    KeyState::Pending | KeyState::Active | KeyState::Disabled
                )
            })
            .map(|record| record.planned(plan, record.life().locked || lock.is_some(), now))
            .collect();
        if changed.is_empty() {
            return Err(R::absent(name, None));
        }
        R::write(self, &mut file, changed)
    }
}
