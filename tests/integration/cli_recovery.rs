//! The command when hardware dies: backups made, shown and restored, a root sealed anew, a folder that was copied without its TPM, and
//! files that are no backups.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use kit::judge::{python, root};
use kit::scan::Scanner;
use kit::vault::copy_folder;
use kit::verifiers::accepts;
use serde_json::Value;

use crate::cli_scene::{PASSPHRASE, Said, Scene, wait};

const SECRET: &str = "ghp_canaryCANARYcanary0042";

/// Adds the secret `github` to the scene's keyring.
fn add_secret(scene: &Scene) {
    let add = [
        "secret",
        "add",
        "github",
        "--kind",
        "bearer",
        "--origin",
        "https://api.test",
    ];
    let mut command = scene.opening(&add);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(SECRET.as_bytes()).unwrap();
    wait(child, "secret add".to_owned()).expect(0);
}

/// Makes `identity` in the scene, and returns its recipient.
fn identity(scene: &Scene) -> String {
    let said = scene.run(&["backup", "keygen", "--out", "identity"]).expect(0);
    said.out.trim().to_owned()
}

fn create(scene: &Scene, recipient: &str, out: &str) -> Said {
    scene.open(&["backup", "create", "--recipient", recipient, "--out", out])
}

/// With the passphrase, on the keyring `new`.
fn on_new(scene: &Scene, arguments: &[&str]) -> Said {
    scene.open(&[&["--keyring", "new"], arguments].concat())
}

fn restore(scene: &Scene, more: &[&str]) -> Said {
    let restore = ["backup", "restore", "keys.backup", "--identity-file", "identity"];
    on_new(scene, &[&restore[..], more].concat())
}

fn keys_of_new(scene: &Scene) -> usize {
    let listed = scene.run(&["--keyring", "new", "key", "list", "--json"]);
    listed.expect(0).lines().len()
}

