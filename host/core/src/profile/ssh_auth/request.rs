//! Reads a request to log in (RFC 4252 §7, and `publickey-hostbound-v00@openssh.com` of OpenSSH's PROTOCOL) and what binds it to a server
//! (`session-bind@openssh.com` of OpenSSH's PROTOCOL.agent). Every field is decided on; what is left over is refused.

use ssh_encoding::{Decode, Reader as _};
use ssh_key::public::{EcdsaPublicKey, KeyData};

use super::{HostKeyId, SshAuthRule};
use crate::key::{Algorithm, PublicKey, Signature};
use crate::profile::ssh;

/// SSH_MSG_USERAUTH_REQUEST (RFC 4252 §6).
const USERAUTH_REQUEST: u8 = 50;
/// What a login is for (RFC 4252 §5); the other there is changes passwords.
const SERVICE: &[u8] = b"ssh-connection";
/// RFC 4252 §7.
const PUBLICKEY: &[u8] = b"publickey";
/// OpenSSH's PROTOCOL §3.1: the server's host key is part of what is signed.
const HOSTBOUND: &[u8] = b"publickey-hostbound-v00@openssh.com";
/// A session id is the hash of a key exchange: of SHA-256, SHA-384 or SHA-512. SHA-1 is not taken any more.
const SESSION_IDS: [usize; 3] = [32, 48, 64];

/// A request to log in, with the word of the server that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// What an SSH client would have signed.
    pub request: Vec<u8>,
    /// The server's host key, as SSH writes it (RFC 4253 §6.6).
    pub host_key: Vec<u8>,
    /// The session's id.
    pub session: Vec<u8>,
    /// The server's signature over the session's id, as SSH writes it: the one of the key exchange.
    pub signature: Vec<u8>,
}

/// Why a request to log in is not signed. Quotes none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SshAuthError {
    /// Not the four parts, each with its length before it.
    #[error(
        "expected a request to log in, a host key, a session id and the host key's signature, each as an SSH string"
    )]
    NotALogin,
    /// The host key is not one of the grant's.
    #[error("the server's host key is not one that the grant names")]
    HostKey,
    /// No host key that can be verified with.
    #[error(
        "expected an Ed25519 or P-256 host key (`HostKeyAlgorithms ssh-ed25519,ecdsa-sha2-nistp256`), without a certificate"
    )]
    HostKeyKind,
    /// Not a session id.
    #[error("expected a session id of SHA-256, SHA-384 or SHA-512")]
    Session,
    /// The server did not sign it.
    #[error("the host key did not sign the session id")]
    Binding,
    /// Not a request for a login with a public key.
    #[error(
        "expected the request of RFC 4252 §7 or of `publickey-hostbound-v00@openssh.com`, with a signature to come, and nothing after it"
    )]
    NotARequest,
    /// Of another session.
    #[error("the request is for another session than the server signed")]
    OtherSession,
    /// As somebody else.
    #[error("the user is not one that the grant logs in as")]
    User,
    /// For another service.
    #[error("expected the service `ssh-connection`")]
    Service,
    /// With another key.
    #[error("the request names another key or algorithm than the grant's")]
    Key,
    /// The request names another server than the session's.
    #[error("the request is bound to another host key than the session's")]
    OtherHost,
}

impl Login {
    /// As content to be signed: the four parts as SSH strings (RFC 4251 §5), in their order.
    #[must_use]
    pub fn to_content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for part in [&self.request, &self.host_key, &self.session, &self.signature] {
            // A part over 4 GiB has no length; it is left out, and what is left is no login.
            if let Ok(length) = u32::try_from(part.len()) {
                content.extend_from_slice(&length.to_be_bytes());
                content.extend_from_slice(part);
            }
        }
        content
    }

    fn read(content: &[u8]) -> Option<Self> {
        let mut reader = content;
        let login = Self {
            request: string(&mut reader)?,
            host_key: string(&mut reader)?,
            session: string(&mut reader)?,
            signature: string(&mut reader)?,
        };
        reader.is_empty().then_some(login)
    }
}

