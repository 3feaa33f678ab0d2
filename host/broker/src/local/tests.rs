//! The broker as a whole, on a real keyring and a real log: each rule granted, refused at its bound, and on record.

mod approvals;
mod approved_requests;
mod approved_symmetric;
mod backups;
mod certify;
mod commands;
mod compromise;
mod control;
mod control_backup;
mod git;
mod large;
mod ledgers;
mod lives;
mod needs;
mod nonces;
mod proofs;
mod proposals;
mod races;
mod recovery;
mod resealing;
mod restores;
mod rollback;
mod rotation;
mod rotations;
mod rotators;
mod send;
mod send_ends;
mod slots;
mod staging;
mod stops;
mod symmetric;
mod symmetric_lives;
mod time;
mod tokens;
mod web;

use std::sync::atomic::{AtomicBool, Ordering};

use claviger_core::audit::Settlement;
use claviger_core::custody::{CustodyError, CustodyKind, Generated, SigningKey};
use claviger_core::key::{Algorithm, KeyRef, PublicKey, Signature};
use claviger_core::permit::Permit;
use claviger_core::profile::{Framed, Profile};
use claviger_core::refusal::Rule;
use claviger_core::{AgentName, Entry, GrantAlias, KeyName, Secret};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;
use crate::ManualClock;
use crate::audit::Reader;
use crate::custody::{KdfCost, PassphraseSealer};
use crate::keyring::{KeyState, RootKind};

const START: &str = "2026-06-01T12:00:00Z";
const CODE: &[u8] = b"a component";

struct Fixture {
    folder: TempDir,
    clock: Arc<ManualClock>,
    resident: Option<Arc<Slow>>,
    egress: Option<Arc<web::Web>>,
    broker: Arc<LocalBroker>,
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn sealer(passphrase: &str) -> Arc<PassphraseSealer> {
    let mut bytes = passphrase.as_bytes().to_vec();
    Arc::new(PassphraseSealer::new(Secret::take(&mut bytes).unwrap(), KdfCost::INSECURE_FOR_TESTS).unwrap())
}

fn options(
    folder: &TempDir,
    clock: &Arc<ManualClock>,
    resident: Option<&Arc<Slow>>,
    egress: Option<&Arc<web::Web>>,
) -> Options {
    let mut options = Options::new(folder.path().join("keyring"), sealer("correct horse"))
        .durability(Durability::Process)
        .clock(Arc::clone(clock) as _);
    options.resident = resident.map(|custody| Arc::clone(custody) as _);
    options.egress = egress.map(|web| Arc::clone(web) as _);
    options
}

impl Fixture {
    async fn new() -> Self {
        Self::with(None).await
    }

    async fn with(resident: Option<Arc<Slow>>) -> Self {
        Self::with_both(resident, None).await
    }

    async fn with_egress(egress: Arc<web::Web>) -> Self {
        Self::with_both(None, Some(egress)).await
    }

    async fn with_both(resident: Option<Arc<Slow>>, egress: Option<Arc<web::Web>>) -> Self {
        let folder = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::at(START.parse().unwrap()));
        let root = RootSpec {
            kind: RootKind::Passphrase,
            settings: String::new(),
        };
        let broker = LocalBroker::create(options(&folder, &clock, resident.as_ref(), egress.as_ref()), root)
            .await
            .unwrap();
        for (key, profile) in [
            (
                "release",
                Profile::Sshsig {
                    namespaces: [name("file")].into(),
                },
            ),
            (
                "tokens",
                Profile::Jws {
                    issuer: name("https://issuer.test"),
                    typ: name("JWT"),
                    audiences: [name("api")].into(),
                    max_ttl: 60,
                },
            ),
            ("notes", Profile::Labeled { label: name("notes") }),
        ] {
            let creation = KeyCreation {
                name: name(key),
                profile,
                algorithm: Algorithm::Ed25519,
                custody: CustodyKind::Software,
            };
            broker.create_key(creation).await.unwrap();
        }
        Self {
            folder,
            clock,
            resident,
            egress,
            broker,
        }
    }

