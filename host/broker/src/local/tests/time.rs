//! A use is decided by the time at which it takes its place on the log, and the log reads forwards: however long content waits to be
//! hashed, a signature is under way, or the clock is a little behind.

use std::sync::mpsc;

use super::large::{LARGE, SMALL, poll_once, signing};
use super::*;

/// Lets one thread for blocking work be busy with nothing until the sender is dropped.
fn occupy() -> mpsc::Sender<()> {
    let (let_go, go_on) = mpsc::channel::<()>();
    drop(tokio::task::spawn_blocking(move || go_on.recv().is_err()));
    let_go
}

fn one_blocking_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .unwrap()
}

/// Where an entry is before the one that it follows, though nobody vouched for an earlier clock.
fn backwards(entries: &[Entry]) -> Vec<&Entry> {
    entries
        .windows(2)
        .filter(|pair| pair[1].time < pair[0].time && !matches!(pair[1].event, Event::ClockAccepted))
        .map(|pair| &pair[1])
        .collect()
}

async fn with_slow_key() -> Fixture {
    let fixture = Fixture::with(Some(Arc::new(Slow::default()))).await;
    let creation = KeyCreation {
        name: name("slow"),
        profile: Profile::Labeled { label: name("slow") },
        algorithm: Algorithm::P256,
        custody: CustodyKind::Tpm,
    };
    fixture.broker.create_key(creation).await.unwrap();
    fixture
}

#[test]
fn a_grant_that_expires_while_content_waits_to_be_hashed_gives_nothing() {
    one_blocking_thread().block_on(async {
        for (waits, given) in [(9, true), (10, false)] {
            let fixture = Fixture::new().await;
            let who = fixture
                .start(&format!("{RELEASE}expires = 2026-06-01T12:00:10Z\n"))
                .await;
            let let_go = occupy();
            let (who, request) = signing(who, LARGE);
            let mut large = fixture.broker.perform(who, request);
            assert!(poll_once(&mut large).is_pending());
            fixture.clock.advance(SignedDuration::from_secs(waits));
            drop(let_go);
            let result = large.await;
            let used = fixture
                .broker
                .snapshot()
                .grant(&name("bot"), &name("release"))
                .uses;
            if given {
                assert!(matches!(result, Ok(Outcome::Signed { .. })), "{result:?}");
                assert_eq!(used, 1);
            } else {
                assert!(matches!(result, Err(Refusal::Expired)), "{result:?}");
                assert_eq!((used, fixture.rules().await), (0, vec![Rule::Expires]));
            }
        }
    });
}

#[test]
fn a_clock_that_went_back_while_content_waited_is_not_trusted() {
    one_blocking_thread().block_on(async {
        let fixture = Fixture::new().await;
        let who = fixture.start(RELEASE).await;
        let let_go = occupy();
        let (who, request) = signing(who, LARGE);
        let mut large = fixture.broker.perform(who, request);
        assert!(poll_once(&mut large).is_pending());
        fixture.clock.advance(SignedDuration::from_secs(-6));
        drop(let_go);
        assert!(matches!(large.await, Err(Refusal::Unavailable)));
        assert_eq!(fixture.rules().await, [Rule::Clock]);
    });
}

#[test]
fn a_use_has_the_time_at_which_it_took_its_place_on_the_log() {
    one_blocking_thread().block_on(async {
        let fixture = Fixture::new().await;
        let who = fixture.start(RELEASE).await;
        let let_go = occupy();
        let (who, request) = signing(who, LARGE);
        let mut large = fixture.broker.perform(who, request);
        assert!(poll_once(&mut large).is_pending());
        fixture.clock.advance(SignedDuration::from_secs(3));
        let (who, request) = signing(who, SMALL);
        assert!(fixture.broker.perform(who, request).await.is_ok());
        drop(let_go);
        assert!(large.await.is_ok());
        let entries = fixture.entries().await;
        assert_eq!(backwards(&entries), <[&Entry; 0]>::default());
        let uses: Vec<_> = entries
            .iter()
            .filter(|entry| matches!(entry.event, Event::Allowed(_)))
            .map(|entry| entry.time)
            .collect();
        let now = fixture.clock.now();
        assert_eq!(uses, [now, now]);
    });
}

