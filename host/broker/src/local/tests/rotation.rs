//! Rotation: nothing fails because of it, one rotation is one, what is compromised stops at once, and each step is on the log.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use claviger_core::KeyVersion;
use claviger_core::audit::CredentialName;
use claviger_core::profile::{FrameContext, SigningRule};

use super::super::{Rotation, STUCK_AFTER};
use super::*;
use crate::keyring::{LifeEvent, Lock, Reason, RotationPlan, Start};

const DAY: i64 = 86_400;

fn at(version: u32) -> KeyRef {
    KeyRef {
        name: name("notes"),
        version: KeyVersion(version),
    }
}

fn plan(change: impl FnOnce(&mut RotationPlan)) -> RotationPlan {
    let mut plan = RotationPlan::default();
    change(&mut plan);
    plan
}

/// Which version of the key a labeled signature over this content verifies under.
fn version_of(fixture: &Fixture, content: &[u8], signature: &[u8]) -> Vec<u32> {
    let signature = Signature::new(Algorithm::Ed25519, signature.try_into().unwrap());
    let rule = SigningRule::Labeled { label: name("notes") };
    fixture
        .broker
        .keyring()
        .versions(&name("notes"))
        .iter()
        .filter(|record| {
            let context = FrameContext {
                key: record.public().unwrap(),
                now: START.parse().unwrap(),
                nonce: [0; 16],
            };
            let framed = rule.frame(content, &context).unwrap();
            record
                .public()
                .unwrap()
                .verify(framed.message(), &signature)
                .is_ok()
        })
        .map(|record| record.key.version.0)
        .collect()
}

