//! Requests of real guests, as the broker sees them and as the agents are answered. Nothing is sent: egress has tests of its own, and
//! bodies are in `runtime_http_bodies`.

use bytes::Bytes;
use claviger::{Answer, InstanceEnd, LoadError, RunReport, StopLimit};
use claviger_core::Refusal;
use claviger_core::egress::{
    Fault, Frame, MAX_ANSWER_FIELDS, MAX_ANSWER_HEAD, MAX_HEAD, RequestHead, SendError,
};
use claviger_core::http::{PathEncoding, Target};
use kit::bodies::{answer, pieces, text};
use kit::{Bench, GRANT, Guest, guest};

/// What an agent said.
#[track_caller]
fn said(report: &RunReport) -> &str {
    match &report.answer {
        Answer::Done(text) => text,
        _ => panic!("{report:?}"),
    }
}

/// A bench whose broker answers everything.
fn welcoming() -> Bench {
    let bench = Bench::new();
    bench
        .broker
        .sending(|_, _| async { Ok(answer(200, text("well"))) });
    bench
}

/// Has an agent obey each of the commands and compares what it says, a line for each.
async fn check(bench: &Bench, rows: &[(&str, &str)]) {
    let commands: Vec<&str> = rows.iter().map(|(command, _)| *command).collect();
    let report = bench.requests("", &commands.join("\n")).await;
    let lines: Vec<&str> = said(&report).lines().collect();
    assert_eq!(lines.len(), rows.len(), "{lines:?}");
    for ((command, expected), line) in rows.iter().zip(lines) {
        assert_eq!(line, *expected, "{command}");
    }
}

/// That an agent is stopped at this limit by this command, and the broker was asked nothing.
async fn check_stopped(command: &str, limit: StopLimit) {
    let bench = welcoming();
    let report = bench.requests("", command).await;
    assert_eq!(report.end, InstanceEnd::Stopped { limit }, "{command}");
    assert_eq!(bench.broker.heads(), [], "{command}");
}

#[tokio::test]
async fn an_agent_without_a_grant_is_not_loaded_and_the_hint_is_the_line_that_grants_it() {
    let error = Bench::new().load("", guest(Guest::Http)).await.unwrap_err();
    let LoadError::NotGranted(missing) = error else {
        panic!("{error}")
    };
    let [missing] = missing.as_slice() else {
        panic!("one of both interfaces says it all: {missing:?}")
    };
    assert!(
        missing.import.starts_with("wasi:http/outgoing-handler@0.2."),
        "{missing}"
    );
    assert!(
        missing.hint.contains("http = { origin = \"…\", allow = [ … ] }"),
        "{missing}"
    );
}

#[tokio::test]
async fn an_agent_that_sends_nothing_imports_nothing_to_send_with() {
    let imports = |component: &[u8]| component.windows(9).any(|window| window == b"wasi:http");
    assert!(!imports(guest(Guest::Agent)));
    assert!(imports(guest(Guest::Http)), "the control");
    Bench::new()
        .load(GRANT, guest(Guest::Agent))
        .await
        .expect("loads without a grant of `http`");
}

#[tokio::test]
async fn the_broker_sees_the_request_as_the_agent_made_it_and_the_agent_the_answer() {
    let bench = Bench::new();
    bench.broker.sending(|_, body| async move {
        assert!(body.is_none(), "a request without a body has none");
        Ok(answer(201, text("well")))
    });
    let report = bench.requests("", "get https://toy.test/a/b?c=d").await;
    assert_eq!(said(&report), "201 [content-type=text/plain] well");
    let expected = RequestHead {
        method: "GET".to_owned(),
        url: "https://toy.test/a/b?c=d".to_owned(),
        headers: Vec::new(),
    };
    assert_eq!(bench.broker.heads(), [expected]);
}

/// An error, the code of `wasi:http` for it, its text if the code says less, and what the SDK makes of it.
type Row = (SendError, String, String, String);

