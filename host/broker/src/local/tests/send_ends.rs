//! How requests end before their time: stopped, expired, abandoned, crowded out. Not what is refused before it is sent.

use claviger_core::egress::Frame;

use super::web::{GRANT, Scene, Script, head, next, refused};
use super::*;
use crate::local::MAX_OUTSTANDING;

/// What stops a request that is under way.
#[derive(Debug, Clone, Copy)]
enum Stopping {
    Suspend,
    SuspendAgent,
    Panic,
    Revoke,
    Disable,
    Destroy,
    End,
    Close,
}

#[tokio::test]
async fn what_is_taken_away_stops_what_is_under_way_at_once() {
    use Stopping::{Close, Destroy, Disable, End, Panic, Revoke, Suspend, SuspendAgent};
    for stopping in [Suspend, SuspendAgent, Panic, Revoke, Disable, Destroy, End, Close] {
        for before_the_answer in [true, false] {
            let scene = Scene::new().await;
            let who = scene.fixture.start(GRANT).await;
            let broker = Arc::clone(&scene.fixture.broker);
            let stop = async {
                let github = name("github");
                match stopping {
                    Suspend => broker.suspend(&name("bot"), &name("api")).await.unwrap(),
                    SuspendAgent => broker.suspend_agent(&name("bot")).await.unwrap(),
                    Panic => broker.panic().await.unwrap(),
                    Revoke => drop(broker.set_secret_state(&github, KeyState::Revoked).await.unwrap()),
                    Disable => drop(
                        broker
                            .set_secret_state(&github, KeyState::Disabled)
                            .await
                            .unwrap(),
                    ),
                    Destroy => drop(broker.destroy_secret(&github).await.unwrap()),
                    End => broker.end(who, InstanceEnd::Finished),
                    Close => broker.close().await.unwrap(),
                }
            };
            let open;
            let error = if before_the_answer {
                scene.web.will(Script::Hangs);
                let asking = scene.ask(who, "GET /repos/a");
                let (asked, ()) = tokio::join!(asking, async {
                    scene.web.entered.notified().await;
                    stop.await;
                });
                asked.unwrap_err()
            } else {
                open = scene.web.will_stream();
                let mut answer = scene.ask(who, "GET /repos/a").await.unwrap();
                open.send(Ok("first")).unwrap();
                assert!(matches!(next(&mut answer).await, Some(Ok(Frame::Data(_)))));
                // The agent waits for more, which never comes, while it is stopped.
                let (cut, ()) = tokio::join!(next(&mut answer), async {
                    stop.await;
                    assert!(open.is_closed(), "{stopping:?}: the connection is closed");
                });
                assert!(next(&mut answer).await.is_none());
                cut.unwrap().unwrap_err()
            };
            let expected = match stopping {
                Suspend | SuspendAgent | Panic => Refusal::Suspended,
                Revoke | Disable | Destroy => Refusal::Revoked,
                End => Refusal::NotGranted,
                Close => Refusal::Unavailable,
            };
            assert_eq!(refused(&error), expected, "{stopping:?} {before_the_answer}");
            if matches!(stopping, Close) {
                continue;
            }
            let (settlement, traffic) = scene.traffic().await.pop().unwrap();
            assert_ne!(settlement, Settlement::Released, "{stopping:?}");
            assert!(traffic.unwrap().injected);
        }
    }
}

