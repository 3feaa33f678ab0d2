//! The keyring's promises through its own interface. Attacks on its bytes are in `tamper`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use claviger_core::custody::{Assurance, Custody as _, CustodyError, CustodyKind, Generated, Sealer};
use claviger_core::profile::Profile;
use claviger_core::{Algorithm, BoxFuture, KeyRef, KeyVersion, Secret};
use jiff::Timestamp;

use super::*;
use crate::custody::permits::key_ref;
use crate::custody::{KdfCost, PassphraseSealer, SoftwareCustody};

mod formats;
mod life;
mod published;
mod recovery;
mod secrets;
mod tamper;

const PASSPHRASE: &str = "correct horse";

pub(super) fn sealer(passphrase: &str) -> PassphraseSealer {
    let secret = Secret::take(&mut passphrase.to_owned().into_bytes()).unwrap();
    PassphraseSealer::new(secret, KdfCost::INSECURE_FOR_TESTS).unwrap()
}

pub(super) fn spec() -> RootSpec {
    RootSpec {
        kind: RootKind::Passphrase,
        settings: "some settings".to_owned(),
    }
}

pub(super) fn now() -> Timestamp {
    "2026-01-02T03:04:05.678Z".parse().unwrap()
}

/// A folder that is removed, and the keyring's folder in it, which is not made yet.
pub(super) fn place() -> (tempfile::TempDir, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("a").join("keyring");
    (outer, folder)
}

pub(super) async fn created(folder: &Path) -> Keyring {
    Keyring::create(folder, spec(), &sealer(PASSPHRASE), now())
        .await
        .unwrap()
}

pub(super) async fn opened(folder: &Path) -> Result<Keyring, KeyringError> {
    Keyring::open(folder, &sealer(PASSPHRASE)).await
}

pub(super) async fn new_key(key: KeyRef, algorithm: Algorithm) -> NewKey {
    let Generated { public, material } = SoftwareCustody.generate(&key, algorithm).await.unwrap();
    NewKey {
        key,
        profile: Profile::Labeled {
            label: "test".parse().unwrap(),
        },
        algorithm: algorithm.into(),
        custody: CustodyKind::Software,
        assurance: Assurance::Passphrase,
        identity: public.into(),
        source: KeySource::Generated,
        plan: RotationPlan::default(),
        locked: false,
        material,
        hardware: None,
    }
}

/// Adds a key and returns its material.
pub(super) async fn add(keyring: &Keyring, name: &str) -> Vec<u8> {
    let new = new_key(key_ref(name), Algorithm::Ed25519).await;
    let material = new.material.expose().to_vec();
    keyring.insert(new, now()).unwrap();
    material
}

#[test]
fn a_keyring_can_be_shared_and_its_futures_can_move_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn moves<T: Send>(_: &T) {}
    shared::<Keyring>();
    let sealer = sealer(PASSPHRASE);
    moves(&Keyring::open(Path::new("keyring"), &sealer));
    moves(&Keyring::create(Path::new("keyring"), spec(), &sealer, now()));
}

#[tokio::test]
async fn a_key_is_there_with_its_material_after_reopening() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let first = add(&keyring, "first").await;
    let second = add(&keyring, "second").await;
    let before = keyring.keys();
    drop(keyring);

    let keyring = opened(&folder).await.unwrap();
    assert_eq!(keyring.keys(), before);
    assert!(keyring.material(&key_ref("first")).unwrap().equals(&first));
    assert!(keyring.material(&key_ref("second")).unwrap().equals(&second));
    let record = keyring.key(&"first".parse().unwrap()).unwrap();
    assert_eq!((record.state, record.created), (KeyState::Active, now()));
    assert!(keyring.key(&"third".parse().unwrap()).is_none());
    assert!(matches!(
        keyring.material(&key_ref("third")),
        Err(KeyringError::NoKey { .. })
    ));

    let software = SoftwareCustody
        .open(
            &record.key,
            record.public().unwrap(),
            keyring.material(&record.key).unwrap(),
        )
        .await;
    assert!(software.is_ok());
}

