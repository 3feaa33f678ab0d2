//! A manifest's file and the component beside it, read with bounds. Does not interpret them: `claviger_core::manifest` does.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use claviger::MAX_COMPONENT;
use claviger_core::Manifest;
use claviger_core::manifest::{MAX_MANIFEST, Problem};

use crate::diagnose;
use crate::exit::Failure;
use crate::file::{read_bounded, read_with_metadata};
use crate::output::Output;

/// A manifest's text and where it stands.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// Who else may write to it.
    pub(crate) writers: Writers,
}

/// Who may write to a manifest, and so decide what its agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Its owner, and a group that is the owner's own.
    Owner,
    /// A group as well.
    Group,
    /// Every user of this machine.
    Everybody,
}

impl ManifestFile {
    /// Reads the file, to show or judge it.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let name = format!("the manifest `{}`", path.display());
        let (bytes, meta) = read_with_metadata(path, MAX_MANIFEST as u64, &name)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::failed(format!("{name} is not UTF-8: byte {at} fits no character"))
        })?;
        Ok(Self {
            path: path.to_owned(),
            text,
            writers: Writers::of(meta.mode(), meta.uid(), meta.gid()),
        })
    }

    /// Reads the file, to act on it: not if others may write to it, for then it need not be the operator's word.
    pub(crate) fn read_to_obey(path: &Path) -> Result<Self, Failure> {
        let file = Self::read(path)?;
        match file.writers.problem() {
            None => Ok(file),
            Some(problem) => Err(
                Failure::failed(format!("the manifest `{}` {problem}", path.display())).help(file.closing()),
            ),
        }
    }

    /// What to type so that nobody else may write to it.
    pub(crate) fn closing(&self) -> String {
        format!("read it once more, then run `chmod go-w {}`", self.path.display())
    }

    /// The manifest with its warnings; every problem is drawn on stderr if it is not one.
    pub(crate) fn parse(&self, out: &Output) -> Result<(Manifest, Vec<Problem>), Failure> {
        Manifest::parse(&self.text).map_err(|problems| self.refuse(out, &problems))
    }

    /// Draws problems on stderr.
    pub(crate) fn draw(&self, out: &Output, problems: &[Problem]) {
        if out.is_json() {
            for problem in problems {
                out.err_line(
                    &serde_json::json!({ "problem": diagnose::to_json(&self.text, problem) }).to_string(),
                );
            }
        } else if !problems.is_empty() {
            let name = self.path.display().to_string();
            out.err_line(&diagnose::draw(
                &name,
                &self.text,
                problems,
                out.colours_messages(),
            ));
        }
    }

    /// Draws problems and says that the manifest is not used.
    pub(crate) fn refuse(&self, out: &Output, problems: &[Problem]) -> Failure {
        self.draw(out, problems);
        let errors = count_errors(problems);
        Failure::failed(format!(
            "the manifest `{}` has {errors} {}",
            self.path.display(),
            if errors == 1 { "error" } else { "errors" }
        ))
    }

    /// The manifest's folder: what its relative paths start from.
    pub(crate) fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        }
    }

    /// Where the component is.
    pub(crate) fn component_path(&self, manifest: &Manifest) -> PathBuf {
        self.folder().join(&manifest.agent.component)
    }

    /// The component's bytes.
    pub(crate) fn component(&self, manifest: &Manifest) -> Result<Vec<u8>, Failure> {
        let path = self.component_path(manifest);
        read_bounded(
            &path,
            MAX_COMPONENT as u64,
            &format!("the component `{}`", path.display()),
        )
        .map_err(|failure| failure.help("build it, or correct `component` in the manifest's `[agent]`"))
    }
}

impl Writers {
    /// By the file's mode. Where every user has a group of their own (Debian, Fedora and others, with umask 002), that group has the
    /// user's number, and new files are writable by it: that is still the owner alone.
    const fn of(mode: u32, user: u32, group: u32) -> Self {
        if mode & 0o002 != 0 {
            Self::Everybody
        } else if mode & 0o020 != 0 && group != user {
            Self::Group
        } else {
            Self::Owner
        }
    }

    /// What is wrong with it, if something is.
    pub(crate) const fn problem(self) -> Option<&'static str> {
        match self {
            Self::Owner => None,
            Self::Group => {
                Some("may be written to by its group; who writes it decides what the agent may do")
            }
            Self::Everybody => {
                Some("may be written to by every user; who writes it decides what the agent may do")
            }
        }
    }
}

/// How many of the problems are errors.
pub(crate) fn count_errors(problems: &[Problem]) -> usize {
    let is_error = |problem: &&Problem| problem.severity == claviger_core::manifest::Severity::Error;
    problems.iter().filter(is_error).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_others_unless_it_has_its_users_number() {
        for (mode, user, group, writers) in [
            (0o100_644, 1000, 1000, Writers::Owner),
            (0o100_664, 1000, 1000, Writers::Owner),
            (0o100_664, 1000, 100, Writers::Group),
            (0o100_640, 1000, 100, Writers::Owner),
            (0o100_666, 1000, 1000, Writers::Everybody),
            (0o100_602, 0, 0, Writers::Everybody),
        ] {
            assert_eq!(Writers::of(mode, user, group), writers, "{mode:o} {user} {group}");
        }
    }
}
