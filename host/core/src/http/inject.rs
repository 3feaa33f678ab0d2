//! How a credential is attached to a request: always by the host, in a place that the operator named. Holds names, never secrets.

use serde::{Deserialize, Serialize};

use super::header::HeaderName;
use super::origin::Origin;
use super::target::Target;
use crate::name::{KeyName, SecretName};

/// How a credential is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Injection {
    /// `authorization: Bearer …` (RFC 6750).
    Bearer {
        /// The token.
        secret: SecretName,
    },
    /// `authorization: Basic …` (RFC 7617).
    Basic {
        /// The user.
        user: String,
        /// The password.
        secret: SecretName,
    },
    /// A header field of the API's own.
    Header {
        /// Its name.
        name: HeaderName,
        /// Its value.
        secret: SecretName,
    },
    /// A key of the query.
    Query {
        /// The key.
        key: String,
        /// Its value.
        secret: SecretName,
    },
    /// `authorization: Bearer …` with a token that the host obtains (RFC 6749) and keeps.
    OAuth2(OAuth2),
    /// `authorization: Bearer …` with an installation token of a GitHub App, which the host obtains and keeps.
    GithubApp(GithubApp),
    /// AWS Signature Version 4, the payload always signed.
    AwsSigV4(AwsSigV4),
    /// HTTP message signatures (RFC 9421) over method, authority, path, query and content digest.
    HttpSignature {
        /// A key of the profile `http-signature`.
        key: KeyName,
        /// How long a signature is good for, in seconds: 1 to 300.
        lifetime: u32,
    },
    /// A proof of possession (RFC 9449), with the token it goes with.
    Dpop {
        /// A key of the profile `dpop`.
        key: KeyName,
        /// Where the token comes from.
        token: DpopToken,
    },
    /// A HMAC over the body, as receivers of webhooks check it.
    WebhookHmac {
        /// The shared secret.
        secret: SecretName,
        /// Whose convention.
        scheme: WebhookScheme,
    },
    /// A client certificate (TLS 1.3), whose key signs in custody.
    Mtls {
        /// A key of the profile `mtls`.
        key: KeyName,
        /// The chain as DER, the client's first.
        chain: Vec<Vec<u8>>,
    },
}

/// Where the token of a DPoP request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DpopToken {
    /// A secret of the kind `bearer`, issued for this key.
    Secret(SecretName),
    /// Obtained with a proof of the same key (RFC 9449 §5).
    OAuth2(OAuth2),
}

/// A token that is obtained from an authorization server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth2 {
    /// The token endpoint: a fixed URL without a query.
    pub endpoint: Target,
    /// The client.
    pub client_id: String,
    /// How the client proves who it is.
    pub auth: ClientAuth,
    /// What is exchanged for the token.
    pub grant: OAuthGrant,
    /// The scope that is asked for, words with spaces between.
    pub scope: Option<String>,
    /// The audience (RFC 8693 §2.1) or resource that is asked for.
    pub audience: Option<String>,
}

/// How an OAuth client proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client_secret_basic` (RFC 6749 §2.3.1).
    Basic(SecretName),
    /// `client_secret_post`.
    Post(SecretName),
    /// `private_key_jwt` (RFC 7523) with a key of the profile `client-assertion`.
    PrivateKeyJwt(KeyName),
    /// A public client: only its name.
    None,
}

/// What is exchanged for an access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OAuthGrant {
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// RFC 6749 §6. A new refresh token replaces the old one durably before it is used.
    RefreshToken(SecretName),
    /// RFC 8693, with this token as the subject.
    TokenExchange {
        /// The subject's token.
        subject: SecretName,
        /// Its type, a URN of RFC 8693 §3.
        subject_type: String,
    },
}

/// An installation of a GitHub App.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubApp {
    /// A key of the profile `github-app`.
    pub key: KeyName,
    /// The installation.
    pub installation: u64,
    /// Repositories by name; empty: all of the installation.
    pub repositories: Vec<String>,
    /// Permissions by name, `read` or `write`; empty: all of the installation.
    pub permissions: Vec<(String, String)>,
}

/// Credentials of AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSigV4 {
    /// The access key's public half.
    pub access_key_id: String,
    /// Its secret half.
    pub secret: SecretName,
    /// The region, `eu-central-1` say.
    pub region: String,
    /// The service, `s3` say.
    pub service: String,
}