    async fn reopen(self) -> Self {
        let Self {
            folder,
            clock,
            resident,
            egress,
            broker,
        } = self;
        broker.close().await.unwrap();
        // The keyring is locked until the last holder is gone.
        drop(broker);
        let broker = LocalBroker::open(options(&folder, &clock, resident.as_ref(), egress.as_ref()))
            .await
            .unwrap();
        Self {
            folder,
            clock,
            resident,
            egress,
            broker,
        }
    }

    fn manifest(grants: &str) -> Manifest {
        let digest = ComponentDigest::of(CODE);
        let text = format!(
            "schema = 1\n[agent]\nname = \"bot\"\ncomponent = \"bot.wasm\"\ndigest = \"{digest}\"\n{grants}"
        );
        Manifest::parse(&text)
            .unwrap_or_else(|problems| panic!("{problems:#?}"))
            .0
    }

    async fn start(&self, grants: &str) -> InstanceId {
        let admission = self
            .broker
            .admit(&Self::manifest(grants), ComponentDigest::of(CODE))
            .await
            .unwrap();
        self.broker.start(admission.id).unwrap()
    }

    async fn sign(&self, who: InstanceId, grant: &str, content: &[u8]) -> Result<Vec<u8>, Refusal> {
        let request = Request::Sign {
            grant: name(grant),
            content: content.to_vec(),
        };
        match self.broker.perform(who, request).await? {
            Outcome::Signed { signature } => Ok(signature),
            other => panic!("{other:?}"),
        }
    }

    /// Everything on the log so far, in order. What the running host says must be what it says.
    async fn entries(&self) -> Vec<Entry> {
        let live = self.broker.snapshot();
        self.broker.checkpoint().await.unwrap();
        let reader = Reader::open(&self.folder.path().join("keyring").join(AUDIT_FOLDER)).unwrap();
        let mut folded = Ledger::default();
        let entries = reader.entries(0).map(|entry| {
            let (index, entry) = entry.unwrap();
            folded.apply(index, &entry);
            entry
        });
        let entries = entries.collect();
        // Unless something happened in between.
        if live == self.broker.snapshot() {
            ledgers::same(&live, &folded);
        }
        entries
    }

    async fn events(&self) -> Vec<Event> {
        let entries = self.entries().await;
        entries.into_iter().map(|entry| entry.event).collect()
    }

    async fn rules(&self) -> Vec<Rule> {
        let events = self.events().await;
        events
            .into_iter()
            .filter_map(|event| match event {
                Event::Denied { rule, .. } => Some(rule),
                _ => None,
            })
            .collect()
    }

    async fn settlements(&self) -> Vec<Settlement> {
        let events = self.events().await;
        events
            .into_iter()
            .filter_map(|event| match event {
                Event::Settled { settlement, .. } => Some(settlement),
                _ => None,
            })
            .collect()
    }
}

const RELEASE: &str = "[grants.release]\nsign = { key = \"release\", namespace = \"file\" }\n";

#[tokio::test]
async fn a_granted_use_is_logged_then_signed_then_settled() {
    let fixture = Fixture::new().await;
    let who = fixture.start(RELEASE).await;
    let signature = fixture.sign(who, "release", b"hello").await.unwrap();
    assert!(signature.starts_with(b"-----BEGIN SSH SIGNATURE-----"));
    let events = fixture.events().await;
    let used = events
        .iter()
        .position(|event| matches!(event, Event::Allowed(_)))
        .unwrap();
    let Event::Allowed(allowed) = &events[used] else {
        unreachable!()
    };
    assert_eq!(
        (allowed.number, allowed.size, allowed.profile.as_str()),
        (1, 5, "sshsig")
    );
    assert_eq!(
        events[used + 1],
        Event::Settled {
            of: used as u64,
            settlement: Settlement::Released,
            traffic: None,
        }
    );
}

