//! Backups as files: on the log before they are written, useless to others, and refused when they were changed. What comes over is in
//! `recovery`.

use std::io::{Cursor, Write};

use super::recovery::{Place, VALUE, full, identity, rooted};
use super::*;
use crate::backup::{BackupError, Contents};
use crate::local::{BackUpError, RestoreError, Restoring};

#[tokio::test]
async fn a_backup_is_on_the_log_before_its_first_byte_or_is_not_made() {
    /// Notes what was on disk of the log when the first byte came.
    struct Watching<'a>(&'a TempDir, Option<bool>);
    impl Write for Watching<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.1.is_none() {
                let journal = scan(&self.0.path().join("keyring").join(AUDIT_FOLDER));
                self.1 = Some(journal.windows(16).any(|window| window == b"backup-requested"));
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    fn scan(folder: &std::path::Path) -> Vec<u8> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all.extend(scan(&path));
            } else {
                all.extend(std::fs::read(path).unwrap());
            }
        }
        all
    }
    let place = full(RootKind::Tpm, "old tpm").await;
    let (_, recipient) = identity();
    let before = scan(&place.folder.path().join("keyring").join(AUDIT_FOLDER));
    assert!(
        !before.windows(16).any(|window| window == b"backup-requested"),
        "the control"
    );
    let mut out = Watching(&place.folder, None);
    place
        .broker
        .back_up(std::slice::from_ref(&recipient), "uid 7 (x\u{1b}[2Jy)", &mut out)
        .await
        .unwrap();
    assert_eq!(out.1, Some(true));
    let events = place.events().await;
    let at = events
        .iter()
        .position(|event| matches!(event, Event::BackupRequested { .. }))
        .unwrap();
    assert_eq!(
        events[at],
        Event::BackupRequested {
            by: "uid 7 (x\\u{1b}[2Jy)".to_owned(),
            recipients: vec![recipient.to_string()],
            keys: 2,
            secrets: 1,
            left_out: 1,
        }
    );
    let settled = |settlement| Event::Settled {
        of: at as u64,
        settlement,
        traffic: None,
    };
    assert_eq!(events[at + 1], settled(Settlement::Released));

    // A disk that is full, and a log that is closed.
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let failed = place
        .broker
        .back_up(std::slice::from_ref(&recipient), "x", Full)
        .await
        .unwrap_err();
    assert!(
        matches!(failed, BackUpError::Backup(BackupError::Io { .. })),
        "{failed:?}"
    );
    assert!(matches!(
        place.events().await.last(),
        Some(Event::Settled {
            settlement: Settlement::Failed,
            ..
        })
    ));
    place.broker.close().await.unwrap();
    let mut file = Vec::new();
    let refused = place
        .broker
        .back_up(std::slice::from_ref(&recipient), "x", &mut file)
        .await
        .unwrap_err();
    assert!(matches!(refused, BackUpError::Audit(_)), "{refused:?}");
    assert!(file.is_empty(), "nothing was written");
}

