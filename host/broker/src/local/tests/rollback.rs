//! Older copies of the keyring or of its log, put in their place: each is noticed. Both together are not, without a witness.

use super::*;

#[tokio::test]
async fn a_keyring_put_back_to_an_older_copy_is_noticed() {
    let fixture = Fixture::new().await;
    let Fixture {
        folder,
        clock,
        broker,
        ..
    } = fixture;
    let database = folder.path().join("keyring/keyring.db");
    broker.close().await.unwrap();
    drop(broker);
    let old = std::fs::read(&database).unwrap();
    let broker = LocalBroker::open(options(&folder, &clock, None, None))
        .await
        .unwrap();
    let creation = KeyCreation {
        name: name("later"),
        profile: Profile::Labeled { label: name("later") },
        algorithm: Algorithm::Ed25519,
        custody: CustodyKind::Software,
    };
    broker.create_key(creation).await.unwrap();
    broker.close().await.unwrap();
    drop(broker);
    std::fs::write(&database, old).unwrap();
    for rest in ["keyring.db-wal", "keyring.db-shm"] {
        drop(std::fs::remove_file(folder.path().join("keyring").join(rest)));
    }
    let refused = LocalBroker::open(options(&folder, &clock, None, None))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("`later@v1`"), "{refused}");
}

#[tokio::test]
async fn a_revocation_cannot_be_undone_with_an_older_copy_of_the_keyring() {
    let fixture = Fixture::new().await;
    let database = fixture.folder.path().join("keyring/keyring.db");
    let fixture = fixture.reopen().await;
    let old = std::fs::read(&database).unwrap();
    fixture
        .broker
        .set_key_state(&name("release"), KeyState::Revoked)
        .await
        .unwrap();
    // The next start sees the new generation.
    let Fixture {
        folder,
        clock,
        broker,
        ..
    } = fixture.reopen().await;
    broker.close().await.unwrap();
    drop(broker);
    std::fs::write(&database, old).unwrap();
    for rest in ["keyring.db-wal", "keyring.db-shm"] {
        drop(std::fs::remove_file(folder.path().join("keyring").join(rest)));
    }
    let refused = LocalBroker::open(options(&folder, &clock, None, None))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("an older copy was put back"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_older_log_in_place_of_the_log_is_noticed() {
    let Fixture {
        folder,
        clock,
        broker,
        ..
    } = Fixture::new().await;
    broker.close().await.unwrap();
    drop(broker);
    let durable = || options(&folder, &clock, None, None).durability(Durability::Sync);
    let log = folder.path().join("keyring").join(AUDIT_FOLDER);
    let kept = folder.path().join("kept");
    for round in 0..2 {
        let broker = LocalBroker::open(durable()).await.unwrap();
        broker.close().await.unwrap();
        drop(broker);
        if round == 0 {
            copy(&log, &kept);
        }
    }
    std::fs::remove_dir_all(&log).unwrap();
    copy(&kept, &log);
    let refused = LocalBroker::open(durable()).await.unwrap_err();
    assert!(
        refused.to_string().contains("an older log was put in its place"),
        "{refused}"
    );
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .unwrap();
    assert!(done.success());
}
