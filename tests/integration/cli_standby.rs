//! The command before a machine is lost: backups that the TPM of another opens, and no other, and backups that are made while a host runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use kit::vault::copy_folder;

use crate::cli_control::{WAITS, ended, kill, running};
use crate::cli_scene::{Said, Scene, finish};

/// On one of the scene's keyrings.
fn on(scene: &Scene, keyring: &str, arguments: &[&str]) -> Said {
    scene.run(&[&["--keyring", keyring], arguments].concat())
}

fn keys_of(scene: &Scene, keyring: &str) -> usize {
    on(scene, keyring, &["key", "list", "--json"])
        .expect(0)
        .lines()
        .len()
}

#[test]
fn a_backup_for_the_tpm_of_another_machine_is_opened_there_and_nowhere_else() {
    let scene = Scene::bare();
    for machine in ["first", "standby", "third"] {
        on(&scene, machine, &["init", "--custody", "swtpm"]).expect(0);
    }
    let key = [
        "key",
        "create",
        "notes",
        "--profile",
        "labeled",
        "--label",
        "notes",
    ];
    let sealed = ["--algorithm", "ed25519", "--custody", "tpm-sealed"];
    on(&scene, "first", &[&key[..], &sealed].concat()).expect(0);

    let keygen = ["backup", "keygen", "--tpm", "--out", "standby.key"];
    let made = on(&scene, "standby", &keygen)
        .expect(0)
        .says(&["on this machine, with its TPM"]);
    let recipient = made.out.trim().to_owned();
    assert!(recipient.starts_with("age1tag1"), "{recipient}");
    let mode = fs::metadata(scene.path("standby.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    on(&scene, "standby", &keygen).expect(1).says(&["left as it is"]);

    scene.run(&["backup", "keygen", "--out", "safe.key"]).expect(0);
    let in_safe = String::from_utf8(scene.read("safe.key")).unwrap();
    let in_safe = in_safe.lines().next().unwrap().rsplit(' ').next().unwrap();
    let create = [
        "backup",
        "create",
        "--recipient",
        &recipient,
        "--recipient",
        in_safe,
    ];
    on(
        &scene,
        "first",
        &[&create[..], &["--out", "keys.backup"]].concat(),
    )
    .expect(0);

    // Not by the first machine's own TPM, nor by a third, nor without one.
    let restore = |keyring: &str| {
        let restore = [
            "backup",
            "restore",
            "keys.backup",
            "--identity-file",
            "standby.key",
        ];
        on(&scene, keyring, &restore)
    };
    let show = ["backup", "show", "keys.backup", "--identity-file", "standby.key"];
    for machine in ["first", "third"] {
        restore(machine)
            .expect(1)
            .says(&["`keys.backup`", "none of the 1 identities opens it"]);
        on(&scene, machine, &show).expect(1).says(&["opens it"]);
    }
    assert_eq!(keys_of(&scene, "third"), 0, "nothing was restored");
    scene.write("passphrase", "correct horse\n");
    fs::set_permissions(scene.path("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
    let init = [
        "init",
        "--custody",
        "passphrase",
        "--passphrase-file",
        "passphrase",
    ];
    on(&scene, "software", &init).expect(0);
    let on_software = ["--passphrase-file", "passphrase"];
    let software = |arguments: &[&str]| on(&scene, "software", &[&on_software[..], arguments].concat());
    software(&show)
        .expect(1)
        .says(&["this keyring is on none", "--keyring"]);
    software(&["backup", "keygen", "--tpm", "--out", "x"])
        .expect(1)
        .says(&["not on a TPM", "--custody tpm"]);
    assert!(!scene.path("x").exists());
    // Nor by whoever copied all files of the machine that stands by, but its TPM.
    copy_folder(&scene.path("standby"), &scene.path("copy"));
    fs::remove_dir_all(scene.path("copy/tpm")).unwrap();
    restore("copy").expect(1).says(&["another TPM"]);
    // Whoever puts another TPM in its place gets no further.
    copy_folder(&scene.path("third"), &scene.path("swapped"));
    restore("swapped")
        .expect(1)
        .says(&["none of the 1 identities opens it"]);

    let shown = on(&scene, "standby", &show).expect(0);
    assert!(shown.out.contains("notes@v1"), "{shown}");
    restore("standby").expect(0);
    assert_eq!(keys_of(&scene, "standby"), 1);
    let entry = |keyring: &str| {
        let shown = on(&scene, keyring, &["key", "show", "notes", "--json"]).expect(0);
        shown.lines()[0]["key_id"].clone()
    };
    assert_eq!(entry("first"), entry("standby"));
    // The other recipient's identity opens it, too, on a third machine.
    on(
        &scene,
        "third",
        &["backup", "restore", "keys.backup", "--identity-file", "safe.key"],
    )
    .expect(0);
}

#[test]
fn a_backup_is_made_while_a_host_runs_and_its_file_is_the_caller_s() {
    let scene = Scene::new();
    let recipient = scene.run(&["backup", "keygen", "--out", "identity"]).expect(0);
    let recipient = recipient.out.trim();
    fs::create_dir(scene.path("elsewhere")).unwrap();
    let child = running(&scene, WAITS);
    let host = format!("the running host, process {}, did it", child.id());
    // Without a passphrase, and from another folder than the host's: paths are the caller's.
    let create = |out: &str| {
        let mut command = scene.command(&["backup", "create", "--recipient", recipient, "--out", out]);
        command.current_dir(scene.path("elsewhere"));
        command.env("CLAVIGER_KEYRING", scene.path("keyring"));
        finish(command)
    };
    let made = create("keys.backup").expect(0).says(&[&host]);
    assert!(made.out.contains("3 keys and 0 secrets"), "{made}");
    let place = scene.path("elsewhere/keys.backup");
    let mode = fs::metadata(&place).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let whole = fs::read(&place).unwrap();
    create("keys.backup").expect(1).says(&["left as it is"]);
    assert_eq!(fs::read(&place).unwrap(), whole);
    create("no/such/folder").expect(1).says(&["cannot be written"]);
    let names: Vec<_> = fs::read_dir(scene.path("elsewhere"))
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert_eq!(names, ["keys.backup"], "no half is left");

    let show = [
        "backup",
        "show",
        "elsewhere/keys.backup",
        "--identity-file",
        "identity",
    ];
    let shown = scene.run(&show).expect(0);
    assert!(shown.out.contains("release@v1"), "{shown}");
    kill(&child, "-INT");
    ended(child).expect(130);
    let asked = scene
        .events()
        .iter()
        .filter(|event| event["event"] == "backup-requested")
        .count();
    assert_eq!(
        asked, 1,
        "what was refused before the host was asked is not on the log"
    );
    scene.run(&["audit", "verify"]).expect(0);
    // The control: at rest it needs the passphrase.
    create("second.backup").expect(1);
}
