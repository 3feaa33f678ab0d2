//! What a restore refuses before it writes anything: one key twice in a file, and more than a keyring holds.

use super::recovery::{Place, full, identity};
use super::*;
use crate::keyring::{KeyRecord, KeyringError, MAX_KEYS};
use crate::local::RestoreError;

/// How far a keyring and its log have come.
async fn state(place: &Place) -> (u64, usize) {
    (
        place.broker.keyring().info().generation,
        place.events().await.len(),
    )
}

/// Puts a copy of the key `soft` beside it, as no command does.
fn twin(place: &Place, change: impl FnOnce(&mut KeyRecord)) {
    let keyring = place.broker.keyring();
    let soft = keyring.key(&name("soft")).unwrap();
    let mut copy = (*soft).clone();
    change(&mut copy);
    let material = keyring.material(&soft.key).unwrap();
    let kept = crate::keyring::has_use(copy.state).then_some(&material);
    keyring.restore_key(copy, kept).unwrap();
}

#[tokio::test]
async fn one_key_twice_in_a_file_is_refused_and_nothing_is_written() {
    let (identities, recipient) = identity();
    type Row = (&'static str, fn(&mut KeyRecord), Option<&'static str>);
    let rows: [Row; 4] = [
        (
            "under another name",
            |copy| {
                copy.key.name = name("twin");
                copy.profile = Profile::Labeled { label: name("twin") };
            },
            Some("key `twin@v1` is the same key as `soft@v1` in the backup"),
        ),
        (
            "as another version",
            |copy| {
                copy.key.version = claviger_core::KeyVersion(2);
                copy.state = KeyState::Retired;
            },
            Some("key `soft@v2` is the same key as `soft@v1` in the backup"),
        ),
        (
            "under another name, and revoked",
            |copy| {
                copy.key.name = name("twin");
                copy.state = KeyState::Revoked;
            },
            Some("key `twin@v1` is the same key as `soft@v1` in the backup"),
        ),
        (
            "the control: destroyed, and imported again since",
            |copy| {
                copy.key.name = name("before");
                copy.state = KeyState::Destroyed;
            },
            None,
        ),
    ];
    for (what, change, says) in rows {
        let old = full(RootKind::Swtpm, "old tpm").await;
        twin(&old, change);
        let file = old.back_up(&recipient).await;
        let new = Place::new(RootKind::Swtpm, "new tpm", None).await;
        let before = state(&new).await;
        let result = new.restore(&file, &identities, false).await;
        let Some(says) = says else {
            assert_eq!(result.unwrap().keys.len(), 5, "{what}");
            // And again, as after an interruption.
            assert_eq!(
                new.restore(&file, &identities, false).await.unwrap().there,
                9,
                "{what}"
            );
            continue;
        };
        let refused = result.unwrap_err();
        assert!(
            matches!(refused, RestoreError::Conflict(_)),
            "{what}: {refused:?}"
        );
        assert!(refused.to_string().contains(says), "{what}: {refused}");
        assert_eq!(state(&new).await, before, "{what}");
    }
}

#[tokio::test]
async fn a_keyring_without_room_for_all_takes_nothing() {
    let (identities, recipient) = identity();
    let old = full(RootKind::Swtpm, "old tpm").await;
    let file = old.back_up(&recipient).await;
    let like = old.broker.keyring().secret(&name("github")).unwrap();
    // Eight items are written; the ninth is of a key that is lost.
    let most = u64::try_from(MAX_KEYS).unwrap();
    for (there, fits) in [(most - 7, false), (most - 8, true)] {
        let new = Place::new(RootKind::Swtpm, "new tpm", None).await;
        new.broker.keyring().fill(&like, there);
        let new = new.reopen("new tpm").await.unwrap();
        let before = state(&new).await;
        let result = new.restore(&file, &identities, false).await;
        if fits {
            let restored = result.unwrap();
            assert_eq!(restored.keys.len() + restored.secrets.len(), 8, "the control");
            assert_eq!(new.broker.keyring().room().unwrap(), 0);
            // What is there already needs no room.
            assert_eq!(new.restore(&file, &identities, false).await.unwrap().there, 8);
        } else {
            let refused = result.unwrap_err();
            assert!(
                matches!(refused, RestoreError::Keyring(KeyringError::Full)),
                "{refused:?}"
            );
            assert_eq!(state(&new).await, before);
        }
    }
}
