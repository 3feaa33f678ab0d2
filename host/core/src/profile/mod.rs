//! What a key is for, and the one way to bytes that a key signs. There is no way to sign bytes that no profile framed.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::http::{Origin, PathEncoding, Target};
use crate::key::{Algorithm, KeyAlgorithm, PublicKey, SymmetricAlgorithm};
use crate::name::{Label, Namespace, Principal, SshUser, TokenType};

mod error;
mod evidence;
mod framed;
pub mod git;
mod jws;
mod labeled;
mod mac;
#[cfg(test)]
mod narrow_tests;
mod narrowing;
pub mod proof;
#[cfg(test)]
mod proof_tests;
mod sealing;
mod serial;
mod ssh;
pub mod ssh_auth;
mod sshsig;
#[cfg(test)]
mod symmetric_tests;
#[cfg(test)]
mod test_keys;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;

pub use error::{FrameError, InputError, ProfileError};
pub use evidence::{EVIDENCE_TYPE, EvidenceClaims, evidence};
pub use framed::Framed;
pub use mac::{MAX_MAC_CONTENT, MAX_MAC_MESSAGE, MacInput, MacRule, MacValue, TAG, Tag};
pub use narrowing::Narrowing;
pub use sealing::{
    BOX_OVERHEAD, Context, MAX_BOX, MAX_CONTEXT, MAX_PLAINTEXT, NONCE, Plaintext, SealInput, SealRule,
    UnsealInput,
};
pub use serial::Serial;

use framed::Finish;
use git::{GitRule, MailPattern, TagPattern};
use ssh_auth::{HostKeyId, SshAuthRule};

/// The most content one signature covers under `sshsig`: a release archive of usual size, held once in host memory.
pub const MAX_SSHSIG_CONTENT: usize = 16 * 1024 * 1024;
/// The most content one signature covers under `jws`, `labeled` and `git`: these are messages, not files.
pub const MAX_MESSAGE_CONTENT: usize = 64 * 1024;
/// The longest signature given out, in bytes, as promised in WIT. A token is base64 of its payload, which can be longer than the agent
/// wrote it (`1e15` becomes `1000000000000000.0`); one over the largest payload that keeps its length has some 90,000.
pub const MAX_SIGNATURE: usize = 128 * 1024;
/// The longest life a key's profile may give a JWS, in seconds: longer-lived tokens are keys in disguise.
pub const MAX_TOKEN_LIFE: u32 = 24 * 60 * 60;

/// A key's purpose: protocol and parameters, immutable from its creation. Signatures made under one profile verify under no
/// other: each frames its messages so that they start differently (see the oracle-matrix test).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Profile {
    /// Armoured SSHSIG (OpenSSH PROTOCOL.sshsig), hashed with SHA-512.
    Sshsig {
        /// The namespaces the key may ever sign under; at least one. A grant names one of them.
        namespaces: BTreeSet<Namespace>,
    },
    /// Compact JWS (RFC 7515) over a JSON object of claims (RFC 7519).
    Jws {
        /// The `iss` of every token.
        issuer: Principal,
        /// The `typ` of every token.
        typ: TokenType,
        /// The audiences the key may ever sign for; at least one. A grant names one of them.
        audiences: BTreeSet<Principal>,
        /// The longest life of a token in seconds; at most [`MAX_TOKEN_LIFE`].
        max_ttl: u32,
    },
    /// Opaque bytes under a fixed label, in a frame that no known protocol accepts.
    Labeled {
        /// What the signatures are for.
        label: Label,
    },
    /// HTTP message signatures (RFC 9421). For requests: the host frames them, no agent's `sign` reaches the key.
    HttpSignature {
        /// The `tag` of every signature, if the application that verifies them has one.
        tag: Option<Label>,
        /// The longest life of a signature in seconds; at most [`proof::MAX_LIFETIME`].
        max_lifetime: u32,
    },
    /// DPoP proofs (RFC 9449). For requests.
    Dpop {},
    /// Client assertions (RFC 7523 §3), which prove to one authorization server who we are. For requests.
    ClientAssertion {
        /// `iss` and `sub`: the client.
        client_id: Principal,
        /// `aud`: the token endpoint or the issuer, as the server's documentation says. An `https` URL; assertions are sent to its
        /// origin and nowhere else.
        audience: Principal,
        /// `typ`.
        typ: AssertionType,
    },
    /// Tokens of a GitHub App, which ask for the tokens of its installations. For requests.
    GithubApp {
        /// `iss`: the app's client id, or its number.
        app: Principal,
        /// The API that they are sent to, and nowhere else.
        origin: Origin,
    },
    /// TLS 1.3 client authentication (RFC 8446 §4.4.3), and the request for the certificate (RFC 2986). For requests.
    Mtls {},
    /// Evidence of which agent runs on this machine (RFC 9711), with a device's quote. In a TPM only; no agent's `sign` reaches the key.
    Attest {},
    /// Commits and tags of git, as armoured SSHSIG under the namespace `git`. The host reads the object before it signs it.
    Git {
        /// The addresses of authors, committers and taggers; at least one.
        mails: BTreeSet<MailPattern>,
        /// The names of tags. Without any, the key signs commits alone.
        tags: BTreeSet<TagPattern>,
    },
    /// Logins over SSH (RFC 4252 §7), each bound to a server that vouched for its session.
    SshAuth {
        /// As whom; at least one.
        users: BTreeSet<SshUser>,
        /// Where, by host keys. Without any, each grant names them.
        host_keys: BTreeSet<HostKeyId>,
    },
    /// Boxes that only the host opens again. Signs nothing.
    Seal {},
    /// MACs under a fixed label. Signs nothing.
    Mac {
        /// What the MACs are for.
        label: Label,
    },
}

