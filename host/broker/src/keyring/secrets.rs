//! Secrets in the keyring: added, replaced, taken out of use, destroyed. Not their use: the broker attaches them, and only to what it
//! has decided and logged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLockReadGuard};
use std::time::Duration;

use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::http::InjectionKind;
use claviger_core::{Secret, SecretName};
use jiff::Timestamp;

use super::folder::Folder;
use super::life::{LifeError, LifeEvent, after};
use super::living::{Living as _, Shelf, stepped};
use super::secret_row::{NewSecret, SecretRecord, SecretRow};
use super::store::{Change, Store};
use super::{KeyState, Keyring, KeyringError, MAX_KEYS, OpenFile, RotationPlan};

/// A secret has at least this many bytes: fewer occur in answers by chance, so that nobody could tell a leak from a coincidence.
pub const MIN_SECRET: usize = 8;
/// A secret of fewer bytes is worth a warning: it can be guessed, and found in answers by chance.
pub const GOOD_SECRET: usize = 16;
/// A secret has at most this many bytes: more does not fit the header section that common servers accept.
pub const MAX_SECRET_VALUE: usize = 16 * 1024;
/// So many versions of a secret are kept on record. A refresh token is replaced every hour, and the keyring is bounded.
const KEPT_VERSIONS: usize = 16;

pub(super) type SecretRecords = Shelf<SecretRecord>;

/// A new value for a secret; kind and origin stay.
pub struct SecretReplacement {
    /// Which.
    pub name: SecretName,
    /// Only if this version is the active one: what was revoked meanwhile is not revived.
    pub of: Option<SecretRef>,
    /// When the new value stops being accepted, if that is known.
    pub expires: Option<Timestamp>,
    /// How often it shall be replaced; none leaves the plan as it is.
    pub rotate_every: Option<Duration>,
    /// The new value.
    pub value: Secret,
}

