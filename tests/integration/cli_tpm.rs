//! The command on a TPM: keys that are brought into it, and a TPM that is locked, full, or cleared. The TPM outlives the commands, as a chip does.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::cli_bound::Machine;
use crate::cli_scene::{HEAD, Said, Scene, finish};

fn tool(scene: &Scene, program: &str, arguments: &str) -> Said {
    let mut command = Command::new(program);
    command.args(arguments.split(' '));
    scene.prepare(&mut command);
    finish(command)
}

fn words(scene: &Scene, text: &str) -> Said {
    scene.run(&text.split(' ').collect::<Vec<_>>())
}

fn on_tpm() -> (Scene, Machine) {
    let scene = Scene::bare();
    let machine = Machine::new(&scene, "chip");
    machine.init(&scene, &[]).expect(0);
    (scene, machine)
}

/// The one line of JSON that a command said.
fn json(said: &Said) -> Value {
    serde_json::from_str(said.out.trim()).unwrap()
}

#[test]
fn private_keys_of_every_form_are_brought_into_the_tpm_and_sign_there() {
    let (scene, machine) = on_tpm();
    tool(
        &scene,
        "openssl",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.pem",
    )
    .expect(0);
    tool(
        &scene,
        "openssl",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem",
    )
    .expect(0);
    tool(&scene, "openssl", "rsa -traditional -in rsa.pem -out rsa1.pem").expect(0);
    tool(
        &scene,
        "ssh-keygen",
        "-q -t ecdsa -b 256 -N horse -C x -a 4 -f ssh",
    )
    .expect(0);
    tool(
        &scene,
        "openssl",
        "pkcs8 -topk8 -in p256.pem -passout pass:horse -out locked.pem",
    )
    .expect(0);
    scene.write("word", "horse\n");
    scene.write("wrong", "house\n");
    for file in ["word", "wrong"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(scene.path(file), mode).unwrap();
    }
    let sshsig = "--profile sshsig --namespace file --accept-imported --json";
    let taken = words(&scene, &format!("key import release {sshsig} --file p256.pem"))
        .expect(0)
        .says(&["remove the file and its copies"]);
    let shown = json(&taken);
    assert_eq!(
        (&shown["custody"], &shown["source"]),
        (&"tpm".into(), &"imported".into()),
        "{shown}"
    );
    let public = tool(&scene, "openssl", "pkey -in p256.pem -pubout").expect(0).out;
    assert_eq!(
        words(&scene, "key public release --format pem").expect(0).out,
        public
    );
    // What the agent has signed verifies by ssh-keygen under the file's public key.
    scene.run(&["pin", "bot.toml"]).expect(0);
    let signature = scene
        .run(&["run", "bot.toml", "sign release content"])
        .expect(0)
        .out;
    scene.write("content.sig", signature.replace('|', "\n"));
    scene.write("content", "content");
    let mut check = Command::new("ssh-keygen");
    check.args("-Y check-novalidate -n file -s content.sig".split(' '));
    scene.prepare(&mut check);
    check.stdin(fs::File::open(scene.path("content")).unwrap());
    finish(check).expect(0);
    tool(&scene, "ssh-keygen", "-y -P horse -f ssh").expect(0);

    // Encrypted, with the passphrase of its own.
    words(&scene, &format!("key import again {sshsig} --file locked.pem"))
        .expect(1)
        .says(&["--key-passphrase-file FILE"]);
    words(
        &scene,
        &format!("key import again {sshsig} --file locked.pem --key-passphrase-file wrong"),
    )
    .expect(1)
    .says(&["passphrase is wrong"]);
    words(
        &scene,
        &format!("key import again {sshsig} --file locked.pem --key-passphrase-file word"),
    )
    .expect(1)
    .says(&["release"]);
    words(
        &scene,
        &format!("key import again {sshsig} --file p256.pem --key-passphrase-file word"),
    )
    .expect(2)
    .says(&["not encrypted"]);
    let taken = words(
        &scene,
        &format!("key import ssh {sshsig} --file ssh --key-passphrase-file word"),
    )
    .expect(0);
    assert_eq!(json(&taken)["custody"], "tpm");
    let line = String::from_utf8(scene.read("ssh.pub")).unwrap();
    let published = words(&scene, "key public ssh --format openssh").expect(0).out;
    assert_eq!(published.split(' ').nth(1), line.split(' ').nth(1));

    // RSA, which lives in a TPM alone; its client assertion is signed there.
    let app = "--profile github-app --app 42 --accept-imported --json";
    let taken = words(&scene, &format!("key import app {app} --file rsa1.pem")).expect(0);
    assert_eq!(json(&taken)["custody"], "tpm");
    let public = tool(&scene, "openssl", "pkey -in rsa.pem -pubout").expect(0).out;
    assert_eq!(words(&scene, "key public app --format pem").expect(0).out, public);
    words(&scene, &format!("key import twin {app} --file rsa.pem"))
        .expect(1)
        .says(&["app"]);
    tool(
        &scene,
        "openssl",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out big.pem",
    )
    .expect(0);
    words(&scene, &format!("key import big {app} --file big.pem"))
        .expect(1)
        .says(&["2048 bits"]);
    let soft = [
        "--keyring",
        "soft",
        "init",
        "--custody",
        "passphrase",
        "--passphrase-file",
        "passphrase",
    ];
    scene.run(&soft).expect(0);
    words(
        &scene,
        &format!("--keyring soft --passphrase-file passphrase key import app {app} --file rsa.pem"),
    )
    .expect(1)
    .says(&["RSA keys live in a TPM and nowhere else"]);

    // The TPM says that it did not make the key.
    words(&scene, "key create evidence --profile attest").expect(0);
    words(
        &scene,
        "key create born --profile labeled --label x --algorithm p256",
    )
    .expect(0);
    for (key, attributes) in [("release", "00040440"), ("born", "00040472")] {
        words(
            &scene,
            &format!("key attest {key} --by evidence --out {key}-proof"),
        )
        .expect(0);
        let area = scene.read(&format!("{key}-proof/{key}.tpmt"));
        assert_eq!(hex::encode(&area[4..8]), attributes, "{key}");
    }
    drop(machine);
}

