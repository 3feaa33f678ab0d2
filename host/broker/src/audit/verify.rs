//! Checks a log with nothing but its public key: no lock, no private key, also while it is written. Not recovery: it changes nothing.

use std::path::Path;

use jiff::Timestamp;
use tlog_tiles::Hash;

use super::disk::{CHECKPOINT, Folder, FolderError};
use super::key::{self, CheckpointError};
use super::open::parse;
use super::scan::{Damage, ScanError, SignedHead, Writer, reading, scan};

/// A log in which everything agrees.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Verified {
    /// How many whole entries there are.
    pub entries: u64,
    /// How many of them the checkpoint is signed over.
    pub checkpoint_size: u64,
    /// The signed root over these.
    pub root: Hash,
    /// How many entries come after the checkpoint. Their hashes are right, but nothing proves that none was cut off.
    pub unsigned_tail: u64,
    /// Bytes after the last whole entry: an entry being written, or torn by a crash.
    pub torn_bytes: u64,
    /// When the last entry was made.
    pub last_time: Option<Timestamp>,
}

/// Why a log does not verify.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The folder cannot be read as a log.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// There is no checkpoint.
    #[error("there is no checkpoint in the audit log's folder")]
    NoCheckpoint,
    /// The checkpoint is not signed by this key.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The first bad entry, or a file that cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
}

impl VerifyError {
    /// The first bad entry, if one is damaged.
    #[must_use]
    pub const fn damage(&self) -> Option<&Damage> {
        match self {
            Self::Scan(ScanError::Damaged(damage)) => Some(damage),
            Self::Scan(ScanError::Read { .. })
            | Self::Folder(_)
            | Self::NoCheckpoint
            | Self::Checkpoint(_) => None,
        }
    }
}

/// Checks the checkpoint's signature, every entry against its tile, the tiles against each other, the signed root, and the tail's
/// hashes. Entries are read up to where the log ends while this runs.
///
/// # Errors
/// When anything does not agree: the first bad entry and its file are named.
pub fn verify(folder: &Path, vkey: &str) -> Result<Verified, VerifyError> {
    let folder = Folder::open(folder)?;
    // First the head, then the entries: these only become more.
    let note = folder
        .read(CHECKPOINT)
        .map_err(reading(CHECKPOINT))?
        .ok_or(VerifyError::NoCheckpoint)?;
    let checkpoint = key::check(&note, vkey)?;
    let signed = SignedHead {
        size: checkpoint.size(),
        root: *checkpoint.hash(),
    };
    let mut last = Vec::new();
    let found = scan(&folder, signed, Writer::Possible, &mut |_, json| {
        last.clear();
        last.extend_from_slice(json);
        Ok(())
    })?;
    let entries = found.edge.size();
    let last_time = match entries.checked_sub(1) {
        Some(index) => Some(parse(index, &last).map_err(ScanError::from)?.time),
        None => None,
    };
    Ok(Verified {
        entries,
        checkpoint_size: signed.size,
        root: signed.root,
        unsigned_tail: entries - signed.size,
        torn_bytes: found
            .journals
            .iter()
            .map(|journal| journal.length - journal.valid)
            .sum(),
        last_time,
    })
}
