//! What keys for requests sign, shown to verifiers of other people: libraries from PyPI and openssl. Each acceptance has beside it what the
//! same verifier must refuse. Not a request over a wire: what is attached there is tested with the broker.

use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use claviger_broker::custody::SoftwareCustody;
use claviger_core::custody::{Custody, Generated, SigningKey};
use claviger_core::http::{Method, Origin, PathEncoding, Target};
use claviger_core::profile::proof::{
    Possession, RequestParts, certificate_request, client_assertion, dpop, github_app, http_signature,
};
use claviger_core::profile::{AssertionType, FrameContext, Framed, Profile};
use claviger_core::{Algorithm, KeyRef, PublicKey, Secret, Signature};
use jiff::Timestamp;
use kit::judge::{Verdict, judge};
use kit::permits::{key_ref, permit};
use kit::vault::{named, swtpm};
use kit::verifiers::{accepts, openssl};
use serde_json::{Value, json};

/// A key that is open.
struct Key {
    name: KeyRef,
    public: PublicKey,
    open: Arc<dyn SigningKey>,
}

impl Key {
    async fn new(custody: &dyn Custody, algorithm: Algorithm) -> Self {
        let name = key_ref("proofs");
        let Generated { public, material } = custody.generate(&name, algorithm).await.unwrap();
        let open = custody.open(&name, &public, material).await.unwrap();
        Self { name, public, open }
    }

    fn context(&self, nonce: u8) -> FrameContext<'_> {
        FrameContext {
            key: &self.public,
            now: Timestamp::now(),
            nonce: [nonce; 16],
        }
    }

    async fn sign(&self, message: &Framed) -> Signature {
        let permit = permit(&self.name, message, 1).await;
        self.open.sign(&permit, message).await.unwrap()
    }

    async fn token(&self, message: &Framed) -> String {
        let signature = self.sign(message).await;
        String::from_utf8(message.finish(&signature).unwrap()).unwrap()
    }
}

async fn software() -> [Key; 2] {
    [
        Key::new(&SoftwareCustody, Algorithm::Ed25519).await,
        Key::new(&SoftwareCustody, Algorithm::P256).await,
    ]
}

fn target(url: &str) -> Target {
    Target::parse(url, PathEncoding::Allowed).unwrap()
}

/// The first is accepted, the others are not; `names` are those of the others.
#[track_caller]
fn only_the_first(verdicts: &[Verdict], names: &[&str]) {
    let (first, others) = verdicts.split_first().unwrap();
    assert!(first.accepted, "{}", first.why);
    assert_eq!(others.len(), names.len());
    for (verdict, name) in others.iter().zip(names) {
        assert!(!verdict.accepted, "{name} is accepted");
    }
}

