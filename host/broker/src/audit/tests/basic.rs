//! The log without faults: what is appended is found, the layout is the standard's, and an orderly stop is told from another.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use claviger_core::audit::{MAX_ENTRY, Settlement};
use claviger_core::{AuditError, AuditSink as _, Event};
use sha2::{Digest as _, Sha256};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::Checkpoint;

use super::kit::{Place, allowed, append, copy, files, key, open, options, settled, small, stopped, wait};
use crate::audit::{Durability, FolderError, OpenError, TileLog, verify};

/// RFC 6962 §2.1, word for word.
fn independent_root(entries: &[Vec<u8>]) -> [u8; 32] {
    match entries {
        [] => Sha256::digest([]).into(),
        [entry] => Sha256::new()
            .chain_update([0])
            .chain_update(entry)
            .finalize()
            .into(),
        _ => {
            let k = entries.len().next_power_of_two() / 2;
            let (left, right) = entries.split_at(k);
            Sha256::new()
                .chain_update([1])
                .chain_update(independent_root(left))
                .chain_update(independent_root(right))
                .finalize()
                .into()
        }
    }
}

/// The entries as a standard client reads them: bundles only, the partial one that the checkpoint's size names.
fn bundled(folder: &std::path::Path, size: usize) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    while entries.len() < size {
        let (n, left) = (entries.len() / 256, size - entries.len());
        let mut path = folder.join(format!("tile/entries/{n:03}"));
        if left < 256 && !path.exists() {
            path = folder.join(format!("tile/entries/{n:03}.p/{left}"));
        }
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (entry, after) = after.split_at(usize::from(u16::from_be_bytes(*length)));
            entries.push(entry.to_vec());
            rest = after;
        }
    }
    entries
}

#[test]
fn what_was_appended_is_folded_in_order_after_reopening() {
    for durability in [Durability::Process, Durability::Sync] {
        for count in [0, 1, 255, 256, 257, 600, 1024] {
            let place = Place::new();
            let log = TileLog::create(options(&place.log(), durability)).unwrap();
            let expected: Vec<_> = (0..count).map(small).collect();
            for (index, entry) in (0..).zip(&expected) {
                if index % 3 == 0 {
                    log.note(entry.clone());
                } else {
                    assert_eq!(append(&log, entry.clone()).unwrap(), index);
                }
            }
            let root = log.root().unwrap();
            log.close().unwrap();
            assert!(matches!(append(&log, small(0)), Err(AuditError::Closed)));
            drop(log);
            let (log, recovered, entries) = open(&place.log()).unwrap();
            assert_eq!((entries, recovered), (expected, None), "{durability:?} {count}");
            assert_eq!((log.size(), log.root().unwrap()), (count, root));
            let verified = verify(&place.log(), &key().vkey()).unwrap();
            assert_eq!(
                (verified.entries, verified.unsigned_tail, verified.root),
                (count, 0, root)
            );
        }
    }
}

#[test]
fn a_standard_client_reads_what_the_checkpoint_covers() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    for n in 0..700_usize {
        append(&log, allowed(n as u64)).unwrap();
        if ![0, 1, 255, 256, 300, 511, 512, 699].contains(&n) {
            continue;
        }
        let text = wait(log.checkpoint()).unwrap();
        assert_eq!(
            std::fs::read_to_string(place.log().join("checkpoint")).unwrap(),
            text
        );
        let note = Note::from_bytes(text.as_bytes()).unwrap();
        let verifier = StandardVerifier::new(&key().vkey()).unwrap();
        note.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
        let checkpoint = Checkpoint::from_bytes(note.text()).unwrap();
        assert_eq!(checkpoint.size(), n as u64 + 1);
        let entries = bundled(&place.log(), n + 1);
        assert_eq!(entries.len(), n + 1);
        assert_eq!(checkpoint.hash().0, independent_root(&entries));
        assert_eq!(log.root().unwrap().0, independent_root(&entries));
    }
}

#[test]
fn partial_tiles_and_old_journals_go_when_the_full_ones_are_there() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    for n in 0..520 {
        append(&log, small(n)).unwrap();
        if n == 100 || n == 200 || n == 300 {
            wait(log.checkpoint()).unwrap();
        }
    }
    log.close().unwrap();
    drop(log);
    // Whether the end of a bundle begins a new journal depends on whether the worker was busy.
    let found: Vec<_> = files(&place.log())
        .into_iter()
        .filter(|name| !name.starts_with("journal-"))
        .collect();
    assert_eq!(
        found,
        [
            "checkpoint",
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/8",
            "tile/1/000.p/1",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/8",
        ]
    );
}

