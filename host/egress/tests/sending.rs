//! What is written, over which connection, and what happens when someone stops: read off a server that sees every byte.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claviger_core::Refusal;
use claviger_core::egress::{Destination, Egress as _, Fault, Frame, Outgoing, Plan, SendError, Slot};
use claviger_core::http::{Method, PathEncoding, Target, TlsFloor};

use crate::kit::server::{Server, Step};
use crate::kit::{
    Never, Pieces, SECRET, Table, bearer, client, destination, frame, get, hasty, permit, read, run, secret,
};

fn answer(text: &str) -> Step {
    Step::Write(text.as_bytes().to_vec())
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const INVALID: SendError = SendError::Refused {
    refusal: Refusal::Invalid,
    grant: None,
};

/// Answers every request of a connection.
async fn willing() -> Server {
    Server::start(vec![Step::Read, answer(OK), Step::Again]).await
}

/// The one request that a server got of a plan.
async fn written(change: impl FnOnce(&mut Plan)) -> String {
    let server = willing().await;
    let mut plan = get(destination(server.port));
    change(&mut plan);
    let seen = run(&client(Table::loopback()), plan).await;
    assert_eq!((seen.status, seen.error), (Some(200), None));
    let requests = server.saw(|saw| saw.requests.clone());
    assert_eq!(requests.len(), 1);
    String::from_utf8(requests[0].clone())
        .unwrap()
        .replace(&server.port.to_string(), "PORT")
}

async fn refused(change: impl FnOnce(&mut Plan)) {
    let server = willing().await;
    let mut plan = get(destination(server.port));
    change(&mut plan);
    let seen = run(&client(Table::loopback()), plan).await;
    assert_eq!(seen.error, Some(INVALID));
    assert_eq!(server.saw(|saw| saw.connections), 0);
}

fn header(name: &str, value: &str) -> Slot {
    Slot::Header {
        name: name.parse().unwrap(),
        value: secret(value),
    }
}

fn query(key: &str, value: &str) -> Slot {
    Slot::Query {
        key: key.to_owned(),
        value: secret(value),
    }
}

fn target(plan: &mut Plan, path: &str) {
    let url = format!("{}{path}", plan.destination.origin);
    plan.target = Target::parse(&url, PathEncoding::Refused).unwrap();
}

#[tokio::test]
async fn a_request_is_what_the_plan_says_and_the_credential_is_in_its_slot_once() {
    let expected = format!(
        "GET /v1/x HTTP/1.1\r\nhost: api.test:PORT\r\naccept-encoding: identity\r\naccept: */*\r\n\
         authorization: Bearer {SECRET}\r\n\r\n"
    );
    assert_eq!(written(|_| {}).await, expected);
    // What the agent wrote into the slot, had it got so far, is gone.
    let with_own = |plan: &mut Plan| {
        plan.headers
            .push(("authorization".parse().unwrap(), b"Bearer mine".to_vec()));
    };
    assert_eq!(written(with_own).await, expected);
}

#[tokio::test]
async fn slots_of_the_query_are_encoded_and_come_after_the_agents() {
    for (path, line) in [
        ("/v1/x", "GET /v1/x?key=a%26b%3D%2F%20%25~ HTTP/1.1"),
        ("/v1/x?", "GET /v1/x?key=a%26b%3D%2F%20%25~ HTTP/1.1"),
        ("/v1/x?a=1&b", "GET /v1/x?a=1&b&key=a%26b%3D%2F%20%25~ HTTP/1.1"),
    ] {
        let request = written(|plan| {
            target(plan, path);
            plan.slots = vec![query("key", "a&b=/ %~")];
        })
        .await;
        assert_eq!(request.lines().next(), Some(line));
    }
}

#[tokio::test]
async fn a_signature_of_aws_covers_what_is_sent_and_holds_no_secret() {
    let scope = claviger_core::http::AwsSigV4 {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret: "aws".parse().unwrap(),
        region: "eu-central-1".to_owned(),
        service: "s3".to_owned(),
    };
    let slot = || Slot::AwsSigV4 {
        scope: scope.clone(),
        secret: Arc::new(secret(SECRET)),
        time: 1_440_938_160,
    };
    let request = written(|plan| {
        plan.method = Method::Put;
        plan.body = Outgoing::Whole("hello".into());
        plan.slots = vec![slot()];
        plan.headers
            .push(("authorization".parse().unwrap(), b"mine".to_vec()));
        plan.headers
            .push(("x-amz-date".parse().unwrap(), b"mine".to_vec()));
    })
    .await;
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert!(
        request.contains(&format!("x-amz-content-sha256: {hello}\r\n")),
        "{request}"
    );
    assert!(request.contains("x-amz-date: 20150830T123600Z\r\n"));
    assert!(request.contains("SignedHeaders=accept;content-length;host;x-amz-content-sha256;x-amz-date,"));
    assert!(!request.contains("mine") && !request.contains("UNSIGNED"));
    assert_eq!(crate::kit::echo::holds(request.as_bytes(), SECRET), None);
    // A payload that is not known cannot be signed.
    refused(|plan| {
        plan.method = Method::Put;
        plan.body = stream(&["hello"], Some(5), 5);
        plan.slots = vec![slot()];
    })
    .await;
}

#[tokio::test]
async fn what_does_not_fit_a_slot_is_not_sent() {
    for bad in ["a\r\nx-evil: 1", "a\nb", "a\0b", "a\tb", " a", "a ", "ä"] {
        refused(|plan| plan.slots = vec![header("authorization", bad)]).await;
    }
    refused(|plan| plan.slots = vec![bearer(), bearer()]).await;
    refused(|plan| {
        target(plan, "/v1/x?key=mine");
        plan.slots = vec![query("key", "theirs")];
    })
    .await;
    for routing in ["host", "content-length", "transfer-encoding", "connection"] {
        refused(|plan| plan.slots = vec![header(routing, "1")]).await;
    }
    // Had a check before failed: no field of framing, routing or authentication is the agent's.
    for own in [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "cookie",
        "expect",
        "x-forwarded-host",
    ] {
        refused(|plan| plan.headers.push((own.parse().unwrap(), b"1".to_vec()))).await;
    }
    for value in ["a\r\nx-evil: 1", "a\0b", " a"] {
        refused(|plan| plan.headers[0].1 = value.as_bytes().to_vec()).await;
    }
    refused(|plan| plan.headers.push(plan.headers[0].clone())).await;
}

fn stream(pieces: &[&str], length: Option<u64>, max: u64) -> Outgoing {
    let pieces = pieces
        .iter()
        .map(|piece| Ok(Frame::Data(Bytes::copy_from_slice(piece.as_bytes()))))
        .collect();
    Outgoing::Stream {
        body: Box::pin(Pieces(pieces)),
        length,
        max,
    }
}

#[tokio::test]
async fn the_host_frames_every_body() {
    let length = "content-length: ";
    let chunked = "transfer-encoding: chunked";
    let rows: Vec<(Method, Outgoing, Option<String>, &str)> = vec![
        (Method::Get, Outgoing::Empty, None, ""),
        (Method::Delete, Outgoing::Empty, None, ""),
        (Method::Post, Outgoing::Empty, Some(format!("{length}0")), ""),
        (
            Method::Put,
            Outgoing::Whole(Bytes::new()),
            Some(format!("{length}0")),
            "",
        ),
        (
            Method::Post,
            Outgoing::Whole("hello".into()),
            Some(format!("{length}5")),
            "hello",
        ),
        (
            Method::Get,
            Outgoing::Whole("hello".into()),
            Some(format!("{length}5")),
            "hello",
        ),
        (
            Method::Post,
            stream(&["he", "", "llo"], Some(5), 5),
            Some(format!("{length}5")),
            "hello",
        ),
        (
            Method::Patch,
            stream(&["he", "llo"], None, 5),
            Some(chunked.into()),
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ),
        (
            Method::Delete,
            stream(&["hello"], None, 5),
            Some(chunked.into()),
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            Method::Get,
            stream(&["hello"], None, 5),
            Some(chunked.into()),
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            Method::Post,
            stream(&[], None, 5),
            Some(chunked.into()),
            "0\r\n\r\n",
        ),
    ];
    for (at, (method, body, framing, content)) in rows.into_iter().enumerate() {
        let request = written(|plan| {
            plan.method = method;
            plan.body = body;
        })
        .await;
        let (head, rest) = request.split_once("\r\n\r\n").unwrap();
        let said: Vec<&str> = head
            .lines()
            .filter(|line| line.starts_with(length) || line.starts_with("transfer-encoding"))
            .collect();
        assert_eq!(said, framing.as_slice(), "row {at}");
        assert_eq!(rest, content, "row {at}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_as_it_must_be_ends_the_exchange() {
    let aborted = SendError::from(Fault::RequestAborted);
    let failing = |frames: Vec<Result<Frame, SendError>>| Outgoing::Stream {
        body: Box::pin(Pieces(frames)),
        length: None,
        max: 100,
    };
    let data = |text: &'static str| Ok(Frame::Data(Bytes::from(text)));
    let rows = vec![
        ("short", stream(&["he"], Some(5), 9), Fault::RequestBody.into()),
        (
            "long",
            stream(&["he", "llo!"], Some(5), 9),
            Fault::RequestBody.into(),
        ),
        (
            "over the bound",
            stream(&["he", "llo!"], None, 5),
            Fault::RequestBody.into(),
        ),
        (
            "announced over the bound",
            stream(&["hello!"], Some(6), 5),
            Fault::RequestBody.into(),
        ),
        (
            "trailers",
            failing(vec![data("he"), Ok(Frame::Trailers(Vec::new()))]),
            Fault::RequestBody.into(),
        ),
        (
            "given up",
            failing(vec![data("he"), Err(aborted.clone())]),
            aborted.clone(),
        ),
        (
            "never coming",
            Outgoing::Stream {
                body: Box::pin(Never),
                length: None,
                max: 5,
            },
            aborted,
        ),
    ];
    for (name, body, expected) in rows {
        let server = willing().await;
        let client = claviger_egress::HttpsClient::with(Table::loopback(), hasty());
        let mut plan = get(destination(server.port));
        plan.method = Method::Post;
        plan.body = body;
        let seen = run(&client, plan).await;
        assert_eq!(seen.error, Some(expected), "{name}");
        // No server took it for a whole request, and no other follows on that connection.
        assert_eq!(server.saw(|saw| saw.requests.len()), 0, "{name}");
        assert_eq!(
            run(&client, get(destination(server.port))).await.status,
            Some(200)
        );
        let expected = if name == "announced over the bound" { 1 } else { 2 };
        assert_eq!(server.saw(|saw| saw.connections), expected, "{name}");
    }
}

#[tokio::test]
async fn requests_of_one_lane_share_a_connection_and_no_others_do() {
    let server = willing().await;
    let client = client(Table::loopback());
    let mut expected = 0;
    let changes: [fn(&mut Destination); 6] = [
        |_| {},
        |there| there.lane.grant = "bot/other".to_owned(),
        |there| there.lane.credential = "token@v2".to_owned(),
        |there| there.lane.component = claviger_core::ComponentDigest::of(b"other"),
        |there| there.trust.tls = TlsFloor::V1_2,
        |there| there.private_networks = vec!["127.0.0.1/32".parse().unwrap()],
    ];
    for change in changes {
        expected += 1;
        for _ in 0..3 {
            let mut there = destination(server.port);
            change(&mut there);
            assert_eq!(run(&client, get(there)).await.body, b"ok");
            assert_eq!(server.saw(|saw| saw.connections), expected);
        }
    }
    assert_eq!(server.saw(|saw| saw.requests.len()), 18);
}

#[tokio::test]
async fn a_connection_that_is_not_clean_is_not_used_again() {
    let rows = [
        ("control", vec![answer(OK), Step::Again], 1),
        (
            "control: chunks",
            vec![
                answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
                Step::Again,
            ],
            1,
        ),
        (
            "control: no content",
            vec![answer("HTTP/1.1 204 None\r\n\r\n"), Step::Again],
            1,
        ),
        (
            "asked to close",
            vec![
                answer("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
                Step::Wait,
            ],
            2,
        ),
        (
            "HTTP/1.0",
            vec![
                answer("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
                Step::Wait,
            ],
            2,
        ),
        (
            "bytes after the answer",
            vec![
                answer(&format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")),
                Step::Wait,
            ],
            2,
        ),
        (
            "a body for 204",
            vec![
                answer("HTTP/1.1 204 None\r\ncontent-length: 2\r\n\r\nok"),
                Step::Wait,
            ],
            2,
        ),
        (
            "withheld",
            vec![
                answer(&format!(
                    "HTTP/1.1 200 OK\r\nx: {SECRET}\r\ncontent-length: 2\r\n\r\nok"
                )),
                Step::Wait,
            ],
            2,
        ),
        (
            "encoded",
            vec![
                answer("HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nok"),
                Step::Wait,
            ],
            2,
        ),
    ];
    for (name, mut steps, connections) in rows {
        steps.insert(0, Step::Read);
        let server = Server::start(steps).await;
        let client = client(Table::loopback());
        for _ in 0..2 {
            let seen = run(&client, get(destination(server.port))).await;
            assert!(!seen.body.windows(4).any(|four| four == b"evil"), "{name}");
        }
        assert_eq!(server.saw(|saw| saw.connections), connections, "{name}");
        assert_eq!(server.saw(|saw| saw.requests.len()), 2, "{name}");
    }
}

#[tokio::test]
async fn an_early_answer_is_given_and_its_connection_is_not_used_again() {
    let full = "HTTP/1.1 413 Full\r\ncontent-length: 4\r\n\r\nfull";
    let server = Server::start(vec![Step::ReadSome(40), answer(full), Step::Wait]).await;
    let client = client(Table::loopback());
    for connections in 1..=2 {
        let mut plan = get(destination(server.port));
        plan.method = Method::Post;
        plan.body = Outgoing::Stream {
            body: Box::pin(Never),
            length: Some(9),
            max: 9,
        };
        let seen = run(&client, plan).await;
        assert_eq!(
            (seen.status, seen.body.as_slice(), seen.error),
            (Some(413), &b"full"[..], None)
        );
        assert_eq!(server.saw(|saw| saw.connections), connections);
    }
}

#[tokio::test]
async fn events_come_one_by_one_and_whoever_stops_reading_closes_the_connection() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let server = Server::start(vec![
        Step::Read,
        answer(head),
        answer("data: one\n\n"),
        Step::Wait,
    ])
    .await;
    let client = client(Table::loopback());
    let plan = get(destination(server.port));
    let permit = permit(&plan.destination.origin).await;
    let mut answer = client.send(&permit, plan).await.unwrap();
    assert_eq!(
        frame(&mut answer.body).await,
        Some(Ok(Frame::Data("data: one\n\n".into())))
    );
    assert_eq!(server.saw(|saw| saw.ended), 0);
    drop(answer);
    server.until(|saw| saw.ended == 1).await;
}

#[tokio::test]
async fn whoever_stops_waiting_closes_the_connection() {
    let server = Server::start(vec![Step::Read, Step::Wait]).await;
    let client = client(Table::loopback());
    let plan = get(destination(server.port));
    let permit = permit(&plan.destination.origin).await;
    tokio::select! {
        answer = client.send(&permit, plan) => panic!("{answer:?}"),
        () = server.until(|saw| saw.requests.len() == 1) => {}
    }
    server.until(|saw| saw.ended == 1).await;
}

#[tokio::test]
async fn the_whole_exchange_has_an_end_whatever_comes_in_time() {
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let server = Server::start(vec![
        Step::Read,
        answer(head),
        Step::Flood(b"data: x\n\n".to_vec()),
    ])
    .await;
    let mut there = destination(server.port);
    there.timeout = Duration::from_millis(500);
    there.answer.max = claviger_core::manifest::Bytes(u64::MAX);
    let seen = run(&client(Table::loopback()), get(there)).await;
    assert_eq!(seen.error, Some(Fault::Timeout.into()));
    assert!(!seen.body.is_empty());
}

#[tokio::test]
async fn a_grant_can_list_answer_fields_but_not_those_of_sessions() {
    let fields = "x-total: 7\r\netag: \"e\"\r\nset-cookie: a=b\r\nserver: s\r\n";
    let text = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok");
    let server = Server::start(vec![Step::Read, answer(&text), Step::Again]).await;
    let mut there = destination(server.port);
    there.answer.headers = ["x-total", "set-cookie"].map(|name| name.parse().unwrap()).into();
    let seen = run(&client(Table::loopback()), get(there)).await;
    let names: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-total", "etag", "content-length"]);
}

#[tokio::test]
async fn requests_at_once_have_a_connection_each() {
    let server = willing().await;
    let client = Arc::new(client(Table::loopback()));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (client, plan) = (Arc::clone(&client), get(destination(server.port)));
        running.spawn(async move {
            let permit = permit(&plan.destination.origin).await;
            read(client.send(&permit, plan).await).await.body
        });
    }
    while let Some(body) = running.join_next().await {
        assert_eq!(body.unwrap(), b"ok");
    }
    assert_eq!(server.saw(|saw| saw.requests.len()), 20);
    assert!(server.saw(|saw| saw.connections) <= 20);
}

#[tokio::test]
async fn a_client_has_a_bounded_number_of_connections_and_waiting_ones_give_way() {
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    let answering = Server::start(vec![Step::Read, Step::Write(ok), Step::Again]).await;
    let open = b"HTTP/1.1 200 OK\r\n\r\nsome".to_vec();
    let streaming = Server::start(vec![Step::Read, Step::Write(open), Step::Wait]).await;
    let client = client(Table::loopback()).connections(2);
    assert_eq!(run(&client, get(destination(answering.port))).await.body, b"ok");
    // One waits and gives way; two are in use.
    let mut held = Vec::new();
    for _ in 0..2 {
        let plan = get(destination(streaming.port));
        let permit = permit(&plan.destination.origin).await;
        held.push(client.send(&permit, plan).await.unwrap());
    }
    let crowded = run(&client, get(destination(answering.port))).await;
    assert_eq!(crowded.error, Some(Fault::Crowded.into()));
    assert_eq!(answering.saw(|saw| saw.connections), 1);
    held.pop();
    assert_eq!(run(&client, get(destination(answering.port))).await.body, b"ok");
}