#[test]
fn a_keyring_comes_back_with_its_keys_and_secrets() {
    let scene = Scene::new();
    add_secret(&scene);
    let recipient = identity(&scene);
    let made = create(&scene, &recipient, "keys.backup")
        .expect(0)
        .says(&["keep the two apart"]);
    assert!(made.out.contains("3 keys and 1 secrets"), "{made}");
    for file in ["keys.backup", "identity"] {
        let mode = fs::metadata(scene.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let events = scene.events();
    let asked = events
        .iter()
        .find(|event| event["event"] == "backup-requested")
        .unwrap();
    assert_eq!(asked["recipients"], serde_json::json!([recipient]));
    assert_eq!(
        (asked["keys"].as_u64(), asked["secrets"].as_u64()),
        (Some(3), Some(1))
    );
    assert!(asked["by"].as_str().unwrap().starts_with("uid "), "{asked}");

    let show = ["backup", "show", "keys.backup", "--identity-file", "identity"];
    let shown = scene.run(&show).expect(0);
    for part in [
        "release@v1",
        "token@v1",
        "notes@v1",
        "github@v1",
        "https://api.test",
    ] {
        assert!(shown.out.contains(part), "{part}: {shown}");
    }
    let json = scene.run(&[&show[..], &["--json"]].concat()).expect(0).lines();
    assert_eq!(json[0]["secrets"][0]["material"], true);
    assert!(!format!("{shown}{json:?}").contains("canary"), "never a value");

    on_new(&scene, &["init", "--custody", "passphrase"]).expect(0);
    let vkey = json[0]["vkey"].as_str().unwrap();
    restore(&scene, &["--key", "claviger/audit+00000000+AAAA"])
        .expect(6)
        .says(&["keys.backup", "it is of the keyring"]);
    assert_eq!(keys_of_new(&scene), 0, "nothing was restored");
    let said = restore(&scene, &["--key", vkey])
        .expect(0)
        .says(&["knows nothing of what came after"]);
    assert!(said.out.contains("restored key release@v1"), "{said}");
    assert!(said.out.contains("restored secret github@v1"), "{said}");

    let public = |keyring: &str| {
        let said = scene
            .run(&["--keyring", keyring, "key", "public", "release"])
            .expect(0);
        said.out.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(public("new"), public("keyring"));
    let signed = on_new(&scene, &["run", "bot.toml", "sign release x"]).expect(0);
    assert!(signed.out.contains("BEGIN SSH SIGNATURE"), "{signed}");
    let listed = scene
        .run(&["--keyring", "new", "key", "show", "release", "--json"])
        .expect(0)
        .lines();
    assert_eq!(listed[0]["assurance"], "passphrase");

    let again = restore(&scene, &[])
        .expect(0)
        .says(&["compare it with what `init` printed"]);
    assert!(again.out.contains("4 were there already"), "{again}");
    assert!(again.out.contains("nothing was changed"), "{again}");
    let verified = scene.run(&["--keyring", "new", "audit", "verify"]).expect(0);
    assert!(!verified.out.is_empty(), "{verified}");
}

#[test]
fn another_implementation_opens_a_backup_and_reads_it_as_it_is_documented() {
    let scene = Scene::new();
    add_secret(&scene);
    let script = root().join("tests/python/backup.py");
    let script = script.to_str().unwrap();
    // And the other way round: an identity that it made.
    let said = accepts(&python(), &[script, "keygen"], b"", "python3-venv").unwrap();
    let mut lines = said.lines();
    scene.write("identity", format!("# of rage\n{}\n", lines.next().unwrap()));
    fs::set_permissions(scene.path("identity"), fs::Permissions::from_mode(0o600)).unwrap();
    create(&scene, lines.next().unwrap(), "keys.backup").expect(0);
    let path = |name: &str| scene.path(name).to_str().unwrap().to_owned();
    let arguments = [script, "open", &path("keys.backup"), &path("identity")];
    let said = accepts(&python(), &arguments, b"", "python3-venv").expect("it opens");
    let content: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&content["format"], &content["signed"]),
        (&1.into(), &true.into())
    );
    let frames = content["frames"].as_array().unwrap();
    let named = |name: &str| frames.iter().find(|frame| frame["head"]["name"] == name).unwrap();
    assert_eq!(named("github")["value"], hex::encode(SECRET));
    assert_eq!(named("release")["value"].as_str().unwrap().len(), 64);
    scene
        .run(&["backup", "show", "keys.backup", "--identity-file", "identity"])
        .expect(0);
    // The control: one bit.
    let last = scene.read("keys.backup").len() - 1;
    scene.flip("keys.backup", last);
    assert!(accepts(&python(), &arguments, b"", "python3-venv").is_none());
}

#[test]
fn no_file_is_overwritten_and_no_half_is_left() {
    let scene = Scene::new();
    let recipient = identity(&scene);
    scene.write("taken", "precious");
    create(&scene, &recipient, "taken")
        .expect(1)
        .says(&["`taken`", "left as it is"]);
    scene
        .run(&["backup", "keygen", "--out", "taken"])
        .expect(1)
        .says(&["left as it is"]);
    assert_eq!(scene.read("taken"), b"precious");
    std::os::unix::fs::symlink("nowhere", scene.path("link")).unwrap();
    create(&scene, &recipient, "link").expect(1);
    create(&scene, &recipient, "no/such/folder")
        .expect(1)
        .says(&["cannot be written"]);
    for bad in [
        "age1",
        "AGE-SECRET-KEY-1",
        "ssh-ed25519 AAAA",
        "",
        "age1\u{1b}[2J",
    ] {
        let said = create(&scene, bad, "keys.backup")
            .expect(2)
            .says(&["is not a recipient"]);
        assert!(!said.err.contains('\u{1b}'), "{said}");
    }
    scene.write("wrong", "incorrect horse");
    let names = || scene.files().into_keys().collect::<Vec<_>>();
    let before = (names(), scene.events().len());
    scene
        .run(&[
            "--passphrase-file",
            "wrong",
            "backup",
            "create",
            "--recipient",
            &recipient,
            "--out",
            "keys.backup",
        ])
        .expect(1)
        .says(&["the passphrase is wrong"]);
    assert_eq!(
        (names(), scene.events().len()),
        before,
        "nothing was made, nor put on the log"
    );
    create(&scene, &recipient, "keys.backup").expect(0);
}

#[test]
fn what_is_no_backup_is_refused_with_its_name_and_place() {
    let scene = Scene::new();
    let recipient = identity(&scene);
    create(&scene, &recipient, "keys.backup").expect(0);
    let good = scene.read("keys.backup");
    on_new(&scene, &["init", "--custody", "passphrase"]).expect(0);
    let read = |file: &str| scene.run(&["backup", "show", file, "--identity-file", "identity"]);
    scene.write("cut", &good[..good.len() / 2]);
    scene.write("short", &good[..30]);
    scene.write("empty", "");
    scene.write("text", "hello");
    scene.write(
        "armoured",
        "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n",
    );
    let mut flipped = good.clone();
    let middle = good.len() - 100;
    flipped[middle] ^= 1;
    scene.write("flipped", &flipped);
    scene.write("longer", [&good[..], &[0; 1 << 20]].concat());
    for (file, code, parts) in [
        ("cut", 6, &["`cut`", "damaged or was cut off at byte"][..]),
        ("short", 6, &["`short`", "at byte"]),
        ("flipped", 6, &["`flipped`", "at byte", "does not authenticate"]),
        ("longer", 6, &["`longer`", "at byte"]),
        ("empty", 1, &["`empty`", "not a backup"]),
        ("text", 1, &["`text`", "not a backup"]),
        ("armoured", 1, &["`armoured`", "armoured"]),
        ("keyring", 1, &["`keyring`"]),
        ("/dev/zero", 1, &["`/dev/zero`", "not a plain file"]),
        ("missing", 1, &["`missing`", "No such file"]),
    ] {
        read(file).expect(code).says(parts);
        let restored = on_new(
            &scene,
            &["backup", "restore", file, "--identity-file", "identity"],
        );
        restored.expect(code).says(parts);
    }
    // As large as a disk: it is not read to its end.
    fs::File::create(scene.path("huge"))
        .and_then(|file| file.set_len(1 << 40))
        .unwrap();
    read("huge").expect(1).says(&["`huge`", "not a backup"]);

    scene.run(&["backup", "keygen", "--out", "other"]).expect(0);
    scene
        .run(&["backup", "show", "keys.backup", "--identity-file", "other"])
        .expect(1)
        .says(&["`keys.backup`", "none of the 1 identities opens it"]);
    scene.write("bad", "AGE-SECRET-KEY-1CANARYCANARY");
    scene.write("long", vec![b'#'; 20_000]);
    scene.write("sealed", &good[..1000]);
    for (file, part) in [
        ("bad", "line 1 of the identity file"),
        ("empty", "nothing in it"),
        ("long", "over 16 KiB"),
        ("sealed", "is an encrypted file"),
    ] {
        let said = scene.run(&["backup", "show", "keys.backup", "--identity-file", file]);
        let said = said.expect(1).says(&[part]);
        assert!(!said.err.contains("CANARY"), "{said}");
    }
    assert_eq!(keys_of_new(&scene), 0, "nothing was restored");
    read("keys.backup").expect(0);
}

#[test]
fn a_copied_folder_without_its_tpm_yields_nothing_and_says_what_to_type() {
    let scene = Scene::bare();
    scene.run(&["init", "--custody", "swtpm"]).expect(0);
    let key = [
        "key",
        "create",
        "release",
        "--profile",
        "sshsig",
        "--namespace",
        "file",
    ];
    scene
        .run(&[&key[..], &["--algorithm", "ed25519", "--custody", "tpm-sealed"]].concat())
        .expect(0);
    let resident = [
        "key",
        "create",
        "deploy",
        "--profile",
        "labeled",
        "--label",
        "deploy",
    ];
    scene
        .run(&[&resident[..], &["--algorithm", "p256"]].concat())
        .expect(0);
    scene.run(&["pin", "bot.toml"]).expect(0);
    add_secret(&scene);
    let recipient = identity(&scene);
    create(&scene, &recipient, "keys.backup")
        .expect(0)
        .says(&["key `deploy@v1` lives in the TPM"]);
    // What is to be looked for: the secret, and the seed as it stands in the backup.
    let script = root().join("tests/python/backup.py");
    let path = |name: &str| scene.path(name).to_str().unwrap().to_owned();
    let arguments = [
        script.to_str().unwrap(),
        "open",
        &path("keys.backup"),
        &path("identity"),
    ];
    let opened = accepts(&python(), &arguments, b"", "python3-venv").expect("it opens");
    let content: Value = serde_json::from_str(&opened).unwrap();
    let frames = content["frames"].as_array().unwrap();
    let seed = frames
        .iter()
        .find(|frame| frame["head"]["name"] == "release")
        .unwrap();
    let seed = hex::decode(seed["value"].as_str().unwrap()).unwrap();
    let mut scanner = Scanner::new();
    scanner.add("the secret", SECRET.as_bytes());
    scanner.add("the seed", &seed);

    copy_folder(&scene.path("keyring"), &scene.path("copy"));
    fs::remove_dir_all(scene.path("copy/tpm")).unwrap();
    let found = |folder: &str| -> Vec<String> {
        let hits = scanner.scan_files(&scene.path(folder));
        hits.iter().map(ToString::to_string).collect()
    };
    assert_eq!(found("copy"), Vec::<String>::new());
    assert_eq!(found("keys.backup"), Vec::<String>::new());
    fs::create_dir(scene.path("planted")).unwrap();
    scene.write("planted/one", [b"xx", &seed[..], b"yy"].concat());
    scene.write("planted/two", format!("token={SECRET}"));
    let hits = found("planted");
    for planted in ["one", "two"] {
        assert!(
            hits.iter().any(|hit| hit.contains(planted)),
            "the control: {hits:?}"
        );
    }

    let restore = "backup restore BACKUP";
    for command in [
        &["run", "bot.toml", "sign release x"][..],
        &["secret", "disable", "github"],
        &["backup", "create", "--recipient", &recipient, "--out", "stolen"],
        &["keyring", "reseal"],
    ] {
        let said = scene.run(&[&["--keyring", "copy"], command].concat()).expect(1);
        assert_eq!(said.out, "");
        said.says(&["another TPM, or the TPM was cleared", restore]);
    }
    assert!(!scene.path("stolen").exists());
    let doctor = scene.run(&["--keyring", "copy", "doctor"]).expect(1);
    assert!(doctor.out.contains(restore), "{doctor}");
    // The control: with its TPM it opens.
    fs::remove_dir_all(scene.path("copy/tpm")).unwrap();
    copy_folder(&scene.path("keyring/tpm"), &scene.path("copy/tpm"));
    scene
        .run(&["--keyring", "copy", "secret", "disable", "github"])
        .expect(0);

    // And what there is to do: the sealed key comes back under a passphrase if that is said, the resident one does not.
    on_new(&scene, &["init", "--custody", "passphrase"]).expect(0);
    let back = ["backup", "restore", "keys.backup", "--identity-file", "identity"];
    on_new(&scene, &back).expect(1).says(&[
        "this keyring is `passphrase`",
        "key `release@v1` was `swtpm`",
        "--weaken",
    ]);
    on_new(&scene, &[&back[..], &["--weaken"]].concat())
        .expect(0)
        .says(&[
            "key `deploy@v1` lived in a TPM and is lost",
            "claviger key create deploy --profile labeled --label deploy --algorithm p256",
        ]);
    let shown = scene
        .run(&["--keyring", "new", "key", "show", "release", "--json"])
        .expect(0)
        .lines();
    assert_eq!(
        (&shown[0]["custody"], &shown[0]["assurance"]),
        (&"software".into(), &"passphrase".into())
    );
    // On another TPM nothing needs a word.
    scene
        .run(&["--keyring", "next", "init", "--custody", "swtpm"])
        .expect(0);
    scene.run(&[&["--keyring", "next"], &back[..]].concat()).expect(0);
    let shown = scene
        .run(&["--keyring", "next", "key", "show", "release", "--json"])
        .expect(0)
        .lines();
    assert_eq!(
        (&shown[0]["custody"], &shown[0]["assurance"]),
        (&"tpm-sealed".into(), &"swtpm".into())
    );
}

#[test]
fn the_root_key_is_sealed_anew_for_another_passphrase_and_another_root() {
    let scene = Scene::new();
    add_secret(&scene);
    scene.write("second", "battery staple\n");
    fs::set_permissions(scene.path("second"), fs::Permissions::from_mode(0o600)).unwrap();
    let by = |file: &str, arguments: &[&str]| scene.run(&[&["--passphrase-file", file], arguments].concat());
    let reseal = ["keyring", "reseal"];
    // Nothing says where the new one is, and nobody is at a terminal.
    by("passphrase", &reseal)
        .expect(1)
        .says(&["--new-passphrase-file FILE"]);
    by(
        "passphrase",
        &[&reseal[..], &["--new-passphrase-file", "missing"]].concat(),
    )
    .expect(1);
    scene.write("short", "1234567");
    by(
        "passphrase",
        &[&reseal[..], &["--new-passphrase-file", "short"]].concat(),
    )
    .expect(1)
    .says(&["expected at least 8"]);
    by("passphrase", &["audit", "checkpoint"]).expect(0);

    let said = by(
        "passphrase",
        &[&reseal[..], &["--new-passphrase-file", "second"]].concat(),
    )
    .expect(0);
    said.says(&["an old copy of the keyring's folder still opens"]);
    by("passphrase", &["audit", "checkpoint"])
        .expect(1)
        .says(&["the passphrase is wrong"]);
    by("second", &["audit", "checkpoint"]).expect(0);
    by("second", &["run", "bot.toml", "sign release x"]).expect(0);

    // To a software TPM, which needs no passphrase; back only if it is said.
    by("second", &[&reseal[..], &["--custody", "swtpm"]].concat()).expect(0);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
    scene.run(&reseal).expect(0);
    let key = [
        "key",
        "create",
        "sealed",
        "--profile",
        "labeled",
        "--label",
        "x",
        "--algorithm",
        "ed25519",
    ];
    scene
        .run(&[&key[..], &["--custody", "tpm-sealed"]].concat())
        .expect(0);
    let back = [
        &reseal[..],
        &["--custody", "passphrase", "--new-passphrase-file", "passphrase"],
    ]
    .concat();
    scene
        .run(&back)
        .expect(1)
        .says(&["the keyring is `swtpm`, and would be `passphrase`", "--weaken"]);
    let resident = [
        "key",
        "create",
        "deploy",
        "--profile",
        "labeled",
        "--label",
        "x",
        "--algorithm",
        "p256",
    ];
    scene.run(&resident).expect(0);
    let weaken = [&back[..], &["--weaken"]].concat();
    scene
        .run(&weaken)
        .expect(1)
        .says(&["`deploy@v1` live in the keyring's TPM"]);
    scene.run(&["key", "revoke", "deploy"]).expect(0);
    scene
        .run(&weaken)
        .expect(0)
        .says(&["no TPM seals sealed@v1 any more"]);
    assert_eq!(PASSPHRASE, "correct horse", "which is in the file `passphrase`");
    scene.script("sign release x").expect(0);
    let kinds: Vec<_> = scene
        .events()
        .iter()
        .filter(|event| event["event"] == "reseal-requested")
        .map(|event| {
            format!(
                "{}→{}",
                event["from"].as_str().unwrap(),
                event["to"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "passphrase→passphrase",
            "passphrase→swtpm",
            "swtpm→swtpm",
            "swtpm→passphrase"
        ]
    );
    scene
        .run(
            &[
                &reseal[..],
                &["--custody", "swtpm", "--new-passphrase-file", "second"],
            ]
            .concat(),
        )
        .expect(2);
    assert!(
        Path::new(&scene.path("keyring/tpm")).exists(),
        "it is the operator's to remove"
    );
}
