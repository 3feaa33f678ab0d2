//! Servers that misbehave, from the wire to the guest: what reflects a credential is withheld and suspended, redirects lead nowhere, and
//! broken answers end as failures that name nothing. The whole table is played to the client in its own tests.

use claviger_core::Refusal;
use claviger_core::audit::{Event, Settlement};
use claviger_core::egress::Fault;
use claviger_core::http::InjectionKind;
use claviger_core::refusal::Rule;
use kit::stage::events_of;
use kit::vault::named;

use self::row::{Expect, row};
use super::requests_scene::server::Step;
use super::requests_scene::{Root, SECRET, Scene, always, answer, echo, grant, origin};

#[path = "../../host/egress/tests/misbehaving/heads.rs"]
mod heads;
#[path = "../../host/egress/tests/misbehaving/reflecting.rs"]
mod reflecting;
#[path = "../../host/egress/tests/misbehaving/row.rs"]
mod row;
#[path = "../../host/egress/tests/misbehaving/rows.rs"]
mod rows;

use self::row::Row;

fn inject(secret: &str) -> String {
    format!("inject = {{ bearer = \"{secret}\" }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflected_credential_is_withheld_and_its_grant_suspended_until_an_operator_resumes_it() {
    let scene = Scene::new(Root::Passphrase).await;
    // One of each place, in turning spellings.
    let all = reflecting::all();
    let places = all.len() / echo::spellings(SECRET).len();
    let rows: Vec<Row> = all
        .into_iter()
        .enumerate()
        .filter_map(|(number, row)| {
            (number % (places + 1) == 0 || row.name.starts_with("raw")).then_some(row)
        })
        .collect();
    assert!(rows.len() >= 20, "{}", rows.len());
    for (number, row) in rows.into_iter().enumerate() {
        let (agent, what) = (format!("bot-{number}"), row.name);
        let server = scene.server(row.steps).await;
        scene.secret(&agent, InjectionKind::Bearer, &server).await;
        let grants = grant("api", &server, "\"GET /**\"", &inject(&agent), "");
        let bot = scene.agent(&agent, &grants).await;
        let url = format!("{}/a", origin(&server));
        let told = scene.run(&bot, &format!("trailers {url}\nget {url}")).await;
        for said in &told {
            assert!(
                said.starts_with("failed") && said.contains("suspended"),
                "{what}: {told:?}"
            );
        }
        assert_eq!(
            server.saw(|saw| saw.requests.len()),
            1,
            "{what}: the second was not sent"
        );
        let log = scene.log().await;
        let events = events_of(&log.0, &agent);
        let [
            Event::Alert {
                rule: Rule::Reflection,
                detail,
                ..
            },
            Event::Suspended {
                cause: Some(Rule::Reflection),
                ..
            },
        ] = events
            .iter()
            .copied()
            .filter(|event| matches!(event, Event::Alert { .. } | Event::Suspended { .. }))
            .collect::<Vec<_>>()[..]
        else {
            panic!("{what}: {events:?}")
        };
        assert!(!detail.is_empty());
        let denied = log.denied(&agent);
        assert!(
            denied
                .iter()
                .any(|(refusal, rule, _)| (*refusal, *rule) == (Refusal::Suspended, Rule::Suspension)),
            "{what}: {denied:?}"
        );
        // Resumed, it is sent again.
        scene
            .stage
            .vault
            .broker
            .resume(&named(&agent), &named("api"))
            .await
            .unwrap();
        scene.run(&bot, &format!("get {url}")).await;
        assert_eq!(server.saw(|saw| saw.requests.len()), 2, "{what}");
    }
    let log = scene.close().await;
    for used in log.uses() {
        let (settlement, traffic) = used.settled.unwrap();
        assert_eq!(
            (settlement, traffic.fault),
            (Settlement::Failed, Some(Fault::Reflected))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_an_answer_and_its_target_a_request_like_any_other() {
    let scene = Scene::new(Root::Passphrase).await;
    let elsewhere = scene.server(always("never")).await;
    let other = scene.server(always("well")).await;
    let mut grants = grant("other", &other, "\"GET /a\"", "", "");
    let mut script = Vec::new();
    let mut servers = Vec::new();
    for (number, status) in [301, 302, 303, 307, 308].into_iter().enumerate() {
        let location = format!(
            "location: {}/a\r\n",
            origin(if number == 0 { &other } else { &elsewhere })
        );
        let server = scene
            .server(vec![
                Step::Read,
                answer(&format!("{status} Go"), &location, ""),
                Step::Again,
            ])
            .await;
        let name = format!("api-{number}");
        scene.secret(&name, InjectionKind::Bearer, &server).await;
        grants += &grant(&name, &server, "\"GET /**\"", &inject(&name), "");
        script.push(format!("get {}/a", origin(&server)));
        servers.push((status, server));
    }
    script.push(format!("get {}/a", origin(&elsewhere)));
    script.push(format!("get {}/a", origin(&other)));
    let agent = scene.agent("bot", &grants).await;
    let told = scene.run(&agent, &script.join("\n")).await;
    for ((status, server), said) in servers.iter().zip(&told) {
        assert!(
            said.starts_with(&format!("{status} [")) && said.contains("location=https://"),
            "{said}"
        );
        assert_eq!(server.saw(|saw| saw.requests.len()), 1);
    }
    assert_eq!(told[5], "failed ErrorCode::HttpRequestDenied");
    assert!(told[6].ends_with("well"), "{told:?}");
    assert_eq!(elsewhere.saw(|saw| saw.connections), 0);
    // Asked by the agent once, and not by the client; without the credential of whoever sent it there.
    assert_eq!(other.saw(|saw| saw.requests.len()), 1);
    drop(agent);
    let log = scene.close().await;
    let denied = log.denied("bot");
    assert!(
        matches!(denied.as_slice(), [(Refusal::NotGranted, Rule::Route, _)]),
        "{denied:?}"
    );
    assert_eq!(log.settled("bot").len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_answers_end_as_the_table_says_and_give_nothing_away() {
    let scene = Scene::new(Root::Passphrase).await;
    let mut grants = String::new();
    let (mut script, mut played) = (Vec::new(), Vec::new());
    // Without those that wait: they are played to the client. And a control of our own.
    let silent = |row: &Row| row.expect == Expect::Fault(Fault::Timeout);
    let control = row(
        "control",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Expect::Answer(200, "ok"),
    );
    let rows = rows::all()
        .into_iter()
        .filter(|row| !silent(row))
        .chain([control]);
    for (number, row) in rows.enumerate() {
        let server = scene.server(row.steps).await;
        let name = format!("api-{number}");
        scene.secret(&name, InjectionKind::Bearer, &server).await;
        grants += &grant(
            &name,
            &server,
            "\"GET /**\"",
            &inject(&name),
            "max-response = \"64 KiB\"\n",
        );
        script.push(format!("get {}/a", origin(&server)));
        played.push((row.name, row.expect, server));
    }
    assert!(played.len() >= 60, "{}", played.len());
    let agent = scene.agent("bot", &grants).await;
    // One line of the script for each line of the answer: bodies of the table have none.
    let told = scene.run(&agent, &script.join("\n")).await;
    assert_eq!(told.len(), played.len(), "{told:?}");
    drop(agent);
    let log = scene.close().await;
    let uses = log.uses();
    assert_eq!(uses.len(), played.len());
    for (((name, expect, server), said), used) in played.iter().zip(&told).zip(uses) {
        let (settlement, traffic) = used.settled.unwrap();
        assert_eq!(server.saw(|saw| saw.requests.len()), 1, "{name}");
        assert!(traffic.injected, "{name}: the server has read the credential");
        match expect {
            Expect::Answer(status, body) => {
                assert!(
                    said.starts_with(&format!("{status} [")) && said.ends_with(&format!("] {body}")),
                    "{name}: {said}"
                );
                assert_eq!(settlement, Settlement::Released, "{name}");
                assert_eq!(traffic.fault, None, "{name}");
            }
            Expect::Fault(fault) => {
                assert!(said.starts_with("failed "), "{name}: {said}");
                assert_eq!(
                    (settlement, traffic.fault),
                    (Settlement::Failed, Some(*fault)),
                    "{name}"
                );
            }
        }
    }
}
