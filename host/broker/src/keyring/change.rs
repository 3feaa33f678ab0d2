//! New versions of keys, and what a key is to the changes of lives, which `living` has. One transaction each: a crash leaves what was or
//! what shall be.

use std::sync::{Arc, RwLockReadGuard};
use std::time::Duration;

use claviger_core::{KeyName, KeyRef, KeyVersion, Secret};
use jiff::Timestamp;

use super::envelope::Row;
use super::life::{Life, LifeError, LifeEvent, after};
use super::list::Listed;
use super::living::{Living, Shelf, stepped};
use super::store::Change;
use super::{
    KeyRecord, KeyState, Keyring, KeyringError, MAX_HARDWARE, MAX_KEYS, NewKey, OpenFile, Reason,
    RotationPlan,
};

/// When the new version of a rotation is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At once; the one before retires.
    AtOnce,
    /// When it is promoted: until then whoever verifies can learn of it.
    Staged,
}

/// What becomes of the versions before a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Succession {
    /// The one in use retires over its overlap.
    Rotated,
    /// Nothing yet: the new one waits.
    Staged,
    /// The last one was compromised while it was in use, and has no successor yet. It stays revoked.
    Replaced,
}

/// What a rotation changed.
#[derive(Debug)]
pub struct KeyRotation {
    /// The new version.
    pub new: Arc<KeyRecord>,
    /// The versions that are in another state than before.
    pub changed: Vec<Arc<KeyRecord>>,
}

