//! Public keys, signatures and the identity of a key version. Not private keys: custody holds those.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use p256::pkcs8::EncodePublicKey as _;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::name::KeyName;

mod identity;
mod rsa;
mod spec;
#[cfg(test)]
mod vectors;

pub use identity::{KeyAlgorithm, KeyId, KeyIdentity, SymmetricAlgorithm};
pub use spec::{KeySpec, SecretSpec, Spec, SpecError};

/// Counts the versions of a credential from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyVersion(pub u32);

impl KeyVersion {
    /// The version a new credential starts with.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// One version of one key: what material, permits and audit entries are bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRef {
    /// The key.
    pub name: KeyName,
    /// Which version of it.
    pub version: KeyVersion,
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// A signature algorithm. Fixed when a key is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Ed25519 (RFC 8032). No TPM knows it: the seed is sealed, not resident.
    Ed25519,
    /// ECDSA on NIST P-256 with SHA-256 (FIPS 186-5).
    P256,
    /// RSA of 2048 bits, PKCS#1 v1.5 with SHA-256 (RFC 8017), for the one service that takes nothing else. In a TPM only: no kept
    /// library makes such keys in software without a known leak (RUSTSEC-2023-0071).
    Rsa2048,
}

impl Algorithm {
    /// The name in manifests, on the command line and in WIT.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::P256 => "p256",
            Self::Rsa2048 => "rsa2048",
        }
    }

    /// The `alg` of JOSE (RFC 7518, RFC 8037).
    #[must_use]
    pub const fn jose(self) -> &'static str {
        match self {
            Self::Ed25519 => "EdDSA",
            Self::P256 => "ES256",
            Self::Rsa2048 => "RS256",
        }
    }

    /// The length of its signatures in bytes.
    #[must_use]
    pub const fn signature_length(self) -> usize {
        match self {
            Self::Ed25519 | Self::P256 => Signature::LENGTH,
            Self::Rsa2048 => rsa::LENGTH,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Algorithm {
    type Err = UnknownAlgorithm;
    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        match text {
            "ed25519" => Ok(Self::Ed25519),
            "p256" => Ok(Self::P256),
            "rsa2048" => Ok(Self::Rsa2048),
            _ => Err(UnknownAlgorithm),
        }
    }
}

/// No algorithm has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `ed25519`, `p256` or `rsa2048`")]
pub struct UnknownAlgorithm;

/// Why bytes are not a public key or not a signature of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a point of the curve, or not in the one encoding that is accepted.
    #[error("not a valid {0} public key")]
    NotAKey(Algorithm),
    /// The signature does not verify.
    #[error("the signature does not verify under the {0} key")]
    BadSignature(Algorithm),
    /// The key cannot be written in the format asked for.
    #[error("the key cannot be encoded")]
    Encoding,
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: Algorithm,
    // Invariant: 32 bytes for Ed25519 (RFC 8032); 65 bytes, SEC 1 uncompressed and on the curve, for P-256; for RSA the DER of
    // `RSAPublicKey` (RFC 8017 §A.1.1) with an odd modulus of exactly 2048 bits and the exponent 65537.
    bytes: Vec<u8>,
}