/// The `typ` of a client assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AssertionType {
    /// The explicit type, which nothing else has (RFC 8725 §3.11; draft-ietf-oauth-rfc7523bis).
    #[serde(rename = "client-authentication+jwt")]
    Explicit,
    /// `JWT`, for a server that takes nothing else.
    #[serde(rename = "JWT")]
    Plain,
}

impl AssertionType {
    /// As in the header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Explicit => "client-authentication+jwt",
            Self::Plain => "JWT",
        }
    }
}

/// The types of tokens that the profiles for requests and for evidence make; the profile `jws` makes none of them.
const RESERVED_TYPES: [&str; 3] = [proof::DPOP_TYPE, AssertionType::Explicit.as_str(), EVIDENCE_TYPE];

/// Ed25519 first: it is what a key has if there is nothing to say for another.
const GENERAL: &[Algorithm] = &[Algorithm::Ed25519, Algorithm::P256];
/// P-256 first: what every authorization server takes.
const OAUTH: &[Algorithm] = &[Algorithm::P256, Algorithm::Ed25519];

impl Profile {
    /// The name in manifests, on the command line and in WIT.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sshsig { .. } => "sshsig",
            Self::Jws { .. } => "jws",
            Self::Labeled { .. } => "labeled",
            Self::HttpSignature { .. } => "http-signature",
            Self::Dpop {} => "dpop",
            Self::ClientAssertion { .. } => "client-assertion",
            Self::GithubApp { .. } => "github-app",
            Self::Mtls {} => "mtls",
            Self::Git { .. } => "git",
            Self::SshAuth { .. } => "ssh-auth",
            Self::Attest {} => "attest",
            Self::Seal {} => "seal",
            Self::Mac { .. } => "mac",
        }
    }

    /// The algorithms that its keys may sign with; the first is the one to take where nothing speaks for another. Empty if they sign nothing.
    #[must_use]
    pub const fn algorithms(&self) -> &'static [Algorithm] {
        match self {
            Self::Sshsig { .. }
            | Self::Jws { .. }
            | Self::Labeled { .. }
            | Self::HttpSignature { .. }
            | Self::Git { .. }
            | Self::SshAuth { .. } => GENERAL,
            Self::Dpop {} | Self::ClientAssertion { .. } => OAUTH,
            Self::GithubApp { .. } => &[Algorithm::Rsa2048],
            Self::Mtls {} | Self::Attest {} => &[Algorithm::P256],
            Self::Seal {} | Self::Mac { .. } => &[],
        }
    }

    /// Checks that a key of this profile may have this algorithm; done when one is created and when one is read from the keyring.
    ///
    /// # Errors
    /// When it may not.
    pub fn accept(&self, algorithm: impl Into<KeyAlgorithm>) -> Result<(), ProfileError> {
        let asked = algorithm.into();
        let (profile, allowed) = (self.kind(), self.algorithms());
        match (self.symmetric(), asked) {
            (Some(own), KeyAlgorithm::Symmetric(asked)) if own == asked => Ok(()),
            (Some(allowed), _) => Err(ProfileError::Symmetric {
                profile,
                asked,
                allowed,
            }),
            (None, KeyAlgorithm::Signing(asked)) if allowed.contains(&asked) => Ok(()),
            (None, _) => Err(ProfileError::Algorithm {
                profile,
                asked,
                allowed,
            }),
        }
    }

    /// The algorithm of its keys, if they have no public half.
    #[must_use]
    pub const fn symmetric(&self) -> Option<SymmetricAlgorithm> {
        match self {
            Self::Seal {} => Some(SymmetricAlgorithm::XChaCha20Poly1305),
            Self::Mac { .. } => Some(SymmetricAlgorithm::HmacSha256),
            Self::Sshsig { .. }
            | Self::Jws { .. }
            | Self::Labeled { .. }
            | Self::HttpSignature { .. }
            | Self::Dpop {}
            | Self::ClientAssertion { .. }
            | Self::GithubApp { .. }
            | Self::Mtls {}
            | Self::Attest {}
            | Self::Git { .. }
            | Self::SshAuth { .. } => None,
        }
    }

    /// Checks the parameters; done when a key is created and when one is read from the keyring.
    ///
    /// # Errors
    /// The first parameter that is out of its bounds.
    pub fn validate(&self) -> Result<(), ProfileError> {
        match self {
            Self::Sshsig { namespaces } if namespaces.is_empty() => Err(ProfileError::Empty("namespace")),
            Self::Jws { audiences, .. } if audiences.is_empty() => Err(ProfileError::Empty("audience")),
            Self::Jws { max_ttl, .. } if *max_ttl == 0 || *max_ttl > MAX_TOKEN_LIFE => {
                Err(ProfileError::Life(*max_ttl))
            }
            Self::Jws { typ, .. } if is_reserved(typ) => Err(ProfileError::ReservedType(typ.clone())),
            Self::HttpSignature { max_lifetime, .. }
                if *max_lifetime == 0 || *max_lifetime > proof::MAX_LIFETIME =>
            {
                Err(ProfileError::Lifetime(*max_lifetime))
            }
            Self::ClientAssertion { audience, .. } => audience_origin(audience).map(drop),
            Self::Git { mails, tags } => git::validate(mails, tags),
            Self::SshAuth { users, host_keys } => ssh_auth::validate(users, host_keys),
            Self::Sshsig { .. }
            | Self::Jws { .. }
            | Self::Labeled { .. }
            | Self::HttpSignature { .. }
            | Self::Dpop {}
            | Self::GithubApp { .. }
            | Self::Mtls {}
            | Self::Attest {}
            | Self::Seal {}
            | Self::Mac { .. } => Ok(()),
        }
    }

    /// As [`Profile::validate`], for a key that does not exist yet: what older versions made and no grant can use any more is refused, too.
    ///
    /// # Errors
    /// The first parameter that is out of its bounds.
    pub fn validate_new(&self) -> Result<(), ProfileError> {
        self.validate()?;
        match self {
            Self::Sshsig { namespaces } if namespaces.iter().any(is_git) => Err(ProfileError::GitNamespace),
            Self::Sshsig { .. }
            | Self::Jws { .. }
            | Self::Labeled { .. }
            | Self::HttpSignature { .. }
            | Self::Dpop {}
            | Self::ClientAssertion { .. }
            | Self::GithubApp { .. }
            | Self::Mtls {}
            | Self::Attest {}
            | Self::Git { .. }
            | Self::SshAuth { .. }
            | Self::Seal {}
            | Self::Mac { .. } => Ok(()),
        }
    }

    /// Checks that keys of this profile sign evidence.
    ///
    /// # Errors
    /// When they do not.
    pub fn evidences(&self) -> Result<(), ProfileError> {
        match self {
            Self::Attest {} => Ok(()),
            Self::Sshsig { .. }
            | Self::Jws { .. }
            | Self::Labeled { .. }
            | Self::HttpSignature { .. }
            | Self::Dpop {}
            | Self::ClientAssertion { .. }
            | Self::GithubApp { .. }
            | Self::Mtls {}
            | Self::Git { .. }
            | Self::SshAuth { .. }
            | Self::Seal {}
            | Self::Mac { .. } => Err(ProfileError::Purpose {
                grant: "attest",
                found: self.kind(),
            }),
        }
    }

    /// What remains of the profile when a grant narrows it. A grant can only narrow.
    ///
    /// # Errors
    /// When the grant asks for something the key was not made for, or leaves open what the key leaves open.
    pub fn narrow(&self, narrowing: &Narrowing) -> Result<SigningRule, ProfileError> {
        self.validate()?;
        let Narrowing {
            namespace,
            audience,
            subject,
            ttl,
            label,
            git,
            ssh,
        } = narrowing;
        if let Some((field, _)) = narrowing.given().find(|(_, profile)| *profile != self.kind()) {
            return Err(ProfileError::Foreign {
                profile: self.kind(),
                field,
            });
        }
        match self {
            Self::HttpSignature { .. }
            | Self::Dpop {}
            | Self::ClientAssertion { .. }
            | Self::GithubApp { .. }
            | Self::Mtls {} => Err(ProfileError::ForRequests(self.kind())),
            Self::Attest {} => Err(ProfileError::ForEvidence),
            Self::Seal {} | Self::Mac { .. } => Err(ProfileError::SignsNothing(self.kind())),
            Self::Sshsig { namespaces } => {
                let namespace = choose("namespace", namespaces, namespace.as_ref())?;
                // Commits and tags are read before they are signed, under a profile of their own.
                if is_git(&namespace) {
                    return Err(ProfileError::GitNamespace);
                }
                Ok(SigningRule::Sshsig { namespace })
            }
            Self::Jws {
                issuer,
                typ,
                audiences,
                max_ttl,
            } => {
                let ttl = ttl.unwrap_or(*max_ttl);
                if ttl == 0 || ttl > *max_ttl {
                    return Err(ProfileError::Ttl {
                        asked: ttl,
                        allowed: *max_ttl,
                    });
                }
                Ok(SigningRule::Jws {
                    issuer: issuer.clone(),
                    typ: typ.clone(),
                    audience: choose("audience", audiences, audience.as_ref())?,
                    subject: subject.clone(),
                    ttl,
                })
            }
            Self::Labeled { label: own } => match label {
                Some(asked) if asked != own => Err(ProfileError::NotAmong {
                    field: "label",
                    asked: asked.to_string(),
                    allowed: own.to_string(),
                }),
                Some(_) | None => Ok(SigningRule::Labeled { label: own.clone() }),
            },
            Self::Git { mails, tags } => git::narrow(mails, tags, git).map(SigningRule::Git),
            Self::SshAuth { users, host_keys } => {
                ssh_auth::narrow(users, host_keys, ssh).map(SigningRule::SshAuth)
            }
        }
    }
}

