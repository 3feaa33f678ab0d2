//! The audit log behind the command: damage, loss, failing disks, proofs, and what operators decide over grants.

use std::fs;
use std::process::Command;

use kit::entries::last_journal;
use serde_json::Value;

use crate::cli_scene::{GRANT, HEAD, Said, Scene, binary, finish};

#[test]
fn a_changed_byte_in_the_log_is_found_and_nothing_is_signed() {
    let scene = Scene::new();
    scene.script("sign release x").expect(0);
    scene.run(&["audit", "verify"]).expect(0);
    let (journal, ends) = last_journal(&scene.path("keyring/audit"));
    let journal = format!("keyring/audit/{}", journal.file_name().unwrap().to_str().unwrap());
    let good = scene.read(&journal);
    for entry in [0, 3, ends.len() - 1] {
        let start = if entry == 0 { 0 } else { ends[entry - 1] };
        // In its JSON, behind the length.
        scene.flip(&journal, start + 4 + 20);
        let named = format!("entry {entry} is damaged");
        scene.run(&["audit", "verify"]).expect(6).says(&[&named]);
        let said = scene.script("sign release x").expect(6).says(&[&named]);
        assert_eq!(said.out, "");
        scene.write(&journal, &good);
    }
    let checkpoint = scene.read("keyring/audit/checkpoint");
    scene.flip("keyring/audit/checkpoint", 20);
    scene.run(&["audit", "verify"]).expect(6);
    scene.script("sign release x").expect(6);
    scene.write("keyring/audit/checkpoint", checkpoint);
    scene.script("sign release x").expect(0);
}

#[test]
fn a_log_that_is_gone_or_another_s_is_noticed() {
    let scene = Scene::new();
    fs::rename(scene.path("keyring/audit"), scene.path("away")).unwrap();
    for command in [
        &["audit", "verify"][..],
        &["audit", "tail"],
        &["audit", "show", "0"],
        &["grant", "list"],
        &["explain", "bot.toml", "release"],
    ] {
        scene.run(command).expect(6).says(&["audit log is gone"]);
    }
    scene.script("sign release x").expect(6).says(&["restore"]);
    assert!(!scene.path("keyring/audit").exists(), "no new one is begun");
    scene.run(&["doctor"]).expect(1);
    let other = Scene::bare();
    other.open(&["init", "--custody", "passphrase"]).expect(0);
    fs::rename(other.path("keyring/audit"), scene.path("keyring/audit")).unwrap();
    scene.run(&["audit", "verify"]).expect(6);
    scene.script("sign release x").expect(6);
    fs::remove_dir_all(scene.path("keyring/audit")).unwrap();
    fs::rename(scene.path("away"), scene.path("keyring/audit")).unwrap();
    scene.script("sign release x").expect(0);
}

#[test]
fn a_disk_that_fails_during_a_use_releases_nothing() {
    // Which sync of the run fails; the last rows are beyond the run, and so the control.
    let mut unavailable = 0;
    for nth in [1, 2, 3, 4, 200] {
        let scene = Scene::new();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"]);
        command
            .arg(format!("inject=fdatasync:error=EIO:when={nth}+"))
            .arg(binary());
        command.args([
            "run",
            "bot.toml",
            "sign release x",
            "--passphrase-file",
            "passphrase",
            "--durability",
            "sync",
        ]);
        scene.prepare(&mut command);
        let said = finish(command);
        if nth == 200 {
            assert!(said.expect(0).out.contains("BEGIN SSH SIGNATURE"), "the control");
            continue;
        }
        assert!(!said.out.contains("SIGNATURE"), "{said}");
        assert!(said.code != 0, "{said}");
        if said.code == 5 {
            unavailable += 1;
            said.expect(5).says(&["claviger doctor"]);
        }
        // What is on disk still opens.
        scene.script("sign release y").expect(0);
        scene.run(&["audit", "verify"]).expect(0);
    }
    assert!(unavailable >= 2, "{unavailable}");
}

