//! The audit log on disk: an RFC 6962 Merkle tree in C2SP tlog-tiles layout, with a journal for its end. Not a decision: what is logged,
//! and what follows from it, is the broker's.
//!
//! ```text
//! checkpoint            signed note: size and root           tile/entries/NNN        256 entries, u16 length before each
//! tile/L/NNN            256 hashes                           tile/…/NNN.p/W          W of them, at a checkpoint
//! journal-B             entries from index B on that are not in full bundles yet, each with its leaf hash
//! ```
//! Everything but the journals is what any tlog-tiles client reads. An entry is in the journal, as durable as the log's
//! [`Durability`] says, before [`TileLog`] says that it was appended; tiles are made from the journal later and can be made again.

mod disk;
mod frame;
mod key;
mod log;
mod open;
mod reader;
mod scan;
mod tree;
mod verify;
mod worker;

pub use disk::FolderError;
pub use key::{CheckpointError, LogKey, LogKeyError, MAX_ORIGIN};
pub use log::{Durability, LogOptions, TileLog};
pub use open::OpenError;
pub use reader::{Entries, InclusionProof, ReadError, Reader};
pub use scan::{Damage, ScanError};
pub use tlog_tiles::Hash;
pub use verify::{Verified, VerifyError, verify};

#[cfg(test)]
mod tests;
