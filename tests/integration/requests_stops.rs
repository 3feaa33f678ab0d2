//! Requests whose permission ends while they are under way: taken away by an operator, given up by the agent, or impossible to log. What
//! was not released by then never is.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use claviger::{OutputSink, RunInput};
use claviger_broker::keyring::KeyState;
use claviger_broker::operator::{Change, Client, Command};
use claviger_core::audit::{Event, InstanceEnd, Settlement};
use claviger_core::http::InjectionKind;
use kit::entries::last_journal;
use kit::stage::{Action, operator};
use kit::vault::named;

use super::requests_scene::{Root, Scene, always, endless, grant, origin};

const INJECT: &str = "inject = { bearer = \"token\" }";

/// Does this when the agent has the first piece of a stream that never ends: the agent learns it within a second.
async fn taken_away(word: &str, act: impl FnOnce(&Scene) -> Action) {
    let scene = Scene::new(Root::Passphrase).await;
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
    taken_away("revoked", |scene| {
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
    taken_away("suspended", |scene| {
        let broker = Arc::clone(&scene.stage.vault.broker);
        Box::new(move || operator(async { broker.suspend(&named("bot"), &named("api")).await }).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_agent_is_suspended() {
    taken_away("suspended", |scene| {
        let broker = Arc::clone(&scene.stage.vault.broker);
        Box::new(move || operator(async { broker.suspend_agent(&named("bot")).await }).unwrap())
    })
    .await;
}

// The socket is served by another thread than the one that waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_ends_when_all_use_is_stopped_or_its_secret_revoked_through_the_socket() {
    for (word, command) in [
        ("suspended", Command::Panic),
        (
            "revoked",
            Command::ChangeSecret {
                name: named("token"),
                change: Change::Revoke,
            },
        ),
    ] {
        taken_away(word, |scene| {
            scene.stage.vault.broker.serve_control().unwrap();
            let folder = scene.stage.vault.folder().to_owned();
            Box::new(move || {
                operator(async {
                    let host = Client::connect(&folder).await.unwrap();
                    host.command(&command, None).await.unwrap();
                });
            })
        })
        .await;
    }
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
    let first = Arc::new(tokio::sync::Notify::new());
    let sink = Arc::clone(&first);
    let input = RunInput::text(format!("watch {url}")).stdout(OutputSink::new(move |_| sink.notify_one()));
    tokio::select! {
        report = agent.run(input) => panic!("it never ends: {report:?}"),
        () = first.notified() => {}
    }
    // Before anything is closed: closing would settle them, too.
    let settled = async {
        while scene.log().await.uses().iter().any(|one| one.settled.is_none()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), settled)
        .await
        .expect("both are settled");
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
    scene.judge(&scene.log().await);
    // The log is cut under the broker while the agent reads an answer; its next requests are refused.
    let (journal, ends) = last_journal(&scene.audit());
    let length = u64::try_from(ends[ends.len() - 2]).unwrap();
    let counts = || {
        let (requests, connections) = server.saw(|saw| (saw.requests.len(), saw.connections));
        (scene.names.asked(), requests, connections)
    };
    let before = counts();
    let cut: Action = Box::new(move || {
        let file = std::fs::OpenOptions::new().write(true).open(journal).unwrap();
        file.set_len(length).unwrap();
    });
    let told = scene
        .play(
            &agent,
            &format!("watch {0}/a\n{script}", origin(&server)),
            vec![cut],
        )
        .await;
    assert_eq!(told.answers[0], "4 bytes");
    for said in &told.answers[1..] {
        assert!(
            said.starts_with("failed") && said.contains("unavailable"),
            "{:?}",
            told.answers
        );
    }
    let (asked, requests, connections) = before;
    assert_eq!(
        counts(),
        (asked, requests + 1, connections),
        "only the one that was allowed before"
    );
    scene.assert_clean();
}
