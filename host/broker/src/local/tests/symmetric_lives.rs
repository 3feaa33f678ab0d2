//! How much and for how long: byte budgets, guesses, and boxes and MACs over the life of their keys, to another machine.

use super::super::{Restoring, Rotation};
use super::symmetric::{HOOK, STATE, fixture};
use super::*;
use crate::keyring::{RotationPlan, Start};

#[tokio::test]
async fn a_byte_budget_is_used_to_its_last_byte_over_a_restart_and_by_failures() {
    let fixture = fixture().await;
    let grants =
        "[grants.state]\nseal = { key = \"state\", allow = [\"seal\", \"unseal\"], bytes = \"20 B\" }\n";
    let who = fixture.start(grants).await;
    let sealed = fixture.seal(who, "state", b"123456", b"c").await.unwrap();
    assert_eq!(
        fixture.unseal(who, "state", &sealed, b"d").await,
        Err(Refusal::Invalid)
    );
    let fixture = fixture.reopen().await;
    let who = fixture.start(grants).await;
    let over = Err(Refusal::OverBudget);
    assert_eq!(fixture.seal(who, "state", b"123456789", b"c").await, over.clone());
    assert_eq!(
        fixture.unseal(who, "state", &sealed, b"c").await.unwrap(),
        b"123456"
    );
    assert_eq!(fixture.unseal(who, "state", &sealed, b"c").await, over);
    fixture.seal(who, "state", b"12", b"c").await.unwrap();
    // Nothing takes no room.
    fixture.seal(who, "state", b"", b"c").await.unwrap();
    assert_eq!(
        fixture.seal(who, "state", b"1", b"c").await,
        Err(Refusal::OverBudget)
    );
    let rules = fixture.rules().await;
    assert_eq!(rules, [Rule::Mismatch, Rule::Budget, Rule::Budget, Rule::Budget]);
    let state = fixture.broker.snapshot().grant(&name("bot"), &name("state"));
    assert_eq!(state.sealed, 20);
}

#[tokio::test]
async fn the_last_bytes_go_to_one_of_many_callers() {
    let fixture = Arc::new(fixture().await);
    let grants = "[grants.state]\nseal = { key = \"state\", allow = [\"seal\"], bytes = \"100 B\" }\n";
    let who = fixture.start(grants).await;
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move { fixture.seal(who, "state", b"0123456789", b"c").await })
        })
        .collect();
    let mut sealed = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => sealed += 1,
            Err(refusal) => assert_eq!(refusal, Refusal::OverBudget),
        }
    }
    assert_eq!(sealed, 10);
}

#[tokio::test]
async fn guesses_are_throttled_reported_once_and_forgotten_after_a_minute() {
    let fixture = fixture().await;
    let who = fixture.start(&format!("{STATE}{HOOK}")).await;
    let sealed = fixture.seal(who, "state", b"text", b"c").await.unwrap();
    let tag = fixture.tag(who, "hook", b"content").await.unwrap();
    for _ in 0..MAX_GUESSES {
        // What opens in between is not counted and does not help.
        fixture.unseal(who, "state", &sealed, b"c").await.unwrap();
        assert_eq!(
            fixture.unseal(who, "state", &sealed, b"d").await,
            Err(Refusal::Invalid)
        );
        assert_eq!(fixture.verify(who, "hook", b"x", &tag).await, Ok(false));
    }
    // Whether it is right is not looked at any more; making is no guessing.
    let throttled = Err(Refusal::Throttled);
    assert_eq!(fixture.unseal(who, "state", &sealed, b"c").await, throttled);
    assert_eq!(
        fixture.verify(who, "hook", b"content", &tag).await,
        Err(Refusal::Throttled)
    );
    fixture.seal(who, "state", b"text", b"c").await.unwrap();
    fixture.tag(who, "hook", b"content").await.unwrap();
    // An agent that runs again is the same agent.
    let again = fixture.start(&format!("{STATE}{HOOK}")).await;
    assert_eq!(fixture.unseal(again, "state", &sealed, b"c").await, throttled);
    let rules = fixture.rules().await.split_off(MAX_GUESSES);
    assert_eq!(rules, [Rule::Guesses; 3]);
    let alerts = |events: Vec<Event>| {
        let of = |event: &Event| {
            matches!(
                event,
                Event::Alert {
                    rule: Rule::Guesses,
                    ..
                }
            )
        };
        events.iter().filter(|event| of(event)).count()
    };
    assert_eq!(alerts(fixture.events().await), 2);

    fixture.clock.advance(SignedDuration::from_secs(60));
    assert_eq!(
        fixture.unseal(who, "state", &sealed, b"c").await.unwrap(),
        b"text"
    );
    assert_eq!(fixture.verify(who, "hook", b"content", &tag).await, Ok(true));
}