#[tokio::test]
async fn no_answer_goes_on_when_its_grant_or_secret_expires() {
    let soon = "2026-06-01T12:00:10Z";
    for of_the_grant in [true, false] {
        for before_the_answer in [true, false] {
            let scene = Scene::new().await;
            let grant = if of_the_grant {
                GRANT.replace("inject", &format!("expires = {soon}\ninject"))
            } else {
                let replacement = crate::keyring::SecretReplacement {
                    name: name("github"),
                    of: None,
                    expires: Some(soon.parse().unwrap()),
                    rotate_every: None,
                    value: Secret::take(&mut b"canary-the-second".to_vec()).unwrap(),
                };
                scene.broker().replace_secret(replacement).await.unwrap();
                GRANT.to_owned()
            };
            let who = scene.fixture.start(&grant).await;
            let open;
            let error = if before_the_answer {
                scene.web.will(Script::Hangs);
                let asking = scene.ask(who, "GET /repos/a");
                let (asked, ()) = tokio::join!(asking, async {
                    scene.web.entered.notified().await;
                    tokio::time::pause();
                });
                asked.unwrap_err()
            } else {
                open = scene.web.will_stream();
                let mut answer = scene.ask(who, "GET /repos/a").await.unwrap();
                open.send(Ok("first")).unwrap();
                assert!(matches!(next(&mut answer).await, Some(Ok(Frame::Data(_)))));
                tokio::time::pause();
                let error = next(&mut answer).await.unwrap().unwrap_err();
                assert!(open.is_closed() && next(&mut answer).await.is_none());
                error
            };
            tokio::time::resume();
            assert_eq!(
                refused(&error),
                Refusal::Expired,
                "{of_the_grant} {before_the_answer}"
            );
            let (settlement, _) = scene.traffic().await.pop().unwrap();
            assert_eq!(settlement, Settlement::Failed);
        }
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_on_the_log() {
    let scene = Scene::new().await;
    let who = scene.fixture.start(GRANT).await;
    let long = "x".repeat(1000);
    let many: Vec<_> = (0..17).map(|_| ("accept", long.as_str())).collect();
    let sent = scene.broker().send(who, head("GET /repos/a", &many), None).await;
    assert_eq!(refused(&sent.unwrap_err()), Refusal::Invalid);
    assert_eq!(scene.fixture.rules().await, [Rule::Target]);
    assert!(scene.web.seen().is_empty());
}

#[tokio::test]
async fn trailers_are_the_end_of_an_answer() {
    let scene = Scene::new().await;
    let who = scene.fixture.start(GRANT).await;
    scene.web.will(Script::Trailers);
    let mut answer = scene.ask(who, "GET /repos/a").await.unwrap();
    assert!(matches!(next(&mut answer).await, Some(Ok(Frame::Data(_)))));
    assert!(matches!(next(&mut answer).await, Some(Ok(Frame::Trailers(_)))));
    // Nobody asks for what comes after the end.
    drop(answer);
    let (settlement, traffic) = scene.traffic().await.pop().unwrap();
    assert_eq!((settlement, traffic.unwrap().received), (Settlement::Released, 2));
}

#[tokio::test]
async fn an_agent_that_goes_away_abandons_its_request() {
    let scene = Scene::new().await;
    let who = scene.fixture.start(GRANT).await;
    // While nothing came.
    scene.web.will(Script::Hangs);
    {
        let asking = scene.ask(who, "GET /repos/a");
        tokio::select! {
            _ = asking => panic!("it hangs"),
            () = scene.web.entered.notified() => {}
        }
    }
    // In the middle of the answer.
    let open = scene.web.will_stream();
    let mut answer = scene.ask(who, "GET /repos/a").await.unwrap();
    open.send(Ok("12345")).unwrap();
    next(&mut answer).await.unwrap().unwrap();
    drop(answer);
    assert!(open.is_closed());
    let traffic = scene.traffic().await;
    assert_eq!(traffic.len(), 2);
    for ((settlement, traffic), received) in traffic.into_iter().zip([0, 5]) {
        assert_eq!(settlement, Settlement::Abandoned);
        assert_eq!(traffic.unwrap().received, received);
    }
    // Both places are free again.
    scene.get(who).await.unwrap();
}

#[tokio::test]
async fn an_instance_has_a_bounded_number_of_requests_under_way() {
    let scene = Scene::new().await;
    let who = scene.fixture.start(GRANT).await;
    let other = scene.fixture.start(GRANT).await;
    let mut open = Vec::new();
    for _ in 0..MAX_OUTSTANDING {
        let stream = scene.web.will_stream();
        open.push((stream, scene.ask(who, "GET /repos/a").await.unwrap()));
    }
    let error = scene.ask(who, "GET /repos/a").await.unwrap_err();
    assert_eq!(refused(&error), Refusal::Throttled);
    assert_eq!(scene.fixture.rules().await, [Rule::Concurrency]);
    scene.get(other).await.unwrap();
    open.pop();
    scene.get(who).await.unwrap();
}

#[tokio::test]
async fn many_callers_for_the_last_uses_get_exactly_those() {
    let scene = Scene::new().await;
    let grants = GRANT.replace("inject", "uses = 5\ninject");
    let who = scene.fixture.start(&grants).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let broker = Arc::clone(&scene.fixture.broker);
        tasks.spawn(async move { broker.send(who, head("GET /repos/a", &[]), None).await.is_ok() });
    }
    let sent = tasks.join_all().await.into_iter().filter(|sent| *sent).count();
    assert_eq!((sent, scene.web.seen().len()), (5, 5));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_means_that_nothing_is_sent() {
    let scene = Scene::new().await;
    let who = scene.fixture.start(GRANT).await;
    scene.broker().record.log.close().unwrap();
    assert_eq!(
        refused(&scene.ask(who, "GET /repos/a").await.unwrap_err()),
        Refusal::Unavailable
    );
    assert!(scene.web.seen().is_empty());
}