/// Every refusal with and without a grant, and every fault.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (refusal, word, name) in [
        (Refusal::NotGranted, "not-granted", "NotGranted"),
        (Refusal::Expired, "expired", "Expired"),
        (Refusal::Revoked, "revoked", "Revoked"),
        (Refusal::Suspended, "suspended", "Suspended"),
        (Refusal::OverBudget, "over-budget", "OverBudget"),
        (Refusal::Throttled, "throttled", "Throttled"),
        (Refusal::NotApproved, "not-approved", "NotApproved"),
        (Refusal::Invalid, "invalid", "Invalid"),
        (Refusal::Unavailable, "unavailable", "Unavailable"),
    ] {
        for grant in [None, Some("api")] {
            let by = grant.map_or_else(String::new, |grant| format!(" by grant `{grant}`"));
            let (code, text, grant_read) = match (refusal, grant) {
                (Refusal::NotGranted, None) => (
                    "HttpRequestDenied".to_owned(),
                    "HTTP-request-denied".to_owned(),
                    None,
                ),
                (Refusal::Invalid, None) => (
                    "HttpRequestUriInvalid".to_owned(),
                    "HTTP-request-URI-invalid".to_owned(),
                    None,
                ),
                _ => {
                    let text = format!("claviger: {word}{by}");
                    (format!("InternalError(Some({text:?}))"), text, grant)
                }
            };
            let sdk = format!("Refused {{ refusal: {name}, grant: {grant_read:?} }}");
            let grant = grant.map(|grant| grant.parse().unwrap());
            rows.push((SendError::Refused { refusal, grant }, code, text, sdk));
        }
    }
    for (fault, code, text, sdk) in [
        (
            Fault::NoAddress,
            "DnsError(DnsErrorPayload { rcode: None, info-code: None })",
            "DNS-error",
            "Transport(NoAddress)",
        ),
        (
            Fault::ForbiddenAddress,
            "DestinationIpProhibited",
            "destination-IP-prohibited",
            "Transport(ForbiddenAddress)",
        ),
        (
            Fault::NoConnection,
            "ConnectionRefused",
            "connection-refused",
            "Transport(NoConnection)",
        ),
        (
            Fault::Timeout,
            "HttpResponseTimeout",
            "HTTP-response-timeout",
            "Timeout",
        ),
        (
            Fault::Tls,
            "TlsProtocolError",
            "TLS-protocol-error",
            "Transport(Tls)",
        ),
        (
            Fault::Certificate,
            "TlsCertificateError",
            "TLS-certificate-error",
            "Transport(Certificate)",
        ),
        (
            Fault::Protocol,
            "HttpProtocolError",
            "HTTP-protocol-error",
            "Transport(Protocol)",
        ),
        (
            Fault::Incomplete,
            "HttpResponseIncomplete",
            "HTTP-response-incomplete",
            "Transport(Incomplete)",
        ),
        (
            Fault::HeadTooLarge,
            "HttpResponseHeaderSectionSize(None)",
            "HTTP-response-header-section-size",
            "Transport(HeadTooLarge)",
        ),
        (
            Fault::BodyTooLarge,
            "HttpResponseBodySize(None)",
            "HTTP-response-body-size",
            "Transport(BodyTooLarge)",
        ),
        (
            Fault::Encoded,
            "HttpResponseContentCoding(None)",
            "HTTP-response-content-coding",
            "Transport(Encoded)",
        ),
        (
            Fault::RequestBody,
            "HttpRequestBodySize(None)",
            "HTTP-request-body-size",
            "Transport(RequestTooLarge)",
        ),
        (
            Fault::RequestAborted,
            "ConnectionTerminated",
            "connection-terminated",
            "Transport(Aborted)",
        ),
        (
            Fault::Token,
            "InternalError(Some(\"claviger: unavailable\"))",
            "claviger: unavailable",
            "Refused { refusal: Unavailable, grant: None }",
        ),
        (
            Fault::Reflected,
            "InternalError(Some(\"claviger: suspended\"))",
            "claviger: suspended",
            "Refused { refusal: Suspended, grant: None }",
        ),
    ] {
        rows.push((fault.into(), code.to_owned(), text.to_owned(), sdk.to_owned()));
        let named = SendError::from(fault).under(&"api".parse().unwrap());
        let (code, text, sdk) = match fault {
            // A refusal to the agent: it learns of which grant.
            Fault::Token | Fault::Reflected => {
                let text = format!("{text} by grant `api`");
                let sdk = sdk.replace("grant: None", "grant: Some(\"api\")");
                (format!("InternalError(Some({text:?}))"), text, sdk)
            }
            _ => (code.to_owned(), text.to_owned(), sdk.to_owned()),
        };
        rows.push((named, code, text, sdk));
    }
    rows
}

