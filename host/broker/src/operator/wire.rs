//! What goes over the control socket: frames of a length (four bytes, big endian) and so many bytes, each with a bound. The host says a
//! [`Hello`], the peer sends one [`Order`] and, if the command takes one, a value as it is; the host gives one [`Answer`]. Not who may.

use std::io;

use claviger_core::Secret;
use claviger_core::secret::SecretError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::error::Problem;
use super::{Command, MAX_VALUE, Reply};

/// The version of this protocol. A host and a command of different versions tell each other, and do nothing.
pub const PROTOCOL: u32 = 1;
/// A frame has at most this many bytes: a status with every name in it has some 140 KiB.
pub const MAX_FRAME: usize = 256 * 1024;
/// A command has at most this many bytes: the longest profile has a few KiB.
pub(super) const MAX_COMMAND: usize = 64 * 1024;

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
