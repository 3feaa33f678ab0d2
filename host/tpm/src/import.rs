//! Keys that were made elsewhere, taken into the TPM by `TPM2_Import` (Library Part 3 §13.3), to sign there as those that were made in it do.
//! Reads no files: whoever calls did.
//!
//! Such a key has neither `fixedTPM` nor `fixedParent`, which only a TPM can give at birth, nor `sensitiveDataOrigin`: a certificate of the TPM
//! shows what it is. It has no policy, and duplication needs one: it leaves this TPM no more than the others do.

use std::sync::Arc;

use claviger_core::custody::{CustodyError, CustodyKind, Generated};
use claviger_core::{Algorithm, PublicKey, Secret};
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use sha2::{Digest as _, Sha256};
use tss_esapi::handles::ObjectHandle;
use tss_esapi::structures::{EncryptedSecret, Private, Public, SymmetricDefinitionObject};

use crate::actor::{Actor, Lane};
use crate::blob::{self, Kind};
use crate::code::{Code, describe};
use crate::custody::read;
use crate::device::{Device, Failure, random_secret};
use crate::link::Link;
use crate::template;
use crate::wrap::{self, Sensitive};

/// The modulus of an RSA key of 2048 bits, and one of its primes.
const RSA: usize = 256 + 128;

/// What is signed to see that a key is one: no message of any profile.
const PROBE: &[u8] = b"claviger: a key that was imported works";

/// Takes a key by its scalar, or by modulus and prime.
pub(crate) async fn import(
    actor: &Arc<Actor>,
    algorithm: Algorithm,
    private: Secret,
) -> Result<Generated, CustodyError> {
    let public = public_of(algorithm, private.expose())?;
    let template = template::imported_key(&public).map_err(|error| fault(&error.to_string()))?;
    let template = template.ok_or(CustodyError::Algorithm {
        custody: CustodyKind::Tpm,
        algorithm,
    })?;
    let taken = actor
        .run(Lane::Host, move |device| device.import(&template, &private))
        .await?;
    let (found, _) = read(taken.expose())?;
    if found != public {
        return Err(fault("the TPM took another key than it was given"));
    }
    Ok(Generated {
        public,
        material: taken,
    })
}

/// The public half: computed of a scalar; of an RSA key what stands before the prime, which the TPM compares.
fn public_of(algorithm: Algorithm, private: &[u8]) -> Result<PublicKey, CustodyError> {
    let none = || CustodyError::NotOurs(format!("these bytes are no private key of {algorithm}"));
    match algorithm {
        Algorithm::P256 => {
            // Shorter numbers would be taken, too.
            let scalar = Some(private)
                .filter(|scalar| scalar.len() == 32)
                .ok_or_else(none)?;
            let key = SecretKey::from_slice(scalar).map_err(|_| none())?;
            PublicKey::p256(key.public_key().to_encoded_point(false).as_bytes()).map_err(|_| none())
        }
        Algorithm::Rsa2048 => {
            let modulus = private.get(..256).filter(|_| private.len() == RSA);
            PublicKey::rsa2048(modulus.ok_or_else(none)?).map_err(|_| none())
        }
        Algorithm::Ed25519 => Err(CustodyError::Algorithm {
            custody: CustodyKind::Tpm,
            algorithm,
        }),
    }
}

impl Device {
    /// Imports a key, and signs with it once: whether its halves belong together shows only then.
    fn import(&mut self, public: &Public, private: &Secret) -> Result<Secret, CustodyError> {
        let auth = random_secret()?;
        let imported = self.run("import a key", |link| link.import(public, private, &auth))?;
        let value = auth.expose().first_chunk();
        let value = value.ok_or_else(|| fault("an authorisation value has 32 bytes"))?;
        let mut stored =
            blob::encode(Kind::Key, value, public, &imported).map_err(|error| fault(&error.to_string()))?;
        let (key, loadable) = read(&stored)?;
        let digest: [u8; 32] = Sha256::digest(PROBE).into();
        let signed = self.sign(&loadable, &digest);
        self.unload_key(loadable.id);
        match signed {
            Ok(signature) if key.verify(PROBE, &signature).is_ok() => Ok(Secret::take(&mut stored)?),
            // The TPM found out itself when it loaded the key (TPM_RC_BINDING), or it signed with something else.
            Ok(_) | Err(CustodyError::NotOurs(_)) => Err(CustodyError::NotOurs(
                "the two halves of the key do not belong together".to_owned(),
            )),
            Err(error) => Err(error),
        }
    }
}

impl Link {
    fn import(&mut self, public: &Public, private: &Secret, auth: &Secret) -> Result<Private, Failure> {
        self.make_room()?;
        let root = self.root();
        let (parent, _, _) = self
            .context()
            .execute_without_session(|context| context.read_public(root))?;
        let wrong = |error: wrap::NotWrapped| Failure::Final(fault(&error.to_string()));
        // By the digest computed here, not by what came with the answer: for another key than the pinned one nothing is wrapped.
        if wrap::name(&parent).map_err(wrong)? != self.srk_name() {
            return Err(Failure::Final(CustodyError::NotOurs(
                "the TPM shows another storage root key than before".to_owned(),
            )));
        }
        let bytes = private.expose();
        let sensitive = match public {
            Public::Rsa { .. } => Sensitive::Rsa(bytes.get(256..).unwrap_or_default()),
            Public::Ecc { .. } | Public::KeyedHash { .. } | Public::SymCipher { .. } => Sensitive::Ecc(bytes),
        };
        let wrapped = wrap::wrap(&sensitive, auth.expose(), public, &parent).map_err(wrong)?;
        let imported = self.context().import(
            ObjectHandle::from(root),
            None,
            public.clone(),
            Private::try_from(wrapped.duplicate)?,
            EncryptedSecret::try_from(wrapped.seed)?,
            SymmetricDefinitionObject::Null,
        );
        imported.map_err(|error| match Code::of(&error) {
            Code::Parameter(_) => Failure::Final(CustodyError::NotOurs(format!(
                "the TPM does not take this key ({})",
                describe(&error)
            ))),
            Code::Dead
            | Code::Stale
            | Code::Wait
            | Code::Slots
            | Code::Auth
            | Code::Integrity
            | Code::Lockout
            | Code::Other(_)
            | Code::Local => Failure::Tss(error),
        })
    }
}

fn fault(text: &str) -> CustodyError {
    CustodyError::Fault(text.to_owned())
}
