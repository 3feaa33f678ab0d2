//! What a custody wants kept beside a key, so that its device can refuse it. Opaque here: custody reads it.

use claviger_core::KeyRef;

use super::store::Change;
use super::{KeyRecord, Keyring, KeyringError, MAX_HARDWARE};

impl Keyring {
    /// Keeps what a custody says about a revoked key from now on. The same again changes nothing.
    ///
    /// # Errors
    /// When there is no such key, it is over [`MAX_HARDWARE`] bytes, or the disk fails; then it is as it was.
    pub(crate) fn set_hardware(&self, key: &KeyRef, hardware: Vec<u8>) -> Result<(), KeyringError> {
        if hardware.len() > MAX_HARDWARE {
            return Err(KeyringError::TooLong {
                what: "what a custody keeps about a key",
                allowed: MAX_HARDWARE,
                sent: hardware.len(),
            });
        }
        let mut file = self.file();
        let old = self
            .record(key)
            .ok_or_else(|| KeyringError::NoKey { key: key.clone() })?;
        if old.hardware.as_ref() == Some(&hardware) {
            return Ok(());
        }
        let record = KeyRecord {
            hardware: Some(hardware),
            ..(*old).clone()
        };
        // Of a destroyed key there is no material any more.
        let rows = file.resealed(std::slice::from_ref(&record))?;
        let mut list = file.meta.list()?;
        for item in list.keys.iter_mut().filter(|item| item.key == *key) {
            for row in &rows {
                item.digest = row.digest();
            }
        }
        let changes: Vec<_> = rows.iter().map(Change::Replace).collect();
        file.write(&changes, &list)?;
        self.remember(record);
        Ok(())
    }
}
