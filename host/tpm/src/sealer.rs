//! Secrets that only this TPM opens, for the purpose they were sealed for. Not resident keys: `custody.rs`.
//!
//! The authorisation value of the sealed object is `SHA-256("claviger seal v1" ‖ 0x00 ‖ salt ‖ purpose)`, with 32 random bytes of
//! salt stored beside it. So the TPM itself refuses another purpose, and all its 128 bytes are left for the secret. The value
//! keeps nobody out who has the blob: what protects it is that only this TPM can open it.

use std::sync::Arc;

use claviger_core::custody::{Assurance, CustodyError, RevocableMaterial, Sealer};
use claviger_core::{BoxFuture, Secret};
use rand_core::{OsRng, RngCore as _};
use sha2::{Digest as _, Sha256};
use tss_esapi::structures::Public;
use zeroize::Zeroizing;

use crate::actor::{Actor, Lane};
use crate::blob::{self, AUTH, Blob, Kind};
use crate::counter::{Counter, Use};
use crate::custody::{hung, revoke};
use crate::device::{Created, Device};
use crate::template;

/// The most bytes that are sealed at once: the least that every TPM 2.0 takes (MAX_SYM_DATA, Library Part 2).
pub const MAX_SEALED: usize = 128;

const DOMAIN: &[u8] = b"claviger seal v1\0";

/// Seals under the storage root key.
#[derive(Debug)]
pub(crate) struct TpmSealer {
    actor: Arc<Actor>,
    assurance: Assurance,
}

impl TpmSealer {
    pub(crate) const fn new(actor: Arc<Actor>, assurance: Assurance) -> Self {
        Self { actor, assurance }
    }

    async fn seal(&self, purpose: &str, secret: &Secret) -> Result<Vec<u8>, CustodyError> {
        let salt = random_salt()?;
        self.seal_under(salt, value(&salt, purpose), secret).await
    }

    /// Seals under this authorisation value, with the salt that it was made of beside it.
    pub(crate) async fn seal_under(
        &self,
        salt: [u8; AUTH],
        auth: Zeroizing<[u8; AUTH]>,
        secret: &Secret,
    ) -> Result<Vec<u8>, CustodyError> {
        let data = checked_copy(secret)?;
        let created = self
            .actor
            .run(Lane::Host, move |device| device.seal(&auth, &data))
            .await?;
        sealed_blob(&salt, &created)
    }

    async fn seal_revocable(
        &self,
        purpose: &str,
        secret: &Secret,
    ) -> Result<RevocableMaterial, CustodyError> {
        let salt = random_salt()?;
        let (auth, data) = (value(&salt, purpose), checked_copy(secret)?);
        let sealing = move |device: &mut Device| {
            let counter = device.make_counter()?;
            let made = seal_on(device, counter, &salt, &auth, &data);
            let (material, revocation) = hung(device, counter, made)?;
            Ok(RevocableMaterial { material, revocation })
        };
        self.actor.run(Lane::Host, sealing).await
    }

    async fn unseal(&self, purpose: &str, sealed: &[u8]) -> Result<Secret, CustodyError> {
        let (counter, blob) = decoded_on(sealed)?;
        let auth = value(&blob.value, purpose);
        self.actor
            .run(Lane::Host, move |device| match counter {
                Some(counter) => device.unseal_revocable(&blob, &auth, counter),
                None => device.unseal(&blob, &auth),
            })
            .await
    }

    /// Opens what was sealed under this authorisation value.
    pub(crate) async fn unseal_under(
        &self,
        sealed: &[u8],
        auth: Zeroizing<[u8; AUTH]>,
    ) -> Result<Secret, CustodyError> {
        let (None, blob) = decoded_on(sealed)? else {
            return Err(CustodyError::NotOurs(
                "the blob is not one that this crate sealed for this".to_owned(),
            ));
        };
        self.actor
            .run(Lane::Host, move |device| device.unseal(&blob, &auth))
            .await
    }
}

