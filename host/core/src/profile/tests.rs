//! What each profile promises, attacked. Not the signing itself: keys here are made from fixed seeds.

use std::collections::BTreeSet;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::{Value, json};

use super::test_keys::Pair;
use super::*;
use super::{git, ssh_auth};
use crate::{ContentDigest, Signature};

pub(super) fn context(key: &PublicKey) -> FrameContext<'_> {
    FrameContext {
        key,
        now: Timestamp::constant(1_800_000_000, 0),
        nonce: [0xAB; 16],
    }
}

pub(super) fn set<T: Ord + std::str::FromStr<Err: fmt::Debug>>(items: &[&str]) -> BTreeSet<T> {
    items.iter().map(|item| item.parse().unwrap()).collect()
}

pub(super) fn sshsig(namespaces: &[&str]) -> Profile {
    Profile::Sshsig {
        namespaces: set(namespaces),
    }
}

pub(super) fn jws(audiences: &[&str]) -> Profile {
    Profile::Jws {
        issuer: "https://claviger.example".parse().unwrap(),
        typ: "at+jwt".parse().unwrap(),
        audiences: set(audiences),
        max_ttl: 600,
    }
}

pub(super) fn labeled() -> Profile {
    Profile::Labeled {
        label: "acme/build".parse().unwrap(),
    }
}

pub(super) fn all_profiles() -> [Profile; 3] {
    [sshsig(&["file"]), jws(&["https://api.example.com"]), labeled()]
}

pub(super) fn rule(profile: &Profile) -> SigningRule {
    profile.narrow(&Narrowing::default()).unwrap()
}

fn frame(profile: &Profile, content: &[u8]) -> Result<Framed, FrameError> {
    let key = Pair::both()[0].public();
    rule(profile).frame(content, &context(&key))
}

#[test]
fn a_frame_is_a_function_of_content_rule_and_context() {
    for profile in all_profiles() {
        let first = frame(&profile, b"{\"a\":1}").unwrap();
        let second = frame(&profile, b"{\"a\":1}").unwrap();
        assert_eq!(first.message(), second.message());
        let other = frame(&profile, b"{\"a\":2}").unwrap();
        assert_ne!(first.message(), other.message(), "{}", profile.kind());
        assert_eq!(first.content(), ContentDigest::of(b"{\"a\":1}"));
        assert_eq!(first.size(), 7);
    }
}

/// A key of every profile that agents sign with, and what it signs.
pub(super) fn every_profile(pair: &Pair) -> Vec<(Profile, Vec<u8>)> {
    let mut all: Vec<_> = all_profiles()
        .map(|profile| (profile, b"{\"a\":1}".to_vec()))
        .into();
    all.push(git::tests::sample());
    all.push(ssh_auth::tests::sample(pair));
    all
}

#[test]
fn a_signature_in_one_profile_verifies_in_no_other() {
    // The oracle matrix: the same key, and content that is another profile's content or whole message.
    for pair in Pair::both() {
        let key = pair.public();
        let every = every_profile(&pair);
        let kinds: BTreeSet<_> = every.iter().map(|(profile, _)| profile.kind()).collect();
        assert_eq!(
            kinds,
            BTreeSet::from(["sshsig", "jws", "labeled", "git", "ssh-auth"])
        );
        for (row, (signer, content)) in every.iter().enumerate() {
            let framed = rule(signer).frame(content, &context(&key)).unwrap();
            let signature = pair.sign(framed.message());
            for (column, (verifier, own)) in every.iter().enumerate() {
                // What `sshsig` and `labeled` take is anything, so that they are asked for the signer's very content, too.
                if let Ok(same) = rule(verifier).frame(content, &context(&key)) {
                    assert_eq!(key.verify(same.message(), &signature).is_ok(), row == column);
                }
                let other = rule(verifier).frame(own, &context(&key)).unwrap();
                let verified = key.verify(other.message(), &signature).is_ok();
                assert_eq!(
                    verified,
                    row == column,
                    "{} as {}",
                    signer.kind(),
                    verifier.kind()
                );
                if let Ok(nested) = rule(verifier).frame(framed.message(), &context(&key)) {
                    assert!(key.verify(nested.message(), &signature).is_err());
                    // `git` is SSHSIG under a namespace that `sshsig` never has.
                    let starts = [nested.message().get(..16), framed.message().get(..16)];
                    assert_eq!(starts[0] == starts[1], row == column);
                }
            }
        }
    }
}

