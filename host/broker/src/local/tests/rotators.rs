//! Secrets that a provider issues, replaced by a rotator: what it asks for, what it is refused, what becomes of each version when the
//! provider fails, lies, answers late, takes both credentials or neither, and that no value reaches the rotator.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::egress::{Fault, SendError};
use claviger_core::rotator::{RotationStep, Rotator, RotatorError};

use super::super::{
    Attended, OldVersion, Replaced, SecretRotation, SecretRotationError, WITHDRAWAL, WithdrawalEnd,
};
use super::web::{CANARY, Scene, Script, head, refused, rest};
use super::*;
use crate::keyring::{LifeEvent, SecretReplacement};

const ROTATOR: &str = "[rotates]\n\
    secret = \"github\"\n\
    issue = \"issue\"\n\
    probe = \"probe\"\n\
    value = \"/token\"\n\
    id = \"/id\"\n\
    lifetime = \"/ttl\"\n\
    [grants.issue]\n\
    http = { origin = \"https://api.test\", allow = [\"POST /tokens\"] }\n\
    inject = { bearer = \"github\" }\n\
    [grants.probe]\n\
    http = { origin = \"https://api.test\", allow = [\"GET /whoami\"] }\n\
    inject = { bearer = \"github\" }\n\
    [grants.withdraw]\n\
    http = { origin = \"https://api.test\", allow = [\"DELETE /tokens/*\"] }\n\
    inject = { bearer = \"github\" }\n";

const SECOND: &str = "canary-second-7c1d";
const ISSUED: &str = "{\"token\":\"canary-second-7c1d\",\"id\":\"tok_2\",\"ttl\":0}";
const THIRD: &str = "{\"token\":\"canary-third-99ab\",\"id\":\"tok_3\",\"ttl\":3600}";

/// How a component does its steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Says that all went well and asks for nothing.
    Idle,
    /// Does it, and says that it failed.
    Gloomy,
    /// Goes away while the provider thinks.
    Hasty,
}

struct Bot {
    broker: Arc<LocalBroker>,
    admission: AdmissionId,
    secret: claviger_core::SecretName,
    manner: Mutex<Manner>,
    // All that an instance was given.
    learned: Mutex<Vec<String>>,
    steps: AtomicUsize,
    web: Arc<web::Web>,
}

impl std::fmt::Debug for Bot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bot")
    }
}

impl Bot {
    async fn of(scene: &Scene, manifest: &str) -> Self {
        let broker = Arc::clone(&scene.fixture.broker);
        let admission = broker
            .admit(&Fixture::manifest(manifest), ComponentDigest::of(CODE))
            .await
            .unwrap();
        Self {
            broker,
            admission: admission.id,
            secret: name("github"),
            manner: Mutex::new(Manner::Honest),
            learned: Mutex::default(),
            steps: AtomicUsize::new(0),
            web: Arc::clone(&scene.web),
        }
    }

