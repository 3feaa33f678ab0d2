//! Requests that a key signs: what is attached verifies, is on the log before it is made, and is gone with the key.

use base64ct::{Base64, Base64UrlUnpadded, Encoding as _};
use claviger_core::audit::{RequestPurpose, Use};
use claviger_core::egress::SendError;
use claviger_core::http::InjectionKind;
use claviger_core::profile::AssertionType;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::web::{API, Given, Scene, Seen, chunks, creation, head, refused};
use super::*;

pub(super) const ENDPOINT: &str = "https://as.test/token";

/// The content of a client's `CertificateVerify`.
pub(super) fn handshake() -> Vec<u8> {
    [&[0x20; 64][..], b"TLS 1.3, client CertificateVerify\0", &[7; 32]].concat()
}

pub(super) async fn key(scene: &Scene, key: &str, profile: Profile, algorithm: Algorithm) -> PublicKey {
    let creation = KeyCreation {
        name: name(key),
        profile,
        algorithm,
        custody: CustodyKind::Software,
    };
    scene
        .broker()
        .create_key(creation)
        .await
        .unwrap()
        .public()
        .unwrap()
        .clone()
}

pub(super) fn grant(inject: &str) -> String {
    format!(
        "[grants.api]\nhttp = {{ origin = \"{API}\", allow = [\"GET /repos/*\", \"POST /repos/*\"] }}\ninject = {{ {inject} }}\n"
    )
}

async fn post(scene: &Scene, who: InstanceId, body: &str) -> Result<Seen, SendError> {
    let length = body.len().to_string();
    let head = head(
        "POST /repos/a",
        &[("content-type", "application/json"), ("content-length", &length)],
    );
    scene.broker().send(who, head, chunks(&[body])).await?;
    Ok(scene.web.seen().pop().unwrap())
}

pub(super) fn slot<'a>(seen: &'a Seen, name: &str) -> &'a str {
    let mut found = seen.slots.iter().filter(|(slot, _)| slot == name);
    let (_, value) = found
        .next()
        .unwrap_or_else(|| panic!("no {name} in {:?}", seen.slots));
    assert!(found.next().is_none(), "twice {name}");
    value
}

/// Every authorised use on the log.
pub(super) async fn uses(scene: &Scene) -> Vec<Use> {
    let events = scene.fixture.events().await.into_iter();
    let uses = events.filter_map(|event| match event {
        Event::Allowed(allowed) => Some(allowed),
        _ => None,
    });
    uses.collect()
}

pub(super) fn purpose(allowed: &Use) -> RequestPurpose {
    allowed.request.as_ref().unwrap().purpose
}

/// Header, payload and whether the key signed it.
pub(super) fn opened(token: &str, key: &PublicKey) -> (Value, Value) {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let bytes = Base64UrlUnpadded::decode_vec(signature).unwrap();
    let signature = Signature::new(key.algorithm(), bytes.try_into().unwrap());
    key.verify(message.as_bytes(), &signature).unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let json = |part: &str| serde_json::from_slice(&Base64UrlUnpadded::decode_vec(part).unwrap()).unwrap();
    (json(header), json(payload))
}

#[tokio::test]
async fn a_request_is_signed_by_its_key_over_what_is_sent() {
    let scene = Scene::new().await;
    let profile = Profile::HttpSignature {
        tag: None,
        max_lifetime: 60,
    };
    let public = key(&scene, "signer", profile, Algorithm::Ed25519).await;
    let who = scene
        .fixture
        .start(&grant("http-signature = \"signer\", lifetime = \"30 s\""))
        .await;
    let seen = post(&scene, who, "{\"a\":1}").await.unwrap();
    let input = slot(&seen, "signature-input").strip_prefix("sig1=").unwrap();
    let digest = format!(
        "sha-256=:{}:",
        Base64::encode_string(&Sha256::digest(b"{\"a\":1}"))
    );
    assert_eq!(slot(&seen, "content-digest"), digest);
    let base = format!(
        "\"@method\": POST\n\"@authority\": api.test\n\"@path\": /repos/a\n\"content-digest\": {digest}\n\"@signature-params\": {input}"
    );
    let signature = slot(&seen, "signature")
        .strip_prefix("sig1=:")
        .unwrap()
        .strip_suffix(':')
        .unwrap();
    let signature = Base64::decode_vec(signature).unwrap().try_into().unwrap();
    public
        .verify(base.as_bytes(), &Signature::new(Algorithm::Ed25519, signature))
        .unwrap();
    assert_eq!(seen.slots.len(), 3, "{:?}", seen.slots);
    let uses = uses(&scene).await;
    assert_eq!(uses.len(), 1, "one entry is one signature");
    assert_eq!(uses[0].key.as_ref().unwrap().to_string(), "signer@v1");
    scene.log_is_clean().await;

    // Nothing is signed or sent with a key that is out of use.
    scene
        .broker()
        .set_key_state(&name("signer"), KeyState::Disabled)
        .await
        .unwrap();
    let error = post(&scene, who, "{\"a\":1}").await.unwrap_err();
    assert_eq!(refused(&error), Refusal::Revoked);
    assert_eq!(scene.web.seen().len(), 1);
}