#[tokio::test]
async fn what_is_public_can_be_read_while_the_keyring_is_open() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    add(&keyring, "first").await;
    keyring.set_vkey("log+1234+abcd").unwrap();
    for open in [true, false] {
        let info = Keyring::peek(&folder).unwrap();
        assert_eq!(info, keyring.info());
        assert_eq!(
            (info.root.clone(), info.assurance),
            (spec(), Assurance::Passphrase)
        );
        assert_eq!((info.created, info.format, info.generation), (now(), FORMAT, 3));
        assert_eq!(info.vkey.as_deref(), Some("log+1234+abcd"));
        let listed: Vec<_> = Keyring::list_public(&folder)
            .unwrap()
            .into_iter()
            .map(Arc::new)
            .collect();
        assert_eq!(listed, keyring.keys(), "{open}");
    }
    drop(keyring);
    assert_eq!(Keyring::list_public(&folder).unwrap().len(), 1);
    assert_eq!(Keyring::peek(&folder).unwrap().generation, 3);
    assert!(opened(&folder).await.is_ok(), "reading left it usable");
}

#[tokio::test]
async fn a_wrong_passphrase_opens_nothing() {
    let (_outer, folder) = place();
    drop(created(&folder).await);
    let refused = Keyring::open(&folder, &sealer("battery staple"))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, KeyringError::Root(CustodyError::NotOurs(_))),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("the passphrase is wrong"),
        "{refused}"
    );
    assert!(opened(&folder).await.is_ok(), "the control");
}

#[tokio::test]
async fn only_one_process_has_the_keyring_open() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let refused = opened(&folder).await.unwrap_err();
    assert!(
        matches!(refused, KeyringError::InUse { pid: Some(pid) } if pid == std::process::id()),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains(&std::process::id().to_string()),
        "{refused}"
    );
    drop(keyring);
    assert!(
        opened(&folder).await.is_ok(),
        "the control: the lock went with the keyring"
    );
}

#[tokio::test]
async fn a_keyring_is_never_made_over_another() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    add(&keyring, "first").await;
    drop(keyring);
    let refused = Keyring::create(&folder, spec(), &sealer(PASSPHRASE), now())
        .await
        .unwrap_err();
    assert!(matches!(refused, KeyringError::Exists { .. }), "{refused:?}");
    assert_eq!(opened(&folder).await.unwrap().keys().len(), 1);
}

/// Fails to seal, or seals what it cannot open.
#[derive(Debug)]
struct BrokenSealer {
    seals: bool,
}

impl Sealer for BrokenSealer {
    fn assurance(&self) -> Assurance {
        Assurance::Passphrase
    }
    fn seal<'a>(&'a self, _: &'a str, secret: &'a Secret) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        let result = if self.seals {
            Ok(vec![0; secret.len()])
        } else {
            Err(CustodyError::Unavailable("no device".to_owned()))
        };
        Box::pin(std::future::ready(result))
    }
    fn unseal<'a>(&'a self, _: &'a str, sealed: &'a [u8]) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        Box::pin(std::future::ready(
            Secret::take(&mut sealed.to_vec()).map_err(CustodyError::from),
        ))
    }
}

#[tokio::test]
async fn a_sealer_that_fails_leaves_nothing_behind() {
    for seals in [false, true] {
        let (outer, folder) = place();
        let refused = Keyring::create(&folder, spec(), &BrokenSealer { seals }, now())
            .await
            .unwrap_err();
        assert!(matches!(refused, KeyringError::Root(_)), "{refused:?}");
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_keyring_does_not_open_with_a_sealer_of_another_kind() {
    let (_outer, folder) = place();
    let tpm = RootSpec {
        kind: RootKind::Tpm,
        settings: String::new(),
    };
    let refused = Keyring::create(&folder, tpm, &sealer(PASSPHRASE), now())
        .await
        .unwrap_err();
    assert!(matches!(refused, KeyringError::OtherRoot { .. }), "{refused:?}");
    assert!(!folder.exists());

    #[derive(Debug)]
    struct Pretender(PassphraseSealer);
    impl Sealer for Pretender {
        fn assurance(&self) -> Assurance {
            Assurance::Hardware
        }
        fn seal<'a>(&'a self, p: &'a str, s: &'a Secret) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
            self.0.seal(p, s)
        }
        fn unseal<'a>(&'a self, p: &'a str, s: &'a [u8]) -> BoxFuture<'a, Result<Secret, CustodyError>> {
            self.0.unseal(p, s)
        }
    }
    drop(created(&folder).await);
    let refused = Keyring::open(&folder, &Pretender(sealer(PASSPHRASE)))
        .await
        .unwrap_err();
    assert!(matches!(refused, KeyringError::OtherRoot { .. }), "{refused:?}");
}

