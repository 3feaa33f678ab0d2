//! One command of a task: shown before it runs, timed, and with the line to repeat it when it fails. Not a shell: arguments are
//! passed as they are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

/// The cargo that runs us, so that a step uses the same toolchain.
#[must_use]
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A command to run from the root of the workspace.
#[derive(Debug, Clone)]
pub struct Step {
    title: String,
    program: OsString,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    folder: PathBuf,
}

impl Step {
    /// A step that calls cargo in this folder.
    pub fn cargo<'a>(title: &str, folder: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            title: title.to_owned(),
            program: cargo(),
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            environment: Vec::new(),
            folder: folder.to_owned(),
        }
    }

    /// The same with an environment variable.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// What to type to repeat it.
    #[must_use]
    pub fn line(&self) -> String {
        let variables = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={}", quoted(value)));
        let words = self.arguments.iter().map(|word| quoted(word));
        variables
            .chain(["cargo".to_owned()])
            .chain(words)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs it with its output shown and nothing on its standard input.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error says how to repeat it.
    pub fn run(&self) -> anyhow::Result<()> {
        timed(&self.title, &self.line(), || {
            let status = Command::new(&self.program)
                .args(&self.arguments)
                .envs(self.environment.iter().map(|(name, value)| (name, value)))
                .current_dir(&self.folder)
                .stdin(Stdio::null())
                .status()
                .with_context(|| format!("cannot start {}", self.program.display()))?;
            if !status.success() {
                bail!("{status}");
            }
            Ok(())
        })
    }
}

/// Runs one step of a task: prints its title and the line that repeats it, then how long it took.
///
/// # Errors
/// What the work fails with, and how to repeat it.
pub fn timed(title: &str, line: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    eprintln!("── {title}: {line}");
    let start = Instant::now();
    let done = work();
    let seconds = start.elapsed().as_secs_f32();
    match done {
        Ok(()) => {
            eprintln!("── {title}: done in {seconds:.1} s");
            Ok(())
        }
        Err(error) => Err(error.context(format!(
            "`{title}` failed after {seconds:.1} s; repeat it with:\n    {line}\n"
        ))),
    }
}

/// A word as a POSIX shell needs it.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_says_what_to_type() {
        let step = Step::cargo("nothing", Path::new("."), ["no-such-command", "a b"])
            .env("RUSTDOCFLAGS", "-D warnings");
        let error = format!("{:#}", step.run().unwrap_err());
        assert!(
            error.contains("RUSTDOCFLAGS='-D warnings' cargo no-such-command 'a b'"),
            "{error}"
        );
        assert!(error.contains("`nothing` failed"), "{error}");
    }

    #[test]
    fn a_step_that_works_is_not_an_error() {
        Step::cargo("version", Path::new("."), ["--version"])
            .run()
            .unwrap();
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("--all-targets"), "--all-targets");
        assert_eq!(quoted("10 min"), "'10 min'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