/// A case with one member exchanged.
fn with(case: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = case.clone();
    let place = changed.pointer_mut(pointer).expect("a member");
    assert_ne!(*place, value, "a change changes something");
    *place = value;
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn another_implementation_of_rfc_9421_accepts_our_signatures_and_no_changed_request() {
    let profile = Profile::HttpSignature {
        tag: Some(named("acme/api")),
        max_lifetime: 300,
    };
    for key in software().await {
        let other = Key::new(&SoftwareCustody, key.public.algorithm()).await;
        for (method, url, body, components) in [
            (
                Method::Post,
                "https://api.example/v1/a%20b?x=1&y=a%20b",
                Some("{\"a\":1}"),
                &["@method", "@authority", "@path", "@query", "content-digest"][..],
            ),
            (
                Method::Get,
                "https://api.example:8443/",
                None,
                &["@method", "@authority", "@path"],
            ),
        ] {
            let target = target(url);
            let request = RequestParts {
                method,
                target: &target,
                body: body.map(str::as_bytes),
            };
            let (framed, fields) = http_signature(&profile, 60, &request, &key.context(1)).unwrap();
            let fields = fields.finish(&key.sign(&framed).await).unwrap();
            let headers: serde_json::Map<String, Value> = fields
                .into_iter()
                .map(|(name, value)| (name.to_string(), value.into()))
                .collect();
            let good = json!({
                "kind": "http-signature", "method": method.as_str(), "url": url, "body": body, "headers": headers,
                "algorithm": key.public.algorithm().as_str(), "keyid": key.public.thumbprint(),
                "pem": key.public.to_pem().unwrap(), "tag": "acme/api", "components": components,
            });
            let input = good["headers"]["signature-input"].as_str().unwrap();
            let mut cases = vec![
                good.clone(),
                with(&good, "/method", "DELETE".into()),
                with(&good, "/url", url.replace("api.example", "evil.example").into()),
                with(
                    &good,
                    "/url",
                    url.replace("/v1/a", "/v1/b").replace("8443/", "8443/x").into(),
                ),
                with(&good, "/pem", other.public.to_pem().unwrap().into()),
                with(&good, "/tag", "acme/other".into()),
                with(
                    &good,
                    "/headers/signature-input",
                    input.replace("nonce=\"AQ", "nonce=\"Ag").into(),
                ),
                with(
                    &good,
                    "/headers/signature-input",
                    input.replace(" \"@path\"", "").into(),
                ),
            ];
            let mut names = vec![
                "method",
                "authority",
                "path",
                "key",
                "tag",
                "nonce",
                "fewer components",
            ];
            if body.is_some() {
                cases.push(with(&good, "/body", "{\"a\":2}".into()));
                cases.push(with(&good, "/url", url.replace("x=1", "x=2").into()));
                names.extend(["body", "query"]);
            }
            only_the_first(&judge(&cases), &names);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_jose_libraries_accept_our_dpop_proofs_for_their_request_alone() {
    for key in software().await {
        let other = Key::new(&SoftwareCustody, key.public.algorithm()).await;
        let url = "https://api.example/v1/things";
        let target = target(&format!("{url}?secret=1"));
        let token = Secret::take(&mut b"an-access-token".to_vec()).unwrap();
        let request = Possession {
            method: Method::Post,
            target: &target,
            token: Some(&token),
            nonce: Some("server-nonce"),
        };
        let framed = dpop(&Profile::Dpop {}, &request, &key.context(2)).unwrap();
        let proof = key.token(&framed).await;
        let good = json!({
            "kind": "dpop", "proof": proof, "method": "POST", "url": url, "nonce": "server-nonce",
            "token": "an-access-token", "keyid": key.public.thumbprint(),
        });
        let (signed, _) = proof.rsplit_once('.').unwrap();
        let forged = format!(
            "{signed}.{}",
            Base64UrlUnpadded::encode_string(other.sign(&framed_for(&other)).await.as_bytes())
        );
        let cases = [
            good.clone(),
            with(&good, "/method", "GET".into()),
            with(&good, "/url", "https://evil.example/v1/things".into()),
            with(&good, "/nonce", "another".into()),
            with(&good, "/token", "another".into()),
            with(&good, "/keyid", other.public.thumbprint().into()),
            with(&good, "/proof", forged.into()),
        ];
        only_the_first(
            &judge(&cases),
            &["method", "url", "nonce", "token", "key", "signature"],
        );
        assert_eq!(
            judge(&[good])[0].claims.as_ref().unwrap()["htu"],
            url,
            "without the query"
        );
    }
}

/// Some message of this key.
fn framed_for(key: &Key) -> Framed {
    let target = target("https://elsewhere.example/");
    let request = Possession {
        method: Method::Get,
        target: &target,
        token: None,
        nonce: None,
    };
    dpop(&Profile::Dpop {}, &request, &key.context(3)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_jose_libraries_accept_our_client_assertions_and_no_changed_ones() {
    let audience = "https://as.example/token";
    for (key, typ) in software()
        .await
        .into_iter()
        .zip([AssertionType::Explicit, AssertionType::Plain])
    {
        let other = Key::new(&SoftwareCustody, key.public.algorithm()).await;
        let profile = Profile::ClientAssertion {
            client_id: named("client-1"),
            audience: named(audience),
            typ,
        };
        let endpoint: Origin = named("https://as.example");
        let framed = client_assertion(&profile, &endpoint, &key.context(4)).unwrap();
        let token = key.token(&framed).await;
        let good = json!({
            "kind": "token", "token": token, "alg": key.public.algorithm().jose(), "audience": audience,
            "issuer": "client-1", "typ": typ.as_str(), "require": ["iss", "sub", "aud", "exp", "iat", "jti"],
            "pem": key.public.to_pem().unwrap(), "jwk": key.public.to_jwk(),
        });
        let cases = [
            good.clone(),
            with(&good, "/audience", "https://evil.example/token".into()),
            with(&good, "/issuer", "client-2".into()),
            with(&good, "/token", changed(&token, "client-1", "client-2").into()),
            with(&good, "/pem", other.public.to_pem().unwrap().into()),
            with(&good, "/jwk", other.public.to_jwk()),
        ];
        only_the_first(&judge(&cases), &["audience", "issuer", "payload", "key", "jwk"]);
        assert_eq!(judge(&[good])[0].claims.as_ref().unwrap()["sub"], "client-1");
    }
}

/// A token with something else in its payload and the signature of before.
fn changed(token: &str, from: &str, to: &str) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let payload = String::from_utf8(Base64UrlUnpadded::decode_vec(parts[1]).unwrap()).unwrap();
    assert!(payload.contains(from));
    let payload = Base64UrlUnpadded::encode_string(payload.replace(from, to).as_bytes());
    format!("{}.{payload}.{}", parts[0], parts[2])
}

#[tokio::test(flavor = "multi_thread")]
async fn rs256_of_a_key_in_the_tpm_is_accepted_by_openssl_and_other_jose_libraries() {
    let folder = tempfile::tempdir().unwrap();
    let tpm = swtpm(folder.path());
    let custody = tpm.custody();
    let key = Key::new(&*custody, Algorithm::Rsa2048).await;
    let origin: Origin = named("https://api.github.com");
    let profile = Profile::GithubApp {
        app: named("Iv23liAcme"),
        origin: origin.clone(),
    };
    let framed = github_app(&profile, &origin, &key.context(5)).unwrap();
    let token = key.token(&framed).await;
    let signature = key.sign(&framed).await;
    assert!(openssl(&key.public, signature.as_bytes(), framed.message()));
    assert!(!openssl(&key.public, signature.as_bytes(), b"another message"));
    let good = json!({
        "kind": "token", "token": token, "alg": "RS256", "audience": null, "issuer": "Iv23liAcme", "typ": "JWT",
        "require": ["iss", "exp", "iat"], "pem": key.public.to_pem().unwrap(), "jwk": key.public.to_jwk(),
    });
    let cases = [
        good.clone(),
        with(&good, "/issuer", "Iv23liOther".into()),
        with(&good, "/alg", "RS512".into()),
        with(
            &good,
            "/token",
            changed(&token, "Iv23liAcme", "Iv23liEvil").into(),
        ),
    ];
    only_the_first(&judge(&cases), &["issuer", "algorithm", "payload"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_makes_a_certificate_from_our_request() {
    let folder = tempfile::tempdir().unwrap();
    let tpm = swtpm(folder.path());
    let custody = tpm.custody();
    let key = Key::new(&*custody, Algorithm::P256).await;
    let (framed, request) =
        certificate_request(&Profile::Mtls {}, "CN=release-bot,O=Acme", &key.context(6)).unwrap();
    let pem = request.finish(&key.sign(&framed).await).unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(file("bot.csr"), &pem).unwrap();
    let run = |arguments: &[&str]| accepts("openssl", arguments, b"", "openssl").expect("openssl takes it");
    run(&["req", "-verify", "-noout", "-in", &file("bot.csr")]);
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
        &file("bot.csr"),
        "-CA",
        &file("ca.pem"),
        "-CAkey",
        &file("ca.key"),
        "-CAcreateserial",
        "-out",
        &file("bot.pem"),
    ]);
    run(&["verify", "-CAfile", &file("ca.pem"), &file("bot.pem")]);
    let public = run(&["x509", "-in", &file("bot.pem"), "-noout", "-pubkey"]);
    assert_eq!(public, key.public.to_pem().unwrap(), "for the key in the TPM");
}
