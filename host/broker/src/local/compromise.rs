//! What somebody else may have: revoked at once, whatever else fails, and then replaced. Not a rotation: nothing of the old is good any more.

use std::sync::Arc;

use claviger_core::audit::SecretRef;
use claviger_core::{KeyName, KeyRef, KeyVersion, SecretName};

use super::LocalBroker;
use super::keys::NewKeyError;
use super::rotation::is_certified;
use super::secrets::NewSecretError;
use crate::keyring::{KeyRecord, KeyState, KeyringError, Reason, SecretRecord, Start, Succession};

/// What a compromise changed.
#[derive(Debug, Clone)]
pub struct Compromise {
    /// The version that is in use from now on, if one was.
    pub replaced_by: Option<Arc<KeyRecord>>,
    /// The versions that are revoked now, or were before.
    pub revoked: Vec<Arc<KeyRecord>>,
}

impl LocalBroker {
    /// Revokes a key of which somebody else may have the material, or one version of it, with whatever it is doing; that holds, and is on the
    /// log, before anything else is begun. If the version in use was among them, a new one is then made and takes its place, however long
    /// its custody takes. A key that was out of use is not put back into it, and one with a certificate waits for an operator to stage the
    /// next.
    ///
    /// Dropping the future, or a crash, leaves everything as it was, or the old versions revoked; then the same again makes the new version.
    ///
    /// # Errors
    /// When there is no such key or version, or something cannot be written. [`NewKeyError::NotReplaced`] if the old ones are revoked and no
    /// new one could be made; [`NewKeyError::NotEnforcedYet`] if all is done but that the device does not know.
    pub async fn compromise_key(
        &self,
        name: &KeyName,
        version: Option<KeyVersion>,
        reason: Option<Reason>,
    ) -> Result<Compromise, NewKeyError> {
        self.current_key(name)?;
        if let Some(version) = version {
            let key = KeyRef {
                name: name.clone(),
                version,
            };
            if self.keyring.record(&key).is_none() {
                return Err(KeyringError::NoKey { key }.into());
            }
        }
        let reason = reason.unwrap_or_else(Reason::compromised);
        let changed = self.keyring.compromise(name, version, &reason, self.now())?;
        // A device that cannot be told keeps nobody from making the new one.
        let told = match self.log_keys(&changed).await {
            told @ (Ok(()) | Err(NewKeyError::NotEnforcedYet { .. })) => told,
            Err(error) => return Err(error),
        };
        let affected = |record: &KeyRecord| version.is_none_or(|version| record.key.version == version);
        let last = self.current_key(name)?;
        let replaced_by = if last.lacks_successor() && affected(&last) && !is_certified(&last.profile) {
            Some(self.replace_compromised(&last).await?)
        } else {
            None
        };
        told?;
        let revoked = self
            .keyring
            .versions(name)
            .into_iter()
            .filter(|record| record.state == KeyState::Revoked && affected(record))
            .collect();
        Ok(Compromise { replaced_by, revoked })
    }

    /// Makes what takes the place of a version that is revoked.
    async fn replace_compromised(&self, old: &KeyRecord) -> Result<Arc<KeyRecord>, NewKeyError> {
        let failed = |cause: NewKeyError| NewKeyError::NotReplaced {
            key: old.key.clone(),
            cause: Box::new(cause),
        };
        let new = self.successor(old, None).await.map_err(failed)?;
        match self
            .keyring
            .rotate(new, old.key.version, Succession::Replaced, self.now())
        {
            Ok(mut rotated) => {
                // It is revoked as before, and stands so on the log.
                rotated.changed.clear();
                self.log_rotation(&rotated, Start::AtOnce).await
            }
            Err(error) => {
                // Somebody else who was asked for the same may have been faster.
                let newer = self.keyring.key(&old.key.name);
                newer
                    .filter(|record| record.key.version > old.key.version)
                    .ok_or_else(|| failed(error.into()))
            }
        }
    }

    /// Revokes a secret of which somebody else may have the value, or one version of it, and cuts off what is under way with it. Its new value
    /// comes from whoever issued it. One that waits to be promoted is left to wait unless it is named.
    ///
    /// # Errors
    /// When there is no such secret or version, or something cannot be written. If only the log failed, it is revoked, and nothing is
    /// released any more.
    pub async fn compromise_secret(
        &self,
        name: &SecretName,
        version: Option<KeyVersion>,
        reason: Option<Reason>,
    ) -> Result<Vec<Arc<SecretRecord>>, NewSecretError> {
        self.keyring.current_secret(name)?;
        if let Some(version) = version {
            let secret = SecretRef {
                name: name.clone(),
                version,
            };
            if self.keyring.secret_record(&secret).is_none() {
                return Err(KeyringError::NoSecretVersion { secret }.into());
            }
        }
        let reason = reason.unwrap_or_else(Reason::compromised);
        // Whoever issued the one that waits may take no other any more: it is an operator's to promote or to give up.
        let waiting = || false;
        let changed = self
            .keyring
            .compromise_of(name, version, &reason, self.now(), &waiting)?;
        self.log_secrets(None, &changed).await?;
        let affected = |record: &SecretRecord| version.is_none_or(|version| record.secret.version == version);
        let versions = self.keyring.secret_versions(name).into_iter();
        Ok(versions
            .filter(|record| record.state == KeyState::Revoked && affected(record))
            .collect())
    }
}
