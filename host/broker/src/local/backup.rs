//! Backups in the hands of the broker: what is in one, put on the log before it is written. Not its format, and not the file: whoever
//! calls has that. There is no other way for private material out of a keyring.

use std::io::{Read, Seek, Write};

use std::sync::Arc;

use claviger_core::audit::Event;
use claviger_core::custody::{CustodyError, CustodyKind};
use claviger_core::{AuditError, KeyRef, Secret};
use jiff::Timestamp;
use signed_note::Signer as _;

use super::act::{Act, who};
use super::{LocalBroker, log_key};
use crate::backup::{
    BackupError, Contents, Head, Identity, KeyItem, Recipient, SecretItem, Writer, check_recipients,
};
use crate::custody::purpose_of;
use crate::keyring::{KeyRecord, KeyringError, SecretRecord, has_use};

/// What a backup was made of.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BackupMade {
    /// When.
    pub made: Timestamp,
    /// The versions of keys whose material is in it.
    pub keys: Vec<KeyRef>,
    /// How many versions of secrets are in it with their values.
    pub secrets: u64,
    /// Keys in use that live in a TPM: their public halves are in it, so that a restore can say what has to be made anew.
    pub resident: Vec<KeyRecord>,
}

/// Why a backup was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackUpError {
    /// It cannot be written.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A key's material cannot be opened.
    #[error("key `{key}` cannot be put into a backup")]
    Key {
        /// Which.
        key: KeyRef,
        /// Why.
        #[source]
        source: CustodyError,
    },
    /// The keyring cannot be read.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The log cannot be written; nothing was written of the backup either.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl LocalBroker {
    /// Writes a backup of the keyring for these recipients (1 to 16): every key and secret with all that is known of them, and with its
    /// material if it may still be used and does not live in a TPM. `by` says who wants it. On the log before the first byte is written.
    ///
    /// Dropping the future abandons it, which is logged; what was written by then does not open.
    ///
    /// # Errors
    /// When the number of recipients is out of its bounds, a key's material does not open, or the log, the keyring or `out` fails; what was
    /// written by then does not open.
    ///
    /// # Security
    /// Whoever has an identity of one of the recipients and the file has the keys: a TPM no longer protects those that are in it.
    pub async fn back_up(
        &self,
        recipients: &[Recipient],
        by: &str,
        out: impl Write + Send,
    ) -> Result<BackupMade, BackUpError> {
        check_recipients(recipients)?;
        let keys = self.keyring.keys();
        let secrets = self.keyring.secrets();
        let with_material = keys.iter().filter(|record| has_material(record));
        let mut with_value = 0_u64;
        for record in &secrets {
            with_value = with_value.saturating_add(u64::from(self.has_value(record)?));
        }
        let left_out = keys.iter().filter(|record| is_left_out(record));
        let made = BackupMade {
            made: self.clock.now(),
            keys: with_material.map(|record| record.key.clone()).collect(),
            secrets: with_value,
            resident: left_out.map(|record| (**record).clone()).collect(),
        };
        let act = Act::begin(
            self,
            Event::BackupRequested {
                by: who(by),
                recipients: recipients.iter().map(ToString::to_string).collect(),
                keys: count(made.keys.len()),
                secrets: made.secrets,
                left_out: count(made.resident.len()),
            },
        )
        .await?;
        let written = async {
            let info = self.keyring.info();
            let head = Head {
                made: made.made,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                vkey: info.vkey.unwrap_or_default(),
                assurance: info.assurance,
                generation: info.generation,
                items: count(keys.len().saturating_add(secrets.len())),
            };
            let mut writer = Writer::new(out, recipients, &head)?;
            // A host goes on serving its agents between the items.
            for record in &keys {
                tokio::task::yield_now().await;
                // As it is now: what was taken out of use meanwhile has no material in the file.
                let record = self
                    .keyring
                    .record(&record.key)
                    .unwrap_or_else(|| Arc::clone(record));
                let material = self.seed(&record).await?;
                writer.key(&KeyItem::new(&record), material.as_ref())?;
            }
            for record in &secrets {
                tokio::task::yield_now().await;
                let now = self.keyring.secret_record(&record.secret);
                let record = now.unwrap_or_else(|| Arc::clone(record));
                let value = self.value(&record)?;
                writer.secret(&SecretItem::new(&record), value.as_ref())?;
            }
            let mut out = writer.finish(|message| self.sign_backup(message))?;
            out.flush().map_err(|source| BackupError::Io {
                action: "write",
                source,
            })?;
            Ok(())
        };
        let result: Result<(), BackUpError> = written.await;
        act.end(result)?;
        Ok(made)
    }

    /// What a backup holds, as [`Contents::read`] says, opened by identities of which some are keys in the TPM of this keyring.
    ///
    /// # Errors
    /// As [`Contents::read`], and when there is no TPM or it fails.
    pub async fn read_backup(
        &self,
        source: &mut (impl Read + Seek + Send),
        identities: &[Identity],
    ) -> Result<Contents, BackupError> {
        self.agree(source, identities).await?;
        Contents::read(source, identities)
    }

    /// Has the TPM do its part of opening a backup, if it has one, and leaves the file at its start.
    pub(super) async fn agree(
        &self,
        source: &mut (impl Read + Seek + Send),
        identities: &[Identity],
    ) -> Result<(), BackupError> {
        if !identities.iter().any(Identity::is_in_tpm) {
            return Ok(());
        }
        let custody = self.custodies.get(CustodyKind::Tpm.as_str());
        let keys = custody.and_then(|custody| custody.agreement());
        Identity::agree(identities, keys, source).await?;
        source.rewind().map_err(|source| BackupError::Io {
            action: "read",
            source,
        })
    }

    /// What a key is made of, outside of whatever holds it, if a backup has it.
    pub(super) async fn seed(&self, record: &KeyRecord) -> Result<Option<Secret>, BackUpError> {
        if !has_material(record) {
            return Ok(None);
        }
        let material = self.keyring.material(&record.key)?;
        match record.custody {
            CustodyKind::Software => Ok(Some(material)),
            CustodyKind::TpmSealed => self
                .sealer
                .unseal(&purpose_of(&record.key, &record.identity), material.expose())
                .await
                .map(Some)
                .map_err(|source| BackUpError::Key {
                    key: record.key.clone(),
                    source,
                }),
            CustodyKind::Tpm => Ok(None),
        }
    }

    fn value(&self, record: &SecretRecord) -> Result<Option<Secret>, KeyringError> {
        if !self.has_value(record)? {
            return Ok(None);
        }
        self.keyring.secret_material(&record.secret).map(Some)
    }

    fn has_value(&self, record: &SecretRecord) -> Result<bool, KeyringError> {
        Ok(has_use(record.state) && self.keyring.has_value(&record.secret)?)
    }

    fn sign_backup(&self, message: &[u8]) -> Result<Vec<u8>, BackupError> {
        let cannot = |_| BackupError::Encryption;
        let key = log_key(&self.keyring).map_err(|_| BackupError::Encryption)?;
        key.sign(message).map_err(cannot)
    }
}

/// Whether a backup has the material of this version.
fn has_material(record: &KeyRecord) -> bool {
    match record.custody {
        CustodyKind::Software | CustodyKind::TpmSealed => has_use(record.state) && !is_left_out(record),
        CustodyKind::Tpm => false,
    }
}

/// Whether this version is of use and its material cannot be had.
pub(super) fn is_left_out(record: &KeyRecord) -> bool {
    match record.custody {
        CustodyKind::Software => false,
        // A copy elsewhere would be one that the TPM cannot refuse.
        CustodyKind::TpmSealed => record.hardware.is_some() && has_use(record.state),
        CustodyKind::Tpm => has_use(record.state),
    }
}

pub(super) fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}
