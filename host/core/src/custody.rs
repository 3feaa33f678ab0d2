//! What holds key material, as traits. Not an implementation: `claviger-broker` has the software one, `claviger-tpm` the TPM's.

use std::fmt::{self, Debug};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attest::Attester;
use crate::future::BoxFuture;
use crate::key::{Algorithm, KeyRef, PublicKey, Signature, SymmetricAlgorithm};
use crate::permit::Permit;
use crate::profile::Framed;
use crate::secret::Secret;

mod agreement;
mod symmetric;

pub use agreement::AgreementCustody;
pub use symmetric::{MacCustody, MacKey, SealingCustody, SealingKey};

/// Where key material lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CustodyKind {
    /// In the TPM, which signs; the private key never leaves it.
    Tpm,
    /// Sealed by the TPM; unsealed into locked memory of the host while in use.
    TpmSealed,
    /// Encrypted under the keyring's root key; decrypted into locked memory of the host while in use.
    Software,
}

impl CustodyKind {
    /// The name on the command line and in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::TpmSealed => "tpm-sealed",
            Self::Software => "software",
        }
    }
}

impl fmt::Display for CustodyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What protects a key against whoever has the disk. Recorded when the key is made and shown everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// As strong as the passphrase.
    Passphrase,
    /// A software TPM: its state is a file beside the keyring, for development; or a virtual machine's, or of an unknown maker.
    Swtpm,
    /// A TPM that is part of this machine, by its own word.
    Hardware,
}

impl Assurance {
    /// The name in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::Swtpm => "swtpm",
            Self::Hardware => "hardware",
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A key just made.
pub struct Generated {
    /// The public key.
    pub public: PublicKey,
    /// What the keyring stores, encrypted: a seed, or a TPM blob with its authorisation value.
    pub material: Secret,
}

impl Debug for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generated")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// What a custody keeps of a revocable key beside its material is at most this long, in bytes: an index and a value.
pub const MAX_REVOCATION: usize = 256;

/// A key just made that the device itself refuses once it is revoked.
#[derive(Debug)]
pub struct Revocable {
    /// The key.
    pub generated: Generated,
    /// What [`Custody::revoke`] needs, for the keyring to keep. No secret; 1 to [`MAX_REVOCATION`] bytes.
    pub revocation: Vec<u8>,
}

/// Material just made that the device itself gives or uses no more once it is revoked.
pub struct RevocableMaterial {
    /// What the keyring stores, encrypted.
    pub material: Secret,
    /// What revoking needs, as [`Revocable::revocation`].
    pub revocation: Vec<u8>,
}

impl Debug for RevocableMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocableMaterial").finish_non_exhaustive()
    }
}

/// Makes keys and opens them for use.
pub trait Custody: Debug + Send + Sync {
    /// Where the keys live.
    fn kind(&self) -> CustodyKind;

    /// Which algorithms it has.
    fn algorithms(&self) -> &[Algorithm];

    /// Makes a key. Dropping the future may leave a finished key behind that nobody stored; it is unreachable.
    ///
    /// # Errors
    /// When the device fails or does not know the algorithm.
    fn generate<'a>(
        &'a self,
        key: &'a KeyRef,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>>;

    /// Opens a key from its material, for many signatures. Dropping the key unloads and wipes it.
    ///
    /// # Errors
    /// When the material is not this custody's, is damaged, or does not belong to `public`.
    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        public: &'a PublicKey,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>>;

    /// Takes a key that was made elsewhere, by its seed (RFC 8032), its scalar (SEC 1, big endian), or, of RSA, its modulus and one of its
    /// primes (both big endian, of full length). Custody whose keys never were anywhere else refuses.
    ///
    /// # Errors
    /// [`CustodyError::NotTaken`] where nothing is taken; else when the algorithm is not there, the private key is none, or the device fails.
    fn import<'a>(
        &'a self,
        _key: &'a KeyRef,
        _algorithm: Algorithm,
        _private: Secret,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(std::future::ready(Err(CustodyError::NotTaken(self.kind()))))
    }

    /// Takes a key that another program had this custody's device wrap, by its file: what only this device opens. Which algorithm it is shows
    /// when it is taken.
    ///
    /// # Errors
    /// [`CustodyError::NotTaken`] where nothing is taken; [`CustodyError::NotOurs`] when the file is none, the key is none that can be taken, or
    /// another device wrapped it; else when the device fails.
    fn import_wrapped<'a>(
        &'a self,
        _key: &'a KeyRef,
        _file: Secret,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(std::future::ready(Err(CustodyError::NotTaken(self.kind()))))
    }

    /// As [`Custody::generate`], for a key that the device itself refuses after [`Custody::revoke`], also to whoever puts an older copy
    /// of the keyring back. Custody that has no such device refuses; it never makes a key of another sort.
    ///
    /// # Errors
    /// [`CustodyError::NotEnforced`] without such a device; else as [`Custody::generate`], or when the device has no room.
    fn generate_revocable<'a>(
        &'a self,
        _key: &'a KeyRef,
        _algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<Revocable, CustodyError>> {
        Box::pin(std::future::ready(Err(CustodyError::NotEnforced(self.kind()))))
    }

    /// As [`Custody::generate_revocable`], for a key without a public half.
    ///
    /// # Errors
    /// As [`Custody::generate_revocable`].
    fn generate_symmetric_revocable<'a>(
        &'a self,
        _key: &'a KeyRef,
        _algorithm: SymmetricAlgorithm,
    ) -> BoxFuture<'a, Result<RevocableMaterial, CustodyError>> {
        Box::pin(std::future::ready(Err(CustodyError::NotEnforced(self.kind()))))
    }

    /// Has the device refuse a key from now on, by what [`Revocable`] gave for keeping. Gives what is to be kept instead: with that,
    /// and with the old one, doing it again changes nothing.
    ///
    /// # Errors
    /// When the device fails; whether the key is refused is then not known, and it is to be done again.
    fn revoke<'a>(
        &'a self,
        _key: &'a KeyRef,
        _revocation: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        Box::pin(std::future::ready(Err(CustodyError::NotEnforced(self.kind()))))
    }

    /// What gives evidence by this device, if it can.
    fn attester(&self) -> Option<&dyn Attester> {
        None
    }

    /// Its keys that seal; none unless it says otherwise.
    fn sealing(&self) -> Option<&dyn SealingCustody> {
        None
    }

    /// Its keys for MACs; none unless it says otherwise.
    fn macs(&self) -> Option<&dyn MacCustody> {
        None
    }

    /// Its keys that agree on a secret, for backups; none unless it says otherwise.
    fn agreement(&self) -> Option<&dyn AgreementCustody> {
        None
    }
}

