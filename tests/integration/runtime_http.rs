//! Requests of real guests, as the broker sees them and as the agents are answered. Nothing is sent: egress has tests of its own.

use claviger::{Answer, LoadError};
use claviger_core::egress::RequestHead;
use kit::bodies::{answer, text};
use kit::{Bench, Guest, guest};

/// What an agent said.
fn said(report: &claviger::RunReport) -> &str {
    match &report.answer {
        Answer::Done(text) => text,
        _ => panic!("{report:?}"),
    }
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
