//! What every command writes where: JSON for programs, data apart from messages, keys that other programs read, completions, manuals,
//! and pipes that close.

use std::fs;
use std::process::Command;

use crate::cli_scene::{HEAD, Scene, binary, finish};

/// Every command that has an answer, in an order in which each can do its work; whether it opens the keyring, and its exit code.
const COMMANDS: [(&str, bool, i32); 29] = [
    ("new first", false, 0),
    ("check bot.toml", false, 0),
    ("check bad.toml", false, 1),
    ("pin bot.toml", false, 0),
    ("pin bot.toml --dry-run", false, 0),
    ("key create extra --profile labeled --label extra", true, 0),
    ("key list", false, 0),
    ("key show release", false, 0),
    ("key public release", false, 0),
    ("key public token --format pem", false, 0),
    ("key public token --format jwk", false, 0),
    ("run bot.toml echo", true, 0),
    ("explain bot.toml release", false, 0),
    ("explain bot.toml none", false, 3),
    ("grant suspend bot release", true, 0),
    ("grant list", false, 0),
    ("grant resume bot release", true, 0),
    ("agent suspend bot", true, 0),
    ("agent list", false, 0),
    ("agent resume bot", true, 0),
    ("panic", true, 0),
    ("panic --lift", true, 0),
    ("audit tail", false, 0),
    ("audit show 0 --proof", false, 0),
    ("audit verify", false, 0),
    ("audit checkpoint", true, 0),
    ("audit accept-clock", true, 0),
    ("doctor", false, 0),
    ("completions bash", false, 0),
];

#[test]
fn every_command_writes_json_to_stdout_and_nothing_else() {
    let scene = Scene::bare();
    let made = scene
        .open(&["init", "--custody", "passphrase", "--json"])
        .expect(0);
    assert_eq!((made.lines().len(), made.err.as_str()), (1, ""));
    for key in [
        "release --profile sshsig --namespace file",
        "token --profile jws --issuer i --audience a --algorithm p256",
    ] {
        let words: Vec<&str> = ["key", "create", "--json"]
            .into_iter()
            .chain(key.split(' '))
            .collect();
        assert_eq!(scene.open(&words).expect(0).lines().len(), 1);
    }
    scene.write("bad.toml", format!("{HEAD}nmae = 1\n"));
    for (line, opens, code) in COMMANDS {
        let words: Vec<&str> = ["--json"].into_iter().chain(line.split(' ')).collect();
        let said = if opens {
            scene.open(&words)
        } else {
            scene.run(&words)
        }
        .expect(code);
        let values = said.lines();
        assert!(
            !values.is_empty() && values.iter().all(serde_json::Value::is_object),
            "{said}"
        );
        assert!(said.messages().iter().all(serde_json::Value::is_object), "{said}");
    }
    let help = scene.run(&["--help"]).expect(0);
    assert!(help.out.contains("\n  man "), "{help}");
    let man = scene.run(&["man", "pages", "--json"]).expect(0);
    assert_eq!(man.lines()[0]["folder"], "pages");
}

#[test]
fn every_failure_is_json_on_stderr_with_its_exit_code() {
    let scene = Scene::new();
    scene.manifest("none.toml", HEAD);
    for (line, code, kind) in [
        ("init", 1, "failed"),
        ("key create release --profile sshsig", 2, "usage"),
        ("key create ../x --profile sshsig", 2, "usage"),
        ("key show none", 1, "failed"),
        ("key public none", 1, "failed"),
        ("pin missing.toml", 1, "failed"),
        ("check missing.toml", 1, "failed"),
        ("run missing.toml", 1, "failed"),
        ("run bot.toml", 1, "failed"),
        ("run none.toml --passphrase-file passphrase", 3, "denied"),
        ("explain missing.toml release", 1, "failed"),
        (
            "grant resume bot release --passphrase-file passphrase",
            1,
            "failed",
        ),
        ("audit show 100000", 1, "failed"),
        ("audit verify --key x", 2, "usage"),
        ("audit checkpoint", 1, "failed"),
        ("completions tcsh", 2, "usage"),
        ("man passphrase/x", 1, "failed"),
        ("nonsense", 2, "usage"),
        ("run bot.toml --passphrase x", 2, "usage"),
    ] {
        let words: Vec<&str> = line.split(' ').chain(["--json"]).collect();
        let said = scene.run(&words).expect(code);
        assert_eq!(said.out, "", "{said}");
        let error = &said.messages().pop().unwrap()["error"];
        assert_eq!(
            (error["exit"].as_i64(), error["kind"].as_str()),
            (Some(code.into()), Some(kind)),
            "{said}"
        );
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{said}"
        );
        let plain = scene.run(&line.split(' ').collect::<Vec<_>>()).expect(code);
        assert!(plain.out.is_empty() && plain.err.contains("error: "), "{plain}");
    }
}