impl PublicKey {
    /// Checks and takes an Ed25519 public key of 32 bytes.
    ///
    /// # Errors
    /// When the bytes are not a point, or one of small order.
    pub fn ed25519(bytes: &[u8]) -> Result<Self, KeyError> {
        let bad = KeyError::NotAKey(Algorithm::Ed25519);
        let array: [u8; 32] = bytes.try_into().map_err(|_| bad.clone())?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&array).map_err(|_| bad.clone())?;
        if key.is_weak() {
            return Err(bad);
        }
        Ok(Self {
            algorithm: Algorithm::Ed25519,
            bytes: bytes.to_vec(),
        })
    }

    /// Checks and takes a P-256 public key in any SEC 1 encoding.
    ///
    /// # Errors
    /// When the bytes are not a point of the curve.
    pub fn p256(sec1: &[u8]) -> Result<Self, KeyError> {
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(sec1)
            .map_err(|_| KeyError::NotAKey(Algorithm::P256))?;
        Ok(Self {
            algorithm: Algorithm::P256,
            bytes: key.to_encoded_point(false).as_bytes().to_vec(),
        })
    }

    /// Checks and takes an RSA public key by its modulus, big-endian. The exponent is 65537.
    ///
    /// # Errors
    /// When the modulus is even or has not exactly 2048 bits.
    pub fn rsa2048(modulus: &[u8]) -> Result<Self, KeyError> {
        Ok(Self {
            algorithm: Algorithm::Rsa2048,
            bytes: rsa::from_modulus(modulus)?,
        })
    }

    /// The modulus of an RSA key, big-endian; none of another key.
    #[must_use]
    pub fn rsa_modulus(&self) -> Option<&[u8]> {
        match self.algorithm {
            Algorithm::Rsa2048 => rsa::modulus(&self.bytes).ok(),
            Algorithm::Ed25519 | Algorithm::P256 => None,
        }
    }

    /// Reads a key of this algorithm from the encoding of [`PublicKey::as_bytes`].
    ///
    /// # Errors
    /// When the bytes are not such a key.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::Ed25519 => Self::ed25519(bytes),
            Algorithm::P256 => Self::p256(bytes),
            // Written again from the number: there is one encoding of a key.
            Algorithm::Rsa2048 => match Self::rsa2048(rsa::modulus(bytes)?)? {
                key if key.bytes == bytes => Ok(key),
                _ => Err(KeyError::NotAKey(algorithm)),
            },
        }
    }

    /// Verifies a signature over a message. Ed25519 strictly (no malleable or small-order keys), P-256 with either S.
    ///
    /// # Errors
    /// When the signature does not verify.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), KeyError> {
        let bad = || KeyError::BadSignature(self.algorithm);
        if signature.algorithm != self.algorithm {
            return Err(bad());
        }
        match self.algorithm {
            Algorithm::Ed25519 => {
                let array: [u8; 32] = self.bytes.as_slice().try_into().map_err(|_| bad())?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(&array).map_err(|_| bad())?;
                let signature: &[u8; 64] = signature.as_bytes().try_into().map_err(|_| bad())?;
                key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature))
                    .map_err(|_| bad())
            }
            // By `ring`, because it is several times faster than `p256` and each signature of a TPM is checked before it is
            // released. It checks again that the key is on the curve.
            Algorithm::P256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.bytes)
                .verify(message, signature.as_bytes())
                .map_err(|_| bad()),
            Algorithm::Rsa2048 => rsa::verify(&self.bytes, message, signature.as_bytes()),
        }
    }

    /// Which algorithm the key is for.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw key: 32 bytes for Ed25519, 65 bytes of uncompressed SEC 1 for P-256, `RSAPublicKey` as DER for RSA.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The RFC 7638 thumbprint (SHA-256, base64url without padding; 43 characters): the key's `kid`.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        Base64UrlUnpadded::encode_string(&Sha256::digest(self.canonical_jwk().as_bytes()))
    }

    /// The key as a JWK as RFC 7638 §3.2 digests it: the required members in lexicographic order, without white space.
    #[must_use]
    pub fn canonical_jwk(&self) -> String {
        match self.algorithm {
            Algorithm::Ed25519 => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.coordinate_x()),
            Algorithm::P256 => format!(
                r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
                self.coordinate_x(),
                self.coordinate_y()
            ),
            Algorithm::Rsa2048 => format!(r#"{{"e":"AQAB","kty":"RSA","n":"{}"}}"#, self.modulus()),
        }
    }

    /// The key as a JWK (RFC 7517; RFC 8037 for Ed25519) with `kid`, `use` and `alg`.
    #[must_use]
    pub fn to_jwk(&self) -> serde_json::Value {
        let (kid, alg) = (self.thumbprint(), self.algorithm.jose());
        match self.algorithm {
            Algorithm::Ed25519 => serde_json::json!({
                "kty": "OKP", "crv": "Ed25519", "x": self.coordinate_x(), "kid": kid, "use": "sig", "alg": alg,
            }),
            Algorithm::P256 => serde_json::json!({
                "kty": "EC", "crv": "P-256", "x": self.coordinate_x(), "y": self.coordinate_y(),
                "kid": kid, "use": "sig", "alg": alg,
            }),
            Algorithm::Rsa2048 => serde_json::json!({
                "kty": "RSA", "e": "AQAB", "n": self.modulus(), "kid": kid, "use": "sig", "alg": alg,
            }),
        }
    }

    /// The key as SubjectPublicKeyInfo in PEM (RFC 7468), which `openssl pkey -pubin` reads.
    ///
    /// # Errors
    /// When the key cannot be encoded, which the invariant excludes.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        use spki::der::Decode as _;
        use spki::der::pem::LineEnding;
        spki::Document::from_der(&self.to_spki()?)
            .and_then(|document| document.to_pem("PUBLIC KEY", LineEnding::LF))
            .map_err(|_| KeyError::Encoding)
    }

    /// The key as SubjectPublicKeyInfo in DER (RFC 5280 §4.1.2.7).
    ///
    /// # Errors
    /// When the key cannot be encoded, which the invariant excludes.
    pub fn to_spki(&self) -> Result<Vec<u8>, KeyError> {
        use spki::der::Encode as _;
        let (oid, parameters) = match self.algorithm {
            Algorithm::Ed25519 => ("1.3.101.112", None), // RFC 8410
            Algorithm::P256 => {
                let document = p256::PublicKey::from_sec1_bytes(&self.bytes)
                    .map_err(|_| KeyError::Encoding)?
                    .to_public_key_der()
                    .map_err(|_| KeyError::Encoding)?;
                return Ok(document.as_bytes().to_vec());
            }
            Algorithm::Rsa2048 => ("1.2.840.113549.1.1.1", Some(spki::der::AnyRef::NULL)), // RFC 3279 §2.3.1
        };
        spki::SubjectPublicKeyInfoRef {
            algorithm: spki::AlgorithmIdentifierRef {
                oid: spki::ObjectIdentifier::new(oid).map_err(|_| KeyError::Encoding)?,
                parameters,
            },
            subject_public_key: spki::der::asn1::BitStringRef::from_bytes(&self.bytes)
                .map_err(|_| KeyError::Encoding)?,
        }
        .to_der()
        .map_err(|_| KeyError::Encoding)
    }

    /// The key as one OpenSSH line, as in `authorized_keys` and `allowed_signers`, with this comment.
    ///
    /// # Errors
    /// When the key cannot be encoded, which the invariant excludes.
    pub fn to_openssh(&self, comment: &str) -> Result<String, KeyError> {
        ssh_key::PublicKey::new(self.to_ssh_key_data()?, comment)
            .to_openssh()
            .map_err(|_| KeyError::Encoding)
    }

    /// The key in the form that the `ssh-key` crate frames SSHSIG with.
    pub(crate) fn to_ssh_key_data(&self) -> Result<ssh_key::public::KeyData, KeyError> {
        match self.algorithm {
            Algorithm::Ed25519 => {
                let array: [u8; 32] = self.bytes.as_slice().try_into().map_err(|_| KeyError::Encoding)?;
                Ok(ssh_key::public::KeyData::Ed25519(
                    ssh_key::public::Ed25519PublicKey(array),
                ))
            }
            Algorithm::P256 => ssh_key::public::EcdsaPublicKey::from_sec1_bytes(&self.bytes)
                .map(ssh_key::public::KeyData::Ecdsa)
                .map_err(|_| KeyError::Encoding),
            Algorithm::Rsa2048 => {
                let number =
                    |bytes| ssh_key::Mpint::from_positive_bytes(bytes).map_err(|_| KeyError::Encoding);
                Ok(ssh_key::public::KeyData::Rsa(ssh_key::public::RsaPublicKey {
                    e: number(&[1, 0, 1])?,
                    n: number(rsa::modulus(&self.bytes)?)?,
                }))
            }
        }
    }

    fn coordinate_x(&self) -> String {
        let range = match self.algorithm {
            Algorithm::Ed25519 => 0..32,
            Algorithm::P256 => 1..33,
            Algorithm::Rsa2048 => 0..0,
        };
        Base64UrlUnpadded::encode_string(self.bytes.get(range).unwrap_or_default())
    }

    fn modulus(&self) -> String {
        Base64UrlUnpadded::encode_string(rsa::modulus(&self.bytes).unwrap_or_default())
    }

    fn coordinate_y(&self) -> String {
        Base64UrlUnpadded::encode_string(self.bytes.get(33..65).unwrap_or_default())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm, self.thumbprint())
    }
}

