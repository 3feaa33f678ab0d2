//! `inject` of a grant: how the host attaches a credential. Holds names; a credential itself has no place in a manifest.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::http::query_key;
use super::oauth;
use super::pem;
use super::section::{Section, quoted};
use crate::http::{AwsSigV4, DpopToken, GithubApp, HeaderName, Injection, NotAHeaderName, WebhookScheme};
use crate::manifest::fields::{self, Field};
use crate::manifest::problem::{Report, code};
use crate::manifest::quantity::parse_duration;
use crate::manifest::{MAX_LIST, MAX_REPOSITORIES};
use crate::name::{KeyName, SecretName};

/// A user's name has at most this many bytes: what fits into a header field beside a password.
const MAX_USER: usize = 255;
/// An access key's public half, a region or a service has at most this many bytes (AWS: 128).
const MAX_AWS: usize = 128;
/// GitHub's bound for the name of a repository.
const MAX_REPOSITORY: usize = 100;
/// A signature lives at most so long, in seconds: long enough for any request, too short to be kept.
const LIFETIME: RangeInclusive<u64> = 1..=300;
/// The life of a signature of which nothing is said, in seconds.
const DEFAULT_LIFETIME: u32 = 60;

/// One kind of injection: what it needs, and what it may have.
struct Kind {
    field: Field,
    needs: &'static [Field],
    may: &'static [Field],
}

const OAUTH2_NEEDS: &[Field] = &[fields::TOKEN_ENDPOINT, fields::CLIENT_ID, fields::AUTH];
const OAUTH2_MAY: &[Field] = &[
    fields::CLIENT_SECRET,
    fields::CLIENT_KEY,
    fields::REFRESH_TOKEN,
    fields::SUBJECT_TOKEN,
    fields::SUBJECT_TOKEN_TYPE,
    fields::SCOPE,
    fields::TOKEN_AUDIENCE,
];

const KINDS: [Kind; 11] = [
    kind(fields::BEARER, &[], &[]),
    kind(fields::BASIC, &[fields::USER], &[]),
    kind(fields::HEADER, &[fields::SECRET], &[]),
    kind(fields::QUERY, &[fields::SECRET], &[]),
    kind(fields::OAUTH2, OAUTH2_NEEDS, OAUTH2_MAY),
    kind(
        fields::GITHUB_APP,
        &[fields::INSTALLATION],
        &[fields::REPOSITORIES, fields::PERMISSIONS],
    ),
    kind(
        fields::AWS_SIGV4,
        &[fields::ACCESS_KEY_ID, fields::REGION, fields::SERVICE],
        &[],
    ),
    kind(fields::HTTP_SIGNATURE, &[], &[fields::LIFETIME]),
    // Its token is a secret, or obtained: then `oauth2` stands beside it with its fields.
    kind(fields::DPOP, &[], &[fields::TOKEN]),
    kind(fields::WEBHOOK_HMAC, &[fields::SCHEME], &[]),
    kind(fields::MTLS, &[fields::CERTIFICATE], &[]),
];

const fn kind(field: Field, needs: &'static [Field], may: &'static [Field]) -> Kind {
    Kind { field, needs, may }
}

impl Kind {
    fn has(&self, field: Field) -> bool {
        self.needs.contains(&field) || self.may.contains(&field)
    }
}

/// The injection, if there is one that can be had.
pub(super) fn read(grant: &Section<'_, '_>, alias: &str, report: &mut Report) -> Option<Injection> {
    let place = format!("`inject` of [grants.{alias}]");
    let section = grant.section(fields::INJECT_TABLE, place, fields::INJECT, report)?;
    let kinds = kinds(&section, report);
    let first = kinds.first()?;
    refuse_strays(&section, &kinds, report);
    for kind in &kinds {
        section.require(kind.needs, report);
    }
    let obtained = kinds.iter().any(|kind| kind.field == fields::OAUTH2);
    if first.field == fields::DPOP || kinds.get(1).is_some_and(|kind| kind.field == fields::DPOP) {
        return dpop(&section, obtained, report);
    }
    read_kind(&section, first.field, report)
}

/// The kinds that are there: one, or `dpop` with `oauth2`.
fn kinds(section: &Section<'_, '_>, report: &mut Report) -> Vec<&'static Kind> {
    static ALL: [Kind; 11] = KINDS;
    let given: Vec<&'static Kind> = ALL
        .iter()
        .filter(|kind| section.get(kind.field).is_some())
        .collect();
    let Some(first) = given.first() else {
        if !ALL.iter().any(|kind| section.has(kind.field)) {
            let all = ALL.each_ref().map(|kind| kind.field.name).join("`, `");
            report.error(
                code::MISSING_FIELD,
                section.span.clone(),
                format!("{} names no credential; expected one of `{all}`", section.place),
                "what is to be attached?",
                Some("for example `inject = { bearer = \"github-token\" }`".to_owned()),
            );
        }
        return given;
    };
    let bound = |kind: &Kind| kind.field == fields::OAUTH2 || kind.field == fields::DPOP;
    for other in given
        .iter()
        .skip(1)
        .filter(|other| !(bound(first) && bound(other)))
    {
        let why = format!(
            "it is there beside `{}`; expected one kind of credential",
            first.field.name
        );
        let help = "a request carries one credential; only `dpop` and `oauth2` go together";
        section.conflict(other.field, &why, "a second kind", help, report);
    }
    given
}

