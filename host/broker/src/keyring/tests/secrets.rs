//! Secrets: what is kept, what is refused, and what a replacement leaves behind.

use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::http::InjectionKind;
use std::time::Duration;

use super::*;

pub(super) const VALUE: &str = "ghp_canaryCANARYcanary0001";

pub(super) fn new_secret(name: &str, kind: InjectionKind, value: &str) -> NewSecret {
    NewSecret {
        name: name.parse().unwrap(),
        kind,
        origin: "https://api.test".parse().unwrap(),
        assurance: Assurance::Passphrase,
        expires: None,
        rotate_every: None,
        overlap: Duration::ZERO,
        locked: false,
        value: Secret::take(&mut value.as_bytes().to_vec()).unwrap(),
    }
}

fn replacement(name: &str, of: Option<&SecretRef>, value: &str) -> SecretReplacement {
    SecretReplacement {
        name: name.parse().unwrap(),
        of: of.cloned(),
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut value.as_bytes().to_vec()).unwrap(),
    }
}

fn at(name: &str, version: u32) -> SecretRef {
    SecretRef {
        name: name.parse().unwrap(),
        version: KeyVersion(version),
    }
}

#[tokio::test]
async fn a_secret_is_there_with_its_value_after_reopening_and_only_its_value_is_hidden() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let mut new = new_secret("github", InjectionKind::Bearer, VALUE);
    new.expires = Some("2027-01-01T00:00:00Z".parse().unwrap());
    new.rotate_every = Some(Duration::from_secs(86_400));
    assert!(!format!("{new:?}").contains("canary"));
    let record = keyring.insert_secret(new, now()).unwrap();
    assert_eq!(
        record.due(now()),
        Some("2026-01-03T03:04:05.678Z".parse().unwrap())
    );
    assert!(!record.is_expired(now()));
    assert!(record.is_expired("2027-01-01T00:00:00Z".parse().unwrap()));
    let listed = Keyring::list_public_secrets(&folder).unwrap();
    assert_eq!(listed, [(*record).clone()]);
    drop(keyring);

    let keyring = opened(&folder).await.unwrap();
    assert_eq!(keyring.secrets(), [record]);
    assert!(keyring.secret(&"github".parse().unwrap()).is_some());
    assert!(
        keyring
            .secret_material(&at("github", 1))
            .unwrap()
            .equals(VALUE.as_bytes())
    );
    assert!(keyring.secret(&"other".parse().unwrap()).is_none());
    assert!(matches!(
        keyring.secret_material(&at("github", 2)),
        Err(KeyringError::NoSecret { .. })
    ));
}

#[tokio::test]
async fn a_replacement_is_one_step_and_leaves_no_old_value() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    keyring
        .insert_secret(new_secret("r", InjectionKind::OauthRefresh, VALUE), now())
        .unwrap();
    let second = keyring
        .replace_secret(
            replacement("r", Some(&at("r", 1)), "second-value"),
            SecretSource::Operator,
            now(),
        )
        .unwrap();
    assert_eq!(second.secret, at("r", 2));
    let states: Vec<_> = keyring.secrets().iter().map(|record| record.state).collect();
    assert_eq!(states, [KeyState::Retired, KeyState::Active]);
    assert!(keyring.secret_material(&at("r", 1)).is_err());
    assert!(
        keyring
            .secret_material(&at("r", 2))
            .unwrap()
            .equals(b"second-value")
    );
    // Who still holds the first version does not get to replace the second.
    assert!(
        keyring
            .replace_secret(
                replacement("r", Some(&at("r", 1)), "third-value"),
                SecretSource::Operator,
                now()
            )
            .is_err()
    );
    keyring
        .set_secret_state(&"r".parse().unwrap(), KeyState::Revoked, now())
        .unwrap();
    assert!(
        keyring
            .replace_secret(
                replacement("r", Some(&at("r", 2)), "third-value"),
                SecretSource::Operator,
                now()
            )
            .is_err(),
        "a revoked secret is not revived by a server"
    );
    assert!(
        keyring
            .replace_secret(
                replacement("r", None, "third-value"),
                SecretSource::Operator,
                now()
            )
            .is_ok()
    );
    drop(keyring);
    let keyring = opened(&folder).await.unwrap();
    assert_eq!(keyring.secret(&"r".parse().unwrap()).unwrap().secret, at("r", 3));
}

