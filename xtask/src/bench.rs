//! `bench`: the performance budgets as ratios, each of two things measured in the same run. Judges nothing on its own: a busy
//! machine moves absolute times, and so only ratios are shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::step::{Step, timed};
use crate::{guests, metadata};

/// What a budget allows.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// Ours takes at most so many times as long.
    AtMost(f64),
    /// Ours is at least so many times as fast.
    AtLeast(f64),
    /// Ours takes at most so long by itself.
    Within(Duration),
    /// None: the ratio says where the time of another row goes.
    Shown,
}

/// One row of the table: two criterion benchmarks by `group/function`.
#[derive(Debug)]
struct Row {
    work: &'static str,
    against: &'static str,
    ours: &'static str,
    theirs: &'static str,
    goal: Goal,
}

/// The budgets of the design that can be measured here. The rows against other products need those products.
const ROWS: &[Row] = &[
    Row {
        work: "sign 32 B, Ed25519, durability `process`",
        against: "bare ed25519-dalek",
        ours: "sign/process",
        theirs: "sign/bare-ed25519",
        goal: Goal::AtMost(1.25),
    },
    Row {
        work: "the same without the agent",
        against: "bare ed25519-dalek",
        ours: "sign/broker-alone",
        theirs: "sign/bare-ed25519",
        goal: Goal::Shown,
    },
    Row {
        work: "sign with durability `sync`, 64 callers",
        against: "one fdatasync per use",
        ours: "sync-64/group-commit",
        theirs: "sync-64/fdatasync-per-use",
        goal: Goal::AtLeast(10.0),
    },
    Row {
        work: "resident P-256 from an agent, key loaded, password session",
        against: "bare tss-esapi `sign`",
        ours: "resident-password/agent",
        theirs: "resident-password/bare-tss-esapi",
        goal: Goal::AtMost(1.15),
    },
    Row {
        work: "of it, verifying the signature",
        against: "the whole",
        ours: "resident/verify",
        theirs: "resident-password/agent",
        goal: Goal::Shown,
    },
    Row {
        work: "resident P-256 from an agent, key loaded, salted and encrypted session",
        against: "bare tss-esapi `sign`",
        ours: "resident-encrypted/agent",
        theirs: "resident-encrypted/bare-tss-esapi",
        goal: Goal::AtMost(1.15),
    },
    Row {
        work: "instantiate, run and drop an agent",
        against: "bare wasmtime, pooling",
        ours: "instance/claviger",
        theirs: "instance/bare-wasmtime",
        goal: Goal::AtMost(1.3),
    },
    Row {
        work: "the same without the log",
        against: "bare wasmtime, pooling",
        ours: "instance/claviger-without-log",
        theirs: "instance/bare-wasmtime",
        goal: Goal::Shown,
    },
    Row {
        work: "policy decision, 200 grants to sign",
        against: "nothing",
        ours: "guard/decide-200",
        theirs: "",
        goal: Goal::Within(Duration::from_micros(2)),
    },
    Row {
        work: "policy decision on a request, 200 grants of 50 paths",
        against: "nothing",
        ours: "guard/decide-200x50",
        theirs: "",
        goal: Goal::Within(Duration::from_micros(2)),
    },
    Row {
        work: "credentialed HTTPS GET, keep-alive, durability `process`",
        against: "hyper and rustls directly",
        ours: "request/claviger",
        theirs: "request/hyper-rustls",
        goal: Goal::AtMost(1.2),
    },
    Row {
        work: "one request of an agent",
        against: "hyper and rustls directly",
        ours: "request/agents-1",
        theirs: "request/hyper-rustls",
        goal: Goal::Shown,
    },
    Row {
        work: "one request of 64 agents at once",
        against: "one request of an agent",
        ours: "request/agents-64",
        theirs: "request/agents-1",
        goal: Goal::Shown,
    },
    Row {
        work: "looking through 1 MiB for one secret",
        against: "copying it",
        ours: "scrub/one-secret",
        theirs: "scrub/copy",
        goal: Goal::Shown,
    },
    Row {
        work: "looking through 1 MiB for eight secrets",
        against: "copying it",
        ours: "scrub/eight-secrets",
        theirs: "scrub/copy",
        goal: Goal::Shown,
    },
    Row {
        work: "cold `claviger run` of a cached agent, keyring in a software TPM",
        against: "process start of a bare runner",
        ours: "cold/swtpm-run",
        theirs: COLD_THEIRS,
        goal: Goal::AtMost(1.2),
    },
    Row {
        work: "of it, opening and closing the keyring",
        against: "the whole",
        ours: "cold/swtpm-keyring",
        theirs: "cold/swtpm-run",
        goal: Goal::Shown,
    },
    Row {
        work: "cold `claviger run` of a cached agent, keyring under a passphrase",
        against: "process start of a bare runner",
        ours: "cold/passphrase-run",
        theirs: COLD_THEIRS,
        goal: Goal::AtMost(1.2),
    },
    Row {
        work: "of it, opening and closing the keyring",
        against: "the whole",
        ours: "cold/passphrase-keyring",
        theirs: "cold/passphrase-run",
        goal: Goal::Shown,
    },
];

