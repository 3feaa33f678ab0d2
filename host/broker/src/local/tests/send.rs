//! Requests: granted, not granted, over, expired, revoked, the outside down, cancelled midway; and never sent when refused.

use claviger_core::audit::RequestPurpose;
use claviger_core::egress::{Fault, Frame};
use claviger_core::http::InjectionKind;

use super::web::{CANARY, GRANT, Scene, Script, chunks, creation, failed, head, next, refused, rest};
use super::*;

#[tokio::test]
async fn a_granted_request_is_logged_sent_with_the_credential_and_settled_at_its_end() {
    let scene = Scene::new().await;
    let who = scene.fixture.start(GRANT).await;
    let mut answer = scene.ask(who, "GET /repos/a").await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(scene.traffic().await.is_empty(), "not before its end");
    assert_eq!(rest(&mut answer).await.unwrap(), "ok");

    let seen = scene.web.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "GET https://api.test/repos/a");
    let slot = ("authorization".to_owned(), format!("Bearer {CANARY}"));
    assert_eq!(seen[0].slots, [slot]);
    assert_eq!(seen[0].lane, "github@v1");
    assert!(seen[0].watched >= 1);

    let events = scene.fixture.events().await;
    let allowed = events.iter().find_map(|event| match event {
        Event::Allowed(allowed) => Some(allowed),
        _ => None,
    });
    let allowed = allowed.unwrap();
    assert_eq!(allowed.secret.as_ref().unwrap().to_string(), "github@v1");
    assert_eq!((allowed.number, allowed.profile.as_str()), (1, "bearer"));
    let line = allowed.request.as_ref().unwrap();
    assert_eq!(
        (line.purpose, line.route.as_str()),
        (RequestPurpose::Agent, "GET /repos/*")
    );
    let (settlement, traffic) = scene.traffic().await.pop().unwrap();
    let traffic = traffic.unwrap();
    assert_eq!(settlement, Settlement::Released);
    assert_eq!(
        (traffic.status, traffic.sent, traffic.received, traffic.injected),
        (Some(200), 0, 2, true)
    );
    scene.log_is_clean().await;
}

/// What an operator or the clock does between admission and the request.
enum Before {
    Nothing,
    Wait(i64),
    Suspend,
    Secret(KeyState),
    Replace,
}

#[tokio::test]
async fn each_rule_refuses_with_its_kind_is_on_the_log_and_nothing_is_sent() {
    use Before::{Nothing, Replace, Secret, Suspend, Wait};
    let with = |line: &str| GRANT.replace("inject", &format!("{line}\ninject"));
    type Row<'a> = (String, &'a str, Before, usize, Option<(Refusal, Rule)>);
    let rows: Vec<Row<'_>> = vec![
        (GRANT.to_owned(), "GET /repos/a", Nothing, 0, None),
        (GRANT.to_owned(), "GET /repos/a", Replace, 0, None),
        (
            GRANT.to_owned(),
            "PUT /repos/a",
            Nothing,
            0,
            Some((Refusal::NotGranted, Rule::Route)),
        ),
        (
            GRANT.to_owned(),
            "GET https://evil.test/repos/a",
            Nothing,
            0,
            Some((Refusal::NotGranted, Rule::Route)),
        ),
        (
            GRANT.to_owned(),
            "GET /repos/../a",
            Nothing,
            0,
            Some((Refusal::Invalid, Rule::Target)),
        ),
        (
            GRANT.to_owned(),
            "GET /repos/a?q=1",
            Nothing,
            0,
            Some((Refusal::NotGranted, Rule::Query)),
        ),
        (
            with("uses = 2"),
            "GET /repos/a",
            Nothing,
            2,
            Some((Refusal::OverBudget, Rule::Uses)),
        ),
        (
            with("rate = \"3/hour\""),
            "GET /repos/a",
            Nothing,
            3,
            Some((Refusal::Throttled, Rule::Rate)),
        ),
        (
            with("expires = 2026-06-01T12:00:10Z"),
            "GET /repos/a",
            Wait(10),
            0,
            Some((Refusal::Expired, Rule::Expires)),
        ),
        (
            GRANT.to_owned(),
            "GET /repos/a",
            Suspend,
            0,
            Some((Refusal::Suspended, Rule::Suspension)),
        ),
        (
            GRANT.to_owned(),
            "GET /repos/a",
            Secret(KeyState::Disabled),
            0,
            Some((Refusal::Revoked, Rule::SecretState)),
        ),
        (
            GRANT.to_owned(),
            "GET /repos/a",
            Secret(KeyState::Revoked),
            0,
            Some((Refusal::Revoked, Rule::SecretState)),
        ),
        (
            GRANT.replace(
                "] }",
                "], max-response = \"5 B\", budget = { received = \"5 B\" } }",
            ),
            "GET /repos/a",
            Nothing,
            3,
            Some((Refusal::OverBudget, Rule::Budget)),
        ),
    ];
    for (grants, line, before, good, expected) in rows {
        let scene = Scene::new().await;
        let who = scene.fixture.start(&grants).await;
        let github = name("github");
        match before {
            Nothing => {}
            Wait(seconds) => scene.fixture.clock.advance(SignedDuration::from_secs(seconds)),
            Suspend => scene.broker().suspend(&name("bot"), &name("api")).await.unwrap(),
            Secret(state) => drop(scene.broker().set_secret_state(&github, state).await.unwrap()),
            Replace => {
                let replacement = crate::keyring::SecretReplacement {
                    name: github,
                    of: None,
                    expires: None,
                    rotate_every: None,
                    value: claviger_core::Secret::take(&mut b"canary-the-second".to_vec()).unwrap(),
                };
                scene.broker().replace_secret(replacement).await.unwrap();
            }
        }
        for n in 0..good {
            let got = rest(&mut scene.ask(who, line).await.unwrap()).await;
            // The last one may be cut where the budget ends.
            assert!(got.is_ok() || n + 1 == good, "{line}: {got:?}");
        }
        let sent = scene.web.seen().len();
        let got = scene.ask(who, line).await;
        match expected {
            None => assert!(got.is_ok(), "{line}: {:?}", got.err()),
            Some((refusal, rule)) => {
                let error = got.unwrap_err();
                assert_eq!(refused(&error), refusal, "{line}");
                assert_eq!(scene.fixture.rules().await, [rule], "{line}");
                assert_eq!(scene.web.seen().len(), sent, "{line}: nothing is sent");
            }
        }
        drop(scene.broker().checkpoint().await.unwrap());
        scene.log_is_clean().await;
    }
}

