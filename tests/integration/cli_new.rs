//! `claviger new`: what it writes compiles, is checked, pinned and run as it is; what is there already stays.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cli_scene::{Scene, finish};

#[test]
fn a_new_agent_compiles_and_signs_without_a_change() {
    let scene = Scene::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sdk = root.join("guest-sdk");
    let made = scene
        .run(&["new", "first", "--sdk", sdk.to_str().unwrap()])
        .expect(0);
    assert!(
        made.out.contains("cargo build --release --target wasm32-wasip2"),
        "{made}"
    );
    // The versions that the workspace has, so that nothing is fetched.
    fs::copy(root.join("Cargo.lock"), scene.path("first/Cargo.lock")).unwrap();
    // In the profile and the folder of the test guests, whose dependencies are compiled: `--release` would take minutes to say the same.
    let target = xtask::guests::folder(root).with_file_name("");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--offline",
            "--profile",
            "guest",
            "--target",
            "wasm32-wasip2",
        ])
        .arg("--target-dir")
        .arg(&target);
    for setting in [
        "inherits='release'",
        "opt-level='s'",
        "lto=true",
        "codegen-units=1",
        "panic='abort'",
        "strip=true",
    ] {
        cargo.args(["--config", &format!("profile.guest.{setting}")]);
    }
    cargo.current_dir(scene.path("first"));
    finish(cargo).expect(0);
    let place = "first/target/wasm32-wasip2/release";
    fs::create_dir_all(scene.path(place)).unwrap();
    fs::copy(
        target.join("wasm32-wasip2/guest/agent.wasm"),
        scene.path(place).join("agent.wasm"),
    )
    .unwrap();

    // Word by word what it said comes next, from within its folder.
    let next = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = scene.command(&words);
        command
            .current_dir(scene.path("first"))
            .env("CLAVIGER_KEYRING", scene.path("keyring"));
        command.arg("--passphrase-file").arg(scene.path("passphrase"));
        finish(command).expect(0)
    };
    let mut last = String::new();
    let mut count = 0;
    for line in made
        .out
        .lines()
        .filter_map(|line| line.trim().strip_prefix("claviger "))
    {
        last = next(line).out;
        count += 1;
    }
    assert_eq!(count, 4, "{made}");
    assert!(last.contains("BEGIN SSH SIGNATURE"), "{last}");
    assert_eq!(scene.uses(), 1);
}

#[test]
fn what_is_there_already_stays_as_it_is() {
    let scene = Scene::bare();
    fs::create_dir(scene.path("taken")).unwrap();
    scene.write("taken/mine", "mine");
    scene.write("file", "mine");
    fs::create_dir(scene.path("empty")).unwrap();
    std::os::unix::fs::symlink("empty", scene.path("link")).unwrap();
    let before = scene.files();
    for name in ["taken", "file", "link"] {
        scene
            .run(&["new", name])
            .expect(1)
            .says(&["is there already; nothing was made"]);
    }
    for name in ["", ".", "..", "a/b", "../x", "A", "/etc"] {
        scene.run(&["new", name]).expect(2);
    }
    for arguments in [
        &["new", "x", "--sdk", "taken"][..],
        &["new", "x", "--sdk", "none"],
    ] {
        scene.run(arguments).expect(1);
    }
    scene.run(&["new", "x", "--lang", "cobol"]).expect(2);
    assert!(before == scene.files(), "nothing was written");
    let names = || fs::read_dir(scene.path(".")).unwrap().count();
    let count = names();

    // An empty folder is filled: the control.
    let made = scene.run(&["new", "empty", "--json"]).expect(0);
    let json = &made.lines()[0];
    assert_eq!(json["folder"], "empty");
    for file in json["files"].as_array().unwrap() {
        let path = scene.path("empty").join(file.as_str().unwrap());
        assert!(
            !fs::read_to_string(&path).unwrap().contains("{{"),
            "{}",
            path.display()
        );
    }
    assert_eq!(names(), count, "nothing is left beside it");
}
