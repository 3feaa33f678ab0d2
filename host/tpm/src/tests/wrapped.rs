//! Keys that tpm2-tools had the TPM make and wrote as TSS2 PRIVATE KEY, taken over: what they sign verifies by OpenSSL, by their own file they
//! were as good before, and what is not ours to take is refused with why.

use std::path::Path;

use der::EncodePem as _;
use der::asn1::{ObjectIdentifier, OctetString};
use der::pem::LineEnding;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use tss_esapi::structures::Public;
use tss_esapi::traits::Marshall as _;

use super::formats::{port, run, succeed};
use super::*;
use crate::actor::Lane;
use crate::template;
use crate::tss2::WrappedKey;
use crate::wrap::{self, Sensitive};

const ATTRIBUTES: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign|decrypt";

fn tcti(rig: &Rig) -> String {
    format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm))
}

/// A key that tpm2-tools make under the storage root key, as PEM. Its public half is in `pub.pem`.
fn made(rig: &Rig, kind: &str, attributes: &str, more: &[&str]) -> Vec<u8> {
    let (folder, tcti) = (rig.folder.path(), tcti(rig));
    let create = [
        "create",
        "-C",
        "0x81000001",
        "-G",
        kind,
        "-a",
        attributes,
        "-u",
        "k.pub",
        "-r",
        "k.priv",
        "-T",
        &tcti,
    ];
    succeed("tpm2", folder, &[&create[..], more].concat());
    succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
    let encode = [
        "encodeobject",
        "-C",
        "0x81000001",
        "-u",
        "k.pub",
        "-r",
        "k.priv",
        "-o",
        "k.pem",
        "-T",
        &tcti,
    ];
    succeed("tpm2", folder, &encode);
    // What the tools leave behind; ours goes with it, and is made anew.
    succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
    succeed("tpm2", folder, &["flushcontext", "-l", "-T", &tcti]);
    let pem = succeed(
        "tpm2",
        folder,
        &["print", "-t", "TPM2B_PUBLIC", "-f", "pem", "k.pub"],
    );
    std::fs::write(folder.join("pub.pem"), pem).unwrap();
    std::fs::read(folder.join("k.pem")).unwrap()
}

async fn take(tpm: &Tpm, file: &[u8]) -> Result<TestKey, CustodyError> {
    let (custody, name) = (tpm.custody(), key_ref("taken"));
    let file = Secret::take(&mut file.to_vec()).unwrap();
    let taken = custody.import_wrapped(&name, file).await?;
    let stored = taken.material.expose().to_vec();
    let open = custody.open(&name, &taken.public, taken.material).await?;
    Ok(TestKey {
        name,
        public: taken.public,
        stored,
        open,
    })
}

