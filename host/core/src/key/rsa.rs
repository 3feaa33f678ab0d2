//! RSA public keys of 2048 bits, as numbers and as DER. Not a general RSA: one size, one exponent, PKCS#1 v1.5 with SHA-256 alone.

use pkcs1::RsaPublicKey;
use pkcs1::der::asn1::UintRef;
use pkcs1::der::{Decode as _, Encode as _};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

use super::{Algorithm, KeyError};

/// Bytes of a modulus, and of a signature.
pub(super) const LENGTH: usize = 256;
/// The exponent that every key has: the one that TPMs make keys with, and that every verifier takes.
const EXPONENT: &[u8] = &[1, 0, 1];

/// The one DER encoding (RFC 8017 §A.1.1) of a modulus with exactly 2048 bits.
pub(super) fn from_modulus(modulus: &[u8]) -> Result<Vec<u8>, KeyError> {
    let bad = || KeyError::NotAKey(Algorithm::Rsa2048);
    let full = modulus.first().is_some_and(|first| first & 0x80 != 0);
    let odd = modulus.last().is_some_and(|last| last & 1 == 1);
    if modulus.len() != LENGTH || !full || !odd {
        return Err(bad());
    }
    RsaPublicKey {
        modulus: UintRef::new(modulus).map_err(|_| bad())?,
        public_exponent: UintRef::new(EXPONENT).map_err(|_| bad())?,
    }
    .to_der()
    .map_err(|_| bad())
}

/// The modulus of such an encoding.
pub(super) fn modulus(der: &[u8]) -> Result<&[u8], KeyError> {
    let bad = || KeyError::NotAKey(Algorithm::Rsa2048);
    let key = RsaPublicKey::from_der(der).map_err(|_| bad())?;
    if key.public_exponent.as_bytes() != EXPONENT {
        return Err(bad());
    }
    Ok(key.modulus.as_bytes())
}

/// Verifies PKCS#1 v1.5 with SHA-256.
pub(super) fn verify(der: &[u8], message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der)
        .verify(message, signature)
        .map_err(|_| KeyError::BadSignature(Algorithm::Rsa2048))
}
