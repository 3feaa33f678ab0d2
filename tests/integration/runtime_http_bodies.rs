//! Bodies of requests of real guests: streamed both ways, bounded in the host, cut off when the agent goes, and never complete by
//! accident. Heads and errors are in `runtime_http`.

use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use claviger::{Answer, InstanceEnd, RunInput, RunReport, StopLimit};
use claviger_core::Refusal;
use claviger_core::egress::{BodyStream, Fault, Frame, MAX_ANSWER_FIELDS, SendError};
use kit::bodies::{Counted, answer, made, next, pieces, text};
use kit::{Bench, Guest, HTTP_GRANT, Record, ToyBroker, guest};
use tokio::sync::{Notify, mpsc};

/// An agent that has less memory than what passes through it.
const SMALL: &str = "[limits]\nmemory = \"16 MiB\"\n";
/// An agent that is not given much time.
const SHORT: &str = "[limits]\ndeadline = \"1 s\"\ncpu = \"300 ms\"\n";
/// Of [`SMALL`], four times.
const LARGE: u64 = 64 << 20;

/// What an agent said.
#[track_caller]
fn said(report: &RunReport) -> &str {
    match &report.answer {
        Answer::Done(text) => text,
        _ => panic!("{report:?}"),
    }
}

#[track_caller]
fn assert_stopped(report: &RunReport) {
    let stopped = |limit| report.end == InstanceEnd::Stopped { limit };
    assert!(
        stopped(StopLimit::Deadline) || stopped(StopLimit::Cpu),
        "{report:?}"
    );
}

/// What came of a body: its data, and how it ended; with nothing if it was complete.
type Came = (Vec<u8>, Option<Result<Frame, SendError>>);

/// Reads a body.
async fn all(body: Option<BodyStream>) -> Came {
    let mut data = Vec::new();
    let Some(mut body) = body else {
        return (data, None);
    };
    loop {
        match next(&mut body).await {
            Some(Ok(Frame::Data(bytes))) => data.extend_from_slice(&bytes),
            end => return (data, end),
        }
    }
}

/// Notifies when it is dropped, and notes how many instances had ended by then.
struct Gone {
    notify: Arc<Notify>,
    broker: Arc<ToyBroker>,
    ended: Arc<Mutex<Option<usize>>>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        *self.ended.lock().unwrap() = Some(self.broker.ends().len());
        self.notify.notify_one();
    }
}

/// A guard, and what it says of its end.
fn gone(bench: &Bench) -> (Gone, Arc<Notify>, Arc<Mutex<Option<usize>>>) {
    let (notify, ended) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
    let gone = Gone {
        notify: notify.clone(),
        broker: bench.broker.clone(),
        ended: ended.clone(),
    };
    (gone, notify, ended)
}

/// One piece, then nothing, until it is dropped.
fn stalled(gone: Gone) -> BodyStream {
    let mut first = Some(Bytes::from_static(b"first"));
    made(move |_| {
        let _held = &gone;
        first
            .take()
            .map_or(Poll::Pending, |first| Poll::Ready(Some(Ok(Frame::Data(first)))))
    })
}

#[tokio::test]
async fn an_answer_larger_than_the_agents_memory_passes() {
    let bench = Bench::new();
    let counted = Counted::default();
    let body = counted.clone();
    bench.broker.sending(move |_, _| {
        let body = body.body(LARGE, None);
        async { Ok(answer(200, body)) }
    });
    let report = bench.requests(SMALL, "download https://toy.test/").await;
    assert_eq!(said(&report), format!("{LARGE} bytes"));
    assert_eq!(counted.made(), LARGE);
}

#[tokio::test]
async fn of_an_answer_nothing_is_made_before_the_agent_asks_for_it() {
    let bench = Bench::new();
    let counted = Counted::default();
    let body = counted.clone();
    bench.broker.sending(move |_, _| {
        let body = body.body(LARGE, None);
        async { Ok(answer(200, body)) }
    });
    let report = bench.requests("", "cancel-body https://toy.test/").await;
    assert_eq!(said(&report), "cancelled after 65536");
    assert!(counted.made() <= 2 * 65_536, "{}", counted.made());
}

