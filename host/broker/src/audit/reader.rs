//! Reads entries and proofs from a log's folder, without lock or key, also while it is written. Not a check: whoever must trust what
//! is read calls `verify`, or checks the proof against a checkpoint of theirs.

use std::path::Path;

use claviger_core::{Entry, EntryIndex};
use tlog_tiles::{
    Error, HASH_SIZE, Hash, Tile, TileHashReader, TileReader, check_record, prove_record, record_hash,
};

use super::disk::{CHECKPOINT, Folder, FolderError};
use super::frame::{self, Frame};
use super::key::{self, CheckpointError};
use super::open::parse;
use super::scan::{Damage, ScanError, journals_of, reading, split_entry};
use super::tree::{FULL, HEIGHT, bundle_path, tile_path};

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The folder cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// An entry is damaged, or a file cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// There is no checkpoint, or it is none.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint does not cover the entry.
    #[error("entry {index} is not covered by the checkpoint over {size} entries; sign a new one first")]
    NotCovered {
        /// The entry.
        index: EntryIndex,
        /// The checkpoint's size.
        size: u64,
    },
    /// The tiles do not lead to the checkpoint's root.
    #[error("the tiles do not lead to the checkpoint's root: {0}")]
    Tiles(String),
}

/// Proof that an entry is in the tree of a checkpoint (RFC 6962 §2.1.1).
#[derive(Debug, Clone, PartialEq)]
pub struct InclusionProof {
    /// The entry.
    pub index: EntryIndex,
    /// The checkpoint's size.
    pub size: u64,
    /// The audit path, from the leaf up.
    pub hashes: Vec<Hash>,
}

impl InclusionProof {
    /// Whether this proves that the entry with this JSON is in the tree with this root.
    #[must_use]
    pub fn holds(&self, json: &[u8], root: Hash) -> bool {
        check_record(&self.hashes, self.size, root, self.index, record_hash(json)).is_ok()
    }
}

/// A log opened to read.
#[derive(Debug)]
pub struct Reader {
    folder: Folder,
}

impl Reader {
    /// Opens a log's folder.
    ///
    /// # Errors
    /// When it is no folder, or others may write in it.
    pub fn open(folder: &Path) -> Result<Self, ReadError> {
        Ok(Self {
            folder: Folder::open(folder)?,
        })
    }

    /// The last signed checkpoint, as text. Its signature is not checked.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn checkpoint(&self) -> Result<String, ReadError> {
        let note = self
            .folder
            .read(CHECKPOINT)
            .map_err(reading(CHECKPOINT))?
            .unwrap_or_default();
        String::from_utf8(note).map_err(|_| CheckpointError::Malformed.into())
    }

    /// The entries from an index on, up to where the log ends now. Call it again with the next index to follow a log.
    #[must_use]
    pub fn entries(&self, from: EntryIndex) -> Entries<'_> {
        Entries {
            folder: &self.folder,
            next: from,
            chunk: Vec::new().into_iter(),
            ended: false,
        }
    }

    /// One entry as the bytes that were hashed, or none if the log is shorter.
    ///
    /// # Errors
    /// When a file cannot be read, or the entry is damaged.
    pub fn json(&self, index: EntryIndex) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(chunk(&self.folder, index)?.into_iter().next())
    }

    /// The proof that the last checkpoint covers an entry, checked against the entry and the checkpoint's root.
    ///
    /// # Errors
    /// When the checkpoint does not cover it, or tiles are missing or damaged.
    pub fn prove(&self, index: EntryIndex) -> Result<InclusionProof, ReadError> {
        let checkpoint = key::parse(self.checkpoint()?.as_bytes())?;
        let size = checkpoint.size();
        if index >= size {
            return Err(ReadError::NotCovered { index, size });
        }
        let hashes = TileHashReader::new(size, *checkpoint.hash(), self);
        let hashes =
            prove_record(size, index, &hashes).map_err(|error| ReadError::Tiles(error.to_string()))?;
        let proof = InclusionProof { index, size, hashes };
        // The tile reader of tlog_tiles 0.2 does not authenticate every tile: it counts subtrees where it means tiles.
        let json = self.json(index)?.unwrap_or_default();
        if !proof.holds(&json, *checkpoint.hash()) {
            return Err(ReadError::Tiles(format!(
                "the proof of entry {index} does not hold"
            )));
        }
        Ok(proof)
    }
}

