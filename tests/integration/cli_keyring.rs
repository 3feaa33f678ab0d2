//! The command with keyrings that are locked, in use, copied, damaged or open to others, and its passphrases.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use kit::vault::copy_folder;

use crate::cli_scene::{GRANT, HEAD, PASSPHRASE, Scene, binary, finish, until_it_speaks, wait};

#[test]
fn a_name_that_is_a_path_is_misuse() {
    let scene = Scene::new();
    for name in [
        "../x",
        "a/b",
        "/etc/passwd",
        "..",
        "a\u{0}b",
        "A",
        "a b",
        "",
        &"a".repeat(65),
    ] {
        if name.contains('\0') {
            continue;
        }
        for command in [
            &["key", "create", name, "--profile", "labeled", "--label", "x"][..],
            &["key", "show", name],
            &["key", "public", name],
            &["grant", "suspend", "bot", name],
            &["grant", "resume", name, "release"],
            &["explain", "bot.toml", name],
        ] {
            scene.open(command).expect(2);
        }
    }
    assert_eq!(scene.run(&["key", "list", "--json"]).expect(0).lines().len(), 3);
}

#[test]
fn another_passphrase_opens_nothing() {
    let scene = Scene::new();
    scene.write("wrong", "incorrect horse");
    for command in [
        &["run", "bot.toml", "sign release x"][..],
        &["key", "create", "y", "--profile", "labeled", "--label", "x"],
        &["audit", "checkpoint"],
    ] {
        let said = scene
            .run(&[command, &["--passphrase-file", "wrong"]].concat())
            .expect(1);
        assert_eq!(said.out, "");
        said.says(&["the passphrase is wrong, or the keyring was changed"]);
    }
    assert_eq!(scene.uses(), 0);
    scene.script("sign release x").expect(0);
    assert_eq!(scene.uses(), 1);
}

#[test]
fn no_agent_is_given_the_file_with_the_passphrase() {
    let scene = Scene::new();
    for folder in ["given", "elsewhere"] {
        fs::create_dir(scene.path(folder)).unwrap();
    }
    scene.write("given/pass", format!("{PASSPHRASE}\n"));
    std::os::unix::fs::symlink("../given/pass", scene.path("elsewhere/link")).unwrap();
    fs::set_permissions(scene.path("given/pass"), fs::Permissions::from_mode(0o600)).unwrap();
    let files = "[files]\n\"/d\" = { host = \"given\", access = \"read\" }\n";
    scene.manifest("bot.toml", format!("{HEAD}{files}{GRANT}"));
    let run = |how: &str| {
        let mut command = Command::new("sh");
        let script = format!("exec \"$1\" run bot.toml 'read /d/pass' {how}");
        command.args(["-c", &script, "sh"]).arg(binary());
        scene.prepare(&mut command);
        finish(command)
    };
    for how in [
        "--passphrase-file given/pass",
        "--passphrase-file elsewhere/link",
        "--passphrase-fd 7 7<given/pass",
        "--passphrase-fd 0 <given/pass",
    ] {
        let said = run(how).expect(1).says(&["given/pass", "no agent may see"]);
        assert!(!said.to_string().contains(PASSPHRASE), "{how}: {said}");
    }
    // The controls: from elsewhere and through a pipe, and then the folder is the agent's.
    for how in [
        "--passphrase-file passphrase",
        "--passphrase-fd 7 7<<EOF\ncorrect horse\nEOF\n",
    ] {
        let said = run(how).expect(0);
        assert!(said.out.contains(PASSPHRASE), "{how}: {said}");
    }
}

