//! What somebody else may have is refused from the moment that its compromise is commanded: before the new version is made, if making it
//! fails, and if the host dies meanwhile. And the same command again finishes what was begun.

use std::sync::atomic::AtomicUsize;

use claviger_core::custody::Custody;
use claviger_core::{KeyVersion, SecretName};
use tokio::sync::Semaphore;

use super::web::{GRANT as GRANT_OF_GITHUB, Scene as WebScene, Script, refused};
use super::*;
use crate::keyring::{LifeEvent, SecretReplacement, Start};
use crate::local::Rotation;

const GRANT: &str = "[grants.g]\nsign = { key = \"k\" }\n";

/// What making a key does.
const AT_ONCE: usize = 0;
const WAITS: usize = 1;
const FAILS: usize = 2;

/// A custody whose making of keys waits at a gate or fails.
#[derive(Debug)]
struct SlowMaker {
    making: AtomicUsize,
    arrived: Semaphore,
    gate: Semaphore,
    made: AtomicUsize,
}

impl SlowMaker {
    fn making(&self, how: usize) {
        self.making.store(how, Ordering::Relaxed);
    }

    /// One more is being made.
    async fn arrived(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }
}

#[derive(Debug)]
struct Maker(Arc<SlowMaker>);

#[derive(Debug)]
struct Signs;

impl Custody for Maker {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Tpm
    }
    fn algorithms(&self) -> &[Algorithm] {
        &[Algorithm::P256]
    }
    fn generate<'a>(&'a self, _: &'a KeyRef, _: Algorithm) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        Box::pin(async {
            match self.0.making.load(Ordering::Relaxed) {
                FAILS => return Err(CustodyError::Unavailable("the device is away".to_owned())),
                WAITS => {
                    self.0.arrived.add_permits(1);
                    self.0.gate.acquire().await.unwrap().forget();
                }
                _ => {}
            }
            self.0.made.fetch_add(1, Ordering::Relaxed);
            let secret = p256::SecretKey::random(&mut rand_core::OsRng);
            let public = PublicKey::p256(&secret.public_key().to_sec1_bytes()).unwrap();
            let material = Secret::take(&mut [1]).unwrap();
            Ok(Generated { public, material })
        })
    }
    fn open<'a>(
        &'a self,
        _: &'a KeyRef,
        _: &'a PublicKey,
        _: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        let key: Arc<dyn SigningKey> = Arc::new(Signs);
        Box::pin(std::future::ready(Ok(key)))
    }
}

impl SigningKey for Signs {
    fn sign<'a>(&'a self, _: &'a Permit, _: &'a Framed) -> BoxFuture<'a, Result<Signature, CustodyError>> {
        Box::pin(std::future::ready(Ok(Signature::new(Algorithm::P256, [1; 64]))))
    }
}

struct Scene {
    folder: TempDir,
    clock: Arc<ManualClock>,
    maker: Arc<SlowMaker>,
    broker: Arc<LocalBroker>,
}

