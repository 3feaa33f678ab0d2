//! Creating a log, and opening one: every byte is read and checked, a torn end is cut, uses without a settlement are settled. It repairs
//! nothing else: damage is an error with the entry's index.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use claviger_core::audit::{Recovered, Settlement};
use claviger_core::{AuditError, Entry, EntryIndex, Event};
use rustix::fs::AtFlags;
use serde::Deserialize as _;
use tlog_tiles::EMPTY_HASH;

use super::disk::{CHECKPOINT, Disk, Folder, FolderError, Identity, Replacer, SystemDisk};
use super::key::{self, CheckpointError};
use super::log::{Durability, Journal, LogOptions, Phase, Shared, State, TileLog, Worker, new_journal};
use super::scan::{Damage, FoundJournal, Scan, ScanError, SignedHead, Writer, journals_of, reading, scan};

/// Why a log could not be created or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder is not fit for a log.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Another process writes this log.
    #[error("the audit log {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// There is no log here.
    #[error("there is no audit log in {}", .0.display())]
    NotALog(PathBuf),
    /// There is a log here.
    #[error("there is an audit log in {} already", .0.display())]
    Exists(PathBuf),
    /// The checkpoint is not one of this log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log is damaged, or a file of it cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The log cannot be written.
    #[error("cannot write the audit log")]
    Write(#[source] io::Error),
    /// The log cannot be written.
    #[error(transparent)]
    Append(#[from] AuditError),
}

impl TileLog {
    /// Creates an empty log with a signed checkpoint over nothing. The folder may exist; its parent must.
    ///
    /// # Errors
    /// When there is a log already, or it cannot be written.
    pub fn create(options: LogOptions) -> Result<Arc<Self>, OpenError> {
        Self::create_on(Arc::new(SystemDisk), options)
    }

    /// Opens a log: reads and checks all of it, cuts a torn last entry, calls `fold` with every entry in order, and settles each use
    /// that has no settlement as indeterminate (`fold` sees these entries, too). What recovery found is returned if the log was not
    /// closed in order: entries after the last checkpoint, a torn entry, or unsettled uses.
    ///
    /// # Errors
    /// When the log is in use, damaged (the first bad entry is named), signed by another key, or cannot be read or written.
    pub fn open(
        options: LogOptions,
        fold: &mut dyn FnMut(EntryIndex, &Entry),
    ) -> Result<(Arc<Self>, Option<Recovered>), OpenError> {
        Self::open_on(Arc::new(SystemDisk), options, fold)
    }

    pub(super) fn create_on(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Arc<Self>, OpenError> {
        let folder = Folder::create(&options.folder)?;
        lock(&folder)?;
        // A journal that is not empty without a checkpoint is a log whose checkpoint was removed: not ours to overwrite.
        let mut leftover = Vec::new();
        for (_, name) in journals_of(&folder)? {
            if !folder
                .read(&name)
                .map_err(reading(&name))?
                .unwrap_or_default()
                .is_empty()
            {
                return Err(OpenError::Exists(options.folder));
            }
            leftover.push(name);
        }
        if folder.exists(CHECKPOINT).map_err(reading(CHECKPOINT))?
            || folder.exists("tile").map_err(reading("tile"))?
        {
            return Err(OpenError::Exists(options.folder));
        }
        for name in leftover {
            disk.remove(&folder.fd, &name, AtFlags::empty())
                .map_err(OpenError::Write)?;
        }
        let journal = new_journal(&*disk, &folder, 0).map_err(OpenError::Write)?;
        // The checkpoint comes last: with it, this is a log.
        let note = options.key.sign_checkpoint(0, EMPTY_HASH)?;
        let mut replacer = Replacer::new(&*disk, &folder.fd, options.durability);
        replacer
            .put(CHECKPOINT, note.as_bytes())
            .map_err(OpenError::Write)?;
        replacer.finish().map_err(OpenError::Write)?;
        match options.durability {
            Durability::Sync => sync_name(&options.folder).map_err(OpenError::Write)?,
            Durability::Process => {}
        }
        let state = State::new(journal, Scan::default(), (0, note), disk.now());
        Self::start(Shared::new(folder, disk, options, state))
    }

    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        fold: &mut dyn FnMut(EntryIndex, &Entry),
    ) -> Result<(Arc<Self>, Option<Recovered>), OpenError> {
        let folder = match Folder::open(&options.folder) {
            Err(FolderError::Open { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::NotALog(path));
            }
            result => result?,
        };
        lock(&folder)?;
        let Some(note) = folder.read(CHECKPOINT).map_err(reading(CHECKPOINT))? else {
            return Err(OpenError::NotALog(options.folder));
        };
        let checkpoint = key::check(&note, &options.key.vkey())?;
        let signed = SignedHead {
            size: checkpoint.size(),
            root: *checkpoint.hash(),
        };
        let mut unsettled = BTreeSet::new();
        let mut latest = None;
        let mut found = scan(&folder, signed, Writer::Excluded, &mut |index, json| {
            let entry = parse(index, json)?;
            track(&mut unsettled, index, &entry);
            latest = Some(entry.on_record(latest));
            fold(index, &entry);
            Ok(())
        })?;

        let dropped_bytes = cut_torn(&*disk, &folder, &mut found.journals).map_err(OpenError::Write)?;
        let entries = found.edge.size();
        let clean = dropped_bytes == 0 && entries == signed.size && unsettled.is_empty();
        let recovered = (!clean).then_some(Recovered {
            entries,
            dropped_bytes,
            indeterminate: unsettled.len() as u64,
        });

        let mut journals = VecDeque::new();
        for journal in std::mem::take(&mut found.journals) {
            journals.push_back(reopen(&folder, journal).map_err(OpenError::Write)?);
        }
        let Some(last) = journals.pop_back() else {
            return Err(OpenError::NotALog(options.folder));
        };
        let note = String::from_utf8_lossy(&note).into_owned();
        let mut state = State::new(last, found, (signed.size, note), disk.now());
        if options.durability == Durability::Sync {
            // What was found may not have been synced by the process that wrote it.
            state.unsynced = journals
                .iter()
                .chain([&state.journal])
                .map(|journal| Arc::clone(&journal.file))
                .collect();
            state.names_unsynced = true;
        }
        state.retired = journals;
        // Never before what is on record, whatever the clock says: the log reads forwards.
        let now = options.clock.now();
        let time = latest.map_or(now, |latest: jiff::Timestamp| latest.max(now));
        let shared = Shared::new(folder, disk, options, state);
        shared.settle(time, &unsettled, fold)?;
        Ok((Self::start(shared)?, recovered))
    }

    fn start(shared: Shared) -> Result<Arc<Self>, OpenError> {
        let shared = Arc::new(shared);
        let works = Arc::clone(&shared);
        let worker = std::thread::Builder::new()
            .name("claviger-audit".to_owned())
            .spawn(move || works.work())
            .map_err(OpenError::Write)?;
        Ok(Arc::new(Self {
            shared,
            worker: Mutex::new(Some(worker)),
        }))
    }
}

impl Shared {
    fn new(folder: Folder, disk: Arc<dyn Disk>, options: LogOptions, state: State) -> Self {
        Self {
            folder,
            disk,
            durability: options.durability,
            key: options.key,
            state: Mutex::new(state),
            wake: Condvar::new(),
        }
    }

    /// Settles what the last process left open, durably.
    fn settle(
        &self,
        time: jiff::Timestamp,
        unsettled: &BTreeSet<EntryIndex>,
        fold: &mut dyn FnMut(EntryIndex, &Entry),
    ) -> Result<(), AuditError> {
        if unsettled.is_empty() {
            // What was found is synced with the first append, checkpoint or close: nothing stands on it before.
            return Ok(());
        }
        let mut state = self.usable()?;
        for of in unsettled {
            let entry = Entry {
                time,
                event: Event::Settled {
                    of: *of,
                    settlement: Settlement::Indeterminate,
                    traffic: None,
                },
            };
            fold(state.push(&entry)?, &entry);
        }
        let round = self.begin(&mut state)?;
        drop(state);
        self.commit(round)
    }
}

impl State {
    fn new(journal: Journal, found: Scan, signed: (u64, String), now: Instant) -> Self {
        Self {
            journal,
            looked: now,
            buffer: Vec::with_capacity(4096),
            edge: found.edge,
            retired: VecDeque::new(),
            full_tiles: found.full_tiles,
            sealed: found.sealed,
            unsynced: Vec::new(),
            names_unsynced: false,
            appends: Vec::new(),
            checkpoints: Vec::new(),
            signed,
            failure: None,
            lost_note: None,
            phase: Phase::Open,
            worker: Worker::Awake,
        }
    }
}

/// An entry from its JSON. Its hash was checked, so what is not understood was written by another version.
pub(super) fn parse(index: EntryIndex, json: &[u8]) -> Result<Entry, Damage> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Entry::deserialize(&mut deserializer)
        .and_then(|entry| deserializer.end().map(|()| entry))
        .map_err(|error| Damage {
            index,
            file: super::tree::bundle_path(index / super::tree::FULL, 256),
            what: format!("it is not an entry that this version of claviger understands: {error}"),
        })
}

