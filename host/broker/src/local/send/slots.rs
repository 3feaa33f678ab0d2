//! What is attached to a request: the credential in its slot, or a proof made with it. Only from what the operator wrote and the
//! broker decided: nothing of an agent chooses a format or a place.

use base64ct::{Base64, Encoding as _};
use claviger_core::egress::Slot;
use claviger_core::http::{HeaderName, Injection, WebhookScheme};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::secret::SecretError;
use claviger_core::{Refusal, Secret};
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use rand_core::{OsRng, RngCore as _};
use sha2::Sha256;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What the slots are filled from: the one secret of the injection, or the token that was obtained for it.
pub(super) struct Filling<'a> {
    pub(super) value: &'a Arc<Secret>,
    /// The body, where it was read whole.
    pub(super) body: &'a [u8],
    pub(super) now: Timestamp,
}

/// Fills the slots of a request.
pub(super) fn fill(inject: &Injection, with: &Filling<'_>) -> Result<Vec<Slot>, Denial> {
    let value = with.value.expose();
    match inject {
        Injection::Bearer { .. } | Injection::OAuth2(_) | Injection::GithubApp(_) => {
            Ok(vec![field("authorization", &[b"Bearer ", value])?])
        }
        Injection::Basic { user, .. } => {
            let pair = Zeroizing::new([user.as_bytes(), b":", value].concat());
            let mut encoded = Zeroizing::new(vec![0; Base64::encoded_len(&pair)]);
            Base64::encode(&pair, &mut encoded).map_err(|_| failed("the password is too long"))?;
            Ok(vec![field("authorization", &[b"Basic ", &encoded])?])
        }
        Injection::Header { name, .. } => Ok(vec![Slot::Header {
            name: name.clone(),
            value: joined(&[value])?,
        }]),
        Injection::Query { key, .. } => Ok(vec![Slot::Query {
            key: key.clone(),
            value: joined(&[value])?,
        }]),
        Injection::AwsSigV4(scope) => Ok(vec![Slot::AwsSigV4 {
            scope: scope.clone(),
            secret: Arc::clone(with.value),
            time: with.now.as_second(),
        }]),
        Injection::WebhookHmac { scheme, .. } => webhook(*scheme, with),
        // RFC 9449 §7.1; the proof is beside it.
        Injection::Dpop { .. } => Ok(vec![field("authorization", &[b"DPoP ", value])?]),
        // The signature is all that is attached, or the connection.
        Injection::HttpSignature { .. } | Injection::Mtls { .. } => Ok(Vec::new()),
    }
}

fn webhook(scheme: WebhookScheme, with: &Filling<'_>) -> Result<Vec<Slot>, Denial> {
    let time = with.now.as_second().to_string();
    let time = time.as_bytes();
    let body = with.body;
    let key = with.value.expose();
    match scheme {
        WebhookScheme::Github => {
            let mac = hex::encode(mac(key, &[body])?);
            Ok(vec![field("x-hub-signature-256", &[b"sha256=", mac.as_bytes()])?])
        }
        WebhookScheme::Stripe => {
            let mac = hex::encode(mac(key, &[time, b".", body])?);
            Ok(vec![field(
                "stripe-signature",
                &[b"t=", time, b",v1=", mac.as_bytes()],
            )?])
        }
        WebhookScheme::Slack => {
            let mac = hex::encode(mac(key, &[b"v0:", time, b":", body])?);
            Ok(vec![
                field("x-slack-request-timestamp", &[time])?,
                field("x-slack-signature", &[b"v0=", mac.as_bytes()])?,
            ])
        }
        WebhookScheme::Standard => {
            let mut random = [0; 16];
            OsRng
                .try_fill_bytes(&mut random)
                .map_err(|_| failed("the system gives no random numbers"))?;
            let id = format!("msg_{}", hex::encode(random));
            let mac = mac(&standard_key(key)?, &[id.as_bytes(), b".", time, b".", body])?;
            let encoded = Base64::encode_string(&mac);
            Ok(vec![
                field("webhook-id", &[id.as_bytes()])?,
                field("webhook-timestamp", &[time])?,
                field("webhook-signature", &[b"v1,", encoded.as_bytes()])?,
            ])
        }
    }
}

/// Standard Webhooks writes keys as `whsec_` and base64 of the bytes.
pub(super) fn standard_key(key: &[u8]) -> Result<Zeroizing<Vec<u8>>, Denial> {
    let Some(text) = key.strip_prefix(b"whsec_") else {
        return Ok(Zeroizing::new(key.to_vec()));
    };
    let mut bytes = Zeroizing::new(vec![0; text.len()]);
    let length = Base64::decode(text, &mut bytes)
        .map_err(|_| failed("the secret is not `whsec_` and base64"))?
        .len();
    bytes.truncate(length);
    Ok(bytes)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Result<[u8; 32], Denial> {
    let mut mac =
        <Hmac<Sha256> as hmac::Mac>::new_from_slice(key).map_err(|_| failed("the secret is no key"))?;
    for part in parts {
        mac.update(part);
    }
    Ok(mac.finalize().into_bytes().into())
}

pub(super) fn field(name: &str, parts: &[&[u8]]) -> Result<Slot, Denial> {
    let name: HeaderName = name.parse().map_err(|_| failed("a slot has no name"))?;
    let value = joined(parts)?;
    Ok(Slot::Header { name, value })
}

fn joined(parts: &[&[u8]]) -> Result<Secret, Denial> {
    let length = parts.iter().map(|part| part.len()).sum();
    Secret::fill_with(length, |bytes| {
        let mut rest = bytes;
        for part in parts {
            let Some((here, after)) = rest.split_at_mut_checked(part.len()) else {
                return Err(SecretError::Length(length));
            };
            here.copy_from_slice(part);
            rest = after;
        }
        Ok(())
    })
    .map_err(|error: SecretError| failed(&error.to_string()))
}

fn failed(text: &str) -> Denial {
    Denial::new(Refusal::Unavailable, Rule::SecretState, text)
}
