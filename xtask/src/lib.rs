//! The project's tasks as functions, so that tests can use what the command uses: `cargo xtask` is `main.rs`.
//!
//! Everything here reads the source tree and starts other programs. It knows none of Claviger's crates, so it builds where
//! nothing is installed yet, and holds no part of what is shipped.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task's output is what it prints: results on stdout, progress on stderr"
)]

pub mod bench;
pub mod demo;
pub mod guests;
pub mod metadata;
pub mod python;
pub mod setup;
pub mod step;
pub mod test;
pub mod tidy;
