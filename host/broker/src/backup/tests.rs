//! Backups as bytes: against the reference, cut, flipped, oversized.

mod file;
mod frames;
mod tag;
