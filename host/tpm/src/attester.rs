//! Keys that give evidence, behind core's traits: one that signs tokens, and beside it a restricted one that signs only what the TPM
//! says. Not the commands: `quote.rs` sends those.

use std::fmt;
use std::sync::Arc;

use claviger_core::attest::{Attester, AttestingKey, Certified, Evidence};
use claviger_core::custody::{CustodyError, Generated};
use claviger_core::profile::Framed;
use claviger_core::{Algorithm, BoxFuture, KeyRef, Permit, PublicKey, Secret};
use sha2::{Digest as _, Sha256};
use tss_esapi::structures::Public;
use tss_esapi::traits::Marshall as _;

use crate::actor::{Actor, Lane};
use crate::blob::{self, BlobError, Kind};
use crate::custody::{make, open, read, resident_key};
use crate::device::KeyBlob;
use crate::mac;
use crate::quote::Attested;
use crate::template;

/// The longest that a TPM with SHA-256 alone takes beside what it certifies, less the algorithm's two bytes.
const MAX_EXTRA: usize = 32;

/// Makes and opens them.
#[derive(Debug)]
pub(crate) struct TpmAttester {
    actor: Arc<Actor>,
}

impl TpmAttester {
    pub(crate) const fn new(actor: Arc<Actor>) -> Self {
        Self { actor }
    }

    async fn generate(&self) -> Result<Generated, CustodyError> {
        let token = template::signing_key(Algorithm::P256, None).map_err(|error| fault(&error))?;
        let token = token.ok_or_else(|| CustodyError::Fault("a TPM has P-256".to_owned()))?;
        let restricted = template::attestation_key().map_err(|error| fault(&error))?;
        let made = self.actor.run(Lane::Host, move |device| {
            let (public, first) = make(device, &token)?;
            let (_, second) = make(device, &restricted)?;
            let mut both = blob::pair(&first, &second).map_err(|error| fault(&error))?;
            Ok(Generated {
                public: resident_key(&public, None)?,
                material: Secret::take(&mut both)?,
            })
        });
        made.await
    }

    async fn open(
        &self,
        name: &KeyRef,
        public: &PublicKey,
        material: Secret,
    ) -> Result<Arc<dyn AttestingKey>, CustodyError> {
        let (first, second) = blob::split_pair(material.expose()).map_err(not_ours)?;
        let (found, token) = read(first)?;
        let restricted = blob::decode(Kind::Key, second).map_err(not_ours)?;
        let ak_public = restricted_key(&restricted.public)?;
        let restricted = open(restricted, None)?;
        if found != *public {
            return Err(CustodyError::NotOurs(
                "the blob holds another key than the keyring says".to_owned(),
            ));
        }
        let keys = Arc::new((token, restricted));
        let theirs = Arc::clone(&keys);
        self.actor
            .run(Lane::Host, move |device| {
                device.load_key(&theirs.0)?;
                device.load_key(&theirs.1)
            })
            .await?;
        Ok(Arc::new(TpmAttestingKey {
            actor: Arc::clone(&self.actor),
            name: name.clone(),
            public: public.clone(),
            attestation_key: ak_public,
            keys,
        }))
    }
}

/// The public key of a restricted key's blob, if its public area is one that this crate makes.
fn restricted_key(public: &Public) -> Result<PublicKey, CustodyError> {
    let template = template::attestation_key().map_err(|error| fault(&error))?;
    if !template::is_of(public, &template) {
        return Err(CustodyError::NotOurs(
            "the blob's second key is not a restricted one that was made in the TPM".to_owned(),
        ));
    }
    template::public_key(public)
        .ok_or_else(|| CustodyError::NotOurs("the blob's second key is not one of p256".to_owned()))
}

impl Attester for TpmAttester {
    fn generate<'a>(&'a self, _key: &'a KeyRef) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(self.generate())
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        public: &'a PublicKey,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn AttestingKey>, CustodyError>> {
        Box::pin(self.open(key, public, material))
    }
}

/// Both keys, open.
struct TpmAttestingKey {
    actor: Arc<Actor>,
    name: KeyRef,
    public: PublicKey,
    attestation_key: PublicKey,
    // The one for tokens, and the restricted one.
    keys: Arc<(KeyBlob, KeyBlob)>,
}

