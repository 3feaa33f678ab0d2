//! Boxes and MACs that wait for an approval: shown, let go on once as they were shown, refused otherwise. Each refusal beside what is let
//! through. Evidence waits likewise; a real device's is tested through a real guest.

use claviger_core::ContentDigest;
use claviger_core::approval::{AnsweredBy, ApprovalId, Content, Subject};
use claviger_core::audit::{ApprovalEnd, Operation, Use};

use super::super::{AnswerError, MAX_GUESSES, Rotation};
use super::approvals::{ME, pending};
use super::symmetric::{HOOK, STATE, fixture};
use super::*;

const EACH: &str = "approval = \"each\"\n";
const FIRST: &str = "approval = \"first-use\"\n";

/// A use that is asked for elsewhere: what came of it, as bytes.
type Using = tokio::task::JoinHandle<Result<Vec<u8>, Refusal>>;

/// What is asked for, with a box and a tag at hand.
type Start = fn(Arc<Fixture>, InstanceId, Made) -> Using;

/// Made before anything waits.
#[derive(Clone)]
struct Made {
    sealed: Vec<u8>,
    tag: Vec<u8>,
}

const USES: [(&str, Start); 4] = [
    ("seal", |it, who, _| {
        tokio::spawn(async move { it.seal(who, "state", b"wxyz", b"pin").await })
    }),
    ("unseal", |it, who, made| {
        tokio::spawn(async move { it.unseal(who, "state", &made.sealed, b"pin").await })
    }),
    ("generate", |it, who, _| {
        tokio::spawn(async move { it.tag(who, "hook", b"content").await })
    }),
    ("verify", |it, who, made| {
        tokio::spawn(async move {
            let valid = it.verify(who, "hook", b"content", &made.tag).await?;
            Ok(vec![u8::from(valid)])
        })
    }),
];

/// A fixture, and what an agent of it made under a manifest that wants no approval.
async fn made() -> (Arc<Fixture>, Made) {
    let fixture = fixture().await;
    let free = fixture.start(&format!("{STATE}{HOOK}")).await;
    let sealed = fixture.seal(free, "state", b"wxyz", b"pin").await.unwrap();
    let tag = fixture.tag(free, "hook", b"content").await.unwrap();
    fixture.broker.end(free, InstanceEnd::Finished);
    (Arc::new(fixture), Made { sealed, tag })
}

fn wanting(constraints: &str) -> String {
    format!("{STATE}{constraints}{HOOK}{constraints}")
}

async fn last_use(fixture: &Fixture) -> Use {
    let mut events = fixture.events().await.into_iter().rev();
    let found = events.find_map(|event| match event {
        Event::Allowed(used) => Some(used),
        _ => None,
    });
    found.unwrap()
}

fn uses(fixture: &Fixture) -> u64 {
    let ledger = fixture.broker.snapshot();
    let of = |alias| ledger.grant(&name("bot"), &name(alias));
    of("state").uses + of("hook").uses
}

async fn end_of_last(fixture: &Fixture) -> Option<ApprovalEnd> {
    let mut events = fixture.events().await.into_iter().rev();
    events.find_map(|event| match event {
        Event::ApprovalEnded { end, .. } => Some(end),
        _ => None,
    })
}

