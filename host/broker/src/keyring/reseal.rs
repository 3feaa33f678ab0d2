//! Seals the root key anew: by another sealer, or again by the same. Not a new root key: what was encrypted stays encrypted under the one
//! there is, and an old copy of the file opens as it did.

use std::sync::{Arc, PoisonError};

use claviger_core::Secret;
use claviger_core::custody::{Assurance, CustodyError, Sealer};
use jiff::Timestamp;

use super::envelope::{Meta, Row};
use super::secret_row::SecretRow;
use super::store::Change;
use super::{KeyRecord, Keyring, KeyringError, MAX_SETTINGS, ROOT_PURPOSE, RootSpec, SecretRecord, offered};

/// A version of a key whose material was sealed anew with the root key.
pub(crate) struct Resealed {
    /// As it is from now on.
    pub(crate) record: KeyRecord,
    /// What its custody gave for keeping.
    pub(crate) material: Secret,
}

impl Keyring {
    /// Seals the root key by this sealer, and takes over what was sealed anew with it: all in one transaction. What was recorded as harder
    /// than the new root is recorded as that hard from now on; nothing is ever recorded as harder than it was.
    ///
    /// Dropping the future, or a crash, leaves the keyring as it was or wholly changed.
    ///
    /// # Errors
    /// When the sealer is not of the kind that `spec` names or fails, the keyring was changed since it had this generation, or the disk
    /// fails; then it is as it was.
    pub(crate) async fn reseal(
        &self,
        spec: RootSpec,
        sealer: &dyn Sealer,
        resealed: Vec<Resealed>,
        generation: u64,
        now: Timestamp,
    ) -> Result<(), KeyringError> {
        offered(spec.kind, sealer)?;
        if spec.settings.len() > MAX_SETTINGS {
            return Err(KeyringError::TooLong {
                what: "the text of the root's settings",
                allowed: MAX_SETTINGS,
                sent: spec.settings.len(),
            });
        }
        let sealed = sealer
            .seal(ROOT_PURPOSE, &self.root)
            .await
            .map_err(KeyringError::Root)?;
        // As when a keyring is made: a root key that does not open again would take every key with it.
        let again = sealer
            .unseal(ROOT_PURPOSE, &sealed)
            .await
            .map_err(KeyringError::Root)?;
        if !again.equals(self.root.expose()) {
            return Err(KeyringError::Root(CustodyError::Fault(
                "the sealer opened something else than it sealed".to_owned(),
            )));
        }
        drop(again);
        self.write_resealed(spec, sealed, &resealed, generation, now)
    }

    fn write_resealed(
        &self,
        spec: RootSpec,
        sealed: Vec<u8>,
        resealed: &[Resealed],
        generation: u64,
        now: Timestamp,
    ) -> Result<(), KeyringError> {
        let most = spec.kind.assurance();
        let mut file = self.file();
        if file.info.generation != generation {
            return Err(KeyringError::Busy);
        }
        let mut list = file.meta.list()?;
        let mut keys: Vec<(KeyRecord, Row)> = Vec::new();
        for record in self.keys() {
            let new = resealed.iter().find(|new| new.record.key == record.key);
            let falls = record.assurance > most;
            if new.is_none() && !falls {
                continue;
            }
            let mut next = new.map_or_else(|| (*record).clone(), |new| new.record.clone());
            next.assurance = lesser(next.assurance, most);
            next.updated = now;
            let mut row = Row::new(&next)?;
            let old = file.row(&record.key)?;
            match new {
                Some(new) => file.envelope.seal(&mut row, &new.material)?,
                None if old.material.is_empty() => {}
                None => file.envelope.seal(&mut row, &file.envelope.open(&old)?)?,
            }
            for item in list.keys.iter_mut().filter(|item| item.key == next.key) {
                item.digest = row.digest();
            }
            keys.push((next, row));
        }
        let mut secrets: Vec<(SecretRecord, SecretRow)> = Vec::new();
        for record in self.secrets().iter().filter(|record| record.assurance > most) {
            let mut next = (**record).clone();
            next.assurance = most;
            next.updated = now;
            let mut row = SecretRow::new(&next);
            let old = file.secret_row(&record.secret)?;
            if old.has_value() {
                let value = file.open_secret(&old)?;
                let envelope = file.envelope.seal_secret(&row.associated(), &value)?;
                row.nonce = envelope.nonce;
                row.material = envelope.material;
            }
            list.put_secret(&next.secret, row.digest());
            secrets.push((next, row));
        }
        let mut meta = Meta {
            root_kind: spec.kind.to_string(),
            root_settings: spec.settings,
            root: sealed,
            ..file.meta.next(&list)?
        };
        meta.root_digest = meta.digest_of_root().to_vec();
        let changes: Vec<Change<'_>> = keys
            .iter()
            .map(|(_, row)| Change::Replace(row))
            .chain(secrets.iter().map(|(_, row)| Change::Secret(row)))
            .collect();
        file.write_meta(&changes, meta)?;
        for (record, _) in keys {
            self.remember(record);
        }
        let mut known = self.secrets.write().unwrap_or_else(PoisonError::into_inner);
        for (record, _) in secrets {
            known
                .entry(record.secret.name.clone())
                .or_default()
                .insert(record.secret.version, Arc::new(record));
        }
        Ok(())
    }
}

/// Nothing becomes harder by being kept in something harder: it was out before.
fn lesser(one: Assurance, other: Assurance) -> Assurance {
    one.min(other)
}
