//! The open log: appends under one mutex, in index order. Not the disk work beside it: `worker` syncs, seals and signs.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use claviger_core::{AuditError, AuditSink, BoxFuture, Clock, Entry, EntryIndex};
use tlog_tiles::Hash;
use tokio::sync::oneshot;

use super::disk::{Disk, Folder, Identity, check_open, write_all};
use super::frame;
use super::key::LogKey;
use super::scan::JOURNAL;
use super::tree::{Edge, FULL, FullTile};

/// Entries that nobody waits for are written at the latest when they are this many bytes: what a kill -9 could lose, and
/// one write call.
pub(super) const MAX_BUFFER: usize = 64 * 1024;

/// A journal has at least so many entries when the next one begins, some 1.5 MB. Making and removing a file costs a file system more
/// than writing 256 entries to it; while a longer journal became tiles, those who wait for a sync would wait noticeably.
///
/// Tests see journals of more than one bundle end without writing thousands of entries.
pub(super) const MIN_JOURNAL: u64 = if cfg!(test) { 2 } else { 16 } * FULL;

/// Under [`Durability::Process`] an append looks at the journal's name when the last look is this old; at the open file it looks every
/// time. So a journal that was moved away, and still exists under another name, takes entries for this long at most. Each
/// look walks a path, which costs a tenth of a signature.
pub(super) const NAME_LOOK: Duration = Duration::from_secs(1);

/// What an entry survives once it was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Power loss: `fdatasync` before an append returns, one for all that wait.
    Sync,
    /// The death of this process, but not power loss: written, not synced.
    Process,
}

/// How to open a log.
#[derive(Debug)]
pub struct LogOptions {
    /// Where: a folder of its own, which nobody else can write in.
    pub folder: PathBuf,
    /// What an entry survives.
    pub durability: Durability,
    /// Signs checkpoints.
    pub key: LogKey,
    /// For the entries that recovery writes.
    pub clock: Arc<dyn Clock>,
}

/// An append-only log on disk: an RFC 6962 tree in C2SP tlog-tiles layout, with a journal for its end. One process at a time
/// has it open.
///
/// An error on the way to disk ends it: from then on every append fails, and only opening it anew, which re-reads everything,
/// goes on. Dropped without [`TileLog::close`], it is found unclean.
#[derive(Debug)]
pub struct TileLog {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Mutex<Option<JoinHandle<()>>>,
}

/// What the log and its worker share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) folder: Folder,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) durability: Durability,
    pub(super) key: LogKey,
    pub(super) state: Mutex<State>,
    pub(super) wake: Condvar,
}

/// The journal being written, or one that waits to become bundles.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) name: String,
    pub(super) base: u64,
    pub(super) file: Arc<File>,
    pub(super) identity: Identity,
    /// Bytes written.
    pub(super) length: u64,
    /// Of all its entries, buffered ones included.
    pub(super) leaves: Vec<Hash>,
}

/// Whether the worker must be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worker {
    /// Until it is woken.
    Asleep,
    /// Until it is woken or the idle time is over, when it writes what is buffered.
    Dozing,
    /// It looks for work before it sleeps.
    Awake,
}

/// How far the log's life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Takes entries.
    Open,
    /// Takes no more entries; the last checkpoint is being made.
    Closed,
    /// The worker shall end.
    Ending,
}

/// Who waits for a checkpoint.
#[derive(Debug)]
pub(super) enum CheckpointWaiter {
    Task(oneshot::Sender<Result<String, AuditError>>),
    Thread(std::sync::mpsc::SyncSender<Result<String, AuditError>>),
}

/// An append that waits for the next sync.
pub(super) type AppendWaiter = (EntryIndex, oneshot::Sender<Result<EntryIndex, AuditError>>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) journal: Journal,
    /// When the journal's name last led to the open file.
    pub(super) looked: Instant,
    /// Invariant: the frames of the journal's last entries, in order, not written yet.
    pub(super) buffer: Vec<u8>,
    pub(super) edge: Edge,
    /// Full journals that are not bundles yet, oldest first.
    pub(super) retired: VecDeque<Journal>,
    /// Full tiles that are not on disk yet.
    pub(super) full_tiles: Vec<FullTile>,
    /// How many entries are in full bundles on disk.
    pub(super) sealed: u64,
    /// Files with writes that are not synced, oldest first. Only in [`Durability::Sync`].
    pub(super) unsynced: Vec<Arc<File>>,
    /// Whether a new journal's name is not durable yet.
    pub(super) names_unsynced: bool,
    pub(super) appends: Vec<AppendWaiter>,
    pub(super) checkpoints: Vec<CheckpointWaiter>,
    /// The last signed checkpoint.
    pub(super) signed: (u64, String),
    /// Why nothing is written any more.
    pub(super) failure: Option<AuditError>,
    /// A note that could not be taken; the next append fails with it.
    pub(super) lost_note: Option<AuditError>,
    pub(super) phase: Phase,
    pub(super) worker: Worker,
}

