//! `demo`: the story of a first agent, played with the real command in a temporary folder: each line is printed as a reader would
//! type it, then run, then judged. Not a test: `tests/` attacks what this only shows.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::step::Step;
use crate::{guests, metadata, setup};

/// What a line of the story must do for the story to go on.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Exit 0.
    Works,
    /// Exit 0 and print this.
    Says(&'static str),
    /// Exit with this code: the refusal is the point.
    Exits(i32),
}

/// The whole story: why, what the reader types into a shell, and what must come of it. All command lines are here.
const STORY: &[(&str, &str, Then)] = &[
    (
        "The commands below find their keyring here.",
        "echo $CLAVIGER_KEYRING",
        Then::Says("keys"),
    ),
    (
        "A release to sign.",
        "tar -czf dist/hello-1.0.tar.gz hello.txt",
        Then::Works,
    ),
    (
        "A keyring that a TPM seals. This one is a TPM in software, for development, and every listing says so.",
        "claviger init --custody swtpm",
        Then::Works,
    ),
    (
        "A key that lives in the TPM, signs files for OpenSSH, and nothing else, for ever.",
        "claviger key create release --profile sshsig --namespace file",
        Then::Works,
    ),
    (
        "Its public half, for whoever verifies.",
        "echo \"release@example.com $(claviger key public release --format openssh)\" > allowed_signers && cat allowed_signers",
        Then::Says("release@example.com ecdsa-sha2-nistp256 "),
    ),
    (
        "What the operator lets the agent do.",
        "cat manifest.toml",
        Then::Says("[grants.sign-release]"),
    ),
    (
        "Does that make sense?",
        "claviger check manifest.toml",
        Then::Works,
    ),
    (
        "An agent whose bytes nobody approved does not run.",
        "claviger run manifest.toml hello-1.0.tar.gz",
        Then::Exits(3),
    ),
    (
        "The operator approves exactly these bytes.",
        "claviger pin manifest.toml",
        Then::Works,
    ),
    (
        "What would a use of the grant be decided by? Touches no key.",
        "claviger explain manifest.toml sign-release",
        Then::Works,
    ),
    (
        "The agent signs the release, then tries everything that it was not granted.",
        "claviger run manifest.toml hello-1.0.tar.gz | tee report",
        Then::Says("sign a commit: refused"),
    ),
    (
        "All five attempts were refused.",
        "grep -c ': refused, ' report",
        Then::Says("5\n"),
    ),
    (
        "Somebody adds one byte to the agent.",
        "truncate -s +1 release_bot.wasm",
        Then::Works,
    ),
    (
        "It is no longer the agent that was approved.",
        "claviger run manifest.toml hello-1.0.tar.gz",
        Then::Exits(3),
    ),
    (
        "What it did and what it was refused is on the log.",
        "claviger audit tail -n 40",
        Then::Says("sign-commits"),
    ),
    (
        "Under another namespace the same signature is worth nothing.",
        "ssh-keygen -Y verify -f allowed_signers -I release@example.com -n git -s dist/hello-1.0.tar.gz.sig < dist/hello-1.0.tar.gz",
        Then::Exits(255),
    ),
    (
        "OpenSSH, which knows nothing of Claviger, accepts the signatures.",
        "ssh-keygen -Y verify -f allowed_signers -I release@example.com -n file -s dist/hello-1.0.tar.gz.sig < dist/hello-1.0.tar.gz",
        Then::Says("Good \"file\" signature"),
    ),
    (
        "The note that the agent wrote, too.",
        "ssh-keygen -Y verify -f allowed_signers -I release@example.com -n file -s dist/RELEASE-NOTE.md.sig < dist/RELEASE-NOTE.md",
        Then::Says("Good \"file\" signature"),
    ),
    (
        "And the log is whole: every entry is in a Merkle tree whose head is signed.",
        "claviger audit verify",
        Then::Works,
    ),
];

/// Builds the command and the guests, then plays the story.
///
/// # Errors
/// When something cannot be built, or a line of the story does not do what it should.
pub fn demo(root: &Path, keep: bool) -> anyhow::Result<()> {
    setup::setup()?;
    guests::build(root)?;
    let build = ["build", "--package", "claviger-cli", "--bin", "claviger"];
    Step::cargo("command", root, build).run()?;
    let programs = metadata::workspace(root)?.target.join("debug");
    let stage = Stage::new(root, &programs, keep)?;
    let start = Instant::now();
    for (why, typed, then) in STORY {
        println!("\n# {why}\n$ {typed}");
        let out = stage.run(typed)?;
        let text = [
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr),
        ]
        .concat();
        print!("{text}");
        judge(typed, *then, out.status.code(), &text)?;
    }
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

    fn run(&self, typed: &str) -> anyhow::Result<Output> {
        Command::new("sh")
            .args(["-c", typed])
            .env("PATH", &self.path)
            .env("CLAVIGER_KEYRING", "keys")
            .current_dir(&self.folder)
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
        let shown = |part: &str| STORY.iter().any(|(_, typed, _)| typed.contains(part));
        for part in [
            "claviger init",
            "claviger pin",
            "claviger run",
            "ssh-keygen -Y verify",
            "claviger audit verify",
        ] {
            assert!(shown(part), "{part}");
        }
        assert!(STORY.iter().any(|(_, _, then)| matches!(then, Then::Exits(3))));
    }
}
