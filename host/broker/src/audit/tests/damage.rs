//! The log on disk cut at every byte and flipped: either the exact prefix is recovered, or the first bad entry is named.

use std::path::Path;

use claviger_core::{AuditSink as _, Entry};

use super::kit::{Place, append, copy, files, key, open, options, small, wait};
use crate::audit::{Durability, TileLog, VerifyError, verify};

/// What a file's change may lead to: the index from which entries may be missing or named.
fn write(folder: &Path, file: &str, bytes: &[u8]) {
    std::fs::write(folder.join(file), bytes).unwrap();
}

/// A log of some entries with its last checkpoint over `signed` of them, left without a close.
fn log_of(place: &Place, entries: u64, signed: u64) {
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    for n in 0..entries {
        append(&log, small(n)).unwrap();
        if n + 1 == signed {
            wait(log.checkpoint()).unwrap();
        }
    }
}

fn journals(folder: &Path) -> Vec<String> {
    files(folder)
        .into_iter()
        .filter(|name| name.starts_with("journal-"))
        .collect()
}

/// The last journal, with the index of each entry's first byte.
fn last_journal(folder: &Path) -> (String, Vec<u8>, u64) {
    let name = journals(folder)
        .into_iter()
        .max_by_key(|name| name.trim_start_matches("journal-").parse::<u64>().unwrap())
        .unwrap();
    let base = name.trim_start_matches("journal-").parse().unwrap();
    let bytes = std::fs::read(folder.join(&name)).unwrap();
    (name, bytes, base)
}

/// Where each frame of a journal ends.
fn ends(journal: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while at < journal.len() {
        at += 4 + usize::try_from(u32::from_be_bytes(journal[at..at + 4].try_into().unwrap())).unwrap() + 32;
        ends.push(at);
    }
    ends
}

/// Opens a copy with one file changed. Either the entries that come out, or the index that is named.
fn opened(place: &Place, scratch: &Path, file: &str, bytes: &[u8]) -> Result<Vec<Entry>, u64> {
    if !scratch.exists() {
        copy(&place.log(), scratch);
    }
    write(scratch, file, bytes);
    let result = match open(scratch) {
        Ok((_, _, entries)) => Ok(entries),
        Err(crate::audit::OpenError::Scan(crate::audit::ScanError::Damaged(damage))) => Err(damage.index),
        Err(error) => panic!("{file}: {error}"),
    };
    if result.is_ok() {
        // Opening recovers: the next case starts from a fresh copy.
        std::fs::remove_dir_all(scratch).unwrap();
    } else {
        write(scratch, file, &std::fs::read(place.log().join(file)).unwrap());
    }
    result
}

#[test]
fn a_journal_cut_at_any_byte_gives_the_exact_prefix_or_names_the_first_entry_that_is_gone() {
    const SIGNED: u64 = 590;
    let place = Place::new();
    log_of(&place, 600, SIGNED);
    let scratch = place.log().with_file_name("scratch");
    let (name, bytes, base) = last_journal(&place.log());
    let ends = ends(&bytes);
    // Every byte of the last dozen entries, which has the signed size in it, and samples of what is before. Reading is tried with
    // each, opening with some: it takes longer.
    let dense = ends[ends.len() - 13];
    for cut in (0..=bytes.len()).filter(|cut| *cut >= dense || cut % 397 == 0) {
        let whole = base + ends.iter().filter(|end| **end <= cut).count() as u64;
        let torn = cut as u64
            - whole
                .checked_sub(base + 1)
                .map_or(0, |last| ends[usize::try_from(last).unwrap()] as u64);
        if !scratch.exists() {
            copy(&place.log(), &scratch);
        }
        write(&scratch, &name, &bytes[..cut]);
        match verify(&scratch, &key().vkey()) {
            Ok(verified) => assert_eq!(
                (verified.entries, verified.torn_bytes),
                (whole, torn),
                "cut at {cut}"
            ),
            Err(error) => {
                assert!(whole < SIGNED, "cut at {cut}: {error}");
                assert_eq!(error.damage().unwrap().index, whole, "cut at {cut}: {error}");
            }
        }
        if cut % 29 > 0 && !ends.contains(&cut) {
            continue;
        }
        match opened(&place, &scratch, &name, &bytes[..cut]) {
            Ok(entries) => {
                assert!(whole >= SIGNED, "cut at {cut} lost signed entries");
                assert!(entries.iter().cloned().eq((0..whole).map(small)), "cut at {cut}");
            }
            Err(index) => {
                assert!(whole < SIGNED, "cut at {cut}");
                assert_eq!(index, whole, "cut at {cut}");
            }
        }
    }
}

