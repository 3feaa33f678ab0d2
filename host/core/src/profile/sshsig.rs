//! SSHSIG framing (OpenSSH PROTOCOL.sshsig) through the `ssh-key` crate. Not SSH user authentication: that has another frame.

use ssh_key::{Algorithm as SshAlgorithm, EcdsaCurve, HashAlg, LineEnding, SshSig};

use crate::key::{Algorithm, KeyError, PublicKey, Signature};
use crate::name::Namespace;
use crate::profile::FrameError;

/// SHA-512, the default of `ssh-keygen -Y sign`.
const HASH: HashAlg = HashAlg::Sha512;

/// The most bytes of an armoured signature: key, signature and a name of 64 bytes in base64 are some 500.
pub(super) const MAX_ARMOURED: usize = 1024;

/// The blob that is signed: magic, namespace, empty reserved field, hash algorithm, hash of the content.
pub(super) fn message(namespace: &Namespace, content: &[u8]) -> Result<Vec<u8>, FrameError> {
    SshSig::signed_data(namespace.as_str(), HASH, content).map_err(|_| FrameError::Encoding)
}

/// The armoured signature file that `ssh-keygen -Y verify` reads.
pub(super) fn armour(
    namespace: &Namespace,
    key: &PublicKey,
    signature: &Signature,
) -> Result<Vec<u8>, KeyError> {
    let algorithm = match key.algorithm() {
        Algorithm::Ed25519 => SshAlgorithm::Ed25519,
        Algorithm::P256 => SshAlgorithm::Ecdsa {
            curve: EcdsaCurve::NistP256,
        },
        // No profile that is armoured takes RSA.
        Algorithm::Rsa2048 => return Err(KeyError::Encoding),
    };
    let blob = match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Rsa2048 => signature.as_bytes().to_vec(),
        Algorithm::P256 => {
            // RFC 5656 §3.1.2: two SSH mpints, which ssh-key makes of r ‖ s.
            let parsed =
                p256::ecdsa::Signature::from_slice(signature.as_bytes()).map_err(|_| KeyError::Encoding)?;
            let (r, s) = parsed.split_bytes();
            let mut blob = Vec::with_capacity(80);
            for part in [r.as_slice(), s.as_slice()] {
                let number = ssh_key::Mpint::from_positive_bytes(part).map_err(|_| KeyError::Encoding)?;
                let bytes = number.as_bytes();
                let length = u32::try_from(bytes.len()).map_err(|_| KeyError::Encoding)?;
                blob.extend_from_slice(&length.to_be_bytes());
                blob.extend_from_slice(bytes);
            }
            blob
        }
    };
    let signature = ssh_key::Signature::new(algorithm, blob).map_err(|_| KeyError::Encoding)?;
    let sshsig = SshSig::new(key.to_ssh_key_data()?, namespace.as_str(), HASH, signature)
        .map_err(|_| KeyError::Encoding)?;
    sshsig
        .to_pem(LineEnding::LF)
        .map(String::into_bytes)
        .map_err(|_| KeyError::Encoding)
}