#[test]
fn an_entry_is_shown_with_a_proof_that_leads_to_the_root() {
    use base64ct::{Base64, Encoding as _};
    use sha2::{Digest as _, Sha256};
    let scene = Scene::new();
    let count = scene.run(&["audit", "verify", "--json"]).expect(0).lines()[0]["entries"]
        .as_u64()
        .unwrap();
    for index in 0..count {
        let shown = scene
            .run(&["audit", "show", &index.to_string(), "--proof", "--json"])
            .expect(0)
            .lines();
        let proof = &shown[0]["proof"];
        let (mut at, mut last) = (index, proof["size"].as_u64().unwrap() - 1);
        // RFC 9162 §2.1.3.2.
        let mut hash: [u8; 32] = Sha256::new()
            .chain_update([0])
            .chain_update(proof["hashed"].as_str().unwrap())
            .finalize()
            .into();
        for sibling in proof["hashes"].as_array().unwrap() {
            let sibling = Base64::decode_vec(sibling.as_str().unwrap()).unwrap();
            let node = Sha256::new().chain_update([1]);
            if at % 2 == 1 || at == last {
                hash = node.chain_update(&sibling).chain_update(hash).finalize().into();
                while at != 0 && at % 2 == 0 {
                    at >>= 1;
                    last >>= 1;
                }
            } else {
                hash = node.chain_update(hash).chain_update(&sibling).finalize().into();
            }
            at >>= 1;
            last >>= 1;
        }
        let checkpoint: Vec<&str> = proof["checkpoint"].as_str().unwrap().lines().collect();
        assert_eq!(Base64::encode_string(&hash), checkpoint[2], "entry {index}");
    }
    scene
        .run(&["audit", "show", &count.to_string()])
        .expect(1)
        .says(&["has no entry"]);
}

#[test]
fn the_verifier_key_of_init_verifies_and_no_other_does() {
    let scene = Scene::bare();
    let made = scene
        .open(&["init", "--custody", "passphrase", "--json"])
        .expect(0)
        .lines();
    let vkey = made[0]["vkey"].as_str().unwrap();
    scene.run(&["audit", "verify", "--key", vkey]).expect(0);
    let other = Scene::bare()
        .open(&["init", "--custody", "passphrase", "--json"])
        .expect(0)
        .lines();
    scene
        .run(&["audit", "verify", "--key", other[0]["vkey"].as_str().unwrap()])
        .expect(6);
    scene.run(&["audit", "verify", "--key", "rubbish"]).expect(2);
}

#[test]
fn an_operator_suspends_a_grant_and_resumes_it() {
    let scene = Scene::new();
    scene.script("sign release x").expect(0);
    scene.open(&["grant", "suspend", "bot", "release"]).expect(0);
    assert_eq!(
        scene.script("sign release x").expect(0).out,
        "refused Suspended\n"
    );
    let explained = scene
        .run(&["explain", "bot.toml", "release", "--json"])
        .expect(3)
        .lines();
    assert_eq!(explained[0]["denied_by"], "suspension");
    assert!(scene.run(&["grant", "list"]).expect(0).out.contains("suspended"));
    scene.open(&["grant", "resume", "bot", "release"]).expect(0);
    scene.run(&["explain", "bot.toml", "release"]).expect(0);
    assert!(scene.script("sign release x").expect(0).out.contains("SIGNATURE"));
    scene
        .open(&["grant", "resume", "bot", "release"])
        .expect(1)
        .says(&["is not suspended"]);
    scene
        .open(&["grant", "suspend", "bot", "relaese"])
        .expect(0)
        .says(&["warning:", "did you mean `bot release`"]);
}