/// How one grant signs: the profile with every choice made. Frozen at admission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum SigningRule {
    /// Armoured SSHSIG under this namespace.
    Sshsig {
        /// The namespace.
        namespace: Namespace,
    },
    /// Compact JWS with these claims set by the host.
    Jws {
        /// `iss`.
        issuer: Principal,
        /// `typ`.
        typ: TokenType,
        /// `aud`.
        audience: Principal,
        /// `sub`, if any.
        subject: Option<Principal>,
        /// Seconds from `iat` to `exp`.
        ttl: u32,
    },
    /// Opaque bytes under this label.
    Labeled {
        /// The label.
        label: Label,
    },
    /// Commits and tags.
    Git(GitRule),
    /// Logins over SSH.
    SshAuth(SshAuthRule),
}

/// What a frame needs beside the content, none of it chosen by the agent.
#[derive(Debug, Clone, Copy)]
pub struct FrameContext<'a> {
    /// The key that will sign.
    pub key: &'a PublicKey,
    /// The time of the decision.
    pub now: Timestamp,
    /// Random bytes from the host, for a token's `jti`.
    pub nonce: [u8; 16],
}

impl SigningRule {
    /// Frames content: the only way to a [`Framed`] message, hence the only way to a signature.
    ///
    /// # Errors
    /// When the content is too large or does not fit the profile. The message quotes no content.
    pub fn frame(&self, content: &[u8], context: &FrameContext<'_>) -> Result<Framed, FrameError> {
        if !GENERAL.contains(&context.key.algorithm()) {
            return Err(FrameError::Algorithm(context.key.algorithm()));
        }
        let max = match self {
            Self::Sshsig { .. } => MAX_SSHSIG_CONTENT,
            Self::Jws { .. } | Self::Labeled { .. } | Self::Git(_) => MAX_MESSAGE_CONTENT,
            Self::SshAuth(_) => ssh_auth::MAX_LOGIN,
        };
        if content.len() > max {
            return Err(FrameError::TooLarge {
                allowed: max,
                sent: content.len(),
            });
        }
        let (message, finish) = match self {
            Self::Sshsig { namespace } => (
                sshsig::message(namespace, content)?,
                Finish::Sshsig {
                    namespace: namespace.clone(),
                },
            ),
            Self::Jws {
                issuer,
                typ,
                audience,
                subject,
                ttl,
            } => {
                let claims = jws::HostClaims {
                    issuer,
                    audience,
                    subject: subject.as_ref(),
                    ttl: *ttl,
                };
                (jws::message(&claims, typ, content, context)?, Finish::Jws)
            }
            Self::Labeled { label } => (labeled::message(label, content), Finish::Labeled),
            Self::Git(rule) => {
                rule.check(content, context.now)?;
                let namespace: Namespace = git::NAMESPACE.parse().map_err(|_| FrameError::Encoding)?;
                (
                    sshsig::message(&namespace, content)?,
                    Finish::Sshsig { namespace },
                )
            }
            Self::SshAuth(rule) => (ssh_auth::check(rule, content, context.key)?, Finish::SshAuth),
        };
        // Before anything is decided or logged: what could not be given out is not signed.
        let needed = finish.longest(&message, context.key.algorithm());
        if needed > MAX_SIGNATURE {
            return Err(FrameError::Grown {
                allowed: MAX_SIGNATURE,
                needed,
            });
        }
        Ok(Framed::new(message, finish, context.key, content))
    }
}

