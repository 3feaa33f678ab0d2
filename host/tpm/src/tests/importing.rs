//! Keys that were made by OpenSSL, taken into the TPM: what they sign there verifies under the public key of the file, they open nowhere
//! else, and the TPM says of them that it did not make them.

use std::path::Path;

use super::attesting::{to_prove, witness};
use super::formats::{port, run, succeed};
use super::*;

/// A key that OpenSSL makes: what an import takes of it. Its public key stays in `pub.pem`.
fn made(folder: &Path, algorithm: Algorithm) -> Vec<u8> {
    let options: &[&str] = match algorithm {
        Algorithm::P256 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        _ => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    };
    let make = [&["genpkey", "-out", "key.pem", "-algorithm"], options].concat();
    succeed("openssl", folder, &make);
    succeed(
        "openssl",
        folder,
        &["pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem"],
    );
    let text = succeed("openssl", folder, &["pkey", "-in", "key.pem", "-noout", "-text"]);
    let field = |name: &str, length: usize| {
        let (_, rest) = text.split_once(&format!("\n{name}:")).unwrap();
        let digits: String = rest
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with(' '))
            .flat_map(|line| line.chars().filter(char::is_ascii_hexdigit))
            .collect();
        let bytes = hex::decode(digits).unwrap();
        let mut padded = vec![0; length];
        let bytes = &bytes[bytes.len().saturating_sub(length)..];
        padded[length - bytes.len()..].copy_from_slice(bytes);
        padded
    };
    match algorithm {
        Algorithm::P256 => field("priv", 32),
        _ => [field("modulus", 256), field("prime1", 128)].concat(),
    }
}

fn secret(bytes: &[u8]) -> Secret {
    Secret::take(&mut bytes.to_vec()).unwrap()
}

async fn imported(rig: &Rig, algorithm: Algorithm) -> TestKey {
    let private = made(rig.folder.path(), algorithm);
    let (custody, name) = (rig.tpm.custody(), key_ref("imported"));
    let taken = custody.import(&name, algorithm, secret(&private)).await.unwrap();
    let stored = taken.material.expose().to_vec();
    let open = custody.open(&name, &taken.public, taken.material).await.unwrap();
    TestKey {
        name,
        public: taken.public,
        stored,
        open,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_key_signs_in_the_tpm_and_openssl_verifies_by_the_public_key_of_the_file() {
    for session in SESSIONS {
        for algorithm in [Algorithm::P256, Algorithm::Rsa2048] {
            let rig = Rig::with(session);
            let folder = rig.folder.path();
            let key = imported(&rig, algorithm).await;
            assert_eq!(
                key.public.to_pem().unwrap(),
                std::fs::read_to_string(folder.join("pub.pem")).unwrap()
            );
            rig.tpm.kill_child();
            let signature = key.sign(1, b"content").await.unwrap();
            let signature = match algorithm {
                Algorithm::Rsa2048 => signature.as_bytes().to_vec(),
                _ => signature.to_der().unwrap(),
            };
            let message = framed(&key.public, b"content");
            std::fs::write(folder.join("sig"), signature).unwrap();
            std::fs::write(folder.join("good"), message.message()).unwrap();
            std::fs::write(folder.join("bad"), [message.message(), b"x"].concat()).unwrap();
            let verify = |file| {
                run(
                    "openssl",
                    folder,
                    &["dgst", "-sha256", "-verify", "pub.pem", "-signature", "sig", file],
                )
            };
            assert!(verify("good").status.success(), "{algorithm}");
            assert!(!verify("bad").status.success(), "the control");
            // As every key: of no use elsewhere.
            let other = Rig::new();
            let opened = other
                .tpm
                .custody()
                .open(&key.name, &key.public, secret(&key.stored))
                .await;
            assert!(matches!(opened, Err(CustodyError::NotOurs(_))), "{opened:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_that_do_not_belong_together_and_bytes_that_are_no_key_are_refused() {
    let rig = Rig::new();
    let (one, two) = (
        made(rig.folder.path(), Algorithm::Rsa2048),
        made(rig.folder.path(), Algorithm::Rsa2048),
    );
    let mixed = [&one[..256], &two[256..]].concat();
    let custody = rig.tpm.custody();
    let name = key_ref("bad");
    for (algorithm, bytes) in [
        (Algorithm::Rsa2048, mixed),
        (Algorithm::Rsa2048, [&one[..256], &[0; 128]].concat()),
        (Algorithm::Rsa2048, one[..383].to_vec()),
        (Algorithm::Rsa2048, one[256..].to_vec()),
        (Algorithm::P256, vec![0; 32]),
        (Algorithm::P256, vec![0xFF; 32]),
        (Algorithm::P256, vec![1; 31]),
    ] {
        let taken = custody.import(&name, algorithm, secret(&bytes)).await;
        assert!(
            matches!(taken, Err(CustodyError::NotOurs(_))),
            "{algorithm}: {taken:?}"
        );
    }
    custody
        .import(&name, Algorithm::Rsa2048, secret(&one))
        .await
        .expect("the control");
    let taken = custody.import(&name, Algorithm::Ed25519, secret(&[1; 32])).await;
    assert!(matches!(taken, Err(CustodyError::Algorithm { .. })), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tpm_says_of_an_imported_key_that_it_did_not_make_it_and_lets_nobody_duplicate_it() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let key = imported(&rig, Algorithm::P256).await;
    let witness = witness(&rig, "evidence").await;
    let allowed = to_prove(&key.name, &witness.name).await;
    let proof = witness
        .open
        .certify(&allowed, &key.name, secret(&key.stored), &[1; 32]);
    let area = proof.await.unwrap().public_area;
    // userWithAuth, noDA and sign; not fixedTPM, fixedParent or sensitiveDataOrigin.
    assert_eq!(hex::encode(&area[4..8]), "00040440");

    let (value, pem) = (hex::encode(&key.stored[1..33]), &key.stored[33..]);
    std::fs::write(folder.join("key.tss"), pem).unwrap();
    formats::take_apart(folder);
    let tcti = format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm));
    let load = [
        "load",
        "-C",
        "0x81000001",
        "-u",
        "pub",
        "-r",
        "priv",
        "-c",
        "key.ctx",
        "-T",
        &tcti,
    ];
    succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
    succeed("tpm2", folder, &load);
    succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
    let auth = format!("hex:{value}");
    std::fs::write(folder.join("message"), b"message").unwrap();
    let sign = [
        "sign", "-c", "key.ctx", "-p", &auth, "-g", "sha256", "-o", "sig", "message", "-T", &tcti,
    ];
    succeed("tpm2", folder, &sign);
    succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
    let duplicate = [
        "duplicate",
        "-C",
        "null",
        "-c",
        "key.ctx",
        "-p",
        &auth,
        "-G",
        "null",
        "-r",
        "out",
        "-s",
        "seed",
        "-T",
        &tcti,
    ];
    let output = run("tpm2", folder, &duplicate);
    assert!(
        !output.status.success(),
        "the owner of the value cannot take it out"
    );
    assert!(!folder.join("out").exists());
}