#[test]
fn a_key_that_tpm2_tools_had_this_tpm_wrap_is_taken_over() {
    let (scene, machine) = on_tpm();
    // Two more machines: one with another TPM, one without any.
    let other = Machine::new(&scene, "chip2");
    let elsewhere = [
        "--keyring",
        "other",
        "init",
        "--custody",
        "swtpm",
        "--tcti",
        &other.tcti,
    ];
    scene.run(&elsewhere).expect(0);
    let soft = [
        "--keyring",
        "soft",
        "init",
        "--custody",
        "passphrase",
        "--passphrase-file",
        "passphrase",
    ];
    scene.run(&soft).expect(0);
    let path = |name: &str| scene.path(name).to_str().unwrap().to_owned();
    let (public, private, pem) = (path("k.pub"), path("k.priv"), path("k.pem"));
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign|decrypt";
    let create = [
        "create",
        "-C",
        "0x81000001",
        "-G",
        "ecc256",
        "-a",
        attributes,
        "-u",
        &public,
        "-r",
        &private,
    ];
    machine.tpm2(&create);
    machine.tpm2(&["flushcontext", "-t"]);
    machine.tpm2(&[
        "encodeobject",
        "-C",
        "0x81000001",
        "-u",
        &public,
        "-r",
        &private,
        "-o",
        &pem,
    ]);
    machine.tpm2(&["flushcontext", "-t"]);
    machine.tpm2(&["flushcontext", "-l"]);
    let words = |text: &str| words(&scene, text);
    let import = "key import release --profile sshsig --namespace file --accept-imported --file k.pem";
    words(&format!("--keyring other {import}"))
        .expect(1)
        .says(&["another TPM"]);
    words(&format!("--keyring soft --passphrase-file passphrase {import}"))
        .expect(1)
        .says(&["a keyring on that TPM"]);
    words(&format!("{import} --custody software"))
        .expect(1)
        .says(&["a keyring on that TPM"]);
    words(&format!("{import} --format pkcs8"))
        .expect(1)
        .says(&["in the form `tss2`"]);
    words("key import release --profile attest --accept-imported --file k.pem")
        .expect(1)
        .says(&["is not imported"]);
    words("key import app --profile github-app --app 42 --accept-imported --file k.pem").expect(2);
    let taken = words(&format!("{import} --json --format tss2"))
        .expect(0)
        .says(&["may have it still"]);
    let shown = json(&taken);
    assert_eq!(
        (&shown["custody"], &shown["source"]),
        (&"tpm".into(), &"imported".into()),
        "{shown}"
    );
    words("key import twin --profile sshsig --namespace file --accept-imported --file k.pem")
        .expect(1)
        .says(&["release"]);
    let mut print = Command::new("tpm2");
    print.args(["print", "-t", "TPM2B_PUBLIC", "-f", "pem", &public]);
    scene.prepare(&mut print);
    let expected = finish(print).expect(0).out;
    assert_eq!(
        words("key public release --format pem").expect(0).out.trim(),
        expected.trim()
    );
    scene.run(&["pin", "bot.toml"]).expect(0);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
}

