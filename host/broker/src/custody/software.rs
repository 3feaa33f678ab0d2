//! Keys whose material is decrypted into locked memory of the host while in use. Not as hard as a TPM: whoever controls this
//! process has the key; the operator has to ask for this custody.

use std::fmt;
use std::sync::Arc;

use claviger_core::custody::{self, Custody, CustodyError, CustodyKind, Generated, SigningKey};
use claviger_core::key::KeyError;
use claviger_core::profile::Framed;
use claviger_core::stack::wipe_below;
use claviger_core::{Algorithm, BoxFuture, KeyRef, Permit, PublicKey, Secret, Signature};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use rand_core::{OsRng, RngCore as _};
use sha2::{Digest as _, Sha512};

/// The material of a software key is its seed (RFC 8032) or its scalar, big endian (SEC 1): 32 bytes each.
const MATERIAL: usize = 32;
/// A random P-256 scalar is out of range once in 2^32 draws; as many failures in a row mean that the generator is broken.
const MAX_DRAWS: usize = 8;

/// Makes and opens Ed25519 and P-256 keys in software. Its material is the bare seed: the keyring encrypts it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SoftwareCustody;

impl Custody for SoftwareCustody {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Software
    }

    fn algorithms(&self) -> &[Algorithm] {
        &[Algorithm::Ed25519, Algorithm::P256]
    }

    fn generate<'a>(
        &'a self,
        _key: &'a KeyRef,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        let made = if self.algorithms().contains(&algorithm) {
            generate(algorithm)
        } else {
            Err(CustodyError::Algorithm {
                custody: CustodyKind::Software,
                algorithm,
            })
        };
        Box::pin(std::future::ready(made))
    }

    fn import<'a>(
        &'a self,
        _key: &'a KeyRef,
        algorithm: Algorithm,
        private: Secret,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(std::future::ready(import(algorithm, private)))
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        public: &'a PublicKey,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        Box::pin(std::future::ready(open(
            CustodyKind::Software,
            key,
            public,
            &material,
        )))
    }

    fn sealing(&self) -> Option<&dyn custody::SealingCustody> {
        Some(self)
    }

    fn macs(&self) -> Option<&dyn custody::MacCustody> {
        Some(self)
    }
}

/// Makes a key from fresh random numbers of the operating system.
pub(super) fn generate(algorithm: Algorithm) -> Result<Generated, CustodyError> {
    let made = make(algorithm);
    wipe_below::<STACK_WORDS>();
    made
}

#[inline(never)]
fn make(algorithm: Algorithm) -> Result<Generated, CustodyError> {
    let mut last = CustodyError::Fault("the system's random numbers gave no valid key".to_owned());
    for _ in 0..MAX_DRAWS {
        let material = Secret::fill_with(MATERIAL, |bytes| {
            OsRng
                .try_fill_bytes(bytes)
                .map_err(|e| CustodyError::Unavailable(format!("the system gave no random numbers: {e}")))
        })?;
        match public_of(algorithm, &material) {
            Ok(public) => return Ok(Generated { public, material }),
            Err(error) => last = CustodyError::Fault(format!("a new key was not usable: {error}")),
        }
    }
    Err(last)
}

/// Takes a seed or scalar that was made elsewhere.
pub(super) fn import(algorithm: Algorithm, material: Secret) -> Result<Generated, CustodyError> {
    if algorithm == Algorithm::Rsa2048 {
        return Err(CustodyError::Algorithm {
            custody: CustodyKind::Software,
            algorithm,
        });
    }
    let public = public_of(algorithm, &material);
    wipe_below::<STACK_WORDS>();
    let public = public.map_err(|error| CustodyError::NotOurs(error.to_string()))?;
    Ok(Generated { public, material })
}

/// Opens a key from its seed; the seed is wiped when the caller drops it, the opened key keeps a form of its own.
pub(crate) fn open(
    custody: CustodyKind,
    key: &KeyRef,
    public: &PublicKey,
    material: &Secret,
) -> Result<Arc<dyn SigningKey>, CustodyError> {
    let opened = expand(custody, key, public, material);
    wipe_below::<STACK_WORDS>();
    opened
}