    fn will_be(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    async fn ask(&self, who: InstanceId, line: &str) -> Result<u16, SendError> {
        let asked = self.broker.send(who, head(line, &[]), None).await;
        let answer = match asked {
            Ok(mut answer) => {
                let body = rest(&mut answer).await;
                let said = format!("{line} {} {:?} {body:?}", answer.status, answer.headers);
                self.learned.lock().unwrap().push(said);
                body.map(|_| answer.status)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &answer {
            self.learned.lock().unwrap().push(format!("{line} {error:?}"));
        }
        answer
    }
}

impl Rotator for Bot {
    fn secret(&self) -> &claviger_core::SecretName {
        &self.secret
    }

    fn step(&self, step: RotationStep) -> BoxFuture<'_, Result<(), RotatorError>> {
        Box::pin(async move {
            self.steps.fetch_add(1, Ordering::Relaxed);
            let manner = *self.manner.lock().unwrap();
            let who = self.broker.start(self.admission).unwrap();
            let line = match &step {
                RotationStep::Issue => "POST /tokens".to_owned(),
                RotationStep::Probe => "GET /whoami".to_owned(),
                RotationStep::Withdraw(id) => format!("DELETE /tokens/{id}"),
            };
            let done = match manner {
                Manner::Idle => Ok(200),
                Manner::Honest | Manner::Gloomy => self.ask(who, &line).await,
                Manner::Hasty => {
                    tokio::select! {
                        biased;
                        // The provider has it.
                        () = self.web.entered.notified() => {}
                        _ = self.ask(who, &line) => {}
                    }
                    Err(Fault::Timeout.into())
                }
            };
            self.broker.end(who, InstanceEnd::Finished);
            match (manner, done) {
                (Manner::Gloomy, _) => Err(RotatorError::new("it went \x1b[2J wrong")),
                (_, Ok(200..300)) => Ok(()),
                (_, other) => Err(RotatorError::new(&format!("{other:?}"))),
            }
        })
    }
}

fn at(version: u32) -> SecretRef {
    SecretRef {
        name: name("github"),
        version: claviger_core::KeyVersion(version),
    }
}

fn old(version: u32, becomes: Replaced) -> Option<OldVersion> {
    let secret = at(version);
    Some(OldVersion { secret, becomes })
}

fn state(scene: &Scene, version: u32) -> KeyState {
    scene
        .broker()
        .keyring()
        .secret_record(&at(version))
        .unwrap()
        .state
}

/// What reached the provider: each line with the last four characters of the token.
fn seen(scene: &Scene) -> Vec<String> {
    let short = |slot: &str| slot[slot.len() - 4..].to_owned();
    scene
        .web
        .seen()
        .iter()
        .map(|seen| {
            let line = seen.line.replace("https://api.test", "");
            format!("{line} {}", short(&seen.slots[0].1))
        })
        .collect()
}

fn will(scene: &Scene, answers: &[(u16, &'static str)]) {
    for (status, body) in answers {
        scene.web.will(Script::Answer(*status, vec![body]));
    }
}

/// The rotator learned no value, and the log has none.
async fn kept(scene: &Scene, bot: &Bot) {
    let learned = bot.learned.lock().unwrap().join("\n");
    assert!(!learned.contains("canary"), "{learned}");
    scene.log_is_clean().await;
}

#[tokio::test]
async fn a_secret_is_issued_probed_promoted_and_the_old_one_withdrawn_and_seen_to_be_refused() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    will(&scene, &[(201, ISSUED), (200, "me")]);
    let first = scene.broker().rotate_secret(&bot).await.unwrap();
    // Nobody knows what the provider calls the first: an operator put it there.
    assert_eq!(
        first,
        SecretRotation {
            new: at(2),
            expires: None,
            old: old(1, Replaced::ByHand),
            withdrawn: Vec::new(),
        }
    );
    let record = scene.broker().keyring().secret(&name("github")).unwrap();
    assert_eq!(
        (record.secret.clone(), record.source),
        (at(2), SecretSource::Rotator)
    );
    assert!(
        scene
            .broker()
            .keyring()
            .secret_material(&at(2))
            .unwrap()
            .equals(SECOND.as_bytes())
    );

    will(&scene, &[(201, THIRD), (200, "me"), (204, ""), (401, "no")]);
    let second = scene.broker().rotate_secret(&bot).await.unwrap();
    assert_eq!(second.new, at(3));
    assert_eq!(second.old, old(2, Replaced::Withdrawn));
    assert_eq!(second.withdrawn[0].end, WithdrawalEnd::Refused);
    let issued: Timestamp = START.parse().unwrap();
    assert_eq!(second.expires, Some(issued + SignedDuration::from_secs(3600)));
    assert_eq!(
        seen(&scene),
        [
            "POST /tokens 4d58",
            "GET /whoami 7c1d",
            "POST /tokens 7c1d",
            "GET /whoami 99ab",
            // With the new one, and then the old one is tried.
            "DELETE /tokens/tok_2 99ab",
            "GET /whoami 7c1d",
        ]
    );
    assert_eq!(
        scene.broker().snapshot().issued(&name("github")).count(),
        1,
        "the third"
    );
    // Both are gone here, too, when the moment is over in which they were tried.
    scene
        .fixture
        .clock
        .advance(SignedDuration::try_from(WITHDRAWAL).unwrap());
    scene.broker().rotate_due().await.unwrap();
    assert_eq!([state(&scene, 1), state(&scene, 2)], [KeyState::Retired; 2]);
    assert!(scene.broker().keyring().secret_material(&at(2)).is_err());
    kept(&scene, &bot).await;
    // The control: the value was in the answer that the host read.
    assert!(ISSUED.contains(SECOND) && SECOND.contains("canary"));
}

#[tokio::test]
async fn an_old_value_is_withdrawn_after_its_overlap_and_not_before() {
    let scene = Scene::new().await;
    let github = name("github");
    let hour = Duration::from_secs(3600);
    scene.broker().plan_secret(&github, None, hour, None).unwrap();
    let bot = Bot::of(&scene, ROTATOR).await;
    will(&scene, &[(201, ISSUED), (200, "me")]);
    scene.broker().rotate_secret(&bot).await.unwrap();
    will(&scene, &[(201, THIRD), (200, "me")]);
    let rotation = scene.broker().rotate_secret(&bot).await.unwrap();
    let Some(Replaced::Later { after }) = rotation.old.as_ref().map(|old| old.becomes) else {
        panic!("{rotation:?}");
    };
    assert_eq!(
        after,
        START.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(3600)
    );
    assert!(
        scene.broker().withdraw_secrets(&bot).await.unwrap().is_empty(),
        "not yet"
    );
    scene.fixture.clock.advance(SignedDuration::from_secs(3600));
    // The third lives for an hour alone.
    will(&scene, &[(204, ""), (401, "")]);
    let withdrawn = scene.broker().withdraw_secrets(&bot).await.unwrap();
    let [one] = withdrawn.as_slice() else {
        panic!("{withdrawn:?}")
    };
    assert!(
        matches!(one.end, WithdrawalEnd::Failed(_)),
        "the token that withdraws has expired"
    );
    let replacement = SecretReplacement {
        name: github.clone(),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut b"canary-by-hand".to_vec()).unwrap(),
    };
    scene.broker().replace_secret(replacement).await.unwrap();
    let withdrawn = scene.broker().withdraw_secrets(&bot).await.unwrap();
    assert_eq!(withdrawn[0].end, WithdrawalEnd::Refused, "{withdrawn:?}");
    assert!(
        scene
            .broker()
            .withdraw_secrets(&bot)
            .await
            .unwrap()
            .iter()
            .all(|one| one.secret != at(2))
    );
    kept(&scene, &bot).await;
}

/// What a provider does with the first rotation, and what is left then.
struct Provider {
    name: &'static str,
    manner: Manner,
    scripts: fn() -> Vec<Script>,
    error: &'static str,
    /// The states of the first version and of the second, if there is one.
    states: (KeyState, Option<KeyState>),
    /// How many credentials are good at the provider without being used here.
    left: usize,
}

fn answers(all: &[(u16, &'static str)]) -> Vec<Script> {
    all.iter()
        .map(|(status, body)| Script::Answer(*status, vec![body]))
        .collect()
}

#[tokio::test]
async fn a_provider_that_fails_lies_or_answers_oddly_leaves_the_old_value_in_use() {
    use KeyState::{Active, Destroyed, Pending};
    let unissued = (Active, None);
    let cases = [
        Provider {
            name: "down",
            manner: Manner::Honest,
            scripts: || vec![Script::Fail(Fault::NoConnection)],
            error: "no connection",
            states: unissued,
            left: 0,
        },
        Provider {
            name: "refuses to issue",
            manner: Manner::Honest,
            scripts: || answers(&[(403, ISSUED)]),
            error: "status 403",
            states: unissued,
            left: 0,
        },
        Provider {
            name: "issues nothing",
            manner: Manner::Honest,
            scripts: || answers(&[(200, "{}")]),
            error: "no credential at `/token`",
            states: unissued,
            left: 0,
        },
        Provider {
            name: "no JSON",
            manner: Manner::Honest,
            scripts: || answers(&[(200, "canary-second-7c1d")]),
            error: "no credential at `/token`",
            states: unissued,
            left: 0,
        },
        Provider {
            name: "no name",
            manner: Manner::Honest,
            scripts: || answers(&[(200, "{\"token\":\"canary-second-7c1d\",\"ttl\":1}")]),
            error: "no name of the credential",
            states: unissued,
            left: 0,
        },
        // Issued, named, and nothing that a bearer could be: lost here, and not for its name.
        Provider {
            name: "no bearer",
            manner: Manner::Honest,
            scripts: || {
                answers(&[(
                    200,
                    "{\"token\":\"a b canary-second\",\"id\":\"tok_2\",\"ttl\":0}",
                )])
            },
            error: "visible ASCII",
            states: unissued,
            left: 1,
        },
        Provider {
            name: "ends in the middle",
            manner: Manner::Honest,
            scripts: || {
                let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
                sender.send(Ok("{\"token\":\"canary-sec")).unwrap();
                sender.send(Err(Fault::Incomplete)).unwrap();
                vec![Script::Streams(receiver)]
            },
            error: "ended before the answer did",
            states: unissued,
            left: 0,
        },
        Provider {
            name: "takes the old one only",
            manner: Manner::Honest,
            scripts: || answers(&[(201, ISSUED), (401, "no"), (204, "")]),
            error: "refuses `github@v2`",
            states: (Active, Some(Destroyed)),
            left: 0,
        },
        Provider {
            name: "the same, and withdraws nothing",
            manner: Manner::Honest,
            scripts: || answers(&[(201, ISSUED), (403, "no"), (500, "")]),
            error: "refuses `github@v2`",
            states: (Active, Some(Destroyed)),
            left: 1,
        },
        Provider {
            name: "out of order when it is probed",
            manner: Manner::Honest,
            scripts: || answers(&[(201, ISSUED), (503, "")]),
            error: "status 503",
            states: (Active, Some(Pending)),
            left: 1,
        },
        Provider {
            name: "answers the probe too late",
            manner: Manner::Honest,
            scripts: || {
                let mut all = answers(&[(201, ISSUED)]);
                all.push(Script::Fail(Fault::Timeout));
                all
            },
            error: "no clear answer",
            states: (Active, Some(Pending)),
            left: 1,
        },
        Provider {
            name: "an idle component",
            manner: Manner::Idle,
            scripts: Vec::new,
            error: "asked the provider for none",
            states: unissued,
            left: 0,
        },
    ];
    for case in cases {
        let scene = Scene::new().await;
        let bot = Bot::of(&scene, ROTATOR).await;
        bot.will_be(case.manner);
        for script in (case.scripts)() {
            scene.web.will(script);
        }
        let error = scene.broker().rotate_secret(&bot).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(case.error), "{}: {text}", case.name);
        assert!(!text.contains("canary"), "{}: {text}", case.name);
        let second = scene
            .broker()
            .keyring()
            .secret_record(&at(2))
            .map(|record| record.state);
        assert_eq!((state(&scene, 1), second), case.states, "{}", case.name);
        assert_eq!(
            scene.broker().snapshot().issued(&name("github")).count(),
            case.left,
            "{}",
            case.name
        );
        let logged = scene.fixture.events().await;
        let told = |event: &Event| matches!(event, Event::SecretRotationFailed { detail, .. } if !detail.contains("canary"));
        assert!(logged.iter().any(told), "{}", case.name);
        // What was in use is in use.
        let who = scene.fixture.start(web::GRANT).await;
        assert_eq!(scene.get(who).await.unwrap(), "ok", "{}", case.name);
        kept(&scene, &bot).await;

        // And the next rotation mends it: what waits is probed, what is left behind is withdrawn.
        bot.will_be(Manner::Honest);
        let mut next = Vec::new();
        if case.left == 1 && second != Some(Pending) {
            next.push((204, ""));
        }
        if second != Some(Pending) {
            next.push((201, THIRD));
        }
        next.push((200, "me"));
        will(&scene, &next);
        let rotation = scene.broker().rotate_secret(&bot).await.unwrap();
        let used = scene.broker().keyring().secret(&name("github")).unwrap();
        assert_eq!(used.secret, rotation.new, "{}", case.name);
        assert_eq!(
            scene.broker().snapshot().issued(&name("github")).count(),
            1,
            "{}: the one in use",
            case.name
        );
    }
}

#[tokio::test]
async fn a_provider_that_takes_both_is_seen_and_said() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    will(&scene, &[(201, ISSUED), (200, "me")]);
    scene.broker().rotate_secret(&bot).await.unwrap();
    will(&scene, &[(201, THIRD), (200, "me"), (204, ""), (200, "still me")]);
    let rotation = scene.broker().rotate_secret(&bot).await.unwrap();
    assert_eq!(rotation.withdrawn[0].end, WithdrawalEnd::StillTaken);
    let logged = scene.fixture.events().await;
    let still = |event: &Event| matches!(event, Event::SecretRotationFailed { detail, .. } if detail.contains("still takes `github@v2`"));
    assert!(logged.iter().any(still));
    let issued = scene.broker().snapshot();
    assert_eq!(issued.issued(&name("github")).count(), 2, "it is tried again");
}

#[tokio::test]
async fn what_a_provider_issued_is_kept_when_its_component_goes_away() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    bot.will_be(Manner::Hasty);
    will(&scene, &[(201, ISSUED), (200, "me")]);
    // Asked and gone; then the version that waits is probed, by a component that stays.
    let error = scene.broker().rotate_secret(&bot).await.unwrap_err();
    assert!(matches!(error, SecretRotationError::Unclear { .. }), "{error}");
    assert_eq!(state(&scene, 2), KeyState::Pending);
    bot.will_be(Manner::Honest);
    will(&scene, &[(200, "me")]);
    let rotation = scene.broker().rotate_secret(&bot).await.unwrap();
    assert_eq!(rotation.new, at(2));
    let posts = seen(&scene)
        .iter()
        .filter(|line| line.starts_with("POST"))
        .count();
    assert_eq!(posts, 1, "{:?}", seen(&scene));
    kept(&scene, &bot).await;
}

#[tokio::test]
async fn a_component_gets_nothing_but_what_its_step_is_for() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    // It is no agent: outside of a rotation it does not even start.
    assert_eq!(
        scene.broker().start(bot.admission).unwrap_err(),
        Refusal::NotGranted
    );