/// The row that a URL names: its path is a number.
fn row(head: &RequestHead) -> SendError {
    let number: usize = head.url.rsplit('/').next().unwrap().parse().unwrap();
    rows().swap_remove(number).0
}

#[tokio::test]
async fn each_refusal_and_fault_has_one_code_and_the_sdk_reads_it() {
    let bench = Bench::new();
    bench.broker.sending(|head, _| async move { Err(row(&head)) });
    let mut expected = Vec::new();
    for (number, (_, code, _, sdk)) in rows().into_iter().enumerate() {
        let url = format!("https://toy.test/{number}");
        expected.push((format!("get {url}"), format!("failed ErrorCode::{code}")));
        expected.push((format!("sdk-error {url}"), sdk));
    }
    let expected: Vec<(&str, &str)> = expected.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    check(&bench, &expected).await;
}

#[tokio::test]
async fn a_body_that_ends_with_an_error_says_the_same() {
    let bench = Bench::new();
    bench.broker.sending(|head, _| async move {
        let some = Frame::Data(Bytes::from_static(b"some"));
        Ok(answer(200, pieces(vec![Ok(some), Err(row(&head))])))
    });
    let mut expected = Vec::new();
    for (number, (_, code, text, sdk)) in rows().into_iter().enumerate() {
        let url = format!("https://toy.test/{number}");
        expected.push((
            format!("download {url}"),
            format!("4 bytes, then Some(ErrorCode::{code}) {text}"),
        ));
        expected.push((format!("sdk-error {url}"), sdk));
    }
    let expected: Vec<(&str, &str)> = expected.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    check(&bench, &expected).await;
}

#[tokio::test]
async fn a_credential_of_the_agents_own_reaches_the_broker_and_fields_of_the_connection_reach_nobody() {
    let bench = welcoming();
    check(
        &bench,
        &[
            (
                "field https://toy.test/ authorization 4265617265722078",
                "status 200",
            ),
            ("field https://toy.test/ Cookie 613d62", "status 200"),
            // Bytes over 0x7f are what some servers read as UTF-8: the broker's to refuse.
            ("field https://toy.test/ x-odd ff", "status 200"),
        ],
    )
    .await;
    let fields: Vec<_> = bench
        .broker
        .heads()
        .into_iter()
        .flat_map(|head| head.headers)
        .collect();
    assert_eq!(
        fields,
        [
            ("authorization".to_owned(), b"Bearer x".to_vec()),
            ("cookie".to_owned(), b"a=b".to_vec()),
            ("x-odd".to_owned(), vec![0xff]),
        ]
    );
    for name in [
        "host",
        "Host",
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ] {
        let command = format!("field https://toy.test/ {name} 61");
        check(&bench, &[(&command, "failed at field: HeaderError::Forbidden")]).await;
    }
    assert_eq!(bench.broker.heads().len(), 3);
}

#[tokio::test]
async fn a_field_cannot_hold_what_ends_it() {
    let bench = welcoming();
    let refused = "failed at field: HeaderError::InvalidSyntax";
    check(
        &bench,
        &[
            // CR LF, LF, CR, NUL, DEL, each in the middle.
            ("field https://toy.test/ x-a 610d0a782d623a2062", refused),
            ("field https://toy.test/ x-a 610a62", refused),
            ("field https://toy.test/ x-a 610d62", refused),
            ("field https://toy.test/ x-a 610062", refused),
            ("field https://toy.test/ x-a 617f62", refused),
            ("field https://toy.test/ x-a:b 61", refused),
            ("field https://toy.test/ x-\u{e4} 61", refused),
            ("field https://toy.test/ x-a\r 61", refused),
            ("field https://toy.test/  61", refused),
            ("field https://toy.test/ x-a 6120620963", "status 200"),
        ],
    )
    .await;
    assert_eq!(bench.broker.heads().len(), 1, "the control");
}

