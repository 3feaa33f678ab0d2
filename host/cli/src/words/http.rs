//! A grant of outbound HTTP in words: what may be requested, under which limits, and what the host attaches. Judges nothing.

use claviger_core::http::{
    AllowedQuery, ClientAuth, DpopToken, GithubApp, HttpGrant, Injection, JsonPredicate, JsonTest, OAuth2,
    OAuthGrant, PathEncoding, TlsFloor, WebhookScheme,
};
use claviger_core::manifest::{Bytes, format_duration};
use claviger_core::name::escape;

/// A text of the manifest in a sentence is cut to this many characters.
const MAX_SHOWN: usize = 200;

/// What may be requested, and what is attached, as the beginning of a sentence.
pub(crate) fn sentence(http: &HttpGrant) -> String {
    let routes: Vec<_> = http.allow.iter().map(|route| format!("`{route}`")).collect();
    let attached = match &http.inject {
        None => "no credential".to_owned(),
        Some(inject) => slot(inject),
    };
    format!(
        "may request {} from {} with {attached}",
        routes.join(", "),
        http.origin
    )
}

/// The place of the credential in a request, and where it comes from.
pub(crate) fn slot(inject: &Injection) -> String {
    match inject {
        Injection::Bearer { secret } => format!("secret `{secret}` as `authorization: Bearer`"),
        Injection::Basic { user, secret } => {
            format!(
                "user `{}` and secret `{secret}` as `authorization: Basic`",
                shown(user)
            )
        }
        Injection::Header { name, secret } => format!("secret `{secret}` in header field `{name}`"),
        Injection::Query { key, secret } => format!("secret `{secret}` as `{}` of the query", shown(key)),
        Injection::OAuth2(oauth) => format!("{} as `authorization: Bearer`", obtained(oauth)),
        Injection::GithubApp(app) => format!("{} as `authorization: Bearer`", installation(app)),
        Injection::AwsSigV4(aws) => format!(
            "an AWS signature with access key `{}` and secret `{}` for {} in {}",
            aws.access_key_id, aws.secret, aws.service, aws.region
        ),
        Injection::HttpSignature { key, lifetime } => {
            format!("an HTTP message signature by key `{key}`, good for {lifetime} s")
        }
        Injection::Dpop { key, token } => {
            let token = match token {
                DpopToken::Secret(secret) => format!("secret `{secret}`"),
                DpopToken::OAuth2(oauth) => obtained(oauth),
            };
            format!("{token} as `authorization: DPoP`, proven with key `{key}`")
        }
        Injection::WebhookHmac { secret, scheme } => {
            let convention = match scheme {
                WebhookScheme::Github => "GitHub's",
                WebhookScheme::Stripe => "Stripe's",
                WebhookScheme::Slack => "Slack's",
                WebhookScheme::Standard => "Standard Webhooks'",
            };
            format!("a HMAC of the body with secret `{secret}` in {convention} header fields")
        }
        Injection::Mtls { key, chain } => {
            format!(
                "a client certificate of key `{key}`, with a chain of {}",
                chain.len()
            )
        }
    }
}

fn obtained(oauth: &OAuth2) -> String {
    let client = match &oauth.auth {
        ClientAuth::Basic(secret) | ClientAuth::Post(secret) => format!("with secret `{secret}`"),
        ClientAuth::PrivateKeyJwt(key) => format!("with key `{key}`"),
        ClientAuth::None => "without a proof".to_owned(),
    };
    let given = match &oauth.grant {
        OAuthGrant::ClientCredentials => "client credentials".to_owned(),
        OAuthGrant::RefreshToken(secret) => format!("refresh token `{secret}`"),
        OAuthGrant::TokenExchange { subject, .. } => format!("the token of subject `{subject}`"),
    };
    let asked = [("scope", &oauth.scope), ("audience", &oauth.audience)]
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!(", {name} `{}`", shown(value))))
        .collect::<String>();
    format!(
        "a token from {} for {given} (client `{}` {client}{asked})",
        oauth.endpoint,
        shown(&oauth.client_id)
    )
}