#[tokio::test]
async fn each_rule_refuses_with_its_kind_and_is_on_the_log() {
    let past = "expires = 2026-06-01T12:00:10Z\n";
    type Row<'a> = (&'a str, &'a str, &'a [u8], usize, Refusal, Rule);
    // 65,007 bytes, and a token of more than an agent is promised.
    let growing = format!("{{\"a\":[{}1]}}", "1e15,".repeat(13_000));
    let rows: [Row<'_>; 8] = [
        ("uses = 2\n", "release", b"x", 2, Refusal::OverBudget, Rule::Uses),
        (
            "rate = \"3/hour\"\n",
            "release",
            b"x",
            3,
            Refusal::Throttled,
            Rule::Rate,
        ),
        (
            "hours = \"Sat-Sun 08:00-18:00 Europe/Zurich\"\n",
            "release",
            b"x",
            0,
            Refusal::Throttled,
            Rule::Hours,
        ),
        (past, "release", b"x", 0, Refusal::Expired, Rule::Expires),
        ("", "other", b"x", 0, Refusal::NotGranted, Rule::Grant),
        ("", "tokens", b"not json", 0, Refusal::Invalid, Rule::Content),
        (
            "",
            "tokens",
            growing.as_bytes(),
            0,
            Refusal::Invalid,
            Rule::ContentSize,
        ),
        ("", "notes", &[0; 70_000], 0, Refusal::Invalid, Rule::ContentSize),
    ];
    for (constraint, grant, content, good, refusal, rule) in rows {
        let fixture = Fixture::new().await;
        let grants = format!(
            "{RELEASE}{constraint}[grants.tokens]\nsign = {{ key = \"tokens\" }}\n[grants.notes]\nsign = {{ key = \"notes\" }}\n"
        );
        let who = fixture.start(&grants).await;
        if constraint == past {
            fixture.clock.advance(SignedDuration::from_secs(10));
        }
        for _ in 0..good {
            fixture.sign(who, grant, content).await.unwrap();
        }
        for _ in 0..3 {
            assert_eq!(fixture.sign(who, grant, content).await, Err(refusal), "{rule:?}");
        }
        assert_eq!(fixture.rules().await, [rule; 3]);
        assert_eq!(fixture.settlements().await, vec![Settlement::Released; good]);
    }
}

#[tokio::test]
async fn budgets_suspensions_and_rates_survive_a_restart() {
    let fixture = Fixture::new().await;
    let grants = format!("{RELEASE}uses = 2\nrate = \"5/hour\"\non-violation = \"suspend\"\n");
    let who = fixture.start(&grants).await;
    fixture.sign(who, "release", b"1").await.unwrap();
    let before = fixture.broker.snapshot();
    let fixture = fixture.reopen().await;
    let agent = name("bot");
    let alias: GrantAlias = name("release");
    assert_eq!(
        fixture.broker.snapshot().grant(&agent, &alias),
        before.grant(&agent, &alias)
    );

    let who = fixture.start(&grants).await;
    fixture.sign(who, "release", b"2").await.unwrap();
    assert_eq!(fixture.sign(who, "release", b"3").await, Err(Refusal::OverBudget));
    let fixture = fixture.reopen().await;
    let who = fixture.start(&grants).await;
    assert_eq!(fixture.sign(who, "release", b"4").await, Err(Refusal::Suspended));
    fixture.broker.resume(&agent, &alias).await.unwrap();
    assert_eq!(fixture.sign(who, "release", b"5").await, Err(Refusal::OverBudget));
}

