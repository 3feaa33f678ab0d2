//! The command with files that are none, that have no end, or that others may write to.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use crate::cli_scene::{GRANT, HEAD, Scene, binary, finish};

/// One component more than a component may have.
const HUGE: u64 = 1 << 40;

/// The commands that read a manifest.
fn readers(name: &str) -> [Vec<&str>; 4] {
    [
        vec!["check", name],
        vec!["pin", name],
        vec!["run", name, "x"],
        vec!["explain", name, "release"],
    ]
}

fn pipe(scene: &Scene, name: &str) {
    let mut command = Command::new("mkfifo");
    command.arg(name);
    scene.prepare(&mut command);
    finish(command).expect(0);
}

#[test]
fn a_pipe_a_device_or_a_file_without_end_makes_no_command_wait() {
    let scene = Scene::new();
    pipe(&scene, "pipe");
    fs::create_dir(scene.path("folder")).unwrap();
    fs::File::create(scene.path("huge"))
        .and_then(|file| file.set_len(HUGE))
        .unwrap();
    for (name, part) in [
        ("pipe", "`pipe` is a pipe; expected a file"),
        ("folder", "`folder` is a folder; expected a file"),
        ("/dev/zero", "`/dev/zero` is a device; expected a file"),
        ("/dev/tty", "`/dev/tty` is a device; expected a file"),
        ("huge", "`huge` has over 262144 bytes"),
    ] {
        for command in readers(name) {
            scene.run(&command).expect(1).says(&["the manifest ", part]);
        }
        let input = part.replace("262144", "1048576");
        scene
            .open(&["run", "bot.toml", "--input-file", name])
            .expect(1)
            .says(&["the input ", &input]);
        let component = part.replace("262144", "67108864").replace('`', "");
        let manifest = format!("{HEAD}digest = \"sha256:{}\"\n{GRANT}", "0".repeat(64));
        scene.write("odd.toml", manifest.replace("agent.wasm", name));
        for (command, code) in readers("odd.toml").iter().zip([1, 1, 1, 3]) {
            let said = scene.run(command).expect(code);
            let all = format!("{}{}", said.out, said.err).replace('`', "");
            assert!(
                all.contains("the component ") && all.contains(component.trim_start_matches('/')),
                "{said}"
            );
        }
    }
    // A link to a file is a file: the control.
    std::os::unix::fs::symlink("bot.toml", scene.path("link.toml")).unwrap();
    scene.run(&["check", "link.toml"]).expect(0);
}

#[test]
fn a_manifest_that_others_may_write_is_not_obeyed() {
    let scene = Scene::new();
    let mode = |mode| fs::set_permissions(scene.path("bot.toml"), fs::Permissions::from_mode(mode)).unwrap();
    let before = scene.read("bot.toml");
    let obeyed = || {
        scene.run(&["check", "bot.toml"]).expect(0);
        scene.run(&["pin", "bot.toml"]).expect(0);
        scene.run(&["explain", "bot.toml", "release"]).expect(0);
    };
    let refused = |who: &str| {
        for command in [&["run", "bot.toml", "echo hi"][..], &["pin", "bot.toml"]] {
            scene.open(command).expect(1).says(&[
                &format!("the manifest `bot.toml` may be written to by {who}"),
                "chmod go-w bot.toml",
            ]);
        }
        let checked = scene.run(&["check", "bot.toml"]).expect(1);
        assert!(
            checked
                .out
                .contains("not admitted now: the manifest may be written to by"),
            "{checked}"
        );
        let explained = scene
            .run(&["explain", "bot.toml", "release", "--json"])
            .expect(3)
            .lines();
        assert_eq!(explained[0]["denied_by"], "manifest");
    };
    for open in [0o666, 0o602, 0o777] {
        mode(open);
        refused("every user");
    }
    for closed in [0o644, 0o600, 0o444] {
        mode(closed);
        obeyed();
    }
    // A group that has the user's number is the user's own.
    mode(0o664);
    let about = fs::metadata(scene.path("bot.toml")).unwrap();
    if about.gid() == about.uid() {
        obeyed();
    } else {
        refused("its group");
    }
    // Root may give it to another group, and so see both.
    if std::os::unix::fs::chown(scene.path("bot.toml"), None, Some(about.uid() + 1)).is_ok() {
        refused("its group");
    }
    mode(0o640);
    obeyed();
    assert_eq!(scene.read("bot.toml"), before);
}

#[test]
fn a_passphrase_still_comes_from_a_pipe() {
    let scene = Scene::new();
    let bash = |script: &str| {
        let mut command = Command::new("bash");
        command.args(["-c", script, "bash"]).arg(binary());
        scene.prepare(&mut command);
        finish(command)
    };
    bash("\"$1\" audit checkpoint --passphrase-file <(cat passphrase)").expect(0);
    bash("\"$1\" audit checkpoint --passphrase-fd 7 7< <(cat passphrase)").expect(0);
    // Its writer is gone before it is read: nobody will come and end the waiting.
    pipe(&scene, "pipe");
    bash("cat passphrase >pipe & exec 7<pipe; wait $!; \"$1\" audit checkpoint --passphrase-fd 7").expect(0);
}

#[test]
fn a_descriptor_that_others_could_read_again_is_warned_of() {
    let scene = Scene::new();
    let sh = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(binary());
        scene.prepare(&mut command);
        finish(command).expect(0)
    };
    sh("exec \"$1\" audit checkpoint --passphrase-fd 7 7<passphrase").says(&[
        "warning:",
        "inherit file descriptor 7",
        "hand over a pipe",
    ]);
    for quiet in [
        "cat passphrase | \"$1\" audit checkpoint --passphrase-fd 0",
        "\"$1\" audit checkpoint --passphrase-fd 0 <passphrase",
        "cat passphrase | \"$1\" audit checkpoint --passphrase-fd 7 7<&0",
    ] {
        let said = sh(quiet);
        assert!(!said.err.contains("warning"), "{said}");
    }
}

pub(crate) fn which(program: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{program} is missing; run `cargo xtask setup`"))
        .display()
        .to_string()
}