/// Whose convention of signing webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WebhookScheme {
    /// `x-hub-signature-256: sha256=hex(HMAC(body))`.
    Github,
    /// `stripe-signature: t=time,v1=hex(HMAC(time.body))`.
    Stripe,
    /// `x-slack-request-timestamp` and `x-slack-signature: v0=hex(HMAC(v0:time:body))`.
    Slack,
    /// `webhook-id`, `webhook-timestamp` and `webhook-signature: v1,base64(HMAC(id.time.body))` (Standard Webhooks).
    Standard,
}

/// What a secret is for: the injection that may use it. Fixed when it is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InjectionKind {
    /// See [`Injection::Bearer`]; also the token of a DPoP request.
    Bearer,
    /// See [`Injection::Basic`].
    Basic,
    /// See [`Injection::Header`].
    Header,
    /// See [`Injection::Query`].
    Query,
    /// A client secret; see [`ClientAuth`].
    OauthClient,
    /// A refresh token; see [`OAuthGrant::RefreshToken`].
    OauthRefresh,
    /// A subject's token; see [`OAuthGrant::TokenExchange`].
    OauthSubject,
    /// See [`Injection::AwsSigV4`].
    AwsSigv4,
    /// See [`Injection::WebhookHmac`].
    WebhookHmac,
}

impl InjectionKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Bearer,
        Self::Basic,
        Self::Header,
        Self::Query,
        Self::OauthClient,
        Self::OauthRefresh,
        Self::OauthSubject,
        Self::AwsSigv4,
        Self::WebhookHmac,
    ];

    /// The name on the command line and in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Basic => "basic",
            Self::Header => "header",
            Self::Query => "query",
            Self::OauthClient => "oauth-client",
            Self::OauthRefresh => "oauth-refresh",
            Self::OauthSubject => "oauth-subject",
            Self::AwsSigv4 => "aws-sigv4",
            Self::WebhookHmac => "webhook-hmac",
        }
    }
}

impl std::fmt::Display for InjectionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for InjectionKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