#[inline(never)]
fn expand(
    custody: CustodyKind,
    key: &KeyRef,
    public: &PublicKey,
    material: &Secret,
) -> Result<Arc<dyn SigningKey>, CustodyError> {
    let derived = public_of(public.algorithm(), material).map_err(|_| not_ours(custody, key))?;
    if derived != *public {
        return Err(not_ours(custody, key));
    }
    let signer = match public.algorithm() {
        Algorithm::Ed25519 => Signer::Ed25519 {
            expanded: Secret::fill_with(64, |bytes| {
                Sha512::new()
                    .chain_update(material.expose())
                    .finalize_into(bytes.into());
                Ok::<(), CustodyError>(())
            })?,
            verifying: Box::new(verifying_key(public).map_err(|_| not_ours(custody, key))?),
        },
        // Nothing here made it.
        Algorithm::Rsa2048 => return Err(not_ours(custody, key)),
        Algorithm::P256 => Signer::P256 {
            scalar: Secret::fill_with(MATERIAL, |bytes| {
                bytes.copy_from_slice(material.expose());
                Ok::<(), CustodyError>(())
            })?,
        },
    };
    Ok(Arc::new(SoftwareKey {
        key: key.clone(),
        public: public.clone(),
        signer,
    }))
}

/// An open key in locked memory.
struct SoftwareKey {
    key: KeyRef,
    // Invariant: the public key of what `signer` holds; checked by `open`.
    public: PublicKey,
    signer: Signer,
}

enum Signer {
    /// RFC 8032 §5.1.5: the SHA-512 of the seed, kept so that a signature neither hashes the seed nor derives the public key.
    Ed25519 {
        expanded: Secret,
        verifying: Box<ed25519_dalek::VerifyingKey>,
    },
    P256 {
        scalar: Secret,
    },
}

impl SoftwareKey {
    fn sign_now(&self, permit: &Permit, message: &Framed) -> Result<Signature, CustodyError> {
        if message.key() != &self.public || !permit.spend(&self.key, message) {
            return Err(CustodyError::PermitMismatch);
        }
        let fault = || CustodyError::Fault(format!("key `{}` cannot sign", self.key));
        match &self.signer {
            Signer::Ed25519 { expanded, verifying } => {
                let signature = sign_ed25519(expanded, verifying, message.message());
                wipe_below::<STACK_WORDS>();
                Ok(Signature::new(Algorithm::Ed25519, signature.ok_or_else(fault)?))
            }
            Signer::P256 { scalar } => {
                let signature = sign_p256(scalar, message.message());
                wipe_below::<STACK_WORDS>();
                Ok(Signature::new(Algorithm::P256, signature.ok_or_else(fault)?))
            }
        }
    }
}

/// A call of its own, so that everything it leaves on the stack is below its caller.
#[inline(never)]
fn sign_ed25519(
    expanded: &Secret,
    verifying: &ed25519_dalek::VerifyingKey,
    message: &[u8],
) -> Option<[u8; 64]> {
    // Wiped when it is dropped.
    let expanded = ExpandedSecretKey::from_slice(expanded.expose()).ok()?;
    Some(raw_sign::<Sha512>(&expanded, message, verifying).to_bytes())
}

/// As [`sign_ed25519`].
#[inline(never)]
fn sign_p256(scalar: &Secret, message: &[u8]) -> Option<[u8; 64]> {
    use p256::ecdsa::signature::Signer as _;
    // Wiped when it is dropped. The nonce is RFC 6979's: no random number can give the key away.
    let signing = p256::ecdsa::SigningKey::from_slice(scalar.expose()).ok()?;
    let signature: p256::ecdsa::Signature = signing.try_sign(message).ok()?;
    Some(signature.to_bytes().into())
}