impl std::fmt::Debug for SecretReplacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretReplacement")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Keyring {
    /// Every version of every secret, without opening the keyring, also while another process has it open.
    ///
    /// # Errors
    /// When there is no keyring, or it cannot be read.
    ///
    /// # Security
    /// For showing. Nothing is authenticated: whoever can write the file can change what this shows.
    pub fn list_public_secrets(folder: &Path) -> Result<Vec<SecretRecord>, KeyringError> {
        let store = Store::open_read_only(&Folder::check(folder)?.database()?)?;
        store.rows()?.secrets.iter().map(SecretRow::record).collect()
    }

    /// Adds a secret, which is active at once and on disk when this returns. A name can be used again only after all its versions were
    /// revoked or destroyed.
    ///
    /// # Errors
    /// When there is one of this name, the value does not fit its kind, or the disk fails; then the keyring is as it was.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the value is wiped when this returns"
    )]
    pub fn insert_secret(&self, new: NewSecret, now: Timestamp) -> Result<Arc<SecretRecord>, KeyringError> {
        let refused = |problem: String| KeyringError::Secret {
            name: new.name.clone(),
            action: "added",
            problem,
        };
        check_value(new.kind, &new.value).map_err(refused)?;
        check_plan(new.expires, new.rotate_every, now).map_err(refused)?;
        let plan = RotationPlan {
            every: new.rotate_every,
            uses: None,
            overlap: new.overlap,
        };
        plan.check()?;
        let mut file = self.file();
        let versions = self.secret_versions(&new.name);
        let living = versions.iter().rev().find(|record| {
            record.deleted.is_some() || (record.state != KeyState::Retired && !is_over(record.state))
        });
        if let Some(record) = living {
            return Err(refused(format!(
                "`{}` is {}; replace it instead",
                record.secret,
                record.standing()
            )));
        }
        let version = self.next_version_of::<SecretRecord>(&new.name);
        let record = SecretRecord {
            secret: SecretRef {
                name: new.name.clone(),
                version,
            },
            state: KeyState::Active,
            kind: new.kind,
            origin: new.origin.clone(),
            assurance: new.assurance,
            created: now,
            updated: now,
            expires: new.expires,
            rotate_every: new.rotate_every,
            overlap: new.overlap,
            source: SecretSource::Operator,
            until: None,
            deleted: None,
            reason: None,
            locked: new.locked,
        };
        self.write_secrets(&mut file, vec![(record.clone(), Some(&new.value))])?;
        Ok(Arc::new(record))
    }

    /// Puts a new value in the place of a secret's: the new version is active, the one before retires over its overlap or at once, and
    /// when it is retired its value is gone. One step.
    ///
    /// # Errors
    /// When there is no such secret, another version than the named one is active, the value does not fit the kind, or the disk fails;
    /// then the keyring is as it was.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the value is wiped when this returns"
    )]
    pub fn replace_secret(
        &self,
        new: SecretReplacement,
        by: SecretSource,
        now: Timestamp,
    ) -> Result<Arc<SecretRecord>, KeyringError> {
        let mut file = self.file();
        let current = self.replaceable(&new, now)?;
        let mut changed = Vec::new();
        let event = LifeEvent::Supersede {
            until: after(now, current.overlap),
        };
        if current.state != KeyState::Pending {
            changed.extend(stepped(&*current, &event, now)?);
        }
        let record = self.successor(&current, &new, by, KeyState::Active, now);
        let kept = file.values_of(&changed)?;
        let mut rows = vec![(record.clone(), Some(&new.value))];
        rows.extend(
            changed
                .into_iter()
                .zip(&kept)
                .map(|(record, value)| (record, value.as_ref())),
        );
        self.write_secrets(&mut file, rows)?;
        Ok(Arc::new(record))
    }

    /// Moves the version of a secret that is in use, or was last, to another state: an active one can be disabled or revoked, a disabled
    /// one enabled or revoked.
    ///
    /// # Errors
    /// When there is no such secret, it cannot become that, or the disk fails; then it is as it was.
    pub fn set_secret_state(
        &self,
        name: &SecretName,
        state: KeyState,
        now: Timestamp,
    ) -> Result<Arc<SecretRecord>, KeyringError> {
        let current = self.current_secret(name)?;
        let event = state.asked().ok_or_else(|| KeyringError::SecretTransition {
            secret: current.secret.clone(),
            from: current.state,
            to: state,
        })?;
        let changed = self.step_secret(&current.secret, &event, now)?;
        Ok(changed.unwrap_or(current))
    }

    /// Overwrites the values of all versions of a secret. That they were there stays on record; they cannot be had back.
    ///
    /// # Errors
    /// When there is no such secret, its purge is locked, all of it was destroyed before, or the disk fails; then it is as it was.
    pub fn destroy_secret(
        &self,
        name: &SecretName,
        now: Timestamp,
    ) -> Result<Vec<Arc<SecretRecord>>, KeyringError> {
        let mut file = self.file();
        let newest = self.newest_secret(name)?;
        let rows: Vec<(SecretRecord, Option<&Secret>)> = self
            .secret_records()
            .get(name)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|record| record.state != KeyState::Destroyed)
            .map(|record| {
                let destroyed = SecretRecord {
                    state: KeyState::Destroyed,
                    until: None,
                    deleted: None,
                    updated: now,
                    ..(**record).clone()
                };
                (destroyed, None)
            })
            .collect();
        if let Some((record, _)) = rows.iter().find(|(record, _)| record.locked) {
            return Err(record.refused(LifeError::Locked));
        }
        if rows.is_empty() {
            return Err(KeyringError::SecretTransition {
                secret: newest.secret.clone(),
                from: newest.state,
                to: KeyState::Destroyed,
            });
        }
        let destroyed = rows.iter().map(|(record, _)| Arc::new(record.clone())).collect();
        self.write_secrets(&mut file, rows)?;
        Ok(destroyed)
    }

    /// The active version of a secret. Cheap: for every use.
    #[must_use]
    pub fn secret(&self, name: &SecretName) -> Option<Arc<SecretRecord>> {
        self.in_use(name)
    }

    /// One version of a secret, whatever its state. Cheap.
    #[must_use]
    pub fn secret_record(&self, secret: &SecretRef) -> Option<Arc<SecretRecord>> {
        self.version_of(&secret.name, secret.version)
    }

    /// Every version of every secret that is on record, by name and version.
    #[must_use]
    pub fn secrets(&self) -> Vec<Arc<SecretRecord>> {
        self.secret_records()
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }

    /// The value of one version of a secret. Reads the disk.
    ///
    /// # Errors
    /// When there is no such secret, its value is gone, or its row is not the one that was written last.
    pub(crate) fn secret_material(&self, secret: &SecretRef) -> Result<Secret, KeyringError> {
        let file = self.file();
        file.open_secret(&file.secret_row(secret)?)
    }

    /// Whether the value of a version is still there.
    ///
    /// # Errors
    /// As [`Keyring::secret_material`].
    pub(crate) fn has_value(&self, secret: &SecretRef) -> Result<bool, KeyringError> {
        Ok(self.file().secret_row(secret)?.has_value())
    }

    pub(super) fn newest_secret(&self, name: &SecretName) -> Result<Arc<SecretRecord>, KeyringError> {
        self.secret_records()
            .get(name)
            .and_then(|versions| versions.values().next_back().cloned())
            .ok_or_else(|| KeyringError::NoSecret { name: name.clone() })
    }

    /// Writes these versions of one secret, and forgets the oldest ones that are over, in one step; then remembers it.
    pub(super) fn write_secrets(
        &self,
        file: &mut OpenFile,
        records: Vec<(SecretRecord, Option<&Secret>)>,
    ) -> Result<(), KeyringError> {
        let mut list = file.meta.list()?;
        let mut rows = Vec::with_capacity(records.len());
        for (record, value) in &records {
            let mut row = SecretRow::new(record);
            if let Some(value) = value {
                let sealed = file.envelope.seal_secret(&row.associated(), value)?;
                row.nonce = sealed.nonce;
                row.material = sealed.material;
            }
            list.put_secret(&record.secret, row.digest());
            rows.push(row);
        }
        let old = self.forgettable(&records)?;
        list.secrets
            .retain(|item| !old.iter().any(|row| row.secret == item.secret));
        if list.len() > MAX_KEYS {
            return Err(KeyringError::Full);
        }
        let gone: Vec<SecretRow> = old.iter().map(|record| SecretRow::new(record)).collect();
        let changes: Vec<Change<'_>> = rows
            .iter()
            .map(Change::Secret)
            .chain(gone.iter().map(Change::Forget))
            .collect();
        file.write(&changes, &list)?;
        let destroyed = records
            .iter()
            .any(|(record, _)| record.state == KeyState::Destroyed);
        let mut known = self.secrets.write().unwrap_or_else(PoisonError::into_inner);
        for record in old {
            if let Some(versions) = known.get_mut(&record.secret.name) {
                versions.remove(&record.secret.version);
            }
        }
        for (record, _) in records {
            known
                .entry(record.secret.name.clone())
                .or_default()
                .insert(record.secret.version, Arc::new(record));
        }
        drop(known);
        if destroyed {
            file.scrub_later();
        }
        Ok(())
    }

    /// The versions that are over and older than the newest ones, once these are written.
    fn forgettable(
        &self,
        written: &[(SecretRecord, Option<&Secret>)],
    ) -> Result<Vec<Arc<SecretRecord>>, KeyringError> {
        let Some((first, _)) = written.first() else {
            return Ok(Vec::new());
        };
        let records = self.secret_records();
        let Some(versions) = records.get(&first.secret.name) else {
            return Ok(Vec::new());
        };
        let kept = KEPT_VERSIONS.saturating_sub(1);
        Ok(versions
            .values()
            .rev()
            .filter(|record| !written.iter().any(|(new, _)| new.secret == record.secret))
            .skip(kept)
            .filter(|record| {
                record.deleted.is_none() && (record.state == KeyState::Retired || is_over(record.state))
            })
            .cloned()
            .collect())
    }

    pub(super) fn secret_records(&self) -> RwLockReadGuard<'_, SecretRecords> {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenFile {
    /// The row of a secret as it is on disk, if it is still the one on the list.
    pub(super) fn secret_row(&self, secret: &SecretRef) -> Result<SecretRow, KeyringError> {
        let list = self.meta.list()?;
        let listed = list.secrets.into_iter().find(|item| item.secret == *secret);
        let Some(listed) = listed else {
            return Err(KeyringError::NoSecret {
                name: secret.name.clone(),
            });
        };
        match self.store.secret_row(secret.name.as_str(), secret.version.0)? {
            Some(row) if row.digest() == listed.digest => Ok(row),
            Some(_) => Err(changed(secret)),
            None => Err(KeyringError::integrity(format!("secret `{secret}` is missing"))),
        }
    }

    pub(super) fn open_secret(&self, row: &SecretRow) -> Result<Secret, KeyringError> {
        let record = row.record()?;
        if !row.has_value() {
            return Err(KeyringError::SecretTransition {
                secret: record.secret,
                from: record.state,
                to: KeyState::Active,
            });
        }
        self.envelope
            .open_secret(&row.associated(), &row.nonce, &row.material, &|| {
                changed(&record.secret)
            })
    }
}

