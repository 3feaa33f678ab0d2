//! Backups: what a keyring holds, encrypted to recipients that are kept elsewhere. Not the keyring, and not a decision: the broker puts
//! on the log that one is made, and restores it.
//!
//! A backup is an age file; what is in it is docs/adr/0013-backup-format.md. It is written and read as a stream, one value at a time in
//! locked memory. The crate `age` has up to two chunks of 64 KiB beside it, which are not locked and do not stay. Nothing here gives a
//! value to anybody but the keyring.

mod error;
mod item;
mod names;
mod read;
mod stream;
mod tag;
#[cfg(test)]
mod tests;
mod write;

pub use error::BackupError;
pub use names::{Identity, Recipient};
pub use read::Contents;

pub(crate) use item::{Head, KeyItem, SecretItem};
pub(crate) use read::{Item, Reader};
pub(crate) use write::{Writer, check_recipients};

/// The version of the content's format that this code writes, and the only one it reads.
pub const FORMAT: u32 = 1;
/// A backup has at most this many recipients.
pub const MAX_RECIPIENTS: usize = 16;
/// What is said of an item, and its value, have at most this many bytes each: a secret has 16 KiB, a profile with many names some more.
const MAX_FRAME: usize = 64 * 1024;
/// How deep the arithmetic of a curve and the hashes go, in words, with room to spare: what they leave is overwritten.
const STACK_WORDS: usize = 4096;
