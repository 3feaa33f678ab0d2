//! Authorization servers by script: what they are asked, and which of their answers is a token.

use std::sync::Arc;

use claviger_core::egress::{
    DpopNonce, Egress as _, Fault, SendError, Token, TokenAnswer, TokenPlan, TokenRequest, TokenSecrets,
};
use claviger_core::http::{ClientAuth, GithubApp, OAuth2, OAuthGrant, PathEncoding, Target};
use claviger_egress::HttpsClient;

use crate::kit::server::{Server, Step};
use crate::kit::{Table, client, destination, echo, get, hasty, log, permit, secret};

const CLIENT_SECRET: &str = "c1ient:s3cret/+& ~x";
const REFRESH: &str = "refresh/+= 1234567890";

fn oauth(port: u16) -> OAuth2 {
    let url = format!("https://api.test:{port}/oauth/token");
    OAuth2 {
        endpoint: Target::parse(&url, PathEncoding::Refused).unwrap(),
        client_id: "my client".to_owned(),
        auth: ClientAuth::Post("client".parse().unwrap()),
        grant: OAuthGrant::ClientCredentials,
        scope: None,
        audience: None,
    }
}

fn plan(port: u16, request: TokenRequest) -> TokenPlan {
    TokenPlan {
        destination: Arc::new(destination(port)),
        request,
        secrets: TokenSecrets {
            client: Some(Arc::new(secret(CLIENT_SECRET))),
            grant: Some(Arc::new(secret(REFRESH))),
        },
        assertion: Some(secret("aaa.bbb.ccc")),
        dpop: None,
    }
}

async fn ask(client: &HttpsClient, plan: TokenPlan) -> Result<Token, SendError> {
    match answered(client, plan).await? {
        TokenAnswer::Given(token) => Ok(token),
        // No test that expects a token, or its absence, expects this.
        TokenAnswer::NonceDemanded(_) | TokenAnswer::Rotated(_) => Err(Fault::Protocol.into()),
    }
}

async fn answered(client: &HttpsClient, plan: TokenPlan) -> Result<TokenAnswer, SendError> {
    let permit = permit(&plan.destination.origin).await;
    client.token(&permit, plan).await
}

fn json(fields: &str, body: &str) -> Vec<Step> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    vec![Step::Read, Step::Write(answer.into_bytes()), Step::Again]
}

const BEARER: &str = r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"Bearer","expires_in":3600}"#;

/// What a server was asked, head and body.
async fn asked(change: impl FnOnce(&mut OAuth2), bound: bool) -> (String, String) {
    let kind = if bound { "DPoP" } else { "Bearer" };
    let server = Server::start(json("", &BEARER.replace("Bearer", kind))).await;
    let mut request = oauth(server.port);
    change(&mut request);
    let mut plan = plan(server.port, TokenRequest::OAuth2(request));
    plan.dpop = bound.then(|| secret("ddd.eee.fff"));
    let token = ask(&client(Table::loopback()), plan).await.unwrap();
    assert!(token.access.equals(b"2YotnFZFEjr1zCsicMWpAA"));
    assert_eq!(token.expires_in, Some(3600));
    let request = server.saw(|saw| String::from_utf8(saw.requests[0].clone()).unwrap());
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn each_way_of_asking_is_the_standards() {
    let secret_form = "client_secret=c1ient%3As3cret%2F%2B%26+%7Ex";
    let (head, body) = asked(|_| {}, false).await;
    assert!(head.starts_with("POST /oauth/token HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-www-form-urlencoded\r\n"));
    assert!(!head.contains("authorization"));
    assert_eq!(
        body,
        format!("grant_type=client_credentials&client_id=my+client&{secret_form}")
    );

    let (head, body) = asked(
        |oauth| {
            oauth.auth = ClientAuth::Basic("client".parse().unwrap());
            oauth.scope = Some("read write".to_owned());
        },
        false,
    )
    .await;
    let pair = echo::base64(b"my+client:c1ient%3As3cret%2F%2B%26+%7Ex", ['+', '/']);
    let padded = format!("{pair}{}", "=".repeat((4 - pair.len() % 4) % 4));
    assert!(head.contains(&format!("authorization: Basic {padded}")), "{head}");
    assert_eq!(body, "grant_type=client_credentials&scope=read+write");

    let (_, body) = asked(
        |oauth| {
            oauth.auth = ClientAuth::PrivateKeyJwt("key".parse().unwrap());
            oauth.audience = Some("https://a.test/".to_owned());
        },
        false,
    )
    .await;
    assert_eq!(
        body,
        "grant_type=client_credentials&audience=https%3A%2F%2Fa.test%2F&client_id=my+client&client_assertion_type=\
         urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=aaa.bbb.ccc"
    );

    let refresh = "refresh%2F%2B%3D+1234567890";
    let (head, body) = asked(
        |oauth| {
            oauth.auth = ClientAuth::None;
            oauth.grant = OAuthGrant::RefreshToken("refresh".parse().unwrap());
        },
        true,
    )
    .await;
    assert!(head.contains("dpop: ddd.eee.fff"));
    assert_eq!(
        body,
        format!("grant_type=refresh_token&refresh_token={refresh}&client_id=my+client")
    );

    let (_, body) = asked(
        |oauth| {
            oauth.auth = ClientAuth::None;
            oauth.grant = OAuthGrant::TokenExchange {
                subject: "subject".parse().unwrap(),
                subject_type: "urn:ietf:params:oauth:token-type:jwt".to_owned(),
            };
        },
        false,
    )
    .await;
    assert_eq!(
        body,
        format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token={refresh}&\
             subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt&client_id=my+client"
        )
    );
}

