//! What tests of the command share: a folder with a keyring, an agent and its manifest, and the real binary to run there. Not a test itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::Duration;

use kit::{Guest, guest};
use serde_json::Value;
use tempfile::TempDir;

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Opens the keyring of every scene.
pub(crate) const PASSPHRASE: &str = "correct horse";

/// The manifest's head, before what a test adds to `[agent]`.
pub(crate) const HEAD: &str =
    "schema = 1\n# The operator's comment.\n[agent]\nname = \"bot\"\ncomponent = \"agent.wasm\"\n";

/// The grants of the scene's manifest.
pub(crate) const GRANT: &str = "\n[grants.release]\nsign = { key = \"release\", namespace = \"file\" }\n";

/// A folder with `keyring/`, `passphrase`, `agent.wasm` and `bot.toml`.
#[derive(Debug)]
pub(crate) struct Scene {
    folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    line: String,
}

impl Scene {
    /// With a keyring that has the keys `release` (sshsig), `token` (jws, P-256) and `notes` (labeled), a pinned manifest, and the agent
    /// compiled.
    pub(crate) fn new() -> Self {
        let scene = Self {
            folder: TempDir::new().unwrap(),
        };
        for (path, (mode, bytes)) in template() {
            let path = scene.path(path);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path.parent().unwrap())
                .unwrap();
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        scene
    }

    /// Without a keyring.
    pub(crate) fn bare() -> Self {
        let scene = Self {
            folder: TempDir::new().unwrap(),
        };
        scene.write("passphrase", format!("{PASSPHRASE}\n"));
        scene.write("agent.wasm", guest(Guest::Agent));
        scene.write("bot.toml", format!("{HEAD}{GRANT}"));
        fs::set_permissions(scene.path("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
        scene
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        // Whatever the umask: the command obeys no manifest that a group may write to.
        let file = fs::File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o644)
            .open(self.path(name));
        file.and_then(|mut file| file.write_all(bytes.as_ref())).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Writes a manifest, pinned to its component.
    pub(crate) fn manifest(&self, name: &str, text: impl AsRef<[u8]>) {
        self.write(name, text);
        self.run(&["pin", name]).expect(0);
    }

    /// Flips one bit of a file.
    pub(crate) fn flip(&self, name: &str, at: usize) {
        let mut bytes = self.read(name);
        bytes[at] ^= 1;
        self.write(name, bytes);
    }

    /// The command in this folder, with nothing of the caller's environment but its path.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    /// Any program in this folder, in the command's environment.
    pub(crate) fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .env("CLAVIGER_KEYRING", "keyring")
            // Whoever sets it must get no backtrace either.
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null());
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        finish(self.command(arguments))
    }

    /// With the passphrase.
    pub(crate) fn open(&self, arguments: &[&str]) -> Said {
        finish(self.opening(arguments))
    }

    pub(crate) fn opening(&self, arguments: &[&str]) -> Command {
        // The option stands first: what follows may be `--`.
        self.command(&[&["--passphrase-file", "passphrase"], arguments].concat())
    }

    /// Has the agent of `bot.toml` obey.
    pub(crate) fn script(&self, commands: &str) -> Said {
        self.open(&["run", "bot.toml", commands])
    }

    /// The events on the log, oldest first.
    pub(crate) fn events(&self) -> Vec<Value> {
        let said = self.run(&["audit", "tail", "-n", "100000", "--json"]).expect(0);
        said.lines()
    }

    /// How many uses the log allowed.
    pub(crate) fn uses(&self) -> usize {
        self.events()
            .iter()
            .filter(|event| event["event"] == "allowed")
            .count()
    }

    /// Every file's path, mode and bytes, without those that SQLite makes for readers: they hold nothing.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut files = BTreeMap::new();
        collect(self.folder.path(), self.folder.path(), &mut files);
        files
    }
}

fn collect(root: &Path, folder: &Path, into: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            collect(root, &path, into);
        } else if meta.is_file() && !is_working_file(&path) {
            let name = path.strip_prefix(root).unwrap().to_owned();
            into.insert(
                name,
                (meta.permissions().mode() & 0o777, fs::read(&path).unwrap()),
            );
        }
    }
}

