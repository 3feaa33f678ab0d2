//! The log's one thread: a single `fdatasync` for all who wait, full journals into tiles, checkpoints, idle writes. It decides nothing
//! about entries and never changes one.

use std::fs::File;
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_core::AuditError;
use rustix::fs::AtFlags;
use tlog_tiles::Hash;

use super::disk::{CHECKPOINT, Replacer};
use super::frame::{self, Frame};
use super::log::{AppendWaiter, CheckpointWaiter, Durability, Phase, Shared, State, Worker, root_of};
use super::tree::{FULL, FullTile, bundle_path, flat, tile_path};

/// Entries that nobody waits for are written after this time at the latest.
const IDLE: Duration = Duration::from_secs(1);

/// Files to sync, and who waits for it.
pub(super) struct Round {
    files: Vec<Arc<File>>,
    names: bool,
    appends: Vec<AppendWaiter>,
}

/// Part of a journal that shall become tiles.
struct Sealing {
    journal: String,
    base: u64,
    // Invariant: of the entries from `base` on, up to where sealing ends.
    leaves: Vec<Hash>,
    /// Entries before this are in full bundles already.
    sealed: u64,
    tiles: Vec<FullTile>,
}

/// What a checkpoint is made over.
struct Head {
    size: u64,
    root: Hash,
    partial: Vec<(u8, Vec<Hash>)>,
}

/// When the worker ends, in whatever way, nobody waits for it any longer.
struct TellAtEnd<'a>(&'a Shared);

impl Drop for TellAtEnd<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failure.get_or_insert(AuditError::Closed);
        state.appends.clear();
        state.checkpoints.clear();
    }
}

/// What the worker does next.
enum Task {
    Commit(Round),
    Seal(Round, Sealing),
    Checkpoint(Round, Sealing, Head, Vec<CheckpointWaiter>),
    End,
}

impl Shared {
    /// The worker's life.
    pub(super) fn work(&self) {
        // An error has failed the log: the next task tells those who wait, and the last one is to end.
        let _told = TellAtEnd(self);
        while let Ok(task) = self.next_task() {
            let result = match task {
                Task::Commit(round) => self.commit(round),
                Task::Seal(round, sealing) => self.commit(round).and_then(|()| self.seal(&sealing)),
                Task::Checkpoint(round, sealing, head, waiters) => {
                    let result = self
                        .commit(round)
                        .and_then(|()| self.checkpoint_over(&sealing, &head));
                    self.fail_if(&result);
                    for waiter in waiters {
                        waiter.tell(result.clone());
                    }
                    result.map(drop)
                }
                Task::End => return,
            };
            self.fail_if(&result);
        }
    }

    /// Before anybody is told of an error, the log has failed: nothing succeeds after it.
    fn fail_if<T>(&self, result: &Result<T, AuditError>) {
        if let (Err(failure), Ok(mut state)) = (result, self.lock()) {
            self.fail(&mut state, failure.clone());
        }
    }

    fn next_task(&self) -> Result<Task, AuditError> {
        let mut state = self.lock()?;
        let mut idle_is_over = false;
        loop {
            state.worker = Worker::Awake;
            if let Some(failure) = state.failure.clone() {
                for waiter in std::mem::take(&mut state.checkpoints) {
                    waiter.tell(Err(failure.clone()));
                }
                if state.phase == Phase::Ending {
                    return Ok(Task::End);
                }
                state = self.sleep(state)?;
                continue;
            }
            let ending = state.phase == Phase::Ending;
            let buffered = !state.buffer.is_empty() && (idle_is_over || ending);
            // Sealing and checkpoints begin with a round of their own: those who wait for a sync do not starve them.
            if !state.retired.is_empty() {
                let Ok(round) = self.begin(&mut state) else {
                    return self.next_after_failure();
                };
                let Some(sealing) = state.seal_oldest() else {
                    continue;
                };
                return Ok(Task::Seal(round, sealing));
            }
            if !state.checkpoints.is_empty() {
                let Ok(round) = self.begin(&mut state) else {
                    return self.next_after_failure();
                };
                let head = Head {
                    size: state.edge.size(),
                    root: root_of(&state.edge)?,
                    partial: state
                        .edge
                        .partial()
                        .map(|(level, hashes)| (level, hashes.to_vec()))
                        .collect(),
                };
                let waiters = std::mem::take(&mut state.checkpoints);
                return Ok(Task::Checkpoint(round, state.seal_current(), head, waiters));
            }
            if !state.appends.is_empty() || buffered {
                return self
                    .begin(&mut state)
                    .map(Task::Commit)
                    .or_else(|_| self.next_after_failure());
            }
            if ending {
                return Ok(Task::End);
            }
            if state.buffer.is_empty() {
                state = self.sleep(state)?;
                idle_is_over = false;
            } else {
                state.worker = Worker::Dozing;
                let (woken, timeout) = self.wake.wait_timeout(state, IDLE).map_err(|_| panicked())?;
                state = woken;
                idle_is_over = timeout.timed_out();
            }
        }
    }

