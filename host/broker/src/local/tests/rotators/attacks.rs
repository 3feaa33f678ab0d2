//! What a component, an operator's other command and the end of the host do to a rotation: nothing is lost, nobody is overruled, and no value
//! reaches the component.

use super::*;

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

/// Does its steps, and while one is done an operator does something else.
struct Disturbed<'a> {
    bot: &'a Bot,
    during: RotationStep,
    act: fn(Arc<LocalBroker>) -> BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Disturbed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disturbed")
    }
}

impl Rotator for Disturbed<'_> {
    fn secret(&self) -> &claviger_core::SecretName {
        &self.bot.secret
    }

    fn step(&self, step: RotationStep) -> BoxFuture<'_, Result<(), RotatorError>> {
        Box::pin(async move {
            let now = step == self.during;
            let done = self.bot.step(step).await;
            if now {
                (self.act)(Arc::clone(&self.bot.broker)).await;
            }
            done
        })
    }
}

fn by_hand(value: &str) -> SecretReplacement {
    SecretReplacement {
        name: name("github"),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut value.as_bytes().to_vec()).unwrap(),
    }
}

type Act = fn(Arc<LocalBroker>) -> BoxFuture<'static, ()>;

#[tokio::test]
async fn what_an_operator_does_while_a_secret_is_rotated_holds() {
    let acts: [(&str, Act, &str); 5] = [
        (
            "disable",
            |broker| {
                Box::pin(async move {
                    drop(
                        broker
                            .step_secret(&at(1), &LifeEvent::Disable(None))
                            .await
                            .unwrap(),
                    );
                })
            },
            "none",
        ),
        (
            "revoke",
            |broker| {
                Box::pin(async move {
                    drop(
                        broker
                            .step_secret(&at(1), &LifeEvent::Revoke(None))
                            .await
                            .unwrap(),
                    );
                })
            },
            "none",
        ),
        (
            "replace",
            |broker| {
                Box::pin(async move { drop(broker.replace_secret(by_hand("canary-by-hand")).await.unwrap()) })
            },
            "github@v3",
        ),
        (
            "cancel, and stage another",
            |broker| {
                Box::pin(async move {
                    broker.cancel_secret(&name("github")).await.unwrap();
                    broker.stage_secret(by_hand("canary-by-hand")).await.unwrap();
                })
            },
            "github@v1",
        ),
        (
            "delete",
            |broker| {
                Box::pin(async move {
                    broker
                        .delete_secret(&name("github"), Duration::from_secs(86_400))
                        .await
                        .unwrap();
                })
            },
            "none",
        ),
    ];
    for (what, act, in_use) in acts {
        let scene = Scene::new().await;
        let bot = Bot::of(&scene, ROTATOR).await;
        will(&scene, &[(201, ISSUED), (200, "me")]);
        let disturbed = Disturbed {
            bot: &bot,
            during: RotationStep::Probe,
            act,
        };
        let error = scene.broker().rotate_secret(&disturbed).await.unwrap_err();
        assert!(!error.to_string().contains("canary"), "{what}: {error}");
        let used = scene.broker().keyring().secret(&name("github"));
        let used = used.map_or_else(|| "none".to_owned(), |record| record.secret.to_string());
        assert_eq!(used, in_use, "{what}: {error}");
        // And the host that looks later does not undo it either.
        scene.broker().add_rotator(Arc::new(bot));
        will(&scene, &[(204, ""), (201, THIRD), (200, "me"), (200, "me")]);
        scene.broker().attend_secrets().await;
        let used = scene.broker().keyring().secret(&name("github"));
        let used = used.map_or_else(|| "none".to_owned(), |record| record.secret.to_string());
        assert_eq!(used, in_use, "{what}, later");
    }
    // The control: undisturbed, the new one is used.
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    will(&scene, &[(201, ISSUED), (200, "me")]);
    scene.broker().rotate_secret(&bot).await.unwrap();
    assert_eq!(
        scene.broker().keyring().secret(&name("github")).unwrap().secret,
        at(2)
    );
}