    #[derive(Debug)]
    struct Greedy<'a>(&'a Bot, Mutex<Vec<String>>);
    impl Rotator for Greedy<'_> {
        fn secret(&self) -> &claviger_core::SecretName {
            &self.0.secret
        }
        fn step(&self, step: RotationStep) -> BoxFuture<'_, Result<(), RotatorError>> {
            Box::pin(async move {
                let who = self.0.broker.start(self.0.admission).unwrap();
                for line in ["POST /tokens", "POST /tokens", "GET /whoami", "DELETE /tokens/x"] {
                    let what = match self.0.ask(who, line).await {
                        Ok(status) => status.to_string(),
                        Err(error) => refused(&error).to_string(),
                    };
                    self.1
                        .lock()
                        .unwrap()
                        .push(format!("{}: {line}: {what}", step.as_str()));
                }
                // It stays, and asks on when its step is over.
                Ok(())
            })
        }
    }
    let greedy = Greedy(&bot, Mutex::default());
    will(&scene, &[(201, ISSUED), (204, ""), (200, "me"), (204, "")]);
    scene.broker().rotate_secret(&greedy).await.unwrap();
    assert_eq!(
        *greedy.1.lock().unwrap(),
        [
            "issue: POST /tokens: 201",
            "issue: POST /tokens: not granted",
            "issue: GET /whoami: not granted",
            "issue: DELETE /tokens/x: 204",
            "probe: POST /tokens: not granted",
            "probe: POST /tokens: not granted",
            "probe: GET /whoami: 200",
            "probe: DELETE /tokens/x: 204",
        ]
    );
    let left: Vec<_> = read(&scene.broker().instances).keys().copied().collect();
    assert_eq!(left.len(), 2, "both of its instances stayed");
    for who in left {
        let asked = bot.ask(who, "GET /whoami").await.unwrap_err();
        assert_eq!(refused(&asked), Refusal::NotGranted);
    }
    kept(&scene, &bot).await;
}

