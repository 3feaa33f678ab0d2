//! A rotation from its begin to its end: what becomes of each version when the provider does its part, fails, lies, answers late, takes both
//! credentials or neither.

use super::*;

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
    let Replaced::Later { after } = rotation.old.becomes else {
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
    let still = |event: &Event| matches!(event, Event::SecretRotationFailed { detail, .. } if detail.contains("was seen to take `github@v2`"));
    assert!(logged.iter().any(still));
    let issued = scene.broker().snapshot();
    assert_eq!(issued.issued(&name("github")).count(), 2, "it is tried again");
    // When it can be tried no more, that the provider agrees once more is no all-clear.
    scene
        .fixture
        .clock
        .advance(SignedDuration::try_from(WITHDRAWAL).unwrap());
    scene.broker().rotate_due().await.unwrap();
    let replacement = SecretReplacement {
        name: name("github"),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut b"canary-by-hand".to_vec()).unwrap(),
    };
    scene.broker().replace_secret(replacement).await.unwrap();
    will(&scene, &[(204, ""), (204, "")]);
    let withdrawn = scene.broker().withdraw_secrets(&bot).await.unwrap();
    let ends: Vec<_> = withdrawn
        .iter()
        .map(|one| (one.secret.version.0, &one.end))
        .collect();
    assert_eq!(
        ends,
        [(2, &WithdrawalEnd::StillTaken), (3, &WithdrawalEnd::NotSeen)]
    );
    let issued = scene.broker().snapshot();
    assert_eq!(
        issued.issued(&name("github")).count(),
        0,
        "nobody can see more of it"
    );
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

/// What a provider takes: by its own names, each with the token.
type Taken = Arc<Mutex<BTreeMap<String, String>>>;

/// A provider that does its part, and the tokens that it takes.
fn provider(scene: &Scene) -> Taken {
    let taken = Taken::default();
    let (all, mut issued) = (Arc::clone(&taken), 1);
    *scene.web.server.lock().unwrap() = Some(Box::new(move |seen| {
        let mut all = all.lock().unwrap();
        let token = seen.slots[0].1.trim_start_matches("Bearer ");
        let path = seen.line.replace(web::API, "");
        match path.as_str() {
            "POST /tokens" => {
                issued += 1;
                let token = format!("canary-number-{issued}");
                let body = format!("{{\"token\":\"{token}\",\"id\":\"tok_{issued}\",\"ttl\":0}}");
                all.insert(format!("tok_{issued}"), token);
                (201, body.leak())
            }
            "GET /whoami" if token == CANARY || all.values().any(|one| one == token) => (200, "me"),
            "GET /whoami" => (401, ""),
            line => match all.remove(line.trim_start_matches("DELETE /tokens/")) {
                Some(_) => (204, ""),
                None => (404, ""),
            },
        }
    }));
    taken
}

/// Is stuck for ever at one of its steps, before it does it or after.
#[derive(Debug)]
struct Stuck<'a> {
    bot: &'a Bot,
    at: usize,
    before: bool,
    done: AtomicUsize,
    here: Notify,
}

impl Rotator for Stuck<'_> {
    fn secret(&self) -> &claviger_core::SecretName {
        &self.bot.secret
    }

    fn step(&self, step: RotationStep) -> BoxFuture<'_, Result<(), RotatorError>> {
        Box::pin(async move {
            let last = self.done.fetch_add(1, Ordering::Relaxed) == self.at;
            let done = if last && self.before {
                Ok(())
            } else {
                self.bot.step(step).await
            };
            if last {
                self.here.notify_one();
                std::future::pending::<()>().await;
            }
            done
        })
    }
}

#[tokio::test]
async fn a_rotation_that_is_cut_off_anywhere_is_finished_by_the_next_and_leaves_nothing_behind() {
    // Issued, tried, withdrawn, and the old one tried.
    for (at, before) in (0..4).flat_map(|at| [(at, true), (at, false)]) {
        let scene = Scene::new().await;
        let bot = Bot::of(&scene, ROTATOR).await;
        let taken = provider(&scene);
        scene.broker().rotate_secret(&bot).await.unwrap();
        let stuck = Stuck {
            bot: &bot,
            at,
            before,
            done: AtomicUsize::new(0),
            here: Notify::new(),
        };
        tokio::select! {
            rotated = scene.broker().rotate_secret(&stuck) => panic!("{rotated:?}"),
            () = stuck.here.notified() => {}
        }
        let rotated = scene.broker().rotate_secret(&bot).await;
        assert!(rotated.is_ok(), "step {at}, before it: {before}: {rotated:?}");
        let github = name("github");
        let used = scene.broker().keyring().secret(&github).unwrap();
        let value = scene.broker().keyring().secret_material(&used.secret).unwrap();
        let all: Vec<_> = taken.lock().unwrap().values().cloned().collect();
        assert_eq!(
            all.len(),
            1,
            "step {at}, before it: {before}: the provider takes {all:?}"
        );
        assert!(value.equals(all[0].as_bytes()), "step {at}, before it: {before}");
        let active = scene.broker().keyring().secret_versions(&github);
        let active = active.iter().filter(|record| record.state == KeyState::Active);
        assert_eq!(active.count(), 1, "step {at}, before it: {before}");
    }
}