async fn openssl_verifies(folder: &Path, key: &TestKey) {
    let signature = key.sign(1, b"content").await.unwrap();
    let signature = match key.public.algorithm() {
        Algorithm::Rsa2048 => signature.as_bytes().to_vec(),
        _ => signature.to_der().unwrap(),
    };
    std::fs::write(folder.join("sig"), signature).unwrap();
    std::fs::write(folder.join("message"), framed(&key.public, b"content").message()).unwrap();
    let verify = [
        "dgst",
        "-sha256",
        "-verify",
        "pub.pem",
        "-signature",
        "sig",
        "message",
    ];
    succeed("openssl", folder, &verify);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_tpm2_tools_is_taken_over_with_a_new_value_and_signs() {
    for session in SESSIONS {
        for (kind, attributes) in [
            ("ecc256", ATTRIBUTES),
            (
                "ecc256:ecdsa-sha256",
                "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign",
            ),
            ("rsa2048", ATTRIBUTES),
            (
                "rsa2048:rsassa-sha256",
                "sensitivedataorigin|userwithauth|noda|sign",
            ),
        ] {
            let rig = Rig::with(session);
            let folder = rig.folder.path();
            let file = made(&rig, kind, attributes, &[]);
            let key = take(&rig.tpm, &file)
                .await
                .unwrap_or_else(|error| panic!("{kind}: {error}"));
            openssl_verifies(folder, &key).await;
            rig.tpm.kill_child();
            openssl_verifies(folder, &key).await;
            // The stored blob has the new value: with the empty one of the file it is refused.
            std::fs::write(folder.join("key.tss"), &key.stored[33..]).unwrap();
            formats::take_apart(folder);
            let tcti = tcti(&rig);
            let load = [
                "load",
                "-C",
                "0x81000001",
                "-u",
                "pub",
                "-r",
                "priv",
                "-c",
                "o.ctx",
                "-T",
                &tcti,
            ];
            succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
            succeed("tpm2", folder, &load);
            succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
            let sign = [
                "sign", "-c", "o.ctx", "-g", "sha256", "-s", "ecdsa", "-o", "sig2", "message", "-T", &tcti,
            ];
            assert!(!run("tpm2", folder, &sign).status.success(), "{kind}");
            succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
            let other = Rig::new();
            let refused = take(&other.tpm, &file).await.map(|_| ());
            assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_guesses_count_against_says_so_in_lockout_and_goes_on_after_it() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    // As tpm2-openssl makes them. Both first: what is made flushes what is loaded.
    let counted = made(&rig, "ecc256", &ATTRIBUTES.replace("|noda", ""), &[]);
    let control = made(&rig, "ecc256", ATTRIBUTES, &[]);
    let key = take(&rig.tpm, &counted).await.unwrap();
    let control = take(&rig.tpm, &control).await.unwrap();
    openssl_verifies(folder, &control).await;
    let tcti = tcti(&rig);
    let index = "0x01500001";
    let define = [
        "nvdefine",
        index,
        "-C",
        "o",
        "-s",
        "8",
        "-p",
        "right",
        "-a",
        "authread|authwrite",
        "-T",
        &tcti,
    ];
    succeed("tpm2", folder, &define);
    for _ in 0..4 {
        assert!(
            !run("tpm2", folder, &["nvread", index, "-P", "wrong", "-T", &tcti])
                .status
                .success()
        );
    }
    match key.sign(1, b"content").await {
        Err(CustodyError::Unavailable(text)) => {
            assert!(text.contains("tpm2_dictionarylockout --clear-lockout"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    control.sign(1, b"content").await.expect("the control: noDA");
    succeed(
        "tpm2",
        folder,
        &["dictionarylockout", "--clear-lockout", "-T", &tcti],
    );
    key.sign(1, b"content").await.expect("once somebody ended it");
}

/// An importable key that was wrapped for this TPM elsewhere, with an empty value.
async fn importable(rig: &Rig) -> Vec<u8> {
    let scalar = p256::SecretKey::random(&mut rand_core::OsRng);
    let point = scalar.public_key().to_encoded_point(false);
    let key = PublicKey::p256(point.as_bytes()).unwrap();
    let public = template::imported_key(&key).unwrap().unwrap();
    std::fs::write(rig.folder.path().join("pub.pem"), key.to_pem().unwrap()).unwrap();
    let parent: Public = rig
        .tpm
        .actor
        .run(Lane::Host, |device| {
            device.run("read", |link| {
                let root = link.root();
                let read = link
                    .context()
                    .execute_without_session(|context| context.read_public(root));
                Ok(read?.0)
            })
        })
        .await
        .unwrap();
    let wrapped = wrap::wrap(&Sensitive::Ecc(&scalar.to_bytes()), &[], &public, &parent).unwrap();
    let sized = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        OctetString::new([&length[..], bytes].concat()).unwrap()
    };
    let key = WrappedKey {
        oid: ObjectIdentifier::new_unwrap("2.23.133.10.1.4"),
        empty_auth: None,
        policy: None,
        secret: Some(sized(&wrapped.seed)),
        auth_policy: None,
        description: None,
        parent: 0x4000_0001,
        public: sized(&public.marshall().unwrap()),
        private: sized(&wrapped.duplicate),
    };
    key.to_pem(LineEnding::LF).unwrap().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importable_key_is_taken_by_the_tpm_that_it_was_wrapped_for_alone() {
    let rig = Rig::new();
    let file = importable(&rig).await;
    let other = Rig::new();
    let refused = take(&other.tpm, &file).await.map(|_| ());
    assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
    let key = take(&rig.tpm, &file).await.unwrap();
    openssl_verifies(rig.folder.path(), &key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_to_take_is_refused_with_why() {
    let rig = Rig::new();
    let refused = async |file: &[u8], why: &str| match take(&rig.tpm, file).await {
        Err(CustodyError::NotOurs(text)) => assert!(text.contains(why), "{text}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("taken: {why}"),
    };
    let good = made(&rig, "ecc256", ATTRIBUTES, &[]);
    refused(&made(&rig, "ecc384", ATTRIBUTES, &[]), "P-256").await;
    refused(
        &made(
            &rig,
            "rsa2048:rsapss-sha256:null",
            "userwithauth|noda|sign|sensitivedataorigin",
            &[],
        ),
        "RSA key of 2048",
    )
    .await;
    let decrypts = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|decrypt";
    refused(&made(&rig, "rsa2048", decrypts, &[]), "that signs").await;
    let text = String::from_utf8(good.clone()).unwrap();
    for bad in [
        &text[1..],
        &text.replace("TSS2 PRIVATE", "PRIVATE"),
        &text.replacen("MI", "MJ", 1),
        "x",
        &format!("{text}{text}"),
    ] {
        refused(bad.as_bytes(), "damaged").await;
    }
    let (_, document) = der::Document::from_pem(&text).unwrap();
    let again = |change: &dyn Fn(&mut WrappedKey)| {
        let mut key: WrappedKey = der::Decode::from_der(document.as_bytes()).unwrap();
        change(&mut key);
        key.to_pem(LineEnding::LF).unwrap().into_bytes()
    };
    refused(
        &made(&rig, "ecc256", ATTRIBUTES, &["-p", "word"]),
        "tpm2_changeauth",
    )
    .await;
    let any = |value: u8| Some(der::Any::new(der::Tag::Boolean, [value]).unwrap());
    for said in [None, any(0), any(1), any(0xFF)] {
        let taken = take(&rig.tpm, &again(&|key| key.empty_auth = said.clone())).await;
        taken.expect("the control: whatever the file says of it, there is none");
    }
    refused(
        &again(&|key| key.parent = 0x4000_000C),
        "its parent is 0x4000000c",
    )
    .await;
    refused(&again(&|key| key.policy = Some(der::Any::null())), "policy").await;
    refused(
        &again(&|key| key.secret = Some(OctetString::new([0, 0]).unwrap())),
        "neither",
    )
    .await;
    refused(
        &again(&|key| key.oid = ObjectIdentifier::new_unwrap("2.23.133.10.1.5")),
        "neither",
    )
    .await;
    // Somebody else's private half.
    let other = made(&rig, "ecc256", ATTRIBUTES, &[]);
    let (_, theirs) = der::Document::from_pem(std::str::from_utf8(&other).unwrap()).unwrap();
    let theirs: WrappedKey = der::Decode::from_der(theirs.as_bytes()).unwrap();
    let mixed = again(&|key| key.private = theirs.private.clone());
    let taken = take(&rig.tpm, &mixed).await.map(|_| ());
    assert!(matches!(taken, Err(CustodyError::NotOurs(_))), "{taken:?}");
    take(&rig.tpm, &again(&|_| ())).await.expect("the control");
}
