//! Backups made by one broker and restored by another: what comes over, what cannot, what is refused, and what is on the two logs.

use std::io::Cursor;

use claviger_core::http::InjectionKind;

use super::*;
use crate::audit::Reader as LogReader;
use crate::backup::{Contents, Identity, Recipient};
use crate::keyring::{KeySource, SecretRecord, SecretReplacement};
use crate::local::{RestoreError, Restored, Restoring};

/// A sealer that says what a root of this kind says. What it seals is under its passphrase.
#[derive(Debug)]
pub(super) struct Rooted(RootKind, Arc<PassphraseSealer>);

impl Sealer for Rooted {
    fn assurance(&self) -> Assurance {
        self.0.assurance()
    }
    fn seal<'a>(&'a self, p: &'a str, s: &'a Secret) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        self.1.seal(p, s)
    }
    fn unseal<'a>(&'a self, p: &'a str, s: &'a [u8]) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        self.1.unseal(p, s)
    }
}

pub(super) fn rooted(kind: RootKind, passphrase: &str) -> Arc<dyn Sealer> {
    Arc::new(Rooted(kind, sealer(&format!("of the root {passphrase}"))))
}

/// A keyring on a root of its own.
pub(super) struct Place {
    pub(super) folder: TempDir,
    pub(super) kind: RootKind,
    pub(super) resident: Option<Arc<Slow>>,
    pub(super) broker: Arc<LocalBroker>,
}

impl Place {
    pub(super) async fn new(kind: RootKind, passphrase: &str, resident: Option<Arc<Slow>>) -> Self {
        let folder = TempDir::new().unwrap();
        let root = RootSpec {
            kind,
            settings: format!("the root `{passphrase}`"),
        };
        let options = Self::options(&folder, rooted(kind, passphrase), resident.as_ref());
        let broker = LocalBroker::create(options, root).await.unwrap();
        Self {
            folder,
            kind,
            resident,
            broker,
        }
    }

    pub(super) fn options(
        folder: &TempDir,
        sealer: Arc<dyn Sealer>,
        resident: Option<&Arc<Slow>>,
    ) -> Options {
        let clock = Arc::new(ManualClock::at(START.parse().unwrap()));
        let mut options = Options::new(folder.path().join("keyring"), sealer)
            .durability(Durability::Process)
            .clock(clock as _);
        options.resident = resident.map(|custody| Arc::clone(custody) as _);
        options
    }

    pub(super) async fn reopen(self, passphrase: &str) -> Result<Self, OpenError> {
        let Self {
            folder,
            kind,
            resident,
            broker,
        } = self;
        broker.close().await.unwrap();
        drop(broker);
        let options = Self::options(&folder, rooted(kind, passphrase), resident.as_ref());
        let broker = LocalBroker::open(options).await?;
        Ok(Self {
            folder,
            kind,
            resident,
            broker,
        })
    }

    pub(super) async fn key(&self, key: &str, algorithm: Algorithm, custody: CustodyKind) {
        let creation = KeyCreation {
            name: name(key),
            profile: Profile::Labeled { label: name(key) },
            algorithm,
            custody,
        };
        self.broker.create_key(creation).await.unwrap();
    }

    pub(super) async fn secret(&self, secret: &str, value: &str) {
        let creation = SecretCreation {
            name: name(secret),
            kind: InjectionKind::Bearer,
            origin: name("https://api.test"),
            expires: None,
            rotate_every: Some(std::time::Duration::from_secs(86_400)),
            value: Secret::take(&mut value.as_bytes().to_vec()).unwrap(),
        };
        self.broker.add_secret(creation).await.unwrap();
    }

    pub(super) async fn events(&self) -> Vec<Event> {
        self.broker.checkpoint().await.unwrap();
        let reader = LogReader::open(&self.folder.path().join("keyring").join(AUDIT_FOLDER)).unwrap();
        reader.entries(0).map(|entry| entry.unwrap().1.event).collect()
    }

    pub(super) async fn back_up(&self, recipient: &Recipient) -> Vec<u8> {
        let mut file = Vec::new();
        self.broker
            .back_up(std::slice::from_ref(recipient), "uid 1 (test)", &mut file)
            .await
            .unwrap();
        file
    }

