//! `test`: every check and every test, in the order in which a failure is cheapest to learn of. Nothing runs only here: each step
//! prints the line that repeats it.

use std::path::Path;
use std::time::Instant;

use crate::metadata;
use crate::step::{Step, timed};
use crate::{guests, python, setup, tidy};

/// Runs everything, and stops at the first failure.
///
/// All host code is built in the `dev` profile with the features of the whole workspace: the engine is checked once (for clippy and
/// the documentation) and built once (for the tests).
///
/// # Errors
/// The step that failed, with the line to repeat it.
pub fn test(root: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    timed("setup", "cargo xtask setup", || {
        setup::setup()?;
        python::setup(root)
    })?;
    let all = metadata::workspace(root)?;
    let guests: Vec<&str> = all
        .packages
        .iter()
        .filter(|package| package.guest)
        .map(|package| package.name.as_str())
        .collect();
    // Guests are checked and built for what they run on, and never for the host.
    let excluded: Vec<&str> = guests.iter().flat_map(|name| ["--exclude", *name]).collect();
    let chosen: Vec<&str> = guests.iter().flat_map(|name| ["-p", *name]).collect();
    let host = |words: &[&'static str], rest: &[&'static str]| [words, &excluded, rest].concat();

    Step::cargo("format", root, ["fmt", "--all", "--check"]).run()?;
    timed("tidy", "cargo xtask tidy", || tidy::tidy(root))?;
    let clippy = host(
        &["clippy", "--workspace", "--all-targets"],
        &["--", "-D", "warnings"],
    );
    Step::cargo("clippy", root, clippy).run()?;
    if !guests.is_empty() {
        let words = ["clippy", "--profile", "guest", "--target", setup::TARGET];
        let clippy = [&words[..], &chosen, &["--", "-D", "warnings"]].concat();
        Step::cargo("clippy of guests", root, clippy).run()?;
    }
    timed("guests", "cargo xtask guests", || guests::build(root))?;
    // Binaries by themselves: `cargo test` builds those of a package only for that package's own tests.
    Step::cargo(
        "build",
        root,
        host(&["build", "--workspace", "--bins", "--tests"], &[]),
    )
    .run()?;
    Step::cargo("tests", root, host(&["test", "--workspace"], &[])).run()?;
    // Libraries only: the command and the library `claviger` would write to one place.
    let documentation = host(&["doc", "--workspace", "--no-deps", "--lib"], &[]);
    Step::cargo("documentation", root, documentation)
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;
    eprintln!(
        "test: everything passed in {:.0} s",
        start.elapsed().as_secs_f32()
    );
    Ok(())
}
