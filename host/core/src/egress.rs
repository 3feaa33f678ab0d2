//! Outbound HTTP as a trait, and the plan of one request. Not a client: `claviger-egress` is. Not a decision: the broker made it.

use std::fmt::{self, Debug};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::digest::ComponentDigest;
use crate::future::BoxFuture;
use crate::http::{
    AnswerRule, AwsSigV4, CidrBlock, GithubApp, HeaderName, Method, OAuth2, Origin, Target, Trust,
};
use crate::key::{KeyRef, Signature};
use crate::name::GrantAlias;
use crate::permit::Permit;
use crate::refusal::Refusal;
use crate::secret::Secret;

/// A request without its body, as the agent wrote it; at most [`MAX_HEAD`] bytes in all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHead {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// Header fields in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl RequestHead {
    /// How many bytes there are, counted against [`MAX_HEAD`].
    #[must_use]
    pub fn size(&self) -> usize {
        let fields = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 4);
        self.method.len() + self.url.len() + fields.sum::<usize>()
    }
}

/// A request head has at most this many bytes: what common servers accept.
pub const MAX_HEAD: usize = 16 * 1024;
/// An answer's header section has at most this many bytes, and as many those of its trailers.
pub const MAX_ANSWER_HEAD: usize = 32 * 1024;
/// An answer has at most this many header fields.
pub const MAX_ANSWER_FIELDS: usize = 100;

/// One piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Content.
    Data(Bytes),
    /// Trailer fields, at the end.
    Trailers(Vec<(String, Vec<u8>)>),
}

/// A body: pieces until the end or a failure. After a failure comes nothing.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Frame, SendError>> + Send>>;

/// An answer.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header fields in order; names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: BodyStream,
    /// What the server wants in the next DPoP proof: for the broker, which hands no agent one.
    pub dpop_nonce: Option<DpopNonce>,
}

/// A nonce for DPoP proofs that came with an answer (RFC 9449 §8, §9): visible ASCII without `"` and `\`, of at most
/// [`crate::profile::proof::MAX_NONCE`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DpopNonce {
    /// For the next request; this one was not refused for the want of it.
    Supplied(String),
    /// The request was refused with `use_dpop_nonce`.
    Demanded(String),
}

impl Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer, or not the rest of it; what an agent may learn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum SendError {
    /// The broker refused.
    #[error("{refusal}")]
    Refused {
        /// What the agent learns.
        refusal: Refusal,
        /// The grant that the request falls under, if it falls under one.
        grant: Option<GrantAlias>,
    },
    /// The broker allowed it, and the exchange failed.
    #[error("{fault}")]
    Failed {
        /// How.
        fault: Fault,
        /// The grant that it was allowed by, once the broker has said so: an egress knows of none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grant: Option<GrantAlias>,
    },
}

impl SendError {
    /// The same of a request under this grant.
    #[must_use]
    pub fn under(self, alias: &GrantAlias) -> Self {
        let grant = Some(alias.clone());
        match self {
            Self::Refused { refusal, .. } => Self::Refused { refusal, grant },
            Self::Failed { fault, .. } => Self::Failed { fault, grant },
        }
    }
}