impl Keyring {
    /// Adds the next version of a key, with the profile, algorithm and custody of the version that it takes the place of.
    ///
    /// # Errors
    /// When another version than `of` is the one in use, a version waits, the new one differs in what cannot change, or the disk fails;
    /// then the keyring is as it was.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the material is wiped when this returns"
    )]
    pub(crate) fn rotate(
        &self,
        new: NewKey,
        of: KeyVersion,
        succession: Succession,
        now: Timestamp,
    ) -> Result<KeyRotation, KeyringError> {
        self.rotate_if(&new, of, &|_| true, succession, now)
    }

    /// As [`Keyring::rotate`], if the version in use is where it was seen: what an operator stops while a new one is made stays stopped.
    ///
    /// # Errors
    /// As there, and when it was changed.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the material is wiped when this returns"
    )]
    pub(crate) fn rotate_seen(
        &self,
        new: NewKey,
        seen: &KeyRecord,
        of: KeyVersion,
        succession: Succession,
        now: Timestamp,
    ) -> Result<KeyRotation, KeyringError> {
        let life = seen.life();
        self.rotate_if(&new, of, &|current| current.life() == life, succession, now)
    }

    fn rotate_if(
        &self,
        new: &NewKey,
        of: KeyVersion,
        as_seen: &dyn Fn(&KeyRecord) -> bool,
        succession: Succession,
        now: Timestamp,
    ) -> Result<KeyRotation, KeyringError> {
        let mut file = self.file();
        new.plan.check()?;
        let old = self.refuse_rotation(new, of, succession)?;
        if !as_seen(&old) {
            return Err(KeyringError::KeyExists {
                key: new.key.clone(),
                problem: format!(
                    "`{}` was changed meanwhile, and is {} now",
                    old.key,
                    old.standing()
                ),
            });
        }
        let mut list = file.meta.list()?;
        if list.len() >= MAX_KEYS {
            return Err(KeyringError::Full);
        }
        let mut record = new_record(new, now);
        let mut changed = Vec::new();
        match succession {
            Succession::Staged => record.state = KeyState::Pending,
            Succession::Rotated | Succession::Replaced => {
                let superseded = LifeEvent::Supersede {
                    until: after(now, new.plan.overlap),
                };
                changed.extend(stepped(&*old, &superseded, now)?);
            }
        }
        // The overlap that it is in, which may be another than its plan had.
        for record in changed
            .iter_mut()
            .filter(|record| record.state == KeyState::Retiring)
        {
            record.plan.overlap = new.plan.overlap;
        }
        let mut row = Row::new(&record)?;
        file.envelope.seal(&mut row, &new.material)?;
        list.keys.push(Listed {
            key: record.key.clone(),
            digest: row.digest(),
        });
        let rows = file.resealed(&changed)?;
        list.put_keys(&changed, &rows);
        let changes: Vec<Change<'_>> = std::iter::once(Change::Insert(&row))
            .chain(rows.iter().map(Change::Replace))
            .collect();
        file.write(&changes, &list)?;
        changed.push(record);
        let mut changed = self.remember_all(changed);
        let new = changed.pop().ok_or(KeyringError::Encryption)?;
        Ok(KeyRotation { new, changed })
    }

    /// What a rotation must not do. The version in use is the active one, else the newest.
    fn refuse_rotation(
        &self,
        new: &NewKey,
        of: KeyVersion,
        succession: Succession,
    ) -> Result<Arc<KeyRecord>, KeyringError> {
        let name = &new.key.name;
        let missing = || KeyringError::NoKey {
            key: KeyRef {
                name: name.clone(),
                version: of,
            },
        };
        let current = self.current(name).ok_or_else(missing)?;
        if current.key.version != of {
            return Err(KeyringError::Stale {
                of: format!("{name}@{of}"),
                current: current.key.to_string(),
            });
        }
        if let Some(pending) = self.pending(name) {
            return Err(KeyringError::Waiting {
                pending: pending.key.to_string(),
            });
        }
        if current.deleted.is_some() {
            return Err(current.refused(LifeError::Deleted));
        }
        let problem = if succession == Succession::Replaced && !current.life().lacks_successor() {
            // An operator revoked it meanwhile, for good: what is out of use is not put back into it.
            format!("`{}` is {} and to have no successor", current.key, current.state)
        } else if current.state == KeyState::Disabled {
            format!("`{}` is disabled; enable it or revoke it first", current.key)
        } else if current.state == KeyState::Destroyed {
            format!("`{}` is destroyed; make the key anew", current.key)
        } else if new.key.version != self.next_version(name) {
            format!("its next version is {}", self.next_version(name))
        } else if new.profile != current.profile
            || new.algorithm != current.algorithm
            || new.custody != current.custody
        {
            format!("it differs from `{}` in what a key has for good", current.key)
        } else if !new.identity.fits(new.algorithm) {
            return Err(KeyringError::Algorithm { key: new.key.clone() });
        } else if let Some(hardware) = new.hardware.as_ref().filter(|bytes| bytes.len() > MAX_HARDWARE) {
            return Err(KeyringError::TooLong {
                what: "what a custody keeps about a key",
                allowed: MAX_HARDWARE,
                sent: hardware.len(),
            });
        } else {
            return Ok(current);
        };
        Err(KeyringError::KeyExists {
            key: new.key.clone(),
            problem,
        })
    }

    /// Revokes every version of a key that somebody else may have, or this one, in one step. If the one in use is among them, one that
    /// waits is given up: it was made in the same hands.
    ///
    /// # Errors
    /// When the disk fails; then it is as it was.
    pub(crate) fn compromise(
        &self,
        name: &KeyName,
        version: Option<KeyVersion>,
        reason: &Reason,
        now: Timestamp,
    ) -> Result<Vec<Arc<KeyRecord>>, KeyringError> {
        let waiting = || {
            let in_use = || self.key(name).map(|record| record.key.version);
            version.is_none() || in_use() == version
        };
        self.compromise_of(name, version, reason, now, &waiting)
    }

    /// Lets something happen to one version of a key; nothing comes back if nothing changed.
    ///
    /// # Errors
    /// When there is no such version, it cannot go that way, another version would be in use, too, or the disk fails; then it is as it
    /// was.
    #[cfg(test)]
    pub(crate) fn step(
        &self,
        key: &KeyRef,
        event: &LifeEvent,
        now: Timestamp,
    ) -> Result<Option<Arc<KeyRecord>>, KeyringError> {
        self.step_one(&key.name, key.version, event, now)
    }

    /// The version that is in use, else the newest that was; never one that waits, unless there is no other.
    #[must_use]
    pub fn current(&self, name: &KeyName) -> Option<Arc<KeyRecord>> {
        self.current_of(name)
    }

    /// The version that waits to be promoted, if there is one.
    #[must_use]
    pub fn pending(&self, name: &KeyName) -> Option<Arc<KeyRecord>> {
        self.pending_of(name)
    }

    /// Every version of a key, by number.
    #[must_use]
    pub fn versions(&self, name: &KeyName) -> Vec<Arc<KeyRecord>> {
        self.versions_of(name)
    }

    /// The number of the next version: none is used twice.
    #[must_use]
    pub fn next_version(&self, name: &KeyName) -> KeyVersion {
        self.next_version_of::<KeyRecord>(name)
    }
}

