//! The disk fails at every operation in turn; files vanish; many wait for one sync.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use claviger_core::{AuditError, AuditSink as _};
use rustix::fs::AtFlags;

use super::kit::{Place, allowed, append, key, open, options, small, wait};
use crate::audit::disk::{Disk, SystemDisk};
use crate::audit::log::NAME_LOOK;
use crate::audit::{Durability, TileLog, verify};

/// Counts operations and fails one of them, once: what is tried again would succeed.
#[derive(Debug)]
struct Faulty {
    operations: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
    names: AtomicU64,
    /// The inodes that were synced, in order.
    synced: Mutex<Vec<u64>>,
    fail_at: u64,
    fault: Fault,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Nothing happens but the error.
    Error(rustix::io::Errno),
    /// A write takes half of the bytes first.
    Torn,
}

impl Faulty {
    fn new(fail_at: u64, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            operations: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            names: AtomicU64::new(0),
            synced: Mutex::default(),
            fail_at,
            fault,
        })
    }

    fn step(&self) -> io::Result<()> {
        if self.operations.fetch_add(1, Ordering::SeqCst) + 1 == self.fail_at {
            return Err(match self.fault {
                Fault::Error(error) => error.into(),
                Fault::Torn => rustix::io::Errno::NOSPC.into(),
            });
        }
        Ok(())
    }
}

impl Disk for Faulty {
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<usize> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = self.step() {
            if matches!(self.fault, Fault::Torn) {
                SystemDisk.write(file, &bytes[..bytes.len() / 2])?;
            }
            return Err(error);
        }
        SystemDisk.write(file, bytes)
    }

    // Counted, not done: the tests do not lose power.
    fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.synced.lock().unwrap().push(file.metadata()?.ino());
        self.step()
    }

    fn sync_names(&self, _: &OwnedFd, _: &str) -> io::Result<()> {
        self.names.fetch_add(1, Ordering::SeqCst);
        self.step()
    }

    fn create_new(&self, folder: &OwnedFd, path: &str) -> io::Result<File> {
        self.step()?;
        SystemDisk.create_new(folder, path)
    }

    fn create_or_empty(&self, folder: &OwnedFd, path: &str) -> io::Result<File> {
        self.step()?;
        SystemDisk.create_or_empty(folder, path)
    }

    fn rename(&self, folder: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
        // A missing directory is not a fault: the log makes it and renames again.
        self.step()?;
        SystemDisk.rename(folder, from, to)
    }

    fn remove(&self, folder: &OwnedFd, path: &str, flags: AtFlags) -> io::Result<()> {
        self.step()?;
        SystemDisk.remove(folder, path, flags)
    }

    fn make_folder(&self, folder: &OwnedFd, path: &str) -> io::Result<()> {
        self.step()?;
        SystemDisk.make_folder(folder, path)
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        self.step()?;
        SystemDisk.truncate(file, length)
    }
}

/// Appends with a fault at one operation; afterwards the log must hold exactly what was acknowledged, and perhaps what was not.
/// Returns whether the fault was reached.
fn fail_once(durability: Durability, fail_at: u64, fault: Fault) -> bool {
    let at = format!("{durability:?} {fault:?} at {fail_at}");
    let place = Place::new();
    let disk = Faulty::new(fail_at, fault);
    let Ok(log) = TileLog::create_on(disk.clone(), options(&place.log(), durability)) else {
        // Nothing was acknowledged. What is there is not a log yet, or an empty one.
        if let Ok((_, _, entries)) = open(&place.log()) {
            assert!(entries.is_empty(), "{at}");
        } else {
            let log = TileLog::create(options(&place.log(), durability)).expect("it can be created anew");
            append(&log, small(0)).unwrap();
        }
        return true;
    };
    // The end of a bundle and a checkpoint on each side of it are on the way.
    let mut acknowledged = 0;
    let mut failed = false;
    for n in 0..266 {
        // The first entries fill a bundle without a sync each.
        if n < 244 && n % 40 != 0 {
            log.note(small(n));
            continue;
        }
        match append(&log, small(n)) {
            Ok(index) => {
                assert!(!failed, "{at}: an append succeeded after one failed");
                assert_eq!(index, n, "{at}");
                acknowledged = n + 1;
            }
            Err(error) => {
                assert!(matches!(error, AuditError::Write(_)), "{at}: {error}");
                failed = true;
            }
        }
        if n == 250 || n == 262 {
            failed |= wait(log.checkpoint()).is_err();
        }
    }
    failed |= log.close().is_err();
    drop(log);
    let (log, recovered, entries) = open(&place.log()).unwrap_or_else(|error| panic!("{at}: {error}"));
    assert!(
        entries.len() as u64 >= acknowledged,
        "{at}: {acknowledged} acknowledged, {} found",
        entries.len()
    );
    assert!(
        entries.iter().cloned().eq((0..entries.len() as u64).map(small)),
        "{at}"
    );
    append(&log, small(9)).unwrap();
    log.close().unwrap();
    drop(log);
    verify(&place.log(), &key().vkey()).unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(
        open(&place.log()).unwrap().1,
        None,
        "{at}: the second opening has nothing to recover"
    );
    let reached = disk.operations.load(Ordering::SeqCst) >= fail_at;
    assert!(
        failed || !reached || recovered.is_none(),
        "{at}: the fault was swallowed"
    );
    reached
}