impl Injection {
    /// The name in manifests.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Bearer { .. } => "bearer",
            Self::Basic { .. } => "basic",
            Self::Header { .. } => "header",
            Self::Query { .. } => "query",
            Self::OAuth2(_) => "oauth2",
            Self::GithubApp(_) => "github-app",
            Self::AwsSigV4(_) => "aws-sigv4",
            Self::HttpSignature { .. } => "http-signature",
            Self::Dpop { .. } => "dpop",
            Self::WebhookHmac { .. } => "webhook-hmac",
            Self::Mtls { .. } => "mtls",
        }
    }

    /// Every secret it uses, with what the secret must be for and the origin it is sent to; `origin` is the grant's.
    #[must_use]
    pub fn secrets<'a>(&'a self, origin: &'a Origin) -> Vec<(&'a SecretName, InjectionKind, &'a Origin)> {
        match self {
            Self::Bearer { secret } => vec![(secret, InjectionKind::Bearer, origin)],
            Self::Basic { secret, .. } => vec![(secret, InjectionKind::Basic, origin)],
            Self::Header { secret, .. } => vec![(secret, InjectionKind::Header, origin)],
            Self::Query { secret, .. } => vec![(secret, InjectionKind::Query, origin)],
            Self::AwsSigV4(aws) => vec![(&aws.secret, InjectionKind::AwsSigv4, origin)],
            Self::WebhookHmac { secret, .. } => vec![(secret, InjectionKind::WebhookHmac, origin)],
            Self::OAuth2(oauth) => oauth.secrets(),
            Self::Dpop { token, .. } => match token {
                DpopToken::Secret(secret) => vec![(secret, InjectionKind::Bearer, origin)],
                DpopToken::OAuth2(oauth) => oauth.secrets(),
            },
            Self::GithubApp(_) | Self::HttpSignature { .. } | Self::Mtls { .. } => Vec::new(),
        }
    }

    /// Every key it signs with, and the kind of profile the key must have.
    #[must_use]
    pub fn keys(&self) -> Vec<(&KeyName, &'static str)> {
        match self {
            Self::HttpSignature { key, .. } => vec![(key, "http-signature")],
            Self::Mtls { key, .. } => vec![(key, "mtls")],
            Self::GithubApp(app) => vec![(&app.key, "github-app")],
            Self::OAuth2(oauth) => oauth.keys(),
            Self::Dpop { key, token } => {
                let mut keys = vec![(key, "dpop")];
                if let DpopToken::OAuth2(oauth) = token {
                    keys.extend(oauth.keys());
                }
                keys
            }
            Self::Bearer { .. }
            | Self::Basic { .. }
            | Self::Header { .. }
            | Self::Query { .. }
            | Self::AwsSigV4(_)
            | Self::WebhookHmac { .. } => Vec::new(),
        }
    }

    /// The token that it obtains by OAuth, if it does.
    #[must_use]
    pub const fn oauth2(&self) -> Option<&OAuth2> {
        match self {
            Self::OAuth2(oauth) => Some(oauth),
            Self::Dpop { token, .. } => match token {
                DpopToken::OAuth2(oauth) => Some(oauth),
                DpopToken::Secret(_) => None,
            },
            Self::Bearer { .. }
            | Self::Basic { .. }
            | Self::Header { .. }
            | Self::Query { .. }
            | Self::GithubApp(_)
            | Self::AwsSigV4(_)
            | Self::HttpSignature { .. }
            | Self::WebhookHmac { .. }
            | Self::Mtls { .. } => None,
        }
    }

    /// The header fields that the host alone fills under this injection.
    #[must_use]
    pub fn slots(&self) -> Vec<HeaderName> {
        let names: &[&str] = match self {
            Self::Bearer { .. } | Self::Basic { .. } | Self::OAuth2(_) | Self::GithubApp(_) => {
                &["authorization"]
            }
            Self::AwsSigV4(_) => &["authorization", "x-amz-date", "x-amz-content-sha256"],
            Self::HttpSignature { .. } => &["signature", "signature-input", "content-digest"],
            Self::Dpop { .. } => &["authorization", "dpop"],
            Self::WebhookHmac { scheme, .. } => scheme.fields(),
            Self::Header { name, .. } => return vec![name.clone()],
            Self::Query { .. } | Self::Mtls { .. } => &[],
        };
        names.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// Whether a token goes with the request that an authorization server gives.
    #[must_use]
    pub const fn obtains_a_token(&self) -> bool {
        match self {
            Self::OAuth2(_) | Self::GithubApp(_) => true,
            Self::Dpop { token, .. } => match token {
                DpopToken::Secret(_) => false,
                DpopToken::OAuth2(_) => true,
            },
            Self::Bearer { .. }
            | Self::Basic { .. }
            | Self::Header { .. }
            | Self::Query { .. }
            | Self::AwsSigV4(_)
            | Self::HttpSignature { .. }
            | Self::WebhookHmac { .. }
            | Self::Mtls { .. } => false,
        }
    }

    /// Whether the body must be known whole before the request is signed.
    #[must_use]
    pub const fn needs_whole_body(&self) -> bool {
        match self {
            Self::AwsSigV4(_) | Self::HttpSignature { .. } | Self::WebhookHmac { .. } => true,
            Self::Bearer { .. }
            | Self::Basic { .. }
            | Self::Header { .. }
            | Self::Query { .. }
            | Self::OAuth2(_)
            | Self::GithubApp(_)
            | Self::Dpop { .. }
            | Self::Mtls { .. } => false,
        }
    }
}

impl OAuth2 {
    fn secrets(&self) -> Vec<(&SecretName, InjectionKind, &Origin)> {
        let endpoint = self.endpoint.origin();
        let mut all = Vec::new();
        match &self.auth {
            ClientAuth::Basic(secret) | ClientAuth::Post(secret) => {
                all.push((secret, InjectionKind::OauthClient, endpoint));
            }
            ClientAuth::PrivateKeyJwt(_) | ClientAuth::None => {}
        }
        match &self.grant {
            OAuthGrant::RefreshToken(secret) => all.push((secret, InjectionKind::OauthRefresh, endpoint)),
            OAuthGrant::TokenExchange { subject, .. } => {
                all.push((subject, InjectionKind::OauthSubject, endpoint));
            }
            OAuthGrant::ClientCredentials => {}
        }
        all
    }

    fn keys(&self) -> Vec<(&KeyName, &'static str)> {
        match &self.auth {
            ClientAuth::PrivateKeyJwt(key) => vec![(key, "client-assertion")],
            ClientAuth::Basic(_) | ClientAuth::Post(_) | ClientAuth::None => Vec::new(),
        }
    }
}

impl WebhookScheme {
    /// The fields it fills.
    #[must_use]
    pub const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Github => &["x-hub-signature-256"],
            Self::Stripe => &["stripe-signature"],
            Self::Slack => &["x-slack-request-timestamp", "x-slack-signature"],
            Self::Standard => &["webhook-id", "webhook-timestamp", "webhook-signature"],
        }
    }
}
