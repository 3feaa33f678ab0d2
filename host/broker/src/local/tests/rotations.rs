//! Refresh tokens that a server replaces, and requests for tokens that end before they are answered: nothing new is lost, and nothing
//! that was taken away is used.

use claviger_core::audit::SecretRef;
use claviger_core::egress::Fault;
use claviger_core::key::KeyVersion;

use super::tokens::{FIRST, SECOND, client_credentials, gives, one, refreshing, scene};
use super::web::{Given, failed, refused};
use super::*;
use crate::keyring::SecretReplacement;

const ROTATED: &str = "canary-refresh-token-2";

fn slow(refresh: Option<&'static str>) -> Given {
    Given {
        slow: true,
        ..gives(FIRST, 3600, refresh)
    }
}

fn refresh(version: u32) -> SecretRef {
    SecretRef {
        name: name("refresh"),
        version: KeyVersion(version),
    }
}

fn replacement(secret: &str, value: &str) -> SecretReplacement {
    SecretReplacement {
        name: name(secret),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut value.as_bytes().to_vec()).unwrap(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_rotation_is_kept_though_agent_and_host_end_before_the_server_answers() {
    let first = runtime();
    let (folder, clock, web) = first.block_on(async {
        let scene = scene().await;
        let who = scene.fixture.start(&refreshing()).await;
        scene.web.will_give(slow(Some(ROTATED)));
        tokio::select! {
            _ = one(&scene, who) => panic!("the server is slow"),
            () = scene.web.entered.notified() => {}
        }
        scene.broker().end(who, InstanceEnd::Finished);
        let (closed, ()) = tokio::join!(scene.broker().close(), async { scene.web.go_on.notify_one() });
        closed.unwrap();
        let Fixture { folder, clock, .. } = scene.fixture;
        (folder, clock, scene.web)
    });
    // With whatever a task still does.
    drop(first);
    runtime().block_on(async {
        let broker = LocalBroker::open(options(&folder, &clock, None, Some(&web)))
            .await
            .unwrap();
        let kept = broker.keyring().secret_material(&refresh(2)).unwrap();
        assert!(kept.equals(ROTATED.as_bytes()));
    });
}

#[tokio::test]
async fn a_host_that_closes_waits_for_no_server_that_never_answers_and_asks_none_anew() {
    let scene = scene().await;
    let who = scene.fixture.start(&refreshing()).await;
    scene.web.will_give(slow(None));
    tokio::select! {
        _ = one(&scene, who) => panic!("the server is slow"),
        () = scene.web.entered.notified() => {}
    }
    tokio::time::pause();
    scene.broker().close().await.unwrap();
    one(&scene, who).await.unwrap_err();
    assert_eq!(scene.web.asked().len(), 1);
}

/// What an operator does while a token is asked for.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    Secret(&'static str, KeyState),
    Destroy(&'static str),
    Suspend,
}

async fn does(broker: &LocalBroker, what: Meanwhile) {
    match what {
        Meanwhile::Secret(secret, state) => {
            drop(broker.set_secret_state(&name(secret), state).await.unwrap());
        }
        Meanwhile::Destroy(secret) => drop(broker.destroy_secret(&name(secret)).await.unwrap()),
        Meanwhile::Suspend => broker.suspend(&name("bot"), &name("api")).await.unwrap(),
    }
}

#[tokio::test]
async fn what_is_taken_away_stops_a_request_for_a_token_at_once() {
    use Meanwhile::{Destroy, Secret, Suspend};
    for (grants, what, expected) in [
        (
            client_credentials(),
            Secret("client", KeyState::Revoked),
            Refusal::Revoked,
        ),
        (
            client_credentials(),
            Secret("client", KeyState::Disabled),
            Refusal::Revoked,
        ),
        (client_credentials(), Destroy("client"), Refusal::Revoked),
        (client_credentials(), Suspend, Refusal::Suspended),
        (
            refreshing(),
            Secret("refresh", KeyState::Revoked),
            Refusal::Revoked,
        ),
    ] {
        let scene = scene().await;
        let who = scene.fixture.start(&grants).await;
        // The server never answers.
        scene.web.will_give(slow(None));
        let (asked, ()) = tokio::join!(one(&scene, who), async {
            scene.web.entered.notified().await;
            does(scene.broker(), what).await;
        });
        assert_eq!(refused(&asked.unwrap_err()), expected, "{what:?}");
        let settled = scene.traffic().await;
        assert_eq!(settled.len(), 1, "{what:?}");
        assert_eq!(settled[0].0, Settlement::Failed);
        assert!(settled[0].1.as_ref().unwrap().injected, "it may have left");
    }
}

#[tokio::test]
async fn a_suspended_grant_keeps_what_the_server_rotates_and_sends_nothing() {
    let scene = scene().await;
    let who = scene.fixture.start(&refreshing()).await;
    scene.web.will_give(slow(Some(ROTATED)));
    let (asked, ()) = tokio::join!(one(&scene, who), async {
        scene.web.entered.notified().await;
        does(scene.broker(), Meanwhile::Suspend).await;
        scene.web.go_on.notify_one();
    });
    assert_eq!(refused(&asked.unwrap_err()), Refusal::Suspended);
    assert!(scene.web.seen().is_empty());
    let kept = scene.broker().keyring().secret_material(&refresh(2)).unwrap();
    assert!(kept.equals(ROTATED.as_bytes()));
}

#[tokio::test]
async fn a_request_that_is_repeated_for_a_nonce_is_made_with_what_is_in_use_then() {
    for what in [None, Some(Meanwhile::Secret("client", KeyState::Revoked))] {
        let scene = scene().await;
        let who = scene.fixture.start(&client_credentials()).await;
        scene.web.demands.lock().unwrap().push_back("nonce-1");
        let broker = Arc::clone(&scene.fixture.broker);
        *scene.web.meanwhile.lock().unwrap() = Some(Box::new(move || {
            Box::pin(async move {
                match what {
                    Some(what) => does(&broker, what).await,
                    None => drop(
                        broker
                            .replace_secret(replacement("client", "canary-another-client"))
                            .await
                            .unwrap(),
                    ),
                }
            })
        }));
        scene.web.will_give(gives(FIRST, 3600, None));
        let asked = one(&scene, who).await;
        if what.is_some() {
            assert_eq!(refused(&asked.unwrap_err()), Refusal::Revoked);
            assert_eq!(scene.web.asked().len(), 1);
        } else {
            asked.unwrap();
            assert_eq!(scene.web.asked()[1], "canary-another-client");
        }
    }
}

/// A key on this device for grants of DPoP, and the client's secret.
async fn bound(slow: &Arc<Slow>) -> web::Scene {
    let web = Arc::new(web::Web::default());
    let fixture = Fixture::with_both(Some(Arc::clone(slow)), Some(Arc::clone(&web))).await;
    let creation = KeyCreation {
        name: name("bound"),
        profile: Profile::Dpop {},
        algorithm: Algorithm::P256,
        custody: CustodyKind::Tpm,
    };
    fixture.broker.create_key(creation).await.unwrap();
    let kind = claviger_core::http::InjectionKind::OauthClient;
    let client = web::creation("client", kind, tokens::LOGIN, "canary-client-secret");
    fixture.broker.add_secret(client).await.unwrap();
    web::Scene { fixture, web }
}

fn bound_grant() -> String {
    client_credentials().replace("oauth2", "dpop = \"bound\", oauth2")
}

#[tokio::test]
async fn what_is_taken_away_while_a_key_signs_for_a_token_is_not_sent() {
    let slow = Arc::new(Slow::default());
    let scene = bound(&slow).await;
    let who = scene.fixture.start(&bound_grant()).await;
    let (asked, ()) = tokio::join!(one(&scene, who), async {
        slow.entered.notified().await;
        does(scene.broker(), Meanwhile::Secret("client", KeyState::Revoked)).await;
    });
    assert_eq!(refused(&asked.unwrap_err()), Refusal::Revoked);
    assert!(scene.web.asked().is_empty());
    // And nothing was allowed to be sent.
    let sent = scene.fixture.events().await.into_iter().any(|event| {
        matches!(event, Event::Allowed(allowed)
            if allowed.request.as_ref().is_some_and(|line| line.origin.to_string() == tokens::LOGIN && line.route != "dpop"))
    });
    assert!(!sent);
}

#[tokio::test]
async fn a_rotation_is_kept_though_what_came_with_it_is_no_token() {
    for access in ["", "canary a token with spaces"] {
        let scene = scene().await;
        let who = scene.fixture.start(&refreshing()).await;
        scene.web.will_give(gives(access, 3600, Some(ROTATED)));
        assert_eq!(one(&scene, who).await.unwrap_err(), failed(Fault::Token));
        scene.fixture.clock.advance(SignedDuration::from_secs(1));
        scene.web.will_give(gives(FIRST, 3600, None));
        one(&scene, who).await.unwrap();
        assert_eq!(scene.web.asked()[1], ROTATED);
        scene.log_is_clean().await;
    }
}

#[tokio::test]
async fn a_rotation_keeps_what_the_operator_has_set() {
    let scene = scene().await;
    let expires = "2026-06-01T14:00:00Z".parse().unwrap();
    let mut given = replacement("refresh", "canary-refresh-with-an-end");
    given.expires = Some(expires);
    given.rotate_every = Some(std::time::Duration::from_secs(86_400));
    scene.broker().replace_secret(given).await.unwrap();
    let who = scene.fixture.start(&refreshing()).await;
    scene.web.will_give(gives(FIRST, 3600, Some(ROTATED)));
    one(&scene, who).await.unwrap();
    let record = scene.broker().keyring().secret(&name("refresh")).unwrap();
    assert_eq!(record.secret.version, KeyVersion(3));
    assert_eq!(record.expires, Some(expires));
    assert!(record.rotate_every.is_some());
    scene.fixture.clock.advance(SignedDuration::from_hours(2));
    assert_eq!(refused(&one(&scene, who).await.unwrap_err()), Refusal::Expired);
}

#[tokio::test]
async fn a_rotation_that_cannot_be_stored_is_an_alert_and_its_token_is_not_used() {
    let scene = scene().await;
    let who = scene.fixture.start(&refreshing()).await;
    // An operator is faster.
    let broker = Arc::clone(&scene.fixture.broker);
    *scene.web.meanwhile.lock().unwrap() = Some(Box::new(move || {
        Box::pin(async move {
            let by_hand = replacement("refresh", "canary-refresh-by-hand");
            drop(broker.replace_secret(by_hand).await.unwrap());
        })
    }));
    scene.web.will_give(gives(FIRST, 3600, Some(ROTATED)));
    one(&scene, who).await.unwrap_err();
    assert!(scene.web.seen().is_empty());
    let alerts: Vec<_> = scene
        .fixture
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::Alert { rule, detail, .. } => Some((rule, detail)),
            _ => None,
        })
        .collect();
    assert!(
        matches!(alerts.as_slice(), [(Rule::Token, detail)] if detail.contains("`refresh`")),
        "{alerts:?}"
    );
    scene.log_is_clean().await;
}