#[test]
fn a_violation_suspends_a_grant_for_good_if_the_manifest_says_so() {
    let scene = Scene::new();
    scene.manifest(
        "strict.toml",
        format!("{HEAD}{GRANT}uses = 1\non-violation = \"suspend\"\n"),
    );
    let run = |script: &str| scene.open(&["run", "strict.toml", script]).expect(0).out;
    let answers = run("sign release x\nsign release x\nsign release x");
    let answers: Vec<&str> = answers.lines().collect();
    assert!(answers[0].contains("SIGNATURE"));
    assert_eq!(answers[1..], ["refused OverBudget", "refused Suspended"]);
    // More uses do not lift it: an operator does.
    scene.manifest(
        "strict.toml",
        format!("{HEAD}{GRANT}uses = 5\non-violation = \"suspend\"\n"),
    );
    assert_eq!(run("sign release x"), "refused Suspended\n");
    scene.open(&["grant", "resume", "bot", "release"]).expect(0);
    assert!(run("sign release x").contains("SIGNATURE"));
}

#[test]
fn explain_names_the_rule_that_denies_and_touches_nothing() {
    let scene = Scene::new();
    let rules = "expires = 2030-01-01T00:00:00Z\nhours = \"Mon-Fri 08:00-18:00 UTC\"\nuses = 1\n";
    scene.manifest(
        "rules.toml",
        format!("{HEAD}{GRANT}{rules}\n[grants.other]\nsign = {{ key = \"none\" }}\n"),
    );
    let before = scene.files();
    for (grant, at, denied_by) in [
        ("release", "2029-06-04T09:00:00Z", Value::Null),
        ("release", "2029-06-03T09:00:00Z", "hours".into()),
        ("release", "2029-06-04T18:00:00Z", "hours".into()),
        ("release", "2030-01-01T00:00:00Z", "expires".into()),
        ("other", "2029-06-04T09:00:00Z", "key-state".into()),
        ("relaese", "2029-06-04T09:00:00Z", "grant".into()),
    ] {
        let code = if denied_by.is_null() { 0 } else { 3 };
        let said: Said = scene
            .run(&["explain", "rules.toml", grant, "--at", at, "--json"])
            .expect(code);
        assert_eq!(said.lines()[0]["denied_by"], denied_by, "{said}");
        assert_eq!(said.lines()[0]["allowed"], denied_by.is_null());
    }
    assert!(before == scene.files(), "nothing was written");
    scene
        .run(&["explain", "rules.toml", "release", "--at", "soon"])
        .expect(2);
}

#[test]
fn the_last_entries_are_read_from_the_end_of_the_log() {
    let scene = Scene::new();
    // Two entries a use: enough to fill the first bundle of 256.
    let script = vec!["sign release x"; 140].join("\n");
    scene.script(&script).expect(0);
    let tail = |count: &str| scene.run(&["audit", "tail", "-n", count, "--json"]);
    let all = tail("100000").expect(0).lines();
    assert!(all.len() > 280, "{}", all.len());
    let end = |count: usize| all[all.len() - count..].to_vec();
    for count in [0, 1, 5, 20] {
        assert_eq!(tail(&count.to_string()).expect(0).lines(), end(count));
    }
    // What the end does not need is not read; that it is damaged says `audit verify`.
    let bundle = "keyring/audit/tile/entries/000";
    let good = scene.read(bundle);
    scene.write(bundle, &good[..good.len() / 2]);
    assert_eq!(tail("5").expect(0).lines(), end(5));
    tail("100000").expect(6);
    scene.run(&["audit", "verify"]).expect(6);
    scene.write(bundle, &good);
    // A checkpoint is only a hint where to begin.
    let checkpoint = String::from_utf8(scene.read("keyring/audit/checkpoint")).unwrap();
    let size = checkpoint.lines().nth(1).unwrap();
    for forged in ["0", "7", "999999", "18446744073709551615", "rubbish"] {
        let forged = checkpoint.replacen(&format!("\n{size}\n"), &format!("\n{forged}\n"), 1);
        scene.write("keyring/audit/checkpoint", forged);
        assert_eq!(tail("5").expect(0).lines(), end(5));
    }
    fs::remove_file(scene.path("keyring/audit/checkpoint")).unwrap();
    assert_eq!(tail("5").expect(0).lines(), end(5));
}
