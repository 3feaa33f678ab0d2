//! The command when it is told to end: while it opens a keyring, makes one, asks for a passphrase, or runs an agent.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::cli_files::which;
use crate::cli_scene::{Scene, binary, finish, until_it_speaks, wait};

/// With a `swtpm` before the real one that does this first.
fn with_swtpm(scene: &Scene, first: &str) {
    fs::create_dir_all(scene.path("bin")).unwrap();
    let real = which("swtpm");
    // It keeps its number, by which a test sees whether it is gone.
    // It is started with no variable but its search path.
    let pid = scene.path("swtpm.pid");
    let script = format!(
        "#!/bin/sh\necho $$ >'{}'\n{first}\nexec '{real}' \"$@\"\n",
        pid.display()
    );
    scene.write("bin/swtpm", script);
    fs::set_permissions(scene.path("bin/swtpm"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A program in the scene that heeds signals, also where whoever started the tests had them ignored, as a shell does for what it has run
/// in the background: what is ignored is handed on.
fn heeding(scene: &Scene, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,TERM,HUP").arg(program);
    scene.prepare(&mut command);
    command
}

fn with_bin(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = heeding(scene, binary());
    command.args(arguments);
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", scene.path("bin").display()));
    command
}

fn swtpm_is_gone(scene: &Scene) {
    let pid = String::from_utf8(scene.read("swtpm.pid")).unwrap();
    let pid = pid.trim();
    // Collected, or waiting for init to collect it.
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

fn log_is_closed(scene: &Scene) {
    let verified = scene.run(&["audit", "verify", "--json"]).expect(0);
    assert_eq!(verified.lines()[0]["unsigned_tail"], 0, "{verified}");
    assert_eq!(scene.events().last().unwrap()["event"], "host-stopped");
}

#[test]
fn a_signal_stops_a_run_in_order() {
    for (signal, name, code) in [
        ("-INT", "Ctrl-C", 130),
        ("-TERM", "SIGTERM", 143),
        ("-HUP", "SIGHUP", 129),
    ] {
        let scene = Scene::new();
        let mut child = heeding(&scene, binary())
            .args([
                "--passphrase-file",
                "passphrase",
                "run",
                "bot.toml",
                "print-error 5000\nsleep 50000",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until_it_speaks(&mut child);
        kill(&[signal, &child.id().to_string()]);
        wait(child, format!("kill {signal}"))
            .expect(code)
            .says(&[&format!("stopped by {name}")]);
        log_is_closed(&scene);
        let events = scene.events();
        assert_eq!(
            events[events.len() - 2]["end"]["how"],
            "dropped",
            "{:?}",
            events[events.len() - 2]
        );
    }
}

#[test]
fn a_signal_that_was_ignored_before_stays_ignored() {
    let scene = Scene::new();
    let mut command = heeding(&scene, "sh");
    let script =
        "trap '' HUP; exec \"$1\" run bot.toml 'print-error 5000\nsleep 50000' --passphrase-file passphrase";
    command.args(["-c", script, "sh"]).arg(binary());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_it_speaks(&mut child);
    let id = child.id().to_string();
    kill(&["-HUP", &id]);
    kill(&["-TERM", &id]);
    wait(child, "kill -HUP, kill -TERM".to_owned())
        .expect(143)
        .says(&["stopped by SIGTERM"]);
}

#[test]
fn a_signal_while_the_keyring_opens_leaves_it_closed() {
    let scene = Scene::new();
    // With the keyring's lock comes the signal; in the last row it never comes, and that is the control.
    for (call, code) in [
        ("flock:signal=SIGTERM:when=1", 143),
        ("flock:signal=SIGINT:when=1", 130),
        ("flock:signal=SIGTERM:when=999", 0),
    ] {
        let mut command = heeding(&scene, "strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=flock"]);
        command.args(["-e", &format!("inject={call}")]).arg(binary());
        command.args(["audit", "checkpoint", "--passphrase-file", "passphrase"]);
        let said = finish(command).expect(code);
        assert!(!said.err.contains("was not closed"), "{call}: {said}");
        log_is_closed(&scene);
        let again = scene.open(&["audit", "checkpoint"]).expect(0);
        assert!(!again.err.contains("did not close"), "{call}: {again}");
    }
}

#[test]
fn a_signal_while_the_tpm_starts_ends_the_tpm_too() {
    let scene = Scene::bare();
    // A keyring that is made in spite of the signal is whole, and one that cannot be made leaves nothing.
    with_swtpm(&scene, "kill -TERM $PPID; exit 1");
    finish(with_bin(&scene, &["init", "--custody", "swtpm"])).expect(143);
    assert!(!scene.path("keyring").exists());
    with_swtpm(&scene, "kill -TERM $PPID");
    finish(with_bin(&scene, &["init", "--custody", "swtpm"]))
        .expect(143)
        .says(&["stopped by SIGTERM", "made all the same"]);
    swtpm_is_gone(&scene);
    scene.run(&["audit", "verify"]).expect(0);

    let said = finish(with_bin(&scene, &["--json", "audit", "checkpoint"])).expect(143);
    assert_eq!(said.out, "");
    assert_eq!(said.messages().pop().unwrap()["error"]["kind"], "stopped");
    swtpm_is_gone(&scene);
    log_is_closed(&scene);
    let said = scene.run(&["audit", "checkpoint"]).expect(0);
    assert!(!said.err.contains("did not close"), "the control: {said}");
}

#[test]
fn ctrl_c_reaches_every_process_of_the_terminal_and_the_log_is_closed_all_the_same() {
    let scene = Scene::bare();
    scene.run(&["init", "--custody", "swtpm"]).expect(0);
    let create = [
        "key",
        "create",
        "release",
        "--profile",
        "sshsig",
        "--namespace",
        "file",
    ];
    scene.run(&create).expect(0);
    scene.run(&["pin", "bot.toml"]).expect(0);
    with_swtpm(&scene, "");
    let mut child = with_bin(&scene, &["run", "bot.toml", "print-error 5000\nsleep 50000"])
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_it_speaks(&mut child);
    kill(&["-INT", "--", &format!("-{}", child.id())]);
    wait(child, "kill -INT, the group".to_owned())
        .expect(130)
        .says(&["stopped by Ctrl-C"]);
    swtpm_is_gone(&scene);
    log_is_closed(&scene);
}

#[test]
fn a_signal_while_a_passphrase_is_typed_gives_the_terminal_its_echo_back() {
    let scene = Scene::new();
    // The first wait for a key brings the signal.
    let line = format!(
        "strace -f -qq -o /dev/null -e trace=ppoll -e inject=ppoll:signal=SIGTERM:when=1 {} audit checkpoint; echo code $?; stty -a",
        binary().display()
    );
    let mut command = heeding(&scene, "script");
    command.args(["-qec", &line, "/dev/null"]);
    let said = finish(command).expect(0);
    for part in [
        "Passphrase of the keyring: ",
        "stopped by SIGTERM",
        "code 143",
        " echo ",
        " icanon ",
    ] {
        assert!(said.out.contains(part), "{part}: {said}");
    }
}

fn kill(arguments: &[&str]) {
    assert!(Command::new("kill").args(arguments).status().unwrap().success());
}