#[tokio::test]
async fn a_manifest_is_admitted_only_if_its_credentials_are_there_and_somebody_sends() {
    let scene = Scene::new().await;
    let refused = async |grants: &str| {
        let manifest = Fixture::manifest(grants);
        let admitted = scene.broker().admit(&manifest, ComponentDigest::of(CODE)).await;
        admitted.map(drop).map_err(|no| {
            let reasons: Vec<_> = no.reasons.iter().map(ToString::to_string).collect();
            reasons.join("; ")
        })
    };
    assert_eq!(refused(GRANT).await, Ok(()));
    for (grants, expected) in [
        (GRANT.replace("\"github\"", "\"githup\""), "did you mean `github`"),
        (
            GRANT.replace("bearer = \"github\"", "query = \"key\", secret = \"github\""),
            "is for `bearer`, not for `query`",
        ),
        (
            GRANT.replace("api.test", "other.test"),
            "may be sent to https://api.test alone",
        ),
        (
            GRANT.replace("bearer = \"github\"", "http-signature = \"release\""),
            "needs one for `http-signature`",
        ),
    ] {
        let reasons = refused(&grants).await.unwrap_err();
        assert!(reasons.contains(expected), "{grants}: {reasons}");
    }
    let without = Fixture::new().await;
    without
        .broker
        .add_secret(creation("github", InjectionKind::Bearer, web::API, CANARY))
        .await
        .unwrap();
    let manifest = Fixture::manifest(GRANT);
    let no = without
        .broker
        .admit(&manifest, ComponentDigest::of(CODE))
        .await
        .unwrap_err();
    assert!(no.reasons[0].to_string().contains("without egress"), "{no:?}");
}

#[tokio::test]
async fn a_body_is_checked_where_the_grant_says_so_and_what_was_understood_is_sent() {
    let scene = Scene::new().await;
    let checked = GRANT.replace(
        "] }",
        "], max-request = \"64 B\", content-types = [\"application/json\"], body = { \"/bcc\" = { absent = true } } }",
    );
    let who = scene.fixture.start(&checked).await;
    let json = [("content-type", "application/json")];
    let post = async |headers: &[(&str, &str)], body: &[&str]| {
        scene
            .broker()
            .send(who, head("POST /repos/a", headers), chunks(body))
            .await
            .map(drop)
    };
    post(&json, &["{ \"to\" :", " 1 }"]).await.unwrap();
    assert_eq!(scene.web.seen()[0].body, b"{\"to\":1}");
    let long = "1".repeat(65);
    for (headers, body) in [
        (&json[..], &["{\"bcc\":\"x\"}"][..]),
        (&json, &["{\"to\":1,\"to\":2}"]),
        (&json, &["not json"]),
        (&json, &[&long]),
        (&json, &[]),
        (&[("content-type", "text/plain")], &["{}"]),
        (
            &[("content-type", "application/json"), ("content-length", "9")],
            &["{}"],
        ),
    ] {
        assert!(post(headers, body).await.is_err(), "{body:?}");
    }
    assert_eq!(scene.web.seen().len(), 1, "nothing else was sent");
    let rules = scene.fixture.rules().await;
    assert_eq!(rules, [Rule::Body; 7]);
}