/// What an opened file holds, by name and version.
pub(super) fn read(rows: &[SecretRow]) -> Result<SecretRecords, KeyringError> {
    let mut records = SecretRecords::new();
    for row in rows {
        let record = row.record()?;
        records
            .entry(record.secret.name.clone())
            .or_default()
            .insert(record.secret.version, Arc::new(record));
    }
    Ok(records)
}

fn changed(secret: &SecretRef) -> KeyringError {
    KeyringError::integrity(format!("secret `{secret}` was changed"))
}

/// Whether nothing more comes of a version in this state.
const fn is_over(state: KeyState) -> bool {
    match state {
        KeyState::Revoked | KeyState::Destroyed => true,
        KeyState::Pending
        | KeyState::Active
        | KeyState::Retiring
        | KeyState::Retired
        | KeyState::Disabled => false,
    }
}

pub(super) fn check_plan(
    expires: Option<Timestamp>,
    rotate_every: Option<Duration>,
    now: Timestamp,
) -> Result<(), String> {
    if let Some(expires) = expires.filter(|expires| *expires <= now) {
        return Err(format!("it expired {expires}"));
    }
    match rotate_every {
        Some(every) if every.as_secs() == 0 => Err("its rotation plan is under a second".to_owned()),
        Some(_) | None => Ok(()),
    }
}

