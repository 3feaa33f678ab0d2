//! A manifest's file and the component beside it, read with bounds. Does not interpret them: `claviger_core::manifest` does.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use claviger_core::Manifest;
use claviger_core::manifest::{MAX_MANIFEST, Problem};

use crate::diagnose;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// A component has at most this many bytes: the runtime's own bound.
const MAX_COMPONENT: u64 = 64 * 1024 * 1024;

/// A manifest's text and where it stands.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl ManifestFile {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let name = format!("the manifest `{}`", path.display());
        let bytes = read_bounded(path, MAX_MANIFEST as u64, &name)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::failed(format!("{name} is not UTF-8: byte {at} fits no character"))
        })?;
        Ok(Self {
            path: path.to_owned(),
            text,
        })
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
            MAX_COMPONENT,
            &format!("the component `{}`", path.display()),
        )
        .map_err(|failure| failure.help("build it, or correct `component` in the manifest's `[agent]`"))
    }
}

/// How many of the problems are errors.
pub(crate) fn count_errors(problems: &[Problem]) -> usize {
    let is_error = |problem: &&Problem| problem.severity == claviger_core::manifest::Severity::Error;
    problems.iter().filter(is_error).count()
}

/// Reads a file of at most `max` bytes; a larger one is not read to its end.
pub(crate) fn read_bounded(path: &Path, max: u64, name: &str) -> Result<Vec<u8>, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::Failed, format!("{name} cannot be read")).because(Some(&error))
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > max {
        return Err(Failure::failed(format!("{name} has over {max} bytes")));
    }
    Ok(bytes)
}