#[tokio::test]
async fn a_token_that_is_replaced_for_years_does_not_fill_the_keyring() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    keyring
        .insert_secret(new_secret("r", InjectionKind::OauthRefresh, VALUE), now())
        .unwrap();
    for n in 2..=40 {
        keyring
            .replace_secret(
                replacement("r", None, &format!("value-{n:04}")),
                SecretSource::Operator,
                now(),
            )
            .unwrap();
    }
    assert!(keyring.secrets().len() <= 17, "{}", keyring.secrets().len());
    drop(keyring);
    let keyring = opened(&folder).await.unwrap();
    assert!(keyring.secrets().len() <= 17);
    let last = keyring.secret(&"r".parse().unwrap()).unwrap();
    assert_eq!(last.secret, at("r", 40));
    assert!(
        keyring
            .secret_material(&last.secret)
            .unwrap()
            .equals(b"value-0040")
    );
}

#[tokio::test]
async fn states_go_where_they_may_and_what_is_destroyed_is_gone() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let name = "github".parse().unwrap();
    keyring
        .insert_secret(new_secret("github", InjectionKind::Bearer, VALUE), now())
        .unwrap();
    let again = keyring.insert_secret(new_secret("github", InjectionKind::Bearer, VALUE), now());
    assert!(again.unwrap_err().to_string().contains("replace it"));
    for (state, allowed) in [
        (KeyState::Active, true),
        (KeyState::Disabled, true),
        (KeyState::Disabled, true),
        (KeyState::Active, true),
        (KeyState::Retired, false),
        (KeyState::Destroyed, false),
        (KeyState::Disabled, true),
        (KeyState::Revoked, true),
        (KeyState::Active, false),
    ] {
        let changed = keyring.set_secret_state(&name, state, now());
        assert_eq!(changed.is_ok(), allowed, "{state}");
        let active = keyring.secret(&name).is_some();
        assert_eq!(
            active,
            state == KeyState::Active && allowed || (!allowed && active),
            "{state}"
        );
    }
    keyring.destroy_secret(&name, now()).unwrap();
    assert!(keyring.secret_material(&at("github", 1)).is_err());
    assert!(keyring.destroy_secret(&name, now()).is_err());
    // The name is free again, the number is not.
    let record = keyring
        .insert_secret(new_secret("github", InjectionKind::Header, VALUE), now())
        .unwrap();
    assert_eq!(record.secret, at("github", 2));
}

#[tokio::test]
async fn values_that_do_not_fit_their_kind_are_refused() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let long = "a".repeat(MAX_SECRET_VALUE + 1);
    for (kind, value, fits) in [
        (InjectionKind::Bearer, "1234567", false),
        (InjectionKind::Bearer, "12345678", true),
        (InjectionKind::Bearer, "with a space", false),
        (InjectionKind::Bearer, "line-end\n", false),
        (InjectionKind::Bearer, "schlüssel", false),
        (InjectionKind::Bearer, &long, false),
        (InjectionKind::Header, "Token 12345678", true),
        (InjectionKind::Header, " 12345678", false),
        (InjectionKind::Header, "a\r\nevil: 1", false),
        (InjectionKind::Query, "12345678\0", false),
        (InjectionKind::Basic, "pass wörd", true),
        (InjectionKind::Basic, "pass\tword", false),
        (InjectionKind::OauthRefresh, "abc def gh", false),
        (InjectionKind::AwsSigv4, "abcdefgh\u{7f}", false),
        (InjectionKind::WebhookHmac, "any\nbytes\0", true),
    ] {
        let name = format!("s-{}", keyring.secrets().len());
        let added = keyring.insert_secret(new_secret(&name, kind, value), now());
        assert_eq!(added.is_ok(), fits, "{kind} {value:?}");
        if let Err(error) = added {
            assert!(!format!("{error} {error:?}").contains(value), "{error}");
        }
    }
    let mut expired = new_secret("late", InjectionKind::Bearer, VALUE);
    expired.expires = Some(now());
    assert!(keyring.insert_secret(expired, now()).is_err());
}
