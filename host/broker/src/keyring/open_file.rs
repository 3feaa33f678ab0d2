//! An open database with the keys to it: whole generations are written, and rows are read only if they are what was written last. Knows no
//! lives and no names' states.

use claviger_core::KeyRef;

use super::envelope::{Meta, Row};
use super::list::{List, Listed, Rows};
use super::secret_row::SecretRow;
use super::store::Change;
use super::{KeyringError, OpenFile};

impl OpenFile {
    /// Writes all rows in the newest format. Each is encrypted anew: what is authenticated with it has changed.
    pub(super) fn convert(&mut self, old: &Rows) -> Result<Rows, KeyringError> {
        let mut rows = Rows::default();
        let mut list = List::default();
        for row in &old.keys {
            let record = row.record()?;
            let row = self.envelope.converted(row)?;
            list.keys.push(Listed {
                key: record.key,
                digest: row.digest(),
            });
            rows.keys.push(row);
        }
        for row in &old.secrets {
            let record = row.record()?;
            let mut next = SecretRow::new(&record);
            if row.has_value() {
                let value = self.open_secret(row)?;
                let sealed = self.envelope.seal_secret(&next.associated(), &value)?;
                next.nonce = sealed.nonce;
                next.material = sealed.material;
            }
            list.put_secret(&record.secret, next.digest());
            rows.secrets.push(next);
        }
        let mut next = self.meta.next(&list)?;
        self.envelope.authenticate(&mut next)?;
        let info = next.info()?;
        self.store.convert(&rows, &next)?;
        self.meta = next;
        self.info = info;
        Ok(rows)
    }

    /// Empties the write-ahead log of what was destroyed. What is destroyed is so already, so a failure undoes nothing: the log is emptied
    /// with the next checkpoint, at the latest when the keyring is closed.
    pub(super) fn scrub_later(&self) {
        drop(self.store.scrub());
    }

    pub(super) fn write(&mut self, changes: &[Change<'_>], list: &List) -> Result<(), KeyringError> {
        let next = self.meta.next(list)?;
        self.write_meta(changes, next)
    }

    pub(super) fn write_meta(&mut self, changes: &[Change<'_>], mut next: Meta) -> Result<(), KeyringError> {
        self.envelope.authenticate(&mut next)?;
        let info = next.info()?;
        self.store.write(changes, &next)?;
        self.meta = next;
        self.info = info;
        Ok(())
    }

    /// The row of a key as it is on disk, if it is still the one on the list.
    pub(super) fn row(&self, key: &KeyRef) -> Result<Row, KeyringError> {
        let list = self.meta.list()?;
        let listed = list.keys.into_iter().find(|item| item.key == *key);
        let Some(listed) = listed else {
            return Err(KeyringError::NoKey { key: key.clone() });
        };
        match self.store.row(key.name.as_str(), key.version.0)? {
            Some(row) if row.digest() == listed.digest => Ok(row),
            Some(_) => Err(KeyringError::integrity(format!("key `{key}` was changed"))),
            None => Err(KeyringError::integrity(format!("key `{key}` is missing"))),
        }
    }
}
