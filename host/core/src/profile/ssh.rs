//! Keys and signatures as SSH writes them, through the `ssh-key` crate. No frames: those are of the profiles.

use ssh_encoding::{Decode as _, Encode as _};
use ssh_key::{Algorithm as SshAlgorithm, EcdsaCurve, Mpint};

use crate::key::{Algorithm, KeyError, PublicKey, Signature};

/// The most bytes of a signature with its algorithm's name: some hundred.
pub(super) const MAX_SIGNATURE_BLOB: usize = 256;

/// The name of an algorithm. No profile that SSH reads takes RSA.
pub(super) fn algorithm(algorithm: Algorithm) -> Result<SshAlgorithm, KeyError> {
    match algorithm {
        Algorithm::Ed25519 => Ok(SshAlgorithm::Ed25519),
        Algorithm::P256 => Ok(SshAlgorithm::Ecdsa {
            curve: EcdsaCurve::NistP256,
        }),
        Algorithm::Rsa2048 => Err(KeyError::Encoding),
    }
}

/// A public key (RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4).
pub(super) fn public_blob(key: &PublicKey) -> Result<Vec<u8>, KeyError> {
    let mut blob = Vec::new();
    key.to_ssh_key_data()?
        .encode(&mut blob)
        .map_err(|_| KeyError::Encoding)?;
    Ok(blob)
}

/// A signature (RFC 5656 §3.1.2, RFC 8709 §6).
pub(super) fn signature(signature: &Signature) -> Result<ssh_key::Signature, KeyError> {
    let blob = match signature.algorithm() {
        Algorithm::Ed25519 | Algorithm::Rsa2048 => signature.as_bytes().to_vec(),
        Algorithm::P256 => {
            // Two SSH mpints, of r ‖ s.
            let parsed =
                p256::ecdsa::Signature::from_slice(signature.as_bytes()).map_err(|_| KeyError::Encoding)?;
            let (r, s) = parsed.split_bytes();
            let mut blob = Vec::with_capacity(80);
            for part in [r.as_slice(), s.as_slice()] {
                Mpint::from_positive_bytes(part)
                    .map_err(|_| KeyError::Encoding)?
                    .encode(&mut blob)
                    .map_err(|_| KeyError::Encoding)?;
            }
            blob
        }
    };
    ssh_key::Signature::new(algorithm(signature.algorithm())?, blob).map_err(|_| KeyError::Encoding)
}

/// A signature with its algorithm's name before it, as the agent protocol gives it.
pub(super) fn signature_blob(made: &Signature) -> Result<Vec<u8>, KeyError> {
    let mut blob = Vec::new();
    signature(made)?
        .encode(&mut blob)
        .map_err(|_| KeyError::Encoding)?;
    Ok(blob)
}

/// `r ‖ s` of the two mpints of an ECDSA signature over P-256.
pub(super) fn p256_numbers(mut blob: &[u8]) -> Option<[u8; Signature::LENGTH]> {
    let mut numbers = [0; Signature::LENGTH];
    for half in numbers.chunks_exact_mut(Signature::LENGTH / 2) {
        let number = Mpint::decode(&mut blob).ok()?;
        let bytes = number.as_positive_bytes()?;
        let start = half.len().checked_sub(bytes.len())?;
        half.get_mut(start..)?.copy_from_slice(bytes);
    }
    blob.is_empty().then_some(numbers)
}
