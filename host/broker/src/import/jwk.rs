//! A private key as a JWK (RFC 7517): Ed25519 (RFC 8037) and P-256 (RFC 7518 §6.2). No sets.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use claviger_core::{Algorithm, PublicKey};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{ImportError, ImportedKey, KeyFormat, LENGTH};

/// The members that say what key it is. Others may be there, as RFC 7517 §4 says; none may be there twice. Borrowed from the text, so that
/// no copy of the private key is made that nobody wipes.
#[derive(Deserialize)]
struct Jwk<'a> {
    kty: &'a str,
    #[serde(default)]
    crv: Option<&'a str>,
    #[serde(default)]
    d: Option<&'a str>,
    #[serde(default)]
    x: Option<&'a str>,
    #[serde(default)]
    y: Option<&'a str>,
}

pub(super) fn read(text: &str) -> Result<ImportedKey, ImportError> {
    let damaged = || ImportError::Damaged(KeyFormat::Jwk);
    let jwk: Jwk<'_> = serde_json::from_str(text).map_err(|_| damaged())?;
    let algorithm = match (jwk.kty, jwk.crv) {
        ("OKP", Some("Ed25519")) => Algorithm::Ed25519,
        ("EC", Some("P-256")) => Algorithm::P256,
        ("RSA", _) => return Err(ImportError::Rsa),
        (_, _) => return Err(ImportError::Algorithm),
    };
    let Some(d) = jwk.d else {
        return Err(ImportError::Public);
    };
    let private = decoded(d).ok_or_else(damaged)?;
    let coordinate = |text: &str| decoded(text).ok_or_else(damaged);
    // RFC 8037 §2 and RFC 7518 §6.2.1 ask for the public half beside it.
    let x = coordinate(jwk.x.ok_or_else(damaged)?)?;
    let public = match (algorithm, jwk.y) {
        (Algorithm::Ed25519, None) => PublicKey::ed25519(&*x),
        (Algorithm::P256, Some(y)) => {
            let mut point = vec![4];
            point.extend_from_slice(&*x);
            point.extend_from_slice(&*coordinate(y)?);
            PublicKey::p256(&point)
        }
        (Algorithm::Ed25519, Some(_)) | (Algorithm::P256, None) | (Algorithm::Rsa2048, _) => {
            return Err(damaged());
        }
    };
    ImportedKey::new(algorithm, &*private, Some(public), KeyFormat::Jwk)
}

fn decoded(text: &str) -> Option<Zeroizing<[u8; LENGTH]>> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    match Base64UrlUnpadded::decode(text, &mut *bytes) {
        Ok(decoded) if decoded.len() == LENGTH => Some(bytes),
        Ok(_) | Err(_) => None,
    }
}