    /// The log failed while a task was prepared: an empty task, after which those who wait are told.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "stands where a task or an error is returned"
    )]
    const fn next_after_failure(&self) -> Result<Task, AuditError> {
        Ok(Task::Commit(Round {
            files: Vec::new(),
            names: false,
            appends: Vec::new(),
        }))
    }

    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, AuditError> {
        state.worker = Worker::Asleep;
        self.wake.wait(state).map_err(|_| panicked())
    }

    /// Writes what is buffered and takes over what must be synced.
    pub(super) fn begin(&self, state: &mut State) -> Result<Round, AuditError> {
        self.or_fail(state, Self::write_and_look)?;
        Ok(Round {
            files: std::mem::take(&mut state.unsynced),
            names: std::mem::take(&mut state.names_unsynced),
            appends: std::mem::take(&mut state.appends),
        })
    }

    /// Makes a round durable and tells those who wait. A sync that failed is never tried again: the kernel may have dropped what
    /// it could not write, and a second sync would succeed.
    pub(super) fn commit(&self, round: Round) -> Result<(), AuditError> {
        let result = self.sync(&round).and_then(|()| {
            // Again: it may have been removed while it was synced.
            let mut state = self.lock()?;
            match state.failure.clone() {
                Some(failure) => Err(failure),
                None if round.appends.is_empty() => Ok(()),
                None => self.or_fail(&mut state, Self::look_at_name),
            }
        });
        self.fail_if(&result);
        for (index, waiter) in round.appends {
            // A caller that went away needs no answer; its entry stays.
            drop(waiter.send(result.clone().map(|()| index)));
        }
        result
    }

    fn sync(&self, round: &Round) -> Result<(), AuditError> {
        if self.durability == Durability::Process {
            return Ok(());
        }
        let sync = || {
            if round.names {
                self.disk.sync_names(&self.folder.fd, ".")?;
            }
            round.files.iter().try_for_each(|file| self.disk.sync(file))
        };
        sync().map_err(failed)
    }

    /// Moves a retired journal into tiles.
    fn seal(&self, sealing: &Sealing) -> Result<(), AuditError> {
        let mut replacer = self.replacer();
        let (sealed, _) = self.write_full(&mut replacer, sealing)?;
        replacer.finish().map_err(failed)?;
        self.remove_partial(sealing)?;
        self.disk
            .remove(&self.folder.fd, &sealing.journal, AtFlags::empty())
            .map_err(failed)?;
        let mut state = self.lock()?;
        state.retired.pop_front();
        state.sealed_to(sealed, sealing);
        Ok(())
    }

    /// Writes everything that a standard client needs to read up to the head, then the signed head.
    fn checkpoint_over(&self, sealing: &Sealing, head: &Head) -> Result<String, AuditError> {
        let signed = self.lock()?.signed.clone();
        if signed.0 == head.size {
            return Ok(signed.1);
        }
        let mut replacer = self.replacer();
        let (sealed, rest) = self.write_full(&mut replacer, sealing)?;
        for (level, hashes) in head.partial.iter().filter(|(_, hashes)| !hashes.is_empty()) {
            let n = head.size >> (8 * (u32::from(*level) + 1));
            replacer
                .put(&tile_path(*level, n, hashes.len()), &flat(hashes))
                .map_err(failed)?;
        }
        if let (false, Ok(width)) = (rest.is_empty(), usize::try_from(head.size % FULL)) {
            replacer
                .put(&bundle_path(head.size / FULL, width), &rest)
                .map_err(failed)?;
        }
        replacer.finish().map_err(failed)?;
        let note = self.key.sign_checkpoint(head.size, head.root)?;
        replacer.put(CHECKPOINT, note.as_bytes()).map_err(failed)?;
        replacer.finish().map_err(failed)?;
        self.remove_partial(sealing)?;
        let mut state = self.lock()?;
        state.sealed_to(sealed, sealing);
        state.signed = (head.size, note.clone());
        Ok(note)
    }

    /// Reads a journal back from disk, checks every entry against what was logged, and writes the full tiles and bundles. Returns
    /// how many entries are in full bundles then, and the entries after them, encoded as a bundle.
    fn write_full(
        &self,
        replacer: &mut Replacer<'_>,
        sealing: &Sealing,
    ) -> Result<(u64, Vec<u8>), AuditError> {
        let bytes = self
            .folder
            .read(&sealing.journal)
            .map_err(failed)?
            .unwrap_or_default();
        // Tiles before the bundles they are about: who finds a full bundle finds its tiles.
        for tile in &sealing.tiles {
            replacer
                .put(&tile_path(tile.level, tile.n, 256), &tile.data)
                .map_err(failed)?;
        }
        if !sealing.tiles.is_empty() {
            replacer.finish().map_err(failed)?;
        }
        let mut at = 0;
        let mut bundle = Vec::new();
        let mut sealed = sealing.sealed;
        for (index, expected) in (sealing.base..).zip(&sealing.leaves) {
            let Frame::Entry { entry, leaf, next } = frame::read(&bytes, at) else {
                return Err(changed(index, &sealing.journal));
            };
            if leaf != *expected {
                return Err(changed(index, &sealing.journal));
            }
            at = next;
            if index < sealing.sealed {
                continue;
            }
            let length = u16::try_from(entry.len()).map_err(|_| AuditError::TooLarge(entry.len()))?;
            bundle.extend_from_slice(&length.to_be_bytes());
            bundle.extend_from_slice(entry);
            if (index + 1).is_multiple_of(FULL) {
                replacer
                    .put(&bundle_path(index / FULL, 256), &bundle)
                    .map_err(failed)?;
                bundle.clear();
                sealed = index + 1;
            }
        }
        Ok((sealed, bundle))
    }

    /// Removes the partial tiles and bundles whose full ones are there.
    fn remove_partial(&self, sealing: &Sealing) -> Result<(), AuditError> {
        for tile in &sealing.tiles {
            self.remove_widths(&tile_path(tile.level, tile.n, 256))
                .map_err(failed)?;
            if tile.level == 0 {
                self.remove_widths(&bundle_path(tile.n, 256)).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn remove_widths(&self, full: &str) -> io::Result<()> {
        let folder = format!("{full}.p");
        let widths = self.folder.names(&folder)?;
        for width in &widths {
            self.disk
                .remove(&self.folder.fd, &format!("{folder}/{width}"), AtFlags::empty())?;
        }
        if !widths.is_empty() {
            self.disk.remove(&self.folder.fd, &folder, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }

    pub(super) fn replacer(&self) -> Replacer<'_> {
        Replacer::new(&*self.disk, &self.folder.fd, self.durability)
    }
}

impl State {
    fn seal_oldest(&self) -> Option<Sealing> {
        let journal = self.retired.front()?;
        let end = journal.base + journal.leaves.len() as u64;
        Some(Sealing {
            journal: journal.name.clone(),
            base: journal.base,
            leaves: journal.leaves.clone(),
            sealed: self.sealed,
            tiles: self
                .full_tiles
                .iter()
                .filter(|tile| tile.end() <= end)
                .cloned()
                .collect(),
        })
    }

    fn seal_current(&self) -> Sealing {
        Sealing {
            journal: self.journal.name.clone(),
            base: self.journal.base,
            leaves: self.journal.leaves.clone(),
            sealed: self.sealed,
            tiles: self.full_tiles.clone(),
        }
    }

    fn sealed_to(&mut self, sealed: u64, sealing: &Sealing) {
        self.sealed = sealed;
        // They are handed out oldest first.
        self.full_tiles
            .drain(..sealing.tiles.len().min(self.full_tiles.len()));
    }
}

impl CheckpointWaiter {
    pub(super) fn tell(self, result: Result<String, AuditError>) {
        // Who went away needs no answer.
        match self {
            Self::Task(sender) => drop(sender.send(result)),
            Self::Thread(sender) => drop(sender.send(result)),
        }
    }
}

fn failed(error: io::Error) -> AuditError {
    AuditError::Write(Arc::new(error))
}

fn panicked() -> AuditError {
    AuditError::Damaged("a thread panicked while it wrote".to_owned())
}

fn changed(index: u64, journal: &str) -> AuditError {
    AuditError::Damaged(format!(
        "entry {index} in `{journal}` is not what was logged; nothing is signed"
    ))
}
