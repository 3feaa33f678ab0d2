//! Reads an audit log's entries as anybody could from its format: bundles, then journals. It checks nothing but frames and shares no
//! code with the log: `claviger_broker::audit::verify` does the proving, and this says what was logged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use claviger_core::audit::{Entry, Event, Settlement, Use};
use sha2::{Digest as _, Sha256};

/// Entries in a full bundle (C2SP tlog-tiles).
const FULL: usize = 256;

/// Every whole entry of the log in this folder, in order.
///
/// # Panics
/// When a file is not what the format says.
#[must_use]
pub fn entries(folder: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    while let Ok(bundle) = std::fs::read(folder.join(bundle_path(found.len() / FULL))) {
        let mut rest = bundle.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (json, after) = after.split_at(usize::from(u16::from_be_bytes(*length)));
            found.push(serde_json::from_slice(json).expect("an entry"));
            rest = after;
        }
        assert_eq!(found.len() % FULL, 0, "a full bundle has {FULL} entries");
    }
    for (base, journal) in journals(folder) {
        for (index, json) in (base..).zip(frames(&journal)) {
            assert!(
                index <= found.len(),
                "entries {}..{index} are missing",
                found.len()
            );
            if index == found.len() {
                found.push(serde_json::from_slice(json).expect("an entry"));
            }
        }
    }
    found
}

/// The authorised uses on the log with their settlements, by entry.
///
/// # Panics
/// When an entry settles what is no use, or settles one twice.
#[must_use]
pub fn uses(entries: &[Entry]) -> BTreeMap<u64, (Use, Option<Settlement>)> {
    let mut uses = BTreeMap::new();
    for (index, entry) in (0_u64..).zip(entries) {
        if let Event::Allowed(allowed) = &entry.event {
            uses.insert(index, (allowed.clone(), None));
        } else if let Event::Settled { of, settlement, .. } = entry.event {
            let (_, settled) = uses.get_mut(&of).expect("an entry settles a use before it");
            assert_eq!(settled.replace(settlement), None, "use {of} is settled twice");
        }
    }
    uses
}

/// The file with the log's last entries, and where each whole frame of it ends.
///
/// # Panics
/// When there is no journal.
#[must_use]
pub fn last_journal(folder: &Path) -> (PathBuf, Vec<usize>) {
    let (base, journal) = journals(folder).pop().expect("a log has a journal");
    let mut at = 0;
    let ends = frames(&journal).into_iter().map(|json| {
        at += 4 + json.len() + 32;
        at
    });
    (folder.join(format!("journal-{base}")), ends.collect())
}

fn journals(folder: &Path) -> Vec<(usize, Vec<u8>)> {
    let mut journals = Vec::new();
    for file in std::fs::read_dir(folder).expect("the log's folder") {
        let name = file.expect("a file").file_name().into_string().expect("a name");
        if let Some(base) = name.strip_prefix("journal-") {
            let bytes = std::fs::read(folder.join(&name)).expect("a journal");
            journals.push((base.parse().expect("an index"), bytes));
        }
    }
    journals.sort();
    journals
}

/// The JSON of each whole frame: u32 length, JSON, leaf hash.
fn frames(journal: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = journal;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).expect("a length");
        let Some((json, after)) = after.split_at_checked(length) else {
            break;
        };
        let Some((hash, after)) = after.split_first_chunk::<32>() else {
            break;
        };
        // RFC 6962 §2.1: a leaf is hashed behind a zero byte.
        if *hash != <[u8; 32]>::from(Sha256::new().chain_update([0]).chain_update(json).finalize()) {
            break;
        }
        found.push(json);
        rest = after;
    }
    found
}

fn bundle_path(n: usize) -> String {
    let mut path = format!("{:03}", n % 1000);
    let mut rest = n / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    format!("tile/entries/{path}")
}
