//! One entry in the journal: u32 length, JSON, 32-byte leaf hash. Not the journal: which file, and what is durable, is told elsewhere.
//!
//! The hash is the entry's RFC 6962 leaf hash, so a frame that was torn or changed is recognised, and the tree need not hash again.

use claviger_core::audit::MAX_ENTRY;
use claviger_core::{AuditError, Entry};
use tlog_tiles::{HASH_SIZE, Hash, record_hash};

/// The length before the entry: big-endian.
const LENGTH: usize = 4;

/// Appends an entry's frame to the buffer; leaves the buffer as it was on an error.
pub(super) fn push(buffer: &mut Vec<u8>, entry: &Entry) -> Result<Hash, AuditError> {
    let start = buffer.len();
    let result = push_inner(buffer, start, entry);
    if result.is_err() {
        buffer.truncate(start);
    }
    result
}

fn push_inner(buffer: &mut Vec<u8>, start: usize, entry: &Entry) -> Result<Hash, AuditError> {
    buffer.extend_from_slice(&[0; LENGTH]);
    serde_json::to_writer(&mut *buffer, entry)
        .map_err(|error| AuditError::Write(std::sync::Arc::new(error.into())))?;
    let size = buffer.len() - start - LENGTH;
    let length = u32::try_from(size).map_err(|_| AuditError::TooLarge(size))?;
    if size > MAX_ENTRY {
        return Err(AuditError::TooLarge(size));
    }
    let (head, body) = buffer
        .get_mut(start..)
        .and_then(|frame| frame.split_first_chunk_mut::<LENGTH>())
        .ok_or(AuditError::TooLarge(size))?;
    *head = length.to_be_bytes();
    let leaf = record_hash(body);
    buffer.extend_from_slice(&leaf.0);
    Ok(leaf)
}

/// What stands at an offset of a journal.
#[derive(Debug, PartialEq)]
pub(super) enum Frame<'a> {
    /// A whole entry whose hash is right.
    Entry {
        /// As JSON.
        entry: &'a [u8],
        /// Its leaf hash.
        leaf: Hash,
        /// Where the next frame starts.
        next: usize,
    },
    /// Nothing: the journal ends here.
    End,
    /// Bytes that are no frame: torn or damaged.
    Bad,
}

/// Reads the frame at an offset.
pub(super) fn read(journal: &[u8], at: usize) -> Frame<'_> {
    let Some(rest) = journal.get(at..).filter(|rest| !rest.is_empty()) else {
        return Frame::End;
    };
    whole(rest).map_or(Frame::Bad, |(entry, leaf)| Frame::Entry {
        entry,
        leaf,
        next: at + LENGTH + entry.len() + HASH_SIZE,
    })
}

/// Whether a whole frame starts anywhere at or after an offset. Then what stands before it was damaged, not torn: a crash
/// tears only the last write.
pub(super) fn any_after(journal: &[u8], from: usize) -> bool {
    (from..journal.len()).any(|at| journal.get(at..).and_then(whole).is_some())
}

fn whole(bytes: &[u8]) -> Option<(&[u8], Hash)> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if length == 0 || length > MAX_ENTRY {
        return None;
    }
    let (entry, rest) = rest.split_at_checked(length)?;
    let (stored, _) = rest.split_first_chunk::<HASH_SIZE>()?;
    let leaf = record_hash(entry);
    (leaf.0 == *stored).then_some((entry, leaf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_core::audit::Event;

    fn entry(version: &str) -> Entry {
        Entry {
            time: jiff::Timestamp::UNIX_EPOCH,
            event: Event::HostStarted {
                keyring: 1,
                version: version.to_owned(),
                recovered: None,
            },
        }
    }

    #[test]
    fn a_frame_reads_back_and_every_flip_or_cut_of_it_is_bad() {
        let mut journal = Vec::new();
        let leaf = push(&mut journal, &entry("1")).unwrap();
        assert!(
            matches!(read(&journal, 0), Frame::Entry { leaf: l, next, .. } if l == leaf && next == journal.len())
        );
        assert_eq!(read(&journal, journal.len()), Frame::End);
        for bit in 0..journal.len() * 8 {
            let mut bad = journal.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bad, 0), Frame::Bad, "bit {bit}");
        }
        for cut in 1..journal.len() {
            assert_eq!(read(&journal[..cut], 0), Frame::Bad, "cut {cut}");
        }
    }

    #[test]
    fn an_entry_over_the_bound_leaves_the_buffer_as_it_was() {
        let mut journal = Vec::new();
        push(&mut journal, &entry("1")).unwrap();
        let before = journal.clone();
        assert!(matches!(
            push(&mut journal, &entry(&"x".repeat(MAX_ENTRY))),
            Err(AuditError::TooLarge(_))
        ));
        assert_eq!(journal, before);
    }

    #[test]
    fn a_whole_frame_is_found_behind_a_damaged_one() {
        let mut journal = Vec::new();
        push(&mut journal, &entry("1")).unwrap();
        let second = journal.len();
        push(&mut journal, &entry("2")).unwrap();
        journal[0] = 0xff;
        assert!(any_after(&journal, 1));
        assert!(!any_after(&journal, second + 1));
    }
}