/// What this task measures itself, by starting processes, is stored in criterion's layout: for each root of a keyring a run, and a
/// command that opens and closes the keyring and does next to nothing.
const COLD_ROOTS: [&str; 2] = ["swtpm", "passphrase"];
const COLD_THEIRS: &str = "cold/bare-runner";

/// How often each process is started: enough that a median of a busy machine settles.
const STARTS: usize = 30;

/// The agent of that row: a guest that imports no credentials.
const COLD_AGENT: &str = "claviger-guest-command";

/// The runner to compare a cold start with: a program that runs one `wasi:cli/command` component, from its own cache after the first
/// time. It is started as `RUNNER COMPONENT`; by default the binary `bare-runner` of this workspace.
const RUNNER: &str = "CLAVIGER_BENCH_RUNNER";

/// Measures everything and prints the table.
///
/// # Errors
/// When a benchmark does not build or run.
pub fn bench(root: &Path) -> anyhow::Result<()> {
    guests::build(root)?;
    let all = metadata::workspace(root)?;
    let guests = all.packages.iter().filter(|package| package.guest);
    let excluded = guests.flat_map(|guest| ["--exclude", guest.name.as_str()]);
    let excluded: Vec<&str> = excluded.collect();
    // The command with the benchmarks: built by itself, its dependencies would have other features, and the engine be built twice.
    let built = ["build", "--release", "--workspace", "--bins", "--benches"];
    Step::cargo("build", root, built.into_iter().chain(excluded.iter().copied())).run()?;
    let words = ["bench", "--workspace", "--bench", "*"]
        .into_iter()
        .chain(excluded);
    Step::cargo("benchmarks", root, words).run()?;
    timed("cold start", "cargo xtask bench", || cold_start(root))?;
    print(root)
}

/// Prints the table from the last measurements.
///
/// # Errors
/// When cargo cannot say where it builds.
pub fn print(root: &Path) -> anyhow::Result<()> {
    let measured = metadata::workspace(root)?.target.join("criterion");
    print!("{}", table(|id| median(&measured, id)));
    Ok(())
}