fn is_working_file(path: &Path) -> bool {
    let ends = |end: &str| path.to_string_lossy().ends_with(end);
    ends(".db-shm") || (ends(".db-wal") && fs::metadata(path).unwrap().len() == 0)
}

/// Stretching passphrases and compiling take seconds, so this is made once and copied.
fn template() -> &'static BTreeMap<PathBuf, (u32, Vec<u8>)> {
    static TEMPLATE: OnceLock<BTreeMap<PathBuf, (u32, Vec<u8>)>> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let scene = Scene::bare();
        scene.open(&["init", "--custody", "passphrase"]).expect(0);
        for key in [
            "release --profile sshsig --namespace file --namespace mail",
            "token --profile jws --issuer https://issuer.test --audience api --algorithm p256",
            "notes --profile labeled --label notes",
        ] {
            let words: Vec<&str> = ["key", "create"].into_iter().chain(key.split(' ')).collect();
            scene.open(&words).expect(0);
        }
        scene.run(&["pin", "bot.toml"]).expect(0);
        scene.script("echo warm").expect(0);
        scene.files()
    })
}

/// The command that belongs to this build of the tests.
///
/// Cargo hands a package's tests the paths of its own binaries only, so this looks where it puts them all.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let here = std::env::current_exe().unwrap();
        let path = here.parent().and_then(Path::parent).unwrap().join("claviger");
        let build = "run `cargo build -p claviger-cli`";
        let Ok(built) = path.metadata().and_then(|meta| meta.modified()) else {
            panic!("the command {} is missing; {build}", path.display());
        };
        // What cargo says it was built from.
        let sources = fs::read_to_string(path.with_extension("d")).unwrap_or_default();
        for source in sources
            .split_once(':')
            .map_or("", |(_, sources)| sources)
            .split_whitespace()
        {
            let changed = fs::metadata(source).and_then(|meta| meta.modified());
            assert!(
                changed.is_ok_and(|changed| changed <= built),
                "the command {} is older than {source}; {build}",
                path.display()
            );
        }
        path
    })
}

/// Runs it to its end.
pub(crate) fn finish(mut command: Command) -> Said {
    let line = format!("{command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{line}: {error}; run `cargo xtask setup`"));
    wait(child, line)
}

/// Waits until the agent of a running child wrote a line to stderr, one long enough not to be held back: from then on it runs.
pub(crate) fn until_it_speaks(child: &mut Child) {
    let (mut said, mut byte) = (Vec::new(), [0]);
    // Byte by byte: the rest is for whoever waits.
    while !said.ends_with(b"bot | ") {
        let read = child.stderr.as_mut().unwrap().read(&mut byte).unwrap();
        assert_eq!(read, 1, "it ended before: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&byte);
    }
}

/// Waits for a child that was started with pipes.
pub(crate) fn wait(child: Child, line: String) -> Said {
    let id = child.id();
    let (sender, receiver) = channel();
    std::thread::spawn(move || drop(sender.send(child.wait_with_output())));
    let Ok(output) = receiver.recv_timeout(PATIENCE) else {
        drop(Command::new("kill").args(["-KILL", &id.to_string()]).status());
        panic!("{line} hangs");
    };
    let output = output.unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        line,
    }
}

impl Said {
    /// It ended with this code, and in no case with a panic or a backtrace.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        for trace in ["panicked", "backtrace", "thread 'main'", "RUST_BACKTRACE", ".rs:"] {
            assert!(!self.err.contains(trace), "{trace}: {self}");
        }
        self
    }

    /// Its messages contain all of this.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "it does not say {part:?}: {self}");
        }
        self
    }

    /// Its data as JSON, a value a line.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        parse(&self.out, self)
    }

    /// Its messages as JSON, a value a line.
    #[track_caller]
    pub(crate) fn messages(&self) -> Vec<Value> {
        parse(&self.err, self)
    }
}

#[track_caller]
fn parse(text: &str, said: &Said) -> Vec<Value> {
    text.lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON, {error}: {said}"))
        })
        .collect()
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\nexit {}\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.code, self.out, self.err
        )
    }
}
