//! Keys that live in the TPM, behind core's traits. Not the commands: `device.rs` sends those.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use claviger_core::attest::Attester;
use claviger_core::custody::{
    AgreementCustody, Custody, CustodyError, CustodyKind, Generated, MacCustody, Revocable,
    RevocableMaterial, SigningKey,
};
use claviger_core::key::SymmetricAlgorithm;
use claviger_core::profile::Framed;
use claviger_core::{Algorithm, BoxFuture, KeyRef, Permit, PublicKey, Secret, Signature};
use sha2::{Digest as _, Sha256};
use tss_esapi::structures::Public;
use zeroize::Zeroizing;

use crate::actor::{Actor, Lane};
use crate::agreement::TpmAgreement;
use crate::attester::TpmAttester;
use crate::blob::{self, Blob, Kind};
use crate::counter::{Counter, Record, Use};
use crate::device::{Device, KeyBlob, KeyId, RESIDENT, random_secret};
use crate::import::import;
use crate::mac::TpmMacs;
use crate::template;
use crate::tss2;

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

/// Makes and opens resident keys: ECDSA on P-256, and RSA of 2048 bits, both with SHA-256.
#[derive(Debug)]
pub(crate) struct TpmCustody {
    actor: Arc<Actor>,
    attester: TpmAttester,
    macs: TpmMacs,
    agreement: TpmAgreement,
}

impl TpmCustody {
    pub(crate) fn new(actor: Arc<Actor>) -> Self {
        let attester = TpmAttester::new(Arc::clone(&actor));
        let macs = TpmMacs::new(Arc::clone(&actor));
        let agreement = TpmAgreement::new(Arc::clone(&actor));
        Self {
            actor,
            attester,
            macs,
            agreement,
        }
    }

    async fn generate(&self, algorithm: Algorithm) -> Result<Generated, CustodyError> {
        let template = wanted(algorithm, None)?;
        let made = self.actor.run(Lane::Host, move |device| {
            let (public, mut blob) = make(device, &template)?;
            let public = resident_key(&public, None)?;
            let material = Secret::take(&mut blob)?;
            Ok(Generated { public, material })
        });
        made.await
    }

    async fn generate_revocable(&self, algorithm: Algorithm) -> Result<Revocable, CustodyError> {
        wanted(algorithm, None)?;
        let made = self.actor.run(Lane::Host, move |device| {
            let counter = device.make_counter()?;
            let made = make_revocable(device, algorithm, counter);
            let (generated, revocation) = hung(device, counter, made)?;
            Ok(Revocable {
                generated,
                revocation,
            })
        });
        made.await
    }

