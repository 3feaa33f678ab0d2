//! Reads a whole log from disk and checks all of it: bundles against tiles, tiles against each other, the signed size against the root,
//! the journals' hashes. What `open` and `verify` stand on. Not a writer: it changes nothing, not even what it finds torn.

use std::io;

use tlog_tiles::{HASH_SIZE, Hash, record_hash};

use super::disk::Folder;
use super::frame::{self, Frame};
use super::tree::{Edge, FULL, FullTile, bundle_path, flat, tile_path};

/// The journals' names are this and the index of their first entry.
pub(super) const JOURNAL: &str = "journal-";

/// How often a reader starts over when the writer moves a journal into tiles under its hands: it does so at most once in many hundred
/// entries.
const MAX_RETRIES: u32 = 16;

/// The first entry that is not what was logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} is damaged: {what} (file `{file}`)")]
pub struct Damage {
    /// The first entry that cannot be trusted. What precedes it was checked.
    pub index: u64,
    /// Where the damage shows, relative to the log's folder.
    pub file: String,
    /// What was found and what was expected.
    pub what: String,
}

/// Why a log could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// An entry is not what was logged.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A file could not be read.
    #[error("cannot read `{file}` of the audit log")]
    Read {
        /// Relative to the log's folder.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A journal as it was found.
#[derive(Debug)]
pub(super) struct FoundJournal {
    pub(super) name: String,
    pub(super) base: u64,
    /// Bytes of whole frames.
    pub(super) valid: u64,
    /// Bytes on disk: more than `valid` if the last frame is torn.
    pub(super) length: u64,
    /// One for each whole frame.
    pub(super) leaves: Vec<Hash>,
}

/// A log that was read to its end without finding damage.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The tree over all entries.
    pub(super) edge: Edge,
    /// How many entries are in full bundles.
    pub(super) sealed: u64,
    /// In order; the entries of one may also be in bundles.
    pub(super) journals: Vec<FoundJournal>,
    /// Full tiles over entries that are not in full bundles: perhaps not on disk.
    pub(super) full_tiles: Vec<FullTile>,
}

/// The tree head that the scanned log must contain.
#[derive(Debug, Clone, Copy)]
pub(super) struct SignedHead {
    pub(super) size: u64,
    pub(super) root: Hash,
}

/// Whether somebody may be writing the log while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// The caller holds the lock.
    Excluded,
    /// Perhaps.
    Possible,
}

/// Is called with each entry's index and JSON, and may find it bad.
pub(super) type Visit<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Damage> + 'a;

/// Reads and checks the log, calling `visit` with each entry's JSON in order.
pub(super) fn scan(
    folder: &Folder,
    signed: SignedHead,
    writer: Writer,
    visit: &mut Visit<'_>,
) -> Result<Scan, ScanError> {
    let mut scanner = Scanner {
        folder,
        signed,
        visit,
        edge: Edge::default(),
        bundle: Vec::new(),
        recent: Vec::new(),
        recent_base: journals_of(folder)?.first().map_or(u64::MAX, |(base, _)| *base),
        sealed: 0,
        full_tiles: Vec::new(),
    };
    scanner.check_signed_head()?;
    let mut retries = 0;
    let journals = loop {
        scanner.bundles()?;
        match scanner.journals()? {
            Some(journals) => break journals,
            None if writer == Writer::Possible && retries < MAX_RETRIES => retries += 1,
            None => return Err(scanner.missing()),
        }
    };
    if scanner.edge.size() < signed.size {
        return Err(scanner.missing());
    }
    Ok(Scan {
        edge: scanner.edge,
        sealed: scanner.sealed,
        journals,
        full_tiles: scanner.full_tiles,
    })
}

/// The journals in the folder, by their first entry.
pub(super) fn journals_of(folder: &Folder) -> Result<Vec<(u64, String)>, ScanError> {
    let mut journals: Vec<(u64, String)> = folder
        .names(".")
        .map_err(reading("."))?
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix(JOURNAL)?.parse().ok()?, name)))
        .filter(|(base, name): &(u64, String)| *name == format!("{JOURNAL}{base}"))
        .collect();
    journals.sort();
    Ok(journals)
}