#[tokio::test]
async fn no_recipient_and_too_many_are_refused() {
    let place = Place::new(RootKind::Passphrase, "some passphrase", None).await;
    let (_, recipient) = identity();
    for count in [0, 17] {
        let refused = place
            .broker
            .back_up(&vec![recipient.clone(); count], "x", Vec::new())
            .await
            .unwrap_err();
        assert!(
            matches!(refused, BackUpError::Backup(BackupError::Recipients { found, .. }) if found == count),
            "{refused:?}"
        );
    }
    assert!(
        place
            .broker
            .back_up(&vec![recipient; 16], "x", Vec::new())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_backup_shows_nothing_without_an_identity() {
    let old = full(RootKind::Tpm, "old tpm").await;
    let (identities, recipient) = identity();
    let (others, _) = identity();
    let file = old.back_up(&recipient).await;
    let refused = Contents::read(file.as_slice(), &others).unwrap_err();
    assert!(
        matches!(refused, BackupError::WrongIdentity { .. }),
        "{refused:?}"
    );
    let soft = old.broker.keyring().key(&name("soft")).unwrap();
    let seed = old
        .broker
        .keyring()
        .material(&soft.key)
        .unwrap()
        .expose()
        .to_vec();
    let text = format!("{VALUE}-second");
    for secret in [seed.as_slice(), text.as_bytes(), b"github", b"hardware"] {
        assert!(
            !file
                .windows(secret.len().min(8))
                .any(|window| secret.starts_with(window)),
            "{}",
            String::from_utf8_lossy(secret)
        );
    }
    // The control: it is all in there.
    let shown = format!("{:?}", Contents::read(file.as_slice(), &identities).unwrap());
    assert!(shown.contains("github") && !shown.contains("canary"), "{shown}");
    assert!(file.windows(8).any(|window| window == b"-> X2551"));
}

#[tokio::test]
async fn a_backup_of_another_keyring_is_refused_where_one_is_expected() {
    let (old, other) = (
        full(RootKind::Tpm, "old tpm").await,
        full(RootKind::Tpm, "other").await,
    );
    let (identities, recipient) = identity();
    let file = old.back_up(&recipient).await;
    let vkey = |place: &Place| place.broker.keyring().info().vkey.unwrap();
    let new = Place::new(RootKind::Tpm, "new tpm", None).await;
    let (good, bad) = (vkey(&old), vkey(&other));
    for (of, taken) in [(bad.as_str(), false), ("", false), (good.as_str(), true)] {
        let how = Restoring {
            identities: &identities,
            of: Some(of),
            weaken: false,
            by: "x",
        };
        let result = new.broker.restore(&mut Cursor::new(&file), how).await;
        assert_eq!(result.is_ok(), taken, "{of}: {result:?}");
    }
}

#[tokio::test]
async fn a_changed_file_restores_nothing_at_all() {
    let old = full(RootKind::Tpm, "old tpm").await;
    let (identities, recipient) = identity();
    let file = old.back_up(&recipient).await;
    let new = Place::new(RootKind::Tpm, "new tpm", None).await;
    for at in (0..file.len()).step_by(file.len() / 150) {
        let mut changed = file.clone();
        changed[at] ^= 1 << (at % 8);
        for bad in [&changed[..], &file[..at]] {
            let refused = new.restore(bad, &identities, true).await.unwrap_err();
            assert!(
                matches!(refused, RestoreError::Backup(_)),
                "byte {at}: {refused:?}"
            );
        }
    }
    assert!(new.broker.keyring().keys().is_empty());
    assert!(
        new.restore(&file, &identities, false).await.is_ok(),
        "the control"
    );
}

/// A file that is another one when it is read again.
struct Turning(Vec<Vec<u8>>, Cursor<Vec<u8>>);

impl std::io::Read for Turning {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.1.read(bytes)
    }
}

impl std::io::Seek for Turning {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        if let Some(next) = self.0.pop() {
            self.1 = Cursor::new(next);
        }
        self.1.seek(to)
    }
}

#[tokio::test]
async fn a_file_that_is_changed_between_looking_and_restoring_is_noticed() {
    let (old, other) = (
        full(RootKind::Tpm, "old tpm").await,
        full(RootKind::Tpm, "other").await,
    );
    let (identities, recipient) = identity();
    let (file, evil) = (old.back_up(&recipient).await, other.back_up(&recipient).await);
    let new = Place::new(RootKind::Tpm, "new tpm", None).await;
    let how = Restoring {
        identities: &identities,
        of: None,
        weaken: false,
        by: "x",
    };
    let mut turning = Turning(vec![evil], Cursor::new(file.clone()));
    let refused = new.broker.restore(&mut turning, how).await.unwrap_err();
    assert!(
        matches!(refused, RestoreError::Backup(BackupError::Untrusted(_))),
        "{refused:?}"
    );
    assert!(
        new.broker
            .keyring()
            .keys()
            .iter()
            .all(|record| record.state == KeyState::Revoked)
    );
    let mut same = Turning(vec![file.clone()], Cursor::new(file));
    assert!(new.broker.restore(&mut same, how).await.is_ok(), "the control");
}