#[tokio::test]
async fn the_last_use_goes_to_one_of_many_callers() {
    let fixture = Arc::new(Fixture::new().await);
    let who = fixture.start(&format!("{RELEASE}uses = 10\n")).await;
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                fixture
                    .sign(who, "release", format!("{n}").as_bytes())
                    .await
                    .is_ok()
            })
        })
        .collect();
    let mut signed = 0;
    for task in tasks {
        signed += u32::from(task.await.unwrap());
    }
    assert_eq!(signed, 10);
    let mut numbers: Vec<_> = fixture
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::Allowed(allowed) => Some(allowed.number),
            _ => None,
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_key_that_is_not_active_signs_nothing_from_the_next_call_on() {
    let fixture = Fixture::new().await;
    let who = fixture.start(RELEASE).await;
    fixture.sign(who, "release", b"x").await.unwrap();
    fixture
        .broker
        .set_key_state(&name("release"), KeyState::Disabled)
        .await
        .unwrap();
    assert_eq!(fixture.sign(who, "release", b"x").await, Err(Refusal::Revoked));
    fixture
        .broker
        .set_key_state(&name("release"), KeyState::Active)
        .await
        .unwrap();
    fixture.sign(who, "release", b"x").await.unwrap();
}

#[tokio::test]
async fn a_clock_that_was_set_back_revives_nothing() {
    let fixture = Fixture::new().await;
    let who = fixture
        .start(&format!("{RELEASE}expires = 2026-06-01T12:30:00Z\n"))
        .await;
    fixture.clock.advance(SignedDuration::from_mins(40));
    assert_eq!(fixture.sign(who, "release", b"x").await, Err(Refusal::Expired));
    fixture.clock.advance(SignedDuration::from_mins(-39));
    assert_eq!(
        fixture.sign(who, "release", b"x").await,
        Err(Refusal::Unavailable)
    );
    assert_eq!(fixture.rules().await, [Rule::Expires, Rule::Clock]);
    // The control: an operator who vouches for the clock gets it back.
    fixture.broker.accept_clock().await.unwrap();
    fixture.sign(who, "release", b"x").await.unwrap();
}

#[tokio::test]
async fn an_ended_instance_gets_nothing() {
    let fixture = Fixture::new().await;
    let who = fixture.start(RELEASE).await;
    fixture.broker.end(who, InstanceEnd::Finished);
    assert_eq!(fixture.sign(who, "release", b"x").await, Err(Refusal::NotGranted));
    assert_eq!(
        fixture.sign(InstanceId(999), "release", b"x").await,
        Err(Refusal::NotGranted)
    );
}

#[tokio::test]
async fn a_log_that_cannot_be_written_refuses_the_call() {
    let fixture = Fixture::new().await;
    let who = fixture.start(RELEASE).await;
    fixture.sign(who, "release", b"x").await.unwrap();
    std::fs::remove_dir_all(fixture.folder.path().join("keyring").join(AUDIT_FOLDER)).unwrap();
    for _ in 0..3 {
        assert_eq!(
            fixture.sign(who, "release", b"x").await,
            Err(Refusal::Unavailable)
        );
    }
}

#[tokio::test]
async fn a_cancelled_use_is_logged_as_abandoned_and_a_failed_one_as_failed() {
    let slow = Arc::new(Slow::default());
    let fixture = Fixture::with(Some(Arc::clone(&slow))).await;
    let creation = KeyCreation {
        name: name("slow"),
        profile: Profile::Labeled { label: name("slow") },
        algorithm: Algorithm::P256,
        custody: CustodyKind::Tpm,
    };
    fixture.broker.create_key(creation).await.unwrap();
    let who = fixture.start("[grants.slow]\nsign = { key = \"slow\" }\n").await;
    tokio::select! {
        biased;
        result = fixture.sign(who, "slow", b"x") => panic!("{result:?}"),
        () = slow.entered.notified() => {}
    }
    assert_eq!(fixture.settlements().await, [Settlement::Abandoned]);
    slow.fails.store(true, Ordering::Relaxed);
    assert_eq!(fixture.sign(who, "slow", b"x").await, Err(Refusal::Unavailable));
    assert_eq!(
        fixture.settlements().await,
        [Settlement::Abandoned, Settlement::Failed]
    );
}

