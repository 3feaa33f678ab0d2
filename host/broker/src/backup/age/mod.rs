//! The age file format, version 1 (<https://c2sp.org/age>), for X25519 recipients, with plaintext in locked memory only. Not armour, not
//! passphrases, not plugins: a file for others is somebody else's.
//!
//! The crate `age` is not used here: it keeps what it encrypts in memory that is neither locked nor wiped, and brings 37 crates, most of
//! them for translations. Tests hold this against what that crate and its specification say.

mod header;
mod keys;
mod stream;

pub use keys::{Identity, Recipient};
pub(super) use stream::{Opened, Sealing};

use claviger_core::Secret;
use hkdf::Hkdf;
use rand_core::{OsRng, RngCore as _};
use sha2::Sha256;

use super::BackupError;

#[cfg(test)]
mod vectors;

/// How deep the arithmetic of a curve and the hashes go, in words, with room to spare: what they leave is overwritten.
pub(super) const STACK_WORDS: usize = 2048;

/// The length of a file key in bytes.
const FILE_KEY: usize = 16;

/// A key for one purpose (HKDF-SHA256, RFC 5869).
fn derive(secret: &Secret, salt: &[u8], info: &[u8]) -> Result<Secret, BackupError> {
    let derived = Secret::fill_with(32, |bytes| {
        Hkdf::<Sha256>::new(Some(salt), secret.expose())
            .expand(info, bytes)
            .map_err(|_| BackupError::Encryption)
    });
    claviger_core::stack::wipe_below::<STACK_WORDS>();
    derived
}

/// Fresh random bytes of the operating system.
fn random(len: usize) -> Result<Secret, BackupError> {
    Secret::fill_with(len, |bytes| {
        OsRng
            .try_fill_bytes(bytes)
            .map_err(|e| BackupError::Random(e.to_string()))
    })
}
