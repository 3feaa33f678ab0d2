//! `ssh-keygen -Y verify` accepts what the `sshsig` profile makes, for both algorithms. Not a test of OpenSSH.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use claviger_core::key::{Algorithm, PublicKey, Signature};
use claviger_core::profile::{FrameContext, Narrowing, Profile};
use p256::ecdsa::signature::Signer as _;

#[track_caller]
fn check(key: &PublicKey, sign: impl Fn(&[u8]) -> Signature) {
    let folder = tempfile::tempdir().unwrap();
    let signers = folder.path().join("allowed_signers");
    std::fs::write(&signers, format!("bot {}\n", key.to_openssh("").unwrap())).unwrap();
    let profile = Profile::Sshsig {
        namespaces: ["file".parse().unwrap()].into(),
    };
    let rule = profile.narrow(&Narrowing::default()).unwrap();
    let context = FrameContext {
        key,
        now: jiff::Timestamp::UNIX_EPOCH,
        nonce: [0; 16],
    };
    let framed = rule.frame(b"content", &context).unwrap();
    let armoured = framed.finish(&sign(framed.message())).unwrap();
    let file = folder.path().join("signature");
    std::fs::write(&file, armoured).unwrap();

    let verify = |namespace: &str, content: &[u8]| {
        let mut child = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-I", "bot", "-n", namespace, "-f"])
            .arg(&signers)
            .arg("-s")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ssh-keygen is installed: apt-get install openssh-client");
        // It may refuse before it has read everything.
        drop(child.stdin.take().map(|mut stdin| stdin.write_all(content)));
        child.wait().unwrap().success()
    };
    assert!(verify("file", b"content"));
    assert!(!verify("file", b"other"));
    assert!(!verify("git", b"content"));
}

#[test]
fn openssh_verifies_ed25519() {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = PublicKey::ed25519(key.verifying_key().as_bytes()).unwrap();
    check(&public, |message| {
        Signature::new(Algorithm::Ed25519, key.sign(message).to_bytes())
    });
}

#[test]
fn openssh_verifies_p256() {
    let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
    let public = PublicKey::p256(key.verifying_key().to_encoded_point(false).as_bytes()).unwrap();
    check(&public, |message| {
        let signature: p256::ecdsa::Signature = key.sign(message);
        Signature::new(Algorithm::P256, signature.to_bytes().into())
    });
}
