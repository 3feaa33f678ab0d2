//! An outside that is scripted: what is sent to it is kept, and it answers as it is told. Not HTTP.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use claviger_core::audit::Traffic;
use claviger_core::egress::{
    Answer, BodyStream, DpopNonce, Egress, Fault, Frame, Outgoing, Plan, RequestHead, SendError, Slot, Token,
    TokenAnswer, TokenPlan,
};
use claviger_core::http::{InjectionKind, Origin};
use tokio::sync::mpsc;

use super::super::SecretCreation;
use super::*;

pub(super) const API: &str = "https://api.test";
pub(super) const CANARY: &str = "canary-3f9a1c77e2b04d58";
pub(super) const GRANT: &str = "[grants.api]\n\
    http = { origin = \"https://api.test\", allow = [\"GET /repos/*\", \"POST /repos/*\", \"DELETE /repos/*\"] }\n\
    inject = { bearer = \"github\" }\n";

/// What the outside does with the next request.
pub(super) enum Script {
    Answer(u16, Vec<&'static str>),
    /// A body, and trailers.
    Trailers,
    /// No body, but a DPoP nonce.
    Nonce(u16, DpopNonce),
    Fail(Fault),
    /// Chunks come as the test sends them.
    Streams(mpsc::UnboundedReceiver<Result<&'static str, Fault>>),
    /// No answer ever; `entered` says that it was asked.
    Hangs,
}

/// What reached the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) line: String,
    pub(super) slots: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) watched: usize,
    pub(super) lane: String,
    pub(super) headers: Vec<String>,
}

#[derive(Default)]
pub(super) struct Web {
    scripts: Mutex<VecDeque<Script>>,
    seen: Mutex<Vec<Seen>>,
    tokens: Mutex<VecDeque<Given>>,
    asked: Mutex<Vec<String>>,
    /// Nonces that the authorization server demands before it gives anything.
    pub(super) demands: Mutex<VecDeque<&'static str>>,
    /// What it says beside its tokens.
    pub(super) beside: Mutex<Option<&'static str>>,
    /// What came with a request for a token: the assertion and the DPoP proof.
    pub(super) proofs: Mutex<Vec<(Option<String>, Option<String>)>>,
    /// What a client certificate's key says to the end of a handshake, and to something else.
    pub(super) handshakes: Mutex<Vec<Result<Signature, Refusal>>>,
    /// What happens while the authorization server thinks.
    pub(super) meanwhile: Mutex<Option<Meanwhile>>,
    /// Answers what no script does.
    pub(super) server: Mutex<Option<Server>>,
    pub(super) entered: Notify,
    pub(super) go_on: Notify,
}

/// Answers each request by what was sent.
pub(super) type Server = Box<dyn FnMut(&Seen) -> (u16, &'static str) + Send>;

type Meanwhile = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// What an authorization server gives.
#[derive(Clone)]
pub(super) struct Given {
    /// The access token, which may be none for a rotation alone; how long it lives; and the refresh token.
    pub(super) token: Result<(&'static str, Option<u64>, Option<&'static str>), Fault>,
    /// Only after the test says so.
    pub(super) slow: bool,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Web")
    }
}

impl Web {
    pub(super) fn will(&self, script: Script) {
        self.scripts.lock().unwrap().push_back(script);
    }

    pub(super) fn will_stream(&self) -> mpsc::UnboundedSender<Result<&'static str, Fault>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.will(Script::Streams(receiver));
        sender
    }

    pub(super) fn will_give(&self, given: Given) {
        self.tokens.lock().unwrap().push_back(given);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What the authorization server was asked with.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn text(secret: &Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).unwrap()
}

