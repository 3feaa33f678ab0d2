//! The compiling child for tests: what the command's hidden subcommand does, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    claviger::compile_child(
        &mut std::io::stdin(),
        &mut std::io::stdout(),
        &mut std::io::stderr(),
        seconds,
    )
}
