//! `demo`: the story of a first agent, played with the real command in a temporary folder: each line is printed as a reader would
//! type it, then run, then judged. Not a test: `tests/` attacks what this only shows.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::step::Step;
use crate::{guests, metadata, setup};

mod story;

use story::{API, Line, RELEASE, Then};

/// Builds the command and the guests, then plays the story.
///
/// # Errors
/// When something cannot be built, or a line of the story does not do what it should.
pub fn demo(root: &Path, keep: bool) -> anyhow::Result<()> {
    setup::setup()?;
    guests::build(root)?;
    let build = [
        "build",
        "--package",
        "claviger-cli",
        "--bin",
        "claviger",
        "--package",
        "local-api",
        "--bin",
        "local-api",
    ];
    Step::cargo("command", root, build).run()?;
    let programs = metadata::workspace(root)?.target.join("debug");
    let stage = Stage::new(root, &programs, keep)?;
    let start = Instant::now();
    println!("\n== The first act: an agent signs a release with a key that it cannot read.");
    stage.play(&stage.folder, RELEASE)?;
    println!("\n== The second act: an agent uses an API with a token that it never sees.");
    let api = LocalApi::start(root, &stage, &programs)?;
    stage.play(&api.folder, API)?;
    println!("\nThe story took {:.1} s.", start.elapsed().as_secs_f32());
    if keep {
        println!("Its folder is {}.", stage.folder.display());
    }
    Ok(())
}

/// The folder the story is played in; gone with this value, unless it is kept.
struct Stage {
    folder: PathBuf,
    path: OsString,
    keep: bool,
}

impl Stage {
    fn new(root: &Path, programs: &Path, keep: bool) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("claviger-demo-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let old = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            [programs.to_owned()]
                .into_iter()
                .chain(std::env::split_paths(&old)),
        )?;
        let stage = Self { folder, path, keep };
        let at = |name: &str| stage.folder.join(name);
        std::fs::create_dir(at("dist"))?;
        std::fs::write(at("hello.txt"), "hello, world\n")?;
        std::fs::copy(
            root.join("examples/release-bot/manifest.toml"),
            at("manifest.toml"),
        )?;
        std::fs::copy(guests::component(root, "release_bot")?, at("release_bot.wasm"))?;
        Ok(stage)
    }

    /// Plays an act in this folder.
    fn play(&self, folder: &Path, act: &[Line]) -> anyhow::Result<()> {
        for (why, typed, then) in act {
            println!("\n# {why}\n$ {typed}");
            let out = self.run(folder, typed)?;
            let text = [
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr),
            ]
            .concat();
            print!("{text}");
            judge(typed, *then, out.status.code(), &text)?;
        }
        Ok(())
    }

    fn run(&self, folder: &Path, typed: &str) -> anyhow::Result<Output> {
        let keys = if folder == self.folder { "keys" } else { "../keys" };
        Command::new("sh")
            .args(["-c", typed])
            .env("PATH", &self.path)
            .env("CLAVIGER_KEYRING", keys)
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .context("cannot start `sh`")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.folder)
        {
            eprintln!("demo: {} stays behind: {error}", self.folder.display());
        }
    }
}

/// The API of the second act, in a folder of its own; ended with this value.
struct LocalApi {
    process: Child,
    folder: PathBuf,
}

impl LocalApi {
    fn start(root: &Path, stage: &Stage, programs: &Path) -> anyhow::Result<Self> {
        let folder = stage.folder.join("api");
        std::fs::create_dir(&folder)?;
        std::fs::copy(guests::component(root, "api-bot")?, folder.join("api-bot.wasm"))?;
        let process = Command::new(programs.join("local-api"))
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(folder.join("api-log"))?)
            .spawn()
            .context("cannot start `local-api`")?;
        let mut api = Self { process, folder };
        // It writes this file last.
        let origin = api.folder.join("api-origin");
        let start = Instant::now();
        while !origin.exists() {
            if let Some(ended) = api.process.try_wait()? {
                bail!("`local-api` ended at once: {ended}");
            }
            if start.elapsed() > API_STARTS {
                bail!("`local-api` did not start within {} s", API_STARTS.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(api)
    }
}

impl Drop for LocalApi {
    fn drop(&mut self) {
        // It may have ended by itself.
        if self.process.kill().is_ok() {
            drop(self.process.wait());
        }
    }
}

/// How long the API may take to make its certificates and listen.
const API_STARTS: Duration = Duration::from_secs(10);

/// Whether the line did what the story says.
fn judge(typed: &str, then: Then, code: Option<i32>, text: &str) -> anyhow::Result<()> {
    let code = code.context("it was killed by a signal")?;
    let wanted = if let Then::Exits(wanted) = then { wanted } else { 0 };
    if code != wanted {
        bail!("`{typed}` should have exited {wanted}, it exited {code}");
    }
    match then {
        Then::Says(what) if !text.contains(what) => bail!("`{typed}` should have printed `{what}`"),
        Then::Exits(_) => println!("(exit {code}: refused, as it should be)"),
        Then::Works | Then::Says(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_that_goes_wrong_stops() {
        let good = Then::Says("Good");
        assert!(judge("x", good, Some(0), "Good signature").is_ok());
        assert!(judge("x", good, Some(0), "Could not verify").is_err());
        assert!(judge("x", good, Some(1), "Good signature").is_err());
        assert!(judge("x", good, None, "Good signature").is_err());
        assert!(judge("x", Then::Works, Some(0), "").is_ok());
        assert!(judge("x", Then::Works, Some(1), "").is_err());
        assert!(judge("x", Then::Exits(3), Some(3), "").is_ok());
        assert!(
            judge("x", Then::Exits(3), Some(0), "").is_err(),
            "an agent that ran was not refused"
        );
        assert!(
            judge("x", Then::Exits(3), Some(1), "").is_err(),
            "a crash is not a refusal"
        );
    }

    #[test]
    fn the_story_shows_refusals_and_a_verification_by_others() {
        let story = || RELEASE.iter().chain(API);
        let shown = |part: &str| story().any(|(_, typed, _)| typed.contains(part));
        for part in [
            "claviger init",
            "claviger pin",
            "claviger run",
            "claviger secret add",
            "claviger explain",
            "ssh-keygen -Y verify",
            "claviger audit verify",
        ] {
            assert!(shown(part), "{part}");
        }
        assert!(story().any(|(_, _, then)| matches!(then, Then::Exits(3))));
    }
}
