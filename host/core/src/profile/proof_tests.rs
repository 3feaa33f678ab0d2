//! What the profiles for requests promise, attacked. Not interoperability: other people's verifiers are asked in `tests/`.

use std::collections::BTreeMap;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::proof::{
    MAX_NONCE, Possession, RequestParts, certificate_request, certificate_verify, client_assertion, dpop,
    github_app, http_signature,
};
use super::test_keys::Pair;
use super::tests::{all_profiles, context, open_jws, rule, set};
use super::*;
use crate::http::Method;
use crate::secret::Secret;
use crate::{ContentDigest, Signature};

fn pairs() -> [Pair; 3] {
    let [ed25519, p256] = Pair::both();
    [ed25519, p256, Pair::rsa()]
}

fn http(max_lifetime: u32) -> Profile {
    Profile::HttpSignature {
        tag: Some("acme/api".parse().unwrap()),
        max_lifetime,
    }
}

fn assertion(audience: &str) -> Profile {
    Profile::ClientAssertion {
        client_id: "client".parse().unwrap(),
        audience: audience.parse().unwrap(),
        typ: AssertionType::Explicit,
    }
}

fn app() -> Profile {
    Profile::GithubApp {
        app: "Iv23liacme".parse().unwrap(),
        origin: "https://api.github.com".parse().unwrap(),
    }
}

fn request_profiles() -> [Profile; 5] {
    [
        http(300),
        Profile::Dpop {},
        assertion("https://as.example/token"),
        app(),
        Profile::Mtls {},
    ]
}

fn target(url: &str) -> Target {
    Target::parse(url, PathEncoding::Allowed).unwrap()
}

pub(super) fn handshake(hash: usize) -> Vec<u8> {
    let mut content = vec![0x20; 64];
    content.extend_from_slice(b"TLS 1.3, client CertificateVerify\0");
    content.extend_from_slice(&vec![0xEE; hash]);
    content
}

fn signed(lifetime: u32, url: &str, body: Option<&[u8]>, pair: &Pair) -> (Framed, BTreeMap<String, String>) {
    let key = pair.public();
    let target = target(url);
    let request = RequestParts {
        method: Method::Post,
        target: &target,
        body,
    };
    let (framed, fields) = http_signature(&http(300), lifetime, &request, &context(&key)).unwrap();
    let fields = fields.finish(&pair.sign(framed.message())).unwrap();
    let fields = fields.into_iter().map(|(name, value)| (name.to_string(), value));
    (framed, fields.collect())
}

/// What a key of each profile for requests signs, where it can have this algorithm.
fn proofs(key: &PublicKey) -> Vec<(&'static str, Framed)> {
    let target = target("https://api.example/v1?a=1");
    let request = RequestParts {
        method: Method::Post,
        target: &target,
        body: Some(b"{}"),
    };
    let possession = Possession {
        method: Method::Post,
        target: &target,
        token: None,
        nonce: None,
    };
    let context = context(key);
    let assertion = assertion("https://as.example/token");
    let endpoint = "https://as.example".parse().unwrap();
    let api = "https://api.github.com".parse().unwrap();
    let (audience, agent) = (
        "https://verifier.example".parse().unwrap(),
        "bot".parse().unwrap(),
    );
    let claims = EvidenceClaims {
        audience: &audience,
        nonce: &[1; 32],
        ttl: 60,
        agent: &agent,
        component: crate::ComponentDigest::of(b"component"),
        manifest: crate::ManifestDigest::of(b"manifest"),
        host_version: "0.1.0",
        assurance: crate::custody::Assurance::Hardware,
    };
    [
        (
            "http-signature",
            http_signature(&http(300), 60, &request, &context).map(|(framed, _)| framed),
        ),
        ("dpop", dpop(&Profile::Dpop {}, &possession, &context)),
        (
            "client-assertion",
            client_assertion(&assertion, &endpoint, &context),
        ),
        ("github-app", github_app(&app(), &api, &context)),
        (
            "mtls",
            certificate_verify(&Profile::Mtls {}, &handshake(32), &context),
        ),
        ("attest", evidence(&Profile::Attest {}, &claims, &context)),
        (
            "mtls request",
            certificate_request(&Profile::Mtls {}, "CN=a", &context).map(|(framed, _)| framed),
        ),
    ]
    .into_iter()
    .filter_map(|(kind, framed)| match framed {
        Ok(framed) => Some((kind, framed)),
        Err(FrameError::Algorithm(algorithm)) => {
            assert_eq!(algorithm, key.algorithm());
            None
        }
        Err(other) => panic!("{kind}: {other}"),
    })
    .collect()
}

