//! Ed25519 keys whose seed a sealer sealed: for a TPM that does not know Ed25519. Not resident: the seed is in locked memory of
//! the host while the key is open.

use std::sync::Arc;

use claviger_core::custody::{Custody, CustodyError, CustodyKind, Generated, Sealer, SigningKey};
use claviger_core::{Algorithm, BoxFuture, KeyRef, PublicKey, Secret};

use super::software;

/// Makes Ed25519 seeds, seals them for their key, and signs with what the sealer opens again.
///
/// There is no P-256 here on purpose: a TPM makes and keeps P-256 keys itself, which is harder than sealing.
#[derive(Debug, Clone)]
pub struct SealedCustody {
    sealer: Arc<dyn Sealer>,
}

impl SealedCustody {
    /// Custody over this sealer.
    #[must_use]
    pub fn new(sealer: Arc<dyn Sealer>) -> Self {
        Self { sealer }
    }
}

impl Custody for SealedCustody {
    fn kind(&self) -> CustodyKind {
        CustodyKind::TpmSealed
    }

    fn algorithms(&self) -> &[Algorithm] {
        &[Algorithm::Ed25519]
    }

    fn generate<'a>(
        &'a self,
        key: &'a KeyRef,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(async move {
            if !self.algorithms().contains(&algorithm) {
                return Err(CustodyError::Algorithm {
                    custody: self.kind(),
                    algorithm,
                });
            }
            let Generated { public, material } = software::generate(algorithm)?;
            let mut blob = self.sealer.seal(&purpose(key), &material).await?;
            Ok(Generated {
                public,
                material: Secret::take(&mut blob)?,
            })
        })
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        public: &'a PublicKey,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        Box::pin(async move {
            if !self.algorithms().contains(&public.algorithm()) {
                return Err(CustodyError::Algorithm {
                    custody: self.kind(),
                    algorithm: public.algorithm(),
                });
            }
            let seed = self.sealer.unseal(&purpose(key), material.expose()).await?;
            software::open(self.kind(), key, public, &seed)
        })
    }
}

/// Binds the sealed seed to one version of one key, so that blobs cannot be swapped between keys.
pub(crate) fn purpose(key: &KeyRef) -> String {
    format!("key:{key}")
}