#[tokio::test]
async fn a_head_larger_than_requests_are_is_the_broker_s_to_refuse_and_one_larger_than_any_stops_the_agent() {
    let bench = Bench::new();
    // As the broker does, which logs it.
    bench.broker.sending(|head, _| async move {
        if head.size() > MAX_HEAD {
            return Err(SendError::Refused {
                refusal: Refusal::Invalid,
                grant: None,
            });
        }
        Ok(answer(200, text("well")))
    });
    let too_large = format!("failed ErrorCode::HttpRequestHeaderSectionSize(Some({MAX_HEAD}))");
    check(
        &bench,
        &[
            ("fields https://toy.test/ 15 1000", "status 200"),
            ("fields https://toy.test/ 17 1000", &too_large),
            ("fields https://toy.test/ 1 17000", &too_large),
        ],
    )
    .await;
    assert_eq!(bench.broker.heads().len(), 3);
    check_stopped("fields https://toy.test/ 100000 1", StopLimit::HostCall).await;
    check_stopped("fields https://toy.test/ 1 40000", StopLimit::HostCall).await;
}

#[tokio::test]
async fn a_setter_keeps_nothing_that_no_request_can_have() {
    let size = MAX_HEAD.to_string();
    let more = (MAX_HEAD + 1).to_string();
    let bench = welcoming();
    for what in ["method", "authority", "path"] {
        // The path has a slash before it.
        let fits = if what == "path" {
            (MAX_HEAD - 1).to_string()
        } else {
            size.clone()
        };
        let (fits, more) = (format!("long {what} {fits}"), format!("long {what} {more}"));
        check(&bench, &[(&fits, "kept 500"), (&more, "refused after 0")]).await;
    }
    check(&bench, &[("long scheme 65", "refused after 0")]).await;
}

/// Decides by the URL, as every broker does.
async fn only_toy(head: RequestHead) -> Result<claviger_core::egress::Answer, SendError> {
    let refused = |refusal| Err(SendError::Refused { refusal, grant: None });
    match Target::parse(&head.url, PathEncoding::Refused) {
        Err(_) => refused(Refusal::Invalid),
        Ok(target) if target.origin().to_string() != "https://toy.test" => refused(Refusal::NotGranted),
        Ok(_) => Ok(answer(200, text("well"))),
    }
}