#[test]
fn a_signature_in_one_profile_verifies_in_no_other_nor_for_an_agent() {
    // The oracle matrix, for requests: the same key in the place of the key of every profile.
    for (pair, frames) in pairs().into_iter().zip([6, 9, 1]) {
        let key = pair.public();
        let mut all = proofs(&key);
        for profile in all_profiles() {
            if let Ok(framed) = rule(&profile).frame(b"{\"a\":1}", &context(&key)) {
                all.push((profile.kind(), framed));
            }
        }
        assert_eq!(all.len(), frames, "{}", key.algorithm());
        for (row, (signer, framed)) in all.iter().enumerate() {
            let signature = pair.sign(framed.message());
            for (column, (verifier, other)) in all.iter().enumerate() {
                let verified = key.verify(other.message(), &signature).is_ok();
                assert_eq!(verified, row == column, "{signer} as {verifier}");
                // Not one byte of luck: how they start tells them apart.
                let start = |framed: &Framed| framed.message().get(..16).unwrap().to_vec();
                assert_eq!(
                    start(framed) == start(other),
                    row == column,
                    "{signer} and {verifier}"
                );
            }
        }
        // An agent that has all of another profile's message to sign, in whatever profile it may sign.
        for (kind, framed) in proofs(&key) {
            for profile in all_profiles() {
                if let Ok(nested) = rule(&profile).frame(framed.message(), &context(&key)) {
                    assert_ne!(nested.message(), framed.message(), "{kind} by {}", profile.kind());
                    assert!(!nested.message().starts_with(framed.message().get(..16).unwrap()));
                }
            }
        }
    }
}

#[test]
fn no_grant_to_sign_reaches_a_key_for_requests() {
    for profile in request_profiles() {
        profile.validate().unwrap();
        let refused = profile.narrow(&Narrowing::default());
        assert_eq!(refused, Err(ProfileError::ForRequests(profile.kind())));
        assert!(refused.unwrap_err().to_string().contains("is for requests"));
    }
    assert_eq!(
        Profile::Attest {}.narrow(&Narrowing::default()),
        Err(ProfileError::ForEvidence)
    );
    for profile in all_profiles() {
        assert!(profile.narrow(&Narrowing::default()).is_ok(), "the control");
    }
}

#[test]
fn each_proof_is_made_with_a_key_of_its_own_profile_and_no_other() {
    let target = target("https://as.example/token");
    let request = RequestParts {
        method: Method::Get,
        target: &target,
        body: None,
    };
    let possession = Possession {
        method: Method::Get,
        target: &target,
        token: None,
        nonce: None,
    };
    let (endpoint, api) = (
        "https://as.example".parse().unwrap(),
        "https://api.github.com".parse().unwrap(),
    );
    for pair in pairs() {
        let key = pair.public();
        let context = context(&key);
        for profile in request_profiles().iter().chain(&all_profiles()) {
            let results = [
                (
                    "http-signature",
                    http_signature(profile, 60, &request, &context).err(),
                ),
                ("dpop", dpop(profile, &possession, &context).err()),
                (
                    "client-assertion",
                    client_assertion(profile, &endpoint, &context).err(),
                ),
                ("github-app", github_app(profile, &api, &context).err()),
                (
                    "mtls",
                    certificate_verify(profile, &handshake(48), &context).err(),
                ),
                ("mtls", certificate_request(profile, "CN=a", &context).err()),
            ];
            for (expected, error) in results {
                let found = profile.kind();
                if expected != found {
                    assert_eq!(error, Some(FrameError::Profile { expected, found }));
                } else if profile.accept(key.algorithm()).is_ok() {
                    assert_eq!(error, None, "{expected} {}", key.algorithm());
                } else {
                    assert_eq!(error, Some(FrameError::Algorithm(key.algorithm())), "{expected}");
                }
            }
        }
    }
}

