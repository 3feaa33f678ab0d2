//! Keys that live in the TPM, behind core's traits. Not the commands: `device.rs` sends those.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use claviger_core::custody::{Custody, CustodyError, CustodyKind, Generated, SigningKey};
use claviger_core::profile::Framed;
use claviger_core::{Algorithm, BoxFuture, KeyRef, Permit, PublicKey, Secret, Signature};
use sha2::{Digest as _, Sha256};
use tss_esapi::structures::Public;

use crate::actor::{Actor, Lane};
use crate::blob::{self, Kind};
use crate::device::{KeyBlob, KeyId, RESIDENT, random_secret};
use crate::template;

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

/// Makes and opens resident keys: ECDSA on P-256, and RSA of 2048 bits, both with SHA-256.
#[derive(Debug)]
pub(crate) struct TpmCustody {
    actor: Arc<Actor>,
}

impl TpmCustody {
    pub(crate) const fn new(actor: Arc<Actor>) -> Self {
        Self { actor }
    }

    async fn generate(&self, algorithm: Algorithm) -> Result<Generated, CustodyError> {
        let template = template(algorithm)?.ok_or(CustodyError::Algorithm {
            custody: CustodyKind::Tpm,
            algorithm,
        })?;
        let made = self.actor.run(Lane::Host, move |device| {
            let auth = random_secret()?;
            let created = device.create_key(&template, &auth)?;
            let public = resident_key(&created.public)?;
            let value = auth
                .expose()
                .first_chunk()
                .ok_or_else(|| CustodyError::Fault("an authorisation value has 32 bytes".to_owned()))?;
            let mut bytes = blob::encode(Kind::Key, value, &created.public, &created.private)
                .map_err(|error| CustodyError::Fault(error.to_string()))?;
            let material = Secret::take(&mut bytes)?;
            Ok(Generated { public, material })
        });
        made.await
    }

    async fn open(
        &self,
        name: &KeyRef,
        public: &PublicKey,
        material: Secret,
    ) -> Result<Arc<dyn SigningKey>, CustodyError> {
        let not_ours = |error: blob::BlobError| CustodyError::NotOurs(error.to_string());
        let mut parts = blob::decode(Kind::Key, material.expose()).map_err(not_ours)?;
        drop(material);
        if resident_key(&parts.public)? != *public {
            return Err(CustodyError::NotOurs(
                "the blob holds another key than the keyring says".to_owned(),
            ));
        }
        let key = Arc::new(KeyBlob {
            id: KeyId(NEXT_KEY.fetch_add(1, Ordering::Relaxed)),
            auth: Secret::take(parts.value.as_mut_slice())?,
            public: parts.public,
            private: parts.private,
        });
        let theirs = Arc::clone(&key);
        self.actor
            .run(Lane::Host, move |device| device.load_key(&theirs))
            .await?;
        Ok(Arc::new(TpmKey {
            actor: Arc::clone(&self.actor),
            name: name.clone(),
            public: public.clone(),
            key,
        }))
    }
}

fn template(algorithm: Algorithm) -> Result<Option<Public>, CustodyError> {
    template::signing_key(algorithm).map_err(|error| CustodyError::Fault(error.to_string()))
}

/// The public key of a blob, if its public area is one that this crate makes: a key that signs here and nowhere else.
fn resident_key(public: &Public) -> Result<PublicKey, CustodyError> {
    for algorithm in RESIDENT {
        let template = template(algorithm)?;
        if template.is_some_and(|template| template::is_of(public, &template)) {
            return template::public_key(public).ok_or_else(|| {
                CustodyError::NotOurs(format!("the blob's public key is not one of {algorithm}"))
            });
        }
    }
    Err(CustodyError::NotOurs(
        "the blob's key is not one that was made in the TPM and stays there".to_owned(),
    ))
}

impl Custody for TpmCustody {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Tpm
    }

    fn algorithms(&self) -> &[Algorithm] {
        &RESIDENT
    }

    fn generate<'a>(
        &'a self,
        _key: &'a KeyRef,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(self.generate(algorithm))
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        public: &'a PublicKey,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        Box::pin(self.open(key, public, material))
    }
}

/// A resident key that is open: its blob and authorisation value, and a place among the loaded keys while it is used.
struct TpmKey {
    actor: Arc<Actor>,
    name: KeyRef,
    public: PublicKey,
    key: Arc<KeyBlob>,
}

impl fmt::Debug for TpmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TpmKey")
            .field("name", &self.name)
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl TpmKey {
    async fn sign(&self, permit: &Permit, message: &Framed) -> Result<Signature, CustodyError> {
        if message.key() != &self.public || !permit.spend(&self.name, message) {
            return Err(CustodyError::PermitMismatch);
        }
        let digest: [u8; 32] = Sha256::digest(message.message()).into();
        let key = Arc::clone(&self.key);
        let signature = self
            .actor
            .run(Lane::Agent(permit.instance()), move |device| {
                device.sign(&key, &digest)
            })
            .await?;
        // A fault in a signature can tell the key, of RSA a single one, and a TPM that was exchanged signs with another: neither gets out.
        self.public
            .verify(message.message(), &signature)
            .map_err(|_| CustodyError::Fault("the TPM's signature does not verify".to_owned()))?;
        Ok(signature)
    }
}

impl SigningKey for TpmKey {
    fn sign<'a>(
        &'a self,
        permit: &'a Permit,
        message: &'a Framed,
    ) -> BoxFuture<'a, Result<Signature, CustodyError>> {
        Box::pin(self.sign(permit, message))
    }
}

impl Drop for TpmKey {
    fn drop(&mut self) {
        let id = self.key.id;
        self.actor.post(Lane::Host, move |device| device.unload_key(id));
    }
}