#[test]
fn a_locked_or_full_tpm_keeps_nobody_from_the_keyring() {
    let (scene, machine) = on_tpm();
    scene.manifest(
        "bot.toml",
        format!("{HEAD}\n[grants.release]\nsign = {{ key = \"release\", namespace = \"file\" }}\n"),
    );
    let create = |name: &str, more: &str| {
        words(
            &scene,
            &format!("key create {name} --profile sshsig --namespace file --algorithm p256{more}"),
        )
    };
    create("release", " --revocation hardware").expect(0);
    // Somebody else's index, which counts guesses, and a guesser.
    machine.tpm2(&[
        "nvdefine",
        "0x01500001",
        "-C",
        "o",
        "-s",
        "8",
        "-p",
        "right",
        "-a",
        "authread|authwrite",
    ]);
    for _ in 0..4 {
        assert!(!machine.tries(&["nvread", "0x01500001", "-P", "wrong"]));
    }
    assert!(
        !machine.tries(&["nvread", "0x01500001", "-P", "right"]),
        "the control: it is locked"
    );
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
    create("other", "").expect(0);
    create("hard", " --revocation hardware").expect(0);
    scene.run(&["keyring", "reseal"]).expect(0);
    scene.run(&["key", "revoke", "hard"]).expect(0);
    scene.run(&["audit", "checkpoint"]).expect(0);
    assert!(scene.run(&["doctor"]).out.contains("TPM answers"));

    // Full: nothing that is smaller than a counter fits, and none of the counters that a TPM keeps room for.
    let mut index = 0x0150_0100_u32;
    for (size, kind) in [("2048", ""), ("512", ""), ("64", ""), ("8", ""), ("8", "|nt=0x1")] {
        let define = |index: u32| {
            let attributes = format!("ownerread|ownerwrite|no_da{kind}");
            machine.tries(&[
                "nvdefine",
                &format!("{index:#010x}"),
                "-C",
                "o",
                "-s",
                size,
                "-a",
                &attributes,
            ])
        };
        while define(index) {
            index += 1;
        }
    }
    let keys = scene.run(&["key", "list"]).expect(0).out;
    create("more", " --revocation hardware")
        .expect(1)
        .says(&["no room for another counter", "revoke those that are not needed"]);
    assert_eq!(
        scene.run(&["key", "list"]).expect(0).out,
        keys,
        "nothing half-made"
    );
    create("more", "").expect(0);
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
    scene.run(&["key", "revoke", "release"]).expect(0);
    create("fresh", " --revocation hardware").expect(0);
}

#[test]
fn a_cleared_tpm_is_named_by_every_command_and_what_is_left() {
    let (scene, machine) = on_tpm();
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
    scene.run(&["run", "bot.toml", "sign release x"]).expect(0);
    tool(&scene, "openssl", "genpkey -algorithm ED25519 -out old.pem").expect(0);
    machine.tpm2(&["clear"]);
    for command in [
        "run bot.toml sign",
        "key create y --profile labeled --label x",
        "key create y --profile sshsig --namespace a --revocation hardware",
        "key import y --profile labeled --label x --accept-imported --file old.pem",
        "key revoke release",
        "key rotate release",
        "audit checkpoint",
        "keyring reseal",
        "keyring reseal --pcr sha256:0 --recovery-out code",
    ] {
        let said = words(&scene, command).expect(1);
        assert_eq!(said.out, "", "{command}");
        said.says(&["or the TPM was cleared", "backup restore"]);
    }
    assert!(!scene.path("code").exists(), "nothing was sealed for it");
    let doctor = scene.run(&["doctor"]).expect(1);
    assert!(doctor.out.contains("or the TPM was cleared"), "{doctor}");
}