#[tokio::test]
async fn keys_without_a_public_half_come_over_and_are_sealed_anew_too() {
    let old = Place::new(RootKind::Swtpm, "old tpm", None).await;
    let label = |text: &str| Profile::Mac { label: name(text) };
    for (key, profile, custody) in [
        ("box", Profile::Seal {}, CustodyKind::TpmSealed),
        ("mac", label("m"), CustodyKind::TpmSealed),
        ("soft-box", Profile::Seal {}, CustodyKind::Software),
    ] {
        let made = old.broker.create_planned_symmetric_key(
            name(key),
            profile,
            custody,
            crate::keyring::RotationPlan::default(),
            None,
        );
        made.await.unwrap();
    }
    let seeds = async |place: &Place| {
        let mut seeds = Vec::new();
        for record in place.broker.keyring().keys() {
            let seed = place.broker.seed(&record).await.unwrap().unwrap();
            seeds.push((record.key.to_string(), seed.expose().to_vec()));
        }
        seeds
    };
    let before = seeds(&old).await;
    assert_eq!(before.len(), 3);
    let (identities, recipient) = identity();
    let file = old.back_up(&recipient).await;
    for (kind, weaken) in [(RootKind::Tpm, false), (RootKind::Passphrase, true)] {
        let new = Place::new(kind, "new root", None).await;
        new.restore(&file, &identities, weaken).await.unwrap();
        let new = new.reopen("new root").await.unwrap();
        assert_eq!(seeds(&new).await, before, "{kind}");
    }
    let root = NewRoot {
        spec: RootSpec {
            kind: RootKind::Tpm,
            settings: "another".to_owned(),
        },
        sealer: rooted(RootKind::Tpm, "third"),
        resident: None,
    };
    old.broker.reseal(root, false, "x").await.unwrap();
    let old = Place {
        kind: RootKind::Tpm,
        ..old
    };
    let old = old.reopen("third").await.unwrap();
    assert_eq!(seeds(&old).await, before);
}

#[tokio::test]
async fn a_lost_key_leaves_its_name_free_whatever_became_of_its_older_versions() {
    let old = Place::new(RootKind::Swtpm, "old tpm", Some(Arc::new(Slow::default()))).await;
    old.key("resident", Algorithm::P256, CustodyKind::Tpm).await;
    old.key("soft", Algorithm::Ed25519, CustodyKind::Software).await;
    for key in ["resident", "soft"] {
        old.broker.compromise_key(&name(key), None, None).await.unwrap();
    }
    let states: Vec<_> = old
        .broker
        .keyring()
        .keys()
        .iter()
        .map(|record| record.state)
        .collect();
    let (gone, used) = (KeyState::Revoked, KeyState::Active);
    assert_eq!(states, [gone, used, gone, used], "two versions of each");
    let (identities, recipient) = identity();
    let file = old.back_up(&recipient).await;
    let new = Place::new(RootKind::Swtpm, "new tpm", None).await;
    let restored = new.restore(&file, &identities, false).await.unwrap();
    let keys: Vec<_> = restored
        .keys
        .iter()
        .map(|record| record.key.to_string())
        .collect();
    assert_eq!(keys, ["soft@v1", "soft@v2"]);
    assert_eq!(restored.lost[0].key.to_string(), "resident@v2");
    new.key("resident", Algorithm::Ed25519, CustodyKind::TpmSealed)
        .await;
    new.signs("resident").await;
    new.signs("soft").await;
    let again = new.restore(&file, &identities, false).await.unwrap();
    assert_eq!((again.keys.len(), again.there), (0, 2));
}