#[tokio::test]
async fn guesses_suspend_a_grant_that_says_so_and_one_mismatch_does_not() {
    let fixture = fixture().await;
    let who = fixture
        .start(&format!("{HOOK}on-violation = \"suspend\"\n"))
        .await;
    for _ in 0..MAX_GUESSES {
        assert_eq!(fixture.verify(who, "hook", b"x", b"").await, Ok(false));
    }
    assert_eq!(
        fixture.verify(who, "hook", b"x", b"").await,
        Err(Refusal::Throttled)
    );
    assert_eq!(fixture.tag(who, "hook", b"x").await, Err(Refusal::Suspended));
}

#[tokio::test]
async fn a_key_out_of_use_seals_and_opens_nothing_until_it_is_back() {
    let fixture = fixture().await;
    let who = fixture.start(&format!("{STATE}{HOOK}")).await;
    let sealed = fixture.seal(who, "state", b"text", b"c").await.unwrap();
    let tag = fixture.tag(who, "hook", b"content").await.unwrap();
    for key in ["state", "hook"] {
        fixture
            .broker
            .set_key_state(&name(key), KeyState::Disabled)
            .await
            .unwrap();
    }
    let revoked = Err(Refusal::Revoked);
    assert_eq!(fixture.seal(who, "state", b"text", b"c").await, revoked.clone());
    assert_eq!(fixture.unseal(who, "state", &sealed, b"c").await, revoked.clone());
    // A box or not: where no version opens, nothing that is brought matters.
    assert_eq!(fixture.unseal(who, "state", b"", b"c").await, revoked.clone());
    assert_eq!(fixture.tag(who, "hook", b"content").await, revoked);
    assert_eq!(
        fixture.verify(who, "hook", b"content", &tag).await,
        Err(Refusal::Revoked)
    );
    assert_eq!(fixture.rules().await, [Rule::KeyState; 5]);
    for key in ["state", "hook"] {
        fixture
            .broker
            .set_key_state(&name(key), KeyState::Active)
            .await
            .unwrap();
    }
    assert_eq!(
        fixture.unseal(who, "state", &sealed, b"c").await.unwrap(),
        b"text"
    );
    assert_eq!(fixture.verify(who, "hook", b"content", &tag).await, Ok(true));
}

#[tokio::test]
async fn a_rotation_seals_with_the_new_version_and_opens_with_both_until_the_overlap_ends() {
    let fixture = fixture().await;
    let plan = RotationPlan {
        overlap: std::time::Duration::from_secs(3600),
        ..RotationPlan::default()
    };
    for (key, profile) in [
        ("long", Profile::Seal {}),
        (
            "tags",
            Profile::Mac {
                label: name("acme/tags"),
            },
        ),
    ] {
        let made = fixture.broker.create_planned_symmetric_key(
            name(key),
            profile,
            CustodyKind::Software,
            plan,
            None,
        );
        made.await.unwrap();
    }
    let grants = "[grants.long]\nseal = { key = \"long\", allow = [\"seal\", \"unseal\"] }\n\
                  [grants.tags]\nmac = { key = \"tags\", allow = [\"generate\", \"verify\"] }\n";
    let who = fixture.start(grants).await;
    let mut boxes = Vec::new();
    let mut tags = Vec::new();
    for version in 1..=2 {
        if version == 2 {
            for key in ["long", "tags"] {
                let rotated = fixture.broker.rotate_key(&name(key), Rotation::default()).await;
                assert_eq!(rotated.unwrap().key.version.0, 2);
            }
        }
        let sealed = fixture.seal(who, "long", b"text", b"c").await.unwrap();
        let tag = fixture.tag(who, "tags", b"content").await.unwrap();
        assert_eq!([sealed[4], tag[4]], [version; 2]);
        boxes.push(sealed);
        tags.push(tag);
    }
    let open = async |n: usize| fixture.unseal(who, "long", &boxes[n], b"c").await;
    let verify = async |n: usize| fixture.verify(who, "tags", b"content", &tags[n]).await;
    for n in 0..2 {
        assert_eq!(open(n).await.unwrap(), b"text");
        assert_eq!(verify(n).await, Ok(true));
    }
    // One version's box is not the other's, whatever it says.
    let mut renamed = boxes[0].clone();
    renamed[4] = 2;
    assert_eq!(
        fixture.unseal(who, "long", &renamed, b"c").await,
        Err(Refusal::Invalid)
    );
    fixture.clock.advance(SignedDuration::from_secs(3599));
    assert_eq!(open(0).await.unwrap(), b"text");
    fixture.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(open(0).await, Err(Refusal::Invalid));
    assert_eq!(verify(0).await, Ok(false));
    assert_eq!(open(1).await.unwrap(), b"text");
    assert_eq!(verify(1).await, Ok(true));
    // Staged, a version makes nothing and opens nothing before it is promoted.
    let staged = Rotation {
        start: Start::Staged,
        ..Rotation::default()
    };
    fixture.broker.rotate_key(&name("long"), staged).await.unwrap();
    let sealed = fixture.seal(who, "long", b"text", b"c").await.unwrap();
    assert_eq!(sealed[4], 2);
    let mut renamed = sealed.clone();
    renamed[4] = 3;
    assert_eq!(
        fixture.unseal(who, "long", &renamed, b"c").await,
        Err(Refusal::Invalid)
    );
}

