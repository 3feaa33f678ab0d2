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
fn purpose(key: &KeyRef) -> String {
    format!("key:{key}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::custody::conformance::{conforms, key_ref};
    use crate::custody::{KdfCost, PassphraseSealer};

    fn custody(passphrase: &str) -> SealedCustody {
        let secret = Secret::take(&mut passphrase.to_owned().into_bytes()).unwrap();
        let sealer = PassphraseSealer::new(secret, KdfCost::INSECURE_FOR_TESTS).unwrap();
        SealedCustody::new(Arc::new(sealer))
    }

    #[tokio::test]
    async fn sealed_custody_conforms() {
        conforms(&custody("correct horse")).await;
    }

    #[tokio::test]
    async fn a_sealed_key_opens_for_its_own_name_version_and_sealer_only() {
        let own = custody("correct horse");
        let key = key_ref("release");
        let mut next = key.clone();
        next.version = claviger_core::KeyVersion(2);
        let Generated { public, material } = own.generate(&key, Algorithm::Ed25519).await.unwrap();
        let copy = || Secret::take(&mut material.expose().to_vec()).unwrap();
        for (custody, key) in [
            (&own, &key_ref("relea5e")),
            (&own, &next),
            (&custody("battery staple"), &key),
        ] {
            let refused = custody.open(key, &public, copy()).await;
            assert!(
                matches!(refused, Err(CustodyError::NotOurs(_))),
                "{key}: {refused:?}"
            );
        }
        assert!(own.open(&key, &public, copy()).await.is_ok(), "the control");
    }

    #[tokio::test]
    async fn a_public_key_of_an_algorithm_it_does_not_have_is_refused() {
        let software = crate::custody::SoftwareCustody;
        let key = key_ref("curve");
        let Generated { public, material } = software.generate(&key, Algorithm::P256).await.unwrap();
        let refused = custody("correct horse").open(&key, &public, material).await;
        assert!(
            matches!(refused, Err(CustodyError::Algorithm { .. })),
            "{refused:?}"
        );
    }
}