#[tokio::test]
async fn bodies_that_are_refused_are_not_read_for_ever() {
    let scene = Scene::new().await;
    let checked = GRANT.replace("] }", "], body = { \"/bcc\" = { absent = true } } }");
    let who = scene.fixture.start(&checked).await;
    let json = [("content-type", "application/json")];
    let large = "x".repeat(1 << 20);
    let post = async |body: &str| {
        let sent = scene
            .broker()
            .send(who, head("POST /repos/a", &json), chunks(&[body]))
            .await;
        sent.map(drop).map_err(|error| refused(&error))
    };
    for _ in 0..64 {
        assert_eq!(post(&large).await, Err(Refusal::Invalid));
    }
    assert_eq!(post("{}").await, Err(Refusal::Throttled));
    scene.fixture.clock.advance(SignedDuration::from_secs(1));
    // What is permitted costs its grant, and nothing beside it.
    for _ in 0..3 {
        assert_eq!(post(&format!("{{}}{}", " ".repeat((1 << 20) - 2))).await, Ok(()));
    }
    assert_eq!(post(&large).await, Err(Refusal::Invalid));
    assert_eq!(post("{}").await, Err(Refusal::Throttled));
}

#[tokio::test]
async fn bodies_are_held_whole_within_a_bound_for_each_instance() {
    let scene = Scene::new().await;
    let checked = GRANT.replace("] }", "], body = { \"/bcc\" = { absent = true } } }");
    let who = scene.fixture.start(&checked).await;
    let other = scene.fixture.start(&checked).await;
    let json = [("content-type", "application/json")];
    // Thrice in memory while it is checked, and once as long as nobody has answered.
    let body = r#"{"a":"xxxxxxxx"}"#;
    for who in [who, other] {
        scene.broker().instance(who).unwrap().bodies.leave(3 * body.len());
    }
    let post = |who| {
        scene
            .broker()
            .send(who, head("POST /repos/a", &json), chunks(&[body]))
    };
    scene.web.will(Script::Hangs);
    {
        let held = post(who);
        tokio::pin!(held);
        tokio::select! {
            _ = &mut held => panic!("it hangs"),
            () = scene.web.entered.notified() => {}
        }
        assert_eq!(refused(&post(who).await.unwrap_err()), Refusal::Throttled);
        assert_eq!(scene.fixture.rules().await, [Rule::Concurrency]);
        post(other).await.unwrap();
    }
    post(who).await.unwrap();
}

#[tokio::test]
async fn a_streamed_body_is_counted_and_cut_at_its_bound() {
    let scene = Scene::new().await;
    let bounded = GRANT.replace("] }", "], max-request = \"8 B\", budget = { sent = \"20 B\" } }");
    let who = scene.fixture.start(&bounded).await;
    let post = async |body: &[&str]| {
        let sent = scene
            .broker()
            .send(who, head("POST /repos/a", &[]), chunks(body))
            .await;
        rest(&mut sent?).await
    };
    post(&["1234", "5678"]).await.unwrap();
    let error = post(&["1234", "56789"]).await.unwrap_err();
    assert_eq!(error, failed(Fault::RequestBody));
    // Eight and four bytes went; so many are left.
    post(&["12345678"]).await.unwrap();
    assert_eq!(refused(&post(&["1"]).await.unwrap_err()), Refusal::OverBudget);
    let state = scene.broker().snapshot().grant(&name("bot"), &name("api"));
    assert_eq!(state.sent, 20);
    // A body where none belongs.
    let get = scene
        .broker()
        .send(who, head("GET /repos/a", &[]), chunks(&["x"]))
        .await;
    assert_eq!(refused(&get.unwrap_err()), Refusal::Invalid);
    let empty = scene
        .broker()
        .send(who, head("GET /repos/a", &[]), chunks(&[]))
        .await;
    assert!(empty.is_ok());
}