fn installation(app: &GithubApp) -> String {
    let repositories = match app.repositories.as_slice() {
        [] => "all its repositories".to_owned(),
        some => some.join(", "),
    };
    let permissions = match app.permissions.as_slice() {
        [] => "all its permissions".to_owned(),
        some => {
            let words: Vec<_> = some
                .iter()
                .map(|(name, level)| format!("{name}: {level}"))
                .collect();
            words.join(", ")
        }
    };
    format!(
        "a token of installation {} of the GitHub App with key `{}` ({repositories}; {permissions})",
        app.installation, app.key
    )
}

/// Every limit, by its name in the manifest.
pub(crate) fn limits(http: &HttpGrant) -> Vec<(&'static str, String)> {
    let names = |names: &[claviger_core::http::HeaderName]| match names {
        [] => "only the common ones".to_owned(),
        some => format!(
            "the common ones and {}",
            some.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    let writes = http.allow.iter().any(|route| route.method.writes());
    let mut rows = vec![
        (
            "allow",
            http.allow
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        ),
        (
            "paths",
            match http.encoding {
                PathEncoding::Refused => "without percent-encoding".to_owned(),
                PathEncoding::Allowed => "with percent-encoding".to_owned(),
            },
        ),
        ("query", query(&http.query)),
        ("headers", names(&http.headers)),
        ("max-response", http.answer.max.to_string()),
        ("answer-headers", names(&http.answer.headers)),
        ("timeout", format_duration(http.timeout)),
        (
            "tls",
            match http.trust.tls {
                TlsFloor::V1_2 => "1.2 or newer".to_owned(),
                TlsFloor::V1_3 => "1.3".to_owned(),
            },
        ),
        (
            "authorities",
            match http.trust.authorities.len() {
                0 => "the public ones".to_owned(),
                count => format!("only the {count} given"),
            },
        ),
        (
            "pins",
            match http.trust.pins.as_slice() {
                [] => "none".to_owned(),
                some => some
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            },
        ),
        (
            "private-network",
            match http.private_networks.as_slice() {
                [] => "public addresses only".to_owned(),
                some => format!(
                    "public addresses and {}",
                    some.iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            },
        ),
        (
            "budget",
            format!(
                "received {}, sent {}",
                budget(http.budget.received),
                budget(http.budget.sent)
            ),
        ),
    ];
    if writes {
        rows.push((
            "content-types",
            match http.body.content_types.as_slice() {
                [] => "any".to_owned(),
                some => some.join(", "),
            },
        ));
        rows.push(("max-request", http.body.max.to_string()));
        rows.push(("body", body(http)));
    }
    rows
}

fn budget(budget: Option<Bytes>) -> String {
    budget.map_or_else(
        || "any number of bytes".to_owned(),
        |bytes| format!("{bytes} in all"),
    )
}

fn query(allowed: &[AllowedQuery]) -> String {
    let one = |allowed: &AllowedQuery| match allowed.values.as_slice() {
        [] => allowed.key.clone(),
        some => format!("{} ({})", allowed.key, some.join(" or ")),
    };
    match allowed {
        [] => "none".to_owned(),
        some => some.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

fn body(http: &HttpGrant) -> String {
    let Some(rule) = &http.body.json else {
        return if http.needs_whole_body() {
            "read whole, to be signed; not looked into".to_owned()
        } else {
            "not looked into".to_owned()
        };
    };
    let mut parts: Vec<String> = rule.predicates.iter().map(predicate).collect();
    if let Some(fields) = &rule.fields {
        parts.insert(0, format!("only {}", shown(&fields.join(", "))));
    }
    format!("JSON: {}", parts.join("; "))
}

fn predicate(predicate: &JsonPredicate) -> String {
    let place = shown(predicate.place.as_str());
    match &predicate.test {
        JsonTest::Absent => format!("no `{place}`"),
        test @ (JsonTest::Equals(_) | JsonTest::OneOf(_) | JsonTest::Pattern(_)) => {
            format!("`{place}` is {}", shown(&test.to_string()))
        }
    }
}

fn shown(text: &str) -> String {
    escape(text, MAX_SHOWN)
}

#[cfg(test)]
mod tests {
    use claviger_core::Manifest;
    use claviger_core::manifest::Capability;
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_injection_and_every_limit_has_words() {
        let (manifest, _) =
            Manifest::parse(include_str!("../../../core/fixtures/manifest/valid-http.toml")).unwrap();
        let mut out = String::new();
        for (alias, grant) in &manifest.grants {
            let Capability::Http(http) = &grant.capability else {
                continue;
            };
            out += &format!("{alias} {}\n", sentence(http));
            if alias.as_str() == "mail" {
                for (name, value) in limits(http) {
                    out += &format!("    {name}: {value}\n");
                }
            }
        }
        expect![[r#"
            app may request `GET /orgs/acme/*` from https://api.github.com with a token of installation 12345678 of the GitHub App with key `acme-app` (site; contents: read, issues: write) as `authorization: Bearer`
            aws may request `PUT /backup/**` from https://acme.s3.eu-central-1.amazonaws.com with an AWS signature with access key `AKIAIOSFODNN7EXAMPLE` and secret `aws-secret` for s3 in eu-central-1
            basic may request `GET /a` from https://basic.example.com with user `deploy` and secret `registry-password` as `authorization: Basic`
            client-credentials may request `GET /a` from https://oauth.example.com with a token from https://login.example.com/token for client credentials (client `bot` with key `client`, scope `read write`, audience `https://oauth.example.com`) as `authorization: Bearer`
            dpop may request `GET /a` from https://dpop.example.com with secret `bound-token` as `authorization: DPoP`, proven with key `proof`
            dpop-obtained may request `GET /a` from https://dpop2.example.com with a token from https://login.example.com/token for client credentials (client `bot` with secret `client`) as `authorization: DPoP`, proven with key `proof`
            exchange may request `GET /a` from https://exchange.example.com with a token from https://login.example.com/token for the token of subject `subject` (client `bot` with secret `client`) as `authorization: Bearer`
            github may request `GET /repos/acme/*`, `POST /repos/acme/site/releases` from https://api.github.com with secret `github-token` as `authorization: Bearer`
            hook may request `POST /in` from https://hook.example.com with a HMAC of the body with secret `hook` in Standard Webhooks' header fields
            mail may request `POST /v1/send`, `GET /v1/sent%20items/*` from https://mail.example.com:8443 with secret `mail-key` in header field `x-api-key`
                allow: POST /v1/send, GET /v1/sent%20items/*
                paths: with percent-encoding
                query: page, sort (asc or desc)
                headers: the common ones and x-request-id
                max-response: 1 MiB
                answer-headers: the common ones and x-ratelimit-remaining
                timeout: 10 s
                tls: 1.3
                authorities: only the 1 given
                pins: sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=
                private-network: public addresses and 10.1.0.0/16, fd00::/8
                budget: received 1 GiB in all, sent 100 MiB in all
                content-types: application/json
                max-request: 64 KiB
                body: JSON: only to, subject, text, draft; `/draft` is false; `/subject` is of the pattern `[bot] *`; no `/text/html`; `/to` is one of "team@example.com", "board@example.com"
            mtls may request `GET /a` from https://mtls.example.com with a client certificate of key `client`, with a chain of 1
            plain may request `GET /feed` from https://example.com with no credential
            query may request `GET /a` from https://query.example.com with secret `maps-key` as `key` of the query
            refresh may request `GET /a` from https://refresh.example.com with a token from https://login.example.com/token for refresh token `refresh` (client `bot` without a proof) as `authorization: Bearer`
            signed may request `POST /a` from https://signed.example.com with an HTTP message signature by key `partner`, good for 30 s
        "#]].assert_eq(&out);
    }
}
