//! Approvals: given, denied, expired, withdrawn, replayed, for another request, after a change. Each refusal beside what is let through.

use claviger_core::approval::{
    AnsweredBy, ApprovalId, ApprovalMode, Approver, NoVerdict, Question, Subject, Verdict,
};
use claviger_core::audit::ApprovalEnd;

use super::*;
use crate::local::{AnswerError, MAX_PENDING_PER_AGENT, PendingApproval};
use crate::operator::{Command, Reply};

const EACH: &str =
    "[grants.release]\nsign = { key = \"release\", namespace = \"file\" }\napproval = \"each\"\n";
const FIRST: &str =
    "[grants.release]\nsign = { key = \"release\", namespace = \"file\" }\napproval = \"first-use\"\n";
pub(super) const ME: AnsweredBy = AnsweredBy::Operator { uid: 7 };

type Signing = tokio::task::JoinHandle<Result<Vec<u8>, Refusal>>;

impl Fixture {
    /// A signature that is asked for elsewhere.
    fn signing(self: &Arc<Self>, who: InstanceId, content: &'static [u8]) -> Signing {
        let fixture = Arc::clone(self);
        tokio::spawn(async move { fixture.sign(who, "release", content).await })
    }

    /// Everything that waits, once it is so many.
    async fn pending(&self, count: usize) -> Vec<PendingApproval> {
        pending(&self.broker, count).await
    }

    async fn ends(&self) -> Vec<ApprovalEnd> {
        let events = self.events().await;
        events
            .into_iter()
            .filter_map(|event| match event {
                Event::ApprovalEnded { end, .. } => Some(end),
                _ => None,
            })
            .collect()
    }
}

pub(super) async fn pending(broker: &LocalBroker, count: usize) -> Vec<PendingApproval> {
    loop {
        let all = broker.approvals();
        if all.len() == count {
            return all;
        }
        tokio::task::yield_now().await;
    }
}

async fn fixture() -> Arc<Fixture> {
    Arc::new(Fixture::new().await)
}

fn approved() -> ApprovalEnd {
    ApprovalEnd::Approved { by: ME }
}

#[tokio::test]
async fn a_use_waits_is_shown_approved_and_on_the_log_in_this_order() {
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    let signing = fixture.signing(who, b"v1.2.3");
    let one = fixture.pending(1).await.remove(0);
    assert_eq!(
        (one.agent.as_str(), one.grant.as_str(), one.size),
        ("bot", "release", 6)
    );
    let question = fixture.broker.approval_question(one.id).unwrap();
    let Subject::Sign { key, content, .. } = &question.subject else {
        panic!("{question:?}")
    };
    assert_eq!(
        (key.to_string().as_str(), content.text()),
        ("release@v1", Some("v1.2.3"))
    );
    assert!(question.last.is_none());
    let state = || {
        fixture
            .broker
            .snapshot()
            .grant(&name("bot"), &name("release"))
            .uses
    };
    assert_eq!(state(), 0, "nothing is reserved while it waits");

    fixture.broker.approve(one.id, ME).await.unwrap();
    assert_eq!(fixture.ends().await, [approved()], "on record when that returns");
    assert!(signing.await.unwrap().unwrap().starts_with(b"-----BEGIN SSH"));
    assert_eq!(state(), 1);
    let events = fixture.events().await;
    let at = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted).unwrap();
    let asked = at(&|event| matches!(event, Event::ApprovalRequested(_)));
    let ended = at(&|event| matches!(event, Event::ApprovalEnded { .. }));
    let allowed = at(&|event| matches!(event, Event::Allowed(_)));
    assert!(asked < ended && ended < allowed);
    assert!(matches!(&events[allowed], Event::Allowed(used) if used.approval == Some(one.id)));
    assert!(matches!(&events[asked], Event::ApprovalRequested(request) if request.request == one.request));
    let text = serde_json::to_string(&fixture.entries().await).unwrap();
    assert!(!text.contains("v1.2.3"), "no content on the log: {text}");

    // The next one is asked about again, beside the last one.
    let signing = fixture.signing(who, b"v1.2.4");
    let next = fixture.pending(1).await.remove(0);
    assert_ne!(next.id, one.id);
    let question = fixture.broker.approval_question(next.id).unwrap();
    let last = question.last.as_deref().unwrap();
    assert_eq!(last.content().text(), Some("v1.2.3"));
    fixture.broker.approve(next.id, ME).await.unwrap();
    signing.await.unwrap().unwrap();
    assert_eq!(fixture.broker.not_approved(), 0);
}

