//! Asks a running host to do a command. Decides nothing, and never opens the keyring.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use claviger_core::Secret;
use claviger_core::name::escape;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::backup::MAX_FILE;
use super::error::Problem;
use super::server::{Address, is_ours};
use super::wire::{self, Answer, Hello, MAX_COMMAND, MAX_FRAME, PIECE, PROTOCOL, WireError};
use super::{Command, Reply};
use crate::keyring::{KeyringError, private_folder};

/// A host says hello within this time, if it is one.
const HELLO: Duration = Duration::from_secs(30);
/// A command is done within this time: an RSA key in a slow TPM takes minutes.
const DONE: Duration = Duration::from_secs(600);
/// A host's version is shown up to this many characters.
const MAX_VERSION: usize = 64;

/// Why a host did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No host serves the socket. Nothing was done.
    #[error("no host serves the keyring's control socket")]
    NoHost,
    /// The keyring's folder is not the user's alone.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// Another user's process serves it. Nothing was sent to it.
    #[error("the keyring's control socket is served by another user's process")]
    Foreign,
    /// The host speaks another version of the protocol. Nothing was done.
    #[error(
        "the running host is of version {version} and speaks version {protocol} of the control protocol, not {PROTOCOL}"
    )]
    Protocol {
        /// The host's own version, escaped.
        version: String,
        /// That of its protocol.
        protocol: u32,
    },
    /// The command or its value is over its bound. Nothing was done.
    #[error("the command is too long to be sent")]
    TooLong,
    /// The connection failed before the command was sent. Nothing was done.
    #[error("cannot ask the running host")]
    Unreachable(#[source] io::Error),
    /// The host ended, or took too long, after the command was sent.
    #[error("the running host did not answer; it is not known whether it did it")]
    Lost,
    /// What the host gave cannot be kept. It is done.
    #[error("what the running host gave cannot be written")]
    File(#[source] io::Error),
    /// The host says that something stands against it.
    #[error("{}", .0.message)]
    Refused(Problem),
}

/// A connection to a running host, good for one command.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    pid: u32,
}

impl Client {
    /// Connects to the host that has the keyring in this folder open, if one does and serves its socket. Needs a runtime with I/O and time.
    ///
    /// # Errors
    /// [`ClientError::NoHost`] if there is none; otherwise why it cannot be asked.
    pub async fn connect(folder: &Path) -> Result<Self, ClientError> {
        let folder = private_folder(folder)?;
        let address = Address::of(&folder).map_err(ClientError::Unreachable)?;
        let mut stream = match UnixStream::connect(address.path()).await {
            Ok(stream) => stream,
            // A host that died leaves a socket that refuses.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Err(ClientError::NoHost);
            }
            Err(error) => return Err(ClientError::Unreachable(error)),
        };
        let peer = stream.peer_cred().map_err(ClientError::Unreachable)?;
        if !is_ours(peer.uid()) {
            return Err(ClientError::Foreign);
        }
        let hello = timeout(HELLO, wire::read::<Hello>(&mut stream, MAX_COMMAND)).await;
        let hello = match hello {
            Ok(Ok(hello)) => hello,
            // It is just ending.
            Ok(Err(WireError::Io(_))) => return Err(ClientError::NoHost),
            Ok(Err(error)) => return Err(ClientError::Unreachable(io::Error::other(error))),
            Err(_) => return Err(ClientError::Unreachable(io::ErrorKind::TimedOut.into())),
        };
        if hello.protocol != PROTOCOL {
            return Err(ClientError::Protocol {
                version: escape(&hello.version, MAX_VERSION),
                protocol: hello.protocol,
            });
        }
        Ok(Self {
            stream,
            pid: hello.pid,
        })
    }

    /// The host's process, as it says.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Has the host do a command, with the value that goes beside it. Dropping the future does not take back what was sent.
    ///
    /// # Errors
    /// What the host says stands against it, or [`ClientError::Lost`] if it does not answer.
    pub async fn command(self, command: &Command, value: Option<&Secret>) -> Result<Reply, ClientError> {
        self.command_into(command, value, None).await
    }

    /// As [`Client::command`], with the file for one that gives one. If it fails, what is in the file is of no use.
    ///
    /// # Errors
    /// As [`Client::command`], and [`ClientError::File`] when the file cannot be written.
    pub async fn command_into(
        mut self,
        command: &Command,
        value: Option<&Secret>,
        file: Option<&mut (dyn Write + Send)>,
    ) -> Result<Reply, ClientError> {
        match wire::write_order(&mut self.stream, command, value).await {
            Ok(()) => {}
            Err(WireError::Length { .. }) => return Err(ClientError::TooLong),
            // The host may have read it all the same, or have said why not.
            Err(_) => {}
        }
        match timeout(DONE, wire::read::<Answer>(&mut self.stream, MAX_FRAME)).await {
            Ok(Ok(Answer::Done(reply))) => Ok(reply),
            Ok(Ok(Answer::DoneWithFile { reply, length })) => match file {
                Some(file) if length <= MAX_FILE => {
                    self.read_file(length, file).await?;
                    Ok(reply)
                }
                Some(_) | None => Err(ClientError::Lost),
            },
            Ok(Ok(Answer::Failed(problem))) => Err(ClientError::Refused(problem)),
            Ok(Err(_)) | Err(_) => Err(ClientError::Lost),
        }
    }

    async fn read_file(&mut self, length: u64, file: &mut (dyn Write + Send)) -> Result<(), ClientError> {
        let mut piece = vec![0; PIECE];
        let mut left = length;
        while left > 0 {
            let read = timeout(HELLO, wire::read_piece(&mut self.stream, left, &mut piece)).await;
            let count = match read {
                Ok(Ok(count)) => count,
                Ok(Err(_)) | Err(_) => return Err(ClientError::Lost),
            };
            file.write_all(piece.get(..count).unwrap_or_default())
                .map_err(ClientError::File)?;
            left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}