#[test]
fn a_stop_without_close_is_found_and_open_uses_are_settled_as_indeterminate() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    append(&log, allowed(0)).unwrap();
    append(&log, allowed(1)).unwrap();
    append(&log, settled(0, Settlement::Released)).unwrap();
    append(&log, allowed(3)).unwrap();
    drop(log);
    let (log, recovered, entries) = open(&place.log()).unwrap();
    let recovered = recovered.unwrap();
    assert_eq!(
        (
            recovered.entries,
            recovered.dropped_bytes,
            recovered.indeterminate
        ),
        (4, 0, 2)
    );
    let ends: Vec<_> = entries[4..].iter().map(|entry| entry.event.clone()).collect();
    let indeterminate = |of| Event::Settled {
        of,
        settlement: Settlement::Indeterminate,
        traffic: None,
    };
    assert_eq!(ends, [indeterminate(1), indeterminate(3)]);
    drop(log);
    let (log, recovered, entries) = open(&place.log()).unwrap();
    assert_eq!(
        (recovered.unwrap().indeterminate, entries.len()),
        (0, 6),
        "settled once"
    );
    append(&log, stopped()).unwrap();
    log.close().unwrap();
    drop(log);
    assert_eq!(open(&place.log()).unwrap().1, None);
}

#[test]
fn a_checkpoint_in_the_middle_of_a_use_is_not_a_clean_stop() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    append(&log, allowed(0)).unwrap();
    wait(log.checkpoint()).unwrap();
    drop(log);
    assert_eq!(open(&place.log()).unwrap().1.unwrap().indeterminate, 1);
}

#[test]
fn a_noted_entry_comes_before_later_ones_and_is_written_without_them() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    log.note(small(0));
    assert_eq!(append(&log, small(1)).unwrap(), 1);
    log.note(small(2));
    drop(log);
    assert_eq!(open(&place.log()).unwrap().2, [small(0), small(1), small(2)]);
}

#[test]
fn an_entry_over_the_bound_is_refused_and_the_log_goes_on() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    let mut long = allowed(0);
    if let Event::Allowed(of) = &mut long.event {
        of.profile = "x".repeat(MAX_ENTRY);
    }
    assert!(matches!(append(&log, long.clone()), Err(AuditError::TooLarge(_))));
    assert_eq!(append(&log, small(0)).unwrap(), 0);
    log.note(long);
    assert!(
        matches!(append(&log, small(1)), Err(AuditError::TooLarge(_))),
        "a lost note shows"
    );
    assert_eq!(append(&log, small(1)).unwrap(), 1);
    log.close().unwrap();
}

#[test]
fn appends_from_many_threads_have_the_order_of_their_indexes() {
    for durability in [Durability::Process, Durability::Sync] {
        let place = Place::new();
        let log = TileLog::create(options(&place.log(), durability)).unwrap();
        let threads: Vec<_> = (0..8_u64)
            .map(|thread| {
                let log = Arc::clone(&log);
                std::thread::spawn(move || {
                    (0..100)
                        .map(|n| (append(&log, small(thread * 1000 + n)).unwrap(), thread * 1000 + n))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut appended: Vec<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        appended.sort_unstable();
        log.close().unwrap();
        drop(log);
        let (_, _, entries) = open(&place.log()).unwrap();
        assert_eq!(
            entries,
            appended.iter().map(|(_, n)| small(*n)).collect::<Vec<_>>()
        );
        assert!(appended.iter().map(|(index, _)| *index).eq(0..800));
    }
}

#[test]
fn a_log_has_one_writer_and_is_created_once() {
    let place = Place::new();
    assert!(matches!(open(&place.log()), Err(OpenError::NotALog(_))));
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    assert!(matches!(open(&place.log()), Err(OpenError::InUse(_))));
    assert!(
        verify(&place.log(), &key().vkey()).is_ok(),
        "readers need no lock"
    );
    drop(log);
    assert!(matches!(
        TileLog::create(options(&place.log(), Durability::Process)),
        Err(OpenError::Exists(_))
    ));
    std::fs::remove_file(place.log().join("checkpoint")).unwrap();
    assert!(matches!(open(&place.log()), Err(OpenError::NotALog(_))));
}

#[test]
fn a_folder_that_others_write_or_a_link_is_refused_with_the_command_to_type() {
    let place = Place::new();
    drop(TileLog::create(options(&place.log(), Durability::Process)).unwrap());
    for name in ["checkpoint", "journal-0"] {
        let mode = std::fs::metadata(place.log().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(
        std::fs::metadata(place.log()).unwrap().permissions().mode() & 0o777,
        0o700
    );

    std::fs::set_permissions(place.log(), std::fs::Permissions::from_mode(0o770)).unwrap();
    let error = open(&place.log()).unwrap_err();
    assert!(
        matches!(
            &error,
            OpenError::Folder(FolderError::Writable { mode: 0o770, .. })
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("chmod 700 "), "{error}");
    std::fs::set_permissions(place.log(), std::fs::Permissions::from_mode(0o700)).unwrap();

    let link = place.log().with_file_name("link");
    std::os::unix::fs::symlink(place.log(), &link).unwrap();
    assert!(matches!(
        open(&link),
        Err(OpenError::Folder(FolderError::NotAFolder(_)))
    ));

    let elsewhere = place.log().with_file_name("elsewhere");
    copy(&place.log(), &elsewhere);
    std::fs::remove_file(place.log().join("journal-0")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("journal-0"), place.log().join("journal-0")).unwrap();
    assert!(
        matches!(open(&place.log()), Err(OpenError::Scan(_))),
        "a linked journal"
    );
}
