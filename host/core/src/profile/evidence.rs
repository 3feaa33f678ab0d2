//! The token that says which agent runs where: an Entity Attestation Token (RFC 9711) as a compact JWS. Not evidence by itself: a device
//! signs it and quotes its registers over its digest.
//!
//! Everything in it is the host's, but the verifier's nonce. It begins with `{"typ":"eat+jwt",` in base64url, as no other profile's message
//! does.

use base64ct::{Base64UrlUnpadded, Encoding as _};

use super::proof::framed_token;
use super::{FrameContext, FrameError, Framed, Profile};
use crate::attest::{MAX_EVIDENCE_LIFE, MAX_NONCE, MIN_NONCE};
use crate::custody::Assurance;
use crate::digest::{ComponentDigest, ManifestDigest};
use crate::name::{AgentName, Principal};

/// The `typ` of the token (RFC 9782 §3, without `application/`).
pub const EVIDENCE_TYPE: &str = "eat+jwt";

/// What evidence says.
#[derive(Debug, Clone, Copy)]
pub struct EvidenceClaims<'a> {
    /// `aud`: who is to believe it.
    pub audience: &'a Principal,
    /// `eat_nonce`: the verifier's, 16 to 64 bytes.
    pub nonce: &'a [u8],
    /// From `iat` to `exp` in seconds; at most [`MAX_EVIDENCE_LIFE`].
    pub ttl: u32,
    /// The agent's name.
    pub agent: &'a AgentName,
    /// Its code.
    pub component: ComponentDigest,
    /// The manifest's bytes.
    pub manifest: ManifestDigest,
    /// The version of the host.
    pub host_version: &'a str,
    /// What protects the key that signs.
    pub assurance: Assurance,
}

/// Frames the token; finished, it is a compact JWS.
///
/// # Errors
/// When the key is for something else, or the nonce or the life is out of bounds.
pub fn evidence(
    profile: &Profile,
    claims: &EvidenceClaims<'_>,
    context: &FrameContext<'_>,
) -> Result<Framed, FrameError> {
    let Profile::Attest {} = profile else {
        return Err(FrameError::Profile {
            expected: "attest",
            found: profile.kind(),
        });
    };
    let algorithm = context.key.algorithm();
    profile
        .accept(algorithm)
        .map_err(|_| FrameError::Algorithm(algorithm))?;
    if !(MIN_NONCE..=MAX_NONCE).contains(&claims.nonce.len()) {
        return Err(FrameError::VerifierNonce(claims.nonce.len()));
    }
    if claims.ttl == 0 || claims.ttl > MAX_EVIDENCE_LIFE {
        return Err(FrameError::Lifetime {
            asked: claims.ttl,
            allowed: MAX_EVIDENCE_LIFE,
        });
    }
    let issued = context.now.as_second();
    let payload = serde_json::json!({
        "aud": claims.audience.as_str(),
        "iat": issued,
        "exp": issued.saturating_add(i64::from(claims.ttl)),
        "jti": Base64UrlUnpadded::encode_string(&context.nonce),
        "eat_nonce": Base64UrlUnpadded::encode_string(claims.nonce),
        "swname": "claviger",
        "swversion": [claims.host_version],
        "claviger": {
            "agent": claims.agent.as_str(),
            "component": claims.component.to_string(),
            "manifest": claims.manifest.to_string(),
            "assurance": claims.assurance.as_str(),
        },
    });
    let header = format!(
        r#"{{"typ":"{EVIDENCE_TYPE}","alg":"{}","kid":"{}"}}"#,
        algorithm.jose(),
        context.key.thumbprint()
    );
    Ok(framed_token(&header, &payload, context))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::profile::test_keys;

    fn claims<'a>(audience: &'a Principal, agent: &'a AgentName, nonce: &'a [u8]) -> EvidenceClaims<'a> {
        EvidenceClaims {
            audience,
            nonce,
            ttl: 60,
            agent,
            component: ComponentDigest::of(b"component"),
            manifest: ManifestDigest::of(b"manifest"),
            host_version: "0.1.0",
            assurance: Assurance::Swtpm,
        }
    }

    #[test]
    fn everything_is_in_the_token_that_a_verifier_needs() {
        let (audience, agent) = (
            "https://verifier.example".parse().unwrap(),
            "bot".parse().unwrap(),
        );
        let key = test_keys::Pair::both()[1].public();
        let context = FrameContext {
            key: &key,
            now: Timestamp::from_second(1000).unwrap(),
            nonce: [7; 16],
        };
        let framed = evidence(
            &Profile::Attest {},
            &claims(&audience, &agent, &[9; 16]),
            &context,
        )
        .unwrap();
        let message = std::str::from_utf8(framed.message()).unwrap();
        let (header, payload) = message.split_once('.').unwrap();
        let text = |part| String::from_utf8(Base64UrlUnpadded::decode_vec(part).unwrap()).unwrap();
        let header = text(header);
        assert!(
            header.starts_with(r#"{"typ":"eat+jwt","alg":"ES256","kid":""#),
            "{header}"
        );
        let payload: serde_json::Value = serde_json::from_str(&text(payload)).unwrap();
        assert_eq!(payload["aud"], "https://verifier.example");
        assert_eq!(payload["eat_nonce"], Base64UrlUnpadded::encode_string(&[9; 16]));
        assert_eq!(
            (payload["iat"].as_i64(), payload["exp"].as_i64()),
            (Some(1000), Some(1060))
        );
        assert_eq!(
            payload["claviger"]["component"],
            ComponentDigest::of(b"component").to_string()
        );
        assert_eq!(
            payload["claviger"]["manifest"],
            ManifestDigest::of(b"manifest").to_string()
        );
        assert_eq!(payload["claviger"]["assurance"], "swtpm");
    }

    #[test]
    fn bounds_and_other_keys_are_refused() {
        let (audience, agent) = ("a".parse().unwrap(), "bot".parse().unwrap());
        let key = test_keys::Pair::both()[1].public();
        let mut context = FrameContext {
            key: &key,
            now: Timestamp::UNIX_EPOCH,
            nonce: [0; 16],
        };
        for (length, fits) in [(0, false), (15, false), (16, true), (64, true), (65, false)] {
            let nonce = vec![1; length];
            let framed = evidence(&Profile::Attest {}, &claims(&audience, &agent, &nonce), &context);
            assert_eq!(framed.is_ok(), fits, "{length}");
        }
        for (ttl, fits) in [(0, false), (1, true), (300, true), (301, false)] {
            let asked = EvidenceClaims {
                ttl,
                ..claims(&audience, &agent, &[1; 16])
            };
            assert_eq!(
                evidence(&Profile::Attest {}, &asked, &context).is_ok(),
                fits,
                "{ttl}"
            );
        }
        let good = claims(&audience, &agent, &[1; 16]);
        assert!(evidence(&Profile::Dpop {}, &good, &context).is_err());
        let other = test_keys::Pair::both()[0].public();
        context.key = &other;
        assert!(evidence(&Profile::Attest {}, &good, &context).is_err());
    }
}