    async fn open(
        &self,
        name: &KeyRef,
        public: &PublicKey,
        material: Secret,
    ) -> Result<Arc<dyn SigningKey>, CustodyError> {
        let (found, key) = read(material.expose())?;
        drop(material);
        if found != *public {
            return Err(CustodyError::NotOurs(
                "the blob holds another key than the keyring says".to_owned(),
            ));
        }
        let key = Arc::new(key);
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

/// What was made to hang on a counter, and what is kept to revoke it. If it was not made, nothing hangs there.
pub(crate) fn hung<T>(
    device: &mut Device,
    counter: Counter,
    made: Result<T, CustodyError>,
) -> Result<(T, Vec<u8>), CustodyError> {
    if made.is_err() {
        // If this fails too, an index stays behind.
        device.end_counter(counter).ok();
    }
    let record = Record { counter, done: false };
    made.map(|made| (made, record.to_bytes()))
}

/// Has the TPM refuse what hangs on a counter, and gives what is kept of it from then on.
pub(crate) async fn revoke(actor: &Actor, revocation: &[u8]) -> Result<Vec<u8>, CustodyError> {
    let record = Record::from_bytes(revocation).ok_or_else(|| {
        CustodyError::NotOurs("what is kept for revoking the key is not of a TPM's custody".to_owned())
    })?;
    if !record.done {
        let counter = record.counter;
        actor
            .run(Lane::Host, move |device| device.end_counter(counter))
            .await?;
    }
    Ok(Record { done: true, ..record }.to_bytes())
}

fn template(algorithm: Algorithm, counter: Option<Counter>) -> Result<Option<Public>, CustodyError> {
    let policy = counter.map(|counter| counter.policy(Use::Sign));
    template::signing_key(algorithm, policy.as_ref()).map_err(|error| CustodyError::Fault(error.to_string()))
}

/// The template, if TPMs have the algorithm.
fn wanted(algorithm: Algorithm, counter: Option<Counter>) -> Result<Public, CustodyError> {
    template(algorithm, counter)?.ok_or(CustodyError::Algorithm {
        custody: CustodyKind::Tpm,
        algorithm,
    })
}

/// Makes a key of this template, and gives its public area and its blob.
pub(crate) fn make(
    device: &mut Device,
    template: &Public,
) -> Result<(Public, Zeroizing<Vec<u8>>), CustodyError> {
    let auth = random_secret()?;
    let created = device.create_key(template, &auth)?;
    let value = auth
        .expose()
        .first_chunk()
        .ok_or_else(|| CustodyError::Fault("an authorisation value has 32 bytes".to_owned()))?;
    let blob = blob::encode(Kind::Key, value, &created.public, &created.private)
        .map_err(|error| CustodyError::Fault(error.to_string()))?;
    Ok((created.public, blob))
}

fn make_revocable(
    device: &mut Device,
    algorithm: Algorithm,
    counter: Counter,
) -> Result<Generated, CustodyError> {
    let (public, blob) = make(device, &wanted(algorithm, Some(counter))?)?;
    let public = resident_key(&public, Some(counter))?;
    let material = Secret::take(&mut blob::with_counter(counter, &blob))?;
    // A key whose policy cannot be satisfied would be of no use. Better to know now; the signature, of no message, is dropped.
    let (_, key) = read(material.expose())?;
    device.sign_revocable(&key, counter, &[0; 32])?;
    Ok(Generated { public, material })
}

/// Reads what is stored of a key: its public half, and what is needed to load it.
pub(crate) fn read(stored: &[u8]) -> Result<(PublicKey, KeyBlob), CustodyError> {
    let not_ours = |error: blob::BlobError| CustodyError::NotOurs(error.to_string());
    let (counter, blob) = blob::split_counter(stored).map_err(not_ours)?;
    let parts = blob::decode(Kind::Key, blob).map_err(not_ours)?;
    let public = resident_key(&parts.public, counter)?;
    Ok((public, open(parts, counter)?))
}

/// A blob as a key that can be loaded.
pub(crate) fn open(mut blob: Blob, counter: Option<Counter>) -> Result<KeyBlob, CustodyError> {
    Ok(KeyBlob {
        id: KeyId(NEXT_KEY.fetch_add(1, Ordering::Relaxed)),
        auth: Secret::take(blob.value.as_mut_slice())?,
        public: blob.public,
        private: blob.private,
        counter,
    })
}

/// The public key of a blob, if its public area is one that this crate makes: a key that signs here and nowhere else, and only while
/// its counter stands, if it hangs on one. Or one that was imported: where else it is, nobody knows.
pub(crate) fn resident_key(public: &Public, counter: Option<Counter>) -> Result<PublicKey, CustodyError> {
    for algorithm in RESIDENT {
        let template = template(algorithm, counter)?;
        if template.is_some_and(|template| template::is_of(public, &template)) {
            return template::public_key(public).ok_or_else(|| {
                CustodyError::NotOurs(format!("the blob's public key is not one of {algorithm}"))
            });
        }
    }
    if let (None, Some(key)) = (counter, template::taken_key(public)) {
        return Ok(key);
    }
    Err(CustodyError::NotOurs(
        "the blob's key is not one that was made in the TPM and stays there, or was imported into it"
            .to_owned(),
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

    fn import<'a>(
        &'a self,
        _key: &'a KeyRef,
        algorithm: Algorithm,
        private: Secret,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(import(&self.actor, algorithm, private))
    }

    fn import_wrapped<'a>(
        &'a self,
        _key: &'a KeyRef,
        file: Secret,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(async move {
            let wrapped = tss2::parse(file.expose())?;
            self.actor
                .run(Lane::Host, move |device| device.take_wrapped(&wrapped))
                .await
        })
    }

    fn generate_revocable<'a>(
        &'a self,
        _key: &'a KeyRef,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<Revocable, CustodyError>> {
        Box::pin(self.generate_revocable(algorithm))
    }

    fn generate_symmetric_revocable<'a>(
        &'a self,
        key: &'a KeyRef,
        algorithm: SymmetricAlgorithm,
    ) -> BoxFuture<'a, Result<RevocableMaterial, CustodyError>> {
        match algorithm {
            SymmetricAlgorithm::HmacSha256 => Box::pin(self.macs.generate_revocable(key)),
            SymmetricAlgorithm::XChaCha20Poly1305 => {
                Box::pin(std::future::ready(Err(CustodyError::Symmetric {
                    custody: CustodyKind::Tpm,
                    algorithm,
                })))
            }
        }
    }

    fn revoke<'a>(
        &'a self,
        _key: &'a KeyRef,
        revocation: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        Box::pin(revoke(&self.actor, revocation))
    }

    fn attester(&self) -> Option<&dyn Attester> {
        Some(&self.attester)
    }

    fn macs(&self) -> Option<&dyn MacCustody> {
        Some(&self.macs)
    }

    fn agreement(&self) -> Option<&dyn AgreementCustody> {
        Some(&self.agreement)
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
