//! Keys for requests as the broker makes and refuses them, and requests for certificates, which are uses on the log like any other.

use claviger_core::profile::{FrameError, ProfileError};

use super::*;
use crate::local::CertificateRequestError;

async fn make(
    fixture: &Fixture,
    key: &str,
    profile: Profile,
    algorithm: Algorithm,
) -> Result<(), NewKeyError> {
    let creation = KeyCreation {
        name: name(key),
        profile,
        algorithm,
        custody: CustodyKind::Software,
    };
    fixture.broker.create_key(creation).await.map(drop)
}

#[tokio::test]
async fn a_key_has_an_algorithm_of_its_profile_and_survives_a_restart() {
    let fixture = Fixture::new().await;
    let refused = make(&fixture, "m", Profile::Mtls {}, Algorithm::Ed25519).await;
    assert!(matches!(
        refused,
        Err(NewKeyError::Profile(ProfileError::Algorithm { .. }))
    ));
    let app = Profile::GithubApp {
        app: name("1"),
        origin: name("https://api.github.com"),
    };
    let refused = make(&fixture, "a", app, Algorithm::Rsa2048).await.unwrap_err();
    assert_eq!(refused.to_string(), "software custody has no rsa2048 keys");
    let all = [
        (
            "h",
            Profile::HttpSignature {
                tag: None,
                max_lifetime: 60,
            },
        ),
        ("d", Profile::Dpop {}),
        ("m", Profile::Mtls {}),
    ];
    for (key, profile) in all.clone() {
        make(&fixture, key, profile, Algorithm::P256).await.unwrap();
    }
    let fixture = fixture.reopen().await;
    for (key, profile) in all {
        assert_eq!(fixture.broker.keyring().key(&name(key)).unwrap().profile, profile);
    }
}

#[tokio::test]
async fn no_grant_to_sign_is_admitted_for_a_key_for_requests() {
    let fixture = Fixture::new().await;
    make(&fixture, "d", Profile::Dpop {}, Algorithm::P256)
        .await
        .unwrap();
    let manifest = Fixture::manifest("[grants.x]\nsign = { key = \"d\" }\n");
    let refused = fixture
        .broker
        .admit(&manifest, ComponentDigest::of(CODE))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("is for requests"), "{refused}");
}

#[tokio::test]
async fn a_request_for_a_certificate_is_on_the_log_before_it_is_signed() {
    let fixture = Fixture::new().await;
    make(&fixture, "m", Profile::Mtls {}, Algorithm::P256)
        .await
        .unwrap();
    let pem = fixture
        .broker
        .certificate_request(&name("m"), "CN=bot,O=Acme")
        .await
        .unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
    let events = fixture.events().await;
    let asked = events
        .iter()
        .position(|event| matches!(event, Event::CertificateRequested { subject, .. } if subject == "CN=bot,O=Acme"))
        .unwrap();
    let Event::Settled { of, settlement, .. } = events.last().unwrap() else {
        panic!("{events:?}");
    };
    assert_eq!((*of, *settlement), (asked as u64, Settlement::Released));
}

#[tokio::test]
async fn no_certificate_is_asked_for_with_another_key_or_without_the_log() {
    let fixture = Fixture::new().await;
    make(&fixture, "m", Profile::Mtls {}, Algorithm::P256)
        .await
        .unwrap();
    let before = fixture.events().await.len();
    let ask = async |key: &str, subject: &str| {
        let asked = fixture.broker.certificate_request(&name(key), subject).await;
        asked.unwrap_err()
    };
    assert!(matches!(
        ask("none", "CN=a").await,
        CertificateRequestError::NotActive(_)
    ));
    let other = ask("release", "CN=a").await;
    assert!(matches!(
        other,
        CertificateRequestError::Frame(FrameError::Profile {
            expected: "mtls",
            found: "sshsig"
        })
    ));
    let subject = ask("m", "a").await;
    assert!(matches!(
        subject,
        CertificateRequestError::Frame(FrameError::Subject)
    ));
    assert_eq!(fixture.events().await.len(), before, "nothing was begun");

    fixture
        .broker
        .set_key_state(&name("m"), KeyState::Disabled)
        .await
        .unwrap();
    assert!(matches!(
        ask("m", "CN=a").await,
        CertificateRequestError::NotActive(_)
    ));
    fixture
        .broker
        .set_key_state(&name("m"), KeyState::Active)
        .await
        .unwrap();
    fixture.broker.close().await.unwrap();
    assert!(matches!(
        ask("m", "CN=a").await,
        CertificateRequestError::Audit(_)
    ));
}