#[tokio::test]
async fn a_request_larger_than_the_agents_memory_passes() {
    let bench = Bench::new();
    bench.broker.sending(|_, body| async move {
        let mut body = body.expect("a body");
        let mut count = 0;
        while let Some(frame) = next(&mut body).await {
            match frame? {
                Frame::Data(bytes) => count += bytes.len(),
                Frame::Trailers(_) => panic!("no trailers"),
            }
        }
        Ok(answer(200, text(&count.to_string())))
    });
    let report = bench
        .requests(SMALL, &format!("upload https://toy.test/ {LARGE} 65536"))
        .await;
    assert_eq!(said(&report), format!("Ok(()) Ok(()) Ok(\"{LARGE}\")"));
    let report = bench
        .requests(SMALL, &format!("sdk-stream https://toy.test/ {LARGE}"))
        .await;
    assert_eq!(said(&report), format!("200 {LARGE}"));
}

#[tokio::test]
async fn of_a_request_little_waits_in_the_host() {
    let bench = Bench::new();
    bench.broker.sending(|_, body| async move {
        let _unread = body;
        std::future::pending().await
    });
    let report = bench.requests("", "fill https://toy.test/").await;
    let taken: u64 = said(&report).parse().unwrap();
    assert!((1..=4 * 65_536).contains(&taken), "{taken}");
}

#[tokio::test]
async fn both_bodies_flow_at_once() {
    let bench = Bench::new();
    bench
        .broker
        .sending(|_, body| async move { Ok(answer(200, body.expect("a body"))) });
    let report = bench.requests("", "echo-pieces https://toy.test/ 50").await;
    assert_eq!(said(&report), "50 pieces");
}

#[tokio::test]
async fn a_body_in_which_nothing_is_written_is_none() {
    let bench = Bench::new();
    bench.broker.sending(|_, body| async move {
        assert!(body.is_none());
        Ok(answer(200, text("none")))
    });
    let report = bench.requests("", "upload https://toy.test/ 0 1").await;
    assert_eq!(said(&report), "Ok(()) Ok(()) Ok(\"none\")");
}

#[tokio::test]
async fn trailers_pass_both_ways_without_what_belongs_to_the_connection() {
    let bench = Bench::new();
    bench.broker.sending(|_, body| async move {
        if body.is_some() {
            let (data, end) = all(body).await;
            return Ok(answer(200, text(&format!("{} {end:?}", data.escape_ascii()))));
        }
        let trailers = Frame::Trailers(vec![("x-after".to_owned(), b"1".to_vec())]);
        let content = Frame::Data(Bytes::from_static(b"content"));
        Ok(answer(200, pieces(vec![Ok(content), Ok(trailers)])))
    });
    let report = bench
        .requests(
            "",
            "trailers https://toy.test/\ntrailers-unread https://toy.test/\nupload-trailers https://toy.test/",
        )
        .await;
    let sent = Frame::Trailers(vec![("x-after".to_owned(), b"1".to_vec())]);
    assert_eq!(
        said(&report),
        format!(
            "x-after=1\nx-after=1\nErr(HeaderError::Forbidden) Ok(()) content {:?}",
            Some(Ok::<_, SendError>(sent))
        )
    );
}

#[tokio::test]
async fn trailers_beyond_the_bounds_are_an_error() {
    let bench = Bench::new();
    bench.broker.sending(|_, _| async move {
        let many = vec![("x".to_owned(), b"1".to_vec()); MAX_ANSWER_FIELDS + 1];
        Ok(answer(200, pieces(vec![Ok(Frame::Trailers(many))])))
    });
    let report = bench.requests("", "trailers-unread https://toy.test/").await;
    assert_eq!(said(&report), "ErrorCode::HttpResponseTrailerSectionSize(None)");
}

