//! What goes over the control socket: frames of a length (four bytes, big endian) and so many bytes, each with a bound. The host says a
//! [`Hello`], the peer sends one [`Order`] and, if the command takes one, a value as it is; the host gives one [`Answer`] and,
//! if that says so, a file of a length, as it is. Not who may.

use std::io::{self, Read as _};

use claviger_core::Secret;
use claviger_core::secret::SecretError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::backup::Beside;
use super::error::Problem;
use super::{Command, MAX_VALUE, Reply};

/// The version of this protocol. A host and a command of different versions tell each other, and do nothing.
pub const PROTOCOL: u32 = 1;
/// A frame has at most this many bytes: what is said of a backup of 4096 keys has some 650 KiB.
pub const MAX_FRAME: usize = 1024 * 1024;
/// A command has at most this many bytes: the longest profile has a few KiB.
pub(super) const MAX_COMMAND: usize = 64 * 1024;

/// A file goes in pieces of at most this many bytes.
pub(super) const PIECE: usize = 64 * 1024;

/// What a host says first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The version of the protocol. Its name tells whoever connected by mistake what this is.
    #[serde(rename = "claviger-control")]
    pub(super) protocol: u32,
    /// The version of the host.
    pub(super) version: String,
    /// Its process.
    pub(super) pid: u32,
}

/// What a peer wants, still to be read as a command: one of another version is no command of this one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    #[serde(rename = "claviger-control")]
    pub(super) protocol: u32,
    pub(super) command: serde_json::Value,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Done(Reply),
    /// So many bytes follow.
    DoneWithFile {
        reply: Reply,
        length: u64,
    },
    Failed(Problem),
}

/// Why a frame was not read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("a frame here has 1 to {allowed} bytes, this one says {said}")]
    Length { said: usize, allowed: usize },
    #[error("a frame holds something else than it should: {0}")]
    Json(#[from] serde_json::Error),
    #[error("expected version {PROTOCOL} of the control protocol, not {0}")]
    Protocol(u32),
    #[error(transparent)]
    Memory(#[from] SecretError),
}

/// Reads the command that an order holds.
pub(super) async fn read_order(stream: &mut UnixStream) -> Result<(Command, Option<Secret>), WireError> {
    let order: Order = read(stream, MAX_COMMAND).await?;
    if order.protocol != PROTOCOL {
        return Err(WireError::Protocol(order.protocol));
    }
    let command: Command = serde_json::from_value(order.command)?;
    let value = if command.takes_value() {
        Some(read_value(stream).await?)
    } else {
        None
    };
    Ok((command, value))
}

/// Writes an order, and the value that goes with it.
pub(super) async fn write_order(
    stream: &mut UnixStream,
    command: &Command,
    value: Option<&Secret>,
) -> Result<(), WireError> {
    let order = Order {
        protocol: PROTOCOL,
        command: serde_json::to_value(command)?,
    };
    write(stream, &order).await?;
    if let Some(value) = value {
        write_bytes(stream, value.expose(), MAX_VALUE).await?;
    }
    Ok(())
}

pub(super) async fn read<T: DeserializeOwned>(stream: &mut UnixStream, max: usize) -> Result<T, WireError> {
    let mut bytes = vec![0; read_length(stream, max).await?];
    stream.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

pub(super) async fn write(stream: &mut UnixStream, value: &impl Serialize) -> Result<(), WireError> {
    write_bytes(stream, &serde_json::to_vec(value)?, MAX_FRAME).await
}

/// From the socket into memory that is wiped, and from there into memory that is locked, too. No other copy is made.
async fn read_value(stream: &mut UnixStream) -> Result<Secret, WireError> {
    let mut bytes = Zeroizing::new(vec![0; read_length(stream, MAX_VALUE).await?]);
    stream.read_exact(&mut bytes).await?;
    Ok(Secret::take(&mut bytes)?)
}

/// Writes the file beside an answer.
pub(super) async fn write_file(stream: &mut UnixStream, beside: Beside) -> io::Result<()> {
    let mut left = beside.file.take(beside.length);
    let mut piece = vec![0; PIECE];
    loop {
        // A file of this machine without a name, written just now: it does not wait.
        match left.read(&mut piece)? {
            0 => return Ok(()),
            count => stream.write_all(piece.get(..count).unwrap_or_default()).await?,
        }
    }
}

/// Reads the next bytes of a file, of which so many are left: into these, and says how many.
pub(super) async fn read_piece(stream: &mut UnixStream, left: u64, piece: &mut [u8]) -> io::Result<usize> {
    let most = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
    match stream.read(piece.get_mut(..most).unwrap_or_default()).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

async fn read_length(stream: &mut UnixStream, allowed: usize) -> Result<usize, WireError> {
    let said = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if said == 0 || said > allowed {
        return Err(WireError::Length { said, allowed });
    }
    Ok(said)
}

async fn write_bytes(stream: &mut UnixStream, bytes: &[u8], allowed: usize) -> Result<(), WireError> {
    let said = bytes.len();
    match u32::try_from(said) {
        Ok(length) if said <= allowed => {
            stream.write_all(&length.to_be_bytes()).await?;
            stream.write_all(bytes).await?;
            Ok(())
        }
        Ok(_) | Err(_) => Err(WireError::Length { said, allowed }),
    }
}
