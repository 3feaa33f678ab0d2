//! An agent suspended as a whole, and all use of credentials stopped: at the next call, for what is under way, after a restart; and what
//! goes on again when it is lifted.

use claviger_core::audit::SecretRef;
use claviger_core::http::InjectionKind;
use tokio::sync::mpsc;

use super::tokens::{client_credentials, gives, one, refreshing, scene};
use super::web::{Given, Scene, creation, refused};
use super::*;
use crate::local::CertificateRequestError;

const NOTES: &str = "[grants.notes]\nsign = { key = \"notes\" }\n";

fn both() -> String {
    format!("{RELEASE}{NOTES}")
}

/// The details of every refusal on the log.
async fn details(fixture: &Fixture) -> Vec<String> {
    let events = fixture.events().await;
    events
        .into_iter()
        .filter_map(|event| match event {
            Event::Denied { rule, detail, .. } => {
                assert_eq!(rule, Rule::Suspension);
                Some(detail)
            }
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_suspended_agent_uses_nothing_that_it_has_or_gets() {
    let fixture = Fixture::new().await;
    let who = fixture.start(&both()).await;
    fixture.sign(who, "release", b"x").await.unwrap();
    let bot: AgentName = name("bot");
    fixture.broker.suspend(&bot, &name("notes")).await.unwrap();
    fixture.broker.suspend_agent(&bot).await.unwrap();
    for grant in ["release", "notes"] {
        assert_eq!(fixture.sign(who, grant, b"x").await, Err(Refusal::Suspended));
    }
    // Under another manifest, in another instance, and after a restart, too.
    let later = fixture
        .start(&both().replace("grants.release", "grants.another"))
        .await;
    assert_eq!(
        fixture.sign(later, "another", b"x").await,
        Err(Refusal::Suspended)
    );
    let fixture = fixture.reopen().await;
    let who = fixture.start(&both()).await;
    assert_eq!(fixture.sign(who, "release", b"x").await, Err(Refusal::Suspended));
    let told = details(&fixture).await;
    assert!(
        told.iter().all(|detail| detail.contains("claviger agent resume")),
        "{told:?}"
    );
    // What it may do it is told itself.
    let listed = fixture.broker.perform(who, Request::ListGrants).await.unwrap();
    let Outcome::Grants { grants } = listed else {
        panic!("{listed:?}");
    };
    assert!(
        grants
            .iter()
            .all(|grant| grant.refused == Some(Refusal::Suspended))
    );
    // The control: resumed, it signs, but under the grant that was suspended by itself.
    fixture.broker.resume_agent(&bot).await.unwrap();
    fixture.sign(who, "release", b"x").await.unwrap();
    assert_eq!(fixture.sign(who, "notes", b"x").await, Err(Refusal::Suspended));
    let fixture = fixture.reopen().await;
    let who = fixture.start(&both()).await;
    fixture.sign(who, "release", b"x").await.unwrap();
}

#[tokio::test]
async fn another_agent_is_not_suspended_with_it() {
    let fixture = Fixture::new().await;
    let who = fixture.start(RELEASE).await;
    fixture.broker.suspend_agent(&name("bot-2")).await.unwrap();
    fixture.sign(who, "release", b"x").await.unwrap();
    let ledger = fixture.broker.snapshot();
    assert_eq!(
        ledger.suspended_agents().collect::<Vec<_>>(),
        [&name::<AgentName>("bot-2")]
    );
}

#[tokio::test]
async fn in_panic_no_credential_is_used_by_any_way_and_a_restart_keeps_it() {
    let scene = scene().await;
    let fixture = &scene.fixture;
    fixture
        .broker
        .create_key(KeyCreation {
            name: name("mtls"),
            profile: Profile::Mtls {},
            algorithm: Algorithm::P256,
            custody: CustodyKind::Software,
        })
        .await
        .unwrap();
    let grants = format!("{}{}", client_credentials(), both());
    let who = fixture.start(&grants).await;
    scene.web.will_give(gives("canary-token", 3600, None));
    // The control: each way works.
    one(&scene, who).await.unwrap();
    fixture.sign(who, "release", b"x").await.unwrap();
    let certificate = async || fixture.broker.certificate_request(&name("mtls"), "CN=bot").await;
    certificate().await.unwrap();
    let (seen, asked) = (scene.web.seen().len(), scene.web.asked().len());

    fixture.broker.panic().await.unwrap();
    assert!(fixture.broker.in_panic());
    for grant in ["release", "notes"] {
        assert_eq!(fixture.sign(who, grant, b"x").await, Err(Refusal::Suspended));
    }
    assert_eq!(refused(&one(&scene, who).await.unwrap_err()), Refusal::Suspended);
    assert!(matches!(
        certificate().await.unwrap_err(),
        CertificateRequestError::Stopped
    ));
    assert_eq!(
        (scene.web.seen().len(), scene.web.asked().len()),
        (seen, asked),
        "nothing left the host"
    );
    // Nothing is open, and nothing can be opened.
    assert!(fixture.broker.open_keys.is_empty() && fixture.broker.open_secrets.is_empty());
    let record = fixture.broker.keyring().key(&name("release")).unwrap();
    assert!(fixture.broker.open_key(&record).await.is_err());
    let client = SecretRef {
        name: name("client"),
        version: claviger_core::KeyVersion::FIRST,
    };
    assert_eq!(
        fixture.broker.open_secret(&client).err().unwrap().rule,
        Rule::Suspension
    );
    assert!(fixture.broker.open_keys.is_empty() && fixture.broker.open_secrets.is_empty());

    let Scene { fixture, web } = scene;
    let fixture = fixture.reopen().await;
    let who = fixture.start(&grants).await;
    assert!(fixture.broker.in_panic());
    assert_eq!(fixture.sign(who, "release", b"x").await, Err(Refusal::Suspended));
    // Lifted, everything goes on; the token is asked for anew.
    fixture.broker.lift_panic().await.unwrap();
    fixture.sign(who, "release", b"x").await.unwrap();
    let scene = Scene { fixture, web };
    scene.web.will_give(gives("canary-token-2", 3600, None));
    one(&scene, who).await.unwrap();
    let fixture = scene.fixture.reopen().await;
    assert!(!fixture.broker.in_panic());
}

#[tokio::test]
async fn lifting_revives_nothing_that_was_stopped_by_itself() {
    let fixture = Fixture::new().await;
    let who = fixture.start(&both()).await;
    fixture
        .broker
        .set_key_state(&name("release"), KeyState::Revoked)
        .await
        .unwrap();
    fixture
        .broker
        .suspend(&name("bot"), &name("notes"))
        .await
        .unwrap();
    fixture.broker.panic().await.unwrap();
    fixture.broker.lift_panic().await.unwrap();
    assert_eq!(fixture.sign(who, "release", b"x").await, Err(Refusal::Revoked));
    assert_eq!(fixture.sign(who, "notes", b"x").await, Err(Refusal::Suspended));
}

/// What stops a signature that a device is making.
#[derive(Debug, Clone, Copy)]
enum Stopping {
    Suspend,
    SuspendAgent,
    Panic,
    Revoke,
    Nothing,
}

#[tokio::test]
async fn a_signature_that_a_device_was_making_is_not_released() {
    use Stopping::{Nothing, Panic, Revoke, Suspend, SuspendAgent};
    for stopping in [Suspend, SuspendAgent, Panic, Revoke, Nothing] {
        let (device, mut entered, go_on) = Device::made();
        let folder = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::at(START.parse().unwrap()));
        let root = RootSpec {
            kind: RootKind::Passphrase,
            settings: String::new(),
        };
        let options = options(&folder, &clock, None, None).resident(device);
        let broker = LocalBroker::create(options, root).await.unwrap();
        broker
            .create_key(KeyCreation {
                name: name("slow"),
                profile: Profile::Labeled { label: name("slow") },
                algorithm: Algorithm::P256,
                custody: CustodyKind::Tpm,
            })
            .await
            .unwrap();
        let fixture = Fixture {
            folder,
            clock,
            resident: None,
            egress: None,
            broker,
        };
        let who = fixture.start("[grants.slow]\nsign = { key = \"slow\" }\n").await;
        let (signed, ()) = tokio::join!(fixture.sign(who, "slow", b"x"), async {
            entered.recv().await.unwrap();
            let (broker, bot) = (&fixture.broker, name("bot"));
            match stopping {
                Suspend => broker.suspend(&bot, &name("slow")).await.unwrap(),
                SuspendAgent => broker.suspend_agent(&bot).await.unwrap(),
                Panic => broker.panic().await.unwrap(),
                Revoke => drop(
                    broker
                        .set_key_state(&name("slow"), KeyState::Revoked)
                        .await
                        .unwrap(),
                ),
                Nothing => {}
            }
            go_on.send(()).unwrap();
        });
        let (expected, settled) = match stopping {
            Suspend | SuspendAgent | Panic => (Err(Refusal::Suspended), Settlement::Failed),
            Revoke => (Err(Refusal::Revoked), Settlement::Failed),
            Nothing => (Ok(()), Settlement::Released),
        };
        assert_eq!(signed.map(drop), expected, "{stopping:?}");
        assert_eq!(fixture.settlements().await, [settled], "{stopping:?}");
    }
}

/// What stops an agent that signs and sends all the time.
#[derive(Debug, Clone, Copy)]
enum Taking {
    Key,
    Secret,
    Grants,
    Agent,
    Everything,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_release_stands_on_the_log_after_what_stops_it() {
    use Taking::{Agent, Everything, Grants, Key, Secret};
    for taking in [Key, Secret, Grants, Agent, Everything] {
        let scene = Arc::new(Scene::new().await);
        let who = scene.fixture.start(&format!("{}{RELEASE}", web::GRANT)).await;
        let (signs, sends) = match taking {
            Key => (true, false),
            Secret => (false, true),
            Grants | Agent | Everything => (true, true),
        };
        let (used, mut uses) = mpsc::unbounded_channel();
        let mut busy = tokio::task::JoinSet::new();
        for number in 0..16 {
            let (scene, used) = (Arc::clone(&scene), used.clone());
            let signing = signs && (number % 2 == 0 || !sends);
            busy.spawn(async move {
                loop {
                    let done = if signing {
                        scene.fixture.sign(who, "release", b"x").await.is_ok()
                    } else {
                        scene.get(who).await.is_ok()
                    };
                    if !done {
                        return;
                    }
                    used.send(()).unwrap();
                }
            });
        }
        for _ in 0..100 {
            uses.recv().await.unwrap();
        }
        let (broker, bot) = (scene.broker(), name("bot"));
        match taking {
            Key => drop(
                broker
                    .set_key_state(&name("release"), KeyState::Revoked)
                    .await
                    .unwrap(),
            ),
            Secret => drop(
                broker
                    .set_secret_state(&name("github"), KeyState::Revoked)
                    .await
                    .unwrap(),
            ),
            Grants => {
                broker.suspend(&bot, &name("release")).await.unwrap();
                broker.suspend(&bot, &name("api")).await.unwrap();
            }
            Agent => broker.suspend_agent(&bot).await.unwrap(),
            Everything => broker.panic().await.unwrap(),
        }
        busy.join_all().await;
        let events = scene.fixture.events().await;
        let stopped = events.iter().rposition(|event| {
            matches!(
                event,
                Event::KeyStateChanged { .. }
                    | Event::SecretStateChanged { .. }
                    | Event::Suspended { .. }
                    | Event::AgentSuspended { .. }
                    | Event::Panic
            )
        });
        let released = |event: &&Event| {
            matches!(
                event,
                Event::Settled {
                    settlement: Settlement::Released,
                    ..
                }
            )
        };
        let (before, after) = events.split_at(stopped.unwrap());
        assert!(before.iter().filter(released).count() >= 100, "the control");
        assert_eq!(after.iter().filter(released).count(), 0, "{taking:?}: {after:?}");
    }
}

#[tokio::test]
async fn a_request_for_a_token_is_cut_off_but_where_that_would_lose_the_refresh_token() {
    for (grants, cut) in [(client_credentials(), true), (refreshing(), false)] {
        let scene = scene().await;
        let who = scene.fixture.start(&grants).await;
        scene.web.will_give(Given {
            slow: true,
            ..gives("canary-token", 3600, Some("canary-refresh-token-2"))
        });
        let (asked, ()) = tokio::join!(one(&scene, who), async {
            scene.web.entered.notified().await;
            scene.broker().panic().await.unwrap();
            if !cut {
                scene.web.go_on.notify_one();
            }
        });
        // What was cut ends although the server never answered.
        assert_eq!(refused(&asked.unwrap_err()), Refusal::Suspended);
        assert!(scene.web.seen().is_empty(), "nothing was sent to the API");
        let refresh = scene.broker().keyring().secret(&name("refresh")).unwrap();
        assert_eq!(refresh.secret.version.0, if cut { 1 } else { 2 });
        // And none of it is used when it is lifted.
        scene.broker().lift_panic().await.unwrap();
        scene.fixture.clock.advance(SignedDuration::from_mins(2));
        scene.web.will_give(gives("canary-token-3", 3600, None));
        one(&scene, who).await.unwrap();
        assert_eq!(scene.web.seen()[0].slots[0].1, "Bearer canary-token-3");
    }
}

#[tokio::test]
async fn a_revoked_client_secret_stops_the_request_for_a_token() {
    let scene = scene().await;
    let who = scene.fixture.start(&client_credentials()).await;
    scene.web.will_give(Given {
        slow: true,
        ..gives("canary-token", 3600, None)
    });
    // It would wait for ever.
    let (asked, ()) = tokio::join!(one(&scene, who), async {
        scene.web.entered.notified().await;
        scene
            .broker()
            .set_secret_state(&name("client"), KeyState::Revoked)
            .await
            .unwrap();
    });
    assert!(asked.is_err());
    assert!(scene.web.seen().is_empty());
}

#[tokio::test]
async fn a_panic_whose_entry_cannot_be_written_stops_everything_all_the_same() {
    let scene = Scene::new().await;
    scene
        .broker()
        .add_secret(creation(
            "other",
            InjectionKind::Bearer,
            web::API,
            "canary-other-secret",
        ))
        .await
        .unwrap();
    let who = scene.fixture.start(&both()).await;
    std::fs::remove_dir_all(scene.fixture.folder.path().join("keyring").join(AUDIT_FOLDER)).unwrap();
    assert!(scene.broker().panic().await.is_err());
    for grant in ["release", "notes"] {
        assert!(scene.fixture.sign(who, grant, b"x").await.is_err());
    }
    assert!(scene.broker().in_panic());
}

/// A device that says when it was entered, and signs when it is told to.
#[derive(Debug)]
struct Device {
    secret: p256::SecretKey,
    entered: mpsc::UnboundedSender<()>,
    go_on: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>>,
}

impl Device {
    fn made() -> (
        Arc<dyn Custody>,
        mpsc::UnboundedReceiver<()>,
        mpsc::UnboundedSender<()>,
    ) {
        let (entered, was_entered) = mpsc::unbounded_channel();
        let (goes_on, go_on) = mpsc::unbounded_channel();
        let device = Self {
            secret: p256::SecretKey::random(&mut rand_core::OsRng),
            entered,
            go_on: Arc::new(tokio::sync::Mutex::new(go_on)),
        };
        (Arc::new(device), was_entered, goes_on)
    }
}

impl Custody for Device {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Tpm
    }
    fn algorithms(&self) -> &[Algorithm] {
        &[Algorithm::P256]
    }
    fn generate<'a>(&'a self, _: &'a KeyRef, _: Algorithm) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        let public = PublicKey::p256(&self.secret.public_key().to_sec1_bytes()).unwrap();
        Box::pin(async {
            Ok(Generated {
                public,
                material: Secret::take(&mut [1]).unwrap(),
            })
        })
    }
    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        _: &'a PublicKey,
        _: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        let key: Arc<dyn SigningKey> = Arc::new(DeviceKey {
            key: key.clone(),
            secret: self.secret.clone(),
            entered: self.entered.clone(),
            go_on: Arc::clone(&self.go_on),
        });
        Box::pin(async { Ok(key) })
    }
}

struct DeviceKey {
    key: KeyRef,
    secret: p256::SecretKey,
    entered: mpsc::UnboundedSender<()>,
    go_on: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>>,
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceKey")
    }
}

impl SigningKey for DeviceKey {
    fn sign<'a>(
        &'a self,
        permit: &'a Permit,
        message: &'a Framed,
    ) -> BoxFuture<'a, Result<Signature, CustodyError>> {
        use p256::ecdsa::signature::Signer as _;
        Box::pin(async move {
            assert!(permit.spend(&self.key, message));
            self.entered.send(()).unwrap();
            self.go_on.lock().await.recv().await.unwrap();
            let signing = p256::ecdsa::SigningKey::from(&self.secret);
            let signature: p256::ecdsa::Signature = signing.sign(message.message());
            Ok(Signature::new(Algorithm::P256, signature.to_bytes().into()))
        })
    }
}