#[test]
fn rsa_is_for_github_apps_and_github_apps_are_for_rsa() {
    let key = Pair::rsa().public();
    for profile in all_profiles() {
        assert!(profile.accept(Algorithm::Rsa2048).is_err());
        assert_eq!(
            rule(&profile).frame(b"{}", &context(&key)).err(),
            Some(FrameError::Algorithm(Algorithm::Rsa2048))
        );
    }
    for profile in request_profiles() {
        let takes = profile.accept(Algorithm::Rsa2048).is_ok();
        assert_eq!(takes, profile.kind() == "github-app");
        assert_eq!(
            profile.algorithms().len(),
            if matches!(profile.kind(), "github-app" | "mtls") {
                1
            } else {
                2
            }
        );
    }
    assert_eq!(
        Profile::Mtls {}
            .accept(Algorithm::Ed25519)
            .unwrap_err()
            .to_string(),
        "a key with profile `mtls` is p256, not ed25519"
    );
}

#[test]
fn a_request_is_covered_by_its_fixed_components() {
    let [_, p256] = Pair::both();
    let body = b"{\"a\":1}";
    let (framed, fields) = signed(60, "https://api.example:8443/v1/a%20b?x=1&y", Some(body), &p256);
    let key = p256.public();
    let input = format!(
        "(\"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\");created=1800000000;expires=1800000060;\
         nonce=\"{}\";alg=\"ecdsa-p256-sha256\";keyid=\"{}\";tag=\"acme/api\"",
        Base64UrlUnpadded::encode_string(&[0xAB; 16]),
        key.thumbprint()
    );
    let digest = format!(
        "sha-256=:{}:",
        base64ct::Base64::encode_string(&Sha256::digest(body))
    );
    let expected = format!(
        "\"@method\": POST\n\"@authority\": api.example:8443\n\"@path\": /v1/a%20b\n\"@query\": ?x=1&y\n\"content-digest\": {digest}\n\
         \"@signature-params\": {input}"
    );
    assert_eq!(String::from_utf8(framed.message().to_vec()).unwrap(), expected);
    assert_eq!(fields["signature-input"], format!("sig1={input}"));
    assert_eq!(fields["content-digest"], digest);
    assert_eq!(framed.content(), ContentDigest::of(body));

    // The fields are structured fields, and the signature in them verifies.
    let dictionary: sfv::Dictionary = sfv::Parser::new(&fields["signature"]).parse().unwrap();
    let sfv::ListEntry::Item(item) = &dictionary["sig1"] else {
        panic!("not an item")
    };
    let bytes: [u8; 64] = item.bare_item.as_byte_sequence().unwrap().try_into().unwrap();
    key.verify(framed.message(), &Signature::new(Algorithm::P256, bytes))
        .unwrap();
    let dictionary: sfv::Dictionary = sfv::Parser::new(&fields["signature-input"]).parse().unwrap();
    let sfv::ListEntry::InnerList(list) = &dictionary["sig1"] else {
        panic!("not an inner list")
    };
    assert_eq!((list.items.len(), list.params.len()), (5, 6));
}

