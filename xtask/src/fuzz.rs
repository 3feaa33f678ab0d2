//! `fuzz`: builds the targets of `fuzz/` with coverage counters and runs each for a while, two at once, from the inputs that are kept in
//! `tests/vectors/fuzz`. Not the targets: what must hold is in `fuzz/src`.
//!
//! The stable toolchain does: the counters are LLVM's, and libFuzzer reads them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::step::{Step, timed};

/// The target with a fault in it, which must be found: else no other verdict is worth anything.
const PLANTED: &str = "planted";
/// It is found in a fraction of a second.
const PLANTED_SECONDS: u64 = 30;
/// So many run at once: the build machine has two processors.
const AT_ONCE: usize = 2;

/// What the compiler is told: counters for every edge, and the operands of comparisons.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=16",
];

/// Builds the targets and runs each for so long, or only the one that is named.
///
/// # Errors
/// When a target does not build, or something does not hold: the error says which file has the input.
pub fn fuzz(root: &Path, seconds: u64, only: Option<&str>) -> anyhow::Result<()> {
    let mut targets = targets(root)?;
    if let Some(only) = only {
        targets.retain(|target| target == only);
        if targets.is_empty() {
            bail!("there is no fuzz target `{only}`: fuzz/targets has one file for each");
        }
    }
    let host = host()?;
    let folder = root.join("fuzz");
    Step::cargo("format of fuzz targets", &folder, ["fmt", "--check"]).run()?;
    // With a target named, build scripts and macros are compiled without the counters.
    let words = ["build", "--locked", "--release", "--bins", "--target", &host];
    Step::cargo("fuzz targets", &folder, words)
        .env("RUSTFLAGS", &FLAGS.join(" "))
        .env("CARGO_TARGET_DIR", "target")
        .run()?;
    let fuzzer = Fuzzer {
        root: root.to_owned(),
        binaries: folder.join("target").join(&host).join("release"),
    };
    timed("the planted fault", "cargo xtask fuzz", || {
        fuzzer.find_what_was_planted()
    })?;
    for some in targets.chunks(AT_ONCE) {
        let names = some.join(" and ");
        let line = format!("cargo xtask fuzz --seconds {seconds} TARGET");
        timed(&format!("fuzz {names}"), &line, || fuzzer.run(some, seconds))?;
    }
    Ok(())
}

/// Every target but the planted one: a file in `fuzz/targets` that nobody runs cannot be.
fn targets(root: &Path) -> anyhow::Result<Vec<String>> {
    let folder = root.join("fuzz/targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.extension().is_some_and(|extension| extension == "rs") && name != PLANTED {
            targets.push(name);
        }
    }
    targets.sort();
    Ok(targets)
}

/// What this machine is called.
fn host() -> anyhow::Result<String> {
    let out = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("`rustc -vV` names no host")
}

struct Fuzzer {
    root: PathBuf,
    binaries: PathBuf,
}

impl Fuzzer {
    /// One target, not yet started. What it says goes to a file.
    fn command(&self, target: &str, seconds: u64) -> anyhow::Result<(Command, PathBuf)> {
        let corpus = self.root.join("fuzz/corpus").join(target);
        let artifacts = self.root.join("fuzz/artifacts").join(target);
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let said = artifacts.join("log");
        let log = fs::File::create(&said).with_context(|| format!("cannot write {}", said.display()))?;
        let mut command = Command::new(self.binaries.join(target));
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            // One input that takes longer, or more memory, is a finding.
            .args([
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-print_final_stats=1",
                "-max_len=4096",
            ])
            .arg(corpus)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let kept = self.root.join("tests/vectors/fuzz").join(target);
        if kept.is_dir() {
            command.arg(kept);
        }
        Ok((command, said))
    }

    fn run(&self, targets: &[String], seconds: u64) -> anyhow::Result<()> {
        let mut running = Vec::new();
        for target in targets {
            let (mut command, said) = self.command(target, seconds)?;
            let started = command
                .spawn()
                .with_context(|| format!("cannot start the fuzz target `{target}`"));
            running.push((target, started, said));
        }
        // Each is waited for, also when another has failed: none is left behind.
        let mut failed = Vec::new();
        for (target, started, said) in running {
            let status = started.and_then(|mut child| Ok(child.wait()?));
            let log = fs::read_to_string(&said).unwrap_or_default();
            match (status, executed(&log)) {
                (Ok(status), Some(count)) if status.success() && count > 0 => {
                    println!("fuzz {target}: {count} inputs");
                }
                (Ok(_), _) => failed.push(format!(
                    "`{target}` found something. Move its input to tests/vectors/fuzz/{target} once it is understood:\n{}",
                    end_of(&log)
                )),
                (Err(error), _) => failed.push(format!("{error:#}")),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{}", failed.join("\n"))
    }

    fn find_what_was_planted(&self) -> anyhow::Result<()> {
        let corpus = self.root.join("fuzz/corpus").join(PLANTED);
        if corpus.is_dir() {
            // From nothing each time: what it found before says nothing of today's build.
            fs::remove_dir_all(&corpus).with_context(|| format!("cannot empty {}", corpus.display()))?;
        }
        let (mut command, said) = self.command(PLANTED, PLANTED_SECONDS)?;
        let status = command.status().context("cannot start the planted fault")?;
        let log = fs::read_to_string(&said).unwrap_or_default();
        if status.success() || !log.contains("planted") {
            bail!(
                "the planted fault was not found: the engine does not see into the code\n{}",
                end_of(&log)
            );
        }
        Ok(())
    }
}

/// How many inputs were run.
fn executed(log: &str) -> Option<u64> {
    log.lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .and_then(|count| count.trim().parse().ok())
}

/// The last lines: what was found, and where its input is.
fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines
        .get(lines.len().saturating_sub(25)..)
        .unwrap_or_default()
        .join("\n")
}

/// How long each target runs on the build machine.
pub const IN_TESTS: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_run_has_inputs_and_is_built() {
        let root = crate::metadata::root().unwrap();
        let targets = targets(&root).unwrap();
        assert!(targets.len() >= 4, "{targets:?}");
        assert!(!targets.contains(&PLANTED.to_owned()));
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
        for target in targets.iter().map(String::as_str).chain([PLANTED]) {
            assert!(
                manifest.contains(&format!("path = \"targets/{target}.rs\"")),
                "{target}"
            );
        }
        for target in targets {
            let kept = root.join("tests/vectors/fuzz").join(&target);
            assert!(fs::read_dir(kept).unwrap().count() > 0, "{target} has no inputs");
        }
    }

    #[test]
    fn what_the_engine_says_is_read() {
        let log = "#5 DONE\nstat::number_of_executed_units: 760956\nstat::peak_rss_mb: 40\n";
        assert_eq!(executed(log), Some(760_956));
        assert_eq!(executed("ERROR: libFuzzer: deadly signal"), None);
        assert_eq!(end_of(&"x\n".repeat(100)).lines().count(), 25);
    }
}