/// The table as Markdown. `median` gives the nanoseconds of a benchmark, if it was measured.
fn table(median: impl Fn(&str) -> Option<f64>) -> String {
    let mut out = String::from("| work | against | goal | measured | |\n|---|---|---|---|---|\n");
    for row in ROWS {
        let ours = median(row.ours);
        let theirs = median(row.theirs);
        let (goal, measured) = match row.goal {
            Goal::AtMost(most) => (
                format!("≤ {most}×"),
                ours.zip(theirs).map(|(a, b)| (a / b, a / b <= most, "×")),
            ),
            Goal::AtLeast(least) => (
                format!("≥ {least}×"),
                ours.zip(theirs).map(|(a, b)| (b / a, b / a >= least, "×")),
            ),
            Goal::Within(most) => {
                let micros = most.as_secs_f64() * 1e6;
                (
                    format!("≤ {micros} µs"),
                    ours.map(|a| (a / 1e3, a / 1e3 <= micros, " µs")),
                )
            }
            Goal::Shown => (String::new(), ours.zip(theirs).map(|(a, b)| (a / b, true, "×"))),
        };
        let (measured, verdict) = match measured {
            Some((value, _, unit)) if matches!(row.goal, Goal::Shown) => {
                (format!("{value:.2}{unit}"), String::new())
            }
            Some((value, true, unit)) => (format!("{value:.2}{unit}"), "met".to_owned()),
            Some((value, false, unit)) => (format!("{value:.2}{unit}"), "**missed**".to_owned()),
            None => (
                "—".to_owned(),
                format!("no measurement of {}", absent(row, ours, theirs)),
            ),
        };
        out.push_str(&format!(
            "| {} | {} | {goal} | {measured} | {verdict} |\n",
            row.work, row.against
        ));
    }
    out
}

/// Which benchmarks of a row were not measured.
fn absent(row: &Row, ours: Option<f64>, theirs: Option<f64>) -> String {
    let missing = [(row.ours, ours), (row.theirs, theirs)];
    let names = missing
        .iter()
        .filter(|(id, value)| value.is_none() && !id.is_empty())
        .map(|(id, _)| format!("`{id}`"));
    names.collect::<Vec<_>>().join(" and ")
}

/// The median of a benchmark in nanoseconds, from criterion's files.
fn median(measured: &Path, id: &str) -> Option<f64> {
    let text = std::fs::read_to_string(estimates(measured, id)).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    value.pointer("/median/point_estimate")?.as_f64()
}

fn estimates(measured: &Path, id: &str) -> PathBuf {
    // A benchmark without a group has its name as one folder, in which criterion writes no slash.
    let grouped = measured.join(id).join("new/estimates.json");
    if grouped.exists() {
        return grouped;
    }
    measured.join(id.replace('/', "_")).join("new/estimates.json")
}

/// Starts `claviger run` and the bare runner in turn, and stores both medians where criterion would.
fn cold_start(root: &Path) -> anyhow::Result<()> {
    let target = metadata::workspace(root)?.target;
    let runner = std::env::var_os(RUNNER).map_or_else(|| target.join("release/bare-runner"), PathBuf::from);
    if !runner.is_file() {
        eprintln!(
            "bench: no {}; {RUNNER} may name another, the cold start is not measured",
            runner.display()
        );
        return Ok(());
    }
    let stage = std::env::temp_dir().join(format!("claviger-bench-{}", std::process::id()));
    std::fs::create_dir(&stage)?;
    let done = measure(root, &target.join("release/claviger"), &runner, &stage);
    std::fs::remove_dir_all(&stage)?;
    for (id, mut times) in done? {
        let median = middle(&mut times)?;
        let file = estimates(&target.join("criterion"), &id);
        std::fs::create_dir_all(file.parent().context("a file has a folder")?)?;
        let value = serde_json::json!({ "median": { "point_estimate": median.as_secs_f64() * 1e9 } });
        std::fs::write(file, value.to_string())?;
    }
    Ok(())
}