impl Egress for Web {
    fn send<'a>(&'a self, permit: &'a Permit, plan: Plan) -> BoxFuture<'a, Result<Answer, SendError>> {
        Box::pin(async move {
            assert!(permit.covers_origin(&plan.destination.origin));
            assert!(!format!("{plan:?}").contains(CANARY));
            let slots = plan.slots.iter().map(|slot| match slot {
                Slot::Header { name, value } => (name.to_string(), text(value)),
                Slot::Query { key, value } => (format!("?{key}"), text(value)),
                Slot::AwsSigV4 { secret, .. } => ("aws".to_owned(), text(secret)),
            });
            let slots = slots.collect();
            if let Some(identity) = &plan.destination.identity {
                for content in [proofs::handshake(), b"something else".to_vec()] {
                    let signed = identity.sign(permit, &content).await;
                    self.handshakes.lock().unwrap().push(signed);
                }
            }
            let _sending;
            let mut body = Vec::new();
            let mut failed = None;
            match plan.body {
                Outgoing::Empty => {}
                Outgoing::Whole(bytes) => {
                    body = bytes.to_vec();
                    // Until there is an answer, as a client may.
                    _sending = Some(bytes);
                }
                Outgoing::Stream { body: mut stream, .. } => {
                    while let Some(frame) = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
                        match frame {
                            Ok(Frame::Data(bytes)) => body.extend(bytes),
                            Ok(Frame::Trailers(_)) => panic!("trailers were let through"),
                            Err(error) => failed = Some(error),
                        }
                    }
                }
            }
            let seen = Seen {
                line: format!("{} {}", plan.method, plan.target),
                slots,
                body,
                watched: plan.watched.len(),
                lane: plan.destination.lane.credential.clone(),
                headers: plan.headers.iter().map(|(name, _)| name.to_string()).collect(),
            };
            let served = self.server.lock().unwrap().as_mut().map(|server| server(&seen));
            self.seen.lock().unwrap().push(seen);
            self.entered.notify_one();
            if let Some(error) = failed {
                return Err(error);
            }
            let script = self.scripts.lock().unwrap().pop_front();
            let script = script.or(served.map(|(status, body)| Script::Answer(status, vec![body])));
            let body: BodyStream = match script.unwrap_or(Script::Answer(200, vec!["ok"])) {
                Script::Answer(status, chunks) => {
                    let chunks = chunks.into_iter().map(data).collect();
                    return Ok(answer(status, Box::pin(Chunks(chunks))));
                }
                Script::Trailers => {
                    let frames = [
                        data("ok"),
                        Frame::Trailers(vec![("x-sum".to_owned(), b"1".to_vec())]),
                    ];
                    return Ok(answer(200, Box::pin(Chunks(frames.into()))));
                }
                Script::Nonce(status, nonce) => {
                    return Ok(Answer {
                        dpop_nonce: Some(nonce),
                        ..answer(status, Box::pin(Chunks(VecDeque::new())))
                    });
                }
                Script::Fail(fault) => return Err(fault.into()),
                Script::Streams(receiver) => Box::pin(Channel(receiver)),
                Script::Hangs => std::future::pending().await,
            };
            Ok(answer(200, body))
        })
    }

    fn token<'a>(
        &'a self,
        permit: &'a Permit,
        plan: TokenPlan,
    ) -> BoxFuture<'a, Result<TokenAnswer, SendError>> {
        Box::pin(async move {
            assert!(permit.covers_origin(&plan.destination.origin));
            let with = [&plan.secrets.client, &plan.secrets.grant];
            let with = with.iter().filter_map(|secret| secret.as_deref().map(text));
            let with = with.collect::<Vec<_>>().join(" ");
            self.asked.lock().unwrap().push(with);
            let proofs = (plan.assertion.as_ref().map(text), plan.dpop.as_ref().map(text));
            self.proofs.lock().unwrap().push(proofs);
            self.entered.notify_one();
            let meanwhile = self.meanwhile.lock().unwrap().take();
            if let Some(meanwhile) = meanwhile {
                meanwhile().await;
            }
            if let Some(nonce) = self.demands.lock().unwrap().pop_front() {
                return Ok(TokenAnswer::NonceDemanded(nonce.to_owned()));
            }
            let given = self.tokens.lock().unwrap().pop_front();
            let given = given.expect("the test says what is given");
            if given.slow {
                self.go_on.notified().await;
            }
            let (access, expires_in, refresh) = given.token?;
            if let ("", Some(refresh)) = (access, refresh) {
                return Ok(TokenAnswer::Rotated(
                    Secret::take(&mut refresh.as_bytes().to_vec()).unwrap(),
                ));
            }
            Ok(TokenAnswer::Given(Token {
                access: Secret::take(&mut access.as_bytes().to_vec()).unwrap(),
                expires_in,
                refresh: refresh.map(|text| Secret::take(&mut text.as_bytes().to_vec()).unwrap()),
                dpop_nonce: self.beside.lock().unwrap().map(str::to_owned),
            }))
        })
    }
}