    pub(super) async fn restore(
        &self,
        file: &[u8],
        identities: &[Identity],
        weaken: bool,
    ) -> Result<Restored, RestoreError> {
        let how = Restoring {
            identities,
            of: None,
            weaken,
            by: "uid 1 (test)",
        };
        self.broker.restore(&mut Cursor::new(file), how).await
    }

    /// Has an agent sign with a labeled key, and verifies it.
    pub(super) async fn signs(&self, key: &str) {
        let grants = format!("[grants.x]\nsign = {{ key = \"{key}\" }}\n");
        let admission = self
            .broker
            .admit(&Fixture::manifest(&grants), ComponentDigest::of(CODE))
            .await
            .unwrap();
        let who = self.broker.start(admission.id).unwrap();
        let request = Request::Sign {
            grant: name("x"),
            content: b"content".to_vec(),
        };
        self.broker.perform(who, request).await.unwrap();
        self.broker.end(who, InstanceEnd::Finished);
    }

    pub(super) fn secret_value(&self, secret: &str) -> Vec<u8> {
        let record = self.broker.keyring().secret(&name(secret)).unwrap();
        let value = self.broker.keyring().secret_material(&record.secret).unwrap();
        value.expose().to_vec()
    }
}

pub(super) const VALUE: &str = "ghp_canaryCANARYcanary0007";

/// Sealed, software and resident keys, one of each revoked; secrets, one replaced, one revoked, one destroyed.
pub(super) async fn full(kind: RootKind, passphrase: &str) -> Place {
    let place = Place::new(kind, passphrase, Some(Arc::new(Slow::default()))).await;
    for (key, algorithm, custody) in [
        ("sealed", Algorithm::Ed25519, CustodyKind::TpmSealed),
        ("soft", Algorithm::P256, CustodyKind::Software),
        ("soft-gone", Algorithm::Ed25519, CustodyKind::Software),
        ("resident", Algorithm::P256, CustodyKind::Tpm),
        ("resident-gone", Algorithm::P256, CustodyKind::Tpm),
    ] {
        place.key(key, algorithm, custody).await;
    }
    for gone in ["soft-gone", "resident-gone"] {
        place
            .broker
            .set_key_state(&name(gone), KeyState::Revoked)
            .await
            .unwrap();
    }
    for secret in ["github", "revoked", "destroyed"] {
        place.secret(secret, &format!("{VALUE}-{secret}")).await;
    }
    let replacement = SecretReplacement {
        name: name("github"),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut format!("{VALUE}-second").into_bytes()).unwrap(),
    };
    place.broker.replace_secret(replacement).await.unwrap();
    place
        .broker
        .set_secret_state(&name("revoked"), KeyState::Revoked)
        .await
        .unwrap();
    place.broker.destroy_secret(&name("destroyed")).await.unwrap();
    place
}

pub(super) fn identity() -> (Vec<Identity>, Recipient) {
    let (text, recipient) = Identity::generate().unwrap();
    (Identity::read_all(&text).unwrap(), recipient)
}

