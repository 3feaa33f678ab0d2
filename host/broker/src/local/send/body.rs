//! The body of a request on its way out: read whole where a rule needs it, counted where it streams. Never more than was allowed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use claviger_core::Refusal;
use claviger_core::egress::{BodyStream, Fault, Frame, SendError};
use claviger_core::http::Decided;
use claviger_core::manifest::MAX_WHOLE_BODY;
use claviger_core::refusal::{Denial, Rule};
use futures_core::Stream;

use super::super::admit::AdmittedGrant;
use super::{Body, as_u64};

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotRead {
    /// It has more bytes than the grant allows, or than were announced.
    TooLong,
    /// It has trailers, which no server checks.
    Trailers,
    /// The agent stopped in the middle.
    Aborted,
}

/// Reads a body of at most `max` bytes.
async fn read_whole(mut body: BodyStream, max: u64) -> Result<Bytes, NotRead> {
    let mut whole = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_next(cx)).await {
        match frame {
            Ok(Frame::Data(bytes)) => {
                let length = whole.len().saturating_add(bytes.len());
                if u64::try_from(length).unwrap_or(u64::MAX) > max {
                    return Err(NotRead::TooLong);
                }
                whole.extend_from_slice(&bytes);
            }
            Ok(Frame::Trailers(_)) => return Err(NotRead::Trailers),
            Err(_) => return Err(NotRead::Aborted),
        }
    }
    Ok(whole.into())
}

/// Reads the body as far as a rule needs it.
pub(super) async fn read_body(
    decided: &Decided<'_>,
    admitted: &AdmittedGrant,
    body: Option<BodyStream>,
) -> Result<Body, Denial> {
    let grant = decided.grant;
    let Some(body) = body else {
        return Ok(Body::Whole(Bytes::new()));
    };
    let must_be_empty = decided.body_must_be_empty() || decided.length == Some(0);
    // Who approves a request approves its body.
    let approved = admitted.constraints.approval.is_some();
    if !must_be_empty && !grant.needs_whole_body() && !approved {
        return Ok(Body::Stream(body));
    }
    let max = match (must_be_empty, approved) {
        (true, _) => 0,
        (false, true) => grant.body.max.min(MAX_WHOLE_BODY).0,
        (false, false) => grant.body.max.0,
    };
    let invalid = |text: &str| Denial::new(Refusal::Invalid, Rule::Body, text);
    let read = tokio::time::timeout(grant.timeout, read_whole(body, max))
        .await
        .map_err(|_| invalid("the body was not there within the grant's timeout"))?;
    let whole = read.map_err(|why| match why {
        NotRead::TooLong if must_be_empty => invalid("the request has a body and must not have one"),
        NotRead::TooLong => invalid(&format!(
            "the body is larger than {} (`max-request`)",
            grant.body.max
        )),
        NotRead::Trailers => invalid("the body has trailers"),
        NotRead::Aborted => invalid("the body was not finished"),
    })?;
    if decided.length.is_some_and(|length| length != as_u64(whole.len())) {
        return Err(invalid("the body is not as long as was announced"));
    }
    match &grant.body.json {
        Some(rule) if !whole.is_empty() || decided.body_must_be_there() => rule
            .check(&whole)
            .map(Body::Whole)
            .map_err(|error| invalid(&error.to_string())),
        Some(_) | None => Ok(Body::Whole(whole)),
    }
}

/// A body that is counted as it is sent, and ends with a failure where it goes beyond its bound.
pub(super) struct Counted {
    body: BodyStream,
    sent: Arc<AtomicU64>,
    max: u64,
    over: bool,
}

impl Counted {
    pub(super) fn new(body: BodyStream, sent: Arc<AtomicU64>, max: u64) -> Self {
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