#[tokio::test]
async fn each_right_waits_is_shown_and_is_done_once_it_is_approved() {
    let (fixture, made) = made().await;
    let who = fixture.start(&wanting(EACH)).await;
    let before = uses(&fixture);
    for (kind, start) in USES {
        let using = start(Arc::clone(&fixture), who, made.clone());
        let one = pending(&fixture.broker, 1).await.remove(0);
        assert_eq!(one.kind, kind);
        let question = fixture.broker.approval_question(one.id).unwrap();
        match (&question.subject, kind) {
            (
                Subject::Seal {
                    key,
                    context,
                    plaintext,
                    ..
                },
                "seal",
            ) => {
                assert_eq!(key.to_string(), "state@v1");
                assert_eq!((context.text(), plaintext.text()), (Some("pin"), Some("wxyz")));
            }
            (Subject::Unseal { key, context, sealed }, "unseal") => {
                assert_eq!(key.as_ref().unwrap().to_string(), "state@v1");
                assert_eq!(context.text(), Some("pin"));
                assert_eq!(*sealed, Content::unread(&made.sealed));
            }
            (Subject::Generate { key, label, content }, "generate") => {
                assert_eq!(
                    (key.to_string().as_str(), label.as_str()),
                    ("hook@v1", "acme/hook")
                );
                assert_eq!(content.text(), Some("content"));
            }
            (
                Subject::Verify {
                    key, content, tag, ..
                },
                "verify",
            ) => {
                assert_eq!(key.as_ref().unwrap().to_string(), "hook@v1");
                assert_eq!(
                    (content.text(), *tag),
                    (Some("content"), ContentDigest::of(&made.tag))
                );
            }
            (other, _) => panic!("{kind}: {other:?}"),
        }
        let was = uses(&fixture);
        fixture.broker.approve(one.id, ME).await.unwrap();
        let done = using.await.unwrap().unwrap();
        match kind {
            "unseal" => assert_eq!(done, b"wxyz"),
            "verify" => assert_eq!(done, [1]),
            _ => assert!(!done.is_empty()),
        }
        assert_eq!(uses(&fixture), was + 1, "nothing was reserved while it waited");
        assert_eq!(last_use(&fixture).await.approval, Some(one.id));
        // What was answered is answered.
        let replayed = fixture.broker.approve(one.id, ME).await;
        assert!(matches!(replayed, Err(AnswerError::Unknown(id)) if id == one.id));
    }
    assert_eq!(uses(&fixture), before + 4);
    let text = serde_json::to_string(&fixture.entries().await).unwrap();
    assert!(!text.contains("wxyz"), "no text on the log");
}