#[tokio::test]
async fn admission_says_every_reason_and_logs_them() {
    let fixture = Fixture::new().await;
    let grants = "[grants.a]\nsign = { key = \"relase\" }\n[grants.b]\nsign = { key = \"release\", namespace = \"git\" }\n";
    let manifest = Fixture::manifest(grants);
    let refused = fixture
        .broker
        .admit(&manifest, ComponentDigest::of(b"changed"))
        .await
        .unwrap_err();
    let text = refused.to_string();
    for part in [
        "claviger pin",
        "did you mean `release`",
        "not made for namespace `git`",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let last = fixture.events().await.pop().unwrap();
    assert!(matches!(last, Event::NotAdmitted { reasons, .. } if reasons.len() == 3));
}

#[tokio::test]
async fn a_passphrase_keyring_has_no_keys_that_look_sealed() {
    let fixture = Fixture::new().await;
    let creation = KeyCreation {
        name: name("sealed"),
        profile: Profile::Labeled { label: name("x") },
        algorithm: Algorithm::Ed25519,
        custody: CustodyKind::TpmSealed,
    };
    let refused = fixture.broker.create_key(creation).await.unwrap_err();
    assert!(matches!(refused, NewKeyError::NoCustody(CustodyKind::TpmSealed)));
}

#[tokio::test]
async fn a_withdrawn_admission_starts_nothing_and_its_reasons_are_on_the_log() {
    let fixture = Fixture::new().await;
    let admission = fixture
        .broker
        .admit(&Fixture::manifest(RELEASE), ComponentDigest::of(CODE))
        .await
        .unwrap();
    fixture
        .broker
        .withdraw(admission.id, vec!["imports what it was not granted".to_owned()]);
    assert_eq!(fixture.broker.start(admission.id), Err(Refusal::NotGranted));
    let last = fixture.events().await.pop().unwrap();
    assert!(matches!(last, Event::NotAdmitted { reasons, .. } if reasons.len() == 1));
}

#[tokio::test]
async fn a_name_is_given_to_one_key() {
    let fixture = Fixture::new().await;
    let creation = KeyCreation {
        name: name::<KeyName>("release"),
        profile: Profile::Labeled { label: name("x") },
        algorithm: Algorithm::Ed25519,
        custody: CustodyKind::Software,
    };
    let refused = fixture.broker.create_key(creation).await.unwrap_err();
    assert!(matches!(refused, NewKeyError::Exists(_)));
}

/// A custody whose signatures wait for ever, or fail.
#[derive(Debug, Default)]
struct Slow {
    entered: Arc<Notify>,
    fails: Arc<AtomicBool>,
}

#[derive(Debug)]
struct SlowKey(Arc<Notify>, Arc<AtomicBool>);

impl Custody for Slow {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Tpm
    }
    fn algorithms(&self) -> &[Algorithm] {
        &[Algorithm::P256]
    }
    fn generate<'a>(&'a self, _: &'a KeyRef, _: Algorithm) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        let secret = p256::SecretKey::random(&mut rand_core::OsRng);
        let public = PublicKey::p256(&secret.public_key().to_sec1_bytes()).unwrap();
        Box::pin(async {
            Ok(Generated {
                public,
                material: Secret::take(&mut [1]).unwrap(),
            })
        })
    }
    fn open<'a>(
        &'a self,
        _: &'a KeyRef,
        _: &'a PublicKey,
        _: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        let key: Arc<dyn SigningKey> = Arc::new(SlowKey(Arc::clone(&self.entered), Arc::clone(&self.fails)));
        Box::pin(async { Ok(key) })
    }
}

impl SigningKey for SlowKey {
    fn sign<'a>(&'a self, _: &'a Permit, _: &'a Framed) -> BoxFuture<'a, Result<Signature, CustodyError>> {
        Box::pin(async {
            if self.1.load(Ordering::Relaxed) {
                return Err(CustodyError::Unavailable("the device is gone".to_owned()));
            }
            self.0.notify_one();
            std::future::pending().await
        })
    }
}
