//! The fields of `inject` that say how a token is obtained (RFC 6749, 7523, 8693). Obtains none.

use super::inject::{key, secret};
use super::section::Section;
use crate::http::{ClientAuth, OAuth2, OAuthGrant, PathEncoding, Target};
use crate::manifest::fields::{self, Field};
use crate::manifest::problem::Report;

/// A client's name or an audience has at most this many bytes: they go into a form with every request for a token.
const MAX_WORD: usize = 1024;
/// What RFC 8693 calls an access token: the subject's, if nothing else is said.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Token types of RFC 8693 §3 begin so; others are names that a server made up.
const TOKEN_TYPE: &str = "urn:";

/// How a client proves itself, or what is exchanged, before the names are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    Basic,
    Post,
    PrivateKeyJwt,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    ClientCredentials,
    RefreshToken,
    TokenExchange,
}

pub(super) fn read(section: &Section<'_, '_>, report: &mut Report) -> Option<OAuth2> {
    let flow = section.read(fields::OAUTH2, report, |text| match text {
        "client-credentials" => Ok(Flow::ClientCredentials),
        "refresh-token" => Ok(Flow::RefreshToken),
        "token-exchange" => Ok(Flow::TokenExchange),
        _ => Err("expected `client-credentials`, `refresh-token` or `token-exchange`".to_owned()),
    });
    let auth = section.read(fields::AUTH, report, |text| match text {
        "basic" => Ok(Auth::Basic),
        "post" => Ok(Auth::Post),
        "private-key-jwt" => Ok(Auth::PrivateKeyJwt),
        "none" => Ok(Auth::None),
        _ => Err("expected `basic`, `post`, `private-key-jwt` or `none`".to_owned()),
    });
    let (flow, auth) = (
        flow.map(toml::Spanned::into_inner),
        auth.map(toml::Spanned::into_inner),
    );
    let endpoint = section.read(fields::TOKEN_ENDPOINT, report, endpoint);
    let client_id = section.read(fields::CLIENT_ID, report, word);
    let scope = section.read(fields::SCOPE, report, scope);
    let audience = section.read(fields::TOKEN_AUDIENCE, report, word);
    let auth = auth.and_then(|auth| read_auth(section, auth, report));
    let grant = flow.and_then(|flow| read_grant(section, flow, report));
    if flow == Some(Flow::ClientCredentials) && auth == Some(ClientAuth::None) {
        let why = "it is `none` beside `client-credentials`, which a client gets only for proving itself (RFC 6749 §4.4)";
        section.conflict(fields::AUTH, &why, "nothing proves the client", "", report);
    }
    // Left out where one was given and cannot be had: the report holds why.
    Some(OAuth2 {
        endpoint: endpoint?.into_inner(),
        client_id: client_id?.into_inner(),
        auth: auth?,
        grant: grant?,
        scope: scope.map(toml::Spanned::into_inner),
        audience: audience.map(toml::Spanned::into_inner),
    })
}

fn read_auth(section: &Section<'_, '_>, auth: Auth, report: &mut Report) -> Option<ClientAuth> {
    let (needed, others): (Option<Field>, &[Field]) = match auth {
        Auth::Basic | Auth::Post => (Some(fields::CLIENT_SECRET), &[fields::CLIENT_KEY]),
        Auth::PrivateKeyJwt => (Some(fields::CLIENT_KEY), &[fields::CLIENT_SECRET]),
        Auth::None => (None, &[fields::CLIENT_SECRET, fields::CLIENT_KEY]),
    };
    refuse(section, others, fields::AUTH, report);
    section.require(needed.as_slice(), report);
    Some(match auth {
        Auth::Basic => ClientAuth::Basic(secret(section, fields::CLIENT_SECRET, report)?),
        Auth::Post => ClientAuth::Post(secret(section, fields::CLIENT_SECRET, report)?),
        Auth::PrivateKeyJwt => ClientAuth::PrivateKeyJwt(key(section, fields::CLIENT_KEY, report)?),
        Auth::None => ClientAuth::None,
    })
}

fn read_grant(section: &Section<'_, '_>, flow: Flow, report: &mut Report) -> Option<OAuthGrant> {
    let subject = &[fields::SUBJECT_TOKEN, fields::SUBJECT_TOKEN_TYPE];
    match flow {
        Flow::ClientCredentials => {
            refuse(section, &[fields::REFRESH_TOKEN], fields::OAUTH2, report);
            refuse(section, subject, fields::OAUTH2, report);
            Some(OAuthGrant::ClientCredentials)
        }
        Flow::RefreshToken => {
            refuse(section, subject, fields::OAUTH2, report);
            section.require(&[fields::REFRESH_TOKEN], report);
            secret(section, fields::REFRESH_TOKEN, report).map(OAuthGrant::RefreshToken)
        }
        Flow::TokenExchange => {
            refuse(section, &[fields::REFRESH_TOKEN], fields::OAUTH2, report);
            section.require(&[fields::SUBJECT_TOKEN], report);
            let subject_type = section.read(fields::SUBJECT_TOKEN_TYPE, report, |text| {
                let read = word(text)?;
                if !read.starts_with(TOKEN_TYPE) {
                    return Err(format!("expected a URN such as `{ACCESS_TOKEN}`"));
                }
                Ok(read)
            });
            Some(OAuthGrant::TokenExchange {
                subject: secret(section, fields::SUBJECT_TOKEN, report)?,
                subject_type: subject_type.map_or_else(|| ACCESS_TOKEN.to_owned(), toml::Spanned::into_inner),
            })
        }
    }
}

/// Reports fields that go with another choice.
fn refuse(section: &Section<'_, '_>, others: &[Field], choice: Field, report: &mut Report) {
    let chosen = section
        .get(choice)
        .and_then(|value| value.get_ref().as_str())
        .unwrap_or_default();
    for field in others.iter().filter(|field| section.get(**field).is_some()) {
        let why = format!("it does not go with `{} = \"{chosen}\"`", choice.name);
        section.conflict(
            *field,
            &why,
            "of another choice",
            "remove it: nothing would use it",
            report,
        );
    }
}

/// RFC 6749 §3.2; without a query, so that nothing but the form says what is asked for.
fn endpoint(text: &str) -> Result<Target, String> {
    let target = Target::parse(text, PathEncoding::Refused).map_err(|error| error.to_string())?;
    if target.to_string() != text || text.contains('?') {
        return Err("expected a URL with a path and without a query".to_owned());
    }
    Ok(target)
}

/// RFC 6749 appendix A: visible characters and spaces.
fn word(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_graphic() || b == b' ';
    if text.is_empty() || text.len() > MAX_WORD || !text.bytes().all(fits) {
        return Err(format!("expected 1 to {MAX_WORD} visible ASCII characters"));
    }
    Ok(text.to_owned())
}

/// RFC 6749 §3.3.
fn scope(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    let words = text
        .split(' ')
        .all(|word| !word.is_empty() && word.bytes().all(fits));
    if text.len() > MAX_WORD || !words {
        return Err(format!(
            "expected at most {MAX_WORD} characters: words with one space between them, without \" and \\"
        ));
    }
    Ok(text.to_owned())
}
