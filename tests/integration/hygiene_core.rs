//! Real core dumps: gdb's and the kernel's of a process that holds keys, and none of the command. What else is searched is in
//! `hygiene.rs`.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use kit::holder::{CHECKPOINTS, IN_HOST_CALL};
use rustix::fs::inotify;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use super::cli_scene;
use super::hygiene_scene::{ON_HEAP, Root, Scene, show};

/// A command that does not get there for so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process with every key open, at this place.
fn busy(root: Root, until: &str) -> Scene {
    let mut scene = Scene::start(root, &["core"]);
    scene.reach("made");
    let last = CHECKPOINTS.iter().position(|name| *name == until).unwrap();
    for checkpoint in &CHECKPOINTS[1..=last] {
        scene.go_on_to(checkpoint);
    }
    scene
}

/// Has gdb dump the process, after it was told this.
fn gdb(scene: &Scene, tell: &[&str], name: &str) -> PathBuf {
    let core = scene.folder.path().join(name);
    let mut command = Command::new("gdb");
    // As the script `gcore` does.
    command.args([
        "--nx",
        "--batch",
        "--readnever",
        "-iex",
        "set auto-load off",
        "-iex",
    ]);
    command.arg("set debuginfod enabled off");
    command.args(["-ex", "set pagination off", "-ex", "set width 0"]);
    for line in tell {
        command.args(["-ex", line]);
    }
    command.args(["-ex", &format!("attach {}", scene.process.id())]);
    command.args(["-ex", &format!("gcore {}", core.display()), "-ex", "detach"]);
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("gdb: {error}; apt-get install gdb"));
    assert!(
        core.is_file(),
        "gdb made no core: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    core
}

/// The core has the heap, and no secret.
fn assert_clean(scene: &Scene, core: &Path) {
    let mut scanner = scene.scanner();
    scene.add_control(&mut scanner);
    let (control, hits): (Vec<_>, Vec<_>) = scanner
        .scan_core(core)
        .into_iter()
        .partition(|hit| hit.secret == ON_HEAP);
    assert!(!control.is_empty(), "the control: the core has the heap");
    assert!(hits.is_empty(), "secrets in a core:\n{}", show(&hits));
}

#[test]
fn a_core_that_gdb_takes_of_open_keys_has_no_secret() {
    for root in [Root::Passphrase, Root::Swtpm] {
        // Before there is an engine: gdb writes out all that one reserves, some ten GiB of zeroes.
        let scene = busy(root, "signed tokens");
        assert_clean(&scene, &gdb(&scene, &[], "gcore"));
        // The control: the same search finds what only the locked pages have.
        let all = gdb(&scene, &["set dump-excluded-mappings on"], "gcore-all");
        let hits = scene.scanner().scan_core(&all);
        for held in ["root key", "Ed25519 prefix", "key for envelope"] {
            let found = hits.iter().any(|hit| hit.secret == format!("the {held}"));
            assert!(found, "the control: the {held} is in a core of everything");
        }
    }
}

#[test]
fn a_core_that_the_kernel_takes_of_open_keys_has_no_secret() {
    let mut scene = busy(Root::Passphrase, IN_HOST_CALL);
    let Some(core) = abort(&mut scene) else {
        return;
    };
    assert_clean(&scene, &core);
}

/// Ends the process as a bug would. The core that the kernel made; none where the system is set to make none, or to make it elsewhere.
fn abort(scene: &mut Scene) -> Option<PathBuf> {
    signal(scene.process.id(), Signal::ABORT);
    let (status, _) = scene.process.ended();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{status}");
    let cores = cores(scene.folder.path());
    assert_eq!(
        !cores.is_empty(),
        status.core_dumped() && is_dumped_here(),
        "{status}, {cores:?}: the kernel dumps where it says"
    );
    assert_eq!(status.core_dumped(), is_dumped(), "the control: {status}");
    cores.into_iter().next()
}

fn signal(process: u32, signal: Signal) {
    kill_process(Pid::from_raw(process.cast_signed()).unwrap(), signal).unwrap();
}

/// The files in a folder that the kernel's pattern may have named.
fn cores(folder: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    names.filter(|path| starts_with_core(path)).collect()
}

fn starts_with_core(path: &Path) -> bool {
    let name = path.file_name().map(OsString::from);
    name.is_some_and(|name| name.as_encoded_bytes().starts_with(b"core"))
}

fn pattern() -> String {
    std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap()
}

/// Whether the system lets an ordinary process dump at all. Where it does not, a test without dumps shows nothing.
fn is_dumped() -> bool {
    let uses_pid = std::fs::read_to_string("/proc/sys/kernel/core_uses_pid").unwrap();
    let nowhere = pattern().trim().is_empty() && uses_pid.trim() == "0";
    // A program at the other end of a pipe is not held by the limit.
    !nowhere && (pattern().starts_with('|') || getrlimit(Resource::Core).maximum != Some(0))
}

/// Whether dumps are files in the process's own folder.
fn is_dumped_here() -> bool {
    is_dumped() && pattern().starts_with("core")
}

/// The command, with a key open, running an agent that waits.
fn running(scene: &cli_scene::Scene) -> Child {
    std::fs::create_dir(scene.path("out")).unwrap();
    let files = "[files]\n\"/out\" = { host = \"out\", access = \"read-write\" }\n";
    scene.manifest(
        "waits.toml",
        format!("{}{files}{}", cli_scene::HEAD, cli_scene::GRANT),
    );
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, scene.path("out"), inotify::WatchFlags::CLOSE_WRITE).unwrap();
    let script = "sign release x\nwrite /out/signed x\nsleep 3600000";
    let child = scene.opening(&["run", "waits.toml", script]).spawn().unwrap();
    let (sender, written) = channel();
    std::thread::spawn(move || {
        let read = rustix::io::read(&watch, &mut [0; 512]);
        // The test may have ended.
        sender.send(read).ok();
    });
    written
        .recv_timeout(PATIENCE)
        .expect("the agent gets there")
        .unwrap();
    child
}

#[test]
fn the_command_leaves_no_core_however_it_dies() {
    // The control: what is no secret to the system dumps, if anything does.
    let mut control = busy(Root::Passphrase, "made");
    let dumps = abort(&mut control).is_some();
    assert_eq!(dumps, is_dumped_here());

    // The engine catches what a fault sends; what nobody catches makes the kernel dump in the same way.
    for (lethal, raised) in [(Signal::ABORT, false), (Signal::SYS, true)] {
        let scene = cli_scene::Scene::new();
        let mut child = running(&scene);
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        let limit = limits.lines().find(|line| line.starts_with("Max core file size"));
        let words: Vec<&str> = limit.unwrap().split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{limit:?}");
        if raised {
            // Who may, takes the limit away, so that nothing but being undumpable is left.
            let none = Rlimit {
                current: None,
                maximum: None,
            };
            let pid = Pid::from_raw(child.id().cast_signed());
            match prlimit(pid, Resource::Core, none) {
                Ok(_) | Err(rustix::io::Errno::PERM) => {}
                Err(error) => panic!("{error}"),
            }
        }
        signal(child.id(), lethal);
        let status: ExitStatus = child.wait().unwrap();
        assert_eq!(status.signal(), Some(lethal.as_raw()), "{status}");
        assert!(!status.core_dumped(), "{status}");
        assert_eq!(cores(&scene.path(".")), Vec::<PathBuf>::new());
    }
}