/// The details of the refusals on the log.
async fn details(scene: &web::Scene) -> Vec<String> {
    let events = scene.fixture.events().await.into_iter();
    let details = events.filter_map(|event| match event {
        Event::Denied { detail, .. } => Some(detail),
        _ => None,
    });
    details.collect()
}

#[tokio::test]
async fn why_there_is_no_token_is_on_the_log_and_no_agents_to_know() {
    let scene = scene().await;
    let who = scene.fixture.start(&client_credentials()).await;
    scene.web.will_give(Given {
        token: Err(Fault::NoConnection),
        slow: false,
    });
    // The second is told of what happened to the first.
    for _ in 0..2 {
        assert_eq!(one(&scene, who).await.unwrap_err(), failed(Fault::Token));
    }
    let details = details(&scene).await;
    assert_eq!(details.len(), 2);
    for detail in details {
        assert!(detail.ends_with(&Fault::NoConnection.to_string()), "{detail}");
    }
    let (_, traffic) = scene.traffic().await.pop().unwrap();
    assert!(!traffic.unwrap().injected, "nobody was there to get it");
}

#[tokio::test]
async fn a_key_that_cannot_sign_for_a_token_is_named_on_the_log() {
    let slow = Arc::new(Slow::default());
    slow.fails.store(true, Ordering::Relaxed);
    let scene = bound(&slow).await;
    let who = scene.fixture.start(&bound_grant()).await;
    assert_eq!(one(&scene, who).await.unwrap_err(), failed(Fault::Token));
    assert_eq!(scene.fixture.rules().await, [Rule::Custody]);
    assert!(details(&scene).await[0].contains("the device is gone"));
}

