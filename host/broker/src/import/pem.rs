//! Private keys in PEM: which block of a file is one, and PKCS#8 (RFC 5958), SEC 1 (RFC 5915) and PKCS#1 (RFC 8017) of it. No encrypted ones.

use claviger_core::{Algorithm, PublicKey};
use p256::pkcs8::der::asn1::{ObjectIdentifier, OctetStringRef};
use p256::pkcs8::der::{Decode as _, SecretDocument};
use p256::pkcs8::{AlgorithmIdentifierRef, PrivateKeyInfo};
use pkcs1::RsaPrivateKey;
use sec1::EcPrivateKey;

use super::{ImportError, ImportedKey, KeyFormat};

/// RFC 8410 §3.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// RFC 5480 §2.1.1.
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// RFC 5480 §2.1.1.1.
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// RFC 8017 §A.1.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// The one private key among the blocks of a file, from its first line to its last. What is no key, such as the parameters that
/// `openssl ecparam` writes before it, is passed over.
pub(super) fn find(text: &str) -> Result<(KeyFormat, &str), ImportError> {
    let mut found = None;
    let mut public = false;
    let mut rest = text;
    while let Some((label, block, after)) = next(rest) {
        rest = after;
        let format = match label {
            "PRIVATE KEY" => KeyFormat::Pkcs8,
            "EC PRIVATE KEY" => KeyFormat::Sec1,
            "OPENSSH PRIVATE KEY" => KeyFormat::Openssh,
            "ENCRYPTED PRIVATE KEY" => return Err(ImportError::Encrypted),
            "RSA PRIVATE KEY" => KeyFormat::Pkcs1,
            "TSS2 PRIVATE KEY" => return Err(ImportError::Tss2),
            other if other.ends_with("PRIVATE KEY") => return Err(ImportError::Algorithm),
            other => {
                public |= other.ends_with("PUBLIC KEY");
                continue;
            }
        };
        // RFC 1421 §4.6.1.1, as OpenSSL before PKCS#8.
        if block.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(ImportError::EncryptedOldPem);
        }
        if found.replace((format, block)).is_some() {
            return Err(ImportError::Several);
        }
    }
    match found {
        Some(found) => Ok(found),
        None if public || text.starts_with("ssh-") || text.starts_with("ecdsa-") => Err(ImportError::Public),
        None => Err(ImportError::NotAKey),
    }
}

/// The next block: its label, the whole of it, and what is after it.
fn next(text: &str) -> Option<(&str, &str, &str)> {
    let from = text.get(text.find(BEGIN)?..)?;
    let (label, _) = from.strip_prefix(BEGIN)?.split_once(DASHES)?;
    let end = format!("{END}{label}{DASHES}");
    let length = from.find(&end)? + end.len();
    let (block, after) = from.split_at_checked(length)?;
    Some((label, block, after))
}

/// PKCS#8.
pub(super) fn pkcs8(block: &str) -> Result<ImportedKey, ImportError> {
    let damaged = || ImportError::Damaged(KeyFormat::Pkcs8);
    // Wiped when it is dropped.
    let (_, document) = SecretDocument::from_pem(block).map_err(|_| damaged())?;
    let info = PrivateKeyInfo::try_from(document.as_bytes()).map_err(|_| damaged())?;
    let AlgorithmIdentifierRef { oid, parameters } = info.algorithm;
    if oid == ED25519 && parameters.is_none() {
        let seed = OctetStringRef::from_der(info.private_key).map_err(|_| damaged())?;
        return ImportedKey::new(
            Algorithm::Ed25519,
            seed.as_bytes(),
            info.public_key.map(PublicKey::ed25519),
            KeyFormat::Pkcs8,
        );
    }
    if oid == RSA {
        return rsa(info.private_key, KeyFormat::Pkcs8);
    }
    let curve = parameters.and_then(|it| it.decode_as::<ObjectIdentifier>().ok());
    if oid != EC || curve != Some(P256) {
        return Err(ImportError::Algorithm);
    }
    ec(info.private_key, KeyFormat::Pkcs8)
}

/// SEC 1.
pub(super) fn sec1(block: &str) -> Result<ImportedKey, ImportError> {
    let (_, document) = SecretDocument::from_pem(block).map_err(|_| ImportError::Damaged(KeyFormat::Sec1))?;
    ec(document.as_bytes(), KeyFormat::Sec1)
}

/// PKCS#1.
pub(super) fn pkcs1(block: &str) -> Result<ImportedKey, ImportError> {
    let (_, document) =
        SecretDocument::from_pem(block).map_err(|_| ImportError::Damaged(KeyFormat::Pkcs1))?;
    rsa(document.as_bytes(), KeyFormat::Pkcs1)
}

fn rsa(der: &[u8], format: KeyFormat) -> Result<ImportedKey, ImportError> {
    let key = RsaPrivateKey::try_from(der).map_err(|_| ImportError::Damaged(format))?;
    if key.other_prime_infos.is_some() {
        return Err(ImportError::Rsa);
    }
    ImportedKey::rsa(
        key.modulus.as_bytes(),
        key.public_exponent.as_bytes(),
        key.prime1.as_bytes(),
        format,
    )
}

fn ec(der: &[u8], format: KeyFormat) -> Result<ImportedKey, ImportError> {
    let key = EcPrivateKey::try_from(der).map_err(|_| ImportError::Damaged(format))?;
    let curve = key.parameters.and_then(|it| it.named_curve());
    match (curve, format) {
        (Some(curve), _) if curve != P256 => return Err(ImportError::Algorithm),
        // Around it, PKCS#8 named the curve.
        (Some(_), _) | (None, KeyFormat::Pkcs8) => {}
        (
            None,
            KeyFormat::Sec1 | KeyFormat::Pkcs1 | KeyFormat::Openssh | KeyFormat::Jwk | KeyFormat::Tss2,
        ) => {
            return Err(ImportError::Algorithm);
        }
    }
    ImportedKey::new(
        Algorithm::P256,
        key.private_key,
        key.public_key.map(PublicKey::p256),
        format,
    )
}
