//! What the TPM says of itself and its keys, verified by other people's tools, and refused by them when a bit of it is changed.

use std::path::Path;

use claviger_core::attest::{AttestingKey, QUOTED_PCRS};
use claviger_core::custody::Custody;
use claviger_core::profile::{EvidenceClaims, Profile, evidence};
use sha2::{Digest as _, Sha256};

use super::formats::{port, run, succeed, take_apart};
use super::*;

pub(super) struct Witness {
    custody: Arc<dyn Custody>,
    pub(super) name: KeyRef,
    pub(super) public: PublicKey,
    pub(super) stored: Vec<u8>,
    pub(super) open: Arc<dyn AttestingKey>,
}

pub(super) async fn witness(rig: &Rig, name: &str) -> Witness {
    let custody = rig.tpm.custody();
    let name = key_ref(name);
    let attester = custody.attester().expect("a TPM gives evidence");
    let Generated { public, material } = attester.generate(&name).await.unwrap();
    let stored = material.expose().to_vec();
    let open = attester.open(&name, &public, material).await.unwrap();
    Witness {
        custody: rig.tpm.custody(),
        name,
        public,
        stored,
        open,
    }
}

pub(super) fn token(key: &PublicKey, nonce: &[u8]) -> Framed {
    let (audience, agent) = (
        "https://verifier.example".parse().unwrap(),
        "bot".parse().unwrap(),
    );
    let claims = EvidenceClaims {
        audience: &audience,
        nonce,
        ttl: 60,
        agent: &agent,
        component: ComponentDigest::of(b"component"),
        manifest: ManifestDigest::of(b"manifest"),
        host_version: "0.1.0",
        assurance: claviger_core::custody::Assurance::Swtpm,
    };
    let context = FrameContext {
        key,
        now: Timestamp::UNIX_EPOCH,
        nonce: [0; 16],
    };
    evidence(&Profile::Attest {}, &claims, &context).unwrap()
}

pub(super) async fn to_prove(key: &KeyRef, by: &KeyRef) -> Permit {
    let sink = Arc::new(CountingSink::default());
    Permit::to_prove(
        sink,
        Arc::new(Epoch),
        Timestamp::UNIX_EPOCH,
        key.clone(),
        by.clone(),
    )
    .await
    .unwrap()
}