#[tokio::test]
async fn a_dpop_proof_goes_with_its_token_and_each_request_has_its_own() {
    let scene = Scene::new().await;
    let public = key(&scene, "bound", Profile::Dpop {}, Algorithm::P256).await;
    let who = scene
        .fixture
        .start(&grant("dpop = \"bound\", token = \"github\""))
        .await;
    let first = post(&scene, who, "{}").await.unwrap();
    let second = post(&scene, who, "{}").await.unwrap();
    let token = slot(&first, "authorization").strip_prefix("DPoP ").unwrap();
    let (header, payload) = opened(slot(&first, "dpop"), &public);
    assert_eq!(
        (&header["typ"], &header["alg"]),
        (&"dpop+jwt".into(), &"ES256".into())
    );
    assert_eq!(
        (&payload["htm"], &payload["htu"]),
        (&"POST".into(), &format!("{API}/repos/a").into())
    );
    let ath = Base64UrlUnpadded::encode_string(&Sha256::digest(token.as_bytes()));
    assert_eq!(payload["ath"], ath);
    let (_, again) = opened(slot(&second, "dpop"), &public);
    assert_ne!(payload["jti"], again["jti"]);
    assert_eq!(uses(&scene).await.len(), 2);
    scene.log_is_clean().await;
}

