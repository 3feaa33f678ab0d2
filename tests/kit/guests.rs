//! The test guests as `cargo xtask guests` built them. Builds none itself: tests run in parallel and offline.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A component made for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Obeys its input line by line; see tests/guests/agent.
    Agent,
    /// Sends what its input says; see tests/guests/http.
    Http,
    /// Seals and makes MACs; see tests/guests/symmetric.
    Symmetric,
    /// Asks for evidence of itself; see tests/guests/evidence.
    Evidence,
    /// A plain `wasi:cli/command`.
    Command,
    /// Replaces tokens of OpenBao; see examples/openbao-rotator.
    OpenbaoRotator,
}

/// The bytes of a guest.
///
/// # Panics
/// When it was not built from the sources as they are; says what to run.
#[must_use]
pub fn guest(guest: Guest) -> &'static [u8] {
    static AGENT: OnceLock<Vec<u8>> = OnceLock::new();
    static HTTP: OnceLock<Vec<u8>> = OnceLock::new();
    static SYMMETRIC: OnceLock<Vec<u8>> = OnceLock::new();
    static EVIDENCE: OnceLock<Vec<u8>> = OnceLock::new();
    static COMMAND: OnceLock<Vec<u8>> = OnceLock::new();
    static ROTATOR: OnceLock<Vec<u8>> = OnceLock::new();
    match guest {
        Guest::Agent => AGENT.get_or_init(|| read("claviger_guest_agent")),
        Guest::Http => HTTP.get_or_init(|| read("claviger_guest_http")),
        Guest::Symmetric => SYMMETRIC.get_or_init(|| read("claviger_guest_symmetric")),
        Guest::Evidence => EVIDENCE.get_or_init(|| read("claviger_guest_evidence")),
        Guest::Command => COMMAND.get_or_init(|| read("claviger-guest-command")),
        Guest::OpenbaoRotator => ROTATOR.get_or_init(|| read("openbao_rotator")),
    }
}

fn read(name: &str) -> Vec<u8> {
    match xtask::guests::component(&root(), name) {
        Ok(path) => std::fs::read(path).unwrap(),
        Err(stale) => panic!("{stale}"),
    }
}

/// Where compiled guests are kept between tests.
pub(crate) fn compiled() -> PathBuf {
    xtask::guests::folder(&root()).with_file_name("compiled-guests")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_owned()
}