#[tokio::test]
async fn an_approval_is_good_once_and_for_its_own_request() {
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    let (first, second) = (fixture.signing(who, b"one"), fixture.signing(who, b"two"));
    let all = fixture.pending(2).await;
    let of = |digest: &claviger_core::ContentDigest| {
        let found = all.iter().find(|one| {
            let question = fixture.broker.approval_question(one.id).unwrap();
            question.subject.content().digest == *digest
        });
        found.unwrap().id
    };
    let (one, two) = (
        of(&claviger_core::ContentDigest::of(b"one")),
        of(&claviger_core::ContentDigest::of(b"two")),
    );
    fixture.broker.approve(one, ME).await.unwrap();
    first.await.unwrap().unwrap();
    assert!(!second.is_finished(), "the other one waits on");
    for again in [one, ApprovalId::new([9; 8])] {
        let replayed = fixture.broker.approve(again, ME).await;
        assert!(
            matches!(replayed, Err(AnswerError::Unknown(id)) if id == again),
            "{replayed:?}"
        );
    }
    assert!(!second.is_finished());
    fixture.broker.approve(two, ME).await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(fixture.ends().await, [approved(), approved()]);
}

#[tokio::test]
async fn a_denial_refuses_says_why_on_the_log_alone_and_counts_nothing() {
    let fixture = fixture().await;
    let who = fixture
        .start(&format!("{EACH}uses = 1\non-violation = \"suspend\"\n"))
        .await;
    let signing = fixture.signing(who, b"x");
    let one = fixture.pending(1).await.remove(0);
    fixture
        .broker
        .deny_approval(one.id, ME, "not\non a Friday")
        .await
        .unwrap();
    assert_eq!(signing.await.unwrap(), Err(Refusal::NotApproved));
    assert_eq!(fixture.rules().await, [Rule::Approval]);
    let reason = "not\\u{a}on a Friday".to_owned();
    assert_eq!(fixture.ends().await, [ApprovalEnd::Denied { by: ME, reason }]);
    assert_eq!(fixture.broker.not_approved(), 1);
    let late = fixture.broker.approve(one.id, ME).await;
    assert!(matches!(late, Err(AnswerError::Unknown(_))));
    // The control: the one use is left, and nothing is suspended.
    let signing = fixture.signing(who, b"x");
    let one = fixture.pending(1).await.remove(0);
    fixture.broker.approve(one.id, ME).await.unwrap();
    signing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_operator_means_no() {
    let fixture = fixture().await;
    let who = fixture
        .start(&format!("{EACH}approval-timeout = \"30 s\"\n"))
        .await;
    // The time of tests runs on when nothing else does.
    assert_eq!(
        fixture.sign(who, "release", b"x").await,
        Err(Refusal::NotApproved)
    );
    assert_eq!(fixture.ends().await, [ApprovalEnd::Expired]);
    assert_eq!(fixture.rules().await, [Rule::Approval]);
    assert!(fixture.broker.approvals().is_empty());
}

#[tokio::test]
async fn a_clock_that_jumps_makes_no_approval_last_longer() {
    // Ahead: what was asked has expired, whatever the timer says. At its last moment it counts: the control.
    for (seconds, end, signed) in [(299, approved(), true), (300, ApprovalEnd::Expired, false)] {
        let fixture = fixture().await;
        let who = fixture.start(EACH).await;
        let signing = fixture.signing(who, b"x");
        let one = fixture.pending(1).await.remove(0);
        fixture.clock.advance(SignedDuration::from_secs(seconds));
        let answered = fixture.broker.approve(one.id, ME).await;
        assert_eq!(answered.is_ok(), signed, "{answered:?}");
        assert_eq!(signing.await.unwrap().is_ok(), signed);
        assert_eq!(fixture.ends().await, [end]);
    }
    // Back: approved, and decided anew by a clock that is behind the record.
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    let signing = fixture.signing(who, b"x");
    let one = fixture.pending(1).await.remove(0);
    fixture.clock.advance(SignedDuration::from_secs(-60));
    fixture.broker.approve(one.id, ME).await.unwrap();
    assert_eq!(signing.await.unwrap(), Err(Refusal::Unavailable));
    assert_eq!(fixture.rules().await, [Rule::Clock]);
}

/// What happens while a use waits.
type Meanwhile = for<'a> fn(&'a Fixture, InstanceId) -> BoxFuture<'a, ()>;
/// What it leads to although the use is approved.
type Decided = Result<(), (Refusal, Rule)>;