#[tokio::test]
async fn a_request_that_the_agent_gives_up_is_dropped_while_the_agent_goes_on() {
    let bench = Bench::new();
    let (guard, dropped, ended) = gone(&bench);
    let guard = Mutex::new(Some(guard));
    bench.broker.sending(move |_, _| {
        let guard = guard.lock().unwrap().take();
        let dropped = dropped.clone();
        async move {
            if let Some(_held) = guard {
                std::future::pending::<()>().await;
            }
            // The second request is answered when the first one is gone.
            dropped.notified().await;
            Ok(answer(200, text("well")))
        }
    });
    let report = bench
        .requests("", "cancel https://toy.test/1\nsdk GET https://toy.test/2")
        .await;
    assert_eq!(said(&report), "cancelled\n200 well");
    assert_eq!(*ended.lock().unwrap(), Some(0));
}

#[tokio::test]
async fn a_body_that_the_agent_gives_up_is_dropped_while_the_agent_goes_on() {
    let bench = Bench::new();
    let (guard, dropped, ended) = gone(&bench);
    let guard = Mutex::new(Some(guard));
    bench.broker.sending(move |_, _| {
        let guard = guard.lock().unwrap().take();
        let dropped = dropped.clone();
        async move {
            match guard {
                Some(guard) => Ok(answer(200, stalled(guard))),
                None => {
                    dropped.notified().await;
                    Ok(answer(200, text("well")))
                }
            }
        }
    });
    let report = bench
        .requests("", "cancel-body https://toy.test/1\nsdk GET https://toy.test/2")
        .await;
    assert_eq!(said(&report), "cancelled after 5\n200 well");
    assert_eq!(*ended.lock().unwrap(), Some(0));
}

#[tokio::test]
async fn a_slow_answer_is_stopped_at_the_deadline_and_settled_before_the_end() {
    let bench = Bench::new();
    bench
        .broker
        .sending(|_, _| async { std::future::pending().await });
    let report = bench.requests(SHORT, "hold https://toy.test/ 3").await;
    assert_stopped(&report);
    let records = bench.broker.records();
    let [
        Record::Started(_),
        Record::Sent(..),
        Record::Sent(..),
        Record::Sent(..),
        rest @ ..,
    ] = records.as_slice()
    else {
        panic!("{records:?}")
    };
    assert!(
        matches!(
            rest,
            [
                Record::Abandoned(_),
                Record::Abandoned(_),
                Record::Abandoned(_),
                Record::Ended(..)
            ]
        ),
        "{rest:?}"
    );
}

#[tokio::test]
async fn the_body_of_an_answer_is_gone_before_its_agent_is() {
    let bench = Bench::new();
    let (guard, _, ended) = gone(&bench);
    let guard = Mutex::new(Some(guard));
    bench.broker.sending(move |_, _| {
        let guard = guard.lock().unwrap().take().expect("one request");
        async { Ok(answer(200, stalled(guard))) }
    });
    let report = bench.requests(SHORT, "download https://toy.test/").await;
    assert_stopped(&report);
    assert_eq!(*ended.lock().unwrap(), Some(0));
}

/// A broker that reads bodies on a task of their own, as a connection does, and says what came of each.
fn connection(bench: &Bench) -> mpsc::UnboundedReceiver<Came> {
    let (came, coming) = mpsc::unbounded_channel();
    bench.broker.sending(move |_, body| {
        let came = came.clone();
        async move {
            tokio::spawn(async move { came.send(all(body).await) });
            std::future::pending().await
        }
    });
    coming
}

/// What a server must see of a body that was cut off.
fn aborted() -> Option<Result<Frame, SendError>> {
    Some(Err(Fault::RequestAborted.into()))
}

#[tokio::test]
async fn the_body_of_an_agent_that_is_stopped_does_not_look_complete() {
    let bench = Bench::new();
    let mut coming = connection(&bench);
    let report = bench.requests(SHORT, "upload-hang https://toy.test/").await;
    assert_stopped(&report);
    assert_eq!(coming.recv().await, Some((b"half of it".to_vec(), aborted())));
    let report = bench.requests(SHORT, "upload https://toy.test/ 10 10").await;
    assert_stopped(&report);
    assert_eq!(coming.recv().await, Some((vec![b'u'; 10], None)), "the control");
}

