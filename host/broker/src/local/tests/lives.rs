//! What a use under way gets when its key changes, and every command of a life as the socket carries it.

use std::time::Duration;

use claviger_core::KeyVersion;

use super::super::Rotation;
use super::*;
use crate::keyring::{LifeEvent, Start};

/// A custody whose signatures wait at a gate.
#[derive(Debug, Default)]
struct Gated {
    arrived: Arc<Notify>,
    gate: Arc<Notify>,
}

#[derive(Debug)]
struct GatedKey(Arc<Notify>, Arc<Notify>);

impl Custody for Gated {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Tpm
    }
    fn algorithms(&self) -> &[Algorithm] {
        &[Algorithm::P256]
    }
    fn generate<'a>(&'a self, _: &'a KeyRef, _: Algorithm) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        let secret = p256::SecretKey::random(&mut rand_core::OsRng);
        let public = PublicKey::p256(&secret.public_key().to_sec1_bytes()).unwrap();
        let material = Secret::take(&mut [1]).unwrap();
        Box::pin(std::future::ready(Ok(Generated { public, material })))
    }
    fn open<'a>(
        &'a self,
        _: &'a KeyRef,
        _: &'a PublicKey,
        _: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        let key: Arc<dyn SigningKey> = Arc::new(GatedKey(Arc::clone(&self.arrived), Arc::clone(&self.gate)));
        Box::pin(std::future::ready(Ok(key)))
    }
}

impl SigningKey for GatedKey {
    fn sign<'a>(&'a self, _: &'a Permit, _: &'a Framed) -> BoxFuture<'a, Result<Signature, CustodyError>> {
        Box::pin(async {
            self.0.notify_one();
            self.1.notified().await;
            Ok(Signature::new(Algorithm::P256, [1; 64]))
        })
    }
}