impl TileLog {
    /// How many entries the log has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .edge
            .size()
    }

    /// The root of the tree over all entries (RFC 6962 §2.1).
    ///
    /// # Errors
    /// When the log failed.
    pub fn root(&self) -> Result<Hash, AuditError> {
        root_of(&self.shared.lock()?.edge)
    }

    /// How many entries the last signed checkpoint covers.
    #[must_use]
    pub fn signed_size(&self) -> u64 {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .signed
            .0
    }

    /// Whether entries can be taken.
    ///
    /// # Errors
    /// Why not.
    pub fn check_usable(&self) -> Result<(), AuditError> {
        self.shared.usable().map(drop)
    }

    /// The public key of the log as a C2SP verifier key.
    #[must_use]
    pub fn vkey(&self) -> String {
        self.shared.key.vkey()
    }

    /// Makes everything durable, signs a checkpoint, and takes no more entries: the log is found clean when it is opened next.
    /// Blocks for a few disk operations. Notes that come later are dropped.
    ///
    /// # Errors
    /// When the log failed, now or earlier. It is closed all the same, and found unclean.
    pub fn close(&self) -> Result<(), AuditError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        {
            let mut state = self.shared.lock()?;
            if state.phase != Phase::Open {
                return Err(AuditError::Closed);
            }
            state.phase = Phase::Closed;
            state.checkpoints.push(CheckpointWaiter::Thread(sender));
            self.shared.call_worker(&mut state);
        }
        let result = receiver.recv().unwrap_or(Err(AuditError::Closed));
        self.end_worker();
        result.map(drop)
    }

    fn end_worker(&self) {
        if let Ok(mut state) = self.shared.lock() {
            state.phase = Phase::Ending;
        }
        self.shared.wake.notify_all();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            // A worker that panicked left the log without a last checkpoint: the next open finds it unclean.
            drop(worker.join());
        }
    }
}

impl Drop for TileLog {
    fn drop(&mut self) {
        self.end_worker();
    }
}