fn track(unsettled: &mut BTreeSet<EntryIndex>, index: EntryIndex, entry: &Entry) {
    if let Event::Allowed(_)
    | Event::CertificateRequested { .. }
    | Event::ProofRequested { .. }
    | Event::BackupRequested { .. }
    | Event::RestoreRequested { .. }
    | Event::ResealRequested { .. } = entry.event
    {
        unsettled.insert(index);
    } else if let Event::Settled { of, .. } = entry.event {
        unsettled.remove(&of);
    }
}

fn lock(folder: &Folder) -> Result<(), OpenError> {
    match folder.lock() {
        Ok(true) => Ok(()),
        Ok(false) => Err(OpenError::InUse(folder.path.clone())),
        Err(error) => Err(OpenError::Write(error)),
    }
}

/// Cuts a torn last frame, and removes empty journals that were begun after it. Returns how many bytes went.
fn cut_torn(disk: &dyn Disk, folder: &Folder, journals: &mut Vec<FoundJournal>) -> io::Result<u64> {
    let mut dropped = 0;
    let mut end = 0;
    let mut kept = 0;
    for (position, journal) in journals.iter().enumerate() {
        let unreachable = position > 0 && journal.base > end;
        if dropped > 0 || unreachable {
            // The scan found no entry in it.
            dropped += journal.length;
            disk.remove(&folder.fd, &journal.name, AtFlags::empty())?;
            continue;
        }
        kept += 1;
        end = journal.base + journal.leaves.len() as u64;
        if journal.length > journal.valid {
            dropped += journal.length - journal.valid;
            let file = folder.open_to_append(&journal.name)?;
            disk.truncate(&file, journal.valid)?;
            disk.sync(&file)?;
        }
    }
    journals.truncate(kept);
    Ok(dropped)
}

fn reopen(folder: &Folder, found: FoundJournal) -> io::Result<Journal> {
    let file = folder.open_to_append(&found.name)?;
    Ok(Journal {
        name: found.name,
        base: found.base,
        identity: Identity::of(&file)?,
        file: Arc::new(file),
        length: found.valid,
        leaves: found.leaves,
    })
}

/// Makes the folder's own name durable.
fn sync_name(folder: &Path) -> io::Result<()> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::File::open(parent)?.sync_all()
}