#[tokio::test]
async fn a_settlement_is_never_before_what_is_on_the_log() {
    let fixture = with_slow_key().await;
    let who = fixture.start("[grants.slow]\nsign = { key = \"slow\" }\n").await;
    let entered = Arc::clone(&fixture.resident.as_ref().unwrap().entered);
    tokio::select! {
        biased;
        result = fixture.sign(who, "slow", b"x") => panic!("{result:?}"),
        // As NTP corrects a clock in one step; the future is dropped after that.
        () = async { entered.notified().await; fixture.clock.advance(SignedDuration::from_secs(-4)); } => {}
    }
    assert_eq!(fixture.settlements().await, [Settlement::Abandoned]);
    assert_eq!(backwards(&fixture.entries().await), <[&Entry; 0]>::default());
    // A settlement is on record like any entry: a clock behind it is not trusted.
    tokio::select! {
        biased;
        result = fixture.sign(who, "slow", b"x") => panic!("{result:?}"),
        () = async { entered.notified().await; fixture.clock.advance(SignedDuration::from_hours(1)); } => {}
    }
    assert_eq!(fixture.settlements().await, [Settlement::Abandoned; 2]);
    assert_eq!(fixture.broker.snapshot().latest(), Some(fixture.clock.now()));
    fixture.clock.advance(SignedDuration::from_mins(-30));
    assert_eq!(fixture.sign(who, "slow", b"x").await, Err(Refusal::Unavailable));
    assert_eq!(fixture.rules().await, [Rule::Clock]);
    assert_eq!(backwards(&fixture.entries().await), <[&Entry; 0]>::default());
}

#[tokio::test]
async fn the_log_goes_back_where_an_operator_vouches_for_the_clock_and_only_there() {
    let fixture = with_slow_key().await;
    let who = fixture.start("[grants.slow]\nsign = { key = \"slow\" }\n").await;
    let entered = Arc::clone(&fixture.resident.as_ref().unwrap().entered);
    fixture.clock.advance(SignedDuration::from_hours(1));
    tokio::select! {
        biased;
        result = fixture.sign(who, "slow", b"x") => panic!("{result:?}"),
        () = async {
            entered.notified().await;
            fixture.clock.advance(SignedDuration::from_hours(-1));
            fixture.broker.accept_clock().await.unwrap();
        } => {}
    }
    let entries = fixture.entries().await;
    let [.., used, accepted, settled] = entries.as_slice() else {
        panic!("{entries:?}")
    };
    assert!(matches!(
        (&used.event, &accepted.event, &settled.event),
        (Event::Allowed(_), Event::ClockAccepted, Event::Settled { .. })
    ));
    assert!(accepted.time < used.time, "the control: it goes back here");
    assert_eq!(settled.time, accepted.time);
    assert_eq!(backwards(&entries), <[&Entry; 0]>::default());
}

#[tokio::test]
async fn what_recovery_settles_is_not_before_what_it_found() {
    let fixture = with_slow_key().await;
    let who = fixture.start("[grants.slow]\nsign = { key = \"slow\" }\n").await;
    let entered = Arc::clone(&fixture.resident.as_ref().unwrap().entered);
    let copy = TempDir::new().unwrap();
    let (from, to) = (fixture.folder.path().join("keyring"), copy.path().join("keyring"));
    tokio::select! {
        biased;
        result = fixture.sign(who, "slow", b"x") => panic!("{result:?}"),
        // As a crash in the middle of a signature leaves it.
        () = async { entered.notified().await; copy_folder(&from, &to); } => {}
    }
    fixture.clock.advance(SignedDuration::from_hours(-1));
    let broker = LocalBroker::open(options(&copy, &fixture.clock, fixture.resident.as_ref(), None))
        .await
        .unwrap();
    assert_eq!(
        broker.recovered().map(|recovered| recovered.indeterminate),
        Some(1)
    );
    broker.close().await.unwrap();
    let reader = Reader::open(&to.join(AUDIT_FOLDER)).unwrap();
    let entries: Vec<_> = reader.entries(0).map(|entry| entry.unwrap().1).collect();
    assert!(entries.iter().any(|entry| matches!(
        entry.event,
        Event::Settled {
            settlement: Settlement::Indeterminate,
            ..
        }
    )));
    assert_eq!(backwards(&entries), <[&Entry; 0]>::default());
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
}
