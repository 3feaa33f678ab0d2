//! The list of everything that a keyring holds, which one MAC covers: each row by its digest. Not the MAC, and not the rows' content.

use std::collections::BTreeMap;

use claviger_core::KeyRef;
use claviger_core::audit::SecretRef;
use serde::{Deserialize, Serialize};

use super::envelope::Row;
use super::secret_row::SecretRow;
use super::store::WITHOUT_SECRETS;
use super::{KeyRecord, KeyringError};

/// Every row as it is stored.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) keys: Vec<Row>,
    pub(super) secrets: Vec<SecretRow>,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    pub(super) keys: Vec<Listed>,
    pub(super) secrets: Vec<ListedSecret>,
}

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    pub(super) key: KeyRef,
    pub(super) digest: String,
}

/// One version of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListedSecret {
    pub(super) secret: SecretRef,
    pub(super) digest: String,
}

impl List {
    /// Reads the list of a file of this format: before there were secrets, it was one of keys alone.
    pub(super) fn read(format: u32, text: &str) -> Result<Self, KeyringError> {
        let read = if format <= WITHOUT_SECRETS {
            serde_json::from_str(text).map(|keys| Self {
                keys,
                secrets: Vec::new(),
            })
        } else {
            serde_json::from_str(text)
        };
        read.map_err(|_| KeyringError::integrity("its list of keys and secrets cannot be read"))
    }

    /// As it is stored in the newest format.
    pub(super) fn written(&self) -> Result<String, KeyringError> {
        serde_json::to_string(self).map_err(|_| KeyringError::Encryption)
    }

    /// How many versions of keys and secrets there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len() + self.secrets.len()
    }

    /// Puts the new digests of keys' rows on the list.
    pub(super) fn put_keys(&mut self, records: &[KeyRecord], rows: &[Row]) {
        for (record, row) in records.iter().zip(rows) {
            for item in self.keys.iter_mut().filter(|item| item.key == record.key) {
                item.digest = row.digest();
            }
        }
    }

    /// Puts a secret's row on the list, or its new digest.
    pub(super) fn put_secret(&mut self, secret: &SecretRef, digest: String) {
        match self.secrets.iter_mut().find(|item| item.secret == *secret) {
            Some(item) => item.digest = digest,
            None => self.secrets.push(ListedSecret {
                secret: secret.clone(),
                digest,
            }),
        }
    }

    /// Checks that exactly these rows are listed.
    pub(super) fn compare(&self, rows: &Rows) -> Result<(), KeyringError> {
        let keys = self.keys.iter().map(|item| (item.key.to_string(), &item.digest));
        let found = rows.keys.iter().map(|row| (row.label(), row.digest()));
        compare("key", keys, found)?;
        let secrets = self
            .secrets
            .iter()
            .map(|item| (item.secret.to_string(), &item.digest));
        let found = rows.secrets.iter().map(|row| (row.label(), row.digest()));
        compare("secret", secrets, found)
    }
}

fn compare<'a>(
    what: &str,
    listed: impl Iterator<Item = (String, &'a String)>,
    found: impl Iterator<Item = (String, String)>,
) -> Result<(), KeyringError> {
    let mut listed: BTreeMap<String, &String> = listed.collect();
    for (label, digest) in found {
        match listed.remove(&label) {
            Some(expected) if *expected == digest => {}
            Some(_) => {
                return Err(KeyringError::integrity(format!("{what} `{label}` was changed")));
            }
            None => {
                return Err(KeyringError::integrity(format!(
                    "{what} `{label}` was not put there by the keyring"
                )));
            }
        }
    }
    match listed.into_keys().next() {
        Some(label) => Err(KeyringError::integrity(format!("{what} `{label}` is missing"))),
        None => Ok(()),
    }
}
