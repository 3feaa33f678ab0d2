//! What the tests of the log share: entries, options, a way to read everything back.

use std::path::Path;
use std::sync::Arc;

use claviger_core::audit::{Recovered, Settlement, Use};
use claviger_core::digest::{ComponentDigest, ContentDigest, ManifestDigest};
use claviger_core::key::{KeyRef, KeyVersion};
use claviger_core::{AuditError, AuditSink as _, BoxFuture, Entry, EntryIndex, Event, InstanceId, Secret};
use jiff::Timestamp;

use crate::audit::{Durability, LogKey, LogOptions, OpenError, TileLog};
use crate::clock::SystemClock;

pub(super) fn key() -> LogKey {
    LogKey::from_seed("claviger.test/log", Secret::take(&mut [42; 32]).unwrap()).unwrap()
}

pub(super) fn options(folder: &Path, durability: Durability) -> LogOptions {
    LogOptions {
        folder: folder.to_owned(),
        durability,
        key: key(),
        clock: Arc::new(SystemClock),
    }
}

/// A folder for a log in a temporary one.
pub(super) struct Place(tempfile::TempDir);

impl Place {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn log(&self) -> std::path::PathBuf {
        self.0.path().join("log")
    }
}

pub(super) fn allowed(n: u64) -> Entry {
    Entry {
        time: Timestamp::from_second(1_800_000_000 + i64::try_from(n).unwrap()).unwrap(),
        event: Event::Allowed(Use {
            instance: InstanceId(n),
            agent: "release-bot".parse().unwrap(),
            component: ComponentDigest::of(b"component"),
            manifest: ManifestDigest::of(b"manifest"),
            grant: "sign-release".parse().unwrap(),
            key: Some(KeyRef {
                name: "release".parse().unwrap(),
                version: KeyVersion::FIRST,
            }),
            secret: None,
            profile: "sshsig".to_owned(),
            operation: None,
            request: None,
            content: ContentDigest::of(&n.to_be_bytes()),
            size: n,
            number: n + 1,
            rate_until: None,
            approval: None,
        }),
    }
}

/// A short entry that settles nothing that exists.
pub(super) fn small(n: u64) -> Entry {
    settled(1_000_000 + n, Settlement::Released)
}

pub(super) fn settled(of: EntryIndex, settlement: Settlement) -> Entry {
    Entry {
        time: Timestamp::from_second(1_800_000_000).unwrap(),
        event: Event::Settled {
            of,
            settlement,
            traffic: None,
        },
    }
}

pub(super) fn stopped() -> Entry {
    Entry {
        time: Timestamp::from_second(1_800_000_000).unwrap(),
        event: Event::HostStopped,
    }
}

pub(super) fn wait<T>(future: BoxFuture<'_, T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

pub(super) fn append(log: &TileLog, entry: Entry) -> Result<EntryIndex, AuditError> {
    wait(log.append(entry))
}

pub(super) type Opened = (Arc<TileLog>, Option<Recovered>, Vec<Entry>);

/// Opens a log and returns the entries that it folded.
pub(super) fn open(folder: &Path) -> Result<Opened, OpenError> {
    let mut entries = Vec::new();
    let (log, recovered) = TileLog::open(options(folder, Durability::Process), &mut |index, entry| {
        assert_eq!(index, entries.len() as u64);
        entries.push(entry.clone());
    })?;
    Ok((log, recovered, entries))
}

/// Copies a folder.
pub(super) fn copy(from: &Path, to: &Path) {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}

/// All files below a folder, relative to it.
pub(super) fn files(folder: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}