/// Fails each operation in turn until a run is clean.
fn fail_everywhere(durability: Durability, fault: Fault) {
    let points = (1..)
        .take_while(|fail_at| fail_once(durability, *fail_at, fault))
        .count();
    // The control: faults were injected on the way, and the last run was clean.
    assert!(points > 50, "{durability:?} {fault:?}: only {points} points");
}

#[test]
fn an_error_anywhere_loses_nothing_acknowledged_and_acknowledges_nothing_after_it() {
    fail_everywhere(Durability::Process, Fault::Error(rustix::io::Errno::IO));
}

#[test]
fn an_error_anywhere_between_syncs_loses_nothing_acknowledged_and_acknowledges_nothing_after_it() {
    fail_everywhere(Durability::Sync, Fault::Error(rustix::io::Errno::IO));
}

#[test]
fn a_full_disk_in_the_middle_of_a_write_loses_nothing_acknowledged_and_acknowledges_nothing_after_it() {
    fail_everywhere(Durability::Process, Fault::Torn);
}

#[test]
fn a_sync_that_failed_is_not_tried_again() {
    let place = Place::new();
    let disk = Faulty::new(0, Fault::Error(rustix::io::Errno::IO));
    drop(TileLog::create_on(disk.clone(), options(&place.log(), Durability::Sync)).unwrap());
    let before = disk.operations.load(Ordering::SeqCst);
    assert!(before > 0);
    let disk = Faulty::new(0, Fault::Error(rustix::io::Errno::IO));
    let (log, _) = TileLog::open_on(
        disk.clone(),
        options(&place.log(), Durability::Sync),
        &mut |_, _| {},
    )
    .unwrap();
    append(&log, small(0)).unwrap();
    let clean = disk.operations.load(Ordering::SeqCst);
    drop(log);

    // The same again, with the last operation, the sync of the second append, failing.
    let place = Place::new();
    drop(
        TileLog::create_on(
            Faulty::new(0, Fault::Torn),
            options(&place.log(), Durability::Sync),
        )
        .unwrap(),
    );
    let disk = Faulty::new(clean, Fault::Error(rustix::io::Errno::IO));
    let (log, _) = TileLog::open_on(
        disk.clone(),
        options(&place.log(), Durability::Sync),
        &mut |_, _| {},
    )
    .unwrap();
    assert!(matches!(append(&log, small(0)), Err(AuditError::Write(_))));
    let syncs = disk.syncs.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert!(matches!(append(&log, small(1)), Err(AuditError::Write(_))));
    }
    assert!(wait(log.checkpoint()).is_err());
    assert!(log.close().is_err());
    assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs);
}