#[test]
fn ssh_keygen_and_openssl_read_the_public_keys() {
    let scene = Scene::new();
    for key in ["release", "token", "notes"] {
        scene.write("key.pub", scene.run(&["key", "public", key]).expect(0).out);
        scene.write(
            "key.pem",
            scene
                .run(&["key", "public", key, "--format", "pem"])
                .expect(0)
                .out,
        );
        let jwk = scene
            .run(&["key", "public", key, "--format", "jwk"])
            .expect(0)
            .lines();
        assert!(jwk[0]["kty"].is_string() && jwk[0]["d"].is_null());
        for words in [
            &["ssh-keygen", "-l", "-f", "key.pub"][..],
            &["openssl", "pkey", "-pubin", "-noout", "-text", "-in", "key.pem"],
        ] {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            scene.prepare(&mut command);
            finish(command).expect(0);
        }
    }
}

#[test]
fn a_signature_made_through_the_command_verifies_with_ssh_keygen() {
    let scene = Scene::new();
    let signature = scene
        .script("sign release the release")
        .expect(0)
        .out
        .replace('|', "\n");
    scene.write("signature", signature);
    scene.write("content", "the release");
    scene.write(
        "signers",
        format!("bot {}", scene.run(&["key", "public", "release"]).expect(0).out),
    );
    let verify = |namespace: &str| {
        let mut command = Command::new("ssh-keygen");
        command.args([
            "-Y",
            "verify",
            "-f",
            "signers",
            "-I",
            "bot",
            "-n",
            namespace,
            "-s",
            "signature",
        ]);
        scene.prepare(&mut command);
        command.stdin(fs::File::open(scene.path("content")).unwrap());
        finish(command)
    };
    verify("file").expect(0);
    assert_ne!(verify("git").code, 0, "another namespace");
}

#[test]
fn completions_and_manuals_are_what_their_readers_take() {
    let scene = Scene::bare();
    for shell in ["bash", "zsh", "fish"] {
        let script = scene.run(&["completions", shell]).expect(0);
        for word in ["passphrase-file", "audit", "explain"] {
            assert!(script.out.contains(word), "{shell}: {word}");
        }
        assert!(!script.out.contains("panicked"));
    }
    scene.write("completions", scene.run(&["completions", "bash"]).expect(0).out);
    let mut bash = Command::new("bash");
    bash.args(["-n", "completions"]);
    scene.prepare(&mut bash);
    finish(bash).expect(0);
    scene.run(&["man", "pages"]).expect(0);
    let pages: Vec<_> = fs::read_dir(scene.path("pages"))
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    for page in ["claviger.1", "claviger-run.1", "claviger-audit-verify.1"] {
        assert!(pages.iter().any(|found| found == page), "{pages:?}");
    }
    assert!(!pages.iter().any(|page| page.contains("__compile")), "{pages:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic_and_a_full_disk_is_an_error() {
    let scene = Scene::new();
    for line in [
        "audit tail -n 1000",
        "doctor",
        "key list",
        "key list --json",
        "check bot.toml",
        "--help",
        "key --help",
        "completions bash",
        "audit show 0",
    ] {
        // `true` reads nothing; the shell tells how the command ended.
        let shell = |script: String| {
            let mut command = Command::new("bash");
            command.args(["-c", &script, "bash"]).arg(binary());
            scene.prepare(&mut command);
            finish(command)
        };
        shell(format!("set -o pipefail; \"$1\" {line} | true")).expect(0);
        shell(format!("\"$1\" {line} >&-")).expect(0);
        shell(format!("\"$1\" {line} 2>&-")).expect(0);
        if !line.contains("--help") {
            shell(format!("\"$1\" {line} >/dev/full"))
                .expect(1)
                .says(&["the output cannot be written", "No space left"]);
        }
    }
}

#[test]
fn help_and_version_are_data_and_a_bare_command_is_misuse() {
    let scene = Scene::bare();
    for words in [
        &["--help"][..],
        &["run", "--help"],
        &["--version"],
        &["--help", "--json"],
    ] {
        let said = scene.run(words).expect(0);
        assert!(!said.out.is_empty() && said.err.is_empty(), "{said}");
    }
    let help = scene.run(&["--help"]).expect(0);
    assert!(
        help.out.contains("Exit codes: 0 done") && !help.out.contains("__compile"),
        "{help}"
    );
    for (words, expected) in [
        (&[][..], "check, pin, run, "),
        (&["key"], "create, import, list"),
        (&["audit"], "tail, show"),
        (&["grant"], "list, suspend"),
    ] {
        let said = scene.run(words).expect(2);
        assert!(
            said.out.is_empty() && said.err.contains("Usage: claviger"),
            "{said}"
        );
        let said = scene.run(&[words, &["--json"]].concat()).expect(2);
        let message = said.messages()[0]["error"]["message"].clone();
        assert!(message.as_str().unwrap().contains(expected), "{said}");
        for hidden in ["__compile", "help,"] {
            assert!(!said.err.contains(hidden), "{hidden}: {said}");
        }
    }
}