#[tokio::test]
async fn whatever_parts_an_agent_gives_the_broker_decides_about_the_url_that_they_make() {
    let bench = Bench::new();
    bench.broker.sending(|head, _| only_toy(head));
    let invalid = "failed ErrorCode::HttpRequestUriInvalid";
    let denied = "failed ErrorCode::HttpRequestDenied";
    check(
        &bench,
        &[
            ("send GET https toy.test /", "status 200"),
            ("send GET - toy.test /", "status 200"),
            ("send GET https toy.test -", "status 200"),
            ("send GET https toy.test ?a=b", "status 200"),
            ("send GET https evil.test /", denied),
            ("send GET http toy.test /", invalid),
            ("send GET ftp toy.test /", invalid),
            ("send GET https - /", invalid),
            ("send GET - - -", invalid),
            ("send GET https - /toy.test/", invalid),
            ("send GET https user@toy.test /", invalid),
            ("send GET https toy.test@evil.test /", invalid),
            ("send GET https toy.test:443 /", invalid),
            ("send GET https toy.test:8443 /", denied),
            ("send GET https TOY.test /", invalid),
            ("send GET https toy.test. /", invalid),
            ("send GET https toy.test:80@evil.test /", invalid),
            ("send GET https [::1] /", invalid),
            ("send GET https 127.0.0.1 /", invalid),
            ("send GET https toy.test //evil.test/", invalid),
            ("send GET https toy.test /../", invalid),
            ("send GET https toy.test /#@evil.test/", invalid),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_part_that_could_become_another_is_not_taken() {
    let bench = welcoming();
    let authority = "failed at authority";
    let path = "failed path-with-query";
    check(
        &bench,
        &[
            ("send GET https toy.test/@evil.test /", authority),
            ("send GET https toy.test?x /", authority),
            ("send GET https toy.test#x /", authority),
            ("send GET https toy.test\\evil.test /", authority),
            ("send GET https toy.test https://evil.test/", "failed at path"),
            ("send GET https toy.test @evil.test/", "failed at path"),
            ("send GET https toy.test .evil.test/", "failed at path"),
            ("send GET https toy.test :8443/", "failed at path"),
            ("send GET https:// toy.test /", "failed at scheme"),
            ("send G(T https toy.test /", "failed at method"),
            ("get https://toy.test\r/", "failed authority"),
            ("get https://toy.test/\rx", path),
            ("get https://toy.test/\0", path),
            ("get https://toy.test/\t", path),
        ],
    )
    .await;
    assert_eq!(bench.broker.heads(), [], "not asked");
}

#[tokio::test]
async fn a_method_reaches_the_broker_as_it_is() {
    let bench = welcoming();
    let methods = ["GET", "CONNECT", "get", "PURGE"];
    for method in methods {
        let command = format!("send {method} https toy.test /");
        check(&bench, &[(&command, "status 200")]).await;
    }
    let seen: Vec<String> = bench.broker.heads().into_iter().map(|head| head.method).collect();
    assert_eq!(seen, methods);
}

#[tokio::test]
async fn an_answer_of_a_broker_beyond_the_bounds_is_an_error_and_not_a_fault_of_the_host() {
    let bench = Bench::new();
    bench.broker.sending(|head, _| async move {
        let field = |value: usize| ("x".to_owned(), vec![b'a'; value]);
        let mut answer = answer(200, text("well"));
        match head.url.rsplit('/').next().unwrap() {
            "fits" => answer.headers = vec![field(1); MAX_ANSWER_FIELDS],
            "many" => answer.headers = vec![field(1); MAX_ANSWER_FIELDS + 1],
            "large" => answer.headers = vec![field(MAX_ANSWER_HEAD)],
            "name" => answer.headers = vec![("a b".to_owned(), Vec::new())],
            "value" => answer.headers = vec![("x".to_owned(), b"a\r\nb".to_vec())],
            "low" => answer.status = 99,
            "high" => answer.status = 1000,
            other => panic!("{other}"),
        }
        Ok(answer)
    });
    let size = "failed ErrorCode::HttpResponseHeaderSectionSize(None)";
    let protocol = "failed ErrorCode::HttpProtocolError";
    let many = vec!["x=a"; MAX_ANSWER_FIELDS].join(";");
    check(
        &bench,
        &[
            ("get https://toy.test/fits", &format!("200 [{many}] well")),
            ("get https://toy.test/many", size),
            ("get https://toy.test/large", size),
            ("get https://toy.test/name", size),
            ("get https://toy.test/value", size),
            ("get https://toy.test/low", protocol),
            ("get https://toy.test/high", protocol),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_agent_may_wait_for_many_answers_at_once_and_for_any_number_in_turn() {
    let bench = welcoming();
    let report = bench.requests("", "hold https://toy.test/ 1000").await;
    assert_eq!(said(&report), "{\"200\": 1000}");
    let report = bench.requests("", "repeat https://toy.test/ 2000").await;
    assert_eq!(
        said(&report),
        "2000 answered",
        "nothing of a request is left after it"
    );
    assert_eq!(bench.broker.heads().len(), 3000);
}

#[tokio::test]
async fn what_an_agent_can_hold_is_bounded() {
    for command in ["hold https://toy.test/ 2000"] {
        let report = welcoming().requests("", command).await;
        let limit = StopLimit::Handles;
        assert_eq!(report.end, InstanceEnd::Stopped { limit }, "{command}");
    }
    check_stopped("hold-fields 2000", StopLimit::Handles).await;
    check_stopped("hold-bodies 1000", StopLimit::Handles).await;
}
