//! `claviger __compile`: the child process in which untrusted components are compiled. It has no keyring and runs no guest code.

use std::io;
use std::process::ExitCode;

/// Processor time of the child, all compiler threads together: CPython takes 30 s on a slow machine.
const SECONDS: u64 = 240;

/// Limits this process for good, then compiles stdin to stdout.
pub(crate) fn run() -> ExitCode {
    claviger::compile_child(
        &mut io::stdin().lock(),
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
        SECONDS,
    )
}