#[tokio::test]
async fn only_a_token_of_the_kind_that_was_asked_for_is_taken() {
    log::capture();
    let token = |fields: &str| format!(r#"{{"access_token":"abc","token_type":"bearer"{fields}}}"#);
    let long = "a".repeat(70 << 10);
    let good = [
        token(""),
        token(r#","expires_in":null"#),
        token(r#","expires_in":"3600""#),
        // What cannot be read is unsaid.
        token(r#","expires_in":-1"#),
        token(r#","expires_in":1.5"#),
        token(r#","expires_in":"soon""#),
        token(r#","scope":"a","id_token":"x.y.z","issued_token_type":"t""#),
        r#" {"token_type":"BEARER","access_token":"a\u0062\/c"} "#.to_owned(),
    ];
    let bad = [
        String::new(),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        r#""abc""#.to_owned(),
        "<html>invalid</html>".to_owned(),
        "access_token=abc&token_type=bearer".to_owned(),
        token("") + "x",
        format!("\u{feff}{}", token("")),
        r#"{"access_token":"abc"}"#.to_owned(),
        r#"{"token_type":"bearer"}"#.to_owned(),
        r#"{"access_token":"","token_type":"bearer"}"#.to_owned(),
        r#"{"access_token":7,"token_type":"bearer"}"#.to_owned(),
        r#"{"access_token":["abc"],"token_type":"bearer"}"#.to_owned(),
        r#"{"access_token":"abc","token_type":"mac"}"#.to_owned(),
        r#"{"access_token":"abc","token_type":"N_A"}"#.to_owned(),
        r#"{"access_token":"abc","token_type":"DPoP"}"#.to_owned(),
        r#"{"access_token":"a b","token_type":"bearer"}"#.to_owned(),
        r#"{"access_token":"a\r\nx-evil: 1","token_type":"bearer"}"#.to_owned(),
        r#"{"access_token":"ä","token_type":"bearer"}"#.to_owned(),
        token(r#","access_token":"def""#),
        token(r#","refresh_token":7"#),
        token(r#","refresh_token":"""#),
        format!(
            r#"{{"access_token":"{}","token_type":"bearer"}}"#,
            "a".repeat(17 << 10)
        ),
        r#"{"error":"invalid_client","error_description":"c1ient:s3cret"}"#.to_owned(),
    ];
    for body in good.iter().chain(&bad) {
        let server = Server::start(json("", body)).await;
        let plan = plan(server.port, TokenRequest::OAuth2(oauth(server.port)));
        let got = ask(&client(Table::loopback()), plan).await;
        if bad.contains(body) {
            assert_eq!(got.unwrap_err(), Fault::Token.into(), "{body}");
        } else {
            let expires = body.contains("\"3600\"").then_some(3600);
            assert_eq!(got.unwrap().expires_in, expires, "{body}");
        }
    }
    let server = Server::start(json("", &token(&format!(r#","x":"{long}""#)))).await;
    let large = plan(server.port, TokenRequest::OAuth2(oauth(server.port)));
    assert_eq!(
        ask(&client(Table::loopback()), large).await.unwrap_err(),
        Fault::BodyTooLarge.into()
    );
    for wanted in [CLIENT_SECRET, REFRESH] {
        assert_eq!(echo::holds(&log::lines(), wanted), None);
    }
}

#[tokio::test]
async fn any_other_answer_is_no_token() {
    let with = |line: &str, fields: &str| {
        let answer = format!(
            "HTTP/1.1 {line}\r\n{fields}content-length: {}\r\n\r\n{BEARER}",
            BEARER.len()
        );
        vec![Step::Read, Step::Write(answer.into_bytes()), Step::Wait]
    };
    let kind = "content-type: application/json; charset=utf-8\r\n";
    let rows = [
        ("control", with("200 OK", kind), None),
        ("control: created", with("201 Created", kind), None),
        ("accepted", with("202 Accepted", kind), Some(Fault::Token)),
        (
            "redirect",
            with("302 Found", &format!("{kind}location: https://evil.test/\r\n")),
            Some(Fault::Token),
        ),
        (
            "redirect of a post",
            with(
                "307 Temporary",
                &format!("{kind}location: https://evil.test/\r\n"),
            ),
            Some(Fault::Token),
        ),
        ("refused", with("400 Bad", kind), Some(Fault::Token)),
        ("unauthorized", with("401 No", kind), Some(Fault::Token)),
        ("broken", with("500 Oops", kind), Some(Fault::Token)),
        ("no type", with("200 OK", ""), Some(Fault::Token)),
        (
            "HTML",
            with("200 OK", "content-type: text/html\r\n"),
            Some(Fault::Token),
        ),
        (
            "nearly JSON",
            with("200 OK", "content-type: application/jsonx\r\n"),
            Some(Fault::Token),
        ),
        (
            "gzip",
            with("200 OK", &format!("{kind}content-encoding: gzip\r\n")),
            Some(Fault::Encoded),
        ),
        ("silence", vec![Step::Read, Step::Wait], Some(Fault::Timeout)),
        ("cut", vec![Step::Read, Step::Cut], Some(Fault::Incomplete)),
    ];
    for (name, steps, fault) in rows {
        let server = Server::start(steps).await;
        let client = HttpsClient::with(Table::loopback(), hasty());
        let got = ask(
            &client,
            plan(server.port, TokenRequest::OAuth2(oauth(server.port))),
        )
        .await;
        assert_eq!(got.err(), fault.map(SendError::from), "{name}");
        assert_eq!(server.saw(|saw| saw.requests.len()), 1, "{name}: asked once");
    }
}

#[tokio::test]
async fn what_comes_beside_a_token_is_kept_for_the_host() {
    let body = r#"{"access_token":"abc","token_type":"DPoP","expires_in":60,"refresh_token":"next refresh"}"#;
    let server = Server::start(json("dpop-nonce: n-1\r\n", body)).await;
    let client = client(Table::loopback());
    let mut bound = plan(server.port, TokenRequest::OAuth2(oauth(server.port)));
    bound.dpop = Some(secret("ddd.eee.fff"));
    let token = ask(&client, bound).await.unwrap();
    assert!(token.refresh.unwrap().equals(b"next refresh"));
    assert_eq!(
        (token.expires_in, token.dpop_nonce.as_deref()),
        (Some(60), Some("n-1"))
    );
    // A token that is bound to a key is not taken by who has none, nor the other way round.
    let unbound = plan(server.port, TokenRequest::OAuth2(oauth(server.port)));
    let answer = answered(&client, unbound).await.unwrap();
    assert!(matches!(answer, TokenAnswer::Rotated(_)), "{answer:?}");
    let server = Server::start(json("", BEARER)).await;
    let mut bound = plan(server.port, TokenRequest::OAuth2(oauth(server.port)));
    bound.dpop = Some(secret("ddd.eee.fff"));
    assert_eq!(ask(&client, bound).await.unwrap_err(), Fault::Token.into());
}

#[tokio::test]
async fn a_new_refresh_token_is_handed_out_beside_an_access_token_that_is_none() {
    for (kind, fields, rotated) in [
        (
            "application/json",
            r#""access_token":"abc","token_type":"mac""#,
            true,
        ),
        ("application/json", r#""access_token":"abc""#, true),
        (
            "application/json",
            r#""access_token":7,"token_type":"bearer""#,
            true,
        ),
        (
            "application/json",
            r#""access_token":"a b","token_type":"bearer""#,
            true,
        ),
        ("application/json", r#""token_type":"bearer""#, true),
        (
            "text/plain",
            r#""access_token":"abc","token_type":"bearer""#,
            true,
        ),
        // What is no JSON has no token.
        ("application/json", r#""access_token""#, false),
    ] {
        let body = format!(r#"{{"refresh_token":"next refresh",{fields}}}"#);
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let server = Server::start(vec![Step::Read, Step::Write(answer.into_bytes()), Step::Again]).await;
        let plan = plan(server.port, TokenRequest::OAuth2(oauth(server.port)));
        let got = answered(&client(Table::loopback()), plan).await;
        assert!(!format!("{got:?}").contains("next"), "{got:?}");
        match got {
            Ok(TokenAnswer::Rotated(refresh)) => {
                assert!(rotated && refresh.equals(b"next refresh"), "{body}");
            }
            got => assert!(!rotated && got.is_err(), "{body}: {got:?}"),
        }
    }
}

#[tokio::test]
async fn a_demand_for_a_nonce_is_taken_from_the_standard_s_answer_alone() {
    let demand = r#"{"error":"use_dpop_nonce","error_description":"n"}"#;
    let long = format!("dpop-nonce: {}\r\n", "n".repeat(257));
    for (line, nonce, body, bound, taken) in [
        ("400 Bad Request", "dpop-nonce: n-1~\r\n", demand, true, true),
        // Nobody asked with a proof.
        ("400 Bad Request", "dpop-nonce: n-1~\r\n", demand, false, false),
        ("400 Bad Request", "", demand, true, false),
        (
            "400 Bad Request",
            "dpop-nonce: n-1~\r\ndpop-nonce: n-2\r\n",
            demand,
            true,
            false,
        ),
        ("400 Bad Request", "dpop-nonce: n\"1\r\n", demand, true, false),
        ("400 Bad Request", "dpop-nonce: n 1\r\n", demand, true, false),
        ("400 Bad Request", "dpop-nonce:\r\n", demand, true, false),
        ("400 Bad Request", &long, demand, true, false),
        (
            "400 Bad Request",
            "dpop-nonce: n-1~\r\n",
            r#"{"error":"invalid_grant"}"#,
            true,
            false,
        ),
        (
            "400 Bad Request",
            "dpop-nonce: n-1~\r\n",
            "use_dpop_nonce",
            true,
            false,
        ),
        ("200 OK", "dpop-nonce: n-1~\r\n", demand, true, false),
        (
            "500 Internal Server Error",
            "dpop-nonce: n-1~\r\n",
            demand,
            true,
            false,
        ),
    ] {
        let answer = format!(
            "HTTP/1.1 {line}\r\ncontent-type: application/json\r\n{nonce}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let server = Server::start(vec![Step::Read, Step::Write(answer.into_bytes()), Step::Again]).await;
        let mut plan = plan(server.port, TokenRequest::OAuth2(oauth(server.port)));
        plan.dpop = bound.then(|| secret("ddd.eee.fff"));
        let got = match answered(&client(Table::loopback()), plan).await {
            Ok(TokenAnswer::NonceDemanded(nonce)) => Ok(nonce),
            Ok(TokenAnswer::Given(_) | TokenAnswer::Rotated(_)) => panic!("a token of {nonce}"),
            Err(error) => Err(error),
        };
        let expected = if taken {
            Ok("n-1~".to_owned())
        } else {
            Err(Fault::Token.into())
        };
        assert_eq!(got, expected, "{line} {nonce} {body}");
        assert_eq!(server.saw(|saw| saw.requests.len()), 1, "asked once");
    }
}

#[tokio::test]
async fn a_nonce_of_an_api_is_told_to_the_host_and_to_no_agent() {
    let demand = "www-authenticate: DPoP error=\"use_dpop_nonce\", algs=\"ES256\"\r\n";
    for (line, fields, expected) in [
        (
            "401 Unauthorized",
            demand,
            Some(DpopNonce::Demanded("n-1".to_owned())),
        ),
        (
            "401 Unauthorized",
            "",
            Some(DpopNonce::Supplied("n-1".to_owned())),
        ),
        ("200 OK", demand, Some(DpopNonce::Supplied("n-1".to_owned()))),
        ("200 OK", "dpop-nonce: n-2\r\n", None),
    ] {
        let answer = format!("HTTP/1.1 {line}\r\ndpop-nonce: n-1\r\n{fields}content-length: 0\r\n\r\n");
        let server = Server::start(vec![Step::Read, Step::Write(answer.into_bytes()), Step::Again]).await;
        let plan = get(destination(server.port));
        let permit = permit(&plan.destination.origin).await;
        let answer = client(Table::loopback()).send(&permit, plan).await.unwrap();
        assert_eq!(answer.dpop_nonce, expected, "{line} {fields}");
        assert!(!format!("{:?}", answer.headers).contains("n-1"));
    }
}

#[tokio::test]
async fn an_installation_of_a_github_app_gets_its_token() {
    let app = |repositories: &[&str], permissions: &[(&str, &str)]| {
        TokenRequest::GithubApp(GithubApp {
            key: "app".parse().unwrap(),
            installation: 42,
            repositories: repositories.iter().map(|name| (*name).to_owned()).collect(),
            permissions: permissions
                .iter()
                .map(|(name, level)| ((*name).to_owned(), (*level).to_owned()))
                .collect(),
        })
    };
    let date = "date: Tue, 14 Nov 2023 22:13:20 GMT\r\n";
    let body = r#"{"token":"ghs_16C7e42F292c6912E7710c838347Ae178B4a","expires_at":"2023-11-14T23:13:20Z","permissions":{}}"#;
    for (request, wanted) in [
        (app(&[], &[]), "{}"),
        (
            app(&["site"], &[("contents", "write")]),
            r#"{"permissions":{"contents":"write"},"repositories":["site"]}"#,
        ),
    ] {
        let server = Server::start(json(date, body)).await;
        let token = ask(&client(Table::loopback()), plan(server.port, request))
            .await
            .unwrap();
        assert!(token.access.equals(b"ghs_16C7e42F292c6912E7710c838347Ae178B4a"));
        assert_eq!(token.expires_in, Some(3600));
        let asked = server.saw(|saw| String::from_utf8(saw.requests[0].clone()).unwrap());
        assert!(
            asked.starts_with("POST /app/installations/42/access_tokens HTTP/1.1\r\n"),
            "{asked}"
        );
        assert!(asked.contains("authorization: Bearer aaa.bbb.ccc"));
        assert!(asked.ends_with(wanted), "{asked}");
    }
    for (fields, body) in [
        ("", body),
        (date, r#"{"token":"ghs_x"}"#),
        (date, r#"{"token":"ghs_x","expires_at":"soon"}"#),
        (date, r#"{"token":"ghs_x","expires_at":"2020-01-01T00:00:00Z"}"#),
        (date, BEARER),
    ] {
        let server = Server::start(json(fields, body)).await;
        let got = ask(&client(Table::loopback()), plan(server.port, app(&[], &[]))).await;
        assert_eq!(got.unwrap_err(), Fault::Token.into(), "{body}");
    }
}