impl Scene {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::at(START.parse().unwrap()));
        let maker = Arc::new(SlowMaker {
            making: AtomicUsize::new(AT_ONCE),
            arrived: Semaphore::new(0),
            gate: Semaphore::new(0),
            made: AtomicUsize::new(0),
        });
        let root = RootSpec {
            kind: RootKind::Passphrase,
            settings: String::new(),
        };
        let options = options(&folder, &clock, None, None).resident(Arc::new(Maker(Arc::clone(&maker))));
        let broker = LocalBroker::create(options, root).await.unwrap();
        let creation = KeyCreation {
            name: name("k"),
            profile: Profile::Labeled { label: name("k") },
            algorithm: Algorithm::P256,
            custody: CustodyKind::Tpm,
        };
        broker.create_key(creation).await.unwrap();
        Self {
            folder,
            clock,
            maker,
            broker,
        }
    }

    async fn reopen(self) -> Self {
        self.broker.close().await.unwrap();
        let Self {
            folder,
            clock,
            maker,
            broker,
        } = self;
        drop(broker);
        let options = options(&folder, &clock, None, None).resident(Arc::new(Maker(Arc::clone(&maker))));
        let broker = LocalBroker::open(options).await.unwrap();
        Self {
            folder,
            clock,
            maker,
            broker,
        }
    }

    async fn start(&self) -> InstanceId {
        let manifest = Fixture::manifest(GRANT);
        let admission = self
            .broker
            .admit(&manifest, ComponentDigest::of(CODE))
            .await
            .unwrap();
        self.broker.start(admission.id).unwrap()
    }

    async fn sign(&self, who: InstanceId) -> Result<(), Refusal> {
        let request = Request::Sign {
            grant: name("g"),
            content: b"content".to_vec(),
        };
        self.broker.perform(who, request).await.map(drop)
    }

    /// The state of each version, in a line.
    fn states(&self) -> String {
        let versions = self.broker.keyring().versions(&name("k"));
        let each = versions.iter().map(|record| {
            let lacks = if record.lacks_successor() { "!" } else { "" };
            format!("{} {}{lacks}", record.key.version, record.standing())
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

fn at(version: u32) -> KeyRef {
    KeyRef {
        name: name("k"),
        version: KeyVersion(version),
    }
}

#[tokio::test]
async fn a_compromised_key_is_refused_while_the_new_one_is_being_made() {
    let scene = Scene::new().await;
    let who = scene.start().await;
    scene
        .sign(who)
        .await
        .expect("the control: before the command it signs");
    scene.maker.making(WAITS);
    let meanwhile = async {
        scene.maker.arrived().await;
        assert_eq!(scene.states(), "v1 revoked!");
        assert_eq!(scene.sign(who).await, Err(Refusal::Revoked));
        // On the log, too, before anything is made.
        assert_eq!(scene.broker.snapshot().key_standing(&at(1)), Some("revoked"));
        let reader = Reader::open(&scene.folder.path().join("keyring").join(AUDIT_FOLDER)).unwrap();
        let revoked = |event: &Event| matches!(event, Event::KeyStateChanged { key, state, .. } if *key == at(1) && state == "revoked");
        assert!(reader.entries(0).any(|entry| revoked(&entry.unwrap().1.event)));
        scene.maker.gate.add_permits(1);
    };
    let key = name("k");
    let (done, ()) = tokio::join!(scene.broker.compromise_key(&key, None, None), meanwhile);
    assert_eq!(done.unwrap().replaced_by.unwrap().key, at(2));
    assert_eq!(scene.states(), "v1 revoked, v2 active");
    scene.sign(who).await.unwrap();
}

#[tokio::test]
async fn what_was_revoked_stays_so_if_the_new_one_cannot_be_made_and_the_same_again_finishes() {
    for version in [None, Some(KeyVersion(1))] {
        let scene = Scene::new().await;
        let key = name("k");
        scene.maker.making(FAILS);
        for _ in 0..2 {
            let failed = scene
                .broker
                .compromise_key(&key, version, None)
                .await
                .unwrap_err();
            assert!(
                failed
                    .to_string()
                    .contains("`claviger key compromise k@v1` tries again"),
                "{failed}"
            );
            assert_eq!(scene.states(), "v1 revoked!");
        }
        // Also after a restart, and by another form of the command.
        let scene = scene.reopen().await;
        let manifest = Fixture::manifest(GRANT);
        let refused = scene.broker.admit(&manifest, ComponentDigest::of(CODE)).await;
        assert!(refused.is_err(), "nothing is in use");
        scene.maker.making(AT_ONCE);
        let done = scene
            .broker
            .compromise_key(&key, Some(KeyVersion(1)), None)
            .await
            .unwrap();
        assert_eq!(done.replaced_by.unwrap().key, at(2));
        assert_eq!(done.revoked.len(), 1);
        let again = scene
            .broker
            .compromise_key(&key, Some(KeyVersion(1)), None)
            .await
            .unwrap();
        assert!(again.replaced_by.is_none() && again.revoked.len() == 1);
        assert_eq!(scene.states(), "v1 revoked, v2 active");
    }
}

#[tokio::test]
async fn whoever_gives_up_while_it_is_made_leaves_it_revoked() {
    let scene = Scene::new().await;
    let key = name("k");
    scene.maker.making(WAITS);
    tokio::select! {
        biased;
        result = scene.broker.compromise_key(&key, None, None) => panic!("{result:?}"),
        () = scene.maker.arrived() => {}
    }
    let scene = scene.reopen().await;
    assert_eq!(scene.states(), "v1 revoked!");
    scene.maker.making(AT_ONCE);
    scene.broker.compromise_key(&key, None, None).await.unwrap();
    assert_eq!(scene.states(), "v1 revoked, v2 active");
}

#[tokio::test]
async fn two_who_ask_at_once_get_one_new_version() {
    let scene = Scene::new().await;
    let key = name("k");
    scene.maker.making(WAITS);
    let both = async {
        scene.maker.arrived().await;
        scene.maker.arrived().await;
        scene.maker.gate.add_permits(2);
    };
    let (one, two, ()) = tokio::join!(
        scene.broker.compromise_key(&key, None, None),
        scene.broker.compromise_key(&key, None, None),
        both
    );
    let new = [one, two].map(|done| done.unwrap().replaced_by.unwrap().key.clone());
    assert_eq!(new, [at(2), at(2)]);
    assert_eq!(scene.states(), "v1 revoked, v2 active");
    assert_eq!(
        scene.maker.made.load(Ordering::Relaxed),
        3,
        "the control: both made one"
    );
}

/// What an operator does while the new version is made, and what is there afterwards.
#[tokio::test]
async fn a_key_that_was_meant_to_be_out_of_use_is_not_put_back_into_it() {
    let key: KeyName = name("k");
    // Before: what is not in use has no successor.
    for event in [LifeEvent::Disable(None), LifeEvent::Revoke(None)] {
        let scene = Scene::new().await;
        scene.broker.step_key(&at(1), &event).await.unwrap();
        let done = scene.broker.compromise_key(&key, None, None).await.unwrap();
        assert!(done.replaced_by.is_none());
        assert_eq!(scene.states(), "v1 revoked", "{event:?}");
    }
    // Meanwhile: an operator revokes it for good, or deletes it.
    for delete in [false, true] {
        let scene = Scene::new().await;
        scene.maker.making(WAITS);
        let meanwhile = async {
            scene.maker.arrived().await;
            if delete {
                scene
                    .broker
                    .delete_key(&key, std::time::Duration::ZERO)
                    .await
                    .unwrap();
            } else {
                scene
                    .broker
                    .step_key(&at(1), &LifeEvent::Revoke(None))
                    .await
                    .unwrap();
            }
            scene.maker.gate.add_permits(1);
        };
        let (done, ()) = tokio::join!(scene.broker.compromise_key(&key, None, None), meanwhile);
        assert!(matches!(done, Err(NewKeyError::NotReplaced { .. })), "{done:?}");
        let expected = if delete { "v1 deleted" } else { "v1 revoked" };
        assert_eq!(scene.states(), expected);
    }
    // The control: an operator who says so gets the next version, and a promotion takes the place, too.
    let scene = Scene::new().await;
    scene.maker.making(FAILS);
    scene.broker.compromise_key(&key, None, None).await.unwrap_err();
    scene.maker.making(AT_ONCE);
    let staged = Rotation {
        start: Start::Staged,
        ..Rotation::default()
    };
    scene.broker.rotate_key(&key, staged).await.unwrap();
    assert_eq!(scene.states(), "v1 revoked!, v2 pending");
    scene.broker.promote_key(&key).await.unwrap();
    assert_eq!(scene.states(), "v1 revoked, v2 active");
}

#[tokio::test]
async fn a_version_that_waits_was_made_in_the_same_hands() {
    let scene = Scene::new().await;
    let key = name("k");
    let staged = || Rotation {
        start: Start::Staged,
        ..Rotation::default()
    };
    scene.broker.rotate_key(&key, staged()).await.unwrap();
    scene
        .broker
        .compromise_key(&key, Some(KeyVersion(1)), None)
        .await
        .unwrap();
    assert_eq!(scene.states(), "v1 revoked, v2 destroyed, v3 active");
    // The one that waits alone: what is in use stays so.
    scene.broker.rotate_key(&key, staged()).await.unwrap();
    let done = scene
        .broker
        .compromise_key(&key, Some(KeyVersion(4)), None)
        .await
        .unwrap();
    assert!(done.replaced_by.is_none() && done.revoked.is_empty());
    assert_eq!(
        scene.states(),
        "v1 revoked, v2 destroyed, v3 active, v4 destroyed"
    );
}

#[tokio::test]
async fn a_compromised_secret_is_cut_off_refused_and_replaced_by_what_is_given_next() {
    let scene = WebScene::new().await;
    let broker = scene.broker();
    let github: SecretName = name("github");
    let who = scene.fixture.start(GRANT_OF_GITHUB).await;
    assert_eq!(
        scene.get(who).await.unwrap(),
        "ok",
        "the control: before the command it is sent"
    );
    scene.web.entered.notified().await;
    let value = |text: &str| SecretReplacement {
        name: name("github"),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut text.as_bytes().to_vec()).unwrap(),
    };
    broker
        .replace_secret(value("canary-of-the-second"))
        .await
        .unwrap();
    broker.stage_secret(value("canary-of-the-third")).await.unwrap();
    let states = || {
        let versions = broker.keyring().secret_versions(&github);
        let each = versions.iter().map(|record| {
            let lacks = if record.lacks_successor() { "!" } else { "" };
            format!("{} {}{lacks}", record.secret.version, record.standing())
        });
        each.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(states(), "v1 retired, v2 active, v3 pending");
    scene.web.will(Script::Hangs);
    let compromise = async {
        scene.web.entered.notified().await;
        broker.compromise_secret(&github, None, None).await.unwrap()
    };
    let (cut, revoked) = tokio::join!(scene.get(who), compromise);
    assert_eq!(refused(&cut.unwrap_err()), Refusal::Revoked);
    assert_eq!(revoked.len(), 2);
    for _ in 0..2 {
        // What waits still waits: only an operator knows whether it is good.
        assert_eq!(states(), "v1 revoked, v2 revoked!, v3 pending");
        assert_eq!(refused(&scene.get(who).await.unwrap_err()), Refusal::Revoked);
        broker.compromise_secret(&github, None, None).await.unwrap();
    }
    broker
        .replace_secret(value("canary-of-the-fourth"))
        .await
        .unwrap();
    assert_eq!(states(), "v1 revoked, v2 revoked, v3 pending, v4 active");
    assert_eq!(scene.get(who).await.unwrap(), "ok");
    assert_eq!(
        scene.web.seen().last().unwrap().slots[0].1,
        "Bearer canary-of-the-fourth"
    );
    // Named, what waits is destroyed, and a version that is not there is no success.
    let waiting = Some(KeyVersion(3));
    assert!(
        broker
            .compromise_secret(&github, waiting, None)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(states(), "v1 revoked, v2 revoked, v3 destroyed, v4 active");
    let absent = broker.compromise_secret(&github, Some(KeyVersion(9)), None).await;
    assert!(absent.unwrap_err().to_string().contains("github@v9"));
    // A promotion takes the place of what was compromised, too.
    broker.stage_secret(value("canary-of-the-fifth")).await.unwrap();
    broker
        .compromise_secret(&github, Some(KeyVersion(4)), None)
        .await
        .unwrap();
    broker.promote_secret(&github).await.unwrap();
    assert_eq!(
        states(),
        "v1 revoked, v2 revoked, v3 destroyed, v4 revoked, v5 active"
    );
    scene.log_is_clean().await;
}

#[tokio::test]
async fn an_operators_command_does_the_same_through_the_socket() {
    use crate::operator::{Command, LifeCommand, Reply};
    let scene = WebScene::new().await;
    let command = Command::Life(LifeCommand::CompromiseSecret {
        name: name("github"),
        version: None,
        reason: Some("a ticket\u{7}".to_owned()),
    });
    let json = serde_json::to_string(&command).unwrap();
    let command: Command = serde_json::from_str(&json).unwrap();
    for _ in 0..2 {
        let reply = scene.broker().command(command.clone(), None).await.unwrap();
        assert!(
            matches!(&reply, Reply::Secrets(revoked) if revoked.len() == 1),
            "{reply:?}"
        );
    }
    let events = scene.fixture.events().await;
    let reasons: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::SecretStateChanged { state, reason, .. } if state == "revoked" => reason.clone(),
            _ => None,
        })
        .collect();
    assert_eq!(reasons, ["a ticket\\u{7}"], "once, and escaped");
}

#[tokio::test]
async fn what_an_operator_stops_while_its_successor_is_made_stays_stopped() {
    for (event, start) in [
        (LifeEvent::Revoke(None), Start::AtOnce),
        (LifeEvent::Revoke(None), Start::Staged),
        (LifeEvent::Disable(None), Start::AtOnce),
    ] {
        let scene = Scene::new().await;
        scene.maker.making(WAITS);
        let key = scene.broker.keyring().key(&name("k")).unwrap().key.clone();
        let rotation = Rotation {
            start,
            ..Rotation::default()
        };
        let k = name("k");
        let (rotated, ()) = tokio::join!(scene.broker.rotate_key(&k, rotation.clone()), async {
            scene.maker.arrived().await;
            scene.broker.step_key(&key, &event).await.unwrap();
            scene.maker.gate.add_permits(1);
        });
        assert!(
            rotated.unwrap_err().to_string().contains("changed meanwhile")
                || event == LifeEvent::Disable(None)
        );
        assert!(scene.broker.keyring().key(&k).is_none(), "{event:?}");
        assert!(scene.broker.keyring().pending(&k).is_none(), "{event:?}");
    }
    // The control: left alone, the new one is used.
    let scene = Scene::new().await;
    let rotated = scene.broker.rotate_key(&name("k"), Rotation::default()).await;
    assert_eq!(rotated.unwrap().key.version, KeyVersion(2));
}