/// A raw signature: 64 bytes as in RFC 8032 for Ed25519, `r ‖ s` (IEEE P1363) of 64 bytes for P-256, 256 bytes for RSA.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    algorithm: Algorithm,
    bytes: SignatureBytes,
}

#[derive(Clone, PartialEq, Eq)]
enum SignatureBytes {
    Short([u8; Signature::LENGTH]),
    Rsa(Box<[u8; rsa::LENGTH]>),
}

impl Signature {
    /// The length of all but RSA signatures in bytes.
    pub const LENGTH: usize = 64;

    /// A signature of 64 bytes by this algorithm. Whether it verifies is [`PublicKey::verify`]'s to say; under RSA none does.
    #[must_use]
    pub const fn new(algorithm: Algorithm, bytes: [u8; Self::LENGTH]) -> Self {
        Self {
            algorithm,
            bytes: SignatureBytes::Short(bytes),
        }
    }

    /// A signature of 256 bytes by [`Algorithm::Rsa2048`]. Whether it verifies is [`PublicKey::verify`]'s to say.
    #[must_use]
    pub fn rsa2048(bytes: [u8; rsa::LENGTH]) -> Self {
        Self {
            algorithm: Algorithm::Rsa2048,
            bytes: SignatureBytes::Rsa(Box::new(bytes)),
        }
    }