#[tokio::test]
async fn what_is_not_approved_is_not_done_and_uses_nothing_up() {
    let (fixture, made) = made().await;
    let who = fixture
        .start(&wanting(&format!("{EACH}uses = 3\non-violation = \"suspend\"\n")))
        .await;
    let before = uses(&fixture);
    for (kind, start) in USES {
        let using = start(Arc::clone(&fixture), who, made.clone());
        let one = pending(&fixture.broker, 1).await.remove(0);
        fixture.broker.deny_approval(one.id, ME, "no").await.unwrap();
        assert_eq!(using.await.unwrap(), Err(Refusal::NotApproved), "{kind}");
        let late = fixture.broker.approve(one.id, ME).await;
        assert!(matches!(late, Err(AnswerError::Unknown(_))), "{kind}");
    }
    assert_eq!(uses(&fixture), before);
    assert_eq!(fixture.rules().await, [Rule::Approval; 4]);
    assert_eq!(fixture.broker.not_approved(), 4);
    // The control: nothing is suspended, and what is left can be used.
    for (_, start) in USES {
        let using = start(Arc::clone(&fixture), who, made.clone());
        let one = pending(&fixture.broker, 1).await.remove(0);
        fixture.broker.approve(one.id, ME).await.unwrap();
        using.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn no_operator_means_no() {
    let (fixture, made) = made().await;
    let who = fixture
        .start(&wanting(&format!("{EACH}approval-timeout = \"30 s\"\n")))
        .await;
    for (kind, start) in USES {
        let refused = start(Arc::clone(&fixture), who, made.clone()).await.unwrap();
        assert_eq!(refused, Err(Refusal::NotApproved), "{kind}");
        assert_eq!(end_of_last(&fixture).await, Some(ApprovalEnd::Expired));
    }
    assert!(fixture.broker.approvals().is_empty());
}

#[tokio::test]
async fn an_approval_is_for_its_own_request_and_the_same_text_is_asked_about_anew() {
    let (fixture, made) = made().await;
    let who = fixture.start(&wanting(EACH)).await;
    let [(_, seal), (_, unseal), ..] = USES;
    let sealing = seal(Arc::clone(&fixture), who, made.clone());
    let first = pending(&fixture.broker, 1).await.remove(0);
    let again = seal(Arc::clone(&fixture), who, made.clone());
    let opening = unseal(Arc::clone(&fixture), who, made);
    let all = pending(&fixture.broker, 3).await;
    let second = all
        .iter()
        .find(|one| one.kind == "seal" && one.id != first.id)
        .unwrap();
    // What is bound goes on the log: it must not say whether two texts are the same, nor be guessed from one.
    assert_ne!(first.request, second.request);
    fixture.broker.approve(first.id, ME).await.unwrap();
    sealing.await.unwrap().unwrap();
    for replayed in [first.id, ApprovalId::new([9; 8])] {
        assert!(fixture.broker.approve(replayed, ME).await.is_err());
    }
    assert!(
        !again.is_finished() && !opening.is_finished(),
        "the others wait on"
    );
    for one in fixture.broker.approvals() {
        fixture.broker.approve(one.id, ME).await.unwrap();
    }
    again.await.unwrap().unwrap();
    opening.await.unwrap().unwrap();
}

/// What happens while a use waits.
type Meanwhile = for<'a> fn(&'a Fixture, InstanceId) -> BoxFuture<'a, ()>;
/// What it leads to although the use is approved.
type Decided = Result<(), (Refusal, Rule)>;

const BOTH: [&str; 2] = ["state", "hook"];

fn rows() -> [(&'static str, Meanwhile, Decided, Decided); 9] {
    let refused = |refusal, rule| Err((refusal, rule));
    let stopped = refused(Refusal::Suspended, Rule::Suspension);
    [
        ("nothing", |_, _| Box::pin(async {}), Ok(()), Ok(())),
        (
            "suspended",
            |it, _| {
                Box::pin(async {
                    for grant in BOTH {
                        it.broker.suspend(&name("bot"), &name(grant)).await.unwrap();
                    }
                })
            },
            stopped,
            stopped,
        ),
        (
            "agent suspended",
            |it, _| Box::pin(async { it.broker.suspend_agent(&name("bot")).await.unwrap() }),
            stopped,
            stopped,
        ),
        (
            "panic",
            |it, _| Box::pin(async { it.broker.panic().await.unwrap() }),
            stopped,
            stopped,
        ),
        (
            "key disabled",
            |it, _| {
                Box::pin(async {
                    for key in BOTH {
                        it.broker
                            .set_key_state(&name(key), KeyState::Disabled)
                            .await
                            .unwrap();
                    }
                })
            },
            refused(Refusal::Revoked, Rule::KeyState),
            refused(Refusal::Revoked, Rule::KeyState),
        ),
        (
            // A new version makes what is new; the one before still opens what it made.
            "key rotated",
            |it, _| {
                Box::pin(async {
                    for key in BOTH {
                        it.broker
                            .rotate_key(&name(key), Rotation::default())
                            .await
                            .unwrap();
                    }
                })
            },
            refused(Refusal::NotApproved, Rule::Approval),
            Ok(()),
        ),
        (
            "version revoked",
            |it, _| {
                Box::pin(async {
                    for key in BOTH {
                        it.broker.compromise_key(&name(key), None, None).await.unwrap();
                    }
                })
            },
            refused(Refusal::NotApproved, Rule::Approval),
            refused(Refusal::NotApproved, Rule::Approval),
        ),
        (
            "expired",
            |it, _| Box::pin(async { it.clock.advance(SignedDuration::from_secs(60)) }),
            refused(Refusal::Expired, Rule::Expires),
            refused(Refusal::Expired, Rule::Expires),
        ),
        (
            "instance ended",
            |it, who| Box::pin(async move { it.broker.end(who, InstanceEnd::Finished) }),
            refused(Refusal::NotGranted, Rule::Instance),
            refused(Refusal::NotGranted, Rule::Instance),
        ),
    ]
}

#[tokio::test]
async fn what_is_approved_is_decided_anew() {
    for (what, meanwhile, makes, takes) in rows() {
        for (kind, start) in USES {
            let (fixture, made) = made().await;
            let grants = wanting(&format!("{EACH}uses = 2\nexpires = 2026-06-01T12:01:00Z\n"));
            let who = fixture.start(&grants).await;
            let before = uses(&fixture);
            let using = start(Arc::clone(&fixture), who, made);
            let one = pending(&fixture.broker, 1).await.remove(0);
            meanwhile(&fixture, who).await;
            fixture.broker.approve(one.id, ME).await.unwrap();
            let done = using.await.unwrap();
            let expected = match kind {
                "seal" | "generate" => makes,
                _ => takes,
            };
            assert_eq!(
                done.as_ref().map(drop).map_err(|no| *no),
                expected.map_err(|(no, _)| no),
                "{what}, {kind}"
            );
            let rules: Vec<_> = expected.err().map(|(_, rule)| rule).into_iter().collect();
            assert_eq!(fixture.rules().await, rules, "{what}, {kind}");
            assert_eq!(
                uses(&fixture) - before,
                u64::from(expected.is_ok()),
                "{what}, {kind}"
            );
            assert!(fixture.broker.approve(one.id, ME).await.is_err(), "it is spent");
        }
    }
}

#[tokio::test]
async fn a_first_use_stands_for_its_own_right_until_the_manifest_changes() {
    let (fixture, made) = made().await;
    let who = fixture.start(&wanting(FIRST)).await;
    let [(_, seal), (_, unseal), ..] = USES;
    let sealing = seal(Arc::clone(&fixture), who, made.clone());
    let one = pending(&fixture.broker, 1).await.remove(0);
    fixture.broker.approve(one.id, ME).await.unwrap();
    sealing.await.unwrap().unwrap();
    // The others follow, over a restart, too.
    let follow = seal(Arc::clone(&fixture), who, made.clone());
    follow.await.unwrap().unwrap();
    let fixture = Arc::new(Arc::into_inner(fixture).unwrap().reopen().await);
    let who = fixture.start(&wanting(FIRST)).await;
    let follow = seal(Arc::clone(&fixture), who, made.clone());
    follow.await.unwrap().unwrap();
    assert_eq!(last_use(&fixture).await.approval, Some(one.id));
    // Whoever may put something into boxes may not open them by that.
    let opening = unseal(Arc::clone(&fixture), who, made.clone());
    let two = pending(&fixture.broker, 1).await.remove(0);
    fixture.broker.deny_approval(two.id, ME, "").await.unwrap();
    assert_eq!(opening.await.unwrap(), Err(Refusal::NotApproved));
    let ledger = fixture.broker.snapshot();
    let follows = |operation| {
        let (bot, state) = (name("bot"), name("state"));
        let manifest = Fixture::manifest(&wanting(FIRST)).digest;
        ledger.approved(&bot, &state, ComponentDigest::of(CODE), manifest, operation)
    };
    assert_eq!(follows(Some(Operation::Seal)), Some(one.id), "the control");
    assert_eq!((follows(Some(Operation::Unseal)), follows(None)), (None, None));
    // Another revision asks anew.
    let changed = fixture.start(&format!("{}# changed\n", wanting(FIRST))).await;
    let sealing = seal(Arc::clone(&fixture), changed, made);
    let three = pending(&fixture.broker, 1).await.remove(0);
    assert_ne!(three.request, one.request);
    fixture.broker.deny_approval(three.id, ME, "").await.unwrap();
    assert_eq!(sealing.await.unwrap(), Err(Refusal::NotApproved));
}

#[tokio::test]
async fn what_cannot_be_done_is_not_asked_about() {
    let (fixture, made) = made().await;
    let small = STATE.replace(" }", ", bytes = \"8 B\" }");
    let who = fixture.start(&format!("{small}{EACH}{HOOK}{EACH}")).await;
    let before = uses(&fixture);
    let (long, large) = (vec![0; 1025], vec![0; 2 << 20]);
    let over = fixture.seal(who, "state", b"vwxyz", b"pin").await;
    assert_eq!(over, Err(Refusal::OverBudget), "4 of 8 bytes are left");
    assert_eq!(
        fixture.seal(who, "state", b"1", &long).await,
        Err(Refusal::Invalid)
    );
    assert_eq!(fixture.tag(who, "hook", &large).await, Err(Refusal::Invalid));
    assert!(fixture.broker.approvals().is_empty());
    assert_eq!(uses(&fixture), before);
    let asked = |events: Vec<Event>| {
        let asked = events
            .iter()
            .filter(|event| matches!(event, Event::ApprovalRequested(_)));
        asked.count()
    };
    assert_eq!(asked(fixture.events().await), 0);
    // The control: what there is room for is asked about, and a denial takes none of it.
    for approve in [false, true] {
        let [(_, seal), ..] = USES;
        let using = seal(Arc::clone(&fixture), who, made.clone());
        let one = pending(&fixture.broker, 1).await.remove(0);
        if approve {
            fixture.broker.approve(one.id, ME).await.unwrap();
        } else {
            fixture.broker.deny_approval(one.id, ME, "").await.unwrap();
        }
        assert_eq!(using.await.unwrap().is_ok(), approve);
    }
    let state = fixture.broker.snapshot().grant(&name("bot"), &name("state"));
    assert_eq!(state.sealed, 8);
}

#[tokio::test]
async fn what_opens_nothing_is_asked_about_like_what_does_and_only_an_approved_one_is_a_guess() {
    let (fixture, _) = made().await;
    let who = fixture.start(&wanting(EACH)).await;
    let try_one = async |approve: bool| {
        let it = Arc::clone(&fixture);
        let using = tokio::spawn(async move { it.unseal(who, "state", b"no box", b"pin").await });
        let one = pending(&fixture.broker, 1).await.remove(0);
        let question = fixture.broker.approval_question(one.id).unwrap();
        assert!(matches!(&question.subject, Subject::Unseal { key: None, .. }));
        if approve {
            fixture.broker.approve(one.id, ME).await.unwrap();
        } else {
            fixture.broker.deny_approval(one.id, ME, "").await.unwrap();
        }
        using.await.unwrap()
    };
    for _ in 0..=MAX_GUESSES {
        assert_eq!(try_one(false).await, Err(Refusal::NotApproved));
    }
    for _ in 0..MAX_GUESSES {
        assert_eq!(try_one(true).await, Err(Refusal::Invalid));
    }
    // Nobody is asked about what would not be tried.
    let throttled = fixture.unseal(who, "state", b"no box", b"pin").await;
    assert_eq!(throttled, Err(Refusal::Throttled));
}

#[tokio::test]
async fn a_text_that_was_sealed_is_not_kept_to_compare_with() {
    let (fixture, made) = made().await;
    let who = fixture.start(&wanting(EACH)).await;
    for (kind, start) in USES {
        for round in 0..2 {
            let using = start(Arc::clone(&fixture), who, made.clone());
            let one = pending(&fixture.broker, 1).await.remove(0);
            let question = fixture.broker.approval_question(one.id).unwrap();
            let compared = question.last.as_ref().map(|last| last.kind());
            let expected = (round > 0 && kind != "seal").then_some(kind);
            assert_eq!(compared, expected, "{kind}, {round}");
            fixture
                .broker
                .approve(one.id, AnsweredBy::Operator { uid: 1 })
                .await
                .unwrap();
            using.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_dropped_future_withdraws_its_question() {
    let (fixture, made) = made().await;
    let who = fixture.start(&wanting(EACH)).await;
    for (kind, start) in USES {
        let before = uses(&fixture);
        let using = start(Arc::clone(&fixture), who, made.clone());
        let one = pending(&fixture.broker, 1).await.remove(0);
        using.abort();
        assert!(using.await.unwrap_err().is_cancelled());
        assert_eq!(
            end_of_last(&fixture).await,
            Some(ApprovalEnd::Withdrawn),
            "{kind}"
        );
        assert!(fixture.broker.approve(one.id, ME).await.is_err());
        assert_eq!(uses(&fixture), before);
    }
}
