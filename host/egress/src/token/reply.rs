//! The answer of an authorization server, read strictly: a token of the kind that was asked for, or nothing. Quotes none of it.

use std::borrow::Cow;

use claviger_core::Secret;
use claviger_core::egress::{Fault, Token, TokenAnswer};
use http::{HeaderMap, Response, StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroize as _;

use crate::nonce;

/// An access token has at most this many bytes: it goes into a header field, and servers accept no more.
const MAX_TOKEN: usize = 16 * 1024;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// RFC 6749 §5.1; bound to a key if there was a proof (RFC 9449 §5).
    OAuth2 { bound: bool },
    /// An installation token of GitHub.
    Github,
}

/// A string of JSON, borrowed from the answer unless it has escapes; wiped then.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.0 {
            text.zeroize();
        }
    }
}

#[derive(Deserialize)]
struct OAuthReply<'a> {
    #[serde(borrow)]
    access_token: Text<'a>,
    #[serde(borrow)]
    token_type: Text<'a>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// What is read by itself, whatever else there is: the refresh token before it may be dead.
#[derive(Deserialize)]
struct Rotation<'a> {
    #[serde(default, borrow)]
    refresh_token: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct GithubReply<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    #[serde(borrow)]
    expires_at: Text<'a>,
}

/// An error of an authorization server (RFC 6749 §5.2), of which one word is looked at.
#[derive(Deserialize)]
struct ErrorReply<'a> {
    #[serde(borrow)]
    error: Cow<'a, str>,
}

/// Checks that the head may be one of an answer with a token.
pub(super) fn head(head: &Response<()>) -> Result<(), Fault> {
    match head.status() {
        StatusCode::OK | StatusCode::CREATED => Ok(()),
        _ => Err(Fault::Token),
    }
}

/// The nonce, if the head may be one of an answer that demands one (RFC 9449 §8).
pub(super) fn wanted_nonce(head: &Response<()>) -> Option<String> {
    if head.status() != StatusCode::BAD_REQUEST || !is_json(head) {
        return None;
    }
    nonce::supplied(head.headers())
}

/// Checks that the body demands a nonce, and says no other error.
pub(super) fn use_dpop_nonce(body: &[u8]) -> Result<(), Fault> {
    let reply: ErrorReply<'_> = serde_json::from_slice(body).map_err(|_| Fault::Token)?;
    if reply.error == "use_dpop_nonce" {
        return Ok(());
    }
    Err(Fault::Token)
}

fn is_json(head: &Response<()>) -> bool {
    head.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
        let kind = value
            .as_bytes()
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
    })
}

/// The token in an answer; or, if there is none that can be used, the refresh token that came with it.
pub(super) fn token(head: &Response<()>, body: &[u8], kind: Kind) -> Result<TokenAnswer, Fault> {
    let refresh = match kind {
        Kind::OAuth2 { .. } => refresh(body),
        Kind::Github => Ok(None),
    };
    let access = if is_json(head) {
        access(head, body, kind)
    } else {
        Err(Fault::Token)
    };
    match (access, refresh) {
        (Ok(token), Ok(refresh)) => Ok(TokenAnswer::Given(Token { refresh, ..token })),
        (Err(_), Ok(Some(refresh))) => Ok(TokenAnswer::Rotated(refresh)),
        (Ok(_), Err(fault)) | (Err(fault), Ok(None) | Err(_)) => Err(fault),
    }
}

fn refresh(body: &[u8]) -> Result<Option<Secret>, Fault> {
    let rotation: Rotation<'_> = serde_json::from_slice(body).map_err(|_| Fault::Token)?;
    rotation.refresh_token.as_ref().map(secret).transpose()
}

fn access(head: &Response<()>, body: &[u8], kind: Kind) -> Result<Token, Fault> {
    match kind {
        Kind::OAuth2 { bound } => {
            let reply: OAuthReply<'_> = serde_json::from_slice(body).map_err(|_| Fault::Token)?;
            // A token that is not bound as asked would be one that whoever finds it can use.
            let expected = if bound { "dpop" } else { "bearer" };
            if !reply.token_type.0.eq_ignore_ascii_case(expected) {
                return Err(Fault::Token);
            }
            Ok(Token {
                access: usable(&reply.access_token)?,
                // What cannot be read is unsaid.
                expires_in: reply.expires_in.as_ref().and_then(seconds),
                refresh: None,
                dpop_nonce: nonce::supplied(head.headers()),
            })
        }
        Kind::Github => {
            let reply: GithubReply<'_> = serde_json::from_slice(body).map_err(|_| Fault::Token)?;
            Ok(Token {
                access: usable(&reply.token)?,
                expires_in: Some(left(head.headers(), &reply.expires_at.0)?),
                refresh: None,
                dpop_nonce: None,
            })
        }
    }
}

/// A token that can stand in a header field (RFC 6750 §2.1).
fn usable(text: &Text<'_>) -> Result<Secret, Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if text.0.len() > MAX_TOKEN || !text.0.bytes().all(fits) {
        return Err(Fault::Token);
    }
    secret(text)
}

/// Any text but none.
fn secret(text: &Text<'_>) -> Result<Secret, Fault> {
    let bytes = text.0.as_bytes();
    Secret::fill_with(bytes.len(), |out| {
        out.copy_from_slice(bytes);
        Ok::<_, claviger_core::secret::SecretError>(())
    })
    .map_err(|_| Fault::Token)
}

/// A number, as the standard says, or digits, as some servers do.
fn seconds(value: &serde_json::Value) -> Option<u64> {
    match value {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(digits) => digits.parse().ok(),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    }
}

/// Seconds until a moment by the server's own clock, which its answer must tell: ours may differ.
fn left(headers: &HeaderMap, until: &str) -> Result<u64, Fault> {
    let now = headers.get(header::DATE).and_then(|value| value.to_str().ok());
    let now = now.and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
    let until: Timestamp = until.parse().map_err(|_| Fault::Token)?;
    let left = until.as_second() - now.ok_or(Fault::Token)?.timestamp().as_second();
    u64::try_from(left).map_err(|_| Fault::Token)
}
