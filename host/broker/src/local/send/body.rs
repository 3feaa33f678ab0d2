//! The body of a request on its way out: read whole where a rule needs it, counted where it streams. Never more than was allowed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use claviger_core::Refusal;
use claviger_core::egress::{BodyStream, Fault, Frame, Outgoing, SendError};
use claviger_core::http::Decided;
use claviger_core::manifest::MAX_WHOLE_BODY;
use claviger_core::refusal::{Denial, Rule};
use futures_core::Stream;

use super::super::admit::AdmittedGrant;
use super::super::{Instance, LocalBroker};
use super::memory::{Memory, Taken, Unspent};
use super::{HttpTerms, as_u64, beside};
use crate::guard::Room;

/// A body, as far as it had to be read.
pub(super) enum Body {
    Whole(Bytes),
    Stream(BodyStream),
}

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotRead {
    /// It has more bytes than the grant allows, or than were announced.
    TooLong,
    /// It has trailers, which no server checks.
    Trailers,
    /// The agent stopped in the middle.
    Aborted,
    /// Bodies take as much memory as they may.
    NoRoom,
}

/// A body whose JSON is checked is in memory three times: as it came, as it is understood, and as it is sent.
const COPIES_FOR_JSON: usize = 3;

impl LocalBroker {
    /// Reads the body as far as a rule needs it, and says what it cost.
    pub(super) async fn read_body(
        &self,
        instance: &Instance,
        (terms, admitted): (&HttpTerms, &AdmittedGrant),
        decided: &Decided<'_>,
        body: Option<BodyStream>,
    ) -> Result<(Body, Option<Unspent>), Denial> {
        let grant = decided.grant;
        let Some(body) = body else {
            return Ok((Body::Whole(Bytes::new()), None));
        };
        let must_be_empty = decided.body_must_be_empty() || decided.length == Some(0);
        // Who approves a request approves its body; and one that goes on without its agent has it.
        let approved = admitted.constraints.approval.is_some() || instance.issues(decided.alias);
        if !must_be_empty && !grant.needs_whole_body() && !approved {
            return Ok((Body::Stream(body), None));
        }
        let Some(mut unspent) = instance.wasted.more(self.clock.now()) else {
            return Err(Denial::new(
                Refusal::Throttled,
                Rule::Concurrency,
                "too many bytes were read for requests of the instance that were not permitted",
            ));
        };
        let max = match (must_be_empty, approved) {
            (true, _) => 0,
            (false, true) => grant.body.max.min(MAX_WHOLE_BODY).0,
            (false, false) => grant.body.max.0,
        };
        let invalid = |text: &str| Denial::new(Refusal::Invalid, Rule::Body, text);
        let reading = Reading {
            max,
            copies: if grant.body.json.is_some() {
                COPIES_FOR_JSON
            } else {
                1
            },
            memory: [&self.bodies, &instance.bodies],
            unspent: &mut unspent,
        };
        let read = tokio::time::timeout(grant.timeout, reading.whole(body))
            .await
            .map_err(|_| invalid("the body was not there within the grant's timeout"))?;
        let (whole, taken) = read.map_err(|why| match why {
            NotRead::TooLong if must_be_empty => invalid("the request has a body and must not have one"),
            NotRead::TooLong => invalid(&format!(
                "the body is larger than {} (`max-request`)",
                grant.body.max
            )),
            NotRead::Trailers => invalid("the body has trailers"),
            NotRead::Aborted => invalid("the body was not finished"),
            NotRead::NoRoom => Denial::new(
                Refusal::Throttled,
                Rule::Concurrency,
                "the bodies that are held take as much memory as they may",
            ),
        })?;
        let length = as_u64(whole.len());
        if decided.length.is_some_and(|announced| announced != length) {
            return Err(invalid("the body is not as long as was announced"));
        }
        let understood = grant.body.json.is_some() && (length > 0 || decided.body_must_be_there());
        let whole = if understood {
            let grant = Arc::clone(&terms.grant);
            let checked = beside(whole.len(), move || match &grant.body.json {
                Some(rule) => rule.check(&whole),
                None => Ok(whole.into()),
            });
            checked.await?.map_err(|error| invalid(&error.to_string()))?
        } else {
            whole.into()
        };
        let held = match taken {
            Some(taken) => taken.hold(whole),
            None => whole,
        };
        Ok((Body::Whole(held), Some(unspent)))
    }
}

struct Reading<'a> {
    max: u64,
    copies: usize,
    memory: [&'a Memory; 2],
    unspent: &'a mut Unspent,
}

impl Reading<'_> {
    /// Reads all of a body into memory that is taken as it comes: who announces much and sends nothing takes none.
    async fn whole(self, mut body: BodyStream) -> Result<(Vec<u8>, Option<Taken>), NotRead> {
        let mut whole = Vec::new();
        let mut taken: Option<Taken> = None;
        while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_next(cx)).await {
            match frame {
                Ok(Frame::Data(bytes)) => {
                    self.unspent.read(as_u64(bytes.len()));
                    let length = whole.len().saturating_add(bytes.len());
                    if as_u64(length) > self.max {
                        return Err(NotRead::TooLong);
                    }
                    let more = Taken::new(self.memory, bytes.len().saturating_mul(self.copies))
                        .ok_or(NotRead::NoRoom)?;
                    match &mut taken {
                        Some(taken) => taken.and(more),
                        None => taken = Some(more),
                    }
                    whole.extend_from_slice(&bytes);
                }
                Ok(Frame::Trailers(_)) => return Err(NotRead::Trailers),
                Err(_) => return Err(NotRead::Aborted),
            }
        }
        Ok((whole, taken))
    }
}

pub(super) fn outgoing(body: Body, length: Option<u64>, room: Room, sent: &Arc<AtomicU64>) -> Outgoing {
    match body {
        Body::Whole(bytes) if bytes.is_empty() => Outgoing::Empty,
        Body::Whole(bytes) => {
            // As if all of it went, unless it is known that nothing did.
            sent.store(as_u64(bytes.len()), Ordering::Release);
            Outgoing::Whole(bytes)
        }
        Body::Stream(body) => Outgoing::Stream {
            body: Box::pin(Counted::new(body, Arc::clone(sent), room.sent)),
            length,
            max: room.sent,
        },
    }
}

/// A body that is counted as it is sent, and ends with a failure where it goes beyond its bound.
struct Counted {
    body: BodyStream,
    sent: Arc<AtomicU64>,
    max: u64,
    over: bool,
}

impl Counted {
    fn new(body: BodyStream, sent: Arc<AtomicU64>, max: u64) -> Self {
        Self {
            body,
            sent,
            max,
            over: false,
        }
    }
}

impl Stream for Counted {
    type Item = Result<Frame, SendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = self.body.as_mut().poll_next(cx) else {
            return Poll::Pending;
        };
        let fault = match frame {
            None => return Poll::Ready(None),
            Some(Ok(Frame::Data(bytes))) => {
                let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let before = self.sent.load(Ordering::Acquire);
                if before.saturating_add(more) <= self.max {
                    self.sent.store(before.saturating_add(more), Ordering::Release);
                    return Poll::Ready(Some(Ok(Frame::Data(bytes))));
                }
                Fault::RequestBody
            }
            Some(Ok(Frame::Trailers(_))) => Fault::RequestBody,
            Some(Err(_)) => Fault::RequestAborted,
        };
        self.over = true;
        Poll::Ready(Some(Err(fault.into())))
    }
}