/// A key that is open.
pub trait SigningKey: Debug + Send + Sync {
    /// Signs a framed message. Refuses a permit that does not cover exactly this message and this key
    /// ([`Permit::spend`]), or that signed before. Dropping the future abandons the signature; a device may still finish it unseen.
    ///
    /// # Errors
    /// When the permit is for something else, or the device fails; never hangs longer than the custody's own deadline.
    fn sign<'a>(
        &'a self,
        permit: &'a Permit,
        message: &'a Framed,
    ) -> BoxFuture<'a, Result<Signature, CustodyError>>;
}

/// Seals small secrets so that only this machine, or only this passphrase, opens them again.
pub trait Sealer: Debug + Send + Sync {
    /// What protects the sealed bytes.
    fn assurance(&self) -> Assurance;

    /// Seals 1 to 128 bytes (the least a TPM 2.0 accepts as sealed data) for this purpose.
    ///
    /// # Errors
    /// When the device fails or the secret is too long.
    fn seal<'a>(
        &'a self,
        purpose: &'a str,
        secret: &'a Secret,
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>>;

    /// Opens what [`Sealer::seal`] returned for the same purpose.
    ///
    /// # Errors
    /// [`CustodyError::NotOurs`] when it was sealed elsewhere or for another purpose, or was changed.
    fn unseal<'a>(
        &'a self,
        purpose: &'a str,
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Secret, CustodyError>>;

    /// As [`Sealer::seal`], so that the device itself opens it no more after [`Sealer::revoke`], also not a copy. A sealer without such a
    /// device refuses.
    ///
    /// # Errors
    /// [`CustodyError::NotEnforced`] without such a device; else as [`Sealer::seal`], or when the device has no room.
    fn seal_revocable<'a>(
        &'a self,
        _purpose: &'a str,
        _secret: &'a Secret,
    ) -> BoxFuture<'a, Result<RevocableMaterial, CustodyError>> {
        Box::pin(std::future::ready(Err(CustodyError::NotEnforced(
            CustodyKind::Software,
        ))))
    }

    /// Has the device open it no more, as [`Custody::revoke`] does for a key.
    ///
    /// # Errors
    /// As [`Custody::revoke`].
    fn revoke<'a>(&'a self, _revocation: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        Box::pin(std::future::ready(Err(CustodyError::NotEnforced(
            CustodyKind::Software,
        ))))
    }
}

/// Why custody could not do it. No variant holds key material.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// The permit was issued for another key or another message, or signed already.
    #[error("the permit does not cover this message under this key, or is spent")]
    PermitMismatch,
    /// The algorithm is not available here.
    #[error("{custody} custody has no {algorithm} keys")]
    Algorithm {
        /// Which custody.
        custody: CustodyKind,
        /// What was asked.
        algorithm: Algorithm,
    },
    /// There are no such keys without a public half here.
    #[error("{custody} custody has no {algorithm} keys")]
    Symmetric {
        /// Which custody.
        custody: CustodyKind,
        /// What was asked.
        algorithm: SymmetricAlgorithm,
    },
    /// Sealed or wrapped by another machine or passphrase, or changed since.
    #[error("{0}")]
    NotOurs(String),
    /// The machine was started otherwise than when this was bound to its start; the text says what changed.
    #[error("{0}")]
    StartChanged(String),
    /// The device refuses the key: it was revoked there.
    #[error("{0}")]
    Revoked(String),
    /// There is no device that could refuse the key.
    #[error(
        "in `{0}` custody no device refuses a revoked key; `--revocation hardware` needs a key in the TPM, or sealed by it (`--custody tpm` or `tpm-sealed`)"
    )]
    NotEnforced(CustodyKind),
    /// The custody makes its keys itself.
    #[error(
        "`{0}` custody takes no key that was made elsewhere; expected `software`, or `tpm-sealed` for Ed25519"
    )]
    NotTaken(CustodyKind),
    /// The device cannot be used now. Trying later may help.
    #[error("{0}")]
    Unavailable(String),
    /// The caller waits in a queue that is full.
    #[error("too many requests of this agent are waiting for the device")]
    Busy,
    /// Locked memory could not be had.
    #[error(transparent)]
    Memory(#[from] crate::secret::SecretError),
    /// The device answered something it must not.
    #[error("{0}")]
    Fault(String),
}
