//! Puts versions of keys and secrets into the keyring as a backup has them: with their numbers and states. Not a decision of what to
//! restore, and not the backup: the broker reads that.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use claviger_core::http::InjectionKind;
use claviger_core::{KeyVersion, Secret};

use super::envelope::Row;
use super::list::Listed;
use super::secret_row::SecretRow;
use super::secrets::check_value;
use super::store::Change;
use super::{KeyRecord, KeyState, Keyring, KeyringError, MAX_KEYS, SecretRecord};

impl Keyring {
    /// How many versions of keys and secrets can be added.
    ///
    /// # Errors
    /// When what the keyring says of itself cannot be read.
    pub(crate) fn room(&self) -> Result<u64, KeyringError> {
        let room = MAX_KEYS.saturating_sub(self.file().meta.list()?.len());
        Ok(u64::try_from(room).unwrap_or(u64::MAX))
    }

    /// Adds this version of a key in one transaction; without material it is on record only.
    ///
    /// # Errors
    /// When the version is there or not the newest, another one of the key is active, or the disk fails; then the keyring is as it was.
    pub(crate) fn restore_key(
        &self,
        record: KeyRecord,
        material: Option<&Secret>,
    ) -> Result<Arc<KeyRecord>, KeyringError> {
        let key = record.key.clone();
        let refused = |problem: String| KeyringError::KeyExists {
            key: key.clone(),
            problem,
        };
        let mut file = self.file();
        let newest = self
            .records()
            .get(&key.name)
            .and_then(|versions| versions.keys().next_back().copied());
        if let Some(newest) = newest.filter(|newest| *newest >= key.version) {
            return Err(refused(format!("its version {newest} is there")));
        }
        if record.is_in_use()
            && let Some(active) = self.key(&key.name)
        {
            return Err(refused(format!("`{}` is active", active.key)));
        }
        let mut list = file.meta.list()?;
        if list.len() >= MAX_KEYS {
            return Err(KeyringError::Full);
        }
        let mut row = Row::new(&record)?;
        if let Some(material) = material {
            file.envelope.seal(&mut row, material)?;
        }
        list.keys.push(Listed {
            key,
            digest: row.digest(),
        });
        file.write(&[Change::Insert(&row)], &list)?;
        Ok(self.remember(record))
    }

    /// Adds this version of a secret in one transaction; without a value it is on record only.
    ///
    /// # Errors
    /// When the version is there or not the newest, another one of the secret is active, the value does not fit its kind, or the disk
    /// fails; then the keyring is as it was.
    pub(crate) fn restore_secret(
        &self,
        record: SecretRecord,
        value: Option<&Secret>,
    ) -> Result<Arc<SecretRecord>, KeyringError> {
        let refused = |problem: String| KeyringError::Secret {
            name: record.secret.name.clone(),
            action: "restored",
            problem,
        };
        if let Some(value) = value {
            check_value(record.kind, value).map_err(refused)?;
        }
        let mut file = self.file();
        let newest = self.newest_secret_version(&record);
        if let Some(newest) = newest.filter(|newest| *newest >= record.secret.version) {
            return Err(refused(format!("its version {newest} is there")));
        }
        if record.is_in_use()
            && let Some(active) = self.secret(&record.secret.name)
        {
            return Err(refused(format!("`{}` is active", active.secret)));
        }
        let mut list = file.meta.list()?;
        if list.len() >= MAX_KEYS {
            return Err(KeyringError::Full);
        }
        let mut row = SecretRow::new(&record);
        if let Some(value) = value {
            let sealed = file.envelope.seal_secret(&row.associated(), value)?;
            row.nonce = sealed.nonce;
            row.material = sealed.material;
        }
        list.put_secret(&record.secret, row.digest());
        file.write(&[Change::Secret(&row)], &list)?;
        let record = Arc::new(record);
        self.secrets
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(record.secret.name.clone())
            .or_default()
            .insert(record.secret.version, Arc::clone(&record));
        Ok(record)
    }

    /// Adds so many secrets that are over, all in one transaction, like this one but for their names.
    #[cfg(test)]
    pub(crate) fn fill(&self, like: &SecretRecord, count: u64) {
        let mut file = self.file();
        let mut list = file.meta.list().unwrap();
        let mut rows = Vec::new();
        for number in 0..count {
            let mut record = like.clone();
            record.secret.name = format!("filler-{number}").parse().unwrap();
            record.state = KeyState::Revoked;
            let row = SecretRow::new(&record);
            list.put_secret(&record.secret, row.digest());
            rows.push(row);
        }
        let changes: Vec<_> = rows.iter().map(Change::Secret).collect();
        file.write(&changes, &list).unwrap();
    }

    fn newest_secret_version(&self, record: &SecretRecord) -> Option<KeyVersion> {
        self.secrets
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&record.secret.name)
            .map(BTreeMap::keys)
            .and_then(|mut versions| versions.next_back().copied())
    }
}

/// Whether a value from a backup is one that the keyring takes for this kind.
pub(crate) fn check_restored(kind: InjectionKind, value: &Secret) -> Result<(), String> {
    check_value(kind, value)
}

/// Whether the material of a version in this state is worth anything: whether a backup has it, and a restored version needs it.
pub(crate) const fn has_use(state: KeyState) -> bool {
    match state {
        KeyState::Pending
        | KeyState::Active
        | KeyState::Retiring
        | KeyState::Retired
        | KeyState::Disabled => true,
        KeyState::Revoked | KeyState::Destroyed => false,
    }
}
