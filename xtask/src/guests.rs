//! `guests`: builds the guest components into `target/guests`, with a stamp of what they were built from. Tests ask
//! [`component`] for a path and so never run a component that is older than its source. Not a build script: guests are built
//! once by this task, not by whoever depends on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::metadata::{self, Package};
use crate::setup::TARGET;
use crate::step::Step;

/// What every guest is built from, besides its own folder.
const SHARED: [&str; 4] = ["Cargo.lock", "Cargo.toml", "guest-sdk", "wit"];

/// The profile of guests in the root's Cargo.toml.
const PROFILE: &str = "guest";

/// Inside [`folder`].
const STAMP: &str = "stamp.sha256";

/// Why the guests on disk are not the guests of the source tree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stale {
    /// Never built, or the stamp cannot be read.
    NotBuilt,
    /// This file was changed, added or removed since; relative to the root, or a component in [`folder`].
    Changed(String),
    /// No guest of this name was built.
    NoSuchGuest(String),
}

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotBuilt => f.write_str("the guests are not built; run `cargo xtask guests`"),
            Self::Changed(path) => write!(
                f,
                "the guests are stale, `{path}` changed; run `cargo xtask guests`"
            ),
            Self::NoSuchGuest(name) => {
                write!(
                    f,
                    "no guest `{name}.wasm` was built; add it as a member with `[package.metadata.claviger] guest = true`, then run `cargo xtask guests`"
                )
            }
        }
    }
}

impl std::error::Error for Stale {}

/// Where the components are: `guests` in cargo's target folder.
#[must_use]
pub fn folder(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root.join(target).join("guests")
}

/// The path of a component that was built from the sources as they are. `name` is the file's name without `.wasm`: a
/// `cdylib`'s with underscores, a binary's as it is.
///
/// # Errors
/// When it was not built, or anything it is built from changed since.
pub fn component(root: &Path, name: &str) -> Result<PathBuf, Stale> {
    check_fresh(root)?;
    let path = folder(root).join(format!("{name}.wasm"));
    if path.is_file() {
        Ok(path)
    } else {
        Err(Stale::NoSuchGuest(name.to_owned()))
    }
}

/// Checks that all guests were built from the sources as they are, by content, not by time. Reads about a hundred small files.
///
/// # Errors
/// The first file that differs.
pub fn check_fresh(root: &Path) -> Result<(), Stale> {
    let folder = folder(root);
    let text = std::fs::read_to_string(folder.join(STAMP)).map_err(|_| Stale::NotBuilt)?;
    let before = Stamp::parse(&text).ok_or(Stale::NotBuilt)?;
    let components = before.components.keys().cloned();
    let now = Stamp::of(root, &folder, before.sources.clone(), components).map_err(|_| Stale::NotBuilt)?;
    match difference(&before.inputs, &now.inputs).or_else(|| difference(&before.components, &now.components))
    {
        Some(path) => Err(Stale::Changed(path)),
        None => Ok(()),
    }
}

/// Builds every guest of the workspace.
///
/// # Errors
/// When a guest does not compile.
pub fn build(root: &Path) -> anyhow::Result<()> {
    let workspace = metadata::workspace(root)?;
    let guests: Vec<&Package> = workspace
        .packages
        .iter()
        .filter(|package| package.guest)
        .collect();
    let folder = folder(root);
    let mut arguments = vec!["build", "--profile", PROFILE, "--target", TARGET];
    arguments.extend(guests.iter().flat_map(|guest| ["-p", guest.name.as_str()]));
    if guests.is_empty() {
        eprintln!("guests: the workspace has none");
    } else {
        Step::cargo("guests", root, arguments).run()?;
    }
    // What is no longer a guest must not be found; the stamp goes with it, so that a half-filled folder is not fresh.
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let built = workspace.target.join(TARGET).join(PROFILE);
    let mut components = Vec::new();
    for name in guests.iter().flat_map(|guest| &guest.artifacts) {
        let file = format!("{name}.wasm");
        let size = std::fs::copy(built.join(&file), folder.join(&file))
            .with_context(|| format!("cargo built no {file} in {}", built.display()))?;
        println!("{}  {} KiB", folder.join(&file).display(), size.div_ceil(1024));
        components.push(file);
    }
    let sources = SHARED.map(str::to_owned).into_iter();
    let sources = sources
        .chain(guests.iter().map(|guest| guest.folder.clone()))
        .collect();
    let stamp = Stamp::of(root, &folder, sources, components.into_iter())?;
    std::fs::write(folder.join(STAMP), stamp.print()).context("cannot write the stamp")?;
    Ok(())
}

/// What was built from what: SHA-256 in hexadecimal by path.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    // Files and folders to look for inputs in, relative to the root.
    sources: Vec<String>,
    inputs: BTreeMap<String, String>,
    components: BTreeMap<String, String>,
}

impl Stamp {
    /// The stamp of what is on disk now.
    fn of(
        root: &Path,
        folder: &Path,
        sources: Vec<String>,
        components: impl Iterator<Item = String>,
    ) -> std::io::Result<Self> {
        let mut inputs = BTreeMap::new();
        for source in &sources {
            digest_all(root, source, &mut inputs)?;
        }
        let components = components
            .filter_map(|file| Some((file.clone(), digest(&folder.join(file)).ok()?)))
            .collect();
        Ok(Self {
            sources,
            inputs,
            components,
        })
    }