/// A disk whose first sync waits until the test lets it go on.
#[derive(Debug)]
struct Slow {
    syncs: AtomicU64,
    began: Mutex<mpsc::Sender<()>>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Disk for Slow {
    fn sync(&self, _: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.began.lock().unwrap().send(()).unwrap_or_default();
        // When the test has dropped its end, syncs take no time.
        self.go_on.lock().unwrap().recv().unwrap_or_default();
        Ok(())
    }
}

#[test]
fn all_who_come_during_a_sync_share_the_next_one() {
    let place = Place::new();
    drop(TileLog::create(options(&place.log(), Durability::Process)).unwrap());
    let (began, has_begun) = mpsc::channel();
    let (let_go, go_on) = mpsc::channel();
    let disk = Arc::new(Slow {
        syncs: AtomicU64::new(0),
        began: Mutex::new(began),
        go_on: Mutex::new(go_on),
    });
    let (log, _) = TileLog::open_on(
        disk.clone(),
        options(&place.log(), Durability::Sync),
        &mut |_, _| {},
    )
    .unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let before = disk.syncs.load(Ordering::SeqCst);
    let first = log.append(allowed(0));
    has_begun.recv().unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        let appended = Arc::new(tokio::sync::Barrier::new(65));
        for n in 1..=64 {
            let (log, appended) = (Arc::clone(&log), Arc::clone(&appended));
            tasks.spawn(async move {
                let append = log.append(allowed(n));
                appended.wait().await;
                append.await.unwrap()
            });
        }
        appended.wait().await;
        assert_eq!(
            disk.syncs.load(Ordering::SeqCst) - before,
            1,
            "nobody went on without a sync"
        );
        drop(let_go);
        assert_eq!(first.await.unwrap(), 0);
        let mut indexes = tasks.join_all().await;
        indexes.sort_unstable();
        assert!(indexes.into_iter().eq(1..=64));
    });
    assert_eq!(
        disk.syncs.load(Ordering::SeqCst) - before,
        2,
        "one for the first, one for 64"
    );
}

#[test]
fn what_an_opened_log_holds_is_synced_with_the_first_append_checkpoint_or_close() {
    type Step = fn(&TileLog);
    let steps: [Step; 3] = [
        |log| assert_eq!(append(log, small(1)).unwrap(), 1),
        |log| assert!(wait(log.checkpoint()).is_ok()),
        |log| log.close().unwrap(),
    ];
    for step in steps {
        let place = Place::new();
        let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
        append(&log, small(0)).unwrap();
        drop(log);
        let disk = Faulty::new(0, Fault::Torn);
        let (log, _) = TileLog::open_on(
            disk.clone(),
            options(&place.log(), Durability::Sync),
            &mut |_, _| {},
        )
        .unwrap();
        assert_eq!(disk.syncs.load(Ordering::SeqCst), 0, "nothing stands on it yet");
        step(&log);
        assert!(disk.syncs.load(Ordering::SeqCst) > 0);
        let synced = disk.synced.lock().unwrap().clone();
        let journal = std::fs::metadata(place.log().join("journal-0")).unwrap().ino();
        assert_eq!(synced.first(), Some(&journal), "the journal before anything else");
        assert!(disk.names.load(Ordering::SeqCst) > 0, "and its name");
    }
}

#[test]
fn one_append_is_one_write_and_carries_the_notes_before_it() {
    let place = Place::new();
    let disk = Faulty::new(0, Fault::Torn);
    let log = TileLog::create_on(disk.clone(), options(&place.log(), Durability::Process)).unwrap();
    let before = disk.writes.load(Ordering::SeqCst);
    for n in 0..50 {
        log.note(small(n));
        append(&log, small(n)).unwrap();
    }
    assert!(
        disk.writes.load(Ordering::SeqCst) - before <= 51,
        "one more if the idle time ended in between"
    );
    assert_eq!(disk.syncs.load(Ordering::SeqCst), 0);
}

#[test]
fn an_append_that_is_not_waited_for_stays() {
    for durability in [Durability::Process, Durability::Sync] {
        let place = Place::new();
        let log = TileLog::create(options(&place.log(), durability)).unwrap();
        drop(log.append(small(0)));
        assert_eq!(append(&log, small(1)).unwrap(), 1);
        drop(log);
        assert_eq!(open(&place.log()).unwrap().2, [small(0), small(1)]);
    }
}

type Attack = fn(&Path);