/// How an exchange failed. Closed: these are the words that agents and the log have for it. None quotes the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The name does not resolve.
    #[error("the host name does not resolve")]
    NoAddress,
    /// An address is not one that the grant allows.
    #[error("the host name leads to an address that is not allowed")]
    ForbiddenAddress,
    /// Nobody listens, or the network is down.
    #[error("no connection could be made")]
    NoConnection,
    /// The host has as many connections as it may have; nothing of the request was sent.
    #[error("the host has too many connections")]
    Crowded,
    /// A phase took too long.
    #[error("the server took too long")]
    Timeout,
    /// The TLS handshake failed, so that nothing of the request was sent; what goes wrong with TLS later is `Protocol` or `Incomplete`.
    #[error("no TLS connection could be agreed on")]
    Tls,
    /// The certificate is not acceptable; nothing of the request was sent.
    #[error("the server's certificate is not acceptable")]
    Certificate,
    /// What came is not HTTP as it must be.
    #[error("the answer is not valid HTTP")]
    Protocol,
    /// The connection ended in the middle.
    #[error("the connection ended before the answer did")]
    Incomplete,
    /// The header section is too large.
    #[error("the header section of the answer is too large")]
    HeadTooLarge,
    /// The body is too large.
    #[error("the body of the answer is larger than the grant allows")]
    BodyTooLarge,
    /// A content encoding, which the host does not ask for and does not look into.
    #[error("the answer has a content encoding")]
    Encoded,
    /// The request's body ended early, or was larger than allowed or announced.
    #[error("the body of the request is not as long as it must be")]
    RequestBody,
    /// The agent went away while it sent the body.
    #[error("the body of the request was not finished")]
    RequestAborted,
    /// The authorization server gave no usable token.
    #[error("the authorization server gave no token")]
    Token,
    /// A managed secret was in the answer.
    #[error("the answer was withheld")]
    Reflected,
}

impl From<Fault> for SendError {
    fn from(fault: Fault) -> Self {
        Self::Failed { fault, grant: None }
    }
}

/// Where one request goes and under which terms. Made once per admission from a grant.
#[derive(Debug)]
pub struct Destination {
    /// The authority for resolution, connection, TLS and `Host`.
    pub origin: Origin,
    /// Whom to trust.
    pub trust: Trust,
    /// The private networks that the host name may lead into.
    pub private_networks: Vec<CidrBlock>,
    /// What the answer may be.
    pub answer: AnswerRule,
    /// How long the whole exchange may take.
    pub timeout: Duration,
    /// Who shares connections: requests of equal lanes to equal destinations do, no others.
    pub lane: Lane,
    /// The client certificate, if the other end shall know us by one.
    pub identity: Option<Arc<dyn ClientIdentity>>,
}

/// Who shares a connection: one agent under one grant with one version of one credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The agent's code.
    pub component: ComponentDigest,
    /// The grant, by agent name and alias.
    pub grant: String,
    /// The credential's name and version.
    pub credential: String,
}

/// One request, every decision made.
pub struct Plan {
    /// Where to. The permit must be for its origin.
    pub destination: Arc<Destination>,
    /// The method.
    pub method: Method,
    /// Path and query. Of the destination's origin.
    pub target: Target,
    /// The agent's header fields, checked; none is a slot.
    pub headers: Vec<(HeaderName, Vec<u8>)>,
    /// What the host attaches.
    pub slots: Vec<Slot>,
    /// The body.
    pub body: Outgoing,
    /// What must not come back, in any of the encodings that are looked for.
    pub watched: Vec<Arc<Secret>>,
}

impl Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("origin", &self.destination.origin)
            .field("method", &self.method)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// A credential, or a proof made with one, and its place. The value is not looked into.
pub enum Slot {
    /// A header field. A second one of the same name is never sent.
    Header {
        /// Which.
        name: HeaderName,
        /// Its value, whole.
        value: Secret,
    },
    /// A key of the query, after the agent's.
    Query {
        /// The key, as written in a URL.
        key: String,
        /// The value, not yet percent-encoded.
        value: Secret,
    },
    /// A signature by AWS Signature Version 4 over all of the request.
    AwsSigV4 {
        /// Region, service and the public half of the access key.
        scope: AwsSigV4,
        /// The secret half.
        secret: Arc<Secret>,
        /// When, in seconds since 1970.
        time: i64,
    },
}

impl Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, .. } => write!(f, "Header({name})"),
            Self::Query { key, .. } => write!(f, "Query({})", crate::name::escape(key, 64)),
            Self::AwsSigV4 { scope, .. } => {
                write!(f, "AwsSigV4({})", crate::name::escape(&scope.service, 64))
            }
        }
    }
}

/// The body of a request.
pub enum Outgoing {
    /// None.
    Empty,
    /// All of it.
    Whole(Bytes),
    /// As it comes: of this length if it was announced, of at most `max` bytes.
    Stream {
        /// The pieces. Trailers are refused.
        body: BodyStream,
        /// What the agent announced as `content-length`.
        length: Option<u64>,
        /// The bound.
        max: u64,
    },
}

