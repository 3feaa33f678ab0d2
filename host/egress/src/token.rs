//! Tokens from authorization servers: the request, and the one kind of answer that is taken. What comes back stays in the host; no
//! text of a server is in an error.
//!
//! Forms are encoded piece by piece into locked memory, and answers are borrowed from a buffer that is wiped. The crate `oauth2` keeps
//! both in strings that are not, and knows neither token exchange nor client assertions.

mod reply;

use std::sync::Arc;

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use claviger_core::egress::{
    Fault, Outgoing, SendError, Slot, TokenAnswer, TokenPlan, TokenRequest, TokenSecrets,
};
use claviger_core::http::{
    AnswerRule, ClientAuth, GithubApp, HeaderName, Method, OAuth2, OAuthGrant, PathEncoding, Target,
};
use claviger_core::manifest;
use claviger_core::secret::SecretError;
use claviger_core::{Permit, Secret};
use form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

use crate::body::{Piece, Reading};
use crate::request::{INVALID, Written};
use crate::scrub::Watched;
use crate::{HttpsClient, answer, locked};

/// The answer of a token endpoint has at most this many bytes: a token of a directory with hundreds of groups has 16 KiB.
const MAX_REPLY: usize = 64 * 1024;

/// Asks for a token, once.
///
/// # Errors
/// How the exchange failed; [`Fault::Token`] for any answer but a token of the kind that was asked for, or a demand for a nonce
/// where there was a proof.
pub(crate) async fn obtain(
    client: &HttpsClient,
    permit: &Permit,
    plan: TokenPlan,
) -> Result<TokenAnswer, SendError> {
    let TokenPlan {
        destination,
        request,
        secrets,
        assertion,
        dpop,
    } = plan;
    let bound = dpop.is_some();
    let (mut written, kind) = match &request {
        TokenRequest::OAuth2(oauth) => (
            oauth_request(oauth, &secrets, assertion.as_ref())?,
            reply::Kind::OAuth2 { bound },
        ),
        TokenRequest::GithubApp(app) => {
            let target = format!(
                "{}/app/installations/{}/access_tokens",
                destination.origin, app.installation
            );
            (
                github_request(&target, app, assertion.as_ref())?,
                reply::Kind::Github,
            )
        }
    };
    if let Some(proof) = dpop {
        written.slots.push(slot("dpop", proof)?);
    }
    // Nothing is looked for: what comes back is a secret itself, and goes nowhere.
    let nothing = Arc::new(Watched::new(&[]).map_err(|_| INVALID)?);
    let (head, reading) = client.exchange(permit, &destination, written, &nothing).await?;
    let rule = AnswerRule {
        max: manifest::Bytes(MAX_REPLY as u64),
        headers: Vec::new(),
    };
    answer::checked(&head, Method::Post, &rule, &nothing)?;
    if bound && let Some(nonce) = reply::wanted_nonce(&head) {
        let body = whole(reading).await?;
        reply::use_dpop_nonce(&body)?;
        return Ok(TokenAnswer::NonceDemanded(nonce));
    }
    reply::head(&head)?;
    let body = whole(reading).await?;
    Ok(reply::token(&head, &body, kind)?)
}

/// All of a body, in memory that is wiped and never moved.
async fn whole(mut reading: Reading) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut body = Zeroizing::new(Vec::with_capacity(MAX_REPLY));
    while let Some(piece) = std::future::poll_fn(|cx| reading.poll_piece(cx)).await {
        match piece? {
            Piece::Data(bytes) if body.len() + bytes.len() <= MAX_REPLY => body.extend_from_slice(&bytes),
            Piece::Data(_) => return Err(Fault::BodyTooLarge),
            Piece::Trailers(_) => {}
        }
    }
    Ok(body)
}