/// Fields that go with none of the kinds that are there.
fn refuse_strays(section: &Section<'_, '_>, kinds: &[&Kind], report: &mut Report) {
    for field in section.given(fields::INJECT) {
        let at_home = kinds.iter().any(|kind| kind.field == field || kind.has(field));
        if at_home {
            continue;
        }
        let homes: Vec<&str> = KINDS
            .iter()
            .filter(|kind| kind.has(field))
            .map(|kind| kind.field.name)
            .collect();
        let found: Vec<&str> = kinds.iter().map(|kind| kind.field.name).collect();
        let why = format!(
            "it goes with `{}`, not with `{}`",
            homes.join("` or `"),
            found.join("` and `")
        );
        section.conflict(
            field,
            &why,
            "of another kind",
            "remove it: nothing would use it",
            report,
        );
    }
}

fn read_kind(section: &Section<'_, '_>, kind: Field, report: &mut Report) -> Option<Injection> {
    if kind == fields::BEARER {
        let secret = secret(section, kind, report)?;
        return Some(Injection::Bearer { secret });
    }
    if kind == fields::BASIC {
        let secret = secret(section, kind, report);
        let user = section.read(fields::USER, report, user)?;
        return Some(Injection::Basic {
            user: user.into_inner(),
            secret: secret?,
        });
    }
    if kind == fields::HEADER {
        let name = section.read(kind, report, slot);
        let secret = secret(section, fields::SECRET, report)?;
        return Some(Injection::Header {
            name: name?.into_inner(),
            secret,
        });
    }
    if kind == fields::QUERY {
        let key = section.read(kind, report, query_key);
        let secret = secret(section, fields::SECRET, report)?;
        return Some(Injection::Query {
            key: key?.into_inner(),
            secret,
        });
    }
    if kind == fields::OAUTH2 {
        return oauth::read(section, report).map(Injection::OAuth2);
    }
    if kind == fields::GITHUB_APP {
        return github_app(section, report).map(Injection::GithubApp);
    }
    if kind == fields::AWS_SIGV4 {
        return aws(section, report).map(Injection::AwsSigV4);
    }
    if kind == fields::HTTP_SIGNATURE {
        let key = key(section, kind, report);
        let lifetime = section.read(fields::LIFETIME, report, lifetime);
        let lifetime = lifetime.map_or(DEFAULT_LIFETIME, Spanned::into_inner);
        return Some(Injection::HttpSignature { key: key?, lifetime });
    }
    if kind == fields::WEBHOOK_HMAC {
        let secret = secret(section, kind, report);
        let scheme = section.read(fields::SCHEME, report, |text| match text {
            "github" => Ok(WebhookScheme::Github),
            "stripe" => Ok(WebhookScheme::Stripe),
            "slack" => Ok(WebhookScheme::Slack),
            "standard" => Ok(WebhookScheme::Standard),
            _ => Err("expected `github`, `stripe`, `slack` or `standard`".to_owned()),
        })?;
        return Some(Injection::WebhookHmac {
            secret: secret?,
            scheme: scheme.into_inner(),
        });
    }
    let key = key(section, fields::MTLS, report);
    let chain = section.read_unquoted(fields::CERTIFICATE, report, pem::certificates)?;
    Some(Injection::Mtls { key: key?, chain })
}

fn dpop(section: &Section<'_, '_>, obtained: bool, report: &mut Report) -> Option<Injection> {
    let key = key(section, fields::DPOP, report);
    let token = section.get(fields::TOKEN).is_some();
    if obtained && token {
        let why =
            "it is there beside `oauth2`, with which the host obtains the token; expected one of the two";
        section.conflict(fields::TOKEN, &why, "a second token", "", report);
    }
    if !obtained && !section.has(fields::OAUTH2) && !token {
        section.missing(fields::TOKEN, report);
    }
    let token = if obtained {
        oauth::read(section, report).map(DpopToken::OAuth2)
    } else {
        secret(section, fields::TOKEN, report).map(DpopToken::Secret)
    };
    Some(Injection::Dpop {
        key: key?,
        token: token?,
    })
}

fn github_app(section: &Section<'_, '_>, report: &mut Report) -> Option<GithubApp> {
    let key = key(section, fields::GITHUB_APP, report);
    let installation = installation(section, report);
    let repositories = section.list(fields::REPOSITORIES, 1..=MAX_REPOSITORIES, report, |text| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if text.is_empty() || text.len() > MAX_REPOSITORY || !text.bytes().all(fits) {
            return Err(format!(
                "expected 1 to {MAX_REPOSITORY} characters of A-Z, a-z, 0-9 and . _ -, without the owner"
            ));
        }
        Ok(text.to_owned())
    });
    let permissions = permissions(section, report);
    Some(GithubApp {
        key: key?,
        installation: installation?,
        repositories: repositories.into_iter().map(Spanned::into_inner).collect(),
        permissions: permissions?,
    })
}