#[tokio::test]
async fn a_token_is_asked_for_with_an_assertion_and_a_proof_and_each_signature_is_on_the_log_first() {
    let scene = Scene::new().await;
    let assertion = Profile::ClientAssertion {
        client_id: name("client-1"),
        audience: name(ENDPOINT),
        typ: AssertionType::Explicit,
    };
    let client = key(&scene, "client", assertion, Algorithm::P256).await;
    let bound = key(&scene, "bound", Profile::Dpop {}, Algorithm::P256).await;
    let who = scene
        .fixture
        .start(&grant(&format!(
            "dpop = \"bound\", oauth2 = \"client-credentials\", token-endpoint = \"{ENDPOINT}\", client-id = \"client-1\", \
             auth = \"private-key-jwt\", key = \"client\""
        )))
        .await;
    scene.web.will_give(Given {
        token: Ok(("canary-token-1", Some(3600), None)),
        slow: false,
    });
    for _ in 0..2 {
        let seen = post(&scene, who, "{}").await.unwrap();
        assert_eq!(slot(&seen, "authorization"), "DPoP canary-token-1");
        opened(slot(&seen, "dpop"), &bound);
    }
    let proofs = scene.web.proofs.lock().unwrap().clone();
    let [(Some(assertion), Some(proof))] = proofs.as_slice() else {
        panic!("{proofs:?}")
    };
    let (_, payload) = opened(assertion, &client);
    assert_eq!(
        (&payload["iss"], &payload["aud"]),
        (&"client-1".into(), &ENDPOINT.into())
    );
    let (_, payload) = opened(proof, &bound);
    assert_eq!((&payload["htu"], payload.get("ath")), (&ENDPOINT.into(), None));
    let uses = uses(&scene).await;
    let purposes: Vec<_> = uses.iter().map(purpose).collect();
    let (proof, token, agent) = (
        RequestPurpose::Proof,
        RequestPurpose::Token,
        RequestPurpose::Agent,
    );
    assert_eq!(purposes, [proof, proof, token, agent, agent]);
    let numbers: Vec<_> = uses.iter().map(|allowed| allowed.number).collect();
    assert_eq!(numbers, [0, 0, 0, 1, 2], "proofs are no uses of the grant");
    let text = format!("{:?}", scene.fixture.entries().await);
    assert!(
        !text.contains(assertion.as_str()) && !text.contains("canary"),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_certificate_s_key_signs_handshakes_of_its_grant_and_nothing_else() {
    let scene = Scene::new().await;
    let public = key(&scene, "client", Profile::Mtls {}, Algorithm::P256).await;
    let other = key(&scene, "other", Profile::Mtls {}, Algorithm::P256).await;
    let certificate = certificate(&scene, "client").await;
    let grant = |key: &str| {
        format!(
            "[grants.api]\nhttp = {{ origin = \"{API}\", allow = [\"GET /repos/*\"] }}\n[grants.api.inject]\nmtls = \"{key}\"\n\
             certificate = '''\n{certificate}'''\n"
        )
    };
    let who = scene.fixture.start(&grant("client")).await;
    scene.get(who).await.unwrap();
    let handshakes = std::mem::take(&mut *scene.web.handshakes.lock().unwrap());
    let [Ok(signature), Err(_)] = handshakes.as_slice() else {
        panic!("{handshakes:?}")
    };
    public.verify(&handshake(), signature).unwrap();
    other.verify(&handshake(), signature).unwrap_err();
    let uses = uses(&scene).await;
    let purposes: Vec<_> = uses.iter().map(purpose).collect();
    assert_eq!(purposes, [RequestPurpose::Agent, RequestPurpose::Proof]);

    // A certificate for another key is found when the agent is admitted, not when it connects.
    let refused = scene
        .broker()
        .admit(&Fixture::manifest(&grant("other")), ComponentDigest::of(CODE))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("not one of version 3 for this key"),
        "{refused}"
    );
}

/// A certificate that an authority makes for a key.
async fn certificate(scene: &Scene, key: &str) -> String {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let request = scene
        .broker()
        .certificate_request(&name(key), "CN=client")
        .await
        .unwrap();
    std::fs::write(file("ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    std::fs::write(file("csr"), request).unwrap();
    let run = |arguments: &[&str]| {
        let out = std::process::Command::new("openssl")
            .args(arguments)
            .output()
            .expect("openssl is missing: apt-get install openssl");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    run(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=ca",
        "-keyout",
        &file("ca.key"),
        "-out",
        &file("ca.pem"),
    ]);
    run(&[
        "x509",
        "-req",
        "-in",
        &file("csr"),
        "-CA",
        &file("ca.pem"),
        "-CAkey",
        &file("ca.key"),
        "-CAcreateserial",
        "-extfile",
        &file("ext"),
        "-out",
        &file("pem"),
    ]);
    std::fs::read_to_string(file("pem")).unwrap()
}

#[tokio::test]
async fn a_key_that_cannot_make_the_grant_s_proofs_is_a_reason_not_to_admit() {
    let scene = Scene::new().await;
    let http = Profile::HttpSignature {
        tag: None,
        max_lifetime: 20,
    };
    key(&scene, "signer", http, Algorithm::P256).await;
    let assertion = Profile::ClientAssertion {
        client_id: name("client-1"),
        audience: name(ENDPOINT),
        typ: AssertionType::Explicit,
    };
    key(&scene, "client", assertion, Algorithm::P256).await;
    key(&scene, "bound", Profile::Dpop {}, Algorithm::P256).await;
    let oauth = |endpoint: &str, client: &str| {
        format!(
            "oauth2 = \"client-credentials\", token-endpoint = \"{endpoint}\", client-id = \"{client}\", \
             auth = \"private-key-jwt\", key = \"client\""
        )
    };
    for (inject, reason) in [
        (
            "http-signature = \"signer\", lifetime = \"30 s\"".to_owned(),
            "allows signatures of 1 to 20 seconds",
        ),
        ("http-signature = \"bound\"".to_owned(), "is for `dpop`"),
        ("http-signature = \"release\"".to_owned(), "is for `sshsig`"),
        ("mtls = \"bound\"".to_owned(), "certificate"),
        (
            oauth("https://evil.test/token", "client-1"),
            "for https://as.test",
        ),
        (oauth(ENDPOINT, "client-2"), "for the client `client-1`"),
    ] {
        let text = grant(&inject);
        let digest = ComponentDigest::of(CODE);
        let text = format!(
            "schema = 1\n[agent]\nname = \"bot\"\ncomponent = \"bot.wasm\"\ndigest = \"{digest}\"\n{text}"
        );
        let refused = match Manifest::parse(&text) {
            Err(problems) => format!("{problems:?}"),
            Ok((manifest, _)) => scene
                .broker()
                .admit(&manifest, digest)
                .await
                .unwrap_err()
                .to_string(),
        };
        assert!(refused.contains(reason), "{inject}: {refused}");
    }
    assert!(scene.web.seen().is_empty());
    // The control.
    scene.fixture.start(&grant(&oauth(ENDPOINT, "client-1"))).await;
    scene
        .broker()
        .add_secret(creation("unused", InjectionKind::Bearer, API, "0123456789abcdef"))
        .await
        .unwrap();
}