/// Checks a login and gives the bytes to sign.
pub(in crate::profile) fn check(
    rule: &SshAuthRule,
    content: &[u8],
    key: &PublicKey,
) -> Result<Vec<u8>, SshAuthError> {
    let login = Login::read(content).ok_or(SshAuthError::NotALogin)?;
    if !rule.host_keys.contains(&HostKeyId::of(&login.host_key)) {
        return Err(SshAuthError::HostKey);
    }
    if !SESSION_IDS.contains(&login.session.len()) {
        return Err(SshAuthError::Session);
    }
    let host_key = host_key(&login.host_key).ok_or(SshAuthError::HostKeyKind)?;
    let signature = host_signature(&host_key, &login.signature).ok_or(SshAuthError::Binding)?;
    host_key
        .verify(&login.session, &signature)
        .map_err(|_| SshAuthError::Binding)?;
    let request = Request::read(&login.request).ok_or(SshAuthError::NotARequest)?;
    if request.session != login.session {
        return Err(SshAuthError::OtherSession);
    }
    if !rule
        .users
        .iter()
        .any(|user| user.as_str().as_bytes() == request.user)
    {
        return Err(SshAuthError::User);
    }
    if request.service != SERVICE {
        return Err(SshAuthError::Service);
    }
    let own = ssh::public_blob(key).map_err(|_| SshAuthError::Key)?;
    let name = ssh::algorithm(key.algorithm()).map_err(|_| SshAuthError::Key)?;
    if request.key != own || request.algorithm != name.as_str().as_bytes() {
        return Err(SshAuthError::Key);
    }
    if request.host_key.is_some_and(|named| named != login.host_key) {
        return Err(SshAuthError::OtherHost);
    }
    Ok(login.request)
}

/// The fields of a request.
struct Request {
    session: Vec<u8>,
    user: Vec<u8>,
    service: Vec<u8>,
    algorithm: Vec<u8>,
    key: Vec<u8>,
    // Of the server, where the method binds it.
    host_key: Option<Vec<u8>>,
}

impl Request {
    fn read(mut bytes: &[u8]) -> Option<Self> {
        let reader = &mut bytes;
        let session = string(reader)?;
        if u8::decode(reader).ok()? != USERAUTH_REQUEST {
            return None;
        }
        let (user, service, method) = (string(reader)?, string(reader)?, string(reader)?);
        let bound = match method.as_slice() {
            PUBLICKEY => false,
            HOSTBOUND => true,
            _ => return None,
        };
        // RFC 4251 §5: TRUE is 1, and a signed request is TRUE.
        if u8::decode(reader).ok()? != 1 {
            return None;
        }
        let (algorithm, key) = (string(reader)?, string(reader)?);
        let host_key = if bound { Some(string(reader)?) } else { None };
        reader.is_finished().then_some(Self {
            session,
            user,
            service,
            algorithm,
            key,
            host_key,
        })
    }
}

fn string(reader: &mut &[u8]) -> Option<Vec<u8>> {
    Vec::<u8>::decode(reader).ok()
}

fn host_key(blob: &[u8]) -> Option<PublicKey> {
    let key = match ssh_key::PublicKey::from_bytes(blob).ok()?.key_data() {
        KeyData::Ed25519(key) => PublicKey::ed25519(&key.0).ok()?,
        KeyData::Ecdsa(EcdsaPublicKey::NistP256(point)) => PublicKey::p256(point.as_bytes()).ok()?,
        // The others of the crate, which may become more.
        _ => return None,
    };
    // One spelling of one key.
    (ssh::public_blob(&key).ok()? == blob).then_some(key)
}

fn host_signature(key: &PublicKey, mut blob: &[u8]) -> Option<Signature> {
    let signature = ssh_key::Signature::decode(&mut blob).ok()?;
    if !blob.is_empty() || signature.algorithm() != ssh::algorithm(key.algorithm()).ok()? {
        return None;
    }
    let bytes: [u8; Signature::LENGTH] = match key.algorithm() {
        Algorithm::Ed25519 => signature.as_bytes().try_into().ok()?,
        Algorithm::P256 => ssh::p256_numbers(signature.as_bytes())?,
        Algorithm::Rsa2048 => return None,
    };
    Some(Signature::new(key.algorithm(), bytes))
}
