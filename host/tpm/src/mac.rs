//! Keys for MACs that live in the TPM (`TPM2_HMAC`, Library Part 3 §15.5), behind core's traits. Not the message: `core::profile` frames it,
//! short enough for one command.
//!
//! ```text
//! u8 4   [u8; 32] SHA-256("claviger mac key v1" ‖ 0x00 ‖ name@version)   blob, behind its counter if it hangs on one
//! ```
//! A key without a public half has nothing to be compared with the keyring by: the digest keeps one key's blob from being opened as another's.

use std::fmt;
use std::sync::Arc;

use claviger_core::custody::{CustodyError, MacCustody, MacKey, RevocableMaterial};
use claviger_core::profile::{MacInput, MacValue};
use claviger_core::{BoxFuture, KeyRef, Permit, Secret};
use sha2::{Digest as _, Sha256};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{MaxBuffer, Public};
use zeroize::Zeroizing;

use crate::actor::{Actor, Lane};
use crate::blob::{self, BlobError, Kind};
use crate::counter::{Counter, Use};
use crate::custody::{hung, make, open};
use crate::device::{Device, Failure, KeyBlob};
use crate::template;

/// What the stored form begins with.
const MAC: u8 = 4;
const DOMAIN: &[u8] = b"claviger mac key v1\0";

/// Makes and opens them.
#[derive(Debug)]
pub(crate) struct TpmMacs {
    actor: Arc<Actor>,
}

impl TpmMacs {
    pub(crate) const fn new(actor: Arc<Actor>) -> Self {
        Self { actor }
    }

    async fn generate(&self, key: &KeyRef) -> Result<Secret, CustodyError> {
        let template = template(None)?;
        let bound = bound_to(key);
        let made = self.actor.run(Lane::Host, move |device| {
            let (_, blob) = make(device, &template)?;
            stored(&bound, &blob)
        });
        made.await
    }

    pub(crate) async fn generate_revocable(&self, key: &KeyRef) -> Result<RevocableMaterial, CustodyError> {
        let key = key.clone();
        let made = self.actor.run(Lane::Host, move |device| {
            let counter = device.make_counter()?;
            let made = make_revocable(device, &key, counter);
            let (material, revocation) = hung(device, counter, made)?;
            Ok(RevocableMaterial { material, revocation })
        });
        made.await
    }

    async fn open(&self, key: &KeyRef, material: Secret) -> Result<Arc<dyn MacKey>, CustodyError> {
        let blob = Arc::new(read(key, material.expose())?);
        drop(material);
        let theirs = Arc::clone(&blob);
        self.actor
            .run(Lane::Host, move |device| device.load_key(&theirs))
            .await?;
        Ok(Arc::new(TpmMac {
            actor: Arc::clone(&self.actor),
            name: key.clone(),
            key: blob,
        }))
    }
}

fn template(counter: Option<Counter>) -> Result<Public, CustodyError> {
    let policy = counter.map(|counter| counter.policy(Use::Mac));
    template::mac_key(policy.as_ref()).map_err(|error| CustodyError::Fault(error.to_string()))
}

fn stored(bound: &[u8; 32], blob: &[u8]) -> Result<Secret, CustodyError> {
    let mut stored = Zeroizing::new(Vec::with_capacity(1 + bound.len() + blob.len()));
    stored.push(MAC);
    stored.extend_from_slice(bound);
    stored.extend_from_slice(blob);
    Ok(Secret::take(&mut stored)?)
}

fn make_revocable(device: &mut Device, key: &KeyRef, counter: Counter) -> Result<Secret, CustodyError> {
    let (_, blob) = make(device, &template(Some(counter))?)?;
    let material = stored(&bound_to(key), &blob::with_counter(counter, &blob))?;
    // As of a key that signs: one whose policy cannot be satisfied would be of no use. The MAC, of no message, is dropped.
    device.hmac(&read(key, material.expose())?, &[])?;
    Ok(material)
}

/// Whether what is stored is of a key for MACs.
pub(crate) fn is_one(stored: &[u8]) -> bool {
    stored.first() == Some(&MAC)
}

/// Reads what is stored of this key: what is needed to load it.
pub(crate) fn read(key: &KeyRef, stored: &[u8]) -> Result<KeyBlob, CustodyError> {
    let not_ours = |error: BlobError| CustodyError::NotOurs(error.to_string());
    let (head, rest) = stored
        .split_first_chunk::<33>()
        .ok_or_else(|| not_ours(BlobError::Form))?;
    if *head != [&[MAC][..], &bound_to(key)].concat().as_slice() {
        return Err(CustodyError::NotOurs(
            "the blob is not one of this key for MACs".to_owned(),
        ));
    }
    let (counter, rest) = blob::split_counter(rest).map_err(not_ours)?;
    let parts = blob::decode(Kind::Key, rest).map_err(not_ours)?;
    if !template::is_of(&parts.public, &template(counter)?) {
        return Err(CustodyError::NotOurs(
            "the blob's key is not one for MACs that was made in the TPM and stays there".to_owned(),
        ));
    }
    open(parts, counter)
}

fn bound_to(key: &KeyRef) -> [u8; 32] {
    Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(key.to_string())
        .finalize()
        .into()
}

impl MacCustody for TpmMacs {
    fn generate<'a>(&'a self, key: &'a KeyRef) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        Box::pin(self.generate(key))
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn MacKey>, CustodyError>> {
        Box::pin(self.open(key, material))
    }
}

/// A key that is open.
struct TpmMac {
    actor: Arc<Actor>,
    name: KeyRef,
    key: Arc<KeyBlob>,
}

impl fmt::Debug for TpmMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TpmMac")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl TpmMac {
    async fn mac(&self, permit: &Permit, input: &MacInput) -> Result<MacValue, CustodyError> {
        if !permit.spend(&self.name, input) {
            return Err(CustodyError::PermitMismatch);
        }
        let (key, message) = (Arc::clone(&self.key), input.message().to_vec());
        let value = self
            .actor
            .run(Lane::Agent(permit.instance()), move |device| {
                device.hmac(&key, &message)
            })
            .await?;
        Ok(MacValue::new(*value))
    }
}

impl MacKey for TpmMac {
    fn mac<'a>(
        &'a self,
        permit: &'a Permit,
        input: &'a MacInput,
    ) -> BoxFuture<'a, Result<MacValue, CustodyError>> {
        Box::pin(self.mac(permit, input))
    }
}

impl Drop for TpmMac {
    fn drop(&mut self) {
        let id = self.key.id;
        self.actor.post(Lane::Host, move |device| device.unload_key(id));
    }
}

impl Device {
    /// The HMAC-SHA-256 of a message of at most 1024 bytes.
    fn hmac(&mut self, key: &KeyBlob, message: &[u8]) -> Result<Zeroizing<[u8; 32]>, CustodyError> {
        if let Some(counter) = key.counter {
            return self.run("make a MAC", |link| link.hmac_revocable(key, counter, message));
        }
        self.run("make a MAC", |link| {
            let handle = link.load_key(key)?;
            let message = MaxBuffer::try_from(message)?;
            let value = link
                .context()
                .hmac(handle.into(), message, HashingAlgorithm::Sha256)?;
            let bytes: Result<[u8; 32], _> = value.value().try_into();
            bytes.map(Zeroizing::new).map_err(|_| {
                Failure::Final(CustodyError::Fault(
                    "the TPM gave a MAC of another length".to_owned(),
                ))
            })
        })
    }
}
