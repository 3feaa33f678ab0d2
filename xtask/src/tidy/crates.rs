//! Which crate may know which: ours by their folders, others' by what `cargo tree` resolves. A new arrow is a design change: it is
//! drawn here and in docs/architecture.md in one commit.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::Finding;
use crate::metadata::Package;
use crate::step::cargo;

/// Our crates by folder, and which of ours each may depend on, in code, build scripts and tests.
const ARROWS: [(&str, &[&str]); 7] = [
    ("host/core", &[]),
    ("host/broker", &["host/core"]),
    ("host/tpm", &["host/core"]),
    ("host/egress", &["host/core"]),
    ("host/runtime", &["host/core"]),
    (
        "host/cli",
        &[
            "host/core",
            "host/broker",
            "host/tpm",
            "host/egress",
            "host/runtime",
        ],
    ),
    ("guest-sdk", &[]),
];

/// Where crates may depend on any of ours: they are not shipped. Guests in there are agents, and know the SDK alone.
const FREE: [&str; 4] = ["tests", "xtask", "examples", "fuzz"];

/// What an agent may depend on.
const SDK: &str = "guest-sdk";

/// Crates of others that must not be in the closure of ours: `-` stands for everything that begins so.
const STRANGERS: [(&str, &[&str]); 5] = [
    (
        "claviger-core",
        &[
            "tokio",
            "wasmtime",
            "tss-esapi",
            "rustls",
            "rusqlite",
            "hyper",
            "reqwest",
        ],
    ),
    (
        "claviger-broker",
        &[
            "wasmtime",
            "tss-esapi",
            "hyper",
            "reqwest",
            "rustls",
            "openssl",
            "h2",
        ],
    ),
    (
        "claviger-tpm",
        &["wasmtime", "rusqlite", "hyper", "reqwest", "rustls"],
    ),
    (
        "claviger-egress",
        &[
            "wasmtime",
            "tss-esapi",
            "rusqlite",
            // Clients that follow redirects or read proxies from the environment, and stores that it may add to.
            "reqwest",
            "rustls-native-certs",
            "openssl",
        ],
    ),
    // hyper is there, unused: wasmtime-wasi-http has it. What dials is not.
    (
        "claviger",
        &["tss-esapi", "rusqlite", "rustls", "hyper-util", "reqwest"],
    ),
];

/// What is linked into a crate, and what also builds it: build scripts and macros run on the machine that compiles.
const LINKED: &str = "normal,no-proc-macro";
const LINKED_AND_BUILDING: &str = "normal,build";

/// The broker holds the keys: what is linked into it must stay small enough to read. `age` is the last that came, with 63 others: more
/// than a third of all, most for its translations, which cannot be left out. It took the place of a format that was written here
/// (docs/adr/0013-backup-format.md).
const BROKER: (&str, usize) = ("claviger-broker", 190);

/// Every dependency between our crates that is not an arrow.
pub(super) fn arrows(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let free = FREE.iter().any(|folder| within(&package.folder, folder));
        let allowed = match ARROWS.iter().find(|(folder, _)| *folder == package.folder) {
            _ if package.guest => &[SDK][..],
            Some((_, allowed)) => allowed,
            None if free => continue,
            None => {
                findings.push(finding(
                    package,
                    "is a crate that xtask/src/tidy/crates.rs does not know; draw its arrows there",
                ));
                continue;
            }
        };
        for dependency in &package.dependencies {
            let Some(path) = &dependency.path else { continue };
            if allowed.iter().any(|folder| path.ends_with(folder)) {
                continue;
            }
            let list = if allowed.is_empty() {
                "none of ours".to_owned()
            } else {
                allowed.join(", ")
            };
            let what = format!("may depend on {list}, not on `{}`", dependency.name);
            findings.push(finding(package, &what));
        }
    }
    findings
}

fn finding(package: &Package, what: &str) -> Finding {
    Finding::new(
        &format!("{}/Cargo.toml", package.folder),
        0,
        format!("`{}` {what}", package.name),
    )
}

