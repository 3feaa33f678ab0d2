//! Keys that a sealer sealed: Ed25519 seeds and keys that seal, for a TPM that knows neither algorithm, and keys for MACs. Not resident: the
//! key is in locked memory of the host while it is open.

use std::sync::Arc;

use claviger_core::custody::{
    Custody, CustodyError, CustodyKind, Generated, MacCustody, MacKey, Revocable, RevocableMaterial, Sealer,
    SealingCustody, SealingKey, SigningKey,
};
use claviger_core::key::SymmetricAlgorithm;
use claviger_core::{Algorithm, BoxFuture, KeyIdentity, KeyRef, PublicKey, Secret};

use super::{software, symmetric};

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
            self.must_know(algorithm)?;
            self.sealed(key, software::generate(algorithm)?).await
        })
    }

    fn import<'a>(
        &'a self,
        key: &'a KeyRef,
        algorithm: Algorithm,
        private: Secret,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(async move {
            self.must_know(algorithm)?;
            self.sealed(key, software::import(algorithm, private)?).await
        })
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        public: &'a PublicKey,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        Box::pin(async move {
            self.must_know(public.algorithm())?;
            let seed = self.sealer.unseal(&purpose(key), material.expose()).await?;
            software::open(self.kind(), key, public, &seed)
        })
    }

    fn generate_revocable<'a>(
        &'a self,
        key: &'a KeyRef,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<Revocable, CustodyError>> {
        Box::pin(async move {
            self.must_know(algorithm)?;
            let Generated { public, material } = software::generate(algorithm)?;
            let RevocableMaterial { material, revocation } =
                self.sealer.seal_revocable(&purpose(key), &material).await?;
            Ok(Revocable {
                generated: Generated { public, material },
                revocation,
            })
        })
    }

    fn generate_symmetric_revocable<'a>(
        &'a self,
        key: &'a KeyRef,
        _algorithm: SymmetricAlgorithm,
    ) -> BoxFuture<'a, Result<RevocableMaterial, CustodyError>> {
        Box::pin(async move {
            let material = symmetric::generate()?;
            self.sealer
                .seal_revocable(&symmetric_purpose(key), &material)
                .await
        })
    }

    fn revoke<'a>(
        &'a self,
        _key: &'a KeyRef,
        revocation: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        self.sealer.revoke(revocation)
    }

    fn sealing(&self) -> Option<&dyn SealingCustody> {
        Some(self)
    }

    fn macs(&self) -> Option<&dyn MacCustody> {
        Some(self)
    }
}

impl SealedCustody {
    fn must_know(&self, algorithm: Algorithm) -> Result<(), CustodyError> {
        if self.algorithms().contains(&algorithm) {
            return Ok(());
        }
        Err(CustodyError::Algorithm {
            custody: self.kind(),
            algorithm,
        })
    }

    /// The same key, sealed for this name.
    async fn sealed(&self, key: &KeyRef, clear: Generated) -> Result<Generated, CustodyError> {
        let Generated { public, material } = clear;
        let mut blob = self.sealer.seal(&purpose(key), &material).await?;
        Ok(Generated {
            public,
            material: Secret::take(&mut blob)?,
        })
    }

    async fn generate_symmetric(&self, key: &KeyRef) -> Result<Secret, CustodyError> {
        let material = symmetric::generate()?;
        let mut blob = self.sealer.seal(&symmetric_purpose(key), &material).await?;
        Ok(Secret::take(&mut blob)?)
    }

    async fn unseal_symmetric(&self, key: &KeyRef, material: Secret) -> Result<Secret, CustodyError> {
        self.sealer
            .unseal(&symmetric_purpose(key), material.expose())
            .await
    }
}

impl SealingCustody for SealedCustody {
    fn generate<'a>(&'a self, key: &'a KeyRef) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        Box::pin(self.generate_symmetric(key))
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SealingKey>, CustodyError>> {
        Box::pin(async move {
            let material = self.unseal_symmetric(key, material).await?;
            symmetric::open_sealing(CustodyKind::TpmSealed, key, material)
        })
    }
}

impl MacCustody for SealedCustody {
    fn generate<'a>(&'a self, key: &'a KeyRef) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        Box::pin(self.generate_symmetric(key))
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn MacKey>, CustodyError>> {
        Box::pin(async move {
            let material = self.unseal_symmetric(key, material).await?;
            symmetric::open_mac(CustodyKind::TpmSealed, key, material)
        })
    }
}

/// Binds the sealed seed to one version of one key, so that blobs cannot be swapped between keys.
fn purpose(key: &KeyRef) -> String {
    format!("key:{key}")
}

/// For what the material of a version is sealed: to take it out of one sealer and give it to another.
pub(crate) fn purpose_of(key: &KeyRef, identity: &KeyIdentity) -> String {
    match identity {
        KeyIdentity::Public(_) => purpose(key),
        KeyIdentity::Symmetric(_) => symmetric_purpose(key),
    }
}

/// As [`purpose`], for keys without a public half: nothing else tells that material is that of a signing key of the same name.
fn symmetric_purpose(key: &KeyRef) -> String {
    format!("symmetric:{key}")
}
