//! Material of any kind of key, made and opened by the custody that has it. Not its storage, and not a decision: a permit must exist before an
//! open key does anything.

use std::sync::Arc;

use claviger_core::custody::{Custody, CustodyError, CustodyKind, MacKey, SealingKey, SigningKey};
use claviger_core::key::{KeyAlgorithm, KeyId, KeyIdentity, KeyRef, SymmetricAlgorithm};
use claviger_core::{PublicKey, Secret};
use rand_core::{OsRng, RngCore as _};

use super::LocalBroker;
use super::keys::NewKeyError;
use crate::keyring::KeyRecord;

/// A key that is open, by what it does.
#[derive(Debug, Clone)]
pub(super) enum OpenKey {
    Signing(Arc<dyn SigningKey>),
    Sealing(Arc<dyn SealingKey>),
    Mac(Arc<dyn MacKey>),
}

/// Whether a custody has keys of this algorithm.
pub(super) fn has(custody: &dyn Custody, algorithm: KeyAlgorithm) -> bool {
    match algorithm {
        KeyAlgorithm::Signing(algorithm) => custody.algorithms().contains(&algorithm),
        KeyAlgorithm::Symmetric(SymmetricAlgorithm::XChaCha20Poly1305) => custody.sealing().is_some(),
        KeyAlgorithm::Symmetric(SymmetricAlgorithm::HmacSha256) => custody.macs().is_some(),
    }
}

/// That it has none.
pub(super) const fn lacking(custody: CustodyKind, algorithm: KeyAlgorithm) -> CustodyError {
    match algorithm {
        KeyAlgorithm::Signing(algorithm) => CustodyError::Algorithm { custody, algorithm },
        KeyAlgorithm::Symmetric(algorithm) => CustodyError::Symmetric { custody, algorithm },
    }
}

impl LocalBroker {
    /// Makes the material of one version of a key, and what it is told by. Nothing is stored.
    pub(super) async fn make_key(
        &self,
        key: &KeyRef,
        algorithm: KeyAlgorithm,
        kind: CustodyKind,
    ) -> Result<(KeyIdentity, Secret), NewKeyError> {
        let custody = self.custody(kind).ok_or(NewKeyError::NoCustody(kind))?;
        match algorithm {
            KeyAlgorithm::Signing(algorithm) if custody.algorithms().contains(&algorithm) => {
                let made = custody.generate(key, algorithm).await?;
                Ok((made.public.into(), made.material))
            }
            KeyAlgorithm::Signing(_) => Err(lacking(kind, algorithm).into()),
            KeyAlgorithm::Symmetric(symmetric) => {
                let lacking = lacking(kind, algorithm);
                let material = match symmetric {
                    SymmetricAlgorithm::XChaCha20Poly1305 => {
                        custody.sealing().ok_or(lacking)?.generate(key).await?
                    }
                    SymmetricAlgorithm::HmacSha256 => custody.macs().ok_or(lacking)?.generate(key).await?,
                };
                Ok((KeyIdentity::Symmetric(identifier()?), material))
            }
        }
    }
}

/// Opens the material of one version of a key in the custody that it is from.
pub(super) async fn open(
    custody: &dyn Custody,
    record: &KeyRecord,
    material: Secret,
) -> Result<OpenKey, CustodyError> {
    let key = &record.key;
    match record.algorithm {
        KeyAlgorithm::Signing(_) => {
            let public: &PublicKey = record
                .public()
                .ok_or_else(|| CustodyError::Fault(format!("key `{key}` has no public half")))?;
            custody.open(key, public, material).await.map(OpenKey::Signing)
        }
        KeyAlgorithm::Symmetric(algorithm) => {
            let lacking = lacking(record.custody, record.algorithm);
            match algorithm {
                SymmetricAlgorithm::XChaCha20Poly1305 => {
                    let opened = custody.sealing().ok_or(lacking)?.open(key, material).await;
                    opened.map(OpenKey::Sealing)
                }
                SymmetricAlgorithm::HmacSha256 => {
                    let opened = custody.macs().ok_or(lacking)?.open(key, material).await;
                    opened.map(OpenKey::Mac)
                }
            }
        }
    }
}

/// Draws what tells a key from every other.
pub(super) fn identifier() -> Result<KeyId, CustodyError> {
    let mut bytes = [0; KeyId::LENGTH];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|e| CustodyError::Unavailable(format!("the system gave no random numbers: {e}")))?;
    Ok(KeyId::from_bytes(bytes))
}