#[test]
fn what_a_request_does_not_have_is_not_covered_and_what_it_has_is() {
    let [ed25519, _] = Pair::both();
    for (url, body, covered) in [
        ("https://h/", None, "(\"@method\" \"@authority\" \"@path\")"),
        (
            "https://h/?",
            None,
            "(\"@method\" \"@authority\" \"@path\" \"@query\")",
        ),
        (
            "https://h?a=1",
            None,
            "(\"@method\" \"@authority\" \"@path\" \"@query\")",
        ),
        (
            "https://h/",
            Some(&b""[..]),
            "(\"@method\" \"@authority\" \"@path\" \"content-digest\")",
        ),
    ] {
        let (_, fields) = signed(300, url, body, &ed25519);
        assert!(
            fields["signature-input"].starts_with(&format!("sig1={covered};created=")),
            "{url}"
        );
        assert_eq!(fields.contains_key("content-digest"), body.is_some());
    }
    // Everything that is covered changes what is signed.
    let base = signed(60, "https://h/a?x=1", Some(b"1"), &ed25519).0;
    for (lifetime, url, body) in [
        (61, "https://h/a?x=1", &b"1"[..]),
        (60, "https://h2/a?x=1", b"1"),
        (60, "https://h:8443/a?x=1", b"1"),
        (60, "https://h/b?x=1", b"1"),
        (60, "https://h/a?x=2", b"1"),
        (60, "https://h/a?x=1&y", b"1"),
        (60, "https://h/a", b"1"),
        (60, "https://h/a?x=1", b"2"),
    ] {
        let other = signed(lifetime, url, Some(body), &ed25519).0;
        assert_ne!(base.message(), other.message(), "{url}");
    }
    let again = signed(60, "https://h/a?x=1", Some(b"1"), &ed25519).0;
    assert_eq!(base.message(), again.message(), "the control");
}

#[test]
fn a_signature_over_a_request_lives_no_longer_than_the_key_allows() {
    let key = Pair::both()[0].public();
    let target = target("https://h/");
    let request = RequestParts {
        method: Method::Get,
        target: &target,
        body: None,
    };
    for (max, lifetime, fits) in [
        (300, 300, true),
        (300, 1, true),
        (60, 60, true),
        (60, 61, false),
        (300, 0, false),
        (300, 301, false),
    ] {
        let made = http_signature(&http(max), lifetime, &request, &context(&key));
        assert_eq!(made.is_ok(), fits, "{lifetime} of {max}");
    }
    // A profile that is out of bounds is none, and would not help.
    for max in [0, 301, u32::MAX] {
        assert_eq!(http(max).validate(), Err(ProfileError::Lifetime(max)));
        assert!(http_signature(&http(max), 301, &request, &context(&key)).is_err());
    }
}

#[test]
fn a_dpop_proof_is_as_rfc_9449_says() {
    for (pair, alg) in Pair::both().iter().zip(["EdDSA", "ES256"]) {
        let key = pair.public();
        let target = target("https://api.example/v1/a?secret=1");
        let token = Secret::take(&mut b"Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU".to_vec()).unwrap();
        let mut request = Possession {
            method: Method::Get,
            target: &target,
            token: Some(&token),
            nonce: Some("eyJ7S_zG.eyJH0-Z.HX4w-7v"),
        };
        let framed = dpop(&Profile::Dpop {}, &request, &context(&key)).unwrap();
        let (header, payload) = open_jws(framed.message());
        let jwk: Value = serde_json::from_str(&key.canonical_jwk()).unwrap();
        assert_eq!(header, json!({ "typ": "dpop+jwt", "alg": alg, "jwk": jwk }));
        assert_eq!(jwk.get("d"), None);
        assert_eq!(
            payload,
            json!({
                "jti": Base64UrlUnpadded::encode_string(&[0xAB; 16]), "htm": "GET", "htu": "https://api.example/v1/a",
                "iat": 1_800_000_000, "nonce": "eyJ7S_zG.eyJH0-Z.HX4w-7v",
                // RFC 9449 §7.1 has this token and this digest of it.
                "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
            })
        );
        let finished = String::from_utf8(framed.finish(&pair.sign(framed.message())).unwrap()).unwrap();
        assert_eq!(finished.split('.').count(), 3);
        assert!(!format!("{request:?}").contains("Kz~8"));

        request.token = None;
        request.nonce = None;
        let (_, payload) = open_jws(
            dpop(&Profile::Dpop {}, &request, &context(&key))
                .unwrap()
                .message(),
        );
        assert_eq!((payload.get("ath"), payload.get("nonce")), (None, None));
    }
}

#[test]
fn a_nonce_of_a_server_cannot_write_into_a_proof() {
    let key = Pair::both()[1].public();
    let target = target("https://h/");
    let long = "a".repeat(MAX_NONCE);
    let longer = "a".repeat(MAX_NONCE + 1);
    for (nonce, fits) in [
        ("a", true),
        (long.as_str(), true),
        (longer.as_str(), false),
        ("", false),
        ("a b", false),
        ("a\"", false),
        ("a\\", false),
        ("a\r\nx: 1", false),
        ("a\0", false),
        ("ä", false),
    ] {
        let request = Possession {
            method: Method::Get,
            target: &target,
            token: None,
            nonce: Some(nonce),
        };
        assert_eq!(
            dpop(&Profile::Dpop {}, &request, &context(&key)).is_ok(),
            fits,
            "{nonce:?}"
        );
    }
}