#[test]
fn the_first_bytes_of_profiles_differ_from_each_other_and_from_known_structures() {
    let pair = &Pair::both()[0];
    let key = pair.public();
    let starts: Vec<u8> = every_profile(pair)
        .iter()
        .map(|(profile, content)| rule(profile).frame(content, &context(&key)).unwrap().message()[0])
        .collect();
    // An SSH string is what a login starts with, and nothing else does.
    assert_eq!(starts, [b'S', b'e', 0xC1, b'S', 0x00]);
    // DER, TLS 1.3, EIP-191, COSE, TPM_GENERATED.
    let foreign = [0x30, 0x20, 0x19, 0x84, 0x85, 0xFF];
    assert!(starts.iter().all(|start| !foreign.contains(start)));
}

#[test]
fn the_sshsig_frame_is_the_one_of_the_protocol() {
    use sha2::Digest as _;
    let framed = frame(&sshsig(&["file"]), b"content").unwrap();
    let mut expected = b"SSHSIG\0\0\0\x04file\0\0\0\0\0\0\0\x06sha512\0\0\0\x40".to_vec();
    expected.extend_from_slice(&sha2::Sha512::digest(b"content"));
    assert_eq!(framed.message(), expected);
}

#[test]
fn ssh_key_accepts_what_sshsig_finishes_and_only_that() {
    for pair in Pair::both() {
        let key = pair.public();
        let rule = rule(&sshsig(&["file"]));
        // Many contents: r and s of ECDSA have other lengths now and then.
        for number in 0..64_u32 {
            let content = number.to_be_bytes();
            let framed = rule.frame(&content, &context(&key)).unwrap();
            let armoured = framed.finish(&pair.sign(framed.message())).unwrap();
            let armoured = String::from_utf8(armoured).unwrap();
            assert!(armoured.starts_with("-----BEGIN SSH SIGNATURE-----\n"));
            let parsed: ssh_key::SshSig = armoured.parse().unwrap();
            let public: ssh_key::PublicKey = key.to_openssh("").unwrap().parse().unwrap();
            public.verify("file", &content, &parsed).unwrap();
            public.verify("git", &content, &parsed).unwrap_err();
            public.verify("file", b"other", &parsed).unwrap_err();
        }
    }
}

#[test]
fn a_signature_of_the_other_algorithm_is_not_finished() {
    let [ed25519, p256] = Pair::both();
    for profile in all_profiles() {
        let key = ed25519.public();
        let framed = rule(&profile).frame(b"{}", &context(&key)).unwrap();
        assert!(framed.finish(&p256.sign(framed.message())).is_err());
        assert!(framed.finish(&ed25519.sign(framed.message())).is_ok());
    }
}

#[test]
fn the_labeled_frame_is_as_documented_and_public() {
    let framed = frame(&labeled(), b"abc").unwrap();
    let expected = b"\xC1\xFEclaviger labeled v1\0\x0aacme/build\0\0\0\0\0\0\0\x03abc";
    assert_eq!(framed.message(), expected);
    assert_eq!(labeled_message(&"acme/build".parse().unwrap(), b"abc"), expected);
    // What moves over the border between label and content is another message.
    let (a, b) = ("ab".parse().unwrap(), "a".parse().unwrap());
    assert_ne!(labeled_message(&a, b"c"), labeled_message(&b, b"bc"));
}

/// Header and payload of a signing input.
pub(super) fn open_jws(message: &[u8]) -> (Value, Value) {
    let text = std::str::from_utf8(message).unwrap();
    let (header, payload) = text.split_once('.').unwrap();
    let part = |part| serde_json::from_slice(&Base64UrlUnpadded::decode_vec(part).unwrap()).unwrap();
    (part(header), part(payload))
}