/// The bytes whose signature a `labeled` key gives for this content: what a verifier hashes. Public for verifiers.
#[must_use]
pub fn labeled_message(label: &Label, content: &[u8]) -> Vec<u8> {
    labeled::message(label, content)
}

/// Whether it is the type of tokens that only a profile for requests makes. Media types are compared without case, and with or
/// without `application/` (RFC 7515 §4.1.9).
fn is_reserved(typ: &TokenType) -> bool {
    let typ = typ.as_str().to_ascii_lowercase();
    let typ = typ.strip_prefix("application/").unwrap_or(&typ);
    RESERVED_TYPES.contains(&typ)
}

/// Where client assertions for this audience are sent.
fn audience_origin(audience: &Principal) -> Result<Origin, ProfileError> {
    Target::parse(audience.as_str(), PathEncoding::Allowed)
        .map(|target| target.origin().clone())
        .map_err(|_| ProfileError::Audience(audience.clone()))
}

fn choose<T: Ord + Clone + fmt::Display>(
    field: &'static str,
    allowed: &BTreeSet<T>,
    asked: Option<&T>,
) -> Result<T, ProfileError> {
    match asked {
        Some(asked) if allowed.contains(asked) => Ok(asked.clone()),
        Some(asked) => Err(ProfileError::NotAmong {
            field,
            asked: asked.to_string(),
            allowed: listed(allowed),
        }),
        None => match (allowed.len(), allowed.first()) {
            (1, Some(only)) => Ok(only.clone()),
            _ => Err(ProfileError::Ambiguous {
                field,
                allowed: listed(allowed),
            }),
        },
    }
}

/// The items of a set, as they are shown in messages.
fn listed<T: fmt::Display>(items: &BTreeSet<T>) -> String {
    let items: Vec<_> = items.iter().map(|item| format!("`{item}`")).collect();
    items.join(", ")
}

fn is_git(namespace: &Namespace) -> bool {
    namespace.as_str() == git::NAMESPACE
}