#[tokio::test]
async fn what_is_approved_is_decided_anew() {
    let rows: [(&str, Meanwhile, Decided); 9] = [
        ("nothing", |_, _| Box::pin(async {}), Ok(())),
        (
            "suspended",
            |it, _| Box::pin(async { it.broker.suspend(&name("bot"), &name("release")).await.unwrap() }),
            Err((Refusal::Suspended, Rule::Suspension)),
        ),
        (
            "agent suspended",
            |it, _| Box::pin(async { it.broker.suspend_agent(&name("bot")).await.unwrap() }),
            Err((Refusal::Suspended, Rule::Suspension)),
        ),
        (
            "panic",
            |it, _| Box::pin(async { it.broker.panic().await.unwrap() }),
            Err((Refusal::Suspended, Rule::Suspension)),
        ),
        (
            "key disabled",
            |it, _| {
                Box::pin(async {
                    it.broker
                        .set_key_state(&name("release"), KeyState::Disabled)
                        .await
                        .unwrap();
                })
            },
            Err((Refusal::Revoked, Rule::KeyState)),
        ),
        (
            "key rotated",
            |it, _| {
                Box::pin(async {
                    let rotation = Rotation::default();
                    it.broker.rotate_key(&name("release"), rotation).await.unwrap();
                })
            },
            // What was approved was a signature of the version before.
            Err((Refusal::NotApproved, Rule::Approval)),
        ),
        (
            "expired",
            |it, _| Box::pin(async { it.clock.advance(SignedDuration::from_secs(60)) }),
            Err((Refusal::Expired, Rule::Expires)),
        ),
        (
            "last use taken",
            |it, _| {
                Box::pin(async {
                    // Another instance of the agent under a manifest that wants no approval.
                    let other = it.start(&format!("{RELEASE}uses = 1\n")).await;
                    it.sign(other, "release", b"faster").await.unwrap();
                })
            },
            Err((Refusal::OverBudget, Rule::Uses)),
        ),
        (
            "instance ended",
            |it, who| Box::pin(async move { it.broker.end(who, InstanceEnd::Finished) }),
            Err((Refusal::NotGranted, Rule::Instance)),
        ),
    ];
    for (what, meanwhile, expected) in rows {
        let fixture = fixture().await;
        let grants = format!("{EACH}uses = 1\nexpires = 2026-06-01T12:01:00Z\n");
        let who = fixture.start(&grants).await;
        let signing = fixture.signing(who, b"x");
        let one = fixture.pending(1).await.remove(0);
        meanwhile(&fixture, who).await;
        fixture.broker.approve(one.id, ME).await.unwrap();
        let signed = signing.await.unwrap();
        assert_eq!(
            signed.as_ref().map(drop).map_err(|no| *no),
            expected.map_err(|(no, _)| no),
            "{what}"
        );
        let rules: Vec<_> = expected.err().map(|(_, rule)| rule).into_iter().collect();
        assert_eq!(fixture.rules().await, rules, "{what}");
        // An approval is spent all the same.
        assert!(fixture.broker.approve(one.id, ME).await.is_err());
    }
}

#[tokio::test]
async fn a_first_use_stands_for_the_others_of_the_same_code_and_manifest() {
    let fixture = Fixture::new().await;
    let fixture = Arc::new(fixture);
    let who = fixture.start(FIRST).await;
    let signing = fixture.signing(who, b"1");
    let one = fixture.pending(1).await.remove(0);
    assert_eq!(one.mode, ApprovalMode::FirstUse);
    fixture.broker.approve(one.id, ME).await.unwrap();
    signing.await.unwrap().unwrap();
    fixture.sign(who, "release", b"2").await.unwrap();
    let again = fixture.start(FIRST).await;
    fixture.sign(again, "release", b"3").await.unwrap();

    // It is on the log: a restart forgets nothing.
    let fixture = Arc::new(Arc::into_inner(fixture).unwrap().reopen().await);
    let who = fixture.start(FIRST).await;
    fixture.sign(who, "release", b"4").await.unwrap();
    let used = fixture
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::Allowed(used) => Some(used.approval),
            _ => None,
        });
    assert_eq!(
        used.collect::<Vec<_>>(),
        [Some(one.id); 4],
        "each use names its approval"
    );

    // Another revision of the manifest asks anew, a comment is enough; and so does what was suspended.
    let changed = fixture.start(&format!("{FIRST}# another revision\n")).await;
    let signing = fixture.signing(changed, b"5");
    let two = fixture.pending(1).await.remove(0);
    assert_ne!(two.request, one.request);
    fixture.broker.deny_approval(two.id, ME, "").await.unwrap();
    assert_eq!(signing.await.unwrap(), Err(Refusal::NotApproved));
    fixture.sign(who, "release", b"6").await.unwrap();
    fixture
        .broker
        .suspend(&name("bot"), &name("release"))
        .await
        .unwrap();
    fixture
        .broker
        .resume(&name("bot"), &name("release"))
        .await
        .unwrap();
    let signing = fixture.signing(who, b"7");
    let three = fixture.pending(1).await.remove(0);
    fixture.broker.approve(three.id, ME).await.unwrap();
    signing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_first_use_that_was_stopped_while_it_waited_stands_for_no_other() {
    for stopped in [true, false] {
        let fixture = Arc::new(Fixture::new().await);
        let who = fixture.start(FIRST).await;
        let signing = fixture.signing(who, b"1");
        let one = fixture.pending(1).await.remove(0);
        if stopped {
            let (bot, release) = (name("bot"), name("release"));
            fixture.broker.suspend(&bot, &release).await.unwrap();
            fixture.broker.resume(&bot, &release).await.unwrap();
        }
        fixture.broker.approve(one.id, ME).await.unwrap();
        signing.await.unwrap().unwrap();
        let next = fixture.signing(who, b"2");
        if !stopped {
            next.await.unwrap().expect("the control: the others follow");
            continue;
        }
        assert_eq!(fixture.pending(1).await.len(), 1, "it is asked for again");
    }
}