pub(super) fn reading(file: &str) -> impl FnOnce(io::Error) -> ScanError {
    move |source| ScanError::Read {
        file: file.to_owned(),
        source,
    }
}

struct Scanner<'a> {
    folder: &'a Folder,
    signed: SignedHead,
    visit: &'a mut Visit<'a>,
    edge: Edge,
    // Invariant: the entries of the incomplete bundle, encoded as one.
    bundle: Vec<u8>,
    // Invariant: the leaves from `recent_base` on, to compare with journals that overlap bundles.
    recent: Vec<Hash>,
    recent_base: u64,
    sealed: u64,
    full_tiles: Vec<FullTile>,
}

impl Scanner<'_> {
    /// Reads the full bundles from where we are, each with its tiles.
    fn bundles(&mut self) -> Result<(), ScanError> {
        // A journal's entries were taken before a bundle of them appeared: it is checked as a journal's at the next scan.
        while self.edge.size().is_multiple_of(FULL) {
            let n = self.edge.size() / FULL;
            let path = bundle_path(n, 256);
            let Some(bytes) = self.folder.read(&path).map_err(reading(&path))? else {
                // Full bundles are on disk before a checkpoint over them is signed, whether or not a journal has their entries too.
                if self.edge.size() + FULL <= self.signed.size {
                    return Err(self.missing());
                }
                return Ok(());
            };
            self.bundle_against_tile(n, &path, &bytes)?;
            self.sealed = self.edge.size();
        }
        Ok(())
    }

    fn bundle_against_tile(&mut self, n: u64, path: &str, bytes: &[u8]) -> Result<(), ScanError> {
        let tile_file = tile_path(0, n, 256);
        let tile = self
            .folder
            .read(&tile_file)
            .map_err(reading(&tile_file))?
            .unwrap_or_default();
        let mut rest = bytes;
        for k in 0..FULL {
            let index = n * FULL + k;
            let damage = |file: &str, what: &str| Damage {
                index,
                file: file.to_owned(),
                what: what.to_owned(),
            };
            let (entry, after) =
                split_entry(rest).ok_or_else(|| damage(path, "the bundle ends before its 256 entries"))?;
            let leaf = record_hash(entry);
            if hash_at(&tile, k) != Some(leaf) {
                let what = format!("its hash is not the one in `{tile_file}`");
                return Err(damage(path, &what).into());
            }
            if k == FULL - 1 && !after.is_empty() {
                return Err(damage(path, "the bundle goes on after its 256 entries").into());
            }
            self.push_sealed(entry, leaf)?;
            rest = after;
        }
        if tile.len() as u64 != FULL * HASH_SIZE as u64 {
            let what = format!(
                "a tile has {} bytes, this one {}",
                FULL * HASH_SIZE as u64,
                tile.len()
            );
            return Err(Damage {
                index: n * FULL,
                file: tile_file,
                what,
            }
            .into());
        }
        Ok(())
    }

    /// Takes one entry of a bundle, and compares the tiles that it completes with those on disk.
    fn push_sealed(&mut self, entry: &[u8], leaf: Hash) -> Result<(), ScanError> {
        for tile in self.push(entry, leaf)? {
            // Tiles are written before the bundle that completes them. Level 0 was compared entry by entry.
            if tile.level > 0 {
                self.compare_tile(tile.level, tile.n, 256, &tile.data)?;
            }
        }
        self.check_signed_head()
    }

    /// Takes one entry of a journal, and keeps the tiles that it completes: perhaps nobody wrote them yet.
    fn push_from_journal(&mut self, entry: &[u8], leaf: Hash) -> Result<(), ScanError> {
        let full = self.push(entry, leaf)?;
        self.full_tiles.extend(full);
        self.check_signed_head()
    }

    /// Takes one entry whose hash was checked into the tree, and returns the tiles that it completes.
    fn push(&mut self, entry: &[u8], leaf: Hash) -> Result<Vec<FullTile>, ScanError> {
        let index = self.edge.size();
        (self.visit)(index, entry)?;
        if index >= self.recent_base {
            self.recent.push(leaf);
        }
        // Lengths have 16 bits: MAX_ENTRY is smaller.
        self.bundle
            .extend_from_slice(&u16::try_from(entry.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.bundle.extend_from_slice(entry);
        let mut full = Vec::new();
        self.edge.push(leaf, |tile| full.push(tile));
        if self.edge.size().is_multiple_of(FULL) {
            self.bundle.clear();
        }
        Ok(full)
    }

    /// At the signed size: the root, and the partial tiles by which a standard client reads to that size.
    fn check_signed_head(&mut self) -> Result<(), ScanError> {
        if self.edge.size() != self.signed.size {
            return Ok(());
        }
        let partial: Vec<(u8, Vec<Hash>)> = self
            .edge
            .partial()
            .map(|(level, hashes)| (level, hashes.to_vec()))
            .collect();
        for (level, hashes) in partial {
            if hashes.is_empty() {
                continue;
            }
            let n = self.signed.size >> (8 * (u32::from(level) + 1));
            if level == 0 {
                self.compare_partial_bundle(n, hashes.len())?;
            }
            self.compare_tile(level, n, hashes.len(), &flat(&hashes))?;
        }
        let root = self.edge.root().ok();
        if root != Some(self.signed.root) {
            return Err(Damage {
                index: 0,
                file: super::disk::CHECKPOINT.to_owned(),
                what: format!(
                    "the first {} entries agree with their tiles, but their root is not the signed one; entries and tiles were \
                     replaced together, or the checkpoint is of another history",
                    self.signed.size
                ),
            }
            .into());
        }
        Ok(())
    }

    /// Compares a tile on disk with the hashes computed from the entries. A full one may stand for a partial one.
    fn compare_tile(&self, level: u8, n: u64, width: usize, expected: &[u8]) -> Result<(), ScanError> {
        let (file, found) = self.tile_or_full(&tile_path(level, n, width), &tile_path(level, n, 256))?;
        let found = if width < 256 && found.len() > expected.len() {
            found.get(..expected.len()).unwrap_or_default()
        } else {
            &found
        };
        if let Some(at) = first_difference(expected, found) {
            let first = ((n << 8) + (at / HASH_SIZE) as u64) << (8 * u32::from(level));
            return Err(Damage {
                index: first.min(self.edge.size().saturating_sub(1)),
                file,
                what: "the tile's hash is not that of the entries".to_owned(),
            }
            .into());
        }
        Ok(())
    }

    fn compare_partial_bundle(&self, n: u64, width: usize) -> Result<(), ScanError> {
        // A full bundle was compared with its tile, or will be.
        if self
            .folder
            .exists(&bundle_path(n, 256))
            .map_err(reading("tile/entries"))?
        {
            return Ok(());
        }
        let (file, found) = self.tile_or_full(&bundle_path(n, width), &bundle_path(n, 256))?;
        if file == bundle_path(n, 256) {
            return Ok(());
        }
        if let Some(at) = first_difference(&self.bundle, &found) {
            let mut index = n * FULL;
            let mut rest = self.bundle.as_slice();
            while let Some((_, after)) = split_entry(rest) {
                if self.bundle.len() - after.len() > at || after.is_empty() {
                    break;
                }
                rest = after;
                index += 1;
            }
            return Err(Damage {
                index,
                file,
                what: "the bundle's entry is not the one in the journal".to_owned(),
            }
            .into());
        }
        Ok(())
    }

    /// A partial file, or the full one that replaced it. The writer may replace it between two looks.
    fn tile_or_full(&self, partial: &str, full: &str) -> Result<(String, Vec<u8>), ScanError> {
        for path in [full, partial, full] {
            if let Some(bytes) = self.folder.read(path).map_err(reading(path))? {
                return Ok((path.to_owned(), bytes));
            }
        }
        Ok((partial.to_owned(), Vec::new()))
    }

    /// Reads the journals. None if one that is needed is not there, which may be a race with the writer.
    fn journals(&mut self) -> Result<Option<Vec<FoundJournal>>, ScanError> {
        let listed = journals_of(self.folder)?;
        if listed.is_empty() {
            return Ok(None);
        }
        let mut contents = Vec::new();
        for (base, name) in listed {
            match self.folder.read(&name).map_err(reading(&name))? {
                Some(bytes) => contents.push((base, name, bytes)),
                None => return Ok(None),
            }
        }
        let mut found: Vec<FoundJournal> = Vec::new();
        let mut torn: Option<Damage> = None;
        for (base, name, bytes) in &contents {
            let mut journal = FoundJournal {
                name: name.clone(),
                base: *base,
                valid: 0,
                length: bytes.len() as u64,
                leaves: Vec::new(),
            };
            if let Some(damage) = &torn {
                // A torn journal may be followed by an empty one that was just begun; never by entries.
                if frame::any_after(bytes, 0) {
                    return Err(damage.clone().into());
                }
                found.push(journal);
                continue;
            }
            if *base > self.edge.size() {
                return if bytes.is_empty() && !found.is_empty() {
                    // Begun, and what precedes it did not reach the disk: nothing was released under that.
                    found.push(journal);
                    continue;
                } else {
                    Ok(None)
                };
            }
            let mut at = 0;
            loop {
                match frame::read(bytes, at) {
                    Frame::Entry { entry, leaf, next } => {
                        self.journal_entry(&journal, entry, leaf)?;
                        journal.leaves.push(leaf);
                        at = next;
                    }
                    Frame::End => break,
                    Frame::Bad => {
                        let damage = Damage {
                            index: base + journal.leaves.len() as u64,
                            file: name.clone(),
                            what: "the journal's entry does not have its hash".to_owned(),
                        };
                        if frame::any_after(bytes, at + 1) || damage.index < self.edge.size() {
                            return Err(damage.into());
                        }
                        torn = Some(damage);
                        break;
                    }
                }
            }
            journal.valid = at as u64;
            found.push(journal);
        }
        if let (None, Some(last)) = (&torn, found.last()) {
            let end = last.base + last.leaves.len() as u64;
            if end < self.edge.size() {
                return Err(Damage {
                    index: end,
                    file: last.name.clone(),
                    what: "the journal ends before the bundles that were made from it".to_owned(),
                }
                .into());
            }
        }
        Ok(Some(found))
    }

    /// An entry of a journal: new, or the same as the one that a bundle has.
    fn journal_entry(&mut self, journal: &FoundJournal, entry: &[u8], leaf: Hash) -> Result<(), ScanError> {
        let index = journal.base + journal.leaves.len() as u64;
        if index == self.edge.size() {
            return self.push_from_journal(entry, leaf);
        }
        let known = index
            .checked_sub(self.recent_base)
            .and_then(|at| self.recent.get(usize::try_from(at).ok()?));
        if known.is_some_and(|known| *known != leaf) {
            return Err(Damage {
                index,
                file: journal.name.clone(),
                what: "the journal's entry is not the one in the bundle".to_owned(),
            }
            .into());
        }
        Ok(())
    }

    fn missing(&self) -> ScanError {
        let index = self.edge.size();
        let what = if index < self.signed.size {
            format!(
                "it is missing; the checkpoint was signed over {} entries",
                self.signed.size
            )
        } else {
            "it is missing; a journal was removed".to_owned()
        };
        Damage {
            index,
            file: bundle_path(index / FULL, 256),
            what,
        }
        .into()
    }
}

/// The first entry of an encoded bundle, and what follows.
pub(super) fn split_entry(bundle: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bundle.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn hash_at(tile: &[u8], k: u64) -> Option<Hash> {
    let at = usize::try_from(k).ok()? * HASH_SIZE;
    let bytes = tile.get(at..at + HASH_SIZE)?;
    Some(Hash(bytes.try_into().ok()?))
}

fn first_difference(expected: &[u8], found: &[u8]) -> Option<usize> {
    let common = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    (common < expected.len() || common < found.len()).then_some(common)
}