fn openssl_verifies(folder: &Path, key: &str, signature: &str, file: &str) -> bool {
    let args = ["dgst", "-sha256", "-verify", key, "-signature", signature, file];
    run("openssl", folder, &args).status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_believed_by_checkquote_and_openssl_and_not_when_a_bit_is_changed() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let folder = rig.folder.path();
        let witness = witness(&rig, "evidence").await;
        let message = token(&witness.public, &[7; 32]);
        let allowed = permit(&witness.name, &message, 1).await;
        let given = witness.open.evidence(&allowed, &message).await.unwrap();
        assert_eq!(&given.attestation_key, witness.open.attestation_key());
        assert_ne!(given.attestation_key, witness.public);
        let again = witness.open.evidence(&allowed, &message).await;
        assert!(matches!(again, Err(CustodyError::PermitMismatch)), "{again:?}");

        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
        write("ak.pem", given.attestation_key.to_pem().unwrap().as_bytes());
        write("key.pem", witness.public.to_pem().unwrap().as_bytes());
        write("quote", &given.quote);
        write("quote.sig", &given.quote_signature);
        write("token", message.message());
        write("token.sig", &given.signature.to_der().unwrap());
        // What a verifier computes of the token that it was given.
        let bound = hex::encode(Sha256::digest(message.message()));
        let check = |quote: &str, signature: &str, nonce: &str| {
            let args = [
                "checkquote",
                "-Q",
                "-u",
                "ak.pem",
                "-m",
                quote,
                "-s",
                signature,
                "-q",
                nonce,
            ];
            run("tpm2", folder, &args).status.success()
        };
        assert!(check("quote", "quote.sig", &bound));
        assert!(openssl_verifies(folder, "ak.pem", "quote.sig", "quote"));
        assert!(openssl_verifies(folder, "key.pem", "token.sig", "token"));
        assert_eq!(given.pcrs.len(), QUOTED_PCRS * 32);
        let said = succeed("tpm2", folder, &["print", "-t", "TPMS_ATTEST", "quote"]);
        assert!(said.contains(&hex::encode(Sha256::digest(&given.pcrs))), "{said}");
        assert!(said.contains("pcrSelect: ff0000"), "{said}");

        // Another token, another verifier's nonce in it, a changed quote or signature, another key.
        let other = token(&witness.public, &[8; 32]);
        assert!(!check(
            "quote",
            "quote.sig",
            &hex::encode(Sha256::digest(other.message()))
        ));
        write("other", other.message());
        assert!(!openssl_verifies(folder, "key.pem", "token.sig", "other"));
        for at in [0, 5, 40, given.quote.len() - 1] {
            let mut changed = given.quote.clone();
            changed[at] ^= 1;
            write("changed", &changed);
            assert!(
                !openssl_verifies(folder, "ak.pem", "quote.sig", "changed"),
                "{at}"
            );
            assert!(!check("changed", "quote.sig", &bound), "{at}");
        }
        let mut changed = given.quote_signature.clone();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        write("changed.sig", &changed);
        assert!(!check("quote", "changed.sig", &bound));
        assert!(!openssl_verifies(folder, "key.pem", "quote.sig", "quote"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_certified_under_its_name_with_the_verifiers_nonce_and_no_other() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let folder = rig.folder.path();
        let witness = witness(&rig, "evidence").await;
        let plain = rig.key("release").await;
        let rsa = rig.key_of(Algorithm::Rsa2048, "app").await;
        let held = rig
            .tpm
            .custody()
            .generate_revocable(&key_ref("held"), Algorithm::P256)
            .await
            .unwrap();
        let held = held.generated.material.expose().to_vec();
        let custody = rig.tpm.custody();
        let macs = custody.macs().unwrap();
        let hook = macs.generate(&key_ref("hook")).await.unwrap().expose().to_vec();
        for (name, stored) in [
            (&plain.name, &plain.stored),
            (&rsa.name, &rsa.stored),
            (&key_ref("held"), &held),
            (&key_ref("hook"), &hook),
            (&witness.name, &witness.stored),
        ] {
            let allowed = to_prove(name, &witness.name).await;
            let material = || Secret::take(&mut stored.clone()).unwrap();
            let proof = witness
                .open
                .certify(&allowed, name, material(), &[9; 32])
                .await
                .unwrap();
            std::fs::write(folder.join("ak.pem"), proof.attestation_key.to_pem().unwrap()).unwrap();
            std::fs::write(folder.join("attest"), &proof.attest).unwrap();
            std::fs::write(folder.join("sig"), &proof.signature).unwrap();
            std::fs::write(folder.join("area"), &proof.public_area).unwrap();
            assert!(openssl_verifies(folder, "ak.pem", "sig", "attest"));
            let said = hex::encode(&proof.attest);
            assert!(
                said.starts_with("ff5443478017"),
                "a certificate by the TPM: {said}"
            );
            assert!(said.contains(&format!("0020{}", "09".repeat(32))), "{said}");
            // The Name: the algorithm, and the digest of the very public area that is beside it.
            let name_of = format!("0022000b{}", hex::encode(Sha256::digest(&proof.public_area)));
            assert!(said.contains(&name_of), "{said}");
            let mut changed = proof.attest.clone();
            changed[20] ^= 1;
            std::fs::write(folder.join("changed"), &changed).unwrap();
            assert!(!openssl_verifies(folder, "ak.pem", "sig", "changed"));
            // One permit, one proof; of this key, by that one.
            let again = witness.open.certify(&allowed, name, material(), &[9; 32]).await;
            assert!(matches!(again, Err(CustodyError::PermitMismatch)), "{again:?}");
            let elsewhere = to_prove(&key_ref("another"), &witness.name).await;
            let refused = witness.open.certify(&elsewhere, name, material(), &[9; 32]).await;
            assert!(
                matches!(refused, Err(CustodyError::PermitMismatch)),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_restricted_key_signs_nothing_that_it_is_given() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let witness = witness(&rig, "evidence").await;
    // The second blob, after three bytes and the first.
    let length = usize::from(u16::from_be_bytes(witness.stored[1..3].try_into().unwrap()));
    let second = &witness.stored[3 + length..];
    let (value, pem) = (hex::encode(&second[1..33]), &second[33..]);
    std::fs::write(folder.join("key.tss"), pem).unwrap();
    take_apart(folder);
    let tcti = format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm));
    succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
    succeed(
        "tpm2",
        folder,
        &[
            "load",
            "-C",
            "0x81000001",
            "-u",
            "pub",
            "-r",
            "priv",
            "-c",
            "ak.ctx",
            "-T",
            &tcti,
        ],
    );
    succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
    let auth = format!("hex:{value}");
    // A digest of a quote that never was.
    std::fs::write(folder.join("digest"), [1; 32]).unwrap();
    let forged = run(
        "tpm2",
        folder,
        &[
            "sign", "-c", "ak.ctx", "-p", &auth, "-g", "sha256", "-d", "-o", "forged", "digest", "-T", &tcti,
        ],
    );
    assert!(
        !forged.status.success(),
        "a restricted key signs no digest without the TPM's ticket"
    );
    succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
    let quoted = run(
        "tpm2",
        folder,
        &[
            "quote", "-c", "ak.ctx", "-p", &auth, "-l", "sha256:0", "-q", "00", "-m", "m", "-s", "s", "-T",
            &tcti,
        ],
    );
    assert!(quoted.status.success(), "the control: the value is right");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_exchanged_material_does_not_open() {
    let rig = Rig::new();
    let witness = witness(&rig, "evidence").await;
    let other = self::witness(&rig, "other").await;
    let attester = witness.custody.attester().unwrap();
    let plain = rig.key("release").await;
    let length = usize::from(u16::from_be_bytes(witness.stored[1..3].try_into().unwrap()));
    // The token's key in the place of the restricted one too.
    let twice = [&witness.stored[..3 + length], &witness.stored[3..3 + length]].concat();
    for (stored, public) in [
        (plain.stored.clone(), &plain.public),
        (witness.stored.clone(), &other.public),
        (twice, &witness.public),
        (
            witness.stored[..witness.stored.len() - 1].to_vec(),
            &witness.public,
        ),
    ] {
        let mut stored = stored;
        let opened = attester
            .open(&witness.name, public, Secret::take(&mut stored).unwrap())
            .await;
        assert!(matches!(opened, Err(CustodyError::NotOurs(_))), "{opened:?}");
    }
    // Nor is it a key to sign with.
    let material = Secret::take(&mut witness.stored.clone()).unwrap();
    let opened = witness
        .custody
        .open(&witness.name, &witness.public, material)
        .await;
    assert!(matches!(opened, Err(CustodyError::NotOurs(_))), "{opened:?}");
    let material = Secret::take(&mut witness.stored.clone()).unwrap();
    attester
        .open(&witness.name, &witness.public, material)
        .await
        .expect("the control");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_died_gives_evidence_again_and_one_that_was_replaced_gives_none() {
    let rig = Rig::new();
    let witness = witness(&rig, "evidence").await;
    let ask = async || {
        let message = token(&witness.public, &[7; 16]);
        let allowed = permit(&witness.name, &message, 1).await;
        witness.open.evidence(&allowed, &message).await
    };
    rig.tpm.kill_child();
    ask().await.unwrap();
    rig.tpm.kill_child();
    std::fs::remove_dir_all(rig.folder.path().join("tpm")).unwrap();
    let refused = ask().await;
    assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
}