#[tokio::test]
async fn the_body_of_an_agent_whose_run_is_dropped_does_not_look_complete() {
    let bench = Bench::new();
    let (began, mut beginning) = mpsc::unbounded_channel();
    let (came, mut coming) = mpsc::unbounded_channel();
    bench.broker.sending(move |_, body| {
        let (began, came) = (began.clone(), came.clone());
        async move {
            tokio::spawn(async move { came.send(all(body).await) });
            began.send(()).unwrap();
            std::future::pending().await
        }
    });
    let agent = bench.load(HTTP_GRANT, guest(Guest::Http)).await.expect("loads");
    tokio::select! {
        report = agent.run(RunInput::text("upload-hang https://toy.test/")) => panic!("{report:?}"),
        Some(()) = beginning.recv() => {}
    }
    assert_eq!(coming.recv().await, Some((b"half of it".to_vec(), aborted())));
    assert_eq!(bench.broker.ends(), [InstanceEnd::Dropped]);
}

#[tokio::test]
async fn a_body_that_the_agent_drops_or_that_is_not_as_long_as_announced_does_not_look_complete() {
    let bench = Bench::new();
    let (came, mut coming) = mpsc::unbounded_channel();
    bench.broker.sending(move |_, body| {
        let came = came.clone();
        async move {
            let (data, end) = all(body).await;
            came.send((data.len(), end.clone())).unwrap();
            match end {
                Some(Err(error)) => Err(error),
                _ => Ok(answer(200, text("well"))),
            }
        }
    });
    let cut_off = "ErrorCode::ConnectionTerminated";
    for (command, expected, seen) in [
        (
            "upload-abort https://toy.test/",
            format!("failed {cut_off}"),
            (10, aborted()),
        ),
        (
            "upload-announced https://toy.test/ 5 10",
            format!("Ok(()) Err(\"ErrorCode::HttpRequestBodySize(Some(5))\") Err({cut_off:?})"),
            (5, aborted()),
        ),
        (
            "upload-announced https://toy.test/ 10 10",
            "Ok(()) Ok(()) Ok(\"well\")".to_owned(),
            (10, None),
        ),
    ] {
        let report = bench.requests("", command).await;
        assert_eq!(said(&report), expected, "{command}");
        assert_eq!(coming.recv().await, Some(seen), "{command}");
    }
    let report = bench
        .requests("", "upload-announced https://toy.test/ 20 10")
        .await;
    assert!(said(&report).contains("HttpRequestBodySize"), "{report:?}");
    let seen = coming.recv().await.unwrap();
    assert_eq!(seen.1, aborted(), "more than announced");
}

#[tokio::test]
async fn an_endless_answer_is_stopped_however_the_agent_waits_for_its_end() {
    let bench = Bench::new();
    bench.broker.sending(|head, _| async move {
        let data = Bytes::from_static(if head.url.ends_with("/empty") {
            b""
        } else {
            b"more"
        });
        let body = made(move |_| Poll::Ready(Some(Ok(Frame::Data(data.clone())))));
        Ok(answer(200, body))
    });
    for command in [
        "download https://toy.test/",
        "download https://toy.test/empty",
        "trailers-unread https://toy.test/",
        "trailers-unread https://toy.test/empty",
        "sdk-read https://toy.test/",
    ] {
        let report = bench.requests(SHORT, command).await;
        assert_stopped(&report);
    }
    let report = bench
        .requests(
            "",
            "sdk-limited https://toy.test/ 100000\nsdk-stream https://toy.test/ 1",
        )
        .await;
    assert_eq!(
        said(&report),
        "failed: the answer has more than 100000 bytes\nfailed: the answer has more than 1048576 bytes"
    );
}

