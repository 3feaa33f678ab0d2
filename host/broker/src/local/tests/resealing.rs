//! The root key sealed anew: what opens the keyring afterwards, what comes along, and what is refused.

use super::recovery::{Place, rooted};
use super::*;
use crate::custody::purpose_of;
use crate::local::{NewRoot, ResealError};

fn root(kind: RootKind, passphrase: &str, resident: Option<&Arc<Slow>>) -> NewRoot {
    NewRoot {
        spec: RootSpec {
            kind,
            settings: format!("the root `{passphrase}`"),
        },
        sealer: rooted(kind, passphrase),
        resident: resident.map(|custody| Arc::clone(custody) as _),
    }
}

#[tokio::test]
async fn only_the_new_root_opens_the_keyring_and_everything_works_as_before() {
    for (from, to) in [
        (RootKind::Passphrase, RootKind::Passphrase),
        (RootKind::Passphrase, RootKind::Tpm),
        (RootKind::Swtpm, RootKind::Tpm),
        (RootKind::Tpm, RootKind::Tpm),
    ] {
        let mut place = Place::new(from, "the old one", None).await;
        place.key("soft", Algorithm::Ed25519, CustodyKind::Software).await;
        let sealed = from != RootKind::Passphrase;
        if sealed {
            place
                .key("sealed", Algorithm::Ed25519, CustodyKind::TpmSealed)
                .await;
        }
        place.secret("github", "a-token-of-some-length").await;
        let vkey = place.broker.keyring().info().vkey;
        let done = place
            .broker
            .reseal(root(to, "the new one", None), false, "uid 1 (test)")
            .await
            .unwrap();
        assert_eq!(
            (done.from, done.to, done.keys.len()),
            (from, to, usize::from(sealed))
        );
        assert!(done.weakened.is_empty());
        place.kind = to;
        let place = place.reopen("the new one").await.unwrap();
        assert_eq!(place.broker.keyring().info().vkey, vkey, "the log is the same");
        place.signs("soft").await;
        if sealed {
            place.signs("sealed").await;
            let key = place.broker.keyring().key(&name("sealed")).unwrap();
            let blob = place.broker.keyring().material(&key.key).unwrap();
            let old = rooted(from, "the old one");
            assert!(
                old.unseal(&purpose_of(&key.key, &key.identity), blob.expose())
                    .await
                    .is_err()
            );
        }
        // Nothing is called harder than it was while it could be copied.
        for record in place.broker.keyring().keys() {
            assert_eq!(record.assurance, from.assurance());
        }
        let events = place.events().await;
        let at = events
            .iter()
            .position(|event| matches!(event, Event::ResealRequested { .. }))
            .unwrap();
        assert_eq!(
            events[at],
            Event::ResealRequested {
                by: "uid 1 (test)".to_owned(),
                from: from.to_string(),
                to: to.to_string(),
                keys: u64::from(sealed),
            }
        );
        assert!(matches!(
            events[at + 1],
            Event::Settled {
                settlement: Settlement::Released,
                ..
            }
        ));
        let refused = place.reopen("the old one").await;
        assert!(
            matches!(refused, Err(OpenError::Keyring(KeyringError::Root(_)))),
            "{from} → {to}"
        );
    }
}

#[tokio::test]
async fn a_keyring_falls_to_something_weaker_only_when_it_is_said() {
    for (from, to) in [
        (RootKind::Tpm, RootKind::Passphrase),
        (RootKind::Tpm, RootKind::Swtpm),
        (RootKind::Swtpm, RootKind::Passphrase),
    ] {
        let mut place = Place::new(from, "the old one", None).await;
        place
            .key("sealed", Algorithm::Ed25519, CustodyKind::TpmSealed)
            .await;
        place.secret("github", "a-token-of-some-length").await;
        let before = (place.broker.keyring().info(), place.events().await.len());
        let refused = place
            .broker
            .reseal(root(to, "the new one", None), false, "x")
            .await
            .unwrap_err();
        assert!(matches!(refused, ResealError::Weaker { .. }), "{refused:?}");
        assert_eq!(
            (place.broker.keyring().info(), place.events().await.len()),
            before
        );
        let done = place
            .broker
            .reseal(root(to, "the new one", None), true, "x")
            .await
            .unwrap();
        let soft = to == RootKind::Passphrase;
        assert_eq!(done.weakened.len(), usize::from(soft));
        place.kind = to;
        let place = place.reopen("the new one").await.unwrap();
        let record = place.broker.keyring().key(&name("sealed")).unwrap();
        let custody = if soft {
            CustodyKind::Software
        } else {
            CustodyKind::TpmSealed
        };
        assert_eq!((record.custody, record.assurance), (custody, to.assurance()));
        let secret = place.broker.keyring().secret(&name("github")).unwrap();
        assert_eq!(secret.assurance, to.assurance());
        assert!(
            place
                .broker
                .keyring()
                .secret_material(&secret.secret)
                .unwrap()
                .equals(b"a-token-of-some-length")
        );
        place.signs("sealed").await;
    }
}

#[tokio::test]
async fn keys_that_live_in_a_tpm_do_not_leave_it_and_are_named() {
    let resident = Arc::new(Slow::default());
    let place = Place::new(RootKind::Swtpm, "the old one", Some(Arc::clone(&resident))).await;
    for key in ["one", "two", "gone"] {
        place.key(key, Algorithm::P256, CustodyKind::Tpm).await;
    }
    place
        .broker
        .set_key_state(&name("gone"), KeyState::Revoked)
        .await
        .unwrap();
    let before = place.broker.keyring().info();
    let refused = place
        .broker
        .reseal(root(RootKind::Tpm, "the new one", None), true, "x")
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, ResealError::Resident(keys) if keys.len() == 2),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("`one@v1`, `two@v1`"), "{refused}");
    assert_eq!(place.broker.keyring().info(), before);
    // The control: the same TPM again, and the same TPM under another name.
    let again = root(RootKind::Swtpm, "the old one", None);
    place.broker.reseal(again, false, "x").await.unwrap();
    let renamed = root(RootKind::Swtpm, "the new one", Some(&resident));
    place.broker.reseal(renamed, false, "x").await.unwrap();
    drop(place.reopen("the new one").await.unwrap());
}

#[tokio::test]
async fn a_sealer_that_cannot_seal_leaves_the_keyring_as_it_was() {
    let place = Place::new(RootKind::Tpm, "the old one", None).await;
    place
        .key("sealed", Algorithm::Ed25519, CustodyKind::TpmSealed)
        .await;
    let before = place.broker.keyring().info();
    // Says that it is hardware, and is not.
    let mut pretending = root(RootKind::Tpm, "the new one", None);
    pretending.sealer = rooted(RootKind::Passphrase, "the new one");
    let refused = place.broker.reseal(pretending, true, "x").await.unwrap_err();
    assert!(
        matches!(refused, ResealError::Keyring(KeyringError::OtherRoot { .. })),
        "{refused:?}"
    );
    assert_eq!(place.broker.keyring().info(), before);
    assert!(matches!(
        place.events().await.last(),
        Some(Event::Settled {
            settlement: Settlement::Failed,
            ..
        })
    ));
    let place = place.reopen("the old one").await.unwrap();
    place.signs("sealed").await;
}