fn within(folder: &str, parent: &str) -> bool {
    folder
        .strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Every crate of others that came too close, transitively, and a broker that has grown too large.
pub(super) fn strangers(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (package, forbidden) in STRANGERS {
        let closure = closure(root, package, LINKED_AND_BUILDING)?;
        findings.extend(forbidden_in(package, &closure, forbidden));
    }
    let linked = closure(root, BROKER.0, LINKED)?;
    eprintln!(
        "tidy: {} crates are linked into the broker, at most {}",
        linked.len(),
        BROKER.1
    );
    findings.extend(too_many(BROKER.0, &linked));
    Ok(findings)
}

fn forbidden_in(package: &str, closure: &BTreeSet<String>, forbidden: &[&str]) -> Vec<Finding> {
    let hit = |name: &&String| {
        forbidden
            .iter()
            .any(|bad| name == bad || name.starts_with(&format!("{bad}-")))
    };
    let what = |name| {
        format!("must not depend on `{name}`; `cargo tree -p {package} -i {name}` shows the way to it")
    };
    closure
        .iter()
        .filter(hit)
        .map(|name| Finding::new(package, 0, what(name)))
        .collect()
}

fn too_many(package: &str, closure: &BTreeSet<String>) -> Option<Finding> {
    (closure.len() > BROKER.1).then(|| {
        Finding::new(
            package,
            0,
            format!("is linked with {} crates, at most {}", closure.len(), BROKER.1),
        )
    })
}

/// The names of everything that a crate reaches by these kinds of edges, without itself.
fn closure(root: &Path, package: &str, edges: &str) -> anyhow::Result<BTreeSet<String>> {
    let out = Command::new(cargo())
        .args([
            "tree", "-p", package, "-e", edges, "--prefix", "none", "--format", "{p}",
        ])
        .current_dir(root)
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo")?;
    if !out.status.success() {
        bail!(
            "`cargo tree -p {package}` failed: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(names(&String::from_utf8_lossy(&out.stdout), package))
}

/// The crates that cargo printed one a line as `name v1.2.3`: each version counts, as each is code to read.
fn names(tree: &str, package: &str) -> BTreeSet<String> {
    let mut counted: BTreeSet<(String, String)> = BTreeSet::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            counted.insert((name.to_owned(), version.to_owned()));
        }
    }
    let mut names = BTreeSet::new();
    for (name, version) in counted.into_iter().filter(|(name, _)| name != package) {
        if !names.insert(name.clone()) {
            names.insert(format!("{name}@{version}"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn package(folder: &str, guest: bool, dependencies: &[&str]) -> Package {
        Package {
            name: folder.replace('/', "-"),
            folder: folder.to_owned(),
            guest,
            dependencies: dependencies
                .iter()
                .map(|path| Dependency {
                    name: (*path).to_owned(),
                    path: path.contains('/').then(|| format!("/r/{path}").into()),
                })
                .collect(),
            artifacts: Vec::new(),
        }
    }

    #[test]
    fn the_arrows_of_the_design_pass() {
        let packages = [
            package("host/core", false, &["serde"]),
            package("host/cli", false, &["host/broker", "host/runtime", "host/core"]),
            package("tests", false, &["host/tpm", "host/runtime"]),
            package("examples/embedder", false, &["host/runtime"]),
        ];
        assert_eq!(arrows(&packages), []);
    }

    #[test]
    fn any_other_arrow_is_caught() {
        for (folder, dependency) in [
            ("host/core", "host/broker"),
            ("host/broker", "host/tpm"),
            ("host/runtime", "host/broker"),
            ("guest-sdk", "host/core"),
            ("host/tpm", "host/egress"),
        ] {
            let found = arrows(&[package(folder, false, &[dependency])]);
            assert_eq!(found.len(), 1, "{folder} → {dependency}");
        }
    }

    #[test]
    fn an_agent_that_depends_on_the_host_is_caught() {
        assert_eq!(arrows(&[package("examples/bot", true, &["host/core"])]).len(), 1);
        let sdk = Dependency {
            name: "claviger-sdk".into(),
            path: Some("/r/guest-sdk".into()),
        };
        let mut good = package("examples/bot", true, &[]);
        good.dependencies.push(sdk);
        assert_eq!(arrows(&[good]), []);
    }

    #[test]
    fn a_crate_that_nobody_drew_is_caught() {
        assert_eq!(arrows(&[package("host/vault", false, &[])]).len(), 1);
        assert_eq!(
            arrows(&[package("testsuite", false, &[])]).len(),
            1,
            "`testsuite` is not below `tests`"
        );
    }

    #[test]
    fn a_stranger_is_caught_with_its_relatives_and_not_its_namesakes() {
        let tree = "claviger-broker v0.1.0 (/r)\nserde v1.0.2\nserde v1.0.2 (*)\nwasmtime-environ v48.0.8\nrustls v0.23.1\nwasmtimer v1.0.0\n";
        let closure = names(tree, "claviger-broker");
        let found: Vec<_> = forbidden_in("claviger-broker", &closure, &["wasmtime", "rustls"]);
        assert_eq!(closure.len(), 4);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn two_versions_of_a_crate_count_twice_and_too_many_are_caught() {
        assert_eq!(names("a v1\na v2\nb v1 (*)\n", "x").len(), 3);
        let many = (0..=BROKER.1)
            .map(|count| format!("crate{count} v1\n"))
            .collect::<String>();
        assert!(too_many("x", &names(&many, "x")).is_some());
        assert!(too_many("x", &names("a v1\n", "x")).is_none());
    }

    #[test]
    fn cargo_tree_is_read() {
        let root = crate::metadata::root().unwrap();
        let closure = closure(&root, "xtask", LINKED).unwrap();
        assert!(closure.contains("anyhow"), "{closure:?}");
        assert!(!closure.contains("xtask"));
    }
}