/// Makes other requests where it is to try a version.
#[derive(Debug)]
struct Evasive<'a>(&'a Bot);

impl Rotator for Evasive<'_> {
    fn secret(&self) -> &claviger_core::SecretName {
        &self.0.secret
    }

    fn step(&self, step: RotationStep) -> BoxFuture<'_, Result<(), RotatorError>> {
        Box::pin(async move {
            if step != RotationStep::Probe {
                return self.0.step(step).await;
            }
            let who = self.0.broker.start(self.0.admission).unwrap();
            assert_eq!(self.0.ask(who, "DELETE /tokens/x").await, Ok(204));
            self.0.broker.end(who, InstanceEnd::Finished);
            Ok(())
        })
    }
}

#[tokio::test]
async fn another_request_that_succeeds_is_no_probe() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    will(&scene, &[(201, ISSUED), (204, "")]);
    let error = scene.broker().rotate_secret(&Evasive(&bot)).await.unwrap_err();
    assert!(error.to_string().contains("did not try it"), "{error}");
    assert_eq!(state(&scene, 2), KeyState::Pending);
    assert_eq!(seen(&scene).len(), 2, "the control: both were sent");
}

#[tokio::test]
async fn a_value_that_waits_or_retires_does_not_come_back_in_another_answer() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    will(&scene, &[(201, ISSUED), (503, "")]);
    scene.broker().rotate_secret(&bot).await.unwrap_err();
    let who = scene.fixture.start(web::GRANT).await;
    scene.get(who).await.unwrap();
    let watched: Vec<_> = scene.web.seen().iter().map(|seen| seen.watched).collect();
    // The value in use twice, once as what is attached; from the probe on also the one that waits.
    assert_eq!(watched, [2, 3, 3]);
}

