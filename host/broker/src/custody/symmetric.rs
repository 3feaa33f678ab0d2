//! Keys that seal and keys for MACs, in locked memory of the host while in use. What they are used on is framed in core: no bytes of an
//! agent reach a cipher here unframed.

use std::fmt;
use std::sync::Arc;

use chacha20poly1305::{AeadInPlace as _, KeyInit as _, XChaCha20Poly1305};
use claviger_core::custody::{CustodyError, CustodyKind, MacCustody, MacKey, SealingCustody, SealingKey};
use claviger_core::profile::{MacInput, MacValue, NONCE, Plaintext, SealInput, UnsealInput};
use claviger_core::stack::wipe_below;
use claviger_core::{BoxFuture, KeyRef, Permit, Secret};
use hmac::{Hmac, Mac as _};
use rand_core::{OsRng, RngCore as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::SoftwareCustody;

#[cfg(test)]
mod vectors;

/// Both algorithms take a key of 256 bits: XChaCha20-Poly1305 exactly, and HMAC-SHA-256 at its full strength (RFC 2104 §3).
const MATERIAL: usize = 32;
/// How deep a cipher or a MAC goes on the stack, in words, with room to spare: both keep a schedule of the key there, which not all of their
/// code wipes.
const STACK_WORDS: usize = 1024;

/// Makes a key from fresh random numbers of the operating system.
pub(super) fn generate() -> Result<Secret, CustodyError> {
    Secret::fill_with(MATERIAL, random)
}

fn random(bytes: &mut [u8]) -> Result<(), CustodyError> {
    OsRng
        .try_fill_bytes(bytes)
        .map_err(|e| CustodyError::Unavailable(format!("the system gave no random numbers: {e}")))
}

/// Takes the material of a key that seals.
pub(super) fn open_sealing(
    custody: CustodyKind,
    key: &KeyRef,
    material: Secret,
) -> Result<Arc<dyn SealingKey>, CustodyError> {
    Ok(Arc::new(OpenSealing(Opened::new(custody, key, material)?)))
}

/// Takes the material of a key for MACs.
pub(super) fn open_mac(
    custody: CustodyKind,
    key: &KeyRef,
    material: Secret,
) -> Result<Arc<dyn MacKey>, CustodyError> {
    Ok(Arc::new(OpenMac(Opened::new(custody, key, material)?)))
}

impl SealingCustody for SoftwareCustody {
    fn generate<'a>(&'a self, _key: &'a KeyRef) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        Box::pin(std::future::ready(generate()))
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SealingKey>, CustodyError>> {
        Box::pin(std::future::ready(open_sealing(
            CustodyKind::Software,
            key,
            material,
        )))
    }
}

impl MacCustody for SoftwareCustody {
    fn generate<'a>(&'a self, _key: &'a KeyRef) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        Box::pin(std::future::ready(generate()))
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn MacKey>, CustodyError>> {
        Box::pin(std::future::ready(open_mac(CustodyKind::Software, key, material)))
    }
}

/// A key in locked memory.
struct Opened {
    key: KeyRef,
    // Invariant: 32 bytes.
    material: Secret,
}

impl Opened {
    fn new(custody: CustodyKind, key: &KeyRef, material: Secret) -> Result<Self, CustodyError> {
        if material.len() != MATERIAL {
            return Err(CustodyError::NotOurs(format!(
                "the {custody} material of key `{key}` has not the length of such a key"
            )));
        }
        Ok(Self {
            key: key.clone(),
            material,
        })
    }

    fn fault(&self) -> CustodyError {
        CustodyError::Fault(format!("key `{}` cannot be used", self.key))
    }
}

/// A key that seals.
struct OpenSealing(Opened);

impl OpenSealing {
    fn seal_now(&self, permit: &Permit, input: &SealInput) -> Result<Vec<u8>, CustodyError> {
        if !permit.spend(&self.0.key, input) {
            return Err(CustodyError::PermitMismatch);
        }
        let mut nonce = [0; NONCE];
        random(&mut nonce)?;
        let sealed = seal(&self.0.material, &nonce, input);
        wipe_below::<STACK_WORDS>();
        sealed.ok_or_else(|| self.0.fault())
    }

    fn unseal_now(&self, permit: &Permit, input: &UnsealInput) -> Result<Option<Plaintext>, CustodyError> {
        if !permit.spend(&self.0.key, input) {
            return Err(CustodyError::PermitMismatch);
        }
        let opened = unseal(&self.0.material, input);
        wipe_below::<STACK_WORDS>();
        opened.ok_or_else(|| self.0.fault())
    }
}

/// A call of its own, so that everything it leaves on the stack is below its caller. The nonce is an argument for the vectors of tests.
#[inline(never)]
fn seal(material: &Secret, nonce: &[u8; NONCE], input: &SealInput) -> Option<Vec<u8>> {
    let cipher = XChaCha20Poly1305::new_from_slice(material.expose()).ok()?;
    // Encrypted in place: a copy that is left behind is the ciphertext.
    let mut text = Zeroizing::new(input.plaintext().to_vec());
    let authenticator = cipher
        .encrypt_in_place_detached(nonce.into(), input.associated(), &mut text)
        .ok()?;
    Some(input.finish(nonce, &text, &authenticator.into()))
}

/// As [`seal`]. None for a fault, none in it for a box that does not open.
#[inline(never)]
fn unseal(material: &Secret, input: &UnsealInput) -> Option<Option<Plaintext>> {
    let cipher = XChaCha20Poly1305::new_from_slice(material.expose()).ok()?;
    let mut text = Zeroizing::new(input.ciphertext().to_vec());
    // The authenticator is compared in constant time, before anything is decrypted.
    let opened = cipher.decrypt_in_place_detached(
        input.nonce().into(),
        input.associated(),
        &mut text,
        input.authenticator().into(),
    );
    Some(opened.is_ok().then(|| Plaintext::new(std::mem::take(&mut *text))))
}

impl SealingKey for OpenSealing {
    fn seal<'a>(
        &'a self,
        permit: &'a Permit,
        input: &'a SealInput,
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        // Of the longest text a tenth of a millisecond: not worth a hop to another thread.
        Box::pin(std::future::ready(self.seal_now(permit, input)))
    }

    fn unseal<'a>(
        &'a self,
        permit: &'a Permit,
        input: &'a UnsealInput,
    ) -> BoxFuture<'a, Result<Option<Plaintext>, CustodyError>> {
        Box::pin(std::future::ready(self.unseal_now(permit, input)))
    }
}

impl fmt::Debug for OpenSealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSealing")
            .field("key", &self.0.key)
            .finish_non_exhaustive()
    }
}

/// A key for MACs.
struct OpenMac(Opened);

impl OpenMac {
    fn mac_now(&self, permit: &Permit, input: &MacInput) -> Result<MacValue, CustodyError> {
        if !permit.spend(&self.0.key, input) {
            return Err(CustodyError::PermitMismatch);
        }
        let value = mac(&self.0.material, input.message());
        wipe_below::<STACK_WORDS>();
        value.ok_or_else(|| self.0.fault())
    }
}

/// As [`seal`].
#[inline(never)]
fn mac(material: &Secret, message: &[u8]) -> Option<MacValue> {
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(material.expose()).ok()?;
    mac.update(message);
    Some(MacValue::new(mac.finalize().into_bytes().into()))
}

impl MacKey for OpenMac {
    fn mac<'a>(
        &'a self,
        permit: &'a Permit,
        input: &'a MacInput,
    ) -> BoxFuture<'a, Result<MacValue, CustodyError>> {
        Box::pin(std::future::ready(self.mac_now(permit, input)))
    }
}

impl fmt::Debug for OpenMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenMac")
            .field("key", &self.0.key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