#[tokio::test]
async fn a_restored_keyring_has_what_can_be_had_and_names_what_cannot() {
    let old = full(RootKind::Tpm, "old tpm").await;
    let (identities, recipient) = identity();
    let file = old.back_up(&recipient).await;
    let new = Place::new(RootKind::Tpm, "new tpm", Some(Arc::new(Slow::default()))).await;
    let restored = new.restore(&file, &identities, false).await.unwrap();
    let lost: Vec<_> = restored
        .lost
        .iter()
        .map(|record| record.key.to_string())
        .collect();
    assert_eq!(lost, ["resident@v1"]);
    assert_eq!(
        restored.lost[0].public(),
        old.broker.keyring().key(&name("resident")).unwrap().public()
    );
    let (old_keys, new_keys) = (old.broker.keyring().keys(), new.broker.keyring().keys());
    assert_eq!(restored.keys.len(), 4);
    for before in old_keys
        .iter()
        .filter(|record| record.key.name.as_str() != "resident")
    {
        let after = new_keys.iter().find(|record| record.key == before.key).unwrap();
        assert_eq!(
            (
                &after.identity,
                &after.profile,
                after.state,
                after.custody,
                after.created
            ),
            (
                &before.identity,
                &before.profile,
                before.state,
                before.custody,
                before.created
            )
        );
        assert_eq!(
            (after.source, after.assurance),
            (KeySource::Restored, Assurance::Hardware)
        );
    }
    for key in ["sealed", "soft"] {
        new.signs(key).await;
    }
    let states = |place: &Place| -> Vec<(String, KeyState)> {
        let records: Vec<Arc<SecretRecord>> = place.broker.keyring().secrets();
        records
            .iter()
            .map(|record| (record.secret.to_string(), record.state))
            .collect()
    };
    assert_eq!(states(&new), states(&old));
    assert_eq!(new.secret_value("github"), format!("{VALUE}-second").as_bytes());
    // It is sealed by the new TPM, and everything is in order after a restart.
    let new = new.reopen("new tpm").await.unwrap();
    new.signs("sealed").await;
    let blob = new.broker.keyring().material(&new_keys[1].key).unwrap();
    let purpose = crate::custody::purpose_of(&new_keys[1].key, &new_keys[1].identity);
    assert_eq!(new_keys[1].key.name.as_str(), "sealed");
    assert!(
        rooted(RootKind::Tpm, "new tpm")
            .unseal(&purpose, blob.expose())
            .await
            .is_ok()
    );
    assert!(
        rooted(RootKind::Tpm, "old tpm")
            .unseal(&purpose, blob.expose())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_is_over_stays_over_and_takes_no_material_with_it() {
    let old = full(RootKind::Tpm, "old tpm").await;
    let (identities, recipient) = identity();
    let file = old.back_up(&recipient).await;
    let contents = Contents::read(file.as_slice(), &identities).unwrap();
    let there: Vec<_> = contents
        .keys
        .iter()
        .filter(|(_, there)| *there)
        .map(|(record, _)| record.key.to_string())
        .collect();
    assert_eq!(there, ["sealed@v1", "soft@v1"]);
    let there: Vec<_> = contents
        .secrets
        .iter()
        .filter(|(_, there)| *there)
        .map(|(record, _)| record.secret.to_string())
        .collect();
    assert_eq!(there, ["github@v2"]);
    let new = Place::new(RootKind::Tpm, "new tpm", None).await;
    new.restore(&file, &identities, false).await.unwrap();
    for (gone, state) in [
        ("soft-gone", KeyState::Revoked),
        ("resident-gone", KeyState::Revoked),
    ] {
        assert!(new.broker.keyring().key(&name(gone)).is_none());
        let key = KeyRef {
            name: name(gone),
            version: claviger_core::KeyVersion::FIRST,
        };
        assert_eq!(new.broker.keyring().record(&key).unwrap().state, state);
        assert!(
            new.broker
                .set_key_state(&name(gone), KeyState::Active)
                .await
                .is_err(),
            "{gone} does not come back"
        );
    }
    assert!(new.broker.keyring().secret(&name("revoked")).is_none());
    assert!(new.broker.keyring().secret(&name("destroyed")).is_none());
}

#[tokio::test]
async fn restoring_twice_changes_nothing_and_what_happened_since_stays() {
    let old = full(RootKind::Swtpm, "old tpm").await;
    let (identities, recipient) = identity();
    let first = old.back_up(&recipient).await;
    old.key("later", Algorithm::Ed25519, CustodyKind::TpmSealed).await;
    let second = old.back_up(&recipient).await;
    let new = Place::new(RootKind::Swtpm, "new tpm", None).await;
    new.restore(&first, &identities, false).await.unwrap();
    let (generation, events) = (new.broker.keyring().info().generation, new.events().await.len());
    let again = new.restore(&first, &identities, false).await.unwrap();
    assert_eq!((again.keys.len(), again.secrets.len(), again.there), (0, 0, 8));
    assert_eq!(again.lost.len(), 1, "what is lost is said each time");
    assert_eq!(new.broker.keyring().info().generation, generation);
    assert_eq!(
        new.events().await.len(),
        events,
        "nothing was done, so nothing is on the log"
    );

    // A restore that was interrupted is completed, and nothing is revived by it.
    new.broker
        .set_key_state(&name("sealed"), KeyState::Revoked)
        .await
        .unwrap();
    new.broker.destroy_secret(&name("github")).await.unwrap();
    let rest = new.restore(&second, &identities, false).await.unwrap();
    let keys: Vec<_> = rest.keys.iter().map(|record| record.key.to_string()).collect();
    assert_eq!(keys, ["later@v1"]);
    assert!(new.broker.keyring().key(&name("sealed")).is_none());
    assert!(new.broker.keyring().secret(&name("github")).is_none());
    // The lost key was made anew: it is in nobody's way.
    let new = new.reopen("new tpm").await.unwrap();
    new.key("resident", Algorithm::Ed25519, CustodyKind::TpmSealed)
        .await;
    assert_eq!(new.restore(&second, &identities, false).await.unwrap().there, 9);
}

#[tokio::test]
async fn other_credentials_of_the_same_names_are_refused_by_name_and_nothing_is_written() {
    let old = full(RootKind::Swtpm, "old tpm").await;
    let (identities, recipient) = identity();
    let file = old.back_up(&recipient).await;
    for (what, says) in [
        ("sealed", "key `sealed@v1` is another one here"),
        ("secret", "secret `github@v1` is another one here"),
        ("value", "secret `github@v2` is another one here"),
        ("version", "secret `github@v1` cannot come after `github@v2`"),
    ] {
        let new = Place::new(RootKind::Swtpm, "new tpm", None).await;
        match what {
            "sealed" => new.key("sealed", Algorithm::Ed25519, CustodyKind::Software).await,
            "secret" => {
                let creation = SecretCreation {
                    name: name("github"),
                    kind: InjectionKind::Query,
                    origin: name("https://api.test"),
                    expires: None,
                    rotate_every: None,
                    value: Secret::take(&mut VALUE.as_bytes().to_vec()).unwrap(),
                };
                new.broker.add_secret(creation).await.unwrap();
            }
            _ => {
                let mut record = (*old.broker.keyring().secret(&name("github")).unwrap()).clone();
                if what == "value" {
                    let mut first = record.clone();
                    first.secret.version = claviger_core::KeyVersion::FIRST;
                    first.state = KeyState::Retired;
                    new.broker.keyring().restore_secret(first, None).unwrap();
                }
                record.assurance = Assurance::Swtpm;
                let value = Secret::take(&mut b"another-value-of-mine".to_vec()).unwrap();
                new.broker.keyring().restore_secret(record, Some(&value)).unwrap();
            }
        }
        let before = (new.broker.keyring().info().generation, new.events().await.len());
        let refused = new.restore(&file, &identities, true).await.unwrap_err();
        assert!(
            matches!(refused, RestoreError::Conflict(_)),
            "{what}: {refused:?}"
        );
        assert!(refused.to_string().contains(says), "{what}: {refused}");
        assert_eq!(
            (new.broker.keyring().info().generation, new.events().await.len()),
            before
        );
    }
}

#[tokio::test]
async fn nothing_becomes_weaker_without_being_told() {
    let old = full(RootKind::Tpm, "old tpm").await;
    let (identities, recipient) = identity();
    let file = old.back_up(&recipient).await;
    for (kind, custody) in [
        (RootKind::Passphrase, CustodyKind::Software),
        (RootKind::Swtpm, CustodyKind::TpmSealed),
    ] {
        let new = Place::new(kind, "new root", None).await;
        let refused = new.restore(&file, &identities, false).await.unwrap_err();
        let RestoreError::Weaker { to, what } = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!(*to, kind.assurance());
        assert!(
            what.contains(&"key `sealed@v1` was `hardware`".to_owned()),
            "{what:?}"
        );
        assert!(
            what.contains(&"secret `github@v2` was `hardware`".to_owned()),
            "{what:?}"
        );
        assert!(new.broker.keyring().keys().is_empty() && new.broker.keyring().secrets().is_empty());
        new.restore(&file, &identities, true).await.unwrap();
        let record = new.broker.keyring().key(&name("sealed")).unwrap();
        assert_eq!((record.custody, record.assurance), (custody, kind.assurance()));
        new.signs("sealed").await;
        let weakened = new
            .events()
            .await
            .into_iter()
            .any(|event| matches!(event, Event::RestoreRequested { weaken: true, .. }));
        assert!(weakened, "it is on the log");
    }
    // The control: what is not harder needs no word.
    let soft = Place::new(RootKind::Passphrase, "soft", None).await;
    soft.key("soft", Algorithm::Ed25519, CustodyKind::Software).await;
    let file = soft.back_up(&recipient).await;
    let new = Place::new(RootKind::Passphrase, "new root", None).await;
    new.restore(&file, &identities, false).await.unwrap();
}