#[test]
fn a_flipped_byte_of_the_tail_is_named_or_costs_only_the_last_entry() {
    let place = Place::new();
    log_of(&place, 530, 520);
    let scratch = place.log().with_file_name("scratch");
    let (name, bytes, base) = last_journal(&place.log());
    let ends = ends(&bytes);
    let dense = ends[ends.len() - 3];
    for at in (0..bytes.len()).filter(|at| *at >= dense || at % 101 == 0) {
        let entry = base + ends.iter().filter(|end| **end <= at).count() as u64;
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        match opened(&place, &scratch, &name, &flipped) {
            // A last entry with a wrong hash looks as if its write had been torn.
            Ok(entries) => {
                assert_eq!(entry, 529, "byte {at}: a flip in entry {entry} went unnoticed");
                assert!(entries.iter().cloned().eq((0..529).map(small)));
            }
            Err(index) => assert_eq!(index, entry, "byte {at}"),
        }
    }
}

#[test]
fn every_flip_in_the_signed_part_of_a_thousand_entries_is_detected() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    for n in 0..1000 {
        append(&log, small(n)).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let folder = place.log();
    let vkey = key().vkey();
    let control = verify(&folder, &vkey).unwrap();
    assert_eq!((control.entries, control.checkpoint_size), (1000, 1000));
    assert_eq!(control.last_time, Some(small(999).time));
    let mut cases = 0;
    for file in files(&folder) {
        let bytes = std::fs::read(folder.join(&file)).unwrap();
        // A prime, so that every position within entries and hashes is met.
        let stride = if file == "checkpoint" {
            1
        } else {
            bytes.len() / 61 + 7
        };
        for at in (0..bytes.len()).step_by(stride).chain(bytes.len().checked_sub(1)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            write(&folder, &file, &flipped);
            let error =
                verify(&folder, &vkey).expect_err(&format!("{file}: a flip of byte {at} went unnoticed"));
            match &error {
                VerifyError::Checkpoint(_) => assert_eq!(file, "checkpoint"),
                VerifyError::Scan(_) => {
                    let damage = error.damage().unwrap();
                    if let Some(n) = file.strip_prefix("tile/entries/") {
                        let n: u64 = n.get(..3).unwrap().parse().unwrap();
                        let entry = n * 256 + entry_at(&bytes, at);
                        assert_eq!(damage.index, entry, "{file} byte {at}: {damage}");
                    }
                    if let Some(n) = file.strip_prefix("tile/0/") {
                        let n: u64 = n.get(..3).unwrap().parse().unwrap();
                        assert_eq!(
                            damage.index,
                            n * 256 + at as u64 / 32,
                            "{file} byte {at}: {damage}"
                        );
                    }
                }
                VerifyError::Folder(_) | VerifyError::NoCheckpoint => panic!("{file} byte {at}: {error}"),
            }
            cases += 1;
        }
        write(&folder, &file, &bytes);
    }
    assert!(cases > 500, "{cases}");
    assert!(
        verify(&folder, &vkey).is_ok(),
        "the control: every flip was undone"
    );
}

fn entry_at(bundle: &[u8], at: usize) -> u64 {
    let mut index = 0;
    let mut end = 0;
    loop {
        end += 2 + usize::from(u16::from_be_bytes([bundle[end], bundle[end + 1]]));
        if at < end {
            return index;
        }
        index += 1;
    }
}