/// How deep signing goes, in words, with room to spare; writing so much takes a microsecond. It is wiped because `ecdsa` gives RFC 6979
/// a copy of the scalar there, and SHA-512 keeps what it hashed for the nonce; neither is wiped by them.
pub(crate) const STACK_WORDS: usize = 2048;

impl SigningKey for SoftwareKey {
    fn sign<'a>(
        &'a self,
        permit: &'a Permit,
        message: &'a Framed,
    ) -> BoxFuture<'a, Result<Signature, CustodyError>> {
        // Some ten microseconds: less than a hop to another thread.
        Box::pin(std::future::ready(self.sign_now(permit, message)))
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareKey")
            .field("key", &self.key)
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

pub(crate) fn public_of(algorithm: Algorithm, material: &Secret) -> Result<PublicKey, KeyError> {
    let bad = || KeyError::NotAKey(algorithm);
    match algorithm {
        Algorithm::Ed25519 => {
            let seed: &[u8; MATERIAL] = material.expose().try_into().map_err(|_| bad())?;
            PublicKey::ed25519(
                ed25519_dalek::SigningKey::from_bytes(seed)
                    .verifying_key()
                    .as_bytes(),
            )
        }
        Algorithm::P256 => {
            let signing = p256::ecdsa::SigningKey::from_slice(material.expose()).map_err(|_| bad())?;
            PublicKey::p256(signing.verifying_key().to_encoded_point(false).as_bytes())
        }
        Algorithm::Rsa2048 => Err(bad()),
    }
}

fn verifying_key(public: &PublicKey) -> Result<ed25519_dalek::VerifyingKey, KeyError> {
    let bad = || KeyError::NotAKey(Algorithm::Ed25519);
    let bytes: &[u8; 32] = public.as_bytes().try_into().map_err(|_| bad())?;
    ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| bad())
}

fn not_ours(custody: CustodyKind, key: &KeyRef) -> CustodyError {
    CustodyError::NotOurs(format!(
        "the {custody} material of key `{key}` does not belong to its public key"
    ))
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::custody::permits::{framed, key_ref, permit};

    #[tokio::test]
    async fn an_ed25519_signature_is_the_one_of_rfc_8032_for_the_seed() {
        let mut seed: [u8; 32] =
            hex::decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
                .unwrap()
                .try_into()
                .unwrap();
        // RFC 8032 §7.1, test 2.
        let public = PublicKey::ed25519(
            &hex::decode("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c").unwrap(),
        )
        .unwrap();
        let bare = ed25519_dalek::SigningKey::from_bytes(&seed);
        let key = key_ref("rfc");
        let open = SoftwareCustody
            .open(&key, &public, Secret::take(&mut seed).unwrap())
            .await
            .unwrap();
        let message = framed(&public, b"content");
        let permit = permit(&key, &message).await;
        let signature = open.sign(&permit, &message).await.unwrap();
        let expected = ed25519_dalek::Signer::sign(&bare, message.message());
        assert_eq!(signature.as_bytes(), expected.to_bytes());
    }

    #[tokio::test]
    async fn a_signature_is_ready_at_the_first_poll() {
        for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
            let key = key_ref("quick");
            let Generated { public, material } = SoftwareCustody.generate(&key, algorithm).await.unwrap();
            let open = SoftwareCustody.open(&key, &public, material).await.unwrap();
            let message = framed(&public, b"content");
            let permit = permit(&key, &message).await;
            let mut future = open.sign(&permit, &message);
            let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Ready(Ok(_))), "{algorithm}");
        }
    }

    #[tokio::test]
    async fn a_p256_signature_is_deterministic_as_rfc_6979_says() {
        let key = key_ref("same");
        let Generated { public, material } = SoftwareCustody.generate(&key, Algorithm::P256).await.unwrap();
        let open = SoftwareCustody.open(&key, &public, material).await.unwrap();
        let message = framed(&public, b"content");
        let permits = [permit(&key, &message).await, permit(&key, &message).await];
        let first = open.sign(&permits[0], &message).await.unwrap();
        assert_eq!(first, open.sign(&permits[1], &message).await.unwrap());
    }
}