impl fmt::Debug for TpmAttestingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TpmAttestingKey")
            .field("name", &self.name)
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl TpmAttestingKey {
    async fn evidence(&self, permit: &Permit, message: &Framed) -> Result<Evidence, CustodyError> {
        if message.key() != &self.public || !permit.spend(&self.name, message) {
            return Err(CustodyError::PermitMismatch);
        }
        let digest: [u8; 32] = Sha256::digest(message.message()).into();
        let keys = Arc::clone(&self.keys);
        let made = self
            .actor
            .run(Lane::Agent(permit.instance()), move |device| {
                let quoted = device.quote(&keys.1, &digest)?;
                Ok((quoted, device.sign(&keys.0, &digest)?))
            })
            .await?;
        let ((quoted, pcrs), signature) = made;
        // As every signature: verified before it leaves.
        self.public
            .verify(message.message(), &signature)
            .map_err(|_| CustodyError::Fault("the TPM's signature does not verify".to_owned()))?;
        Ok(Evidence {
            signature,
            quote_signature: self.checked(&quoted)?,
            quote: quoted.attest,
            pcrs,
            attestation_key: self.attestation_key.clone(),
        })
    }

    async fn certify(
        &self,
        permit: &Permit,
        subject: &KeyRef,
        material: Secret,
        nonce: &[u8],
    ) -> Result<Certified, CustodyError> {
        if nonce.is_empty() || nonce.len() > MAX_EXTRA {
            return Err(CustodyError::Fault(format!(
                "a nonce has 1 to {MAX_EXTRA} bytes, not {}",
                nonce.len()
            )));
        }
        let stored = material.expose();
        let key = if mac::is_one(stored) {
            mac::read(subject, stored)?
        } else {
            // Of a key for evidence, the one that signs tokens.
            read(blob::split_pair(stored).map_or(stored, |(first, _)| first))?.1
        };
        drop(material);
        let public_area = key.public.marshall().map_err(|error| fault(&error))?;
        if !permit.spend_to_prove(subject, &self.name) {
            return Err(CustodyError::PermitMismatch);
        }
        let (keys, extra) = (Arc::clone(&self.keys), nonce.to_vec());
        let certified = self
            .actor
            .run(Lane::Host, move |device| {
                let certified = device.certify(&keys.1, &key, &extra);
                device.unload_key(key.id);
                certified
            })
            .await?;
        Ok(Certified {
            signature: self.checked(&certified)?,
            attest: certified.attest,
            public_area,
            attestation_key: self.attestation_key.clone(),
        })
    }

    /// The signature over what the TPM said, in DER, if it verifies over the very bytes that are given out.
    fn checked(&self, attested: &Attested) -> Result<Vec<u8>, CustodyError> {
        self.attestation_key
            .verify(&attested.attest, &attested.signature)
            .map_err(|_| CustodyError::Fault("the TPM's signature of itself does not verify".to_owned()))?;
        attested
            .signature
            .to_der()
            .map_err(|_| CustodyError::Fault("the TPM's signature cannot be encoded".to_owned()))
    }
}

impl AttestingKey for TpmAttestingKey {
    fn attestation_key(&self) -> &PublicKey {
        &self.attestation_key
    }

    fn evidence<'a>(
        &'a self,
        permit: &'a Permit,
        message: &'a Framed,
    ) -> BoxFuture<'a, Result<Evidence, CustodyError>> {
        Box::pin(self.evidence(permit, message))
    }

    fn certify<'a>(
        &'a self,
        permit: &'a Permit,
        subject: &'a KeyRef,
        material: Secret,
        nonce: &'a [u8],
    ) -> BoxFuture<'a, Result<Certified, CustodyError>> {
        Box::pin(self.certify(permit, subject, material, nonce))
    }
}

impl Drop for TpmAttestingKey {
    fn drop(&mut self) {
        let (token, restricted) = (self.keys.0.id, self.keys.1.id);
        self.actor.post(Lane::Host, move |device| {
            device.unload_key(token);
            device.unload_key(restricted);
        });
    }
}

fn not_ours(error: BlobError) -> CustodyError {
    CustodyError::NotOurs(error.to_string())
}

fn fault(error: &dyn fmt::Display) -> CustodyError {
    CustodyError::Fault(error.to_string())
}
