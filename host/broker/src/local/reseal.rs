//! Seals a keyring's root key anew: for another passphrase, or by another TPM, with what is sealed beside it. Not a new root key: an old
//! copy of the folder opens as it did.

use std::sync::Arc;

use claviger_core::audit::Event;
use claviger_core::custody::{Assurance, Custody, CustodyError, CustodyKind, Sealer};
use claviger_core::profile::Profile;
use claviger_core::{AuditError, KeyRef, Secret};

use super::LocalBroker;
use super::act::{Act, who};
use super::backup::{BackUpError, count, is_left_out};
use crate::custody::purpose_of;
use crate::keyring::{KeyRecord, KeyringError, Resealed, RootKind, RootSpec, has_use};

/// What shall protect a keyring from now on.
#[derive(Debug, Clone)]
pub struct NewRoot {
    /// How the keyring names it.
    pub spec: RootSpec,
    /// It.
    pub sealer: Arc<dyn Sealer>,
    /// The device that holds resident keys, if it is one.
    pub resident: Option<Arc<dyn Custody>>,
}

/// What was sealed anew.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Resealing {
    /// What protected the root key before.
    pub from: RootKind,
    /// What protects it now.
    pub to: RootKind,
    /// The keys whose material was sealed anew with it.
    pub keys: Vec<KeyRef>,
    /// Those of them that no TPM seals any more.
    pub weakened: Vec<KeyRef>,
}

/// Why a root key was not sealed anew. The keyring is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResealError {
    /// The new root is less hard.
    #[error("nothing was sealed anew: the keyring is `{from}`, and would be `{to}`")]
    Weaker {
        /// How hard it is.
        from: Assurance,
        /// How hard it would be.
        to: Assurance,
    },
    /// The keyring's TPM was not told yet that these are revoked.
    #[error("nothing was sealed anew: the keyring's TPM was not told yet of every revocation: {}", .0.join("; "))]
    Untold(Vec<String>),
    /// Keys live in the TPM that the keyring would leave.
    #[error("nothing was sealed anew: {} live in the keyring's TPM and cannot leave it", .0.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "))]
    Resident(Vec<KeyRef>),
    /// A key's material does not open, or cannot be sealed.
    #[error("nothing was sealed anew: key `{key}` cannot be taken over")]
    Key {
        /// Which.
        key: KeyRef,
        /// Why.
        #[source]
        source: CustodyError,
    },
    /// The keyring cannot be changed, or the new root does not work.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl LocalBroker {
    /// Seals the root key by another root, or again by the same, and with it the keys whose material is sealed: all in one transaction. On
    /// the log before. This broker goes on with what it was opened with: close it, and open the keyring by the new root.
    ///
    /// Dropping the future, or a crash, leaves the keyring as it was or wholly changed.
    ///
    /// # Errors
    /// When the new root is less hard and `weaken` is not said, keys live in a TPM that is not the new root's, something does not open, or
    /// the log or the disk fails; the keyring is as it was.
    ///
    /// # Security
    /// The root key stays the same: whoever has an old copy of the folder and what opened it still opens that copy.
    pub async fn reseal(&self, root: NewRoot, weaken: bool, by: &str) -> Result<Resealing, ResealError> {
        let info = self.keyring.info();
        let (from, to) = (info.assurance, root.spec.kind.assurance());
        if to < from && !weaken {
            return Err(ResealError::Weaker { from, to });
        }
        let keys = self.keyring.keys();
        if info.root.settings != root.spec.settings || info.root.kind != root.spec.kind {
            // Another TPM knows nothing of them, and this one is not asked again.
            self.enforce_revocations().await;
            let untold = self.unenforced();
            if !untold.is_empty() {
                return Err(ResealError::Untold(untold));
            }
            let mut stay = Vec::new();
            for record in keys.iter().filter(|record| is_left_out(record)) {
                if !self.moves(record, &root).await? {
                    stay.push(record.key.clone());
                }
            }
            if !stay.is_empty() {
                return Err(ResealError::Resident(stay));
            }
        }
        let sealed: Vec<_> = keys
            .iter()
            // What the TPM refuses once it is revoked stays as it is sealed: sealed anew it would hang on nothing, and so would its copies.
            .filter(|record| record.custody == CustodyKind::TpmSealed && has_use(record.state))
            .filter(|record| record.hardware.is_none())
            .collect();
        let event = Event::ResealRequested {
            by: who(by),
            from: info.root.kind.to_string(),
            to: root.spec.kind.to_string(),
            keys: count(sealed.len()),
        };
        let act = Act::begin(self, event).await?;
        let resealing = Resealing {
            from: info.root.kind,
            to: root.spec.kind,
            keys: sealed.iter().map(|record| record.key.clone()).collect(),
            weakened: match to {
                Assurance::Passphrase => sealed.iter().map(|record| record.key.clone()).collect(),
                Assurance::Swtpm | Assurance::Hardware => Vec::new(),
            },
        };
        let done = async {
            let mut resealed = Vec::new();
            for record in sealed {
                resealed.push(self.taken_over(record, &root).await?);
            }
            let now = self.clock.now();
            self.keyring
                .reseal(root.spec, root.sealer.as_ref(), resealed, info.generation, now)
                .await?;
            Ok(resealing)
        };
        let result = done.await;
        act.end(result)
    }

    /// Whether a key that lives in a TPM lives in the one of the new root, as when the same TPM is named otherwise.
    async fn moves(&self, record: &KeyRecord, root: &NewRoot) -> Result<bool, KeyringError> {
        let material = self.keyring.material(&record.key)?;
        if record.custody == CustodyKind::TpmSealed {
            let purpose = purpose_of(&record.key, &record.identity);
            return Ok(root.sealer.unseal(&purpose, material.expose()).await.is_ok());
        }
        let Some(custody) = root.resident.as_deref() else {
            return Ok(false);
        };
        Ok(match (&record.profile, record.public()) {
            (Profile::Attest {}, Some(public)) => match custody.attester() {
                Some(attester) => attester.open(&record.key, public, material).await.is_ok(),
                None => false,
            },
            (_, Some(public)) => custody.open(&record.key, public, material).await.is_ok(),
            (_, None) => match custody.macs() {
                Some(macs) => macs.open(&record.key, material).await.is_ok(),
                None => false,
            },
        })
    }

    async fn taken_over(&self, record: &KeyRecord, root: &NewRoot) -> Result<Resealed, ResealError> {
        let failed = |source| ResealError::Key {
            key: record.key.clone(),
            source,
        };
        let seed = match self.seed(record).await {
            Ok(Some(seed)) => seed,
            Ok(None) => return Err(failed(CustodyError::Fault("it has no material".to_owned()))),
            Err(BackUpError::Key { source, .. }) => return Err(failed(source)),
            Err(BackUpError::Keyring(error)) => return Err(error.into()),
            Err(BackUpError::Audit(error)) => return Err(error.into()),
            Err(error @ BackUpError::Backup(_)) => {
                return Err(failed(CustodyError::Fault(error.to_string())));
            }
        };
        let mut record = record.clone();
        let material = match root.spec.kind {
            RootKind::Tpm | RootKind::Swtpm => {
                let sealed = root
                    .sealer
                    .seal(&purpose_of(&record.key, &record.identity), &seed)
                    .await;
                let mut sealed = sealed.map_err(failed)?;
                Secret::take(&mut sealed).map_err(|error| failed(error.into()))?
            }
            // The caller said that it may be weaker.
            RootKind::Passphrase => {
                record.custody = CustodyKind::Software;
                seed
            }
        };
        Ok(Resealed { record, material })
    }
}
