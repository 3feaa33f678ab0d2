//! Restoring and sealing anew, cut off wherever a host may be killed: what is on disk is the keyring before or after, and opens.

use claviger_core::http::InjectionKind;
use rusqlite::Connection;

use super::secrets::{VALUE, new_secret};
use super::tamper::restore as put_back;
use super::*;

/// Where the cuts fall: a prime, so that they hit different places of the log's frames of 4120 bytes; and the whole log.
fn cuts(log: &[u8]) -> impl Iterator<Item = usize> {
    (0..log.len()).step_by(397).chain([log.len()])
}

fn names(keyring: &Keyring) -> Vec<String> {
    let keys = keyring.keys();
    let secrets = keyring.secrets();
    let all = keys.iter().map(|record| record.key.to_string());
    all.chain(secrets.iter().map(|record| record.secret.to_string()))
        .collect()
}

#[tokio::test]
async fn a_restore_that_was_killed_left_whole_items_and_can_go_on() {
    let (_outer, source) = place();
    let old = created(&source).await;
    for name in ["first", "second"] {
        add(&old, name).await;
    }
    old.insert_secret(new_secret("github", InjectionKind::Bearer, VALUE), now())
        .unwrap();
    let (_new_outer, folder) = place();
    let keyring = created(&folder).await;
    let mut states = vec![names(&keyring)];
    for record in old.keys() {
        let material = old.material(&record.key).unwrap();
        keyring.restore_key((*record).clone(), Some(&material)).unwrap();
        states.push(names(&keyring));
    }
    for record in old.secrets() {
        let value = old.secret_material(&record.secret).unwrap();
        keyring.restore_secret((*record).clone(), Some(&value)).unwrap();
        states.push(names(&keyring));
    }
    let database = std::fs::read(folder.join(DATABASE)).unwrap();
    let log = std::fs::read(folder.join("keyring.db-wal")).unwrap();
    let (_copy_outer, copy) = place();
    drop(created(&copy).await);
    let mut seen = std::collections::BTreeSet::new();
    for cut in cuts(&log) {
        put_back(&copy, &database);
        std::fs::write(copy.join("keyring.db-wal"), &log[..cut]).unwrap();
        let found = opened(&copy).await.unwrap();
        let state = states.iter().position(|state| *state == names(&found));
        seen.insert(state.unwrap_or_else(|| panic!("cut at {cut}: a keyring that never was")));
        for record in found.keys() {
            let material = old.material(&record.key).unwrap();
            assert!(found.material(&record.key).unwrap().equals(material.expose()));
        }
        for record in old
            .keys()
            .iter()
            .filter(|record| found.record(&record.key).is_none())
        {
            let material = old.material(&record.key).unwrap();
            found.restore_key((**record).clone(), Some(&material)).unwrap();
        }
        assert_eq!(found.keys().len(), 2, "cut at {cut}");
    }
    assert_eq!(
        seen.last(),
        Some(&(states.len() - 1)),
        "the whole log holds everything"
    );
    assert!(seen.len() > 2, "the cuts hit several states: {seen:?}");
}

#[tokio::test]
async fn a_reseal_that_was_killed_left_a_keyring_that_the_old_or_the_new_root_opens() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let first = add(&keyring, "first").await;
    keyring
        .insert_secret(new_secret("github", InjectionKind::Bearer, VALUE), now())
        .unwrap();
    // Everything before is in the database itself.
    keyring
        .file()
        .store
        .connection()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let generation = keyring.info().generation;
    let record = keyring.keys()[0].clone();
    let resealed = Resealed {
        record: (*record).clone(),
        material: Secret::take(&mut first.clone()).unwrap(),
    };
    let new = sealer("battery staple");
    keyring
        .reseal(spec(), &new, vec![resealed], generation, now())
        .await
        .unwrap();
    assert!(keyring.material(&record.key).unwrap().equals(&first));
    let database = std::fs::read(folder.join(DATABASE)).unwrap();
    let log = std::fs::read(folder.join("keyring.db-wal")).unwrap();
    let (_copy_outer, copy) = place();
    drop(created(&copy).await);
    let (mut old_opens, mut new_opens) = (0, 0);
    for cut in cuts(&log) {
        put_back(&copy, &database);
        std::fs::write(copy.join("keyring.db-wal"), &log[..cut]).unwrap();
        let by_old = opened(&copy).await;
        let found = match by_old {
            Ok(found) => {
                old_opens += 1;
                assert_eq!(found.info().generation, generation);
                found
            }
            Err(KeyringError::Root(_)) => {
                new_opens += 1;
                Keyring::open(&copy, &new).await.unwrap()
            }
            Err(other) => panic!("cut at {cut}: {other:?}"),
        };
        assert!(found.material(&record.key).unwrap().equals(&first));
        let secret = found.secret(&"github".parse().unwrap()).unwrap();
        assert!(
            found
                .secret_material(&secret.secret)
                .unwrap()
                .equals(VALUE.as_bytes())
        );
    }
    assert!(
        old_opens > 2 && new_opens > 0,
        "{old_opens} by the old, {new_opens} by the new"
    );
}

#[tokio::test]
async fn a_reseal_of_a_keyring_that_was_changed_meanwhile_is_not_done() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let generation = keyring.info().generation;
    add(&keyring, "first").await;
    let refused = keyring
        .reseal(spec(), &sealer("battery staple"), Vec::new(), generation, now())
        .await
        .unwrap_err();
    assert!(matches!(refused, KeyringError::Busy), "{refused:?}");
    drop(keyring);
    assert!(opened(&folder).await.is_ok(), "the old passphrase is the one");
}

#[tokio::test]
async fn a_restored_version_does_not_take_anothers_place() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    add(&keyring, "first").await;
    let record = (*keyring.keys()[0]).clone();
    let material = keyring.material(&record.key).unwrap();
    assert!(matches!(
        keyring.restore_key(record.clone(), Some(&material)),
        Err(KeyringError::KeyExists { .. })
    ));
    let mut second = record.clone();
    second.key.version = KeyVersion(2);
    let refused = keyring.restore_key(second.clone(), Some(&material));
    assert!(refused.unwrap_err().to_string().contains("`first@v1` is active"));
    second.state = KeyState::Revoked;
    keyring.restore_key(second, None).unwrap();
    let info = keyring.info();
    drop(keyring);
    let keyring = opened(&folder).await.unwrap();
    assert_eq!((keyring.keys().len(), keyring.info()), (2, info));
    // On record only: there is nothing to open.
    let key = KeyRef {
        version: KeyVersion(2),
        ..record.key
    };
    assert!(keyring.material(&key).is_err());
    let rows: i64 = Connection::open(folder.join(DATABASE))
        .unwrap()
        .query_row("SELECT length(material) FROM keys WHERE version = 2", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(rows, 0);
}
