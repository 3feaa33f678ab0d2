//! `setup`, its part for Python: the verifiers and servers that tests ask, in an environment of their own under `target`. Python and
//! pip are whatever the machine has; nothing is installed outside of that folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::step::timed;

/// What is installed, relative to the root.
const REQUIREMENTS: &str = "tests/python/requirements.txt";
/// In the environment: the requirements that it was made from.
const STAMP: &str = "requirements.txt";

/// The interpreter that has everything that tests ask for.
#[must_use]
pub fn interpreter(root: &Path) -> PathBuf {
    folder(root).join("bin/python")
}

/// Whether the environment is there and is what the requirements say. The error is what to type.
///
/// # Errors
/// When it is not.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let wanted = std::fs::read(root.join(REQUIREMENTS)).with_context(|| REQUIREMENTS.to_owned())?;
    match std::fs::read(folder(root).join(STAMP)) {
        Ok(made) if made == wanted => Ok(()),
        Ok(_) | Err(_) => bail!("the Python packages of the tests are not here; run `cargo xtask setup`"),
    }
}

/// Makes the environment, unless it is there.
///
/// # Errors
/// When it cannot be made; the error is the command to type.
pub fn setup(root: &Path) -> anyhow::Result<()> {
    if check(root).is_ok() {
        return Ok(());
    }
    let environment = folder(root);
    let python = interpreter(root);
    let make = ["-m", "venv", "--clear", text(&environment)?];
    let install = [
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--quiet",
        "--no-deps",
        "-r",
        REQUIREMENTS,
    ];
    let line = format!(
        "python3 {} && {} {}",
        make.join(" "),
        python.display(),
        install.join(" ")
    );
    run(root, Path::new("python3"), &make)
        .and_then(|()| run(root, &python, &install))
        .and_then(|()| {
            // Last: an environment with a stamp is whole.
            std::fs::copy(root.join(REQUIREMENTS), environment.join(STAMP))
                .map(drop)
                .context("the stamp cannot be written")
        })
        .map_err(|error| {
            error.context(format!(
                "cannot install the Python packages of the tests; with python3-venv installed, type:\n    {line}\n"
            ))
        })
}

fn folder(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root.join(target).join("python")
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the target folder's path is not UTF-8")
}

fn run(root: &Path, program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let line = format!("{} {}", program.display(), arguments.join(" "));
    timed("setup", &line, || {
        let status = Command::new(program)
            .args(arguments)
            .current_dir(root)
            .stdin(Stdio::null())
            .status()?;
        if !status.success() {
            bail!("{status}");
        }
        Ok(())
    })
}
