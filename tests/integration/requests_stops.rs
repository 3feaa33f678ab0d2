//! Requests whose permission ends while they are under way: taken away by an operator, given up by the agent, or impossible to log. What
//! was not released by then never is.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use claviger::{OutputSink, RunInput};
use claviger_broker::keyring::KeyState;
use claviger_core::audit::{Event, InstanceEnd, Settlement};
use claviger_core::http::InjectionKind;
use kit::entries::last_journal;
use kit::stage::{Action, operator};
use kit::vault::named;

use super::requests_scene::{Root, SECRET, Scene, always, echo, endless, grant, origin, until};

const INJECT: &str = "inject = { bearer = \"token\" }";

/// Does this when the agent has the first piece of a stream that never ends: the agent learns it within a second.
async fn taken_away(root: Root, word: &str, act: impl FnOnce(&Scene) -> Action) {
    let scene = Scene::new(root).await;
    let server = scene.server(endless()).await;
    scene.secret("token", InjectionKind::Bearer, &server).await;
    let agent = scene
        .agent("bot", &grant("api", &server, "\"GET /**\"", INJECT, ""))
        .await;
    let acted = Arc::new(Mutex::new(None));
    let (act, at) = (act(&scene), Arc::clone(&acted));
    let act: Action = Box::new(move || {
        *at.lock().unwrap() = Some(Instant::now());
        act();
    });
    let url = format!("{}/events", origin(&server));
    let told = scene
        .play(&agent, &format!("watch {url}\nget {url}"), vec![act])
        .await;
    let took = told.ended.duration_since(acted.lock().unwrap().unwrap());
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(
        told.answers[0].starts_with("9 bytes, then ") && told.answers[0].contains(word),
        "{:?}",
        told.answers
    );
    assert!(
        told.answers[1].starts_with("failed") && told.answers[1].contains(word),
        "{:?}",
        told.answers
    );
    assert_eq!(server.saw(|saw| saw.requests.len()), 1);
    drop(agent);
    let log = scene.close().await;
    let settled = log.settled("bot");
    assert_eq!(settled.len(), 1);
    let (settlement, traffic) = &settled[0];
    assert_eq!(*settlement, Settlement::Failed);
    assert_eq!(
        (traffic.status, traffic.received, traffic.injected),
        (Some(200), 9, true)
    );
    assert!(
        log.denied("bot")
            .iter()
            .any(|(refusal, ..)| refusal.to_string() == word),
        "{:?}",
        log.denied("bot")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_secret_is_revoked() {
    taken_away(Root::Passphrase, "revoked", |scene| {
        let broker = Arc::clone(&scene.stage.vault.broker);
        Box::new(move || {
            let revoked =
                operator(async { broker.set_secret_state(&named("token"), KeyState::Revoked).await });
            revoked.unwrap();
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_grant_is_suspended() {
    taken_away(Root::Passphrase, "suspended", |scene| {
        let broker = Arc::clone(&scene.stage.vault.broker);
        Box::new(move || operator(async { broker.suspend(&named("bot"), &named("api")).await }).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_gives_up_is_settled_as_abandoned() {
    let scene = Scene::new(Root::Passphrase).await;
    let server = scene.server(endless()).await;
    scene.secret("token", InjectionKind::Bearer, &server).await;
    let agent = scene
        .agent("bot", &grant("api", &server, "\"GET /**\"", INJECT, ""))
        .await;
    let url = format!("{}/events", origin(&server));
    // By the agent, after the first piece.
    let answers = scene.run(&agent, &format!("cancel-body {url}")).await;
    assert_eq!(answers, ["cancelled after 9"]);
    // By the embedder, who drops the whole run.
    let (first, began) = (Arc::new(tokio::sync::Notify::new()), Instant::now());
    let sink = Arc::clone(&first);
    let input = RunInput::text(format!("watch {url}")).stdout(OutputSink::new(move |_| sink.notify_one()));
    tokio::select! {
        report = agent.run(input) => panic!("it never ends: {report:?}"),
        () = first.notified() => {}
    }
    assert!(began.elapsed() < Duration::from_secs(60));
    until("both are settled", || {
        scene
            .stage
            .vault
            .broker
            .snapshot()
            .grant(&named("bot"), &named("api"))
            .uses
            == 2
    })
    .await;
    drop(agent);
    let log = scene.close().await;
    let settled = log.settled("bot");
    assert_eq!(settled.len(), 2);
    for (settlement, traffic) in &settled {
        assert_eq!(
            (*settlement, traffic.status, traffic.injected),
            (Settlement::Abandoned, Some(200), true)
        );
    }
    let dropped = log.0.iter().filter(|entry| {
        matches!(
            &entry.event,
            Event::Ended {
                end: InstanceEnd::Dropped,
                ..
            }
        )
    });
    assert_eq!(dropped.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_when_the_log_cannot_be_written() {
    let scene = Scene::new(Root::Passphrase).await;
    let server = scene.server(always("well")).await;
    scene.secret("token", InjectionKind::Bearer, &server).await;
    let agent = scene
        .agent("bot", &grant("api", &server, "\"GET /**\"", INJECT, ""))
        .await;
    let script = format!("get {0}/a\nget {0}/a", origin(&server));
    // The control.
    let answers = scene.run(&agent, &script).await;
    assert!(answers.iter().all(|one| one.starts_with("200 ")), "{answers:?}");
    let before = (
        scene.names.asked(),
        server.saw(|saw| saw.requests.len()),
        server.saw(|saw| saw.connections),
    );
    let whole = scene.log().await;
    // The log is cut under the broker while an agent runs, who has one request after another refused.
    let (journal, ends) = last_journal(&scene.audit());
    let length = u64::try_from(ends[ends.len() - 2]).unwrap();
    let stream = scene.server(endless()).await;
    drop(stream);
    let cut = std::fs::OpenOptions::new().write(true).open(journal).unwrap();
    let run = agent.run(RunInput::text(format!("{script}\n{script}")));
    cut.set_len(length).unwrap();
    if let Ok(report) = run.await {
        let said = format!("{:?}", report.answer);
        assert!(!said.contains("200") && !said.contains("well"), "{said}");
        assert_eq!(said.matches("unavailable").count(), 4, "{said}");
        assert_eq!(echo::holds(said.as_bytes(), SECRET), None);
    }
    let after = (
        scene.names.asked(),
        server.saw(|saw| saw.requests.len()),
        server.saw(|saw| saw.connections),
    );
    assert_eq!(before, after);
    scene.judge(&whole);
}
