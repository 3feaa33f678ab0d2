//! Each kind of secret in its own slot, and the records of secrets across a restart.

use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::http::InjectionKind;

use super::web::{CANARY, GRANT, Scene, chunks, creation, head, refused, rest};
use super::*;
use crate::keyring::SecretReplacement;

#[tokio::test]
async fn each_kind_of_secret_goes_into_its_own_slot_and_nowhere_else() {
    let body = "{\"a\":1}";
    for (kind, inject, expected) in [
        (
            InjectionKind::Basic,
            "basic = \"s\", user = \"deploy\"",
            vec![(
                "authorization",
                // printf 'deploy:canary-3f9a1c77e2b04d58' | base64
                "Basic ZGVwbG95OmNhbmFyeS0zZjlhMWM3N2UyYjA0ZDU4",
            )],
        ),
        (
            InjectionKind::Header,
            "header = \"x-api-key\", secret = \"s\"",
            vec![("x-api-key", CANARY)],
        ),
        (
            InjectionKind::Query,
            "query = \"key\", secret = \"s\"",
            vec![("?key", CANARY)],
        ),
        (
            InjectionKind::AwsSigv4,
            "aws-sigv4 = \"s\", access-key-id = \"AKIAIOSFODNN7EXAMPLE\", region = \"eu-central-1\", service = \"s3\"",
            vec![("aws", CANARY)],
        ),
        (
            InjectionKind::WebhookHmac,
            "webhook-hmac = \"s\", scheme = \"github\"",
            vec![(
                "x-hub-signature-256",
                // printf '{"a":1}' | openssl dgst -sha256 -hmac canary-…, as Python's hmac has it
                "sha256=518a7dcfe89e946c45451a17462365f37bec75c1f5eff17f14f91df19277715d",
            )],
        ),
        (
            InjectionKind::WebhookHmac,
            "webhook-hmac = \"s\", scheme = \"stripe\"",
            vec![(
                "stripe-signature",
                "t=1780315200,v1=27ced53aca98b9cefcb0d582d2577e05677477ec61205aa675c7bba5973b5915",
            )],
        ),
        (
            InjectionKind::WebhookHmac,
            "webhook-hmac = \"s\", scheme = \"slack\"",
            vec![
                ("x-slack-request-timestamp", "1780315200"),
                (
                    "x-slack-signature",
                    "v0=8af70098b0503618fc38c89edd1b10b67701856885f3f8d5331cee7b8056dbb2",
                ),
            ],
        ),
    ] {
        let scene = Scene::new().await;
        scene
            .broker()
            .add_secret(creation("s", kind, web::API, CANARY))
            .await
            .unwrap();
        let grants = GRANT.replace("bearer = \"github\"", inject);
        let who = scene.fixture.start(&grants).await;
        let sent = scene
            .broker()
            .send(who, head("POST /repos/a", &[]), chunks(&[body]))
            .await;
        rest(&mut sent.unwrap()).await.unwrap();
        let seen = scene.web.seen().pop().unwrap();
        let slots: Vec<_> = seen
            .slots
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(slots, expected, "{inject}");
        assert_eq!(seen.body, body.as_bytes());
        assert!(!seen.line.contains("canary"));
        scene.log_is_clean().await;
        // And the agent does not get to fill the slot itself.
        let (slot, _) = expected[0];
        let tried = if let Some(key) = slot.strip_prefix('?') {
            head(&format!("POST /repos/a?{key}=mine"), &[])
        } else {
            let field = if slot == "aws" { "authorization" } else { slot };
            head("POST /repos/a", &[(field, "mine")])
        };
        let error = scene
            .broker()
            .send(who, tried, chunks(&[body]))
            .await
            .unwrap_err();
        assert_eq!(refused(&error), Refusal::NotGranted, "{inject}");
    }
}

fn second() -> SecretReplacement {
    SecretReplacement {
        name: name("refresh"),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut b"canary-refresh-token-2".to_vec()).unwrap(),
    }
}

async fn with_refresh() -> Scene {
    let scene = Scene::new().await;
    let refresh = creation(
        "refresh",
        InjectionKind::OauthRefresh,
        "https://login.test",
        CANARY,
    );
    scene.broker().add_secret(refresh).await.unwrap();
    scene
}

#[tokio::test]
async fn a_replacement_that_a_crash_kept_from_the_log_is_logged_at_the_next_start() {
    let scene = with_refresh().await;
    let keyring = scene.broker().keyring();
    keyring
        .replace_secret(second(), SecretSource::Server, START.parse().unwrap())
        .unwrap();
    let fixture = scene.fixture.reopen().await;
    let events = fixture.events().await;
    let added: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::SecretAdded { secret, by, .. } => Some((secret.to_string(), *by)),
            _ => None,
        })
        .collect();
    let operator = SecretSource::Operator;
    assert_eq!(
        added,
        [
            ("github@v1".to_owned(), operator),
            ("refresh@v1".to_owned(), operator),
            ("refresh@v2".to_owned(), SecretSource::Server),
        ]
    );
    // Once is enough.
    let fixture = fixture.reopen().await;
    let again = fixture.events().await;
    let count = again
        .iter()
        .filter(|event| matches!(event, Event::SecretAdded { .. }))
        .count();
    assert_eq!(count, 3);
}

#[tokio::test]
async fn a_keyring_without_a_secret_that_the_log_names_is_not_opened() {
    let scene = with_refresh().await;
    let database = scene.fixture.folder.path().join("keyring").join("keyring.db");
    let fixture = scene.fixture.reopen().await;
    fixture.broker.close().await.unwrap();
    let Fixture {
        folder,
        clock,
        broker,
        ..
    } = fixture;
    drop(broker);
    let old = std::fs::read(&database).unwrap();
    let broker = LocalBroker::open(options(&folder, &clock, None, None))
        .await
        .unwrap();
    broker.replace_secret(second()).await.unwrap();
    broker.close().await.unwrap();
    drop(broker);
    std::fs::write(&database, &old).unwrap();
    let refused = LocalBroker::open(options(&folder, &clock, None, None))
        .await
        .unwrap_err();
    assert!(matches!(refused, OpenError::Disagree(_)), "{refused}");
}

#[tokio::test]
async fn what_is_done_to_a_secret_is_on_the_log_and_no_value_is() {
    let scene = with_refresh().await;
    let broker = scene.broker();
    let refresh = name("refresh");
    broker.replace_secret(second()).await.unwrap();
    for state in [KeyState::Disabled, KeyState::Active, KeyState::Revoked] {
        broker.set_secret_state(&refresh, state).await.unwrap();
    }
    broker.destroy_secret(&refresh).await.unwrap();
    let events = scene.fixture.events().await;
    let states: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::SecretStateChanged { secret, state, .. } => Some(format!("{secret} {state}")),
            _ => None,
        })
        .collect();
    assert_eq!(
        states,
        [
            "refresh@v1 retired",
            "refresh@v2 disabled",
            "refresh@v2 active",
            "refresh@v2 revoked",
            "refresh@v1 destroyed",
            "refresh@v2 destroyed"
        ]
    );
    let gone = SecretRef {
        name: refresh,
        version: claviger_core::KeyVersion(2),
    };
    assert!(broker.open_secret(&gone).is_err());
    scene.log_is_clean().await;
}
