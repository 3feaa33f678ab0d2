//! `claviger explain` of requests and `claviger check` of grants for them. Sends nothing: that is what is tested.

use serde_json::Value;

use crate::cli_scene::{HEAD, Scene};

/// Grants for requests: without a credential, with one that the keyring has not, and with rules for JSON.
const GRANTS: &str = r#"
[grants.feed]
http = { origin = "https://feed.invalid", allow = ["GET /v1/*"], query = { page = "any", sort = ["asc"] }, headers = ["x-trace"] }
uses = 5
expires = 2030-01-01T00:00:00Z
[grants.mail]
http = { origin = "https://mail.invalid", allow = ["POST /send"], body = { fields = ["to", "text"], "/to" = { equals = "team@mail.invalid" } } }
uses = 5
expires = 2030-01-01T00:00:00Z
[grants.github]
http = { origin = "https://api.invalid", allow = ["GET /repos/acme/**"] }
inject = { bearer = "github-token" }
uses = 5
expires = 2030-01-01T00:00:00Z
"#;

fn scene() -> Scene {
    let scene = Scene::new();
    let head = format!("{HEAD}acknowledged = [\"lethal-mix\"]\n");
    scene.manifest("bot.toml", format!("{head}{GRANTS}"));
    scene.write("good.json", r#"{"to":"team@mail.invalid","text":"x"}"#);
    scene.write(
        "bcc.json",
        r#"{"to":"team@mail.invalid","bcc":"canary@evil.invalid"}"#,
    );
    scene.write("other.json", r#"{"to":"canary@evil.invalid","text":"x"}"#);
    scene
}

#[test]
fn explain_says_under_which_grant_and_route_a_request_falls_or_which_rule_denies() {
    let scene = scene();
    let before = scene.files();
    let json = "content-type: application/json";
    for (line, more, grant, route, denied_by) in [
        ("GET https://feed.invalid/v1/a", &[][..], "feed", "GET /v1/*", ""),
        (
            "GET https://feed.invalid/v1/a?page=canary&sort=asc",
            &[],
            "feed",
            "GET /v1/*",
            "",
        ),
        (
            "GET https://feed.invalid/v1/a",
            &["--header", "X-Trace: 1"],
            "feed",
            "GET /v1/*",
            "",
        ),
        (
            "GET https://feed.invalid/v1/a",
            &["--header", "x-other: canary"],
            "feed",
            "GET /v1/*",
            "header",
        ),
        (
            "GET https://feed.invalid/v1/a",
            &["--header", "authorization: canary"],
            "feed",
            "GET /v1/*",
            "header",
        ),
        (
            "GET https://feed.invalid/v1/a",
            &["--header", "host: evil.invalid"],
            "feed",
            "GET /v1/*",
            "header",
        ),
        (
            "GET https://feed.invalid/v1/a?q=1",
            &[],
            "feed",
            "GET /v1/*",
            "query",
        ),
        (
            "GET https://feed.invalid/v1/a?sort=desc",
            &[],
            "feed",
            "GET /v1/*",
            "query",
        ),
        (
            "GET https://feed.invalid/v1/a",
            &["--body", "good.json"],
            "feed",
            "GET /v1/*",
            "body",
        ),
        ("GET https://feed.invalid/v1/a/b", &[], "", "", "route"),
        ("POST https://feed.invalid/v1/a", &[], "", "", "route"),
        ("get https://feed.invalid/v1/a", &[], "", "", "route"),
        ("GET https://evil.invalid/v1/a", &[], "", "", "route"),
        ("GET https://feed.invalid/v1/../a", &[], "", "", "target"),
        (
            "GET https://feed.invalid@evil.invalid/v1/a",
            &[],
            "",
            "",
            "target",
        ),
        ("GET http://feed.invalid/v1/a", &[], "", "", "target"),
        ("POST https://mail.invalid/send", &[], "mail", "POST /send", ""),
        (
            "POST https://mail.invalid/send",
            &["--header", json, "--body", "good.json"],
            "mail",
            "POST /send",
            "",
        ),
        (
            "POST https://mail.invalid/send",
            &["--header", json, "--body", "bcc.json"],
            "mail",
            "POST /send",
            "body",
        ),
        (
            "POST https://mail.invalid/send",
            &["--header", json, "--body", "other.json"],
            "mail",
            "POST /send",
            "body",
        ),
        (
            "POST https://mail.invalid/send",
            &["--body", "good.json"],
            "mail",
            "POST /send",
            "body",
        ),
        (
            "GET https://api.invalid/repos/acme/x",
            &[],
            "github",
            "GET /repos/acme/**",
            "secret-state",
        ),
    ] {
        let words = [
            &[
                "explain",
                "bot.toml",
                line,
                "--at",
                "2029-06-04T09:00:00Z",
                "--json",
            ],
            more,
        ]
        .concat();
        let said = scene.run(&words).expect(if denied_by.is_empty() { 0 } else { 3 });
        let answer = &said.lines()[0];
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (text("grant"), text("route"), text("denied_by")),
            (grant.to_owned(), route.to_owned(), denied_by.to_owned()),
            "{line} {more:?}: {said}"
        );
        assert_eq!(answer["allowed"], denied_by.is_empty(), "{said}");
        assert_eq!(text("request"), line);
        assert_eq!(answer["limits"].is_array(), !grant.is_empty(), "{said}");
        // What the agent wrote into values and bodies is in no rule's words.
        assert!(!answer["rules"].to_string().contains("canary"), "{said}");
    }
    assert!(before == scene.files(), "nothing was written");
}

#[test]
fn explain_says_what_is_attached_and_every_limit_and_what_would_allow_a_request() {
    let scene = scene();
    let said = scene
        .run(&["explain", "bot.toml", "GET https://api.invalid/repos/acme/x"])
        .expect(3);
    for part in [
        "falls under grant `github`",
        "denied by `secret-state`",
        "the keyring has no secret `github-token`",
        "claviger secret add github-token --kind bearer --origin https://api.invalid",
        "secret `github-token` as `authorization: Bearer`",
        "max-response",
        "8 MiB",
        "public addresses only",
    ] {
        assert!(said.out.contains(part), "{part}: {said}");
    }
    let said = scene
        .run(&["explain", "bot.toml", "DELETE https://api.invalid/repos/acme/x"])
        .expect(3);
    assert!(
        said.out.contains("add \"DELETE /repos/acme/x\" to `allow`"),
        "{said}"
    );
    // An alias still explains the grant, and takes nothing that belongs to a request.
    let said = scene.run(&["explain", "bot.toml", "feed", "--json"]).expect(0);
    assert_eq!(said.lines()[0]["grant"], "feed");
    scene
        .run(&["explain", "bot.toml", "feed", "--header", "accept: x"])
        .expect(2);
    for wrong in ["", "Feed", "GET  ", "a/b"] {
        let code = scene.run(&["explain", "bot.toml", wrong]).code;
        assert!(matches!(code, 2 | 3), "{wrong:?}: {code}");
    }
}

#[test]
fn check_shows_every_limit_of_requests_and_which_secret_is_missing() {
    let scene = scene();
    let said = scene.run(&["check", "bot.toml", "--json"]).expect(1);
    let answer = &said.lines()[0];
    let grants = answer["grants"].as_array().unwrap();
    let github = grants.iter().find(|grant| grant["alias"] == "github").unwrap();
    assert_eq!(
        github["inject"],
        "secret `github-token` as `authorization: Bearer`"
    );
    assert_eq!(github["origin"], "https://api.invalid");
    let names: Vec<&str> = github["limits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| limit["name"].as_str().unwrap())
        .collect();
    for name in [
        "query",
        "headers",
        "max-response",
        "timeout",
        "budget",
        "tls",
        "private-network",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let feed = grants.iter().find(|grant| grant["alias"] == "feed").unwrap();
    assert_eq!(feed["inject"], Value::Null);
    let against = answer["against"].to_string();
    assert!(against.contains("no secret `github-token`"), "{against}");
    assert!(!against.contains("feed"), "{against}");
    // Without the acknowledgement the mix is named.
    scene.manifest("mixed.toml", format!("{HEAD}{GRANTS}"));
    let said = scene.run(&["check", "mixed.toml", "--json"]);
    assert!(said.out.contains("manifest::lethal-mix"), "{said}");
}