/// Moving the journal leaves a whole file under another name; after the others the open file has no name, or another length.
const MOVES: [(&str, Attack); 3] = [
    ("moved away", |journal| {
        std::fs::rename(journal, journal.with_extension("old")).unwrap();
    }),
    ("moved away and replaced by its copy", |journal| {
        let old = journal.with_extension("old");
        std::fs::rename(journal, &old).unwrap();
        std::fs::copy(old, journal).unwrap();
    }),
    ("removed, with a link to it elsewhere", |journal| {
        std::fs::hard_link(journal, journal.with_extension("old")).unwrap();
        std::fs::remove_file(journal).unwrap();
    }),
];
const LOSSES: [(&str, Attack); 5] = [
    ("removed", |journal| std::fs::remove_file(journal).unwrap()),
    ("replaced by its copy", |journal| {
        let copy = journal.with_extension("copy");
        std::fs::copy(journal, &copy).unwrap();
        std::fs::rename(copy, journal).unwrap();
    }),
    ("emptied", |journal| std::fs::write(journal, "").unwrap()),
    ("cut", |journal| {
        let file = File::options().write(true).open(journal).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    }),
    ("the whole folder removed", |journal| {
        std::fs::remove_dir_all(journal.parent().unwrap()).unwrap();
    }),
];

fn fails_from_now_on(log: &TileLog, what: &str) {
    for n in 1..=2 {
        assert!(
            matches!(append(log, small(n)), Err(AuditError::Write(_))),
            "{what}"
        );
    }
    assert!(log.close().is_err(), "{what}");
}

#[test]
fn a_journal_that_is_removed_replaced_or_cut_while_open_fails_the_next_append() {
    for (name, attack) in LOSSES {
        for durability in [Durability::Process, Durability::Sync] {
            let place = Place::new();
            let disk = Arc::new(Standing::default());
            let log = TileLog::create_on(disk, options(&place.log(), durability)).unwrap();
            append(&log, small(0)).unwrap();
            attack(&place.log().join("journal-0"));
            fails_from_now_on(&log, &format!("{name} {durability:?}"));
        }
    }
}

/// The system's disk on which no time passes until the test says so.
#[derive(Debug)]
struct Standing {
    began: Instant,
    passed: Mutex<Duration>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            passed: Mutex::default(),
        }
    }
}

impl Standing {
    fn pass(&self, time: Duration) {
        *self.passed.lock().unwrap() += time;
    }
}

impl Disk for Standing {
    fn now(&self) -> Instant {
        self.began + *self.passed.lock().unwrap()
    }
}

#[test]
fn a_journal_that_is_moved_while_open_fails_appends_within_the_bound_and_each_sync() {
    const TICK: Duration = Duration::from_millis(1);
    for (name, attack) in MOVES {
        let place = Place::new();
        let log = TileLog::create(options(&place.log(), Durability::Sync)).unwrap();
        append(&log, small(0)).unwrap();
        attack(&place.log().join("journal-0"));
        fails_from_now_on(&log, &format!("{name}, synced"));

        let place = Place::new();
        let disk = Arc::new(Standing::default());
        let log = TileLog::create_on(disk.clone(), options(&place.log(), Durability::Process)).unwrap();
        // The control: a log that nobody touches takes entries however much time passes.
        for _ in 0..3 {
            append(&log, small(0)).unwrap();
            disk.pass(NAME_LOOK);
        }
        append(&log, small(0)).unwrap();
        attack(&place.log().join("journal-0"));
        disk.pass(NAME_LOOK - TICK);
        append(&log, small(0)).unwrap_or_else(|error| panic!("{name}, before the bound: {error}"));
        disk.pass(TICK);
        fails_from_now_on(&log, &format!("{name}, at the bound"));
    }
}

#[test]
fn a_journal_that_is_moved_while_open_fails_the_next_checkpoint_and_the_close() {
    for (name, attack) in MOVES {
        for close in [false, true] {
            let place = Place::new();
            let disk = Arc::new(Standing::default());
            let log = TileLog::create_on(disk, options(&place.log(), Durability::Process)).unwrap();
            append(&log, small(0)).unwrap();
            wait(log.checkpoint()).expect("the control");
            append(&log, small(0)).unwrap();
            attack(&place.log().join("journal-0"));
            if !close {
                assert!(wait(log.checkpoint()).is_err(), "{name}");
            }
            assert!(log.close().is_err(), "{name}");
        }
    }
}

#[test]
fn an_entry_that_changed_on_disk_is_not_signed() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    append(&log, small(0)).unwrap();
    append(&log, small(1)).unwrap();
    let journal = place.log().join("journal-0");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    assert!(matches!(wait(log.checkpoint()), Err(AuditError::Damaged(what)) if what.contains("entry 0")));
    assert!(
        matches!(append(&log, small(2)), Err(AuditError::Damaged(_))),
        "and the log has failed"
    );
}
