//! `setup`: what the build and the tests need beyond cargo. Installs from Debian and rustup only, and nothing that is there.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

use crate::step::timed;

/// What guests are compiled for.
pub const TARGET: &str = "wasm32-wasip2";

/// Debian packages, each with the reason for it.
const PACKAGES: [(&str, &str); 10] = [
    ("libtss2-dev", "the TPM software stack that claviger-tpm links"),
    ("pkg-config", "finds it"),
    ("swtpm", "a TPM in software, for development and tests"),
    ("tpm2-tools", "an independent reader of what we put into a TPM"),
    ("openssh-client", "ssh-keygen checks our signatures"),
    ("openssh-server", "sshd lets in whom our keys log in"),
    ("git", "checks the signatures of commits and tags"),
    ("openssl", "an independent verifier"),
    ("gdb", "dumps a process that holds keys, to search the dump"),
    ("strace", "makes the audit log's syncs fail"),
];

/// Components of the toolchain: the program in its `bin`, and the component's name.
const COMPONENTS: [(&str, &str); 2] = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

/// Installs what is missing. Takes a fraction of a second when nothing is.
///
/// # Errors
/// When something is missing and cannot be installed; the error is the command to type.
pub fn setup() -> anyhow::Result<()> {
    toolchain()?;
    packages()?;
    eprintln!("setup: everything is here");
    Ok(())
}

fn toolchain() -> anyhow::Result<()> {
    let mut wanted = Vec::new();
    let library = printed("rustc", &["--print", "target-libdir", "--target", TARGET]);
    if !library.is_some_and(|folder| Path::new(folder.trim()).is_dir()) {
        wanted.push(vec!["target", "add", TARGET]);
    }
    if let Some(sysroot) = printed("rustc", &["--print", "sysroot"]) {
        for (program, component) in COMPONENTS {
            if !Path::new(sysroot.trim()).join("bin").join(program).is_file() {
                wanted.push(vec!["component", "add", component]);
            }
        }
    }
    for arguments in wanted {
        install("rustup", &arguments)?;
    }
    Ok(())
}

fn packages() -> anyhow::Result<()> {
    // dpkg-query fails when it knows nothing of one of them, and still prints the others.
    let format = ["-W", "-f=${Package} ${db:Status-Status}\n"];
    let names = PACKAGES.iter().map(|(name, _)| *name);
    let Ok(out) = Command::new("dpkg-query")
        .args(format)
        .args(names)
        .stdin(Stdio::null())
        .output()
    else {
        eprintln!("setup: this is no Debian; the build needs what Debian calls:");
        for (name, reason) in PACKAGES {
            eprintln!("    {name:<16} {reason}");
        }
        return Ok(());
    };
    let missing = missing(&String::from_utf8_lossy(&out.stdout));
    if missing.is_empty() {
        return Ok(());
    }
    for (name, reason) in PACKAGES.iter().filter(|(name, _)| missing.contains(name)) {
        eprintln!("setup: {name} is missing: {reason}");
    }
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    install("apt-get", &["update"])
        .and_then(|()| install("apt-get", &arguments))
        .map_err(|error| {
            error.context(format!(
                "cannot install what is missing; as root, type:\n    apt-get update && apt-get {}\n",
                arguments.join(" ")
            ))
        })
}

/// Which of the packages this output of dpkg-query does not show as installed.
fn missing(status: &str) -> Vec<&'static str> {
    let installed = |name: &str| {
        status
            .lines()
            .any(|line| line.split_once(' ') == Some((name, "installed")))
    };
    PACKAGES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !installed(name))
        .collect()
}

/// Runs an installer: rustup as whoever we are, apt-get as root.
fn install(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut words = Vec::new();
    if program == "apt-get" && printed("id", &["-u"]).is_none_or(|id| id.trim() != "0") {
        if printed("sudo", &["-n", "true"]).is_none() {
            bail!("not root, and `sudo` wants a password");
        }
        // `-n` again: a password must never be waited for.
        words.extend(["sudo", "-n"]);
    }
    words.push(program);
    words.extend(arguments);
    let line = words.join(" ");
    let Some((first, rest)) = words.split_first() else {
        bail!("nothing to run")
    };
    timed("setup", &line, || {
        let status = Command::new(first)
            .args(rest)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .status()?;
        if !status.success() {
            bail!("{status}");
        }
        Ok(())
    })
}

/// What a program prints, if it can be started and succeeds.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let out = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count_as_here() {
        let status = "libtss2-dev installed\npkg-config installed\nswtpm config-files\ntpm2-tools installed\nopenssl installed\n";
        assert_eq!(
            missing(status),
            [
                "swtpm",
                "openssh-client",
                "openssh-server",
                "git",
                "gdb",
                "strace"
            ]
        );
        assert_eq!(missing("").len(), PACKAGES.len());
    }

    #[test]
    fn a_program_that_fails_prints_nothing() {
        assert!(printed("rustc", &["--version"]).unwrap().starts_with("rustc "));
        assert_eq!(printed("rustc", &["--no-such-flag"]), None);
        assert_eq!(printed("no-such-program-anywhere", &[]), None);
    }
}
