//! What a token is asked for with, from a grant: an OAuth client, or an installation of a GitHub App. Asks nobody.

use claviger_core::egress::TokenRequest;
use claviger_core::http::{DpopToken, GithubApp, HttpGrant, Injection, OAuth2, OAuthGrant, Origin};
use claviger_core::{KeyName, SecretName};

/// What a grant's token is asked for with.
pub(super) struct Wanted<'a> {
    pub(super) what: What<'a>,
    pub(super) origin: &'a Origin,
    // The key that the token is bound to, if it is.
    pub(super) dpop: Option<&'a KeyName>,
}

pub(super) enum What<'a> {
    OAuth2(&'a OAuth2),
    App(&'a GithubApp),
}

impl<'a> Wanted<'a> {
    pub(super) fn of(grant: &'a HttpGrant) -> Option<Self> {
        let oauth = |oauth: &'a OAuth2, dpop| {
            Some(Self {
                what: What::OAuth2(oauth),
                origin: oauth.endpoint.origin(),
                dpop,
            })
        };
        match grant.inject.as_ref()? {
            Injection::OAuth2(wanted) => oauth(wanted, None),
            Injection::Dpop { key, token } => match token {
                DpopToken::OAuth2(wanted) => oauth(wanted, Some(key)),
                DpopToken::Secret(_) => None,
            },
            Injection::GithubApp(app) => Some(Self {
                what: What::App(app),
                origin: &grant.origin,
                dpop: None,
            }),
            Injection::Bearer { .. }
            | Injection::Basic { .. }
            | Injection::Header { .. }
            | Injection::Query { .. }
            | Injection::AwsSigV4(_)
            | Injection::HttpSignature { .. }
            | Injection::WebhookHmac { .. }
            | Injection::Mtls { .. } => None,
        }
    }

    pub(super) fn rotating(&self) -> Option<&'a SecretName> {
        match self.what {
            What::OAuth2(oauth) => match &oauth.grant {
                OAuthGrant::RefreshToken(name) => Some(name),
                OAuthGrant::ClientCredentials | OAuthGrant::TokenExchange { .. } => None,
            },
            What::App(_) => None,
        }
    }

    pub(super) fn path(&self) -> String {
        match self.what {
            What::OAuth2(oauth) => oauth.endpoint.path().to_owned(),
            What::App(app) => format!("/app/installations/{}/access_tokens", app.installation),
        }
    }

    pub(super) fn client(&self) -> String {
        match self.what {
            What::OAuth2(oauth) => oauth.client_id.clone(),
            What::App(app) => format!("{} {}", app.key, app.installation),
        }
    }

    pub(super) fn request(&self) -> TokenRequest {
        match self.what {
            What::OAuth2(oauth) => TokenRequest::OAuth2(oauth.clone()),
            What::App(app) => TokenRequest::GithubApp(app.clone()),
        }
    }
}