    /// Which algorithm made it.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The bytes, 64 or 256.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            SignatureBytes::Short(bytes) => bytes.as_slice(),
            SignatureBytes::Rsa(bytes) => bytes.as_slice(),
        }
    }

    /// The form that TLS and certificates have: for P-256 the DER of `Ecdsa-Sig-Value` (RFC 3279 §2.2.3), else the bytes.
    ///
    /// # Errors
    /// When the bytes are no pair of numbers below the curve's order.
    pub fn to_der(&self) -> Result<Vec<u8>, KeyError> {
        match self.algorithm {
            Algorithm::Ed25519 | Algorithm::Rsa2048 => Ok(self.as_bytes().to_vec()),
            Algorithm::P256 => p256::ecdsa::Signature::from_slice(self.as_bytes())
                .map(|signature| signature.to_der().as_bytes().to_vec())
                .map_err(|_| KeyError::BadSignature(self.algorithm)),
        }
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", self.algorithm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_8037_appendix_a3() {
        let x = Base64UrlUnpadded::decode_vec("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let key = PublicKey::ed25519(&x).unwrap();
        assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    /// What `p256` says, which made the signatures and shares no code with the verifier.
    fn reference(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        use p256::ecdsa::signature::Verifier as _;
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key.as_bytes()).unwrap();
        p256::ecdsa::Signature::from_slice(signature.as_bytes())
            .is_ok_and(|signature| key.verify(message, &signature).is_ok())
    }

    /// The order of the curve (SEC 2 §2.4.2).
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];

    #[test]
    fn a_p256_signature_verifies_with_either_s_and_no_changed_one_does() {
        use p256::ecdsa::signature::Signer as _;
        let secret = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let key = PublicKey::p256(secret.verifying_key().to_encoded_point(true).as_bytes()).unwrap();
        let other = p256::ecdsa::SigningKey::from_slice(&[8; 32]).unwrap();
        let other = PublicKey::p256(other.verifying_key().to_encoded_point(true).as_bytes()).unwrap();
        for message in [&b""[..], b"content", &[0xff; 1000]] {
            let made: p256::ecdsa::Signature = secret.sign(message);
            let low = made.normalize_s().unwrap_or(made);
            let high = p256::ecdsa::Signature::from_scalars(*low.r(), -*low.s()).unwrap();
            for good in [low, high] {
                let bytes: [u8; 64] = good.to_bytes().into();
                let good = Signature::new(Algorithm::P256, bytes);
                assert_eq!(key.verify(message, &good), Ok(()));
                assert!(reference(&key, message, &good));
                assert!(other.verify(message, &good).is_err());
                assert!(key.verify(b"another message", &good).is_err());
                assert!(
                    key.verify(message, &Signature::new(Algorithm::Ed25519, bytes))
                        .is_err()
                );
                for bit in 0..512 {
                    let mut changed = bytes;
                    changed[bit / 8] ^= 1 << (bit % 8);
                    let changed = Signature::new(Algorithm::P256, changed);
                    assert!(key.verify(message, &changed).is_err(), "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn numbers_out_of_range_are_no_p256_signature() {
        use p256::ecdsa::signature::Signer as _;
        let secret = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let key = PublicKey::p256(secret.verifying_key().to_encoded_point(false).as_bytes()).unwrap();
        let made: p256::ecdsa::Signature = secret.sign(b"content");
        let good: [u8; 64] = made.to_bytes().into();
        key.verify(b"content", &Signature::new(Algorithm::P256, good))
            .unwrap();
        let mut one = [0; 32];
        one[31] = 1;
        for number in [[0; 32], one, ORDER, [0xff; 32]] {
            for half in 0..2 {
                let mut bytes = good;
                bytes[half * 32..][..32].copy_from_slice(&number);
                let signature = Signature::new(Algorithm::P256, bytes);
                assert!(
                    key.verify(b"content", &signature).is_err(),
                    "{number:?} in half {half}"
                );
                assert!(!reference(&key, b"content", &signature));
            }
            let both = Signature::new(Algorithm::P256, [number, number].concat().try_into().unwrap());
            assert!(key.verify(b"content", &both).is_err(), "{number:?} twice");
        }
    }

    #[test]
    fn a_key_off_the_curve_or_of_small_order_is_refused() {
        assert!(PublicKey::ed25519(&[0; 32]).is_err());
        assert!(PublicKey::ed25519(&[1; 31]).is_err());
        assert!(PublicKey::p256(&[4; 65]).is_err());
    }
}