#[tokio::test]
async fn an_approval_of_each_use_is_none_of_a_first_use() {
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    let signing = fixture.signing(who, b"1");
    let one = fixture.pending(1).await.remove(0);
    fixture.broker.approve(one.id, ME).await.unwrap();
    signing.await.unwrap().unwrap();
    let ledger = fixture.broker.snapshot();
    let (bot, release, code) = (name("bot"), name("release"), ComponentDigest::of(CODE));
    let follows = ledger.approved(&bot, &release, code, Fixture::manifest(EACH).digest, None);
    assert_eq!(follows, None);
}

#[tokio::test]
async fn a_dropped_future_withdraws_its_question() {
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    let signing = fixture.signing(who, b"x");
    let one = fixture.pending(1).await.remove(0);
    signing.abort();
    assert!(signing.await.unwrap_err().is_cancelled());
    assert_eq!(fixture.ends().await, [ApprovalEnd::Withdrawn]);
    assert!(fixture.broker.approvals().is_empty());
    let late = fixture.broker.approve(one.id, ME).await;
    assert!(matches!(late, Err(AnswerError::Unknown(_))), "{late:?}");
    assert_eq!(fixture.settlements().await, [], "nothing was allowed");
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_free_place_takes_the_next() {
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    let waiting: Vec<_> = (0..MAX_PENDING_PER_AGENT)
        .map(|_| fixture.signing(who, b"x"))
        .collect();
    let all = fixture.pending(MAX_PENDING_PER_AGENT).await;
    assert_eq!(
        fixture.sign(who, "release", b"one more").await,
        Err(Refusal::Throttled)
    );
    assert_eq!(fixture.rules().await, [Rule::Approval]);
    fixture.broker.deny_approval(all[0].id, ME, "").await.unwrap();
    let next = fixture.signing(who, b"y");
    fixture.pending(MAX_PENDING_PER_AGENT).await;
    assert!(!next.is_finished());
    for signing in waiting.into_iter().chain([next]) {
        signing.abort();
    }
}

#[tokio::test]
async fn content_is_held_up_to_a_bound_only() {
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    static LARGE: [u8; 16 << 20] = [b'x'; 16 << 20];
    let waiting: Vec<_> = (0..4).map(|_| fixture.signing(who, &LARGE)).collect();
    let all = fixture.pending(4).await;
    let question = fixture.broker.approval_question(all[0].id).unwrap();
    assert_eq!(
        question.subject.content().start.len(),
        claviger_core::approval::MAX_SHOWN
    );
    assert_eq!(fixture.sign(who, "release", b"x").await, Err(Refusal::Throttled));
    for signing in waiting {
        signing.abort();
        drop(signing.await);
    }
    let signing = fixture.signing(who, b"x");
    fixture.pending(1).await;
    signing.abort();
}

#[tokio::test]
async fn a_log_that_cannot_be_written_approves_nothing() {
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    let signing = fixture.signing(who, b"x");
    let one = fixture.pending(1).await.remove(0);
    std::fs::remove_dir_all(fixture.folder.path().join("keyring").join(AUDIT_FOLDER)).unwrap();
    let answered = fixture.broker.approve(one.id, ME).await;
    assert!(matches!(answered, Err(AnswerError::Audit)), "{answered:?}");
    assert_eq!(signing.await.unwrap(), Err(Refusal::Unavailable));
    assert_eq!(
        fixture.sign(who, "release", b"x").await,
        Err(Refusal::Unavailable)
    );
}

#[tokio::test]
async fn a_host_that_closes_ends_every_wait() {
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    let signing = fixture.signing(who, b"x");
    let one = fixture.pending(1).await.remove(0);
    fixture.broker.close().await.unwrap();
    assert_eq!(signing.await.unwrap(), Err(Refusal::Unavailable));
    assert!(fixture.broker.approve(one.id, ME).await.is_err());
}

#[tokio::test]
async fn operators_answer_by_command() {
    let fixture = fixture().await;
    let who = fixture.start(EACH).await;
    let (first, second) = (fixture.signing(who, b"a"), fixture.signing(who, b"b"));
    fixture.pending(2).await;
    let order = async |command| fixture.broker.command(command, None).await;
    let Reply::Approvals(all) = order(Command::Approvals).await.unwrap() else {
        panic!()
    };
    let Reply::Approval(question) = order(Command::ShowApproval { id: all[0].id }).await.unwrap() else {
        panic!()
    };
    let json = serde_json::to_string(&*question).unwrap();
    assert_eq!(serde_json::from_str::<Question>(&json).unwrap(), *question);
    order(Command::Approve { id: all[0].id }).await.unwrap();
    let reason = "no".to_owned();
    order(Command::Deny {
        id: all[1].id,
        reason,
    })
    .await
    .unwrap();
    let signed = [first.await.unwrap().is_ok(), second.await.unwrap().is_ok()];
    assert_eq!(signed.iter().filter(|signed| **signed).count(), 1);
    let uid = rustix::process::geteuid().as_raw();
    let by = AnsweredBy::Operator { uid };
    assert_eq!(fixture.ends().await[0], ApprovalEnd::Approved { by });
    assert!(order(Command::Approve { id: all[0].id }).await.is_err());
}

/// An approver that answers at once, or not at all.
#[derive(Debug)]
struct Scripted(fn(&Question) -> Result<Verdict, NoVerdict>);

impl Approver for Scripted {
    fn ask(&self, question: Arc<Question>) -> BoxFuture<'_, Result<Verdict, NoVerdict>> {
        Box::pin(async move { (self.0)(&question) })
    }
}