#[tokio::test]
async fn an_agents_own_timeouts_hold_from_none_to_the_end_of_time() {
    let bench = Bench::new();
    let (guard, _, _) = gone(&bench);
    let guard = Arc::new(Mutex::new(Some(guard)));
    bench.broker.sending(move |head, _| {
        let guard = guard.clone();
        async move {
            match head.url.rsplit('/').next().unwrap() {
                "never" => std::future::pending().await,
                "stalled" => Ok(answer(200, stalled(guard.lock().unwrap().take().expect("once")))),
                _ => Ok(answer(200, text("well"))),
            }
        }
    });
    let most = u64::MAX;
    let commands = [
        "timeouts https://toy.test/never - 0 -".to_owned(),
        "timeouts https://toy.test/never 1 1 -".to_owned(),
        "timeouts https://toy.test/stalled - - 0".to_owned(),
        format!("timeouts https://toy.test/ {most} {most} {most}"),
        "timeouts https://toy.test/ - - 0".to_owned(),
        "timeouts https://toy.test/ 0 - -".to_owned(),
        "sdk-timeout https://toy.test/never 1".to_owned(),
        "sdk-timeout https://toy.test/ 10000".to_owned(),
    ];
    let report = bench.requests("", &commands.join("\n")).await;
    let lines: Vec<&str> = said(&report).lines().collect();
    assert_eq!(
        lines,
        [
            "failed ErrorCode::HttpResponseTimeout",
            "failed ErrorCode::HttpResponseTimeout",
            "failed Some(ErrorCode::ConnectionReadTimeout) connection-read-timeout",
            "well",
            "well",
            "well",
            "failed: the server took too long",
            "200",
        ]
    );
    let report = bench
        .requests(
            SHORT,
            &format!("timeouts https://toy.test/never {most} {most} {most}"),
        )
        .await;
    assert_stopped(&report);
}

#[tokio::test]
async fn who_sends_on_after_a_refusal_is_told_the_refusal() {
    let bench = Bench::new();
    bench.broker.sending(|_, _| async {
        Err(SendError::Refused {
            refusal: Refusal::Throttled,
            grant: Some("api".parse().unwrap()),
        })
    });
    let refused = "claviger: throttled by grant `api`";
    let report = bench.requests("", "upload https://toy.test/ 4194304 65536").await;
    assert_eq!(
        said(&report),
        format!(
            "Ok(()) Ok(()) Err({:?})",
            format!("ErrorCode::InternalError(Some({refused:?}))")
        )
    );
    let report = bench
        .requests("", "upload https://toy.test/ 16777216 65536")
        .await;
    assert!(
        said(&report).starts_with("Err(\"write: "),
        "no more than 8 MiB are thrown away: {report:?}"
    );
    assert!(said(&report).contains("throttled by grant"), "{report:?}");
    let report = bench.requests("", "sdk-stream https://toy.test/ 16777216").await;
    assert_eq!(
        said(&report),
        "failed: grant `api`: throttled: too many requests or outside the grant's hours; try again later"
    );
}

#[tokio::test]
async fn the_sdk_speaks_json_and_reads_events() {
    let bench = Bench::new();
    bench.broker.sending(|head, body| async move {
        let (data, _) = all(body).await;
        let told = match head.url.rsplit('/').next().unwrap() {
            "json" => {
                assert_eq!(data, b"{\"wanted\":7}");
                "{\"given\":8}"
            }
            "events" => "event: a\ndata: 1\n\ndata: 2\ndata: 3\n\n",
            _ => "well",
        };
        // In single bytes: nothing may depend on how a body is cut.
        let bytes = told.bytes().map(|byte| Ok(Frame::Data(Bytes::from(vec![byte]))));
        Ok(answer(200, pieces(bytes.collect())))
    });
    let report = bench
        .requests(
            "",
            "sdk-json https://toy.test/json\nsdk-events https://toy.test/events\nsdk POST https://toy.test/x hello",
        )
        .await;
    assert_eq!(said(&report), "{\"given\": 8}\na=1,message=2\n3\n200 well");
}
