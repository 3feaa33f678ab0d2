//! The part of the SSH agent protocol (draft-ietf-sshm-ssh-agent, and `session-bind@openssh.com` of OpenSSH's PROTOCOL.agent) that is
//! answered: listing, signing, binding. Everything else is one answer, failure; keys that a peer would add are not even read.
//!
//! Three messages are read here and not by a library: `ssh-agent-lib` decodes all of the protocol, private keys and tokens' pins among it,
//! before anybody can refuse them.

use claviger_core::profile::ssh_auth::MAX_LOGIN;
use ssh_encoding::{Decode as _, Encode as _, Reader as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest message, in bytes: a request to log in with what is around it.
pub const MAX_MESSAGE: usize = 2 * MAX_LOGIN;

const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const EXTENSION: u8 = 27;
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// What a peer asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// Which keys there are.
    Identities,
    /// A signature.
    Sign { key: Vec<u8>, data: Vec<u8>, flags: u32 },
    /// To remember whom the connection speaks to.
    Bind(Binding),
    /// Something else, or not well formed.
    Other,
}

/// What a server said of a session, as the client passes it on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) host_key: Vec<u8>,
    pub(super) session: Vec<u8>,
    pub(super) signature: Vec<u8>,
    pub(super) forwarding: bool,
}

impl Asked {
    pub(super) fn read(message: &[u8]) -> Self {
        Self::parse(message).unwrap_or(Self::Other)
    }

    fn parse(mut message: &[u8]) -> Option<Self> {
        let reader = &mut message;
        let asked = match u8::decode(reader).ok()? {
            REQUEST_IDENTITIES => Self::Identities,
            SIGN_REQUEST => Self::Sign {
                key: string(reader)?,
                data: string(reader)?,
                flags: u32::decode(reader).ok()?,
            },
            EXTENSION if string(reader)? == SESSION_BIND => Self::Bind(Binding {
                host_key: string(reader)?,
                session: string(reader)?,
                signature: string(reader)?,
                // RFC 4251 §5: whatever is not zero is true.
                forwarding: u8::decode(reader).ok()? != 0,
            }),
            _ => return None,
        };
        reader.is_finished().then_some(asked)
    }
}

/// What a peer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Failure,
    Success,
    /// The key, with a comment; none if it cannot be used.
    Identities(Option<(Vec<u8>, String)>),
    /// A signature as SSH writes it.
    Signature(Vec<u8>),
}

impl Answer {
    /// With its length in front; none if it is too long to be written, which the bounds exclude.
    pub(super) fn to_frame(&self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        match self {
            Self::Failure => body.push(FAILURE),
            Self::Success => body.push(SUCCESS),
            Self::Identities(key) => {
                body.push(IDENTITIES_ANSWER);
                u32::from(key.is_some()).encode(&mut body).ok()?;
                if let Some((blob, comment)) = key {
                    blob.as_slice().encode(&mut body).ok()?;
                    comment.as_str().encode(&mut body).ok()?;
                }
            }
            Self::Signature(signature) => {
                body.push(SIGN_RESPONSE);
                signature.as_slice().encode(&mut body).ok()?;
            }
        }
        let mut frame = u32::try_from(body.len()).ok()?.to_be_bytes().to_vec();
        frame.extend(body);
        Some(frame)
    }
}

/// The next message of a peer; none at the end, or if it is empty or over [`MAX_MESSAGE`].
pub(super) async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let length = usize::try_from(stream.read_u32().await.ok()?).ok()?;
    if length == 0 || length > MAX_MESSAGE {
        return None;
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Writes an answer; none if the peer does not take it.
pub(super) async fn answer(stream: &mut (impl AsyncWrite + Unpin), answer: &Answer) -> Option<()> {
    stream.write_all(&answer.to_frame()?).await.ok()?;
    stream.flush().await.ok()
}

fn string(reader: &mut &[u8]) -> Option<Vec<u8>> {
    Vec::<u8>::decode(reader).ok()
}