#[tokio::test]
async fn another_approver_may_answer_but_only_what_was_asked() {
    let hook = || AnsweredBy::Webhook {
        origin: "https://approve.test".parse().unwrap(),
    };
    type Row = (fn(&Question) -> Result<Verdict, NoVerdict>, bool);
    let rows: [Row; 4] = [
        (|asked| Ok(Verdict::approve(asked, ME)), true),
        (|_| Err(NoVerdict), false),
        (
            |asked| {
                Ok(Verdict {
                    id: ApprovalId::new([1; 8]),
                    ..Verdict::approve(asked, ME)
                })
            },
            false,
        ),
        (
            |asked| {
                Ok(Verdict {
                    request: RequestDigest::of(b"another"),
                    ..Verdict::approve(asked, ME)
                })
            },
            false,
        ),
    ];
    for (index, (script, approves)) in rows.into_iter().enumerate() {
        let made = Fixture::new().await;
        let Fixture {
            folder,
            clock,
            broker,
            ..
        } = made;
        broker.close().await.unwrap();
        drop(broker);
        let options = options(&folder, &clock, None, None).approver(Arc::new(Scripted(script)));
        let broker = LocalBroker::open(options).await.unwrap();
        let fixture = Arc::new(Fixture {
            folder,
            clock,
            resident: None,
            egress: None,
            broker,
        });
        let who = fixture.start(EACH).await;
        let signing = fixture.signing(who, b"x");
        if !approves {
            // Whoever else may answer still can.
            let one = fixture.pending(1).await.remove(0);
            fixture.broker.approve(one.id, hook()).await.unwrap();
        }
        signing.await.unwrap().unwrap();
        let by = if approves { ME } else { hook() };
        assert_eq!(
            fixture.ends().await,
            [ApprovalEnd::Approved { by }],
            "row {index}"
        );
        let events = fixture.events().await;
        let alerts = events
            .iter()
            .filter(|event| matches!(event, Event::Alert { .. }))
            .count();
        assert_eq!(alerts, usize::from(index >= 2), "row {index}");
    }
}
