//! Evidence in the hands of a real guest, and proofs of keys from the real command. What others make of them is in `hardware`.

use std::process::Command;
use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use claviger::{Answer, InstanceEnd};
use claviger_core::Algorithm;
use claviger_core::audit::{Event, Settlement};
use claviger_core::profile::Profile;
use kit::Guest;
use kit::entries::uses;
use kit::stage::{Stage, events_of, play};
use kit::vault::Vault;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::cli_scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_passes_on_evidence_that_it_did_not_write() {
    let folder = TempDir::new().unwrap();
    let vault = Vault::swtpm(folder.path()).await;
    vault.key("evidence", Profile::Attest {}, Algorithm::P256).await;
    let stage = Arc::new(Stage::new(vault));
    let grants =
        "[grants.who]\nattest = { key = \"evidence\", audiences = [\"https://verifier.example\"] }\n";
    let agent = stage
        .load_guest(Guest::Evidence, "witness", grants)
        .await
        .unwrap();
    let nonce = "ab".repeat(16);
    let script = [
        format!("attest https://verifier.example {nonce}"),
        format!("attest https://elsewhere.example {nonce}"),
        "attest https://verifier.example abcd".to_owned(),
        "grants".to_owned(),
    ];
    let report = play(&agent, &script.join("\n"), Vec::new()).await;
    assert_eq!(report.end, InstanceEnd::Finished, "{report:?}");
    let Answer::Done(answer) = report.answer else {
        panic!("{report:?}");
    };
    let said: Vec<&str> = answer.lines().collect();
    let parts: Vec<&str> = said[0].split(' ').collect();
    let [token, quote, _, pcrs, _, _] = parts[..] else {
        panic!("{answer}");
    };
    let payload = Base64UrlUnpadded::decode_vec(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(claims["eat_nonce"], Base64UrlUnpadded::encode_string(&[0xAB; 16]));
    assert_eq!(claims["claviger"]["agent"], "witness");
    let bound = hex::encode(Sha256::digest(token.rsplit_once('.').unwrap().0));
    assert!(
        quote.contains(&bound) && quote.contains(&hex::encode(Sha256::digest(hex::decode(pcrs).unwrap())))
    );
    assert_eq!(said[1..3], ["refused NotGranted", "refused Invalid"]);
    assert!(said[3] == "who:attest", "{answer}");
    drop(agent);
    let log = stage.close().await;
    let settled: Vec<_> = uses(&log).into_values().map(|(_, settled)| settled).collect();
    assert_eq!(settled, [Some(Settlement::Released)]);
    let told = events_of(&log, "witness");
    assert_eq!(
        told.iter()
            .filter(|event| matches!(event, Event::Denied { .. }))
            .count(),
        2
    );
}

#[test]
fn the_command_writes_a_proof_that_openssl_verifies_and_never_over_another() {
    let scene = Scene::bare();
    scene.run(&["init", "--custody", "swtpm"]).expect(0);
    let labeled = ["key", "create", "release", "--profile", "labeled", "--label", "x"];
    scene
        .run(&[&labeled[..], &["--revocation", "hardware"]].concat())
        .expect(0);
    scene.run(&["key", "attest", "release"]).expect(1).says(&[
        "no active key with profile `attest`",
        "claviger key create evidence --profile attest",
    ]);
    scene
        .run(&["key", "create", "evidence", "--profile", "attest"])
        .expect(0);
    let shown: Value =
        serde_json::from_str(&scene.run(&["key", "show", "release", "--json"]).expect(0).out).unwrap();
    assert_eq!(shown["revocation"], "hardware");
    let nonce = "cd".repeat(16);
    let said = scene
        .run(&["key", "attest", "release", "--nonce", &nonce, "--json"])
        .expect(0);
    let said: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(said["nonce"], nonce);
    let verifies = |file: &str| {
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256", "-verify", "evidence.ak.pem"]);
        command.args(["-signature", "release.attest.sig", file]);
        scene.prepare(&mut command);
        command
            .output()
            .expect("openssl: apt-get install openssl")
            .status
            .success()
    };
    assert!(verifies("release.attest"));
    scene.flip("release.attest", 30);
    assert!(!verifies("release.attest"));
    scene
        .run(&["key", "attest", "release"])
        .expect(1)
        .says(&["`./release.attest` cannot be written", "--out DIR"]);
    scene
        .run(&["key", "attest", "release", "--nonce", "abcd"])
        .expect(2);
    scene.run(&["key", "revoke", "release"]).expect(0);
    let log = scene.run(&["audit", "tail"]).expect(0).out;
    assert!(log.contains("a proof by evidence@v1"), "{log}");
}

#[test]
fn under_a_passphrase_there_is_no_evidence_and_no_key_that_hardware_refuses() {
    let scene = Scene::new();
    scene
        .open(&["key", "create", "e", "--profile", "attest"])
        .expect(1)
        .says(&["gives no evidence", "needs a TPM"]);
    let labeled = [
        "key",
        "create",
        "l",
        "--profile",
        "labeled",
        "--label",
        "x",
        "--revocation",
        "hardware",
    ];
    scene
        .open(&labeled)
        .expect(1)
        .says(&["no device refuses a revoked key"]);
}