#[tokio::test]
async fn panic_suspension_and_revocation_stop_a_rotation() {
    for (stop, error) in [
        ("panic", "suspended"),
        ("grant", "suspended"),
        ("secret", "revoked"),
    ] {
        let scene = Scene::new().await;
        let bot = Bot::of(&scene, ROTATOR).await;
        match stop {
            "panic" => scene.broker().panic().await.unwrap(),
            "grant" => scene
                .broker()
                .suspend(&name("bot"), &name("issue"))
                .await
                .unwrap(),
            _ => drop(
                scene
                    .broker()
                    .step_secret(&at(1), &LifeEvent::Revoke(None))
                    .await
                    .unwrap(),
            ),
        }
        let failed = scene.broker().rotate_secret(&bot).await.unwrap_err().to_string();
        assert!(failed.to_lowercase().contains(error), "{stop}: {failed}");
        assert!(seen(&scene).is_empty(), "{stop}");
    }
}

#[tokio::test]
async fn of_two_rotations_of_a_secret_one_is_done_and_a_value_of_an_operator_is_left_alone() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    scene.web.will(Script::Hangs);
    let first = scene.broker().rotate_secret(&bot);
    tokio::pin!(first);
    tokio::select! {
        _ = &mut first => panic!("it hangs"),
        () = scene.web.entered.notified() => {}
    }
    let second = scene.broker().rotate_secret(&bot).await.unwrap_err();
    assert!(matches!(second, SecretRotationError::Busy(_)), "{second}");

    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    let staged = SecretReplacement {
        name: name("github"),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut b"by-an-operator".to_vec()).unwrap(),
    };
    scene.broker().stage_secret(staged).await.unwrap();
    let error = scene.broker().rotate_secret(&bot).await.unwrap_err();
    assert!(matches!(error, SecretRotationError::Waiting(_)), "{error}");
    assert_eq!(bot.steps.load(Ordering::Relaxed), 0);
    assert_eq!(state(&scene, 2), KeyState::Pending);
    let _ = CANARY;
}