/// What happens to a key while it signs, and whether the signature is released.
#[tokio::test]
async fn a_use_under_way_is_released_after_a_rotation_and_after_nothing_that_stops_the_key() {
    #[derive(Debug, Clone, Copy)]
    enum Meanwhile {
        Nothing,
        Rotated,
        RotatedWithoutOverlap,
        Disabled,
        Revoked,
        Deleted,
        Compromised,
        RotatedThenRevoked,
    }
    use Meanwhile::*;
    for (meanwhile, released) in [
        (Nothing, true),
        (Rotated, true),
        (RotatedWithoutOverlap, true),
        (Disabled, false),
        (Revoked, false),
        (Deleted, false),
        (Compromised, false),
        (RotatedThenRevoked, false),
    ] {
        let folder = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::at(START.parse().unwrap()));
        let gated = Arc::new(Gated::default());
        let root = RootSpec {
            kind: RootKind::Passphrase,
            settings: String::new(),
        };
        let options = options(&folder, &clock, None, None).resident(Arc::clone(&gated) as _);
        let broker = LocalBroker::create(options, root).await.unwrap();
        let key: KeyName = name("gated");
        let creation = KeyCreation {
            name: key.clone(),
            profile: Profile::Labeled { label: name("gated") },
            algorithm: Algorithm::P256,
            custody: CustodyKind::Tpm,
        };
        broker.create_key(creation).await.unwrap();
        let manifest = Fixture::manifest("[grants.g]\nsign = { key = \"gated\" }\n");
        let admission = broker.admit(&manifest, ComponentDigest::of(CODE)).await.unwrap();
        let who = broker.start(admission.id).unwrap();
        let first = KeyRef {
            name: key.clone(),
            version: KeyVersion(1),
        };
        let request = Request::Sign {
            grant: name("g"),
            content: b"content".to_vec(),
        };
        let act = async {
            gated.arrived.notified().await;
            match meanwhile {
                Nothing => {}
                Rotated => drop(broker.rotate_key(&key, Rotation::default()).await.unwrap()),
                RotatedWithoutOverlap | RotatedThenRevoked => {
                    let rotation = Rotation {
                        overlap: Some(Duration::ZERO),
                        ..Rotation::default()
                    };
                    broker.rotate_key(&key, rotation).await.unwrap();
                    if matches!(meanwhile, RotatedThenRevoked) {
                        broker.step_key(&first, &LifeEvent::Revoke(None)).await.unwrap();
                    }
                }
                Disabled => drop(broker.step_key(&first, &LifeEvent::Disable(None)).await.unwrap()),
                Revoked => drop(broker.step_key(&first, &LifeEvent::Revoke(None)).await.unwrap()),
                Deleted => drop(broker.delete_key(&key, Duration::ZERO).await.unwrap()),
                Compromised => drop(broker.compromise_key(&key, None, None).await.unwrap()),
            }
            gated.gate.notify_one();
        };
        let (said, ()) = tokio::join!(broker.perform(who, request), act);
        match said {
            Ok(Outcome::Signed { .. }) => assert!(released, "{meanwhile:?}"),
            Err(refusal) => assert_eq!((refusal, released), (Refusal::Revoked, false), "{meanwhile:?}"),
            Ok(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn every_command_of_a_life_survives_the_socket_and_does_what_its_function_does() {
    use crate::operator::{Act, Command, End, LifeCommand, Reply};
    let fixture = Fixture::new().await;
    let key: KeyName = name("notes");
    let rotate = |of: Option<KeyVersion>, start| LifeCommand::RotateKey {
        name: key.clone(),
        of,
        overlap: Some(Duration::from_secs(60)),
        start,
    };
    let act = |version: u32, act| LifeCommand::ActKey {
        name: key.clone(),
        version: Some(KeyVersion(version)),
        act,
    };
    let end = |end| LifeCommand::EndKey {
        name: key.clone(),
        end,
    };
    let reason = Some("a reason\u{7}".to_owned());
    let window = Duration::ZERO;
    for (command, expected) in [
        (
            rotate(Some(KeyVersion(1)), Start::AtOnce),
            "v1 retiring v2 active",
        ),
        (
            rotate(Some(KeyVersion(1)), Start::AtOnce),
            "v1 retiring v2 active",
        ),
        (rotate(None, Start::Staged), "v1 retiring v2 active v3 pending"),
        (
            LifeCommand::CancelKey { name: key.clone() },
            "v1 retiring v2 active v3 destroyed",
        ),
        (
            rotate(None, Start::Staged),
            "v1 retiring v2 active v3 destroyed v4 pending",
        ),
        (
            LifeCommand::PromoteKey { name: key.clone() },
            "v1 retiring v2 retiring v3 destroyed v4 active",
        ),
        (
            act(
                1,
                Act::Revoke {
                    reason: reason.clone(),
                },
            ),
            "v1 revoked v2 retiring v3 destroyed v4 active",
        ),
        (
            act(
                2,
                Act::Disable {
                    reason: reason.clone(),
                },
            ),
            "v1 revoked v2 disabled v3 destroyed v4 active",
        ),
        (
            act(2, Act::Enable),
            "v1 revoked v2 retiring v3 destroyed v4 active",
        ),
        (
            LifeCommand::CompromiseKey {
                name: key.clone(),
                version: None,
                reason: reason.clone(),
            },
            "v1 revoked v2 revoked v3 destroyed v4 revoked v5 active",
        ),
        (
            LifeCommand::PlanKey {
                name: key.clone(),
                every: Some(Duration::from_secs(1)),
                uses: None,
                overlap: window,
                lock: None,
            },
            "v1 revoked v2 revoked v3 destroyed v4 revoked v5 active",
        ),
        (
            end(End::Delete { window }),
            "v1 deleted v2 deleted v3 destroyed v4 deleted v5 deleted",
        ),
        (
            end(End::Restore),
            "v1 revoked v2 revoked v3 destroyed v4 revoked v5 active",
        ),
        (
            end(End::Delete { window }),
            "v1 deleted v2 deleted v3 destroyed v4 deleted v5 deleted",
        ),
        (
            end(End::Purge),
            "v1 destroyed v2 destroyed v3 destroyed v4 destroyed v5 destroyed",
        ),
    ] {
        let json = serde_json::to_string(&Command::Life(command)).unwrap();
        let command: Command = serde_json::from_str(&json).unwrap();
        let reply = fixture.broker.command(command, None).await.unwrap();
        assert!(
            matches!(reply, Reply::Keys(ref keys) if !keys.is_empty()),
            "{json}: {reply:?}"
        );
        let states: Vec<_> = fixture
            .broker
            .keyring()
            .versions(&key)
            .iter()
            .map(|record| format!("{} {}", record.key.version, record.standing()))
            .collect();
        assert_eq!(states.join(" "), expected, "{json}");
    }
    // The reason was escaped on its way in.
    let entries = fixture.events().await;
    let reasons = entries.iter().filter_map(|event| match event {
        Event::KeyStateChanged { reason, .. } => reason.clone(),
        _ => None,
    });
    assert!(reasons.clone().count() > 3 && reasons.clone().all(|reason| reason == "a reason\\u{7}"));
    let due = fixture
        .broker
        .command(Command::Life(LifeCommand::RotateDue), None)
        .await;
    assert_eq!(
        due.unwrap(),
        Reply::Rotated {
            keys: Vec::new(),
            secrets: Vec::new(),
        },
        "what is gone is not due"
    );
}
