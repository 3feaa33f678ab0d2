//! What agents may request, from the guest to a server and back: credentials in their slots and nowhere else, what is refused sends
//! nothing, and budgets hold. Not what happens in the middle of an answer: see `requests_stops.rs`.

use claviger_core::Refusal;
use claviger_core::audit::Settlement;
use claviger_core::http::InjectionKind;
use claviger_core::refusal::Rule;

use super::requests_scene::{Root, SECRET, Scene, always, echo, grant, origin, scanner};

/// The requests that a server got, as text.
fn texts(server: &super::requests_scene::server::Server) -> Vec<String> {
    server.saw(|saw| {
        let requests = saw.requests.iter();
        requests
            .map(|one| String::from_utf8_lossy(one).into_owned())
            .collect()
    })
}

async fn every_slot(root: Root) {
    let scene = Scene::new(root).await;
    let basic = echo::base64(format!("deploy:{SECRET}").as_bytes(), ['+', '/']);
    let percent = echo::spellings(SECRET)
        .into_iter()
        .find_map(|(name, text)| (name == "percent").then_some(text))
        .unwrap();
    let kinds = [
        (
            "bearer",
            InjectionKind::Bearer,
            "inject = { bearer = \"bearer\" }",
            format!("authorization: Bearer {SECRET}\r\n"),
        ),
        (
            "basic",
            InjectionKind::Basic,
            "inject = { basic = \"basic\", user = \"deploy\" }",
            format!("authorization: Basic {basic}"),
        ),
        (
            "header",
            InjectionKind::Header,
            "inject = { header = \"x-api-key\", secret = \"header\" }",
            format!("x-api-key: {SECRET}\r\n"),
        ),
        (
            "query",
            InjectionKind::Query,
            "inject = { query = \"key\", secret = \"query\" }",
            format!("?key={percent} HTTP/1.1\r\n"),
        ),
    ];
    let mut grants = String::new();
    let mut script = Vec::new();
    let mut servers = Vec::new();
    for (name, kind, inject, slot) in kinds {
        let server = scene.server(always("well")).await;
        scene.secret(name, kind, &server).await;
        grants += &grant(name, &server, "\"GET /v1/*\", \"POST /v1/*\"", inject, "");
        script.push(format!("get {}/v1/a", origin(&server)));
        script.push(format!("sdk POST {}/v1/b content", origin(&server)));
        servers.push((name, server, slot));
    }
    // And one without a credential.
    let plain = scene.server(always("well")).await;
    grants += &grant("plain", &plain, "\"GET /v1/*\"", "", "");
    script.push(format!("get {}/v1/a", origin(&plain)));
    let agent = scene.agent("bot", &grants).await;
    for answered in scene.run(&agent, &script.join("\n")).await {
        assert!(
            answered.starts_with("200 ") && answered.ends_with("well"),
            "{answered}"
        );
    }
    for (name, server, slot) in &servers {
        let requests = texts(server);
        assert_eq!(requests.len(), 2, "{name}");
        for (request, line) in requests.iter().zip(["GET /v1/a", "POST /v1/b"]) {
            assert!(request.starts_with(line), "{name}: {request}");
            assert_eq!(
                request.to_lowercase().matches(&slot.to_lowercase()).count(),
                1,
                "{name}: {request}"
            );
            assert!(
                request.contains(slot.split_once(' ').map_or(slot.as_str(), |(_, value)| value)),
                "{request}"
            );
            // Once in its slot, and nowhere else in any spelling; the control is that it is found where it is.
            let hits = scanner().scan("the request", 0, request.as_bytes());
            assert!(!hits.is_empty(), "{name}");
            let value = slot.trim_end().rsplit([' ', '=']).next().unwrap();
            let value = if *name == "query" { percent.as_str() } else { value };
            let value = if matches!(*name, "bearer" | "header") {
                SECRET
            } else {
                value
            };
            assert_eq!(request.matches(value).count(), 1, "{name}: {request}");
            assert_eq!(
                echo::holds(request.replace(value, "").as_bytes(), SECRET),
                None,
                "{name}: {request}"
            );
        }
        assert!(requests[1].ends_with("content"), "{name}");
    }
    assert_eq!(echo::holds(texts(&plain).concat().as_bytes(), SECRET), None);
    drop(agent);
    let log = scene.close().await;
    let settled = log.settled("bot");
    assert_eq!(settled.len(), 9);
    for (number, (settlement, traffic)) in (0..).zip(&settled) {
        assert_eq!(*settlement, Settlement::Released);
        assert_eq!(
            (traffic.status, traffic.received, traffic.fault),
            (Some(200), 4, None)
        );
        assert_eq!(traffic.injected, number < 8, "{number}");
        assert_eq!(
            traffic.sent,
            if number < 8 && number % 2 == 1 { 7 } else { 0 },
            "{number}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_in_its_slot_once_and_nowhere_else() {
    every_slot(Root::Passphrase).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_of_a_keyring_on_a_tpm_is_in_its_slot_once_and_nowhere_else() {
    every_slot(Root::Swtpm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_not_even_resolved() {
    let scene = Scene::new(Root::Passphrase).await;
    let server = scene.server(always("well")).await;
    scene.secret("token", InjectionKind::Bearer, &server).await;
    let more = "query = [\"page\"]\nmax-request = \"16 B\"\ncontent-types = [\"text/plain\"]\n";
    let inject = "inject = { bearer = \"token\" }";
    let grants = grant("api", &server, "\"GET /v1/*\", \"POST /v1/*\"", inject, more);
    let agent = scene.agent("bot", &grants).await;
    let base = origin(&server);
    let rows = [
        (format!("get {base}/v2/a"), Rule::Route, "GET /v2/a"),
        (format!("get {base}/v1/a/b"), Rule::Route, "GET /v1/a/b"),
        (format!("sdk DELETE {base}/v1/a"), Rule::Route, "DELETE /v1/a"),
        ("get https://evil.test/v1/a".to_owned(), Rule::Route, "evil.test"),
        (
            format!("get https://api.test:{}/v1/a", server.port ^ 1),
            Rule::Route,
            "",
        ),
        (
            format!("get http://api.test:{}/v1/a", server.port),
            Rule::Target,
            "",
        ),
        (format!("get {base}/v1/%61"), Rule::Target, ""),
        (format!("get {base}/v1/../v2"), Rule::Target, ""),
        (format!("get {base}/v1//a"), Rule::Target, ""),
        (
            format!("send GET https evil@api.test:{} /v1/a", server.port),
            Rule::Target,
            "",
        ),
        (format!("get {base}/v1/a?q=1"), Rule::Query, "q"),
        (
            format!("field {base}/v1/a authorization 78"),
            Rule::Header,
            "authorization",
        ),
        (
            format!("field {base}/v1/a x-forwarded-for 78"),
            Rule::Header,
            "x-forwarded-for",
        ),
        (format!("field {base}/v1/a x-other 78"), Rule::Header, "x-other"),
        (
            format!("sdk-post {base}/v1/a application/json {{}}"),
            Rule::Body,
            "",
        ),
        (format!("sdk POST {base}/v1/a seventeen-letters"), Rule::Body, ""),
    ];
    let script: Vec<_> = rows.iter().map(|(line, ..)| line.as_str()).collect();
    let answers = scene.run(&agent, &script.join("\n")).await;
    assert_eq!(answers.len(), rows.len());
    for ((line, ..), answered) in rows.iter().zip(&answers) {
        assert!(answered.starts_with("failed"), "{line}: {answered}");
    }
    assert_eq!((scene.names.asked(), server.saw(|saw| saw.connections)), (0, 0));
    let denied = scene.log().await.denied("bot");
    let mut left = denied.clone();
    for (line, rule, part) in &rows {
        let found = left
            .iter()
            .position(|(_, of, detail)| of == rule && detail.contains(part));
        // wasmtime refuses some spellings before the broker sees them.
        match found {
            Some(at) => drop(left.remove(at)),
            None => assert_eq!(*rule, Rule::Target, "{line}: {denied:?}"),
        }
    }
    assert!(left.is_empty(), "{left:?}");
    // The control: what is granted arrives.
    let allowed = scene.run(&agent, &format!("get {base}/v1/a?page=2")).await;
    assert!(allowed[0].ends_with("well"), "{allowed:?}");
    assert_eq!(
        (scene.names.asked(), server.saw(|saw| saw.requests.len())),
        (1, 1)
    );
    drop(agent);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_mail_cannot_gain_a_recipient_that_nobody_sees() {
    let scene = Scene::new(Root::Passphrase).await;
    let server = scene.server(always("sent")).await;
    scene.secret("token", InjectionKind::Bearer, &server).await;
    let more = "content-types = [\"application/json\"]\n[grants.mail.http.body]\n\"/to\" = { one-of = [\"team@example.com\"] }\n\"/bcc\" = { absent = true }\n";
    let inject = "inject = { bearer = \"token\" }";
    let grants = grant("mail", &server, "\"POST /send\"", inject, more);
    let agent = scene.agent("bot", &grants).await;
    let send = |body: &str| format!("sdk-post {}/send application/json {body}", origin(&server));
    // As the host writes what it has checked.
    let good = r#"{"text":"hi","to":"team@example.com"}"#;
    let script = [
        send(r#"{"to":"team@example.com","bcc":"eve@example.com","text":"hi"}"#),
        send(r#"{"to":"team@example.com","\u0062cc":"eve@example.com"}"#),
        send(r#"{"to":"eve@example.com","text":"hi"}"#),
        send(r#"{"to":"team@example.com","to":"eve@example.com"}"#),
        send(good),
    ];
    let answers = scene.run(&agent, &script.join("\n")).await;
    for refused in &answers[..4] {
        assert!(refused.starts_with("failed"), "{answers:?}");
    }
    assert_eq!(answers[4], "200 sent");
    let requests = texts(&server);
    assert_eq!(requests.len(), 1);
    assert!(requests[0].ends_with(good), "{requests:?}");
    drop(agent);
    let log = scene.close().await;
    let denied = log.denied("bot");
    assert!(
        denied
            .iter()
            .all(|(refusal, rule, _)| (*refusal, *rule) == (Refusal::Invalid, Rule::Body)),
        "{denied:?}"
    );
    for pointer in ["/bcc", "/to"] {
        assert!(
            denied.iter().any(|(_, _, detail)| detail.contains(pointer)),
            "{pointer}: {denied:?}"
        );
    }
    assert!(
        denied.iter().all(|(_, _, detail)| !detail.contains("eve@")),
        "{denied:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_rates_and_bytes_end_where_the_operator_said() {
    let scene = Scene::new(Root::Passphrase).await;
    let rows = [
        ("uses", "uses = 2", "", 2, Refusal::OverBudget, Rule::Uses),
        ("rate", "rate = \"2/hour\"", "", 2, Refusal::Throttled, Rule::Rate),
        (
            "received",
            "",
            "budget = { received = \"8 B\" }\nmax-response = \"4 B\"\n",
            2,
            Refusal::OverBudget,
            Rule::Budget,
        ),
        (
            "sent",
            "",
            "budget = { sent = \"14 B\" }\nmax-request = \"7 B\"\n",
            2,
            Refusal::OverBudget,
            Rule::Budget,
        ),
    ];
    for (name, rest, more, times, refusal, rule) in rows {
        let server = scene.server(always("well")).await;
        scene.secret(name, InjectionKind::Bearer, &server).await;
        let rest = format!("inject = {{ bearer = \"{name}\" }}\n{rest}");
        let agent = scene
            .agent(name, &grant("api", &server, "\"POST /v1/*\"", &rest, more))
            .await;
        let script = vec![format!("sdk POST {}/v1/a content", origin(&server)); times + 2];
        let answers = scene.run(&agent, &script.join("\n")).await;
        let (answered, refused) = answers.split_at(times);
        assert!(
            answered.iter().all(|one| one == "200 well"),
            "{name}: {answers:?}"
        );
        assert!(
            refused.iter().all(|one| one.starts_with("failed")),
            "{name}: {answers:?}"
        );
        // Another instance of the agent begins with what is left.
        let again = scene.run(&agent, &script[0]).await;
        assert!(again[0].starts_with("failed"), "{name}: {again:?}");
        assert_eq!(server.saw(|saw| saw.requests.len()), times, "{name}");
        let denied = scene.log().await.denied(name);
        assert!(!denied.is_empty(), "{name}");
        for (said, of, detail) in denied {
            assert_eq!((said, of), (refusal, rule), "{name}: {detail}");
        }
    }
    scene.close().await;
}
