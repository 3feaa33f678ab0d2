//! What the TPM does beyond signing: it refuses revoked keys, also to whoever puts an older keyring back, and gives evidence that other
//! people's programs verify. The software TPM's own state is kept: it stands for the chip.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use claviger_broker::keyring::KeyState;
use claviger_broker::local::{KeyCreation, NewKeyError, NewRoot, ProofError, ResealError, Rotation};
use claviger_broker::{LocalBroker, ManualClock};
use claviger_core::custody::{CustodyError, CustodyKind};
use claviger_core::key::KeySpec;
use claviger_core::profile::Profile;
use claviger_core::request::EvidenceInfo;
use claviger_core::{Algorithm, Broker as _, InstanceId, KeyName, Outcome, Refusal, Request};
use claviger_tpm::Tpm;
use jiff::SignedDuration;
use kit::vault::{
    PASSPHRASE, Vault, code, copy_folder, kill_swtpm, labeled, named, passphrase_root, pinned_manifest,
    sealer, sign, sshsig, start, tpm_options,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const GRANTS: &str =
    "[grants.release]\nsign = { key = \"release\" }\n[grants.control]\nsign = { key = \"control\" }\n";
const AUDIENCE: &str = "https://verifier.example";

fn creation(name: &str, profile: Profile, custody: CustodyKind) -> KeyCreation {
    KeyCreation {
        name: named(name),
        profile,
        algorithm: Algorithm::P256,
        custody,
    }
}

/// A keyring with a key that the TPM refuses once it is revoked, and one that it does not know from any other.
async fn two_keys(folder: &Path) -> Vault {
    let vault = Vault::swtpm(folder).await;
    let release = creation("release", sshsig(), CustodyKind::Tpm);
    vault
        .broker
        .create_key_revocable_by_hardware(release)
        .await
        .unwrap();
    vault.key("control", labeled(), Algorithm::P256).await;
    vault
}

async fn closed(broker: Arc<LocalBroker>) {
    broker.close().await.unwrap();
    drop(broker);
}

async fn opened(folder: &Path, tpm: &Tpm) -> Arc<LocalBroker> {
    LocalBroker::open(tpm_options(&folder.join("keyring"), tpm))
        .await
        .unwrap()
}

/// Puts a copy of the whole keyring, its log included, in its place.
fn put_back(folder: &Path) {
    std::fs::remove_dir_all(folder.join("keyring")).unwrap();
    copy_folder(&folder.join("copy"), &folder.join("keyring"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_keyring_put_back_brings_no_key_back_that_the_tpm_was_told_of() {
    let temporary = TempDir::new().unwrap();
    let folder = temporary.path();
    let Vault { broker, tpm, .. } = two_keys(folder).await;
    let tpm = tpm.unwrap();
    let who = start(&broker, GRANTS).await;
    for key in ["release", "control"] {
        sign(&broker, who, key, b"content").await.unwrap();
    }
    closed(broker).await;
    copy_folder(&folder.join("keyring"), &folder.join("copy"));

    let broker = opened(folder, &tpm).await;
    for key in ["release", "control"] {
        let record = broker
            .set_key_state(&named(key), KeyState::Revoked)
            .await
            .unwrap();
        assert_eq!(record.state, KeyState::Revoked);
    }
    assert_eq!(broker.unenforced(), Vec::<String>::new());
    closed(broker).await;

    put_back(folder);
    let broker = opened(folder, &tpm).await;
    let who = start(&broker, GRANTS).await;
    assert_eq!(
        broker.keyring().key(&named("release")).unwrap().state,
        KeyState::Active,
        "the copy knows nothing of it"
    );
    assert_eq!(
        sign(&broker, who, "release", b"content").await,
        Err(Refusal::Revoked)
    );
    sign(&broker, who, "control", b"content")
        .await
        .expect("the control: without a counter, the older keyring signs again");
    closed(broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_the_tpm_did_not_hear_of_is_told_again_when_the_keyring_is_opened() {
    let temporary = TempDir::new().unwrap();
    let folder = temporary.path();
    let Vault { broker, tpm, .. } = two_keys(folder).await;
    let tpm = tpm.unwrap();
    closed(broker).await;
    copy_folder(&folder.join("keyring"), &folder.join("copy"));

    let broker = opened(folder, &tpm).await;
    // The TPM is away: killed, and something else in its place.
    assert!(kill_swtpm(&tpm));
    std::fs::rename(folder.join("tpm"), folder.join("away")).unwrap();
    std::fs::write(folder.join("tpm"), b"not a folder").unwrap();
    let told = broker.set_key_state(&named("release"), KeyState::Revoked).await;
    assert!(
        matches!(told, Err(NewKeyError::NotEnforcedYet { .. })),
        "{told:?}"
    );
    assert_eq!(broker.unenforced().len(), 1);
    // Under another root nobody would ask this TPM again, and old copies would sign with it for ever.
    let root = NewRoot {
        spec: passphrase_root(),
        sealer: sealer(PASSPHRASE),
        resident: None,
    };
    let moved = broker.reseal(root, true, "me").await;
    assert!(matches!(moved, Err(ResealError::Untold(_))), "{moved:?}");
    let record = broker
        .keyring()
        .keys()
        .into_iter()
        .find(|key| key.key.name == named("release"));
    assert_eq!(
        record.unwrap().state,
        KeyState::Revoked,
        "the keyring has it whatever the TPM does"
    );
    closed(broker).await;
    std::fs::remove_file(folder.join("tpm")).unwrap();
    std::fs::rename(folder.join("away"), folder.join("tpm")).unwrap();

    let broker = opened(folder, &tpm).await;
    assert_eq!(broker.unenforced(), Vec::<String>::new());
    closed(broker).await;
    put_back(folder);
    let broker = opened(folder, &tpm).await;
    let who = start(&broker, GRANTS).await;
    assert_eq!(
        sign(&broker, who, "release", b"content").await,
        Err(Refusal::Revoked)
    );
    closed(broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_hangs_on_a_counter_of_its_own_and_a_purged_key_is_gone_for_the_tpm_too() {
    let temporary = TempDir::new().unwrap();
    let folder = temporary.path();
    let clock = Arc::new(ManualClock::at("2026-06-01T12:00:00Z".parse().unwrap()));
    let vault = Vault::swtpm_at(folder, Some(Arc::clone(&clock) as _)).await;
    let Vault { broker, tpm, .. } = vault;
    let tpm = tpm.unwrap();
    let first = creation("release", sshsig(), CustodyKind::Tpm);
    let first = broker.create_key_revocable_by_hardware(first).await.unwrap();
    let second = broker
        .rotate_key(&named("release"), Rotation::default())
        .await
        .unwrap();
    assert!(
        second.hardware.is_some(),
        "rotation keeps what the key was made with"
    );
    assert_ne!(first.hardware, second.hardware);
    closed(broker).await;
    copy_folder(&folder.join("keyring"), &folder.join("copy"));

    let open = async || {
        let options = tpm_options(&folder.join("keyring"), &tpm).clock(Arc::clone(&clock) as _);
        LocalBroker::open(options).await.unwrap()
    };
    let grants = "[grants.release]\nsign = { key = \"release\" }\n";
    let broker = open().await;
    let who = start(&broker, grants).await;
    sign(&broker, who, "release", b"content")
        .await
        .expect("the control");
    let week = Duration::from_secs(7 * 24 * 3600);
    broker.delete_key(&named("release"), week).await.unwrap();
    clock.advance(SignedDuration::from_hours(8 * 24));
    for record in broker.purge_key(&named("release")).await.unwrap() {
        assert_eq!(record.state, KeyState::Destroyed);
    }
    assert_eq!(broker.unenforced(), Vec::<String>::new());
    closed(broker).await;
    put_back(folder);
    let broker = open().await;
    let who = start(&broker, grants).await;
    assert_eq!(
        sign(&broker, who, "release", b"content").await,
        Err(Refusal::Revoked)
    );
    closed(broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_key_in_the_tpm_is_revoked_by_it_gives_evidence_or_is_proved_to_be_there() {
    let temporary = TempDir::new().unwrap();
    let vault = Vault::passphrase(temporary.path(), None).await;
    let software = creation("a", labeled(), CustodyKind::Software);
    let refused = vault.broker.create_key_revocable_by_hardware(software).await;
    assert!(
        matches!(refused, Err(NewKeyError::Custody(CustodyError::NotEnforced(_)))),
        "{refused:?}"
    );
    let evidence = creation("e", Profile::Attest {}, CustodyKind::Software);
    let refused = vault.broker.create_key(evidence).await;
    assert!(
        matches!(refused, Err(NewKeyError::CannotAttest(_))),
        "{refused:?}"
    );
    vault.key("notes", labeled(), Algorithm::Ed25519).await;
    let grants = format!("[grants.a]\nattest = {{ key = \"notes\", audiences = [\"{AUDIENCE}\"] }}\n");
    let refused = vault.broker.admit(&pinned_manifest(&grants), code()).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("needs a key with profile `attest`"), "{text}");

    let temporary = TempDir::new().unwrap();
    let vault = Vault::swtpm(temporary.path()).await;
    let evidence = creation("e", Profile::Attest {}, CustodyKind::Tpm);
    vault.broker.create_key(evidence).await.unwrap();
    let both = creation("f", Profile::Attest {}, CustodyKind::Tpm);
    let refused = vault.broker.create_key_revocable_by_hardware(both).await;
    assert!(matches!(refused, Err(NewKeyError::NotBoth)), "{refused:?}");
    vault
        .key_in(CustodyKind::TpmSealed, "sealed", labeled(), Algorithm::Ed25519)
        .await;
    vault.key("resident", labeled(), Algorithm::P256).await;
    let prove = async |name: &str, by: &str| {
        vault
            .broker
            .prove_resident(&KeySpec::from(named::<KeyName>(name)), &named(by), &[1; 32])
            .await
    };
    let refused = prove("sealed", "e").await;
    assert!(
        matches!(refused, Err(ProofError::NotResident { .. })),
        "{refused:?}"
    );
    let refused = prove("resident", "resident").await;
    assert!(matches!(refused, Err(ProofError::NoAttester(_))), "{refused:?}");
    let refused = prove("nothing", "e").await;
    assert!(matches!(refused, Err(ProofError::NoKey(_))), "{refused:?}");
    let proof = prove("resident", "e").await.unwrap();
    let name = format!("000b{}", hex::encode(Sha256::digest(&proof.public_area)));
    assert!(hex::encode(&proof.attest).contains(&name));
    prove("e", "e").await.expect("the key for evidence, too");
}

async fn ask(
    broker: &LocalBroker,
    who: InstanceId,
    audience: &str,
    nonce: &[u8],
) -> Result<EvidenceInfo, Refusal> {
    let request = Request::Attest {
        audience: audience.to_owned(),
        nonce: nonce.to_vec(),
    };
    match broker.perform(who, request).await? {
        Outcome::Evidence(evidence) => Ok(evidence),
        other => panic!("{other:?}"),
    }
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&Base64UrlUnpadded::decode_vec(payload).unwrap()).unwrap()
}

fn checkquote(folder: &Path, evidence: &EvidenceInfo, token: &str) -> bool {
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    write("ak.pem", evidence.attestation_key.as_bytes());
    write("quote", &evidence.quote);
    write("quote.sig", &evidence.quote_signature);
    // What a verifier hashes: the token up to its second dot.
    let bound = hex::encode(Sha256::digest(token.rsplit_once('.').unwrap().0));
    Command::new("tpm2")
        .args([
            "checkquote",
            "-Q",
            "-u",
            "ak.pem",
            "-m",
            "quote",
            "-s",
            "quote.sig",
            "-q",
            &bound,
        ])
        .current_dir(folder)
        .output()
        .expect("tpm2: apt-get install tpm2-tools")
        .status
        .success()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_evidence_within_its_grant_and_nothing_beyond() {
    let temporary = TempDir::new().unwrap();
    let vault = Vault::swtpm(temporary.path()).await;
    let broker = &vault.broker;
    broker
        .create_key(creation("e", Profile::Attest {}, CustodyKind::Tpm))
        .await
        .unwrap();
    let grants = format!(
        "[grants.who-am-i]\nattest = {{ key = \"e\", audiences = [\"{AUDIENCE}\", \"b\"], ttl = \"30 s\" }}\nuses = 3\n"
    );
    let who = start(broker, &grants).await;
    let nonce = [5; 24];
    let evidence = ask(broker, who, AUDIENCE, &nonce).await.unwrap();
    let said = claims(&evidence.token);
    assert_eq!(said["aud"], AUDIENCE);
    assert_eq!(said["eat_nonce"], Base64UrlUnpadded::encode_string(&nonce));
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 30);
    assert_eq!(said["claviger"]["component"], code().to_string());
    assert_eq!(
        said["claviger"]["manifest"],
        pinned_manifest(&grants).digest.to_string()
    );
    assert_eq!(said["claviger"]["agent"], "bot");
    assert_eq!(said["claviger"]["assurance"], "swtpm");
    assert!(checkquote(temporary.path(), &evidence, &evidence.token));
    let other = ask(broker, who, "b", &nonce).await.unwrap();
    assert!(
        !checkquote(temporary.path(), &evidence, &other.token),
        "another token's quote"
    );

    // Not decided by the agent: the audience, the nonce's length, how often.
    assert_eq!(
        ask(broker, who, "https://elsewhere.example", &nonce).await,
        Err(Refusal::NotGranted)
    );
    for length in [0, 15, 65] {
        assert_eq!(
            ask(broker, who, "b", &vec![1; length]).await,
            Err(Refusal::Invalid),
            "{length}"
        );
    }
    ask(broker, who, "b", &nonce)
        .await
        .expect("refused requests use nothing up");
    assert_eq!(ask(broker, who, "b", &nonce).await, Err(Refusal::OverBudget));

    let again = start(
        broker,
        &grants.replace("uses = 3\n", "").replace("who-am-i", "unlimited"),
    )
    .await;
    ask(broker, again, "b", &nonce).await.unwrap();
    broker.suspend(&named("bot"), &named("unlimited")).await.unwrap();
    assert_eq!(ask(broker, again, "b", &nonce).await, Err(Refusal::Suspended));
    broker.resume(&named("bot"), &named("unlimited")).await.unwrap();
    broker
        .set_key_state(&named("e"), KeyState::Disabled)
        .await
        .unwrap();
    assert_eq!(ask(broker, again, "b", &nonce).await, Err(Refusal::Revoked));
    broker.set_key_state(&named("e"), KeyState::Active).await.unwrap();
    let tpm = vault.tpm.as_ref().unwrap();
    assert!(kill_swtpm(tpm));
    std::fs::remove_dir_all(temporary.path().join("tpm")).unwrap();
    assert_eq!(
        ask(broker, again, "b", &nonce).await,
        Err(Refusal::Unavailable),
        "another TPM"
    );
    let refused = broker
        .admit(&pinned_manifest("[grants.s]\nsign = { key = \"e\" }\n"), code())
        .await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("signs evidence alone"), "{text}");
}