#[test]
fn a_token_has_the_host_s_header_and_claims_and_the_agent_s_others() {
    for (pair, alg) in Pair::both().iter().zip(["EdDSA", "ES256"]) {
        let key = pair.public();
        let narrowing = Narrowing {
            subject: Some("release-bot".parse().unwrap()),
            ttl: Some(60),
            ..Narrowing::default()
        };
        let rule = jws(&["https://api.example.com"]).narrow(&narrowing).unwrap();
        let framed = rule
            .frame(br#"{"scope":"push","n":1.5,"typ":"x"}"#, &context(&key))
            .unwrap();
        let (header, payload) = open_jws(framed.message());
        assert_eq!(
            header,
            json!({ "alg": alg, "typ": "at+jwt", "kid": key.thumbprint() })
        );
        assert_eq!(
            payload,
            json!({
                "scope": "push", "n": 1.5, "typ": "x",
                "iss": "https://claviger.example", "aud": "https://api.example.com", "sub": "release-bot",
                "iat": 1_800_000_000, "exp": 1_800_000_060, "jti": Base64UrlUnpadded::encode_string(&[0xAB; 16]),
            })
        );
        let signature = pair.sign(framed.message());
        let token = String::from_utf8(framed.finish(&signature).unwrap()).unwrap();
        let (input, last) = token.rsplit_once('.').unwrap();
        assert_eq!(input.as_bytes(), framed.message());
        assert_eq!(Base64UrlUnpadded::decode_vec(last).unwrap(), signature.as_bytes());
        key.verify(input.as_bytes(), &signature).unwrap();
    }
}

#[test]
fn a_token_without_subject_has_none() {
    let framed = frame(&jws(&["a"]), b"{}").unwrap();
    assert_eq!(open_jws(framed.message()).1.get("sub"), None);
}

#[test]
fn no_payload_sets_what_only_the_host_sets() {
    let profile = jws(&["https://api.example.com"]);
    for claim in [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "cnf",
        "act",
        "azp",
        "client_id",
    ] {
        for value in ["null", "1", "\"x\"", "[]"] {
            let content = format!("{{\"a\":1,\"{claim}\":{value}}}");
            assert_eq!(
                frame(&profile, content.as_bytes()).err(),
                Some(FrameError::HostClaim(claim))
            );
        }
        // The same name, spelt with an escape.
        let escaped = format!("{{\"\\u{:04x}{}\":1}}", claim.as_bytes()[0], &claim[1..]);
        assert_eq!(
            frame(&profile, escaped.as_bytes()).err(),
            Some(FrameError::HostClaim(claim))
        );
        // Controls: below the top it is the agent's, and so are names that only look alike.
        let nested = format!(
            "{{\"a\":{{\"{claim}\":1}},\"{claim}2\":1,\"{}\":1}}",
            claim.to_uppercase()
        );
        assert!(frame(&profile, nested.as_bytes()).is_ok(), "{nested}");
    }
}

#[test]
fn a_payload_is_one_object_that_every_parser_reads_alike() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for bad in [
        "",
        " ",
        "null",
        "1",
        "\"a\"",
        "[]",
        "[{}]",
        "{",
        "{}}",
        "{} {}",
        "{}x",
        "{},",
        "{'a':1}",
        "{a:1}",
        "{\"a\":1,}",
        "{\"a\":01}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":+1}",
        "{\"a\":.5}",
        "{\"a\":/**/1}",
        "{}\0",
        "\u{feff}{}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":1,\"a\":1}",
        "{\"a\":1,\"\\u0061\":2}",
        "{\"b\":{\"a\":1,\"a\":2}}",
        "{\"b\":[{\"a\":1,\"a\":2}]}",
        &deep,
    ] {
        assert_eq!(
            frame(&jws(&["a"]), bad.as_bytes()).err(),
            Some(FrameError::NotAnObject),
            "{bad:?}"
        );
    }
    assert_eq!(
        frame(&jws(&["a"]), b"{\"a\":\"\xff\"}").err(),
        Some(FrameError::NotAnObject)
    );
    for good in [
        "{}",
        " {\"a\" : [1, {\"a\": null}]}\n",
        "{\"a\":\"\\u0000\",\"\":true}",
    ] {
        assert!(frame(&jws(&["a"]), good.as_bytes()).is_ok(), "{good:?}");
    }
}

#[test]
fn a_number_is_signed_as_the_agent_meant_it_or_not_at_all() {
    for bad in [
        "1e400",
        "18446744073709551616",
        "-9223372036854775809",
        "0.12345678901234567890",
        "-0",
    ] {
        let content = format!("{{\"a\":[{{\"b\":{bad}}}]}}");
        assert_eq!(
            frame(&jws(&["a"]), content.as_bytes()).err(),
            Some(FrameError::Number),
            "{bad}"
        );
    }
    for good in [
        "18446744073709551615",
        "-9223372036854775808",
        "0.1",
        "1.0",
        "1e2",
        "1e308",
    ] {
        let content = format!("{{\"a\":{good}}}");
        let framed = frame(&jws(&["a"]), content.as_bytes()).unwrap();
        let (_, payload) = open_jws(framed.message());
        assert_eq!(
            payload["a"],
            serde_json::from_str::<Value>(good).unwrap(),
            "{good}"
        );
    }
}