impl AuditSink for TileLog {
    /// The entry is taken when this is called, not when the future is polled.
    fn append(&self, entry: Entry) -> BoxFuture<'static, Result<EntryIndex, AuditError>> {
        match self.shared.append(&entry) {
            Ok(Appended::Done(index)) => Box::pin(std::future::ready(Ok(index))),
            Ok(Appended::Waiting(receiver)) => {
                Box::pin(async move { receiver.await.unwrap_or(Err(AuditError::Closed)) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn note(&self, entry: Entry) {
        self.shared.note(&entry);
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<String, AuditError>> {
        let (sender, receiver) = oneshot::channel();
        let asked = self.shared.usable().map(|mut state| {
            state.checkpoints.push(CheckpointWaiter::Task(sender));
            self.shared.call_worker(&mut state);
        });
        Box::pin(async move {
            asked?;
            receiver.await.unwrap_or(Err(AuditError::Closed))
        })
    }
}

/// Where an append stands.
enum Appended {
    Done(EntryIndex),
    Waiting(oneshot::Receiver<Result<EntryIndex, AuditError>>),
}

impl Shared {
    fn append(&self, entry: &Entry) -> Result<Appended, AuditError> {
        let mut state = self.usable()?;
        if let Some(error) = state.lost_note.take() {
            return Err(error);
        }
        let index = state.push(entry)?;
        match self.durability {
            Durability::Process => {
                self.or_fail(&mut state, Self::write_and_check)?;
                self.or_fail(&mut state, Self::rotate_if_full)?;
                Ok(Appended::Done(index))
            }
            Durability::Sync => {
                if state.buffer.len() > MAX_BUFFER {
                    self.or_fail(&mut state, Self::write)?;
                }
                self.or_fail(&mut state, Self::rotate_if_full)?;
                let (sender, receiver) = oneshot::channel();
                state.appends.push((index, sender));
                self.call_worker(&mut state);
                Ok(Appended::Waiting(receiver))
            }
        }
    }

    fn note(&self, entry: &Entry) {
        let Ok(mut state) = self.usable() else { return };
        if let Err(error) = state.push(entry) {
            state.lost_note = Some(error);
            return;
        }
        let result = if state.buffer.len() > MAX_BUFFER {
            self.or_fail(&mut state, Self::write_and_check)
        } else {
            Ok(())
        };
        // On an error the log has failed, which the next append tells.
        if result
            .and_then(|()| self.or_fail(&mut state, Self::rotate_if_full))
            .is_ok()
            && state.worker == Worker::Asleep
        {
            self.call_worker(&mut state);
        }
    }

    /// The state, if entries can be taken.
    pub(super) fn usable(&self) -> Result<MutexGuard<'_, State>, AuditError> {
        let state = self.lock()?;
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        match state.phase {
            Phase::Open => Ok(state),
            Phase::Closed | Phase::Ending => Err(AuditError::Closed),
        }
    }

    pub(super) fn lock(&self) -> Result<MutexGuard<'_, State>, AuditError> {
        // A thread that panicked midway may have left half an entry.
        self.state
            .lock()
            .map_err(|_| AuditError::Damaged("a thread panicked while it wrote".to_owned()))
    }

    pub(super) fn call_worker(&self, state: &mut State) {
        if state.worker != Worker::Awake {
            state.worker = Worker::Awake;
            self.wake.notify_one();
        }
    }

    /// Does a step; if it fails, the log has failed for good.
    pub(super) fn or_fail(
        &self,
        state: &mut State,
        step: impl FnOnce(&Self, &mut State) -> std::io::Result<()>,
    ) -> Result<(), AuditError> {
        step(self, state).map_err(|error| {
            let failure = AuditError::Write(Arc::new(error));
            self.fail(state, failure.clone());
            failure
        })
    }

    /// Ends the log's life: all who wait and all who come are told.
    pub(super) fn fail(&self, state: &mut State, failure: AuditError) {
        for (_, waiter) in state.appends.drain(..) {
            // A caller that went away needs no answer.
            drop(waiter.send(Err(failure.clone())));
        }
        state.failure.get_or_insert(failure);
        self.call_worker(state);
    }

    /// Writes what is buffered, in one call.
    pub(super) fn write(&self, state: &mut State) -> std::io::Result<()> {
        if state.buffer.is_empty() {
            return Ok(());
        }
        write_all(&*self.disk, &state.journal.file, &state.buffer)?;
        state.journal.length += state.buffer.len() as u64;
        state.buffer.clear();
        if self.durability == Durability::Sync
            && !state
                .unsynced
                .last()
                .is_some_and(|file| Arc::ptr_eq(file, &state.journal.file))
        {
            let file = Arc::clone(&state.journal.file);
            state.unsynced.push(file);
        }
        Ok(())
    }

    /// Writes, and checks that what was written to is still the log: a file that was removed takes writes without an error.
    fn write_and_check(&self, state: &mut State) -> std::io::Result<()> {
        self.write(state)?;
        let journal = &state.journal;
        check_open(&journal.file, &journal.name, journal.length)?;
        if self.disk.now().saturating_duration_since(state.looked) >= NAME_LOOK {
            self.look_at_name(state)?;
        }
        Ok(())
    }

    /// Writes, and checks that the journal's name leads to what was written.
    pub(super) fn write_and_look(&self, state: &mut State) -> std::io::Result<()> {
        self.write(state)?;
        self.look_at_name(state)
    }

    /// Checks that the journal's name leads to the open file.
    pub(super) fn look_at_name(&self, state: &mut State) -> std::io::Result<()> {
        // The time before the look: what happens to the name during it counts from then.
        let now = self.disk.now();
        let journal = &state.journal;
        journal
            .identity
            .check(&self.folder.fd, &journal.name, journal.length)?;
        state.looked = now;
        Ok(())
    }

    /// At the end of a bundle, if the journal is long enough and the last one has become tiles: begins a new journal and hands this
    /// one to the worker.
    fn rotate_if_full(&self, state: &mut State) -> std::io::Result<()> {
        let size = state.edge.size();
        let busy = !state.retired.is_empty() || !state.checkpoints.is_empty();
        if !size.is_multiple_of(FULL) || size - state.journal.base < MIN_JOURNAL || busy {
            return Ok(());
        }
        self.write(state)?;
        let now = self.disk.now();
        let next = new_journal(&*self.disk, &self.folder, size)?;
        state.looked = now;
        state.names_unsynced = true;
        let full = std::mem::replace(&mut state.journal, next);
        state.retired.push_back(full);
        self.call_worker(state);
        Ok(())
    }
}

impl State {
    /// Takes an entry into the buffer and the tree; changes nothing on an error.
    pub(super) fn push(&mut self, entry: &Entry) -> Result<EntryIndex, AuditError> {
        let leaf = frame::push(&mut self.buffer, entry)?;
        let index = self.edge.size();
        let full_tiles = &mut self.full_tiles;
        self.edge.push(leaf, |tile| full_tiles.push(tile));
        self.journal.leaves.push(leaf);
        Ok(index)
    }
}

pub(super) fn new_journal(disk: &dyn Disk, folder: &Folder, base: u64) -> std::io::Result<Journal> {
    let name = format!("{JOURNAL}{base}");
    let file = disk.create_new(&folder.fd, &name)?;
    Ok(Journal {
        name,
        base,
        identity: Identity::of(&file)?,
        file: Arc::new(file),
        length: 0,
        leaves: Vec::with_capacity(256),
    })
}

pub(super) fn root_of(edge: &Edge) -> Result<Hash, AuditError> {
    edge.root()
        .map_err(|error| AuditError::Damaged(error.to_string()))
}