#[test]
fn passphrases_come_from_a_file_or_a_descriptor_and_from_nowhere_else() {
    let scene = Scene::new();
    let checkpoint = ["audit", "checkpoint"];
    scene.open(&checkpoint).expect(0);
    // The shell hands over descriptor 7.
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(binary());
        scene.prepare(&mut command);
        finish(command)
    };
    shell("exec \"$1\" audit checkpoint --passphrase-fd 7 7<passphrase").expect(0);
    shell("cat passphrase | \"$1\" audit checkpoint --passphrase-fd 0").expect(0);
    shell("exec \"$1\" audit checkpoint --passphrase-fd 7")
        .expect(1)
        .says(&["file descriptor 7"]);
    shell("exec \"$1\" audit checkpoint <passphrase")
        .expect(1)
        .says(&["--passphrase-file", "--passphrase-fd"]);

    let mut command = scene.command(&checkpoint);
    for name in [
        "PASSPHRASE",
        "CLAVIGER_PASSPHRASE",
        "CLAVIGER_PASSPHRASE_FILE",
        "CLAVIGER_PASSPHRASE_FD",
    ] {
        command.env(
            name,
            if name.ends_with("FILE") {
                "passphrase"
            } else {
                PASSPHRASE
            },
        );
    }
    finish(command)
        .expect(1)
        .says(&["--passphrase-file FILE", "--passphrase-fd N"]);
    scene
        .run(&[&checkpoint[..], &["--passphrase", PASSPHRASE]].concat())
        .expect(2);
    scene
        .run(
            &[
                &checkpoint[..],
                &["--passphrase-file", "passphrase", "--passphrase-fd", "0"],
            ]
            .concat(),
        )
        .expect(2);

    scene.write("none", "");
    scene.write("newline", "\n");
    scene.write("long", "x".repeat(1025));
    for (file, part) in [
        ("none", "is empty"),
        ("newline", "is empty"),
        ("long", "at most 1024 bytes"),
        (".", "Is a directory"),
        ("missing", "No such file"),
    ] {
        scene
            .run(&[&checkpoint[..], &["--passphrase-file", file]].concat())
            .expect(1)
            .says(&[part]);
    }
    fs::set_permissions(scene.path("passphrase"), fs::Permissions::from_mode(0o644)).unwrap();
    scene
        .open(&checkpoint)
        .expect(0)
        .says(&["warning:", "chmod 600 passphrase"]);
}

#[test]
fn a_keyring_is_not_made_by_half() {
    let scene = Scene::bare();
    scene.write("short", "1234567");
    for (file, part) in [
        ("short", "expected at least 8"),
        ("missing", "No such file"),
        ("/dev/null", "is empty"),
    ] {
        scene
            .run(&["init", "--custody", "passphrase", "--passphrase-file", file])
            .expect(1)
            .says(&[part]);
        assert!(!scene.path("keyring").exists(), "{file}");
    }
    scene
        .run(&["init", "--custody", "passphrase"])
        .expect(1)
        .says(&["--passphrase-file FILE"]);
    scene
        .run(&["init", "--custody", "tpm", "--tcti", "device:/dev/null"])
        .expect(1);
    scene
        .open(&["init", "--custody", "passphrase", "--tcti", "device:/dev/null"])
        .expect(2);
    assert!(!scene.path("keyring").exists());
    scene
        .run(&["key", "list"])
        .expect(1)
        .says(&["there is no keyring", "claviger init"]);
    scene
        .run(&["audit", "tail"])
        .expect(1)
        .says(&["there is no keyring"]);
    scene
        .open(&["run", "bot.toml", "x"])
        .expect(1)
        .says(&["there is no keyring"]);

    scene.open(&["init", "--custody", "passphrase"]).expect(0);
    let made = scene.files();
    scene
        .open(&["init", "--custody", "passphrase"])
        .expect(1)
        .says(&["already"]);
    assert!(made == scene.files(), "a second one changes nothing");
}

