//! Other people's tools: OpenSSL verifies the signatures, tpm2-tools loads the stored keys.

use std::path::Path;
use std::process::{Command, Output};

use super::*;

pub(super) fn run(program: &str, folder: &Path, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).current_dir(folder).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}; apt-get install openssl tpm2-tools"))
}

pub(super) fn succeed(program: &str, folder: &Path, args: &[&str]) -> String {
    let output = run(program, folder, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The port of the software TPM, from its command line.
pub(super) fn port(tpm: &Tpm) -> String {
    let line = std::fs::read(format!("/proc/{}/cmdline", tpm.swtpm_pid().unwrap())).unwrap();
    let line = String::from_utf8(line).unwrap();
    let (_, rest) = line.split_once("port=").unwrap();
    rest.split(',').next().unwrap().to_owned()
}

/// Writes the public and the private area in `key.tss` into `pub` and `priv`, by openssl.
pub(super) fn take_apart(folder: &Path) {
    // SEQUENCE { OID loadable key or sealed data, INTEGER owner, OCTET STRING public, OCTET STRING private }
    let listing = succeed("openssl", folder, &["asn1parse", "-in", "key.tss"]);
    assert!(listing.contains("2.23.133.10.1."), "{listing}");
    assert!(listing.contains(":40000001"), "{listing}");
    let parts: Vec<&str> = listing
        .lines()
        .filter(|line| line.contains("OCTET STRING"))
        .map(|line| line.split(':').next().unwrap().trim())
        .collect();
    let [public, private] = parts[..] else {
        panic!("{listing}");
    };
    for (offset, file) in [(public, "pub"), (private, "priv")] {
        succeed(
            "openssl",
            folder,
            &[
                "asn1parse",
                "-in",
                "key.tss",
                "-strparse",
                offset,
                "-out",
                file,
                "-noout",
            ],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_a_signature_and_not_a_changed_message() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let key = rig.key("release").await;
    let signature = key.sign(1, b"content").await.unwrap();
    let signature = p256::ecdsa::Signature::from_slice(signature.as_bytes()).unwrap();
    let message = framed(&key.public, b"content");
    std::fs::write(folder.join("key.pem"), key.public.to_pem().unwrap()).unwrap();
    std::fs::write(folder.join("sig"), signature.to_der().as_bytes()).unwrap();
    std::fs::write(folder.join("good"), message.message()).unwrap();
    std::fs::write(folder.join("bad"), [message.message(), b"x"].concat()).unwrap();
    let verify = ["dgst", "-sha256", "-verify", "key.pem", "-signature", "sig"];
    let said = succeed("openssl", folder, &[&verify[..], &["good"]].concat());
    assert!(said.contains("Verified OK"), "{said}");
    let refused = run("openssl", folder, &[&verify[..], &["bad"]].concat());
    assert!(!refused.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_an_rsa_signature_and_not_a_changed_message() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let key = rig.key_of(Algorithm::Rsa2048, "app").await;
    let signature = key.sign(1, b"content").await.unwrap();
    let message = framed(&key.public, b"content");
    std::fs::write(folder.join("key.pem"), key.public.to_pem().unwrap()).unwrap();
    std::fs::write(folder.join("sig"), signature.as_bytes()).unwrap();
    std::fs::write(folder.join("good"), message.message()).unwrap();
    std::fs::write(folder.join("bad"), [message.message(), b"x"].concat()).unwrap();
    let verify = ["dgst", "-sha256", "-verify", "key.pem", "-signature", "sig"];
    let said = succeed("openssl", folder, &[&verify[..], &["good"]].concat());
    assert!(said.contains("Verified OK"), "{said}");
    let refused = run("openssl", folder, &[&verify[..], &["bad"]].concat());
    assert!(!refused.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tpm2_tools_load_a_stored_key_and_sign_with_its_value() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let key = rig.key("release").await;
    let (value, pem) = (hex::encode(&key.stored[1..33]), &key.stored[33..]);
    std::fs::write(folder.join("key.tss"), pem).unwrap();

    take_apart(folder);
    let tcti = format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm));
    let tpm2 = |args: &[&str]| succeed("tpm2", folder, &[args, &["-T", &tcti]].concat());
    tpm2(&[
        "load",
        "-C",
        "0x81000001",
        "-u",
        "pub",
        "-r",
        "priv",
        "-c",
        "key.ctx",
    ]);
    std::fs::write(folder.join("message"), b"message").unwrap();
    let auth = format!("hex:{value}");
    tpm2(&[
        "sign", "-c", "key.ctx", "-p", &auth, "-g", "sha256", "-f", "plain", "-o", "sig", "message",
    ]);
    std::fs::write(folder.join("key.pem"), key.public.to_pem().unwrap()).unwrap();
    let said = succeed(
        "openssl",
        folder,
        &[
            "dgst",
            "-sha256",
            "-verify",
            "key.pem",
            "-signature",
            "sig",
            "message",
        ],
    );
    assert!(said.contains("Verified OK"), "{said}");

    // Whoever else talks to the TPM may also empty it: then the key is loaded again.
    tpm2(&["flushcontext", "-t"]);
    key.sign(1, b"content").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_was_cleared_is_not_ours_any_more() {
    let rig = Rig::new();
    let key = rig.key("release").await;
    let tcti = format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm));
    succeed("tpm2", rig.folder.path(), &["clear", "-T", &tcti]);
    let result = key.sign(1, b"content").await;
    assert!(matches!(result, Err(CustodyError::NotOurs(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_password_does_not_matter_once_there_is_a_root_key() {
    let rig = Rig::new();
    let key = rig.key("release").await;
    let tcti = format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm));
    let tpm2 = |args: &[&str]| succeed("tpm2", rig.folder.path(), &[args, &["-T", &tcti]].concat());
    tpm2(&["changeauth", "-c", "owner", "password"]);
    rig.tpm.kill_child();
    key.sign(1, b"content").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_password_without_a_root_key_says_what_to_do() {
    let rig = Rig::new();
    let tcti = format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm));
    let tpm2 = |args: &[&str]| succeed("tpm2", rig.folder.path(), &[args, &["-T", &tcti]].concat());
    tpm2(&["evictcontrol", "-C", "o", "-c", "0x81000001"]);
    tpm2(&["changeauth", "-c", "owner", "password"]);
    let settings = rig.tpm.settings(Path::new("")).unwrap();
    let Rig { tpm, folder } = rig;
    drop(tpm);
    let refused = Tpm::connect_with(&settings, Path::new(""));
    assert!(
        matches!(refused, Err(crate::TpmError::OwnerPassword)),
        "{refused:?}"
    );
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_another_key_has_is_left_alone() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let tcti = format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm));
    let tpm2 = |args: &[&str]| succeed("tpm2", folder, &[args, &["-T", &tcti]].concat());
    let before = rig.tpm.facts().await.unwrap().srk_name;
    tpm2(&["evictcontrol", "-C", "o", "-c", "0x81000001"]);
    tpm2(&["createprimary", "-C", "o", "-G", "rsa", "-c", "other.ctx"]);
    tpm2(&["evictcontrol", "-C", "o", "-c", "other.ctx", "0x81000001"]);
    let settings = rig.tpm.settings(Path::new("")).unwrap();
    let Rig { tpm, folder } = rig;
    drop(tpm);
    // The root key is made anew, transient, with the same Name: what was made under it opens.
    let rig = Rig {
        tpm: Tpm::connect_with(&settings, Path::new("")).unwrap(),
        folder,
    };
    assert_eq!(rig.tpm.facts().await.unwrap().srk_name, before);
    let (a, b, c) = (rig.key("a").await, rig.key("b").await, rig.key("c").await);
    for _ in 0..2 {
        for key in [&a, &b, &c] {
            key.sign(1, b"content").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_keys_sign_while_the_tpm_is_locked_against_guessing() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let key = rig.key("release").await;
    let tcti = format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm));
    let tpm2 = |args: &[&str]| succeed("tpm2", folder, &[args, &["-T", &tcti]].concat());
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign";
    tpm2(&[
        "createprimary",
        "-C",
        "o",
        "-G",
        "ecc",
        "-p",
        "right",
        "-a",
        attributes,
        "-c",
        "guarded.ctx",
    ]);
    tpm2(&["flushcontext", "-t"]);
    std::fs::write(folder.join("message"), b"message").unwrap();
    for _ in 0..8 {
        let guess = [
            "sign",
            "-c",
            "guarded.ctx",
            "-p",
            "wrong",
            "-g",
            "sha256",
            "-o",
            "sig",
            "message",
        ];
        let refused = run("tpm2", folder, &[&guess[..], &["-T", &tcti]].concat());
        assert!(!refused.status.success());
        tpm2(&["flushcontext", "-t"]);
    }
    let state = tpm2(&["getcap", "properties-variable"]);
    assert!(
        state
            .lines()
            .any(|line| line.contains("inLockout") && line.contains('1')),
        "the control: it is locked: {state}"
    );
    key.sign(1, b"content").await.unwrap();
    // Nor does a restart need what is locked.
    rig.tpm.kill_child();
    key.sign(1, b"content").await.unwrap();
}
