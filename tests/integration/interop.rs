//! What the broker gives out, in the hands of programs that are not ours: ssh-keygen, openssl, a JOSE library. Each is shown what it must
//! accept and what it must refuse, and the output of every other profile.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use claviger_broker::ManualClock;
use claviger_broker::keyring::{KeySource, NewKey, RotationPlan};
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::key::{KeyRef, KeyVersion};
use claviger_core::profile::labeled_message;
use claviger_core::{Algorithm, InstanceId, PublicKey, Refusal, Secret};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use kit::vault::{Vault, jws, labeled, named, sign, sshsig, start};
use kit::verifiers::{accepts, openssl, ssh_keygen};
use serde_json::Value;
use tempfile::TempDir;

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Ed25519, Algorithm::P256];

/// `openssl` over the documented frame.
fn openssl_verifies(key: &PublicKey, signature: &[u8], content: &[u8]) -> bool {
    openssl(key, signature, &labeled_message(&named("notes"), content))
}

/// A JOSE library's verdict for this audience.
fn jose_verifies(key: &PublicKey, audience: &str, token: &[u8]) -> Result<Value, String> {
    let jwk = serde_json::from_value(key.to_jwk()).map_err(|error| error.to_string())?;
    let algorithm = match key.algorithm() {
        Algorithm::Ed25519 => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::P256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Rsa2048 => jsonwebtoken::Algorithm::RS256,
    };
    let mut rules = Validation::new(algorithm);
    rules.leeway = 0;
    rules.set_issuer(&["https://issuer.test"]);
    rules.set_audience(&[audience]);
    rules.set_required_spec_claims(&["exp", "aud", "iss"]);
    let token = std::str::from_utf8(token).map_err(|error| error.to_string())?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    decode::<Value>(token, &key, &rules)
        .map(|data| data.claims)
        .map_err(|error| error.to_string())
}

/// A keyring with a key of each profile and algorithm: `sshsig-ed25519` and so on, each under a grant of its name.
struct Shop {
    vault: Vault,
    who: InstanceId,
    _folder: TempDir,
}

impl Shop {
    async fn new(make: impl AsyncFnOnce(&Path) -> Vault) -> Self {
        let folder = TempDir::new().unwrap();
        let vault = make(folder.path()).await;
        let mut grants = String::new();
        for algorithm in ALGORITHMS {
            for profile in [sshsig(), jws(), labeled()] {
                let name = format!("{}-{algorithm}", profile.kind());
                vault.key(&name, profile, algorithm).await;
                grants.push_str(&format!("[grants.{name}]\nsign = {{ key = \"{name}\" }}\n"));
            }
        }
        let who = start(&vault.broker, &grants).await;
        Self {
            vault,
            who,
            _folder: folder,
        }
    }

    async fn sign(&self, profile: &str, algorithm: Algorithm, content: &[u8]) -> Vec<u8> {
        sign(
            &self.vault.broker,
            self.who,
            &format!("{profile}-{algorithm}"),
            content,
        )
        .await
        .unwrap()
    }

    fn public(&self, profile: &str, algorithm: Algorithm) -> PublicKey {
        let name = named(&format!("{profile}-{algorithm}"));
        self.vault
            .broker
            .keyring()
            .key(&name)
            .unwrap()
            .public()
            .unwrap()
            .clone()
    }

    /// Everything that each verifier must accept and refuse.
    async fn check(&self) {
        for algorithm in ALGORITHMS {
            self.check_ssh(algorithm).await;
            self.check_jose(algorithm).await;
            self.check_openssl(algorithm).await;
            for profile in ["sshsig", "jws", "labeled"] {
                check_public(&self.public(profile, algorithm));
            }
        }
    }