/// A sealer that says what a software TPM's says. What it seals is under its passphrase.
#[derive(Debug)]
struct Hard(Arc<PassphraseSealer>);

impl Sealer for Hard {
    fn assurance(&self) -> Assurance {
        Assurance::Swtpm
    }

    fn seal<'a>(
        &'a self,
        purpose: &'a str,
        secret: &'a Secret,
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        self.0.seal(purpose, secret)
    }

    fn unseal<'a>(
        &'a self,
        purpose: &'a str,
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        self.0.unseal(purpose, sealed)
    }
}

#[tokio::test]
async fn boxes_and_tags_hold_on_the_machine_that_a_backup_is_restored_on() {
    let mut places = Vec::new();
    for passphrase in ["the first machine", "the second machine"] {
        let mut fixture = Fixture::new().await;
        let folder = TempDir::new().unwrap();
        let root = RootSpec {
            kind: RootKind::Swtpm,
            settings: String::new(),
        };
        let mut options = options(&folder, &fixture.clock, None, None);
        options.sealer = Arc::new(Hard(sealer(passphrase)));
        fixture.broker = LocalBroker::create(options, root).await.unwrap();
        fixture.folder = folder;
        places.push(fixture);
    }
    let [first, second] = &places[..] else {
        unreachable!()
    };
    let mut grants = String::new();
    for custody in [CustodyKind::Software, CustodyKind::TpmSealed] {
        let label = name("acme/hook");
        for (key, profile, grant) in [
            ("state", Profile::Seal {}, STATE),
            ("hook", Profile::Mac { label }, HOOK),
        ] {
            let own = format!("{key}-{custody}");
            let made = first.broker.create_symmetric_key(name(&own), profile, custody);
            assert_eq!(made.await.unwrap().custody, custody);
            grants += &grant.replace(key, &own);
        }
    }
    let who = first.start(&grants).await;
    let mut made = Vec::new();
    for custody in ["software", "tpm-sealed"] {
        let sealed = first.seal(who, &format!("state-{custody}"), b"text", b"c").await;
        let tag = first.tag(who, &format!("hook-{custody}"), b"content").await;
        made.push((custody, sealed.unwrap(), tag.unwrap()));
    }

    let (text, recipient) = crate::backup::Identity::generate().unwrap();
    let mut file = Vec::new();
    let recipients = [recipient];
    let backed_up = first.broker.back_up(&recipients, "test", &mut file).await;
    backed_up.unwrap();
    let how = Restoring {
        identities: &crate::backup::Identity::read_all(&text).unwrap(),
        of: None,
        weaken: false,
        by: "test",
    };
    let mut source = std::io::Cursor::new(file);
    second.broker.restore(&mut source, how).await.unwrap();
    let who = second.start(&grants).await;
    for (custody, sealed, tag) in made {
        let text = second
            .unseal(who, &format!("state-{custody}"), &sealed, b"c")
            .await;
        assert_eq!(text.unwrap(), b"text", "{custody}");
        let valid = second
            .verify(who, &format!("hook-{custody}"), b"content", &tag)
            .await;
        assert_eq!(valid, Ok(true), "{custody}");
    }
}
