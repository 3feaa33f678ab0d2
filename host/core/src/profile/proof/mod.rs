//! Proofs that the host attaches to requests: what the profiles for requests sign, made from a request or a profile alone. Not reachable
//! by an agent's `sign`, and no I/O: who calls this has decided, logs the message, lets custody sign it, and puts the result into a slot.
//!
//! Every function takes the key's profile and refuses another one's. Each message starts differently from those of all other profiles:
//!
//! | profile | starts with |
//! |---|---|
//! | `http-signature` | `"@method": ` |
//! | `dpop` | `{"typ":"dpop+jwt",` in base64url |
//! | `client-assertion` | `{"kid":"` in base64url |
//! | `github-app` | `{"typ":"JWT","alg":"RS256"}` in base64url, and no other profile has RSA keys |
//! | `mtls` | 64 spaces, as no text of ours begins; or the DER of a request for a certificate |
//!
//! (`attest` begins with `{"typ":"eat+jwt",` in base64url. `jws` begins with `{"alg":` in base64url, and makes none of the types above.)

use crate::http::{Method, Target};

mod http_signature;
mod tls;
mod token;

pub use http_signature::{SignatureFields, http_signature};
pub use tls::{CertificateRequest, certificate_is_for, certificate_request, certificate_verify};
pub(super) use token::framed as framed_token;
pub use token::{DPOP_TYPE, Possession, client_assertion, dpop, github_app};

/// The longest life of a signature over a request, in seconds: a request is sent at once, and clocks differ by some.
pub const MAX_LIFETIME: u32 = 300;
/// The life of a client assertion in seconds (RFC 7523 §3 asks for a short one): it is sent at once.
pub const ASSERTION_LIFE: i64 = 120;
/// From the `iat` to the `exp` of a GitHub App's token in seconds. GitHub takes at most 600 from its own clock on.
pub const GITHUB_APP_LIFE: i64 = 360;
/// How far back the `iat` of a GitHub App's token is set, in seconds, as GitHub's documentation asks for: clocks differ.
pub const GITHUB_APP_SKEW: i64 = 60;
/// The longest nonce that a server may demand in a DPoP proof: several times what servers send.
pub const MAX_NONCE: usize = 256;
/// The longest subject of a request for a certificate, in bytes.
pub const MAX_SUBJECT: usize = 256;

/// What of a request is signed.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    /// The method.
    pub method: Method,
    /// The URL.
    pub target: &'a Target,
    /// The whole body, if there is one.
    pub body: Option<&'a [u8]>,
}