    async fn check_ssh(&self, algorithm: Algorithm) {
        let key = self.public("sshsig", algorithm);
        let content = b"the release\0\xff\n";
        let signature = self.sign("sshsig", algorithm, content).await;
        assert!(ssh_keygen(&key, "file", &signature, content), "{algorithm}");
        assert!(!ssh_keygen(&key, "file", &signature, b"the release\0\xfe\n"));
        assert!(!ssh_keygen(
            &key,
            "file",
            &signature,
            &content[..content.len() - 1]
        ));
        assert!(!ssh_keygen(&key, "git", &signature, content));
        assert!(!ssh_keygen(
            &self.public("labeled", algorithm),
            "file",
            &signature,
            content
        ));
        // One base64 digit of the signature, which is at the end.
        let mut changed = signature.clone();
        let at = changed.len() - 60;
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(!ssh_keygen(&key, "file", &changed, content));
    }

    async fn check_jose(&self, algorithm: Algorithm) {
        let key = self.public("jws", algorithm);
        let token = self
            .sign("jws", algorithm, br#"{"role":"reader","iat2":1}"#)
            .await;
        let claims = jose_verifies(&key, "api", &token).unwrap();
        assert_eq!(
            (&claims["iss"], &claims["aud"]),
            (&"https://issuer.test".into(), &"api".into())
        );
        assert_eq!(claims["role"], "reader");
        let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert_eq!(life, 60);
        let header = decode_header(std::str::from_utf8(&token).unwrap()).unwrap();
        assert_eq!(header.typ.as_deref(), Some("at+jwt"));
        assert_eq!(header.kid, Some(key.thumbprint()));

        assert_eq!(
            jose_verifies(&key, "other", &token).unwrap_err(),
            "InvalidAudience"
        );
        assert!(
            jose_verifies(&self.public("labeled", algorithm), "api", &token).is_err(),
            "another key"
        );
        let parts: Vec<&str> = std::str::from_utf8(&token).unwrap().split('.').collect();
        let [header, payload, signature] = parts.as_slice() else {
            panic!("{parts:?}")
        };
        let more = Base64UrlUnpadded::decode_vec(payload).unwrap();
        let more = String::from_utf8(more).unwrap().replace("reader", "admin1");
        let more = Base64UrlUnpadded::encode_string(more.as_bytes());
        assert!(jose_verifies(&key, "api", format!("{header}.{more}.{signature}").as_bytes()).is_err());
        let none = Base64UrlUnpadded::encode_string(br#"{"alg":"none"}"#);
        for tampered in [
            format!("{none}.{payload}."),
            format!("{none}.{payload}.{signature}"),
            format!("{header}.{payload}."),
        ] {
            assert!(
                jose_verifies(&key, "api", tampered.as_bytes()).is_err(),
                "{tampered}"
            );
        }
        let again = self.sign("jws", algorithm, br#"{"role":"reader"}"#).await;
        assert_ne!(
            jose_verifies(&key, "api", &again).unwrap()["jti"],
            claims["jti"],
            "no two tokens are one"
        );
    }

    async fn check_openssl(&self, algorithm: Algorithm) {
        let key = self.public("labeled", algorithm);
        let signature = self.sign("labeled", algorithm, b"a note").await;
        assert!(openssl_verifies(&key, &signature, b"a note"), "{algorithm}");
        assert!(!openssl_verifies(&key, &signature, b"a n0te"));
        assert!(!openssl_verifies(
            &self.public("jws", algorithm),
            &signature,
            b"a note"
        ));
        let mut changed = signature;
        changed[40] ^= 1;
        assert!(!openssl_verifies(&key, &changed, b"a note"));
    }
}

/// The public key in each of its forms, read by somebody else.
fn check_public(key: &PublicKey) {
    let text = accepts(
        "openssl",
        &["pkey", "-pubin", "-noout", "-text"],
        key.to_pem().unwrap().as_bytes(),
        "openssl",
    );
    let text = text.expect("openssl reads the PEM").replace([':', ' ', '\n'], "");
    assert!(text.contains(&hex::encode(key.as_bytes())), "{text}");
    let line = key.to_openssh("bot@test").unwrap();
    let shown = accepts(
        "ssh-keygen",
        &["-l", "-f", "-"],
        line.as_bytes(),
        "openssh-client",
    )
    .expect("ssh-keygen reads it");
    let (kind, bits) = match key.algorithm() {
        Algorithm::Ed25519 => ("(ED25519)", "256 "),
        Algorithm::P256 => ("(ECDSA)", "256 "),
        Algorithm::Rsa2048 => ("(RSA)", "2048 "),
    };
    assert!(
        shown.starts_with(bits) && shown.contains("bot@test") && shown.contains(kind),
        "{shown}"
    );
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.to_jwk()).unwrap();
    assert!(jwk.is_supported());
    assert_eq!(jwk.common.key_id, Some(key.thumbprint()));
    DecodingKey::from_jwk(&jwk).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_a_passphrase_keyring_verify_elsewhere_and_changed_ones_do_not() {
    Shop::new(async |folder: &Path| Vault::passphrase(folder, None).await)
        .await
        .check()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_a_tpm_keyring_verify_elsewhere_and_changed_ones_do_not() {
    let shop = Shop::new(async |folder: &Path| Vault::swtpm(folder).await).await;
    for (algorithm, custody) in [
        (Algorithm::Ed25519, CustodyKind::TpmSealed),
        (Algorithm::P256, CustodyKind::Tpm),
    ] {
        let record = shop
            .vault
            .broker
            .keyring()
            .key(&named(&format!("jws-{algorithm}")))
            .unwrap();
        assert_eq!(
            (record.custody, record.assurance),
            (custody, Assurance::Swtpm),
            "the control"
        );
    }
    shop.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_refused_elsewhere_when_its_time_is_over() {
    for (ago, verdict) in [
        (30, None),
        (61, Some("ExpiredSignature")),
        (3600, Some("ExpiredSignature")),
    ] {
        let clock = ManualClock::at(Timestamp::now() - SignedDuration::from_secs(ago));
        let clock = Arc::new(clock);
        let shop = Shop::new(async |folder: &Path| Vault::passphrase(folder, Some(clock)).await).await;
        for algorithm in ALGORITHMS {
            let token = shop.sign("jws", algorithm, b"{}").await;
            let judged = jose_verifies(&shop.public("jws", algorithm), "api", &token);
            assert_eq!(judged.err().as_deref(), verdict, "{ago} s ago");
        }
    }
}

/// What is signed under each profile, and who reads it.
const PROFILES: [&str; 3] = ["sshsig", "jws", "labeled"];

/// The 64 bytes of an Ed25519 signature in a profile's output.
fn raw(profile: &str, output: &[u8]) -> [u8; 64] {
    let bytes = match profile {
        "sshsig" => dearmour(output),
        "jws" => {
            let token = std::str::from_utf8(output).unwrap();
            Base64UrlUnpadded::decode_vec(token.rsplit_once('.').unwrap().1).unwrap()
        }
        _ => output.to_vec(),
    };
    *bytes.last_chunk().unwrap()
}

/// A profile's output with another signature in it.
fn with_signature(profile: &str, output: &[u8], signature: [u8; 64]) -> Vec<u8> {
    match profile {
        "sshsig" => {
            let mut blob = dearmour(output);
            // The signature is the last field of PROTOCOL.sshsig's blob.
            *blob.last_chunk_mut().unwrap() = signature;
            armour(&blob)
        }
        "jws" => {
            let token = std::str::from_utf8(output).unwrap();
            let (input, _) = token.rsplit_once('.').unwrap();
            format!("{input}.{}", Base64UrlUnpadded::encode_string(&signature)).into_bytes()
        }
        _ => signature.to_vec(),
    }
}

fn dearmour(output: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(output).unwrap();
    let lines: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    base64ct::Base64::decode_vec(&lines).unwrap()
}

fn armour(blob: &[u8]) -> Vec<u8> {
    let text = base64ct::Base64::encode_string(blob);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(70)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n",
        lines.join("\n")
    )
    .into_bytes()
}

fn verifies(profile: &str, key: &PublicKey, output: &[u8], content: &[u8]) -> bool {
    match profile {
        "sshsig" => ssh_keygen(key, "file", output, content),
        "jws" => jose_verifies(key, "api", output).is_ok(),
        _ => output.len() == 64 && openssl_verifies(key, output, content),
    }
}

/// The bytes that a profile signs for this output and content: what an attacker would have another profile sign.
fn signed_bytes(profile: &str, output: &[u8], content: &[u8]) -> Vec<u8> {
    match profile {
        "sshsig" => {
            use sha2::Digest as _;
            [
                b"SSHSIG\0\0\0\x04file\0\0\0\0\0\0\0\x06sha512\0\0\0\x40".as_slice(),
                &sha2::Sha512::digest(content),
            ]
            .concat()
        }
        "jws" => std::str::from_utf8(output)
            .unwrap()
            .rsplit_once('.')
            .unwrap()
            .0
            .as_bytes()
            .to_vec(),
        _ => labeled_message(&named("notes"), content),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_under_every_profile_makes_no_signature_that_another_verifier_takes() {
    let folder = TempDir::new().unwrap();
    let vault = Vault::passphrase(folder.path(), None).await;
    let seed = [0x5A; 32];
    let key = PublicKey::ed25519(
        ed25519_dalek::SigningKey::from_bytes(&seed)
            .verifying_key()
            .as_bytes(),
    )
    .unwrap();
    let mut grants = String::new();
    for profile in [sshsig(), jws(), labeled()] {
        let name = profile.kind();
        grants.push_str(&format!("[grants.{name}]\nsign = {{ key = \"{name}\" }}\n"));
        let new = NewKey {
            key: KeyRef {
                name: named(name),
                version: KeyVersion::FIRST,
            },
            profile,
            algorithm: Algorithm::Ed25519.into(),
            custody: CustodyKind::Software,
            assurance: Assurance::Passphrase,
            identity: key.clone().into(),
            source: KeySource::Imported,
            plan: RotationPlan::default(),
            locked: false,
            material: Secret::take(&mut seed.to_vec()).unwrap(),
            hardware: None,
        };
        vault.broker.keyring().insert(new, Timestamp::now()).unwrap();
    }
    let who = start(&vault.broker, &grants).await;
    let content = br#"{"a":1}"#;
    let (mut rejected, mut accepted) = (0, 0);
    for target in PROFILES {
        let own = sign(&vault.broker, who, target, content).await.unwrap();
        assert!(verifies(target, &key, &own, content), "{target}");
        assert!(
            verifies(
                target,
                &key,
                &with_signature(target, &own, raw(target, &own)),
                content
            ),
            "the control: {target}"
        );
        accepted += 1;
        for source in PROFILES.into_iter().filter(|source| *source != target) {
            // The same content; what the target signs; and the target's whole output.
            for asked in [content.to_vec(), signed_bytes(target, &own, content), own.clone()] {
                let made = match sign(&vault.broker, who, source, &asked).await {
                    Ok(made) => made,
                    Err(refusal) => {
                        assert_eq!(
                            (source, refusal),
                            ("jws", Refusal::Invalid),
                            "only JSON is signed as claims"
                        );
                        continue;
                    }
                };
                assert!(
                    !verifies(target, &key, &made, content),
                    "{source} as it is, as {target}"
                );
                let forged = with_signature(target, &own, raw(source, &made));
                assert!(
                    !verifies(target, &key, &forged, content),
                    "the signature of {source} in {target}"
                );
                rejected += 2;
            }
        }
    }
    assert_eq!((accepted, rejected), (3, 2 * (3 * 4 + 2)), "the control");
}
