//! Compact JWS (RFC 7515) over JSON claims (RFC 7519, RFC 8725). Not a general signer of JSON: the host owns the header and the
//! registered claims, the agent the rest.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::Value;

use crate::json::{self, StrictError};
use crate::key::{Algorithm, Signature};
use crate::name::{Principal, TokenType};
use crate::profile::{FrameContext, FrameError};

/// The registered claims (RFC 7519 §4.1), and those that make a token speak for somebody or bind it to a key. A payload that
/// sets one is refused, not corrected: the agent's author should know.
const HOST_CLAIMS: [&str; 11] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "cnf",
    "act",
    "azp",
    "client_id",
];

pub(super) struct HostClaims<'a> {
    pub(super) issuer: &'a Principal,
    pub(super) audience: &'a Principal,
    pub(super) subject: Option<&'a Principal>,
    pub(super) ttl: u32,
}

/// The signing input: base64url(header) `.` base64url(payload).
pub(super) fn message(
    claims: &HostClaims<'_>,
    typ: &TokenType,
    content: &[u8],
    context: &FrameContext<'_>,
) -> Result<Vec<u8>, FrameError> {
    let mut payload = match json::strict(content) {
        Ok(Value::Object(payload)) => payload,
        Ok(_) | Err(StrictError::Syntax | StrictError::Values) => return Err(FrameError::NotAnObject),
        Err(StrictError::Number) => return Err(FrameError::Number),
    };
    if let Some(claim) = HOST_CLAIMS.into_iter().find(|claim| payload.contains_key(*claim)) {
        return Err(FrameError::HostClaim(claim));
    }
    let issued = context.now.as_second();
    payload.insert("iss".into(), claims.issuer.as_str().into());
    payload.insert("aud".into(), claims.audience.as_str().into());
    if let Some(subject) = claims.subject {
        payload.insert("sub".into(), subject.as_str().into());
    }
    payload.insert("iat".into(), issued.into());
    payload.insert("exp".into(), issued.saturating_add(i64::from(claims.ttl)).into());
    payload.insert(
        "jti".into(),
        Base64UrlUnpadded::encode_string(&context.nonce).into(),
    );

    let alg = context.key.algorithm().jose();
    let header = serde_json::json!({ "alg": alg, "typ": typ.as_str(), "kid": context.key.thumbprint() });
    let mut message = Base64UrlUnpadded::encode_string(header.to_string().as_bytes());
    message.push('.');
    message.push_str(&Base64UrlUnpadded::encode_string(
        Value::Object(payload).to_string().as_bytes(),
    ));
    Ok(message.into_bytes())
}

/// How long [`compact`] makes a signature over this message, in bytes.
pub(super) const fn compact_length(message: &[u8], algorithm: Algorithm) -> usize {
    // Without padding, each begun group of six bits is a character.
    message.len() + 1 + (algorithm.signature_length() * 8).div_ceil(6)
}

/// The compact serialisation: the signing input, `.`, base64url(signature).
pub(super) fn compact(message: &[u8], signature: &Signature) -> Vec<u8> {
    let mut token = message.to_vec();
    token.push(b'.');
    token.extend_from_slice(Base64UrlUnpadded::encode_string(signature.as_bytes()).as_bytes());
    token
}