async fn standings(fixture: &Fixture) -> Vec<String> {
    let mut said = Vec::new();
    for event in fixture.events().await {
        match event {
            Event::KeyCreated { key, .. } if key.name == name("notes") => said.push(format!("{key} made")),
            Event::KeyStateChanged { key, state, .. } => said.push(format!("{key} {state}")),
            _ => {}
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_is_rotated_twenty_times_under_load_and_no_use_fails() {
    const TASKS: usize = 64;
    const ROTATIONS: u32 = 20;
    let fixture = Fixture::new().await;
    let who = fixture.start("[grants.n]\nsign = { key = \"notes\" }\n").await;
    let (stop, stopped) = tokio::sync::watch::channel(());
    let mut signing = Vec::new();
    for task in 0..TASKS {
        let (broker, stopped) = (Arc::clone(&fixture.broker), stopped.clone());
        signing.push(tokio::spawn(async move {
            let mut made = Vec::new();
            // At least one after the last rotation.
            let mut last = false;
            while !last {
                last = stopped.has_changed().is_err();
                let content = format!("{task} {}", made.len()).into_bytes();
                let request = Request::Sign {
                    grant: name("n"),
                    content: content.clone(),
                };
                match broker.perform(who, request).await {
                    Ok(Outcome::Signed { signature }) => made.push((content, signature)),
                    other => panic!("{other:?}"),
                }
            }
            made
        }));
    }
    drop(stopped);
    for of in 1..=ROTATIONS {
        // Between two rotations something is signed, so that they meet.
        let before = fixture.broker.snapshot().grant(&name("bot"), &name("n")).uses;
        while fixture.broker.snapshot().grant(&name("bot"), &name("n")).uses < before + 8 {
            tokio::task::yield_now().await;
        }
        let rotation = Rotation {
            of: Some(KeyVersion(of)),
            overlap: Some(Duration::from_secs(u64::from(of % 2) * 3600)),
            start: Start::AtOnce,
        };
        let new = fixture.broker.rotate_key(&name("notes"), rotation).await.unwrap();
        assert_eq!(new.key, at(of + 1));
    }
    drop(stop);
    let mut by_version: BTreeMap<u32, u64> = BTreeMap::new();
    let mut all = 0;
    for task in signing {
        for (content, signature) in task.await.unwrap() {
            let versions = version_of(&fixture, &content, &signature);
            assert_eq!(versions.len(), 1, "under one version and no other");
            *by_version.entry(versions[0]).or_default() += 1;
            all += 1;
        }
    }
    assert!(
        by_version.len() > 10,
        "the control: the rotations met the load: {by_version:?}"
    );
    // What the log says of each version is what was signed with it.
    let ledger = fixture.broker.snapshot();
    for version in 1..=ROTATIONS + 1 {
        let logged = ledger.key_usage(&at(version)).map_or(0, |usage| usage.all.uses);
        assert_eq!(
            logged,
            by_version.get(&version).copied().unwrap_or(0),
            "v{version}"
        );
    }
    assert_eq!(ledger.grant(&name("bot"), &name("n")).uses, all);
    let fixture = fixture.reopen().await;
    assert_eq!(
        fixture.broker.keyring().key(&name("notes")).unwrap().key,
        at(ROTATIONS + 1)
    );
}

#[tokio::test]
async fn whoever_asks_twice_or_at_once_rotates_once() {
    let fixture = Fixture::new().await;
    let of_first = || Rotation {
        of: Some(KeyVersion(1)),
        ..Rotation::default()
    };
    let key = name("notes");
    let (one, two) = tokio::join!(
        fixture.broker.rotate_key(&key, of_first()),
        fixture.broker.rotate_key(&key, of_first())
    );
    assert_eq!(
        (one.unwrap().key.clone(), two.unwrap().key.clone()),
        (at(2), at(2))
    );
    assert_eq!(fixture.broker.keyring().versions(&key).len(), 2);
    // Another host, later, that has not heard of it.
    let fixture = fixture.reopen().await;
    let again = fixture.broker.rotate_key(&key, of_first()).await.unwrap();
    assert_eq!(again.key, at(2));
    assert_eq!(
        standings(&fixture).await,
        ["notes@v1 made", "notes@v2 made", "notes@v1 retiring"]
    );
    // The control: of the second, it goes on; of the first, it is now too late.
    let next = Rotation {
        of: Some(KeyVersion(2)),
        ..Rotation::default()
    };
    assert_eq!(fixture.broker.rotate_key(&key, next).await.unwrap().key, at(3));
    assert!(fixture.broker.rotate_key(&key, of_first()).await.is_err());
}

#[tokio::test]
async fn an_old_version_retires_when_its_overlap_ends_and_no_clock_brings_it_back() {
    let fixture = Fixture::new().await;
    let hour = Rotation {
        overlap: Some(Duration::from_secs(3600)),
        ..Rotation::default()
    };
    fixture.broker.rotate_key(&name("notes"), hour).await.unwrap();
    let state = |fixture: &Fixture| fixture.broker.keyring().record(&at(1)).unwrap().state;
    let old = fixture.broker.keyring().record(&at(1)).unwrap();
    let start: Timestamp = START.parse().unwrap();
    assert!(old.is_accepted(start) && !old.is_in_use());
    assert!(!old.is_accepted(start + SignedDuration::from_secs(3600)));
    fixture.clock.advance(SignedDuration::from_secs(3599));
    fixture.broker.rotate_due().await.unwrap();
    assert_eq!(state(&fixture), KeyState::Retiring);
    fixture.clock.advance(SignedDuration::from_secs(1));
    fixture.broker.rotate_due().await.unwrap();
    assert_eq!(state(&fixture), KeyState::Retired);
    fixture.clock.advance(SignedDuration::from_secs(-7200));
    fixture.broker.rotate_due().await.unwrap();
    assert_eq!(state(&fixture), KeyState::Retired);
    let fixture = fixture.reopen().await;
    assert_eq!(state(&fixture), KeyState::Retired);
    assert_eq!(
        standings(&fixture).await,
        [
            "notes@v1 made",
            "notes@v2 made",
            "notes@v1 retiring",
            "notes@v1 retired"
        ]
    );
}

#[tokio::test]
async fn a_plan_rotates_by_age_and_by_uses_and_a_clock_that_ran_ahead_delays_nothing() {
    let fixture = Fixture::new().await;
    let key = name("notes");
    let who = fixture.start("[grants.n]\nsign = { key = \"notes\" }\n").await;
    let every = Some(Duration::from_secs(90 * 86_400));
    let uses = NonZeroU64::new(3);
    fixture
        .broker
        .plan_key(&key, plan(|plan| (plan.every, plan.uses) = (every, uses)), None)
        .unwrap();
    let version = |fixture: &Fixture| fixture.broker.keyring().key(&key).unwrap().key.version.0;
    assert!(
        fixture.broker.rotate_due().await.unwrap().is_empty(),
        "nothing is due"
    );
    for n in 1..=3 {
        assert!(fixture.broker.due_keys().is_empty(), "{n}");
        fixture.sign(who, "n", b"content").await.unwrap();
    }
    let done = fixture.broker.rotate_due().await.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(version(&fixture), 2);
    assert!(fixture.broker.rotate_due().await.unwrap().is_empty(), "once");
    fixture.clock.advance(SignedDuration::from_secs(90 * DAY - 1));
    assert!(fixture.broker.due_keys().is_empty());
    fixture.clock.advance(SignedDuration::from_secs(1));
    fixture.broker.rotate_due().await.unwrap();
    assert_eq!(version(&fixture), 3);
    // A clock ten years ahead makes one version; when it is set right, that one is replaced at once and not in ten years.
    fixture.clock.advance(SignedDuration::from_secs(3650 * DAY));
    fixture.broker.rotate_due().await.unwrap();
    assert_eq!(version(&fixture), 4);
    fixture.clock.advance(SignedDuration::from_secs(-3650 * DAY));
    fixture.broker.accept_clock().await.unwrap();
    fixture.broker.rotate_due().await.unwrap();
    assert_eq!(version(&fixture), 5);
    assert!(fixture.broker.rotate_due().await.unwrap().is_empty(), "once");
    // The overlaps that began in that future end as long from now as they were meant to last.
    let now: Timestamp = fixture.clock.now();
    for record in fixture.broker.keyring().versions(&key) {
        let late = record
            .until
            .is_some_and(|until| until > now + SignedDuration::from_secs(7 * DAY));
        assert!(!late, "{record:?}");
    }
}

#[tokio::test]
async fn a_disabled_deleted_or_revoked_key_is_not_rotated_by_its_plan() {
    let fixture = Fixture::new().await;
    let every = plan(|plan| plan.every = Some(Duration::from_secs(1)));
    for (key, stop) in [
        ("notes", LifeEvent::Disable(None)),
        ("release", LifeEvent::Revoke(None)),
    ] {
        fixture.broker.plan_key(&name(key), every, None).unwrap();
        let key = KeyRef {
            name: name(key),
            version: KeyVersion::FIRST,
        };
        fixture.broker.step_key(&key, &stop).await.unwrap();
    }
    fixture.broker.plan_key(&name("tokens"), every, None).unwrap();
    fixture
        .broker
        .delete_key(&name("tokens"), Duration::from_secs(60))
        .await
        .unwrap();
    fixture.clock.advance(SignedDuration::from_secs(DAY));
    assert!(fixture.broker.rotate_due().await.unwrap().is_empty());
    let refused = fixture
        .broker
        .rotate_key(&name("notes"), Rotation::default())
        .await;
    assert!(refused.unwrap_err().to_string().contains("enable it"));
    let refused = fixture
        .broker
        .rotate_key(&name("tokens"), Rotation::default())
        .await;
    assert!(refused.unwrap_err().to_string().contains("restore it"));
    // The control: enabled, it is due.
    fixture.broker.step_key(&at(1), &LifeEvent::Enable).await.unwrap();
    assert_eq!(fixture.broker.rotate_due().await.unwrap().len(), 1);
    // An operator who says so gets a new version of what was revoked.
    let new = fixture
        .broker
        .rotate_key(&name("release"), Rotation::default())
        .await
        .unwrap();
    assert_eq!(new.key.version, KeyVersion(2));
}

#[tokio::test]
async fn a_staged_version_waits_is_found_when_it_is_stuck_and_can_be_given_up() {
    let fixture = Fixture::new().await;
    let key = name("notes");
    let staged = || Rotation {
        start: Start::Staged,
        ..Rotation::default()
    };
    let pending = fixture.broker.rotate_key(&key, staged()).await.unwrap();
    assert_eq!((pending.key.clone(), pending.state), (at(2), KeyState::Pending));
    assert_eq!(
        fixture.broker.keyring().key(&key).unwrap().key,
        at(1),
        "not used yet"
    );
    assert!(
        fixture
            .broker
            .rotate_key(&key, Rotation::default())
            .await
            .is_err(),
        "one waits"
    );
    assert!(fixture.broker.stuck(&key).is_none());
    fixture
        .clock
        .advance(SignedDuration::try_from(STUCK_AFTER).unwrap());
    assert_eq!(fixture.broker.stuck(&key).unwrap().key, at(2));
    fixture.broker.cancel_key(&key).await.unwrap();
    assert!(fixture.broker.stuck(&key).is_none());
    assert!(
        fixture.broker.keyring().material(&at(2)).is_err(),
        "its material is gone"
    );
    assert!(
        fixture.broker.cancel_key(&key).await.is_err() && fixture.broker.promote_key(&key).await.is_err()
    );
    fixture.broker.rotate_key(&key, staged()).await.unwrap();
    let promoted = fixture.broker.promote_key(&key).await.unwrap();
    assert_eq!((promoted.key.clone(), promoted.state), (at(3), KeyState::Active));
    let fixture = fixture.reopen().await;
    assert_eq!(
        standings(&fixture).await,
        [
            "notes@v1 made",
            "notes@v2 made",
            "notes@v2 pending",
            "notes@v2 destroyed",
            "notes@v3 made",
            "notes@v3 pending",
            "notes@v1 retiring",
            "notes@v3 active"
        ]
    );
}

#[tokio::test]
async fn a_compromise_revokes_replaces_and_says_what_the_key_did() {
    let fixture = Fixture::new().await;
    let key = name("notes");
    let who = fixture
        .start("[grants.n]\nsign = { key = \"notes\" }\n[grants.m]\nsign = { key = \"notes\" }\n")
        .await;
    fixture.sign(who, "n", b"1").await.unwrap();
    fixture
        .broker
        .rotate_key(&key, Rotation::default())
        .await
        .unwrap();
    fixture.clock.advance(SignedDuration::from_secs(60));
    fixture.sign(who, "n", b"2").await.unwrap();
    fixture.sign(who, "m", b"3").await.unwrap();
    let reason = Reason::new("a laptop was lost");
    let compromise = fixture
        .broker
        .compromise_key(&key, None, reason.clone())
        .await
        .unwrap();
    assert_eq!(compromise.replaced_by.unwrap().key, at(3));
    let revoked: Vec<_> = compromise
        .revoked
        .iter()
        .map(|record| record.key.clone())
        .collect();
    assert_eq!(revoked, [at(1), at(2)]);
    assert!(compromise.revoked.iter().all(|record| record.reason == reason));
    fixture.sign(who, "n", b"4").await.unwrap();

    // The same from the log alone.
    let fixture = fixture.reopen().await;
    let ledger = fixture.broker.snapshot();
    let tally = |version| ledger.key_usage(&at(version)).unwrap().all;
    assert_eq!([tally(1).uses, tally(2).uses, tally(3).uses], [1, 2, 1]);
    assert_eq!(tally(1).last, Some(START.parse().unwrap()));
    let by = &ledger.key_usage(&at(2)).unwrap().by[&name("bot")];
    assert_eq!((by[&name("n")].uses, by[&name("m")].uses), (1, 1));
    let holders = ledger.holders(&CredentialName::Key(key.clone()));
    assert_eq!(holders[&name("bot")], [name("m"), name("n")]);
    assert!(ledger.holders(&CredentialName::Key(name("release"))).is_empty());

    // One version that is not in use: nothing is replaced.
    fixture
        .broker
        .rotate_key(&key, Rotation::default())
        .await
        .unwrap();
    let compromise = fixture
        .broker
        .compromise_key(&key, Some(KeyVersion(3)), None)
        .await
        .unwrap();
    assert!(compromise.replaced_by.is_none());
    assert_eq!(fixture.broker.keyring().key(&key).unwrap().key, at(4));
    assert_eq!(
        fixture.broker.keyring().record(&at(3)).unwrap().state,
        KeyState::Revoked
    );
    // A key that is out of use is not put back into it.
    fixture
        .broker
        .set_key_state(&key, KeyState::Disabled)
        .await
        .unwrap();
    let compromise = fixture.broker.compromise_key(&key, None, None).await.unwrap();
    assert!(compromise.replaced_by.is_none());
    assert!(fixture.broker.keyring().key(&key).is_none());
}

#[tokio::test]
async fn what_a_crash_left_off_the_log_is_logged_at_the_next_start_and_once() {
    let fixture = Fixture::new().await;
    let key = name("notes");
    // The keyring alone: as if the host had died before the entry.
    let keyring = fixture.broker.keyring();
    let now = START.parse().unwrap();
    keyring
        .step(&at(1), &LifeEvent::Disable(Reason::new("why")), now)
        .unwrap();
    let fixture = fixture.reopen().await;
    assert_eq!(standings(&fixture).await, ["notes@v1 made", "notes@v1 disabled"]);
    let fixture = fixture.reopen().await;
    assert_eq!(standings(&fixture).await, ["notes@v1 made", "notes@v1 disabled"]);
    let window = LifeEvent::Delete {
        window: Duration::from_secs(60),
    };
    fixture.broker.keyring().step(&at(1), &window, now).unwrap();
    let fixture = fixture.reopen().await;
    fixture.clock.advance(SignedDuration::from_secs(60));
    fixture
        .broker
        .keyring()
        .step(&at(1), &LifeEvent::Purge, fixture.clock.now())
        .unwrap();
    let fixture = fixture.reopen().await;
    let said = [
        "notes@v1 made",
        "notes@v1 disabled",
        "notes@v1 deleted",
        "notes@v1 destroyed",
    ];
    assert_eq!(standings(&fixture).await, said);
    // The name is free, its numbers are not.
    let creation = KeyCreation {
        name: key,
        profile: Profile::Labeled { label: name("notes") },
        algorithm: Algorithm::Ed25519,
        custody: CustodyKind::Software,
    };
    assert_eq!(fixture.broker.create_key(creation).await.unwrap().key, at(2));
}

#[tokio::test]
async fn a_deleted_key_is_refused_at_once_its_name_is_kept_and_it_comes_back_as_it_was() {
    let fixture = Fixture::new().await;
    let key = name("notes");
    let who = fixture.start("[grants.n]\nsign = { key = \"notes\" }\n").await;
    fixture.sign(who, "n", b"1").await.unwrap();
    fixture
        .broker
        .rotate_key(&key, Rotation::default())
        .await
        .unwrap();
    let before: Vec<_> = fixture
        .broker
        .keyring()
        .versions(&key)
        .iter()
        .map(|one| one.state)
        .collect();
    let window = Duration::from_secs(3600);
    fixture.broker.delete_key(&key, window).await.unwrap();
    fixture.broker.delete_key(&key, window).await.unwrap();
    assert_eq!(fixture.sign(who, "n", b"2").await.unwrap_err(), Refusal::Revoked);
    let creation = KeyCreation {
        name: key.clone(),
        profile: Profile::Labeled { label: name("notes") },
        algorithm: Algorithm::Ed25519,
        custody: CustodyKind::Software,
    };
    let taken = fixture.broker.create_key(creation).await;
    assert!(matches!(taken, Err(NewKeyError::Exists(_))), "{taken:?}");
    let early = fixture.broker.purge_key(&key).await.unwrap_err();
    assert!(early.to_string().contains("can be restored until"), "{early}");
    fixture.broker.restore_key(&key).await.unwrap();
    let after: Vec<_> = fixture
        .broker
        .keyring()
        .versions(&key)
        .iter()
        .map(|one| one.state)
        .collect();
    assert_eq!(after, before);
    fixture.sign(who, "n", b"3").await.unwrap();
    assert!(
        fixture.broker.purge_key(&key).await.is_err(),
        "only what was deleted is purged"
    );
    fixture.broker.delete_key(&key, window).await.unwrap();
    fixture.clock.advance(SignedDuration::from_secs(3600));
    fixture.broker.purge_key(&key).await.unwrap();
    assert!(fixture.broker.keyring().material(&at(1)).is_err());
    assert!(fixture.broker.restore_key(&key).await.is_err(), "nothing is left");
    assert_eq!(fixture.sign(who, "n", b"4").await.unwrap_err(), Refusal::Revoked);
}

#[tokio::test]
async fn a_purge_lock_keeps_the_window_and_is_for_good() {
    let fixture = Fixture::new().await;
    let key = name("notes");
    fixture
        .broker
        .plan_key(&key, RotationPlan::default(), Some(Lock::ForGood))
        .unwrap();
    fixture
        .broker
        .plan_key(&key, RotationPlan::default(), None)
        .unwrap();
    let day = Duration::from_secs(86_400);
    let refused = fixture.broker.delete_key(&key, day * 29).await.unwrap_err();
    assert!(refused.to_string().contains("purge lock"), "{refused}");
    assert!(fixture.broker.keyring().key(&key).is_some());
    // A new version inherits it.
    fixture
        .broker
        .rotate_key(&key, Rotation::default())
        .await
        .unwrap();
    assert!(fixture.broker.delete_key(&key, day).await.is_err());
    fixture.broker.delete_key(&key, day * 30).await.unwrap();
    // The control: what is not locked goes in a minute.
    fixture
        .broker
        .delete_key(&name("release"), Duration::ZERO)
        .await
        .unwrap();
    fixture.broker.purge_key(&name("release")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_schedule_rotates_by_itself_and_ends_with_what_started_it() {
    let fixture = Fixture::new().await;
    let every = plan(|plan| plan.every = Some(Duration::from_secs(86_400)));
    fixture.broker.plan_key(&name("notes"), every, None).unwrap();
    let version = || {
        fixture
            .broker
            .keyring()
            .key(&name("notes"))
            .unwrap()
            .key
            .version
            .0
    };
    let schedule = fixture.broker.schedule();
    fixture.clock.advance(SignedDuration::from_secs(DAY));
    // The timer is tokio's, which stands still but for this; the day is the broker's clock's.
    while version() < 2 {
        tokio::time::advance(Duration::from_secs(61)).await;
        tokio::task::yield_now().await;
    }
    drop(schedule);
    fixture.clock.advance(SignedDuration::from_secs(DAY));
    for _ in 0..100 {
        tokio::time::advance(Duration::from_secs(61)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(version(), 2);
    assert_eq!(fixture.broker.due_keys().len(), 1, "the control: it was due");
}
