//! Evidence by a device that cannot be moved to another machine, as traits and bounds. Not a device: `claviger-tpm` has one. Not a claim:
//! `profile::evidence` frames those.

use std::fmt::Debug;
use std::sync::Arc;

use crate::custody::{CustodyError, Generated};
use crate::future::BoxFuture;
use crate::key::{KeyRef, PublicKey, Signature};
use crate::permit::Permit;
use crate::profile::Framed;
use crate::secret::Secret;

/// A verifier's nonce has at least so many bytes: what nobody guesses (RFC 9711 §4.1 asks for 8).
pub const MIN_NONCE: usize = 16;
/// A verifier's nonce has at most so many bytes (RFC 9711 §4.1).
pub const MAX_NONCE: usize = 64;
/// The longest life of evidence in seconds: it is of a moment.
pub const MAX_EVIDENCE_LIFE: u32 = 300;
/// The platform configuration registers that a quote covers: 0 to 7, which the firmware fills (TCG PC Client Platform Firmware Profile
/// §3.3.4), in the bank of SHA-256.
pub const QUOTED_PCRS: usize = 8;
/// A quote and its signature, each, have at most this many bytes: `TPMS_ATTEST` with digests of SHA-256 has 149, a signature in DER 72.
pub const MAX_QUOTE: usize = 1024;

/// What a device says of itself and of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Over the message, by the key that the keyring names.
    pub signature: Signature,
    /// `TPMS_ATTEST` of type `TPM_ST_ATTEST_QUOTE`; its `extraData` is the SHA-256 digest of the message.
    pub quote: Vec<u8>,
    /// Over the quote, by the attestation key: ECDSA with SHA-256 in DER.
    pub quote_signature: Vec<u8>,
    /// The values of the registers that the quote covers, one after the other.
    pub pcrs: Vec<u8>,
    /// The restricted key that signed the quote.
    pub attestation_key: PublicKey,
}

/// What a device says of a key that lives in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// `TPMS_ATTEST` of type `TPM_ST_ATTEST_CERTIFY`; its `extraData` is the nonce.
    pub attest: Vec<u8>,
    /// Over that, by the attestation key: ECDSA with SHA-256 in DER.
    pub signature: Vec<u8>,
    /// The key's public area (`TPMT_PUBLIC`), whose SHA-256 digest is in the Name that is certified, after two bytes for the algorithm.
    pub public_area: Vec<u8>,
    /// The restricted key that signed.
    pub attestation_key: PublicKey,
}

/// Makes and opens keys that give evidence.
pub trait Attester: Debug + Send + Sync {
    /// Makes the key that signs tokens, P-256, and with it, in the same material, the restricted one that signs quotes.
    ///
    /// # Errors
    /// When the device fails.
    fn generate<'a>(&'a self, key: &'a KeyRef) -> BoxFuture<'a, Result<Generated, CustodyError>>;

    /// Opens the two. Dropping what is returned unloads them.
    ///
    /// # Errors
    /// When the material is not this device's, is damaged, or does not belong to `public`.
    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        public: &'a PublicKey,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn AttestingKey>, CustodyError>>;
}

/// A key that is open, with the restricted one beside it.
pub trait AttestingKey: Debug + Send + Sync {
    /// The restricted key: it signs what the device says, and nothing that it is given.
    fn attestation_key(&self) -> &PublicKey;

    /// Signs a framed message, and has the device quote its registers over the message's digest. Refuses a permit that does not cover
    /// exactly this message and this key ([`Permit::spend`]), or that signed before. Dropping the future abandons both.
    ///
    /// # Errors
    /// When the permit is for something else, or the device fails.
    fn evidence<'a>(
        &'a self,
        permit: &'a Permit,
        message: &'a Framed,
    ) -> BoxFuture<'a, Result<Evidence, CustodyError>>;

    /// Has the device certify that a key of its custody lives in it. `nonce` has 1 to 32 bytes. Refuses a permit that is not for this
    /// ([`Permit::spend_to_prove`]).
    ///
    /// # Errors
    /// When the permit is for something else, the subject is not this device's, or the device fails.
    fn certify<'a>(
        &'a self,
        permit: &'a Permit,
        subject: &'a KeyRef,
        material: Secret,
        nonce: &'a [u8],
    ) -> BoxFuture<'a, Result<Certified, CustodyError>>;
}