#[test]
fn entries_and_tiles_that_were_changed_together_do_not_have_the_signed_root() {
    let place = Place::new();
    let other = Place::new();
    for (place, n) in [(&place, 0), (&other, 1)] {
        let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
        for k in 0..300 {
            append(&log, small(if k == 7 { 1000 + n } else { k })).unwrap();
        }
        log.close().unwrap();
    }
    let vkey = key().vkey();
    assert!(verify(&other.log(), &vkey).is_ok());
    // Everything of the other history, under the first one's checkpoint.
    std::fs::copy(place.log().join("checkpoint"), other.log().join("checkpoint")).unwrap();
    let error = verify(&other.log(), &vkey).unwrap_err();
    assert_eq!(error.damage().unwrap().file, "checkpoint", "{error}");
    assert!(open(&other.log()).is_err());
}

#[test]
fn a_missing_file_of_the_signed_part_is_named() {
    let place = Place::new();
    log_of(&place, 600, 600);
    let vkey = key().vkey();
    let journal = last_journal(&place.log()).0;
    for file in [
        "tile/entries/000",
        "tile/entries/001",
        "tile/0/001",
        "tile/entries/002.p/88",
        "tile/1/000.p/2",
        &journal,
    ] {
        let kept = std::fs::read(place.log().join(file)).unwrap();
        std::fs::remove_file(place.log().join(file)).unwrap();
        let error = verify(&place.log(), &vkey).expect_err(file);
        assert!(error.damage().is_some(), "{file}: {error}");
        assert!(open(&place.log()).is_err(), "{file}");
        write(&place.log(), file, &kept);
    }
    assert!(verify(&place.log(), &vkey).is_ok(), "the control");
}

#[test]
fn a_missing_bundle_of_the_signed_part_is_named_though_a_journal_has_its_entries() {
    let place = Place::new();
    log_of(&place, 300, 300);
    assert_eq!(
        journals(&place.log()),
        ["journal-0"],
        "the control: it has them all"
    );
    assert!(verify(&place.log(), &key().vkey()).is_ok(), "the control");
    std::fs::remove_file(place.log().join("tile/entries/000")).unwrap();
    let error = verify(&place.log(), &key().vkey()).unwrap_err();
    assert_eq!(
        error.damage().map(|damage| damage.file.as_str()),
        Some("tile/entries/000")
    );
    assert!(open(&place.log()).is_err());
}

#[test]
fn a_journal_that_became_tiles_but_was_not_removed_changes_nothing() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    for n in 0..512 {
        append(&log, small(n)).unwrap();
    }
    wait(log.checkpoint()).unwrap();
    drop(log);
    let (name, bytes, _) = last_journal(&place.log());
    assert!(
        bytes.is_empty() && name == "journal-512",
        "the control: the full journal is tiles"
    );
    // The crash was before the journal was removed: make it anew.
    let bundles =
        ["tile/entries/000", "tile/entries/001"].map(|path| std::fs::read(place.log().join(path)).unwrap());
    let mut journal = Vec::new();
    for n in 0..512 {
        crate::audit::frame::push(&mut journal, &small(n)).unwrap();
    }
    assert_eq!(journal.len(), bundles.concat().len() + 512 * 34);
    write(&place.log(), "journal-0", &journal);
    for _ in 0..2 {
        let (log, _, entries) = open(&place.log()).unwrap();
        assert!(entries.into_iter().eq((0..512).map(small)));
        log.close().unwrap();
    }
    assert_eq!(journals(&place.log()), ["journal-512"]);
    // And an old one that says something else is not taken for it.
    crate::audit::frame::push(&mut journal, &small(5)).unwrap();
    let at = journal.len() / 2;
    journal[at] ^= 1;
    write(&place.log(), "journal-0", &journal);
    assert!(open(&place.log()).is_err());
}