#[test]
fn content_is_bounded_before_it_is_read() {
    for (profile, max) in
        all_profiles()
            .iter()
            .zip([MAX_SSHSIG_CONTENT, MAX_MESSAGE_CONTENT, MAX_MESSAGE_CONTENT])
    {
        let over = vec![b' '; max + 1];
        assert_eq!(
            frame(profile, &over).err(),
            Some(FrameError::TooLarge {
                allowed: max,
                sent: max + 1
            })
        );
        let mut full = vec![b' '; max];
        full[..2].copy_from_slice(b"{}");
        assert!(frame(profile, &full).is_ok(), "{}", profile.kind());
    }
}

/// A payload of JSON that becomes longer when it is written again: `1e15` is four bytes, `1000000000000000.0` is eighteen.
fn growing(numbers: usize, padding: usize) -> Vec<u8> {
    let content = format!(
        "{{\"a\":[{}],\"b\":\"{}\"}}",
        vec!["1e15"; numbers].join(","),
        "x".repeat(padding)
    );
    assert!(content.len() <= MAX_MESSAGE_CONTENT);
    content.into_bytes()
}

#[test]
fn a_token_is_as_long_as_promised_or_is_not_framed() {
    for pair in Pair::both() {
        let key = pair.public();
        let finished = |profile: &Profile, content: &[u8]| {
            let framed = rule(profile).frame(content, &context(&key))?;
            Ok::<_, FrameError>(framed.finish(&pair.sign(framed.message())).unwrap().len())
        };
        // Base64 has no text of 4n + 1 characters, so the header's length decides whether the bound itself is met.
        let mut met = false;
        for typ in ["a", "ab", "abc", "abcd"] {
            let mut profile = jws(&["a"]);
            let Profile::Jws { typ: own, .. } = &mut profile else {
                unreachable!()
            };
            *own = typ.parse().unwrap();
            let least = finished(&profile, &growing(5_080, 0)).unwrap();
            let nearly = (MAX_SIGNATURE - least) / 4 * 3 - 8;
            let lengths: Vec<_> = (nearly..nearly + 16)
                .map(|padding| finished(&profile, &growing(5_080, padding)))
                .collect();
            let fits = lengths.partition_point(Result::is_ok);
            assert!(
                0 < fits && fits < lengths.len(),
                "the control: the bound is within these lengths"
            );
            for length in &lengths[..fits] {
                met |= *length == Ok(MAX_SIGNATURE);
                assert!(*length.as_ref().unwrap() <= MAX_SIGNATURE);
            }
            for (over, length) in lengths[fits..].iter().enumerate() {
                let Err(FrameError::Grown {
                    allowed: MAX_SIGNATURE,
                    needed,
                }) = length
                else {
                    panic!("{typ} {over}: {length:?}");
                };
                assert!(*needed > MAX_SIGNATURE && (over > 0 || *needed <= MAX_SIGNATURE + 2));
            }
        }
        assert!(met, "a token of exactly {MAX_SIGNATURE} bytes is given");
        // As found: well within the bound of the content.
        assert!(matches!(
            finished(&jws(&["a"]), &growing(13_000, 0)),
            Err(FrameError::Grown { .. })
        ));
        // The other profiles' signatures do not grow with the content, and no name makes them long.
        let longest = "n".repeat(crate::name::MAX_NAME);
        for size in [0, 1, MAX_MESSAGE_CONTENT] {
            let armoured = finished(&sshsig(&[&longest]), &vec![0; size]).unwrap();
            assert!(armoured <= sshsig::MAX_ARMOURED, "{armoured}");
            assert_eq!(finished(&labeled(), &vec![0; size]), Ok(Signature::LENGTH));
        }
        // Nor is plain text of the largest size too long for a token.
        assert!(finished(&jws(&["a"]), &growing(1, MAX_MESSAGE_CONTENT - 20)).unwrap() < MAX_SIGNATURE);
    }
}

#[test]
fn a_stored_profile_with_an_unknown_parameter_is_not_read() {
    for (profile, _) in every_profile(&Pair::both()[0]) {
        let stored = serde_json::to_value(&profile).unwrap();
        assert_eq!(
            serde_json::from_value::<Profile>(stored.clone()).unwrap(),
            profile
        );
        let mut widened = stored;
        widened["any"] = json!(true);
        assert!(serde_json::from_value::<Profile>(widened).is_err());
    }
    let long = Profile::Jws {
        issuer: "a".parse().unwrap(),
        typ: "JWT".parse().unwrap(),
        audiences: set(&["a"]),
        max_ttl: MAX_TOKEN_LIFE + 1,
    };
    assert_eq!(long.validate(), Err(ProfileError::Life(MAX_TOKEN_LIFE + 1)));
}