impl TileReader for Reader {
    fn height(&self) -> u8 {
        HEIGHT
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        let read = |tile: &Tile| {
            let width = usize::try_from(tile.width()).map_err(|_| Error::InvalidTile)?;
            // A partial tile goes when the full one is there.
            let full = tile_path(tile.level(), tile.level_index(), 256);
            let partial = tile_path(tile.level(), tile.level_index(), width);
            for path in [&full, &partial, &full] {
                let found = self
                    .folder
                    .read(path)
                    .map_err(|error| Error::InvalidInput(error.to_string()))?;
                if let Some(mut data) = found {
                    data.truncate(width * HASH_SIZE);
                    return Ok(data);
                }
            }
            Err(Error::InvalidInput(format!("`{partial}` is missing")))
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// Entries in order; see [`Reader::entries`].
#[derive(Debug)]
pub struct Entries<'a> {
    folder: &'a Folder,
    next: EntryIndex,
    chunk: std::vec::IntoIter<Vec<u8>>,
    ended: bool,
}

impl Entries<'_> {
    fn json(&mut self) -> Result<Option<Vec<u8>>, ScanError> {
        if let Some(json) = self.chunk.next() {
            return Ok(Some(json));
        }
        self.chunk = chunk(self.folder, self.next)?.into_iter();
        Ok(self.chunk.next())
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(EntryIndex, Entry), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let index = self.next;
        let entry = match self.json() {
            Ok(Some(json)) => parse(index, &json).map_err(ScanError::from),
            Ok(None) => {
                self.ended = true;
                return None;
            }
            Err(error) => Err(error),
        };
        self.next += 1;
        // What comes after an entry that cannot be read would have a wrong index.
        self.ended = entry.is_err();
        Some(entry.map(|entry| (index, entry)).map_err(ReadError::from))
    }
}

/// Some entries from an index on: the rest of its bundle, or of its journal. Empty if the log ends there.
fn chunk(folder: &Folder, from: EntryIndex) -> Result<Vec<Vec<u8>>, ScanError> {
    let path = bundle_path(from / FULL, 256);
    // The second look is for a journal that became a bundle between the first and the journals.
    for _ in 0..2 {
        if let Some(bundle) = folder.read(&path).map_err(reading(&path))? {
            return from_bundle(&path, &bundle, from);
        }
        if let Some(entries) = from_journal(folder, from)? {
            return Ok(entries);
        }
    }
    Ok(Vec::new())
}

fn from_bundle(path: &str, bundle: &[u8], from: EntryIndex) -> Result<Vec<Vec<u8>>, ScanError> {
    let mut entries = Vec::new();
    let mut rest = bundle;
    for index in (from / FULL * FULL)..(from / FULL + 1) * FULL {
        let (entry, after) = split_entry(rest).ok_or_else(|| Damage {
            index,
            file: path.to_owned(),
            what: "the bundle ends before its 256 entries".to_owned(),
        })?;
        if index >= from {
            entries.push(entry.to_vec());
        }
        rest = after;
    }
    Ok(entries)
}

fn from_journal(folder: &Folder, from: EntryIndex) -> Result<Option<Vec<Vec<u8>>>, ScanError> {
    let Some((base, name)) = journals_of(folder)?.into_iter().rfind(|(base, _)| *base <= from) else {
        return Ok(None);
    };
    let Some(journal) = folder.read(&name).map_err(reading(&name))? else {
        return Ok(None);
    };
    let mut entries = Vec::new();
    let mut at = 0;
    for index in base.. {
        match frame::read(&journal, at) {
            Frame::Entry { entry, next, .. } => {
                if index >= from {
                    entries.push(entry.to_vec());
                }
                at = next;
            }
            Frame::Bad if frame::any_after(&journal, at + 1) => {
                return Err(Damage {
                    index,
                    file: name,
                    what: "the journal's entry does not have its hash".to_owned(),
                }
                .into());
            }
            // An entry that is being written, or was torn.
            Frame::Bad | Frame::End => break,
        }
    }
    Ok(Some(entries))
}