#[tokio::test]
async fn two_grants_of_one_refresh_token_get_a_token_each_and_take_none_from_the_other() {
    let scene = scene().await;
    let second = refreshing()
        .replace("[grants.api]", "[grants.other]")
        .replace("/repos/*", "/other/*");
    let who = scene.fixture.start(&format!("{}{second}", refreshing())).await;
    let ask = async |line: &str| drop(scene.ask(who, line).await.unwrap());
    scene.web.will_give(gives(FIRST, 3600, Some(ROTATED)));
    ask("GET /repos/a").await;
    scene
        .web
        .will_give(gives(SECOND, 3600, Some("canary-refresh-token-3")));
    for _ in 0..3 {
        ask("GET /other/a").await;
        ask("GET /repos/a").await;
    }
    assert_eq!(scene.web.asked().len(), 2);
    assert_eq!(
        scene.bearers(),
        [FIRST, SECOND, FIRST, SECOND, FIRST, SECOND, FIRST]
    );
    // The control: what an operator sets is another credential, for both.
    let by_hand = replacement("refresh", "canary-refresh-by-hand");
    scene.broker().replace_secret(by_hand).await.unwrap();
    for line in ["GET /other/a", "GET /repos/a"] {
        scene.web.will_give(gives(FIRST, 3600, None));
        ask(line).await;
    }
    assert_eq!(scene.web.asked()[2..], ["canary-refresh-by-hand"; 2]);
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_used_to_its_end_and_not_beyond() {
    let scene = scene().await;
    let who = scene.fixture.start(&client_credentials()).await;
    let fails = || {
        scene.web.will_give(Given {
            token: Err(Fault::Timeout),
            slow: false,
        });
    };
    scene.web.will_give(gives(FIRST, 600, None));
    one(&scene, who).await.unwrap();
    // Renewal is due, and fails; a moment later nobody asks again.
    scene.fixture.clock.advance(SignedDuration::from_secs(580));
    fails();
    for _ in 0..2 {
        one(&scene, who).await.unwrap();
    }
    assert_eq!(scene.bearers(), [FIRST; 3]);
    assert_eq!(scene.web.asked().len(), 2);
    scene.fixture.clock.advance(SignedDuration::from_secs(20));
    fails();
    for _ in 0..2 {
        assert_eq!(one(&scene, who).await.unwrap_err(), failed(Fault::Token));
    }
    assert_eq!(scene.web.seen().len(), 3);
}