#[tokio::test]
async fn an_unfinished_keyring_is_none_and_does_not_stand_in_the_way() {
    let (_outer, folder) = place();
    drop(created(&folder).await);
    // As a crash between writing and renaming leaves it.
    std::fs::rename(folder.join(DATABASE), folder.join(UNFINISHED)).unwrap();
    std::fs::write(folder.join("keyring.db.new-journal"), b"torn").unwrap();
    assert!(matches!(
        Keyring::peek(&folder),
        Err(KeyringError::Missing { .. })
    ));
    assert!(matches!(opened(&folder).await, Err(KeyringError::Missing { .. })));
    let keyring = created(&folder).await;
    add(&keyring, "first").await;
    drop(keyring);
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["keyring.db", "lock"]);
}

#[tokio::test]
async fn files_are_the_owners_alone_and_anything_else_is_refused() {
    let (outer, folder) = place();
    let keyring = created(&folder).await;
    add(&keyring, "first").await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(folder.parent().unwrap()), 0o700);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(keyring);

    let database = folder.join(DATABASE);
    for (path, good, bad) in [
        (&folder, 0o700, 0o750),
        (&folder, 0o700, 0o701),
        (&database, 0o600, 0o640),
        (&database, 0o600, 0o602),
    ] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(bad)).unwrap();
        for refused in [
            opened(&folder).await.unwrap_err(),
            Keyring::peek(&folder).unwrap_err(),
        ] {
            assert!(matches!(refused, KeyringError::Insecure { .. }), "{refused:?}");
            assert!(
                refused.to_string().contains(&format!("chmod {good:o}")),
                "{refused}"
            );
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(good)).unwrap();
        assert!(opened(&folder).await.is_ok(), "the control");
    }

    let link = outer.path().join("link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    assert!(matches!(opened(&link).await, Err(KeyringError::Insecure { .. })));
    let moved = outer.path().join("moved.db");
    std::fs::rename(&database, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &database).unwrap();
    assert!(matches!(
        opened(&folder).await,
        Err(KeyringError::Insecure { .. })
    ));
}

#[tokio::test]
async fn a_lock_file_that_is_a_link_is_not_followed() {
    let (outer, folder) = place();
    drop(created(&folder).await);
    let victim = outer.path().join("victim");
    std::fs::write(&victim, b"precious").unwrap();
    std::fs::remove_file(folder.join("lock")).unwrap();
    std::os::unix::fs::symlink(&victim, folder.join("lock")).unwrap();
    assert!(matches!(opened(&folder).await, Err(KeyringError::Io { .. })));
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
}

#[tokio::test]
async fn versions_count_up_and_only_one_is_active() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let name: KeyName = "release".parse().unwrap();
    let at = |version| KeyRef {
        name: name.clone(),
        version: KeyVersion(version),
    };
    let refused = keyring.insert(new_key(at(2), Algorithm::Ed25519).await, now());
    assert!(
        matches!(refused, Err(KeyringError::KeyExists { .. })),
        "{refused:?}"
    );
    keyring
        .insert(new_key(at(1), Algorithm::Ed25519).await, now())
        .unwrap();
    for version in [1, 2] {
        let refused = keyring.insert(new_key(at(version), Algorithm::P256).await, now());
        assert!(
            matches!(refused, Err(KeyringError::KeyExists { .. })),
            "{refused:?}"
        );
    }
    keyring.set_state(&at(1), KeyState::Disabled, now()).unwrap();
    assert!(keyring.key(&name).is_none(), "a disabled key is not used");
    keyring
        .insert(new_key(at(2), Algorithm::P256).await, now())
        .unwrap();
    assert_eq!(keyring.key(&name).unwrap().key, at(2));
    let refused = keyring.set_state(&at(1), KeyState::Active, now());
    assert!(
        matches!(refused, Err(KeyringError::Transition { .. })),
        "{refused:?}"
    );
    keyring.set_state(&at(2), KeyState::Revoked, now()).unwrap();
    let refused = keyring.set_state(&at(2), KeyState::Active, now());
    assert!(
        matches!(refused, Err(KeyringError::Transition { .. })),
        "revoked is for good: {refused:?}"
    );
    keyring.set_state(&at(1), KeyState::Active, now()).unwrap();
    drop(keyring);
    let keyring = opened(&folder).await.unwrap();
    assert_eq!(keyring.key(&name).unwrap().key, at(1));
    assert_eq!(keyring.record(&at(2)).unwrap().state, KeyState::Revoked);
    assert!(keyring.material(&at(1)).is_ok() && keyring.material(&at(2)).is_ok());
}

