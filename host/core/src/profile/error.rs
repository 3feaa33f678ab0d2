//! Why a profile, its narrowing or a frame is not acceptable. Texts for operators: no agent sees them, and none quotes content.

use super::git::GitError;
use super::proof::{MAX_LIFETIME, MAX_SUBJECT};
use super::ssh_auth::SshAuthError;
use super::{MAX_CONTEXT, MAX_TOKEN_LIFE};
use crate::attest::{MAX_NONCE, MIN_NONCE};
use crate::http::Origin;
use crate::key::{Algorithm, KeyAlgorithm, KeyError, SymmetricAlgorithm};
use crate::name::{Principal, TokenType};

/// Why a profile or its narrowing is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A list that must name something is empty.
    #[error("the profile names no {0}; expected at least one")]
    Empty(&'static str),
    /// The life of tokens is out of bounds.
    #[error("tokens may live 1 to {MAX_TOKEN_LIFE} seconds, not {0}")]
    Life(u32),
    /// A list names too much.
    #[error("the profile may name at most {allowed} of `{field}`")]
    TooMany {
        /// The field.
        field: &'static str,
        /// The bound.
        allowed: usize,
    },
    /// Commits and tags are not signed unread.
    #[error(
        "commits and tags are signed by a key with profile `git`, which reads them first; a key with profile `sshsig` does not sign under the namespace `git`"
    )]
    GitNamespace,
    /// A grant for commits that names a tag.
    #[error("`tag` does not apply to a grant with `object = \"commit\"`")]
    TagOfCommits,
    /// Neither the key nor the grant says which servers.
    #[error(
        "the key was made for any server; the grant must name host keys in `host-keys`, as `ssh-keygen -lf HOST_KEY.pub` prints them"
    )]
    NoHostKeys,
    /// The field belongs to another profile.
    #[error("`{field}` does not apply to a key with profile `{profile}`")]
    Foreign {
        /// The key's profile.
        profile: &'static str,
        /// The field.
        field: &'static str,
    },
    /// The key was not made for this.
    #[error("the key was not made for {field} `{asked}`, only for {allowed}")]
    NotAmong {
        /// The field.
        field: &'static str,
        /// What the grant asks.
        asked: String,
        /// What the key allows.
        allowed: String,
    },
    /// The key allows several and the grant names none.
    #[error("the key allows several values of `{field}` ({allowed}); the grant must name one")]
    Ambiguous {
        /// The field.
        field: &'static str,
        /// What the key allows.
        allowed: String,
    },
    /// The key signs requests, which the host frames.
    #[error("a key with profile `{0}` is for requests: a grant names it in `inject`, not in `sign`")]
    ForRequests(&'static str),
    /// The key seals or makes MACs.
    #[error("a key with profile `{0}` signs nothing: a grant names it in `{0}`, not in `sign`")]
    SignsNothing(&'static str),
    /// The key is for something else than the grant.
    #[error("a `{grant}` grant needs a key with profile `{grant}`; this one has `{found}`")]
    Purpose {
        /// The grant's capability.
        grant: &'static str,
        /// The key's profile.
        found: &'static str,
    },
    /// The key signs evidence.
    #[error("a key with profile `attest` signs evidence alone: a grant names it in `attest`, not in `sign`")]
    ForEvidence,
    /// The algorithm is not one of the profile's.
    #[error("a key with profile `{profile}` is {}, not {asked}", one_of(allowed))]
    Algorithm {
        /// The profile.
        profile: &'static str,
        /// What was asked.
        asked: KeyAlgorithm,
        /// What there is.
        allowed: &'static [Algorithm],
    },
    /// The profile's keys have no public half, and one algorithm.
    #[error("a key with profile `{profile}` is {allowed}, not {asked}")]
    Symmetric {
        /// The profile.
        profile: &'static str,
        /// What was asked.
        asked: KeyAlgorithm,
        /// What there is.
        allowed: SymmetricAlgorithm,
    },
    /// The `typ` belongs to tokens that only another profile makes.
    #[error("tokens of the type `{0}` are made by a profile of their own")]
    ReservedType(TokenType),
    /// The life of signatures over requests is out of bounds.
    #[error("a signature over a request may live 1 to {MAX_LIFETIME} seconds, not {0}")]
    Lifetime(u32),
    /// The audience of client assertions is not a URL.
    #[error("the audience `{0}` is not the URL of a token endpoint or an issuer; expected `https://…`")]
    Audience(Principal),
    /// The grant asks for longer-lived tokens than the key allows.
    #[error("the key allows tokens of 1 to {allowed} seconds, not {asked}")]
    Ttl {
        /// What the grant asks.
        asked: u32,
        /// What the key allows.
        allowed: u32,
    },
}

/// Why content cannot be framed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The content is over the profile's bound.
    #[error("the profile allows {allowed} bytes of content, the agent sent {sent}")]
    TooLarge {
        /// The bound in bytes.
        allowed: usize,
        /// What came, in bytes.
        sent: usize,
    },
    /// The token would be over [`super::MAX_SIGNATURE`]: its payload grows when it is written again.
    #[error("a token has at most {allowed} bytes, this one would have {needed}: its numbers are written out")]
    Grown {
        /// The bound in bytes.
        allowed: usize,
        /// What the token would have, in bytes.
        needed: usize,
    },
    /// The payload of a JWS is not a JSON object with unique members.
    #[error("the payload is not a JSON object with unique member names")]
    NotAnObject,
    /// A number of the payload would change when it is read and written again.
    #[error(
        "the payload has a number that not every JSON parser reads alike; expected integers of 64 bits and fractions of at most 15 digits, or a string"
    )]
    Number,
    /// The payload sets a claim that the host sets.
    #[error("the payload sets `{0}`, which only the host sets")]
    HostClaim(&'static str),
    /// The key's algorithm is not one of the profile's.
    #[error("the profile takes no {0} keys")]
    Algorithm(Algorithm),
    /// The key is for something else.
    #[error("expected a key with profile `{expected}`, this one has `{found}`")]
    Profile {
        /// The profile that frames this.
        expected: &'static str,
        /// The key's.
        found: &'static str,
    },
    /// The proof would go where the key's profile does not send it.
    #[error("the key's profile is for {allowed}, the request goes to {asked}")]
    Destination {
        /// Where to.
        allowed: Origin,
        /// Where it goes.
        asked: Origin,
    },
    /// A grant's lifetime is over that of the key's profile.
    #[error("the key allows signatures of 1 to {allowed} seconds, not {asked}")]
    Lifetime {
        /// What the grant asks.
        asked: u32,
        /// What the key allows.
        allowed: u32,
    },
    /// A value from a server that does not belong into a proof.
    #[error("the server's nonce is not one that a proof can hold")]
    Nonce,
    /// A verifier's nonce is too short to be one, or longer than a token holds.
    #[error("a nonce has {MIN_NONCE} to {MAX_NONCE} bytes, the agent sent {0}")]
    VerifierNonce(usize),
    /// Not what a TLS 1.3 client signs.
    #[error("expected the content of a TLS 1.3 client's `CertificateVerify`")]
    Handshake,
    /// Not a certificate of this key.
    #[error(
        "the first certificate of the chain is not one of version 3 for this key; `claviger key csr` asks for one"
    )]
    Certificate,
    /// Not the name of a certificate's subject.
    #[error("expected a subject such as `CN=claviger,O=Acme`, of at most {MAX_SUBJECT} bytes")]
    Subject,
    /// Not a commit or tag that the grant signs.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Not a login that the grant signs.
    #[error(transparent)]
    SshAuth(#[from] SshAuthError),
    /// The key or message cannot be encoded, which the types exclude.
    #[error("the message cannot be encoded")]
    Encoding,
}

/// Why there is nothing to seal or to make a MAC of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// The text is over its bound.
    #[error("expected at most {allowed} bytes, the agent sent {sent}")]
    TooLarge {
        /// The bound in bytes.
        allowed: usize,
        /// What came, in bytes.
        sent: usize,
    },
    /// The context is missing or over its bound.
    #[error("a context has 1 to {MAX_CONTEXT} bytes, the agent sent {0}")]
    Context(usize),
}

impl From<KeyError> for FrameError {
    fn from(_: KeyError) -> Self {
        Self::Encoding
    }
}

fn one_of(algorithms: &[Algorithm]) -> String {
    let names: Vec<_> = algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
    names.join(" or ")
}