#[test]
fn one_process_at_a_time_and_the_other_learns_which_it_is() {
    let scene = Scene::new();
    let mut child = scene
        .opening(&["run", "bot.toml", "print-error 5000\nsleep 50000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_it_speaks(&mut child);
    let holder = format!("in use by process {}", child.id());
    let stop = format!("kill {}", child.id());
    // A second host is refused; what an operator wants done the first one does.
    scene
        .open(&["run", "bot.toml", "x"])
        .expect(1)
        .says(&[&holder, &stop]);
    let host = format!("the running host, process {}, did it", child.id());
    for command in [
        &["key", "create", "y", "--profile", "labeled", "--label", "x"][..],
        &["audit", "checkpoint"],
        &["grant", "suspend", "bot", "another"],
    ] {
        scene.run(command).expect(0).says(&[&host]);
    }
    for command in [
        &["key", "list"][..],
        &["key", "show", "release"],
        &["audit", "tail"],
        &["audit", "verify"],
        &["grant", "list"],
        &["explain", "bot.toml", "release"],
        &["check", "bot.toml"],
        &["doctor"],
    ] {
        scene.run(command).expect(0);
    }
    assert!(
        Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    wait(child, "the run that sleeps".to_owned()).expect(143);
    scene.script("sign release x").expect(0);
}

#[test]
fn a_keyring_copied_to_another_tpm_does_not_open() {
    let scene = Scene::bare();
    scene.run(&["init", "--custody", "swtpm"]).expect(0);
    scene
        .run(&[
            "key",
            "create",
            "release",
            "--profile",
            "sshsig",
            "--namespace",
            "file",
        ])
        .expect(0);
    scene.run(&["pin", "bot.toml"]).expect(0);
    copy_folder(&scene.path("keyring"), &scene.path("copy"));
    scene
        .run(&["--keyring", "copy", "run", "bot.toml", "sign release x"])
        .expect(0);
    // A TPM of the same make with other seeds.
    scene
        .run(&["--keyring", "other", "init", "--custody", "swtpm"])
        .expect(0);
    fs::remove_dir_all(scene.path("copy/tpm")).unwrap();
    copy_folder(&scene.path("other/tpm"), &scene.path("copy/tpm"));
    for command in [
        &["run", "bot.toml", "sign release x"][..],
        &["key", "create", "y", "--profile", "labeled", "--label", "x"],
    ] {
        let said = scene.run(&[&["--keyring", "copy"], command].concat()).expect(1);
        assert_eq!(said.out, "");
        said.says(&["another TPM"]);
    }
    scene.run(&["--keyring", "copy", "doctor"]).expect(1);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
}

#[test]
fn a_changed_byte_in_the_keyring_is_noticed() {
    let scene = Scene::new();
    let good = scene.read("keyring/keyring.db");
    let find = |needle: &[u8]| {
        good.windows(needle.len())
            .position(|window| window == needle)
            .unwrap()
    };
    // The file's head, the first page's, a key's row, its public key, its end; the sealed root key's cost, salt and ciphertext, which
    // must not read as a wrong passphrase.
    let last = good.iter().rposition(|byte| *byte != 0).unwrap();
    let root = find(b"CVPASS\0\x01");
    for at in [
        0,
        16,
        100,
        find(b"release"),
        find(b"notes") + 1,
        last,
        root + 11,
        root + 25,
        root + 70,
    ] {
        scene.flip("keyring/keyring.db", at);
        // No journal has a good copy of the page.
        for file in ["keyring/keyring.db-wal", "keyring/keyring.db-shm"] {
            drop(fs::remove_file(scene.path(file)));
        }
        let said = scene.script("sign release x").expect(6);
        assert_eq!(said.out, "", "{at}");
        scene.write("keyring/keyring.db", &good);
    }
    scene.script("sign release x").expect(0);
}

#[test]
fn a_keyring_that_others_can_reach_is_refused_with_what_to_type() {
    let scene = Scene::new();
    let mend = "chmod 700";
    for mode in [0o755, 0o710, 0o777] {
        fs::set_permissions(scene.path("keyring"), fs::Permissions::from_mode(mode)).unwrap();
        scene.script("echo hi").expect(1).says(&[mend]);
        scene.run(&["key", "list"]).expect(1).says(&[mend]);
        let doctor = scene.run(&["doctor"]).expect(1);
        assert!(doctor.out.contains(mend), "{doctor}");
    }
    fs::set_permissions(scene.path("keyring"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(
        scene.path("keyring/keyring.db"),
        fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    scene.script("echo hi").expect(1).says(&["chmod 600"]);
    fs::set_permissions(
        scene.path("keyring/keyring.db"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    scene.script("echo hi").expect(0);
}