/// How long each start took, by what is stored. All are started in turn so that a busy moment hits them alike. The agent is granted
/// nothing: what is compared is the start, not the keys.
fn measure(
    root: &Path,
    claviger: &Path,
    runner: &Path,
    stage: &Path,
) -> anyhow::Result<BTreeMap<String, Vec<Duration>>> {
    std::fs::copy(guests::component(root, COLD_AGENT)?, stage.join("agent.wasm"))?;
    let manifest = "schema = 1\n[agent]\nname = \"cold\"\ncomponent = \"agent.wasm\"\n";
    std::fs::write(stage.join("manifest.toml"), manifest)?;
    std::fs::write(stage.join("passphrase"), "correct horse battery staple\n")?;
    let claviger = |keyring: &str, words: &[&str]| {
        let mut command = Command::new(claviger);
        command
            .args(["--keyring", keyring])
            .args(words)
            .current_dir(stage);
        if keyring == "passphrase-keyring" {
            command.args(["--passphrase-file", "passphrase"]);
        }
        command
    };
    let mut commands = Vec::new();
    for root in COLD_ROOTS {
        let keyring = format!("{root}-keyring");
        start(&mut claviger(&keyring, &["init", "--custody", root]))?;
        if commands.is_empty() {
            start(&mut claviger(&keyring, &["pin", "manifest.toml"]))?;
        }
        let run = claviger(&keyring, &["run", "manifest.toml"]);
        let open = claviger(&keyring, &["audit", "checkpoint"]);
        commands.push((format!("cold/{root}-run"), run));
        commands.push((format!("cold/{root}-keyring"), open));
    }
    let mut bare = Command::new(runner);
    bare.arg("agent.wasm").current_dir(stage);
    commands.push((COLD_THEIRS.to_owned(), bare));
    let mut times = BTreeMap::<String, Vec<Duration>>::new();
    // The first start of each fills its cache and is not counted.
    for count in 0..=STARTS {
        for (id, command) in &mut commands {
            let took = start(command)?;
            if count > 0 {
                times.entry(id.clone()).or_default().push(took);
            }
        }
    }
    Ok(times)
}

/// How long a process takes from its start to its end.
fn start(command: &mut Command) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let out = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    let took = start.elapsed();
    if !out.status.success() {
        bail!(
            "{command:?}: {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(took)
}

fn middle(times: &mut [Duration]) -> anyhow::Result<Duration> {
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .copied()
        .context("nothing was measured")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_judged_by_their_goal() {
        let text = table(|id| match id {
            "sign/process" => Some(120.0),
            "sign/bare-ed25519" => Some(100.0),
            "sync-64/group-commit" => Some(50.0),
            "sync-64/fdatasync-per-use" => Some(100.0),
            "guard/decide-200" => Some(1500.0),
            _ => None,
        });
        let row = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .unwrap()
                .to_owned()
        };
        assert!(
            row("| sign 32 B").ends_with("| ≤ 1.25× | 1.20× | met |"),
            "{text}"
        );
        assert!(
            row("| sign with").ends_with("| ≥ 10× | 2.00× | **missed** |"),
            "{text}"
        );
        assert!(
            row("| policy decision, 200 grants to").ends_with("| ≤ 2 µs | 1.50 µs | met |"),
            "{text}"
        );
    }

    #[test]
    fn what_was_not_measured_is_named_and_never_met() {
        let text = table(|id| (id == "resident-password/bare-tss-esapi").then_some(1.0));
        assert!(!text.contains("met |"), "{text}");
        assert!(
            text.contains("no measurement of `resident-password/agent` |"),
            "{text}"
        );
        assert!(
            text.contains("no measurement of `sign/process` and `sign/bare-ed25519`"),
            "{text}"
        );
    }

    #[test]
    fn medians_are_read_as_criterion_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = estimates(folder.path(), "group/function");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(
            &file,
            r#"{"mean":{"point_estimate":1.0},"median":{"point_estimate":41.5}}"#,
        )
        .unwrap();
        assert_eq!(median(folder.path(), "group/function"), Some(41.5));
        std::fs::write(&file, "{}").unwrap();
        assert_eq!(median(folder.path(), "group/function"), None);
    }

    #[test]
    fn the_middle_is_not_moved_by_one_slow_start() {
        let mut times = [1, 900, 2].map(Duration::from_millis);
        assert_eq!(middle(&mut times).unwrap(), Duration::from_millis(2));
        assert!(middle(&mut []).is_err());
    }
}