#[test]
fn a_client_assertion_says_what_the_profile_says_and_goes_to_its_audience_alone() {
    let [_, pair] = Pair::both();
    let key = pair.public();
    let profile = assertion("https://as.example:8443/tenant/token");
    let home: Origin = "https://as.example:8443".parse().unwrap();
    let framed = client_assertion(&profile, &home, &context(&key)).unwrap();
    let (header, payload) = open_jws(framed.message());
    assert_eq!(
        header,
        json!({ "kid": key.thumbprint(), "alg": "ES256", "typ": "client-authentication+jwt" })
    );
    assert_eq!(
        payload,
        json!({
            "iss": "client", "sub": "client", "aud": "https://as.example:8443/tenant/token",
            "iat": 1_800_000_000, "exp": 1_800_000_120, "jti": Base64UrlUnpadded::encode_string(&[0xAB; 16]),
        })
    );
    for elsewhere in ["https://as.example", "https://evil.example:8443"] {
        let asked: Origin = elsewhere.parse().unwrap();
        let refused = client_assertion(&profile, &asked, &context(&key)).err();
        assert_eq!(
            refused,
            Some(FrameError::Destination {
                allowed: home.clone(),
                asked
            })
        );
    }
    for bad in [
        "as.example",
        "http://as.example/token",
        "https://AS.example/",
        "https://as.example@evil.example/",
    ] {
        assert!(assertion(bad).validate().is_err(), "{bad}");
    }
}

#[test]
fn the_token_of_an_app_goes_to_its_api_alone_and_is_short_lived() {
    let pair = Pair::rsa();
    let key = pair.public();
    let home: Origin = "https://api.github.com".parse().unwrap();
    let framed = github_app(&app(), &home, &context(&key)).unwrap();
    let (header, payload) = open_jws(framed.message());
    assert_eq!(header, json!({ "typ": "JWT", "alg": "RS256" }));
    assert_eq!(
        payload,
        json!({ "iss": "Iv23liacme", "iat": 1_799_999_940, "exp": 1_800_000_300 })
    );
    let signature = pair.sign(framed.message());
    key.verify(framed.message(), &signature).unwrap();
    let token = framed.finish(&signature).unwrap();
    assert_eq!(token.iter().filter(|b| **b == b'.').count(), 2);
    let asked: Origin = "https://github.evil.example".parse().unwrap();
    assert_eq!(
        github_app(&app(), &asked, &context(&key)).err(),
        Some(FrameError::Destination { allowed: home, asked })
    );
    let short = Signature::new(Algorithm::Rsa2048, [1; 64]);
    assert!(key.verify(framed.message(), &short).is_err());
}

#[test]
fn no_agent_s_token_is_of_a_type_that_proofs_have() {
    for (typ, fits) in [
        ("dpop+jwt", false),
        ("DPoP+JWT", false),
        ("application/dpop+jwt", false),
        ("client-authentication+jwt", false),
        ("Application/Client-Authentication+JWT", false),
        ("JWT", true),
        ("at+jwt", true),
        ("xdpop+jwt", true),
    ] {
        let profile = Profile::Jws {
            issuer: "i".parse().unwrap(),
            typ: typ.parse().unwrap(),
            audiences: set(&["a"]),
            max_ttl: 60,
        };
        assert_eq!(profile.validate().is_ok(), fits, "{typ}");
    }
}

#[test]
fn profiles_for_requests_survive_the_keyring_and_unknown_fields_do_not() {
    for profile in request_profiles() {
        let text = serde_json::to_string(&profile).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&text).unwrap(), profile);
        let more = text.replacen('{', "{\"more\":1,", 1);
        assert!(serde_json::from_str::<Profile>(&more).is_err(), "{more}");
    }
}