fn installation(section: &Section<'_, '_>, report: &mut Report) -> Option<u64> {
    let field = fields::INSTALLATION;
    let value = section.get(field)?;
    let Some(number) = value.get_ref().as_integer() else {
        section.wrong_type(field, value, report);
        return None;
    };
    let read = i64::from_str_radix(number.as_str(), number.radix())
        .ok()
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| *number > 0);
    if read.is_none() {
        let why = format!(
            "it is {}; expected a whole number from 1 to {}",
            quoted(&number.to_string()),
            i64::MAX
        );
        section.wrong_value(field, value.span(), &why, "out of range", report);
    }
    read
}

/// None if there is a table of which something cannot be had: an empty list would ask for all of them.
fn permissions(section: &Section<'_, '_>, report: &mut Report) -> Option<Vec<(String, String)>> {
    let field = fields::PERMISSIONS;
    let Some(value) = section.get(field) else {
        return Some(Vec::new());
    };
    let (table, _) = section.table(field, report)?;
    if !section.counted(field, value, table.len(), 1..=MAX_LIST, report) {
        return None;
    }
    let mut all = Vec::new();
    for (name, value) in table.iter() {
        let word = |b: u8| b.is_ascii_lowercase() || b == b'_';
        let name_fits = name.get_ref().len() <= 64 && name.get_ref().bytes().all(word);
        let level = value
            .get_ref()
            .as_str()
            .filter(|level| matches!(*level, "read" | "write"));
        match level {
            Some(level) if name_fits => all.push((name.get_ref().to_string(), level.to_owned())),
            Some(_) | None => {
                let why = format!(
                    "`{}` is not acceptable; expected a permission in lower case and `read` or `write`",
                    quoted(name.get_ref())
                );
                section.wrong_value(field, value.span(), &why, "not a permission", report);
            }
        }
    }
    (all.len() == table.len()).then_some(all)
}

fn aws(section: &Section<'_, '_>, report: &mut Report) -> Option<AwsSigV4> {
    let secret = secret(section, fields::AWS_SIGV4, report);
    let word = |more: &'static [u8], shown: &'static str| {
        move |text: &str| {
            let fits = |b: u8| {
                b.is_ascii_lowercase()
                    || b.is_ascii_digit()
                    || more.contains(&b)
                    || (more.is_empty() && b.is_ascii_uppercase())
            };
            if text.is_empty() || text.len() > MAX_AWS || !text.bytes().all(fits) {
                return Err(format!("expected 1 to {MAX_AWS} characters of {shown}"));
            }
            Ok(text.to_owned())
        }
    };
    let access_key_id = section.read(fields::ACCESS_KEY_ID, report, word(b"", "A-Z, a-z and 0-9"));
    let region = section.read(fields::REGION, report, word(b"-", "a-z, 0-9 and -"));
    let service = section.read(fields::SERVICE, report, word(b"-", "a-z, 0-9 and -"));
    Some(AwsSigV4 {
        access_key_id: access_key_id?.into_inner(),
        secret: secret?,
        region: region?.into_inner(),
        service: service?.into_inner(),
    })
}

/// The name of a secret. Whoever writes the secret itself there does not get it back in a message.
pub(super) fn secret(section: &Section<'_, '_>, field: Field, report: &mut Report) -> Option<SecretName> {
    section.read_unquoted(field, report, |text| {
        text.parse::<SecretName>()
            .map_err(|error| format!("{error}: the name of a secret in the keyring, never the secret itself"))
    })
}

pub(super) fn key(section: &Section<'_, '_>, field: Field, report: &mut Report) -> Option<KeyName> {
    section.read_unquoted(field, report, |text| {
        text.parse::<KeyName>()
            .map_err(|error| format!("{error}: the name of a key in the keyring, never the key itself"))
    })
}

/// RFC 7617 §2: no colon, which ends it; no character that a header field cannot hold.
fn user(text: &str) -> Result<String, String> {
    let fits = |b: u8| (b.is_ascii_graphic() || b == b' ') && b != b':';
    if text.is_empty() || text.len() > MAX_USER || !text.bytes().all(fits) {
        return Err(format!(
            "expected 1 to {MAX_USER} visible ASCII characters without a colon"
        ));
    }
    Ok(text.to_owned())
}

/// A header field of the API's own.
fn slot(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text.parse().map_err(|error: NotAHeaderName| error.to_string())?;
    if name.as_str() == "authorization" {
        return Err(
            "expected a header field of the API's own; `bearer` and `basic` fill this one".to_owned(),
        );
    }
    if name.is_host_owned() || name.is_common() {
        return Err("expected a header field of the API's own, such as `x-api-key`".to_owned());
    }
    Ok(name)
}

fn lifetime(text: &str) -> Result<u32, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    u32::try_from(duration.as_secs())
        .ok()
        .filter(|seconds| duration.subsec_nanos() == 0 && LIFETIME.contains(&u64::from(*seconds)))
        .ok_or_else(|| "expected whole seconds from 1 s to 5 min".to_owned())
}
