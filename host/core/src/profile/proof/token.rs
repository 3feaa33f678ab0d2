//! The tokens that the host makes for requests: DPoP proofs, client assertions, and those of GitHub Apps. Not the profile `jws`: nothing
//! in these is an agent's but, in a DPoP proof, the method and path of its request.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{ASSERTION_LIFE, GITHUB_APP_LIFE, GITHUB_APP_SKEW, MAX_NONCE};
use crate::http::{Method, Origin, Target};
use crate::key::Algorithm;
use crate::profile::{Finish, FrameContext, FrameError, Framed, Profile, audience_origin};
use crate::secret::Secret;

/// The `typ` of a DPoP proof (RFC 9449 §4.2).
pub const DPOP_TYPE: &str = "dpop+jwt";

/// What a DPoP proof is for.
#[derive(Clone, Copy)]
pub struct Possession<'a> {
    /// `htm`.
    pub method: Method,
    /// `htu`, without the query.
    pub target: &'a Target,
    /// The access token that goes with it, whose digest is `ath`. None at a token endpoint.
    pub token: Option<&'a Secret>,
    /// The nonce that the server demanded (RFC 9449 §8).
    pub nonce: Option<&'a str>,
}

impl std::fmt::Debug for Possession<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Possession")
            .field("method", &self.method)
            .field("bound", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

/// Frames a DPoP proof (RFC 9449 §4.2); finished, it is the value of the field `dpop`.
///
/// # Errors
/// When the key is for something else, or the nonce is over [`MAX_NONCE`] bytes or not one by RFC 9449 §8.1.
pub fn dpop(
    profile: &Profile,
    request: &Possession<'_>,
    context: &FrameContext<'_>,
) -> Result<Framed, FrameError> {
    let Profile::Dpop {} = profile else {
        return Err(other("dpop", profile));
    };
    profile_takes(profile, context)?;
    let mut payload = json!({
        "jti": identifier(context),
        "htm": request.method.as_str(),
        "htu": format!("{}{}", request.target.origin(), request.target.path()),
        "iat": context.now.as_second(),
    });
    let mut add = |name: &str, value: &str| {
        if let Some(members) = payload.as_object_mut() {
            members.insert(name.to_owned(), value.into());
        }
    };
    if let Some(token) = request.token {
        add(
            "ath",
            &Base64UrlUnpadded::encode_string(&Sha256::digest(token.expose())),
        );
    }
    if let Some(nonce) = request.nonce {
        add("nonce", checked_nonce(nonce)?);
    }
    let header = format!(
        r#"{{"typ":"{DPOP_TYPE}","alg":"{}","jwk":{}}}"#,
        context.key.algorithm().jose(),
        context.key.canonical_jwk()
    );
    Ok(framed(&header, &payload, context))
}

/// Frames a client assertion (RFC 7523 §3) that is about to be sent to `endpoint`; finished, it is the value of `client_assertion`.
///
/// # Errors
/// When the key is for something else, or for another authorization server.
pub fn client_assertion(
    profile: &Profile,
    endpoint: &Origin,
    context: &FrameContext<'_>,
) -> Result<Framed, FrameError> {
    let Profile::ClientAssertion {
        client_id,
        audience,
        typ,
    } = profile
    else {
        return Err(other("client-assertion", profile));
    };
    profile_takes(profile, context)?;
    // Who gets an assertion can use it at its audience until it expires.
    going_to(
        &audience_origin(audience).map_err(|_| FrameError::Encoding)?,
        endpoint,
    )?;
    let issued = context.now.as_second();
    let payload = json!({
        "iss": client_id.as_str(),
        "sub": client_id.as_str(),
        "aud": audience.as_str(),
        "iat": issued,
        "exp": issued.saturating_add(ASSERTION_LIFE),
        "jti": identifier(context),
    });
    let header = format!(
        r#"{{"kid":"{}","alg":"{}","typ":"{}"}}"#,
        context.key.thumbprint(),
        context.key.algorithm().jose(),
        typ.as_str()
    );
    Ok(framed(&header, &payload, context))
}

/// Frames the token of a GitHub App that is about to be sent to `api`; finished, it is a bearer token.
///
/// # Errors
/// When the key is for something else, or for another API.
pub fn github_app(profile: &Profile, api: &Origin, context: &FrameContext<'_>) -> Result<Framed, FrameError> {
    let Profile::GithubApp { app, origin } = profile else {
        return Err(other("github-app", profile));
    };
    profile_takes(profile, context)?;
    // The token names no audience: who gets it can use it at GitHub.
    going_to(origin, api)?;
    let issued = context.now.as_second().saturating_sub(GITHUB_APP_SKEW);
    let payload = json!({
        "iss": app.as_str(),
        "iat": issued,
        "exp": issued.saturating_add(GITHUB_APP_LIFE),
    });
    Ok(framed(r#"{"typ":"JWT","alg":"RS256"}"#, &payload, context))
}

pub(in crate::profile) fn framed(header: &str, payload: &Value, context: &FrameContext<'_>) -> Framed {
    let mut message = Base64UrlUnpadded::encode_string(header.as_bytes());
    message.push('.');
    message.push_str(&Base64UrlUnpadded::encode_string(payload.to_string().as_bytes()));
    // The content is the host's own: its digest on the log is that of what is signed.
    let content = message.clone();
    Framed::new(message.into_bytes(), Finish::Jws, context.key, content.as_bytes())
}

fn identifier(context: &FrameContext<'_>) -> String {
    Base64UrlUnpadded::encode_string(&context.nonce)
}

/// `NQCHAR` of RFC 6749, as RFC 9449 §8.1 has it: nothing that ends a string of JSON.
fn checked_nonce(nonce: &str) -> Result<&str, FrameError> {
    let fits = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    if nonce.is_empty() || nonce.len() > MAX_NONCE || !nonce.bytes().all(fits) {
        return Err(FrameError::Nonce);
    }
    Ok(nonce)
}

fn going_to(allowed: &Origin, asked: &Origin) -> Result<(), FrameError> {
    if allowed == asked {
        return Ok(());
    }
    Err(FrameError::Destination {
        allowed: allowed.clone(),
        asked: asked.clone(),
    })
}

pub(super) fn profile_takes(profile: &Profile, context: &FrameContext<'_>) -> Result<(), FrameError> {
    let algorithm: Algorithm = context.key.algorithm();
    profile
        .accept(algorithm)
        .map_err(|_| FrameError::Algorithm(algorithm))
}

pub(super) const fn other(expected: &'static str, profile: &Profile) -> FrameError {
    FrameError::Profile {
        expected,
        found: profile.kind(),
    }
}
