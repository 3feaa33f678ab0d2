//! What the tests share: permits, plans, a resolver by table, and what a caller saw. Not the servers.

pub(crate) mod echo;
pub(crate) mod log;
pub(crate) mod pki;
pub(crate) mod server;

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use claviger_core::audit::{AuditError, AuditSink, Entry, EntryIndex, Use};
use claviger_core::digest::{ComponentDigest, ContentDigest, ManifestDigest};
use claviger_core::egress::{
    Answer, BodyStream, Destination, Egress as _, Frame, Lane, Outgoing, Plan, SendError, Slot,
};
use claviger_core::http::{HttpGrant, Method, Origin, PathEncoding, Target};
use claviger_core::{BoxFuture, Clock, InstanceId, Permit, Secret};
use claviger_egress::{HttpsClient, Phases, Resolver};
use jiff::Timestamp;

/// The credential of every test: no byte of it may be where it does not belong.
pub(crate) const SECRET: &str = "tok/4f+Zq7\"Q<mXpW=t9~K!bVr2";

pub(crate) fn secret(text: &str) -> Secret {
    Secret::take(&mut text.as_bytes().to_vec()).unwrap()
}

#[derive(Debug)]
struct NoLog;

impl AuditSink for NoLog {
    fn append(&self, _: Entry) -> BoxFuture<'static, Result<EntryIndex, AuditError>> {
        Box::pin(std::future::ready(Ok(0)))
    }
    fn note(&self, _: Entry) {}
    fn checkpoint(&self) -> BoxFuture<'_, Result<String, AuditError>> {
        Box::pin(std::future::ready(Err(AuditError::Closed)))
    }
}

#[derive(Debug)]
struct Epoch;

impl Clock for Epoch {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

pub(crate) async fn permit(origin: &Origin) -> Permit {
    let allowed = Use {
        instance: InstanceId(1),
        agent: "bot".parse().unwrap(),
        component: ComponentDigest::of(b"component"),
        manifest: ManifestDigest::of(b"manifest"),
        grant: "api".parse().unwrap(),
        key: None,
        secret: None,
        profile: "none".to_owned(),
        operation: None,
        request: None,
        content: ContentDigest::of(b""),
        size: 0,
        number: 1,
        rate_until: None,
        approval: None,
    };
    let (log, clock) = (Arc::new(NoLog), Arc::new(Epoch));
    Permit::to_send(log, clock, Timestamp::UNIX_EPOCH, allowed, origin.clone(), None)
        .await
        .unwrap()
}

/// Answers from a list, one after another, the last one again and again; counts the questions.
#[derive(Debug)]
pub(crate) struct Table {
    answers: Mutex<Vec<Vec<IpAddr>>>,
    pub(crate) lookups: AtomicUsize,
}

impl Table {
    pub(crate) fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |texts: &&[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Self {
            answers: Mutex::new(answers.iter().rev().map(parse).collect()),
            lookups: AtomicUsize::new(0),
        })
    }

    pub(crate) fn loopback() -> Arc<Self> {
        Self::new(&[&["127.0.0.1"]])
    }
}

impl Resolver for Table {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let next = if answers.len() > 1 {
            answers.pop()
        } else {
            answers.last().cloned()
        };
        Box::pin(std::future::ready(
            next.ok_or_else(|| io::ErrorKind::NotFound.into()),
        ))
    }
}

pub(crate) fn client(resolver: Arc<dyn Resolver>) -> HttpsClient {
    HttpsClient::with(resolver, Phases::default())
}

/// As short as a test may wait for what never comes.
pub(crate) fn hasty() -> Phases {
    let mut phases = Phases::default();
    phases.request = Duration::from_millis(1500);
    phases.head = Duration::from_millis(1500);
    phases.answer = Duration::from_millis(1500);
    phases.tls = Duration::from_millis(1500);
    phases
}

/// The terms of `https://api.test` at this port, trusting the tests' authority.
pub(crate) fn destination(port: u16) -> Destination {
    let origin: Origin = format!("https://api.test:{port}").parse().unwrap();
    let grant = HttpGrant::new(origin, Vec::new());
    let mut trust = grant.trust;
    trust.authorities = vec![pki::ca().der.clone()];
    Destination {
        origin: grant.origin,
        trust,
        private_networks: vec!["127.0.0.0/8".parse().unwrap()],
        answer: grant.answer,
        timeout: Duration::from_secs(60),
        lane: Lane {
            component: ComponentDigest::of(b"component"),
            grant: "bot/api".to_owned(),
            credential: "token@v1".to_owned(),
        },
        identity: None,
    }
}

/// `GET /v1/x` with the secret as a bearer.
pub(crate) fn get(destination: Destination) -> Plan {
    let target = Target::parse(&format!("{}/v1/x", destination.origin), PathEncoding::Refused).unwrap();
    Plan {
        destination: Arc::new(destination),
        method: Method::Get,
        target,
        headers: vec![("accept".parse().unwrap(), b"*/*".to_vec())],
        slots: vec![bearer()],
        body: Outgoing::Empty,
        watched: vec![Arc::new(secret(SECRET))],
    }
}

pub(crate) fn bearer() -> Slot {
    Slot::Header {
        name: "authorization".parse().unwrap(),
        value: secret(&format!("Bearer {SECRET}")),
    }
}

/// All that a caller got of an exchange.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) status: Option<u16>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    pub(crate) error: Option<SendError>,
}

impl Seen {
    /// As bytes, for whoever looks for a secret in it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut all = format!("{:?} ", self.error).into_bytes();
        if let Some(error) = &self.error {
            all.extend(error.to_string().bytes());
        }
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            all.extend(name.bytes());
            all.extend(value);
            all.push(b'\n');
        }
        all.extend(&self.body);
        all
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name)?;
        std::str::from_utf8(&found.1).ok()
    }
}

pub(crate) async fn frame(body: &mut BodyStream) -> Option<Result<Frame, SendError>> {
    std::future::poll_fn(|cx| body.as_mut().poll_next(cx)).await
}

/// Sends a plan under a permit for its origin, and reads all of the answer.
pub(crate) async fn run(client: &HttpsClient, plan: Plan) -> Seen {
    let permit = permit(&plan.destination.origin).await;
    read(client.send(&permit, plan).await).await
}

pub(crate) async fn read(answer: Result<Answer, SendError>) -> Seen {
    let mut seen = Seen::default();
    match answer {
        Err(error) => seen.error = Some(error),
        Ok(mut answer) => {
            seen.status = Some(answer.status);
            seen.headers = std::mem::take(&mut answer.headers);
            while let Some(frame) = frame(&mut answer.body).await {
                match frame {
                    Ok(Frame::Data(bytes)) => seen.body.extend(bytes),
                    Ok(Frame::Trailers(fields)) => seen.trailers.extend(fields),
                    Err(error) => seen.error = Some(error),
                }
            }
        }
    }
    seen
}

/// A body that never comes.
pub(crate) struct Never;

impl futures_core::Stream for Never {
    type Item = Result<Frame, SendError>;
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Pending
    }
}

/// A body by list.
pub(crate) struct Pieces(pub(crate) Vec<Result<Frame, SendError>>);

impl futures_core::Stream for Pieces {
    type Item = Result<Frame, SendError>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let next = if self.0.is_empty() {
            None
        } else {
            Some(self.0.remove(0))
        };
        std::task::Poll::Ready(next)
    }
}