fn answer(status: u16, body: BodyStream) -> Answer {
    Answer {
        status,
        headers: Vec::new(),
        body,
        dpop_nonce: None,
    }
}

fn data(text: &str) -> Frame {
    Frame::Data(text.as_bytes().to_vec().into())
}

pub(super) struct Chunks(pub(super) VecDeque<Frame>);

impl futures_core::Stream for Chunks {
    type Item = Result<Frame, SendError>;
    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

struct Channel(mpsc::UnboundedReceiver<Result<&'static str, Fault>>);

impl futures_core::Stream for Channel {
    type Item = Result<Frame, SendError>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_recv(cx)
            .map(|chunk| chunk.map(|chunk| chunk.map(data).map_err(SendError::from)))
    }
}

/// A body of these chunks.
pub(super) fn chunks(chunks: &[&str]) -> Option<BodyStream> {
    Some(Box::pin(Chunks(chunks.iter().map(|chunk| data(chunk)).collect())))
}

/// A request without header fields but these.
pub(super) fn head(line: &str, headers: &[(&str, &str)]) -> RequestHead {
    let (method, path) = line.split_once(' ').unwrap();
    let url = if path.starts_with('/') {
        format!("{API}{path}")
    } else {
        path.to_owned()
    };
    RequestHead {
        method: method.to_owned(),
        url,
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect(),
    }
}

/// The rest of an answer, as text.
pub(super) async fn rest(answer: &mut Answer) -> Result<String, SendError> {
    let mut text = String::new();
    while let Some(frame) = next(answer).await {
        match frame? {
            Frame::Data(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
            Frame::Trailers(_) => text.push_str("(trailers)"),
        }
    }
    Ok(text)
}

pub(super) async fn next(answer: &mut Answer) -> Option<Result<Frame, SendError>> {
    std::future::poll_fn(|cx| answer.body.as_mut().poll_next(cx)).await
}

pub(super) fn creation(name: &str, kind: InjectionKind, origin: &str, value: &str) -> SecretCreation {
    SecretCreation {
        name: super::name(name),
        kind,
        origin: origin.parse::<Origin>().unwrap(),
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut value.as_bytes().to_vec()).unwrap(),
    }
}

/// A broker with this outside, and the secret `github`.
pub(super) struct Scene {
    pub(super) fixture: Fixture,
    pub(super) web: Arc<Web>,
}

impl Scene {
    pub(super) async fn new() -> Self {
        let web = Arc::new(Web::default());
        let fixture = Fixture::with_egress(Arc::clone(&web)).await;
        fixture
            .broker
            .add_secret(creation("github", InjectionKind::Bearer, API, CANARY))
            .await
            .unwrap();
        Self { fixture, web }
    }

    pub(super) fn broker(&self) -> &LocalBroker {
        &self.fixture.broker
    }

    pub(super) async fn ask(&self, who: InstanceId, line: &str) -> Result<Answer, SendError> {
        self.broker().send(who, head(line, &[]), None).await
    }

    pub(super) async fn get(&self, who: InstanceId) -> Result<String, SendError> {
        rest(&mut self.ask(who, "GET /repos/a").await?).await
    }

    /// What each settled request moved, in order.
    pub(super) async fn traffic(&self) -> Vec<(Settlement, Option<Traffic>)> {
        let events = self.fixture.events().await;
        events
            .into_iter()
            .filter_map(|event| match event {
                Event::Settled {
                    settlement, traffic, ..
                } => Some((settlement, traffic)),
                _ => None,
            })
            .collect()
    }

    /// No secret and no token on the log.
    pub(super) async fn log_is_clean(&self) {
        self.broker().checkpoint().await.unwrap();
        let text = format!("{:?}", self.fixture.entries().await);
        assert!(text.contains("api.test"), "the control");
        assert!(!text.contains("canary"), "{text}");
    }
}

/// A failure as an agent learns it: under the grant `api`.
pub(super) fn failed(fault: Fault) -> SendError {
    SendError::from(fault).under(&name("api"))
}

pub(super) fn refused(error: &SendError) -> Refusal {
    match error {
        SendError::Refused { refusal, .. } => *refusal,
        SendError::Failed { fault, .. } => panic!("{fault}"),
    }
}
