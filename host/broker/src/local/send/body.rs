//! The body of a request on its way out: read whole where a rule needs it, counted where it streams. Never more than was allowed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use claviger_core::egress::{BodyStream, Fault, Frame, SendError};
use futures_core::Stream;

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotRead {
    /// It has more bytes than the grant allows, or than were announced.
    TooLong,
    /// It has trailers, which no server checks.
    Trailers,
    /// The agent stopped in the middle.
    Aborted,
}

/// Reads a body of at most `max` bytes.
pub(super) async fn read_whole(mut body: BodyStream, max: u64) -> Result<Bytes, NotRead> {
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