#[tokio::test]
async fn a_disabled_secret_is_not_put_back_into_use_by_a_rotation() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    scene
        .broker()
        .step_secret(&at(1), &LifeEvent::Disable(None))
        .await
        .unwrap();
    let error = scene.broker().rotate_secret(&bot).await.unwrap_err();
    assert!(matches!(error, SecretRotationError::Disabled(_)), "{error}");
    assert_eq!(bot.steps.load(Ordering::Relaxed), 0);
    scene
        .broker()
        .step_secret(&at(1), &LifeEvent::Enable)
        .await
        .unwrap();
    will(&scene, &[(201, ISSUED), (200, "me")]);
    scene.broker().rotate_secret(&bot).await.unwrap();
}

#[tokio::test]
async fn a_host_that_closes_waits_for_what_a_provider_issues() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    let answer = scene.web.will_stream();
    {
        let rotating = scene.broker().rotate_secret(&bot);
        tokio::pin!(rotating);
        tokio::select! {
            _ = &mut rotating => panic!("the provider thinks"),
            () = scene.web.entered.notified() => {}
        }
        // Whoever rotates goes away as well.
    }
    let again = scene.broker().rotate_secret(&bot).await;
    assert!(matches!(again, Err(SecretRotationError::Busy(_))), "{again:?}");
    let closing = scene.broker().close();
    tokio::pin!(closing);
    tokio::select! {
        biased;
        _ = &mut closing => panic!("it does not wait"),
        () = tokio::task::yield_now() => {}
    }
    answer.send(Ok(ISSUED)).unwrap();
    drop(answer);
    closing.await.unwrap();
    assert_eq!(state(&scene, 2), KeyState::Pending);
    let issued = scene.broker().snapshot();
    assert_eq!(issued.issued(&name("github")).count(), 1);
}

#[tokio::test]
async fn a_version_whose_life_ended_while_it_waited_is_given_up() {
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    will(&scene, &[(201, THIRD), (503, "")]);
    scene.broker().rotate_secret(&bot).await.unwrap_err();
    scene.fixture.clock.advance(SignedDuration::from_secs(3600));
    will(&scene, &[(204, ""), (201, ISSUED), (200, "me")]);
    let rotation = scene.broker().rotate_secret(&bot).await.unwrap();
    assert_eq!((rotation.new, state(&scene, 2)), (at(3), KeyState::Destroyed));
    assert_eq!(rotation.withdrawn[0].secret, at(2));
}

#[tokio::test]
async fn a_step_that_is_over_gives_nothing_to_an_instance_that_stays() {
    #[derive(Debug)]
    struct Staying<'a>(&'a Bot, Mutex<Vec<InstanceId>>);
    impl Rotator for Staying<'_> {
        fn secret(&self) -> &claviger_core::SecretName {
            &self.0.secret
        }
        fn step(&self, _: RotationStep) -> BoxFuture<'_, Result<(), RotatorError>> {
            Box::pin(async move {
                let who = self.0.broker.start(self.0.admission).unwrap();
                let listed = self.0.broker.perform(who, Request::ListGrants).await;
                assert!(listed.is_ok(), "the control: while it goes on");
                self.1.lock().unwrap().push(who);
                Ok(())
            })
        }
    }
    let scene = Scene::new().await;
    let bot = Bot::of(&scene, ROTATOR).await;
    let staying = Staying(&bot, Mutex::default());
    scene.broker().rotate_secret(&staying).await.unwrap_err();
    let [who] = staying.1.lock().unwrap()[..] else {
        panic!("one step")
    };
    let refused = scene.broker().perform(who, Request::ListGrants).await;
    assert_eq!(refused.unwrap_err(), Refusal::NotGranted);
}

#[tokio::test]
async fn a_secret_that_comes_back_beside_a_new_one_suspends_also_for_a_component_that_went_away() {
    for (manner, script, suspended) in [
        (Manner::Hasty, Script::Fail(Fault::Reflected), true),
        (Manner::Honest, Script::Fail(Fault::Reflected), true),
        (Manner::Hasty, Script::Fail(Fault::Incomplete), false),
    ] {
        let scene = Scene::new().await;
        let bot = Bot::of(&scene, ROTATOR).await;
        bot.will_be(manner);
        scene.web.will(script);
        scene.broker().rotate_secret(&bot).await.unwrap_err();
        let state = scene.broker().snapshot().grant(&name("bot"), &name("issue"));
        assert_eq!(state.suspended, suspended);
    }
}
