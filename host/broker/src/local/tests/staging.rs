//! New values of secrets beside the old ones: staged, promoted, given up; deleted and brought back; each on the log.

use std::time::Duration;

use claviger_core::audit::SecretRef;
use claviger_core::http::InjectionKind;

use super::web::{CANARY, Scene, creation};
use super::*;
use crate::keyring::{KeyringError, SecretReplacement};

fn value(name: &str, value: &str) -> SecretReplacement {
    SecretReplacement {
        name: name.parse().unwrap(),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut value.as_bytes().to_vec()).unwrap(),
    }
}

fn at(version: u32) -> SecretRef {
    SecretRef {
        name: name("token"),
        version: claviger_core::KeyVersion(version),
    }
}

async fn with_token() -> Scene {
    let scene = Scene::new().await;
    let token = creation("token", InjectionKind::Bearer, "https://api.other.test", CANARY);
    scene.broker().add_secret(token).await.unwrap();
    scene
}

async fn standings(fixture: &Fixture) -> Vec<String> {
    let events = fixture.events().await;
    events
        .into_iter()
        .filter_map(|event| match event {
            Event::SecretAdded { secret, .. } if secret.name == name("token") => {
                Some(format!("{secret} added"))
            }
            Event::SecretStateChanged { secret, state, .. } => Some(format!("{secret} {state}")),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_staged_value_is_used_when_it_is_promoted_and_the_old_one_is_gone_after_its_overlap() {
    let scene = with_token().await;
    let broker = scene.broker();
    let token = name("token");
    broker
        .plan_secret(&token, None, Duration::from_secs(3600), None)
        .unwrap();
    broker
        .stage_secret(value("token", "the-second-value"))
        .await
        .unwrap();
    assert_eq!(
        broker.keyring().secret(&token).unwrap().secret,
        at(1),
        "not used yet"
    );
    let waiting = broker
        .stage_secret(value("token", "the-third-value"))
        .await
        .unwrap_err();
    assert!(matches!(
        waiting,
        NewSecretError::Keyring(KeyringError::Waiting { .. })
    ));
    broker.cancel_secret(&token).await.unwrap();
    assert!(broker.keyring().secret_material(&at(2)).is_err(), "given up");
    assert!(broker.promote_secret(&token).await.is_err(), "nothing waits");

    broker
        .stage_secret(value("token", "the-third-value"))
        .await
        .unwrap();
    // A server that rotates the value in use meanwhile does not lose it to the one that waits.
    broker
        .replace_secret(value("token", "the-fourth-value"))
        .await
        .unwrap();
    assert_eq!(broker.keyring().secret(&token).unwrap().secret, at(4));
    assert_eq!(broker.promote_secret(&token).await.unwrap().secret, at(3));
    assert!(
        broker.keyring().secret_material(&at(4)).is_ok(),
        "kept over its overlap"
    );
    scene.fixture.clock.advance(SignedDuration::from_secs(3600));
    broker.rotate_due().await.unwrap();
    assert!(broker.keyring().secret_material(&at(4)).is_err());
    assert!(
        broker
            .keyring()
            .secret_material(&at(3))
            .unwrap()
            .equals(b"the-third-value")
    );
    assert_eq!(
        standings(&scene.fixture).await,
        [
            "token@v1 added",
            "token@v2 added",
            "token@v2 pending",
            "token@v2 destroyed",
            "token@v3 added",
            "token@v3 pending",
            "token@v4 added",
            "token@v1 retiring",
            "token@v3 active",
            "token@v4 retiring",
            "token@v1 retired",
            "token@v4 retired",
        ]
    );
    scene.log_is_clean().await;
}

#[tokio::test]
async fn a_deleted_secret_is_refused_comes_back_and_is_purged_after_its_window_alone() {
    let scene = with_token().await;
    let broker = scene.broker();
    let token = name("token");
    let window = Duration::from_secs(3600);
    broker.delete_secret(&token, window).await.unwrap();
    assert!(broker.keyring().secret(&token).is_none());
    let again = creation("token", InjectionKind::Bearer, "https://api.other.test", CANARY);
    assert!(broker.add_secret(again).await.is_err(), "the name is reserved");
    assert!(
        broker
            .replace_secret(value("token", "the-second-value"))
            .await
            .is_err()
    );
    assert!(broker.purge_secret(&token).await.is_err(), "in its window");
    broker.restore_secret(&token).await.unwrap();
    assert!(
        broker
            .keyring()
            .secret_material(&at(1))
            .unwrap()
            .equals(CANARY.as_bytes())
    );
    assert!(broker.keyring().secret(&token).is_some());
    broker.delete_secret(&token, window).await.unwrap();
    scene.fixture.clock.advance(SignedDuration::from_secs(3600));
    broker.purge_secret(&token).await.unwrap();
    assert!(broker.keyring().secret_material(&at(1)).is_err());
    assert!(broker.restore_secret(&token).await.is_err());
    let fixture = scene.fixture.reopen().await;
    let said = standings(&fixture).await;
    assert_eq!(
        said,
        [
            "token@v1 added",
            "token@v1 deleted",
            "token@v1 active",
            "token@v1 deleted",
            "token@v1 destroyed"
        ]
    );
    // The name is free again, its numbers are not.
    let again = creation("token", InjectionKind::Bearer, "https://api.other.test", CANARY);
    assert_eq!(fixture.broker.add_secret(again).await.unwrap().secret, at(2));
}