/// The future may be dropped while the device is at work, so the work has a copy of its own, in locked memory too.
fn checked_copy(secret: &Secret) -> Result<Secret, CustodyError> {
    if secret.len() > MAX_SEALED {
        return Err(CustodyError::Fault(format!(
            "a TPM seals at most {MAX_SEALED} bytes, not {}",
            secret.len()
        )));
    }
    Secret::fill_with(secret.len(), |bytes| {
        bytes.copy_from_slice(secret.expose());
        Ok::<(), CustodyError>(())
    })
}

fn template(counter: Option<Counter>) -> Result<Public, CustodyError> {
    let policy = counter.map(|counter| counter.policy(Use::Unseal));
    template::sealed_data(policy.as_ref()).map_err(|error| CustodyError::Fault(error.to_string()))
}

/// Seals on a counter, and opens it once: what cannot be opened would be lost.
fn seal_on(
    device: &mut Device,
    counter: Counter,
    salt: &[u8; AUTH],
    auth: &[u8; AUTH],
    data: &Secret,
) -> Result<Secret, CustodyError> {
    let created = device.seal_as(&template(Some(counter))?, auth, data)?;
    let mut stored = blob::with_counter(counter, &sealed_blob(salt, &created)?);
    let (_, blob) = decoded_on(&stored)?;
    if !device
        .unseal_revocable(&blob, auth, counter)?
        .equals(data.expose())
    {
        return Err(CustodyError::Fault(
            "the TPM opened something else than it sealed".to_owned(),
        ));
    }
    Ok(Secret::take(&mut stored)?)
}

/// A blob of what this crate sealed, and the counter that it hangs on.
fn decoded_on(sealed: &[u8]) -> Result<(Option<Counter>, Blob), CustodyError> {
    let not_ours = |error: blob::BlobError| CustodyError::NotOurs(error.to_string());
    let (counter, rest) = blob::split_counter(sealed).map_err(not_ours)?;
    let blob = blob::decode(Kind::Sealed, rest).map_err(not_ours)?;
    if !template::is_of(&blob.public, &template(counter)?) {
        return Err(CustodyError::NotOurs(
            "the blob is not one that this crate sealed".to_owned(),
        ));
    }
    Ok((counter, blob))
}

pub(crate) fn random_salt() -> Result<[u8; AUTH], CustodyError> {
    let mut salt = [0_u8; AUTH];
    OsRng
        .try_fill_bytes(&mut salt)
        .map_err(|e| CustodyError::Unavailable(format!("the system gives no random numbers: {e}")))?;
    Ok(salt)
}

/// What is stored of a sealed object.
pub(crate) fn sealed_blob(salt: &[u8; AUTH], created: &Created) -> Result<Vec<u8>, CustodyError> {
    let bytes = blob::encode(Kind::Sealed, salt, &created.public, &created.private)
        .map_err(|error| CustodyError::Fault(error.to_string()))?;
    Ok(bytes.to_vec())
}

/// The salt has a fixed length, so no two pairs of salt and purpose give the same input.
pub(crate) fn value(salt: &[u8; AUTH], purpose: &str) -> Zeroizing<[u8; AUTH]> {
    let hash = Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(salt)
        .chain_update(purpose.as_bytes());
    Zeroizing::new(hash.finalize().into())
}

impl Sealer for TpmSealer {
    fn assurance(&self) -> Assurance {
        self.assurance
    }

    fn seal<'a>(
        &'a self,
        purpose: &'a str,
        secret: &'a Secret,
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        Box::pin(self.seal(purpose, secret))
    }

    fn unseal<'a>(
        &'a self,
        purpose: &'a str,
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        Box::pin(self.unseal(purpose, sealed))
    }

    fn seal_revocable<'a>(
        &'a self,
        purpose: &'a str,
        secret: &'a Secret,
    ) -> BoxFuture<'a, Result<RevocableMaterial, CustodyError>> {
        Box::pin(self.seal_revocable(purpose, secret))
    }

    fn revoke<'a>(&'a self, revocation: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        Box::pin(revoke(&self.actor, revocation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_and_salt_has_its_own_value() {
        let one = value(&[1; AUTH], "root");
        assert_eq!(one, value(&[1; AUTH], "root"));
        assert_ne!(one, value(&[2; AUTH], "root"));
        assert_ne!(one, value(&[1; AUTH], "root2"));
        assert_ne!(one, value(&[1; AUTH], ""));
    }
}
