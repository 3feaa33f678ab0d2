//! A private key as a JWK (RFC 7517): Ed25519 (RFC 8037), P-256 (RFC 7518 §6.2) and RSA (§6.3). No sets.

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
    #[serde(default)]
    n: Option<&'a str>,
    #[serde(default)]
    e: Option<&'a str>,
    #[serde(default)]
    p: Option<&'a str>,
    #[serde(default)]
    oth: Option<serde::de::IgnoredAny>,
}

pub(super) fn read(text: &str) -> Result<ImportedKey, ImportError> {
    let damaged = || ImportError::Damaged(KeyFormat::Jwk);
    let jwk: Jwk<'_> = serde_json::from_str(text).map_err(|_| damaged())?;
    let algorithm = match (jwk.kty, jwk.crv) {
        ("OKP", Some("Ed25519")) => Algorithm::Ed25519,
        ("EC", Some("P-256")) => Algorithm::P256,
        ("RSA", _) => return rsa(&jwk),
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

/// Of RSA the primes must be there, which RFC 7518 §6.3.2 asks for and does not require.
fn rsa(jwk: &Jwk<'_>) -> Result<ImportedKey, ImportError> {
    let damaged = || ImportError::Damaged(KeyFormat::Jwk);
    if jwk.d.is_none() {
        return Err(ImportError::Public);
    }
    let (Some(n), Some(e), Some(p), None) = (jwk.n, jwk.e, jwk.p, &jwk.oth) else {
        return Err(ImportError::Rsa);
    };
    let number = |text: &str| {
        let mut bytes = Zeroizing::new(vec![0; text.len()]);
        let length = Base64UrlUnpadded::decode(text, &mut bytes)
            .map_err(|_| damaged())?
            .len();
        bytes.truncate(length);
        Ok::<_, ImportError>(bytes)
    };
    ImportedKey::rsa(&number(n)?, &number(e)?, &number(p)?, KeyFormat::Jwk)
}

fn decoded(text: &str) -> Option<Zeroizing<[u8; LENGTH]>> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    match Base64UrlUnpadded::decode(text, &mut *bytes) {
        Ok(decoded) if decoded.len() == LENGTH => Some(bytes),
        Ok(_) | Err(_) => None,
    }
}