impl Living for KeyRecord {
    type Name = KeyName;

    fn version(&self) -> KeyVersion {
        self.key.version
    }

    fn state(&self) -> KeyState {
        self.state
    }

    fn is_in_use(&self) -> bool {
        self.is_in_use()
    }

    fn overlap(&self) -> Duration {
        self.plan.overlap
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
            plan,
            locked,
            updated: now,
            ..self.clone()
        }
    }

    fn refused(&self, problem: LifeError) -> KeyringError {
        match problem {
            LifeError::Transition { from, to } => KeyringError::Transition {
                key: self.key.clone(),
                from,
                to,
            },
            problem => KeyringError::Life {
                what: format!("key `{}`", self.key),
                problem,
            },
        }
    }

    fn absent(name: &KeyName, version: Option<KeyVersion>) -> KeyringError {
        let key = KeyRef {
            name: name.clone(),
            version: version.unwrap_or(KeyVersion::FIRST),
        };
        KeyringError::NoKey { key }
    }

    fn shelf(keyring: &Keyring) -> RwLockReadGuard<'_, Shelf<Self>> {
        keyring.records()
    }

    fn write(
        keyring: &Keyring,
        file: &mut OpenFile,
        changed: Vec<Self>,
    ) -> Result<Vec<Arc<Self>>, KeyringError> {
        file.write_keys(&changed)?;
        Ok(keyring.remember_all(changed))
    }
}

/// That a purge shall be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lock {
    /// For good.
    ForGood,
}

impl OpenFile {
    /// Writes these versions in the place of what they were.
    fn write_keys(&mut self, records: &[KeyRecord]) -> Result<(), KeyringError> {
        let rows = self.resealed(records)?;
        let mut list = self.meta.list()?;
        list.put_keys(records, &rows);
        let changes: Vec<Change<'_>> = rows.iter().map(Change::Replace).collect();
        self.write(&changes, &list)?;
        if records.iter().any(|record| record.state == KeyState::Destroyed) {
            self.scrub_later();
        }
        Ok(())
    }

    /// The rows of these records, with the material that they have: what is destroyed has none.
    pub(super) fn resealed(&self, records: &[KeyRecord]) -> Result<Vec<Row>, KeyringError> {
        records
            .iter()
            .map(|record| {
                let mut row = Row::new(record)?;
                if record.state != KeyState::Destroyed {
                    let material: Secret = self.envelope.open(&self.row(&record.key)?)?;
                    self.envelope.seal(&mut row, &material)?;
                }
                Ok(row)
            })
            .collect()
    }
}

/// The record of a new key, in use.
pub(super) fn new_record(new: &NewKey, now: Timestamp) -> KeyRecord {
    KeyRecord {
        key: new.key.clone(),
        state: KeyState::Active,
        profile: new.profile.clone(),
        algorithm: new.algorithm,
        custody: new.custody,
        assurance: new.assurance,
        identity: new.identity.clone(),
        created: now,
        updated: now,
        source: new.source,
        plan: new.plan,
        until: None,
        deleted: None,
        reason: None,
        locked: new.locked,
        hardware: new.hardware.clone(),
    }
}