impl Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            Self::Stream { length, max, .. } => write!(f, "Stream({length:?}, at most {max} bytes)"),
        }
    }
}

/// A key and certificate for the other end. The key stays in custody.
pub trait ClientIdentity: Debug + Send + Sync {
    /// The chain as DER, our own certificate first.
    fn chain(&self) -> &[Vec<u8>];

    /// Which key version signs: part of the connection's identity.
    fn key(&self) -> &KeyRef;

    /// Signs the content of a `CertificateVerify` (RFC 8446 §4.4.3): 64 spaces, the client's context string, a zero byte and the
    /// transcript's hash. Anything else is refused. The use is on the log before this returns.
    ///
    /// # Errors
    /// The refusal.
    fn sign<'a>(&'a self, permit: &'a Permit, content: &'a [u8])
    -> BoxFuture<'a, Result<Signature, Refusal>>;
}

/// A token that was obtained.
pub struct Token {
    /// The access token.
    pub access: Secret,
    /// Seconds until it expires, if the server said so.
    pub expires_in: Option<u64>,
    /// A new refresh token, which must be on disk before the access token is used.
    pub refresh: Option<Secret>,
    /// The server demands this DPoP nonce from now on.
    pub dpop_nonce: Option<String>,
}

impl Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

/// What an authorization server answered.
pub enum TokenAnswer {
    /// The token.
    Given(Token),
    /// No usable access token, but a new refresh token: the one before may be dead, so it must be on disk all the same.
    Rotated(Secret),
    /// `use_dpop_nonce`: nothing, until the proof holds this nonce (RFC 9449 §8). Bounded as [`DpopNonce`] is.
    NonceDemanded(String),
}

impl Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(token) => f.debug_tuple("Given").field(token).finish(),
            Self::Rotated(_) => f.write_str("Rotated"),
            Self::NonceDemanded(nonce) => f.debug_tuple("NonceDemanded").field(nonce).finish(),
        }
    }
}

/// What a token is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenRequest {
    /// At a token endpoint (RFC 6749).
    OAuth2(OAuth2),
    /// `POST /app/installations/{id}/access_tokens` of GitHub, with the assertion as the bearer.
    GithubApp(GithubApp),
}

/// What a token is asked for with.
pub struct TokenPlan {
    /// The token endpoint's terms. The permit must be for its origin.
    pub destination: Arc<Destination>,
    /// What is asked for.
    pub request: TokenRequest,
    /// The secrets that the request names.
    pub secrets: TokenSecrets,
    /// A client assertion (RFC 7523), or a GitHub App's token, if the client proves itself with a key.
    pub assertion: Option<Secret>,
    /// A DPoP proof (RFC 9449 §5) for the endpoint, if the token is bound to a key.
    pub dpop: Option<Secret>,
}

impl Debug for TokenPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenPlan")
            .field("origin", &self.destination.origin)
            .finish_non_exhaustive()
    }
}

/// The secrets of a token request.
#[derive(Default)]
pub struct TokenSecrets {
    /// The client's secret.
    pub client: Option<Arc<Secret>>,
    /// The refresh token, or the subject's token.
    pub grant: Option<Arc<Secret>>,
}

impl Debug for TokenSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecrets")
    }
}

/// Speaks HTTP to the outside.
pub trait Egress: Debug + Send + Sync {
    /// Sends one permitted request. Dropping the future or the answer's body closes the connection, unless the answer had ended.
    ///
    /// # Errors
    /// When the request is not sent or the answer may not be returned. A plan for an origin that the permit is not for is refused.
    fn send<'a>(&'a self, permit: &'a Permit, plan: Plan) -> BoxFuture<'a, Result<Answer, SendError>>;

    /// Asks an authorization server for a token, once. The answer stays in the host.
    ///
    /// # Errors
    /// When there is no usable token. No text of the server is in the error.
    fn token<'a>(
        &'a self,
        permit: &'a Permit,
        plan: TokenPlan,
    ) -> BoxFuture<'a, Result<TokenAnswer, SendError>>;
}
