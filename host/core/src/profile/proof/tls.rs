//! What a key of the profile `mtls` signs: the end of a TLS 1.3 handshake as a client, and the request for its certificate. Not a TLS
//! library, and not a server's handshake: that has another context string, which is refused.

use std::str::FromStr as _;

use x509_cert::Certificate;
use x509_cert::der::asn1::BitString;
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode as _, Encode as _, EncodePem as _};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, ObjectIdentifier, SubjectPublicKeyInfoOwned};

use super::MAX_SUBJECT;
use super::token::{other, profile_takes};
use crate::key::{KeyError, PublicKey, Signature};
use crate::profile::{Finish, FrameContext, FrameError, Framed, Profile};

/// The context string of a client (RFC 8446 §4.4.3) with the zero byte after it.
const CLIENT: &[u8] = b"TLS 1.3, client CertificateVerify\0";
/// What precedes it, so that no signature of an older version can begin like this.
const PADDING: [u8; 64] = [0x20; 64];
/// ecdsa-with-SHA256 (RFC 5758 §3.2).
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");

/// Takes the content of a client's `CertificateVerify` for a key of the profile `mtls`: 64 spaces, the client's context string, a zero
/// byte, and a transcript's hash of 32 or 48 bytes. The scheme is `ecdsa_secp256r1_sha256`, whose signature is [`Signature::to_der`].
///
/// # Errors
/// When the key is for something else, or the content is anything else.
pub fn certificate_verify(
    profile: &Profile,
    content: &[u8],
    context: &FrameContext<'_>,
) -> Result<Framed, FrameError> {
    let Profile::Mtls {} = profile else {
        return Err(other("mtls", profile));
    };
    profile_takes(profile, context)?;
    let hash = content
        .strip_prefix(PADDING.as_slice())
        .and_then(|rest| rest.strip_prefix(CLIENT))
        .ok_or(FrameError::Handshake)?;
    if !matches!(hash.len(), 32 | 48) {
        return Err(FrameError::Handshake);
    }
    Ok(Framed::new(content.to_vec(), Finish::Raw, context.key, content))
}

/// Checks that a certificate (DER) is one of X.509 version 3 for this key, and not for another one of the same owner.
///
/// # Errors
/// When it is not a certificate of that version, or for another key.
pub fn certificate_is_for(certificate: &[u8], key: &PublicKey) -> Result<(), FrameError> {
    let certificate = Certificate::from_der(certificate).map_err(|_| FrameError::Certificate)?;
    let of = certificate
        .tbs_certificate
        .subject_public_key_info
        .to_der()
        .map_err(|_| FrameError::Certificate)?;
    // TLS libraries take no other version (RFC 5280 §4.1.2.1); `openssl x509` without extensions makes version 1.
    if certificate.tbs_certificate.version == x509_cert::Version::V3 && of == key.to_spki()? {
        Ok(())
    } else {
        Err(FrameError::Certificate)
    }
}

/// A request for a certificate, but for the signature.
#[derive(Debug, Clone)]
pub struct CertificateRequest {
    info: CertReqInfo,
}

impl CertificateRequest {
    /// The request as PEM (RFC 7468 §7), which an authority reads.
    ///
    /// # Errors
    /// When the signature is not one of P-256.
    pub fn finish(self, signature: &Signature) -> Result<String, KeyError> {
        let bytes = signature.to_der()?;
        CertReq {
            info: self.info,
            algorithm: AlgorithmIdentifierOwned {
                oid: ECDSA_WITH_SHA256,
                parameters: None,
            },
            signature: BitString::from_bytes(&bytes).map_err(|_| KeyError::Encoding)?,
        }
        .to_pem(LineEnding::LF)
        .map_err(|_| KeyError::Encoding)
    }
}

/// Frames a request for a certificate (RFC 2986) with this subject (RFC 4514, `CN=claviger,O=Acme` say) and no attributes.
///
/// # Errors
/// When the key is for something else, or the subject is empty, over [`MAX_SUBJECT`] bytes, or not a name.
pub fn certificate_request(
    profile: &Profile,
    subject: &str,
    context: &FrameContext<'_>,
) -> Result<(Framed, CertificateRequest), FrameError> {
    let Profile::Mtls {} = profile else {
        return Err(other("mtls", profile));
    };
    profile_takes(profile, context)?;
    if subject.is_empty() || subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
        return Err(FrameError::Subject);
    }
    let spki = context.key.to_spki()?;
    let info = CertReqInfo {
        version: Version::V1,
        subject: Name::from_str(subject).map_err(|_| FrameError::Subject)?,
        public_key: SubjectPublicKeyInfoOwned::from_der(&spki).map_err(|_| FrameError::Encoding)?,
        attributes: Default::default(),
    };
    let message = info.to_der().map_err(|_| FrameError::Encoding)?;
    let framed = Framed::new(message, Finish::Raw, context.key, subject.as_bytes());
    Ok((framed, CertificateRequest { info }))
}