#[tokio::test]
async fn a_byte_budget_counts_what_went_and_a_crash_leaves_it_reserved() {
    let scene = Scene::new().await;
    let bounded = GRANT.replace(
        "] }",
        "], max-response = \"60 B\", budget = { received = \"100 B\" } }",
    );
    let who = scene.fixture.start(&bounded).await;
    let received = |scene: &Scene| {
        let state = scene.broker().snapshot().grant(&name("bot"), &name("api"));
        state.received
    };
    scene.get(who).await.unwrap();
    assert_eq!(received(&scene), 2);
    // An agent that asks is told that nothing is left.
    let listed = async || {
        let listing = Request::ListGrants;
        match scene.broker().perform(who, listing).await.unwrap() {
            Outcome::Grants { grants } => grants[0].refused,
            other => panic!("{other:?}"),
        }
    };
    // Under way, all of it is reserved; what another may have is the rest.
    let _open = scene.web.will_stream();
    let first = scene.ask(who, "GET /repos/a").await.unwrap();
    assert_eq!(received(&scene), 62);
    let mut second = scene.ask(who, "GET /repos/a").await.unwrap();
    assert_eq!(received(&scene), 100);
    assert_eq!(
        refused(&scene.ask(who, "GET /repos/a").await.unwrap_err()),
        Refusal::OverBudget
    );
    assert_eq!(listed().await, Some(Refusal::OverBudget));
    rest(&mut second).await.unwrap();
    drop(first);
    assert_eq!(received(&scene), 4);
    assert_eq!(listed().await, None);
    // More than was reserved is not let through.
    scene.web.will(Script::Answer(200, vec!["x"; 61]));
    assert_eq!(scene.get(who).await.unwrap_err(), failed(Fault::BodyTooLarge));
    assert_eq!(received(&scene), 64);
    // What fails before anything is received costs nothing; the log says the same after a restart.
    scene.web.will(Script::Fail(Fault::NoConnection));
    assert_eq!(scene.get(who).await.unwrap_err(), failed(Fault::NoConnection));
    let before = scene.broker().snapshot();
    let fixture = scene.fixture.reopen().await;
    let after = fixture.broker.snapshot().grant(&name("bot"), &name("api"));
    assert_eq!(after, before.grant(&name("bot"), &name("api")));
    assert_eq!(after.received, 64);
}

#[tokio::test]
async fn the_outside_failing_is_a_fault_of_its_own_kind_and_is_settled() {
    for (fault, left) in [
        (Fault::NoConnection, false),
        (Fault::Tls, false),
        (Fault::Certificate, false),
        (Fault::Timeout, true),
        (Fault::Protocol, true),
        (Fault::Incomplete, true),
    ] {
        let scene = Scene::new().await;
        let bounded = GRANT.replace("] }", "], max-request = \"20 B\", budget = { sent = \"20 B\" } }");
        let who = scene.fixture.start(&bounded).await;
        scene.web.will(Script::Fail(fault));
        let post = scene
            .broker()
            .send(who, head("POST /repos/a", &[]), chunks(&["12345"]));
        assert_eq!(post.await.unwrap_err(), failed(fault));
        let (settlement, traffic) = scene.traffic().await.pop().unwrap();
        let traffic = traffic.unwrap();
        assert_eq!(
            (settlement, traffic.fault, traffic.injected),
            (Settlement::Failed, Some(fault), left)
        );
        // What may have been read is paid for.
        let sent = if left { 5 } else { 0 };
        let state = scene.broker().snapshot().grant(&name("bot"), &name("api"));
        assert_eq!((traffic.sent, state.sent), (sent, sent), "{fault}");
    }
}

#[tokio::test]
async fn a_secret_that_comes_back_is_told_and_the_grant_suspended_before_the_agent_knows() {
    for midway in [false, true] {
        let scene = Scene::new().await;
        let who = scene.fixture.start(GRANT).await;
        // Another request of the same grant is under way.
        let _open = scene.web.will_stream();
        let mut other = scene.ask(who, "GET /repos/b").await.unwrap();
        if midway {
            let open = scene.web.will_stream();
            let mut answer = scene.ask(who, "GET /repos/a").await.unwrap();
            open.send(Ok("first")).unwrap();
            open.send(Err(Fault::Reflected)).unwrap();
            assert!(matches!(next(&mut answer).await, Some(Ok(Frame::Data(_)))));
            let error = next(&mut answer).await.unwrap().unwrap_err();
            assert_eq!(error, failed(Fault::Reflected));
            assert!(next(&mut answer).await.is_none());
        } else {
            scene.web.will(Script::Fail(Fault::Reflected));
            assert_eq!(scene.get(who).await.unwrap_err(), failed(Fault::Reflected));
        }
        let events = scene.fixture.events().await;
        let alert = events.iter().position(|event| {
            matches!(
                event,
                Event::Alert {
                    rule: Rule::Reflection,
                    ..
                }
            )
        });
        let suspended = events.iter().position(|event| {
            matches!(
                event,
                Event::Suspended {
                    cause: Some(Rule::Reflection),
                    ..
                }
            )
        });
        assert!(alert.is_some() && suspended.is_some(), "{events:#?}");
        assert_eq!(refused(&scene.get(who).await.unwrap_err()), Refusal::Suspended);
        let cut = next(&mut other).await.unwrap().unwrap_err();
        assert_eq!(refused(&cut), Refusal::Suspended);
        scene.log_is_clean().await;
    }
}