#[tokio::test]
async fn a_component_that_does_its_part_and_complains_is_judged_by_the_provider() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    bot.will_be(Manner::Gloomy);
    will(&scene, &[(201, ISSUED), (200, "me")]);
    let error = scene.broker().rotate_secret(&bot).await.unwrap_err();
    // The new value is here; whether it was tried as it must be, only the component knows.
    assert!(matches!(error, SecretRotationError::Unclear { .. }), "{error}");
    assert!(!error.to_string().contains('\x1b'));
    assert_eq!(state(&scene, 2), KeyState::Pending);
}

#[tokio::test]
async fn a_secret_that_its_provider_ends_is_replaced_in_the_last_third_of_its_life() {
    let scene = Scene::new().await;
    let bot = Arc::new(Bot::of(&scene, ROTATOR).await);
    let broker = scene.broker();
    assert!(
        broker.attend_secrets().await.is_empty(),
        "no rotator, nothing to do"
    );
    broker.add_rotator(bot.clone());
    assert!(broker.attend_secrets().await.is_empty(), "no plan and no end");
    will(&scene, &[(201, THIRD), (200, "me")]);
    broker.rotate_secret(bot.as_ref()).await.unwrap();
    scene.fixture.clock.advance(SignedDuration::from_secs(2399));
    assert!(broker.attend_secrets().await.is_empty(), "it lives for an hour");
    scene.fixture.clock.advance(SignedDuration::from_secs(1));
    will(&scene, &[(201, ISSUED), (200, "me"), (204, ""), (401, "")]);
    let done = broker.attend_secrets().await;
    let [Attended::Rotated(_, Ok(rotation))] = done.as_slice() else {
        panic!("{done:?}");
    };
    assert_eq!(
        (rotation.new.clone(), &rotation.old),
        (at(3), &old(2, Replaced::Withdrawn))
    );
    assert!(broker.attend_secrets().await.is_empty());

    // By a plan; and a provider that is down is left alone for an hour by a host that looks every minute.
    let day = Duration::from_secs(86_400);
    broker
        .plan_secret(&name("github"), Some(day), Duration::ZERO, None)
        .unwrap();
    scene.fixture.clock.advance(SignedDuration::from_secs(86_400));
    scene.web.will(Script::Fail(Fault::NoConnection));
    broker.look_after_secrets().await;
    let asked = seen(&scene).len();
    for _ in 0..59 {
        scene.fixture.clock.advance(SignedDuration::from_secs(60));
        broker.look_after_secrets().await;
    }
    assert_eq!(seen(&scene).len(), asked);
    scene.fixture.clock.advance(SignedDuration::from_secs(60));
    will(&scene, &[(201, THIRD), (200, "me"), (204, ""), (401, "")]);
    broker.look_after_secrets().await;
    assert_eq!(broker.keyring().secret(&name("github")).unwrap().secret, at(4));
}