#[tokio::test]
async fn a_key_that_contradicts_itself_is_not_added() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let mut new = new_key(key_ref("first"), Algorithm::Ed25519).await;
    new.algorithm = Algorithm::P256.into();
    assert!(matches!(
        keyring.insert(new, now()),
        Err(KeyringError::Algorithm { .. })
    ));
    let mut new = new_key(key_ref("first"), Algorithm::Ed25519).await;
    new.profile = Profile::Sshsig {
        namespaces: std::collections::BTreeSet::new(),
    };
    assert!(matches!(
        keyring.insert(new, now()),
        Err(KeyringError::Profile { .. })
    ));
    assert!(keyring.keys().is_empty());
}

#[tokio::test]
async fn subkeys_differ_by_purpose_and_keyring_and_last() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let audit = keyring.subkey(Purpose::AuditLog, 32).unwrap();
    assert!(
        !keyring
            .subkey(Purpose::CompileCache, 32)
            .unwrap()
            .equals(audit.expose())
    );
    drop(keyring);
    assert!(
        opened(&folder)
            .await
            .unwrap()
            .subkey(Purpose::AuditLog, 32)
            .unwrap()
            .equals(audit.expose())
    );
    let (_other_outer, other) = place();
    assert!(
        !created(&other)
            .await
            .subkey(Purpose::AuditLog, 32)
            .unwrap()
            .equals(audit.expose())
    );
    let expected = {
        let root = Secret::take(&mut [7; 32]).unwrap();
        envelope::subkey(&root, Purpose::AuditLog, 8).unwrap()
    };
    // `openssl kdf -keylen 8 -kdfopt digest:SHA256 -kdfopt hexkey:0707… -kdfopt info:claviger/v1/audit-log HKDF`
    assert_eq!(hex::encode(expected.expose()), "b3f8b71dd45ea261");
    assert!(
        opened(&folder)
            .await
            .unwrap()
            .subkey(Purpose::AuditLog, 8161)
            .is_err()
    );
}

#[tokio::test]
async fn the_audit_log_is_recorded_once() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    assert_eq!(keyring.info().vkey, None);
    keyring.set_vkey("one").unwrap();
    keyring.set_vkey("one").unwrap();
    assert!(matches!(
        keyring.set_vkey("two"),
        Err(KeyringError::OtherLog { .. })
    ));
    drop(keyring);
    assert_eq!(opened(&folder).await.unwrap().info().vkey.as_deref(), Some("one"));
}

#[tokio::test]
async fn a_full_disk_leaves_the_keyring_as_it_was() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    add(&keyring, "first").await;
    let before = (keyring.keys(), keyring.info());
    let limit = |pages: i64| {
        let file = keyring.file();
        let sql = format!("PRAGMA max_page_count = {pages}");
        file.store.connection().query_row(&sql, [], |_| Ok(())).unwrap();
    };
    limit(1); // SQLite rounds this up to the present size.
    let mut new = new_key(key_ref("second"), Algorithm::Ed25519).await;
    new.material = Secret::take(&mut vec![1; 60_000]).unwrap();
    let refused = keyring.insert(new, now()).unwrap_err();
    assert!(matches!(refused, KeyringError::Database { .. }), "{refused:?}");
    assert_eq!((keyring.keys(), keyring.info()), before);
    limit(1_000_000);
    add(&keyring, "third").await;
    drop(keyring);
    let names: Vec<_> = opened(&folder)
        .await
        .unwrap()
        .keys()
        .iter()
        .map(|r| r.key.to_string())
        .collect();
    assert_eq!(names, ["first@v1", "third@v1"]);
}

#[tokio::test]
async fn a_keyring_of_another_format_or_another_database_is_named_as_such() {
    for (pragma, expected) in [
        (
            "user_version = 5",
            "the keyring has format 5; expected a keyring of format 4",
        ),
        (
            "user_version = 1",
            "the keyring has format 1; expected a keyring of format 4",
        ),
        (
            "application_id = 7",
            "the file is another program's database; expected a keyring of format 4",
        ),
    ] {
        let (_outer, folder) = place();
        drop(created(&folder).await);
        let database = rusqlite::Connection::open(folder.join(DATABASE)).unwrap();
        database.execute_batch(&format!("PRAGMA {pragma}")).unwrap();
        drop(database);
        assert_eq!(opened(&folder).await.unwrap_err().to_string(), expected);
        assert_eq!(Keyring::peek(&folder).unwrap_err().to_string(), expected);
    }
    let (_outer, folder) = place();
    drop(created(&folder).await);
    std::fs::write(
        folder.join(DATABASE),
        b"not a database, but long enough to be looked at by the library.",
    )
    .unwrap();
    assert!(matches!(opened(&folder).await, Err(KeyringError::Format { .. })));
}
