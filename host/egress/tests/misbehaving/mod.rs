//! Servers that misbehave by script, as a table; and one oracle over all rows: no byte of the credential comes to the caller, to a log or
//! to another origin.

mod heads;
mod reflecting;
mod row;
mod rows;

use claviger_core::egress::Fault;
use claviger_core::http::Method;
use claviger_core::manifest::Bytes;
use claviger_egress::{HttpsClient, Phases};

use self::row::{Expect, Row, row};
use crate::kit::server::{Server, Step};
use crate::kit::{SECRET, Seen, Table, client, destination, echo, get, hasty, log, run};

/// Fields that no row may return.
const NEVER: [&str; 10] = [
    "set-cookie",
    "www-authenticate",
    "authentication-info",
    "proxy-authenticate",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "trailer",
    "x-debug",
];

async fn check(row: Row) -> Seen {
    let name = &row.name;
    let server = Server::start(row.steps).await;
    // Only rows of silence wait for less than usual: the machine may be busy.
    let silent = row.expect == Expect::Fault(Fault::Timeout);
    let phases = if silent { hasty() } else { Phases::default() };
    let client = HttpsClient::with(Table::loopback(), phases);
    let mut destination = destination(server.port);
    destination.answer.max = Bytes(64 << 10);
    let seen = run(&client, get(destination)).await;
    match row.expect {
        Expect::Answer(status, body) => {
            assert_eq!(seen.error, None, "{name}");
            assert_eq!(seen.status, Some(status), "{name}");
            assert_eq!(String::from_utf8_lossy(&seen.body), body, "{name}");
        }
        Expect::Fault(fault) => assert_eq!(seen.error, Some(fault.into()), "{name}: {seen:?}"),
    }
    assert_eq!(echo::holds(&seen.bytes(), SECRET), None, "{name}");
    for (field, _) in seen.headers.iter().chain(&seen.trailers) {
        assert!(!NEVER.contains(&field.as_str()), "{name}: {field}");
    }
    // One request per send, whatever came back.
    assert_eq!(server.saw(|saw| saw.requests.len()), 1, "{name}");
    assert_eq!(server.saw(|saw| saw.connections), 1, "{name}");
    seen
}

/// Plays all rows, several at a time, and says how many failed: each has said why.
async fn check_all(rows: Vec<Row>) {
    let mut playing = tokio::task::JoinSet::new();
    let mut failed = 0;
    for row in rows {
        if playing.len() >= 16 {
            failed += usize::from(playing.join_next().await.unwrap().is_err());
        }
        playing.spawn(check(row));
    }
    while let Some(ended) = playing.join_next().await {
        failed += usize::from(ended.is_err());
    }
    assert_eq!(failed, 0, "rows failed");
}

#[tokio::test]
async fn every_misbehaviour_ends_as_the_table_says_and_gives_nothing_away() {
    log::capture();
    let rows = rows::all();
    assert!(rows.len() >= 60, "{} rows", rows.len());
    check_all(rows).await;
    assert_eq!(echo::holds(&log::lines(), SECRET), None);
}

#[tokio::test]
async fn a_secret_is_withheld_wherever_and_however_it_comes_back() {
    log::capture();
    check_all(reflecting::all()).await;
    assert_eq!(echo::holds(&log::lines(), SECRET), None);
}

#[tokio::test]
async fn a_secret_in_the_answer_to_a_head_request_is_withheld() {
    for (spelling, secret) in echo::spellings(SECRET) {
        for length in [0, 1000] {
            let answer = format!(
                "HTTP/1.1 404 Not Found\r\nlink: <{secret}>; rel=\"next\"\r\ncontent-length: {length}\r\n\r\n"
            );
            let server = Server::start(vec![Step::Read, Step::Write(answer.into()), Step::Wait]).await;
            let mut plan = get(destination(server.port));
            plan.method = Method::Head;
            let seen = run(&client(Table::loopback()), plan).await;
            assert_eq!(seen.error, Some(Fault::Reflected.into()), "{spelling}");
            assert!(server.saw(|saw| saw.requests[0].starts_with(b"HEAD /")));
        }
    }
}

#[tokio::test]
async fn what_is_almost_the_secret_is_an_answer() {
    let (almost, last) = SECRET.split_at(SECRET.len() - 1);
    for (text, secret) in [
        (almost.to_owned(), false),
        (format!("{almost}3"), false),
        (format!("{almost}{almost}"), false),
        (format!("{almost} {last}"), false),
        // The control.
        (format!("{almost}{almost}{last}"), true),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        let server = Server::start(vec![Step::Read, Step::Write(answer.into()), Step::Wait]).await;
        let seen = run(&client(Table::loopback()), get(destination(server.port))).await;
        if secret {
            assert_eq!(seen.error, Some(Fault::Reflected.into()));
        } else {
            assert_eq!((seen.status, &seen.error), (Some(200), &None), "{text}");
            assert_eq!(seen.body, text.as_bytes());
        }
    }
}

#[tokio::test]
async fn redirects_are_answers_and_nobody_goes_there() {
    let other = Server::start(vec![Step::Read, Step::Close]).await;
    let there = format!("api.test:{}/v1/x", other.port);
    for status in [301, 302, 303, 307, 308] {
        for location in [
            format!("https://{there}"),
            format!("http://{there}"),
            format!("https://user:password@{there}"),
            format!("//{there}"),
            format!("\\\\{there}"),
            format!("/\\{there}"),
            "/v1/y".to_owned(),
            "https://evil.test/".to_owned(),
        ] {
            let answer = format!("HTTP/1.1 {status} Go\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            let seen = check(row(
                format!("{status} to {location}"),
                answer,
                Expect::Answer(status, ""),
            ))
            .await;
            assert_eq!(seen.header("location"), Some(location.as_str()));
        }
    }
    assert_eq!(other.saw(|saw| saw.connections), 0);
}

#[tokio::test]
async fn the_oracle_finds_what_it_is_for() {
    log::capture();
    for (name, spelling) in echo::spellings(SECRET) {
        let planted = format!("{} {spelling} ...", "a line of a log\n".repeat(10));
        assert!(echo::holds(planted.as_bytes(), SECRET).is_some(), "{name}");
        let half = &spelling.as_bytes()[..spelling.len() / 2];
        assert!(echo::holds(half, SECRET).is_some(), "half of {name}");
    }
    let seen = Seen {
        trailers: vec![("x".to_owned(), SECRET.bytes().collect())],
        ..Seen::default()
    };
    assert!(echo::holds(&seen.bytes(), SECRET).is_some());
    // And the log is one: a handshake leaves traces in it.
    check(row(
        "control",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        Expect::Answer(200, ""),
    ))
    .await;
    assert!(String::from_utf8_lossy(&log::lines()).contains("rustls"));
}