fn oauth_request(
    oauth: &OAuth2,
    secrets: &TokenSecrets,
    assertion: Option<&Secret>,
) -> Result<Written, SendError> {
    let client = || secrets.client.as_deref().ok_or(INVALID);
    let grant = || secrets.grant.as_deref().ok_or(INVALID);
    let mut pairs: Vec<(&str, &[u8])> = Vec::new();
    match &oauth.grant {
        OAuthGrant::ClientCredentials => pairs.push(("grant_type", b"client_credentials")),
        OAuthGrant::RefreshToken(_) => {
            pairs.push(("grant_type", b"refresh_token"));
            pairs.push(("refresh_token", grant()?.expose()));
        }
        OAuthGrant::TokenExchange { subject_type, .. } => {
            pairs.push(("grant_type", b"urn:ietf:params:oauth:grant-type:token-exchange"));
            pairs.push(("subject_token", grant()?.expose()));
            pairs.push(("subject_token_type", subject_type.as_bytes()));
        }
    }
    if let Some(scope) = &oauth.scope {
        pairs.push(("scope", scope.as_bytes()));
    }
    if let Some(audience) = &oauth.audience {
        pairs.push(("audience", audience.as_bytes()));
    }
    let mut slots = Vec::new();
    match &oauth.auth {
        ClientAuth::Basic(_) => slots.push(slot("authorization", basic(&oauth.client_id, client()?)?)?),
        ClientAuth::Post(_) => {
            pairs.push(("client_id", oauth.client_id.as_bytes()));
            pairs.push(("client_secret", client()?.expose()));
        }
        ClientAuth::PrivateKeyJwt(_) => {
            let assertion = assertion.ok_or(INVALID)?;
            pairs.push(("client_id", oauth.client_id.as_bytes()));
            pairs.push((
                "client_assertion_type",
                b"urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ));
            pairs.push(("client_assertion", assertion.expose()));
        }
        ClientAuth::None => pairs.push(("client_id", oauth.client_id.as_bytes())),
    }
    let body = locked::gather(|| {
        pairs.iter().enumerate().flat_map(|(at, (key, value))| {
            let separator: &[u8] = if at == 0 { b"" } else { b"&" };
            [separator, key.as_bytes(), b"="]
                .into_iter()
                .chain(byte_serialize(value).map(str::as_bytes))
        })
    })?;
    Ok(Written {
        method: Method::Post,
        target: oauth.endpoint.clone(),
        headers: vec![
            field("accept", "application/json")?,
            field("content-type", "application/x-www-form-urlencoded")?,
            field("user-agent", USER_AGENT)?,
        ],
        slots,
        body: Outgoing::Whole(locked::bytes(body)),
    })
}

/// Some servers refuse whoever says nothing. No version: it is nobody's to know.
const USER_AGENT: &str = "claviger";

fn github_request(target: &str, app: &GithubApp, assertion: Option<&Secret>) -> Result<Written, SendError> {
    let assertion = assertion.ok_or(INVALID)?;
    let bearer = locked::gather(|| [b"Bearer ".as_slice(), assertion.expose()].into_iter())?;
    let mut wanted = serde_json::Map::new();
    if !app.repositories.is_empty() {
        wanted.insert("repositories".to_owned(), app.repositories.clone().into());
    }
    if !app.permissions.is_empty() {
        let permissions = app
            .permissions
            .iter()
            .map(|(name, level)| (name.clone(), level.clone().into()));
        wanted.insert(
            "permissions".to_owned(),
            serde_json::Value::Object(permissions.collect()),
        );
    }
    Ok(Written {
        method: Method::Post,
        target: Target::parse(target, PathEncoding::Refused).map_err(|_| INVALID)?,
        headers: vec![
            field("accept", "application/vnd.github+json")?,
            field("content-type", "application/json")?,
            field("user-agent", USER_AGENT)?,
            field("x-github-api-version", "2022-11-28")?,
        ],
        slots: vec![slot("authorization", bearer)?],
        body: Outgoing::Whole(Bytes::from(serde_json::Value::Object(wanted).to_string())),
    })
}

/// `client_secret_basic`: both parts form-encoded, then joined, then in base64 (RFC 6749 §2.3.1).
fn basic(client_id: &str, secret: &Secret) -> Result<Secret, SendError> {
    let pair = locked::gather(|| {
        byte_serialize(client_id.as_bytes())
            .chain([":"])
            .chain(byte_serialize(secret.expose()))
            .map(str::as_bytes)
    })?;
    let scheme = b"Basic ";
    let len = scheme.len() + pair.len().div_ceil(3) * 4;
    let header = Secret::fill_with(len, |out| {
        let (start, rest) = out
            .split_at_mut_checked(scheme.len())
            .ok_or(SecretError::Length(len))?;
        start.copy_from_slice(scheme);
        Base64::encode(pair.expose(), rest)
            .map(|_| ())
            .map_err(|_| SecretError::Length(len))
    });
    header.map_err(|_| locked::UNAVAILABLE)
}

fn name(name: &str) -> Result<HeaderName, SendError> {
    name.parse().map_err(|_| INVALID)
}

fn slot(field: &str, value: Secret) -> Result<Slot, SendError> {
    Ok(Slot::Header {
        name: name(field)?,
        value,
    })
}

fn field(field: &str, value: &str) -> Result<(HeaderName, Vec<u8>), SendError> {
    Ok((name(field)?, value.as_bytes().to_vec()))
}
