//! What verifiers are given of a key, in the hands of `ssh-keygen`. JWK Sets are read by a JOSE library in `tests/`.

use std::process::{Command, Stdio};

use super::*;
use crate::keyring::published::{PublishError, SignerName, allowed_signers, jwks};

/// A key with this profile, made from this seed, at this version and in this state.
fn record(profile: Profile, seed: u8, version: u32, state: KeyState, deleted: bool) -> KeyRecord {
    let public = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key();
    KeyRecord {
        key: KeyRef {
            name: "signer".parse().unwrap(),
            version: KeyVersion(version),
        },
        state,
        profile,
        algorithm: Algorithm::Ed25519.into(),
        custody: CustodyKind::Software,
        assurance: Assurance::Passphrase,
        identity: claviger_core::PublicKey::ed25519(public.as_bytes())
            .unwrap()
            .into(),
        created: "2026-01-02T03:04:05.678Z".parse().unwrap(),
        updated: "2026-02-02T03:04:05.678Z".parse().unwrap(),
        source: KeySource::Generated,
        plan: RotationPlan::default(),
        until: None,
        deleted: deleted.then(now),
        reason: None,
        locked: false,
        hardware: None,
    }
}

fn git() -> Profile {
    Profile::Git {
        mails: ["bot@acme.example", "*@build.acme.example"]
            .map(|it| it.parse().unwrap())
            .into(),
        tags: [].into(),
    }
}

fn files() -> Profile {
    Profile::Sshsig {
        namespaces: ["file", "git", "mail"].map(|it| it.parse().unwrap()).into(),
    }
}

/// What `ssh-keygen` makes of a signature by the seed's key, for this name, at this time.
fn verifies(allowed: &str, seed: u8, namespace: &str, name: &str, time: &str) -> bool {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let key = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
    let key = ssh_key::PrivateKey::new(key.into(), "").unwrap();
    let signature = key.sign(namespace, ssh_key::HashAlg::Sha512, b"content").unwrap();
    std::fs::write(path("sig"), signature.to_pem(ssh_key::LineEnding::LF).unwrap()).unwrap();
    std::fs::write(path("allowed"), allowed).unwrap();
    let mut child = Command::new("ssh-keygen")
        .args([
            "-Y",
            "verify",
            "-n",
            namespace,
            "-I",
            name,
            "-f",
            &path("allowed"),
            "-s",
            &path("sig"),
        ])
        .args(["-O", &format!("verify-time={time}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ssh-keygen is missing: apt-get install openssh-client");
    drop(child.stdin.take().unwrap().write_all(b"content"));
    child.wait().unwrap().success()
}

#[test]
fn ssh_keygen_takes_each_version_for_its_namespace_names_and_times_alone() {
    let [old, young, revoked] = [
        record(git(), 1, 1, KeyState::Retired, false),
        record(git(), 2, 2, KeyState::Active, false),
        record(git(), 3, 3, KeyState::Revoked, false),
    ];
    let text = allowed_signers(&[&revoked, &young, &old], &[]).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("*@build.acme.example,bot@acme.example namespaces=\"git\",valid-after=\"20260102030405Z\",valid-before=\"20260202030406Z\" ssh-ed25519 "), "{text}");
    for (seed, namespace, name, time, expected) in [
        (1, "git", "bot@acme.example", "20260115000000Z", true),
        (1, "git", "x@build.acme.example", "20260202030405Z", true),
        (1, "git", "bot@acme.example", "20260202030407Z", false),
        (1, "git", "bot@acme.example", "20260102030404Z", false),
        (2, "git", "bot@acme.example", "20270101000000Z", true),
        (2, "git", "bot@acme.example", "20250101000000Z", false),
        (2, "file", "bot@acme.example", "20270101000000Z", false),
        (2, "git", "eve@acme.example", "20270101000000Z", false),
        (3, "git", "bot@acme.example", "20260115000000Z", false),
    ] {
        assert_eq!(
            verifies(&text, seed, namespace, name, time),
            expected,
            "{seed} {namespace} {name} {time}"
        );
    }
}

#[test]
fn whose_signatures_over_files_are_is_said_by_the_operator() {
    let record = record(files(), 4, 1, KeyState::Active, false);
    assert_eq!(allowed_signers(&[&record], &[]), Err(PublishError::NoPrincipal));
    let name: SignerName = "release@acme.example".parse().unwrap();
    let text = allowed_signers(&[&record], &[name]).unwrap();
    assert!(text.contains("namespaces=\"file,mail\""), "{text}");
    assert!(verifies(
        &text,
        4,
        "mail",
        "release@acme.example",
        "20270101000000Z"
    ));
    assert!(!verifies(
        &text,
        4,
        "git",
        "release@acme.example",
        "20270101000000Z"
    ));
    for bad in [
        "",
        "a b",
        "a,b",
        "\"a\"",
        "!a",
        "#a",
        "a\n",
        "ä",
        &"a".repeat(255),
    ] {
        assert_eq!(bad.parse::<SignerName>(), Err(PublishError::Name), "{bad:?}");
    }
}

#[test]
fn what_verifies_nothing_any_more_is_not_published() {
    let label = || Profile::Labeled {
        label: "x".parse().unwrap(),
    };
    for (state, deleted, listed) in [
        (KeyState::Active, false, true),
        (KeyState::Retiring, false, true),
        (KeyState::Active, true, false),
        (KeyState::Pending, false, false),
        (KeyState::Retired, false, false),
        (KeyState::Disabled, false, false),
        (KeyState::Revoked, false, false),
        (KeyState::Destroyed, false, false),
    ] {
        let record = record(label(), 5, 1, state, deleted);
        let set = jwks(&[&record]);
        assert_eq!(set.is_ok(), listed, "{state} {deleted}");
        let allowed = allowed_signers(&[&self::record(git(), 5, 1, state, deleted)], &[]);
        assert_eq!(
            allowed.is_ok(),
            (listed || state == KeyState::Retired) && !deleted,
            "{state} {deleted}"
        );
    }
    let versions = [
        record(label(), 5, 1, KeyState::Retiring, false),
        record(label(), 6, 2, KeyState::Active, false),
    ];
    let set = jwks(&[&versions[0], &versions[1]]).unwrap();
    let ids: Vec<_> = set["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, [versions[1].key_id(), versions[0].key_id()]);
    assert!(!set.to_string().contains("\"d\""));
    assert_eq!(
        allowed_signers(&[&versions[1]], &["a".parse().unwrap()]),
        Err(PublishError::NotSsh)
    );
}