/// Whether a value can be attached in the way its kind says. What does not fit is refused when it is added, not when it is used.
pub(super) fn check_value(kind: InjectionKind, value: &Secret) -> Result<(), String> {
    let length = value.len();
    if length < MIN_SECRET {
        return Err(format!(
            "it has {length} bytes; expected at least {MIN_SECRET}, so that it cannot be in an answer by chance"
        ));
    }
    if length > MAX_SECRET_VALUE {
        return Err(format!(
            "it has {length} bytes; expected at most {MAX_SECRET_VALUE}"
        ));
    }
    let bytes = value.expose();
    let visible = |b: &u8| b.is_ascii_graphic();
    match kind {
        // Sent as they are, or as what RFC 6749 appendix A calls VSCHAR.
        InjectionKind::Bearer
        | InjectionKind::Query
        | InjectionKind::OauthClient
        | InjectionKind::OauthRefresh
        | InjectionKind::OauthSubject
        | InjectionKind::AwsSigv4 => {
            if !bytes.iter().all(visible) {
                return Err(format!(
                    "a secret of the kind `{kind}` has only visible ASCII characters, no spaces and no line ends"
                ));
            }
        }
        // `Token …` is one value to many APIs.
        InjectionKind::Header => {
            let edges = [bytes.first(), bytes.last()];
            if !bytes.iter().all(|b| visible(b) || *b == b' ') || edges.contains(&Some(&b' ')) {
                return Err(
                    "a secret of the kind `header` has only visible ASCII characters and spaces between them"
                        .to_owned(),
                );
            }
        }
        // RFC 7617 §2: no control characters; the rest is encoded.
        InjectionKind::Basic => {
            if bytes.iter().any(u8::is_ascii_control) {
                return Err("a secret of the kind `basic` has no control characters".to_owned());
            }
        }
        // A key of a MAC: any bytes.
        InjectionKind::WebhookHmac => {}
    }
    Ok(())
}