    fn print(&self) -> String {
        let mut out = String::from(
            "# What the guests were built from, and what came of it. Written by `cargo xtask guests`.\n",
        );
        for source in &self.sources {
            out.push_str(&format!("source - {source}\n"));
        }
        for (kind, files) in [("input", &self.inputs), ("component", &self.components)] {
            for (path, digest) in files {
                out.push_str(&format!("{kind} {digest} {path}\n"));
            }
        }
        out
    }

    fn parse(text: &str) -> Option<Self> {
        let mut stamp = Self {
            sources: Vec::new(),
            inputs: BTreeMap::new(),
            components: BTreeMap::new(),
        };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.splitn(3, ' ');
            let (kind, digest, path) = (words.next()?, words.next()?.to_owned(), words.next()?.to_owned());
            match kind {
                "source" => stamp.sources.push(path),
                "input" => _ = stamp.inputs.insert(path, digest),
                "component" => _ = stamp.components.insert(path, digest),
                _ => return None,
            }
        }
        (!stamp.sources.is_empty()).then_some(stamp)
    }
}

/// The first path that is in only one of them, or differs.
fn difference(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Option<String> {
    let gone_or_other = before
        .iter()
        .find(|(path, digest)| now.get(*path) != Some(digest));
    let new = || now.iter().find(|(path, _)| !before.contains_key(*path));
    gone_or_other.or_else(new).map(|(path, _)| path.clone())
}

/// Adds the digests of all files at or below `path`. What is not there adds nothing, and so differs from what was.
fn digest_all(root: &Path, path: &str, into: &mut BTreeMap<String, String>) -> std::io::Result<()> {
    let full = root.join(path);
    if full.is_file() {
        into.insert(path.to_owned(), digest(&full)?);
    } else if full.is_dir() {
        for entry in std::fs::read_dir(&full)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "target" && !name.starts_with('.') {
                digest_all(root, &format!("{path}/{name}"), into)?;
            }
        }
    }
    Ok(())
}

fn digest(file: &Path) -> std::io::Result<String> {
    Ok(hex::encode(Sha256::digest(std::fs::read(file)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with one source folder and one component, and its stamp.
    fn tree() -> (tempfile::TempDir, Stamp) {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("bot/src")).unwrap();
        std::fs::create_dir_all(tree.path().join("out")).unwrap();
        std::fs::write(tree.path().join("bot/src/lib.rs"), "a").unwrap();
        std::fs::write(tree.path().join("out/bot.wasm"), "wasm").unwrap();
        let stamp = stamp(tree.path());
        (tree, stamp)
    }

    fn stamp(root: &Path) -> Stamp {
        let components = ["bot.wasm".to_owned()].into_iter();
        Stamp::of(root, &root.join("out"), vec!["bot".into()], components).unwrap()
    }

    fn changed(before: &Stamp, root: &Path) -> Option<String> {
        let now = stamp(root);
        difference(&before.inputs, &now.inputs).or_else(|| difference(&before.components, &now.components))
    }

    #[test]
    fn untouched_sources_are_fresh_and_the_stamp_survives_the_disk() {
        let (tree, before) = tree();
        assert_eq!(changed(&before, tree.path()), None);
        assert_eq!(Stamp::parse(&before.print()), Some(before));
    }

    #[test]
    fn a_changed_an_added_and_a_removed_source_are_noticed() {
        let (tree, before) = tree();
        let source = tree.path().join("bot/src/lib.rs");
        std::fs::write(&source, "b").unwrap();
        assert_eq!(changed(&before, tree.path()).as_deref(), Some("bot/src/lib.rs"));
        std::fs::write(&source, "a").unwrap();
        assert_eq!(changed(&before, tree.path()), None);
        std::fs::write(tree.path().join("bot/new.rs"), "").unwrap();
        assert_eq!(changed(&before, tree.path()).as_deref(), Some("bot/new.rs"));
        std::fs::remove_file(tree.path().join("bot/new.rs")).unwrap();
        std::fs::remove_file(&source).unwrap();
        assert_eq!(changed(&before, tree.path()).as_deref(), Some("bot/src/lib.rs"));
    }

    #[test]
    fn a_changed_or_lost_component_is_noticed() {
        let (tree, before) = tree();
        let component = tree.path().join("out/bot.wasm");
        std::fs::write(&component, "other").unwrap();
        assert_eq!(changed(&before, tree.path()).as_deref(), Some("bot.wasm"));
        std::fs::remove_file(&component).unwrap();
        assert_eq!(changed(&before, tree.path()).as_deref(), Some("bot.wasm"));
    }

    #[test]
    fn what_is_not_a_stamp_is_not_read_as_one() {
        for text in [
            "",
            "# only a comment\n",
            "input abc",
            "mystery - x\n",
            "source - a\nnonsense\n",
        ] {
            assert_eq!(Stamp::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn staleness_says_what_to_type() {
        for stale in [
            Stale::NotBuilt,
            Stale::Changed("wit/a.wit".into()),
            Stale::NoSuchGuest("x".into()),
        ] {
            assert!(stale.to_string().contains("cargo xtask guests"), "{stale}");
        }
    }
}
