//! Backups as bytes: against the reference, cut, flipped, oversized.

mod age;
mod frames;
