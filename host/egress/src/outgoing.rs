//! The body of a request on its way out: as long as it must be, and no longer. Knows no header fields.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use claviger_core::egress::{BodyStream, Fault, Frame, Outgoing, SendError};
use http_body::{Body, SizeHint};

/// How far the sending is. Shared by the body, which the connection owns, and by whoever waits for the answer.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    done: AtomicBool,
    waiting: AtomicBool,
    pieces: AtomicU64,
    fault: OnceLock<SendError>,
}

impl Sending {
    /// Whether all of the body was taken.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Whether the agent is waited for, not the server.
    pub(crate) fn waits_for_the_agent(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Grows with each piece: standing still is what a timeout is for.
    pub(crate) fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::Acquire)
    }

    /// Why the body was cut, if it was.
    pub(crate) fn fault(&self) -> Option<SendError> {
        self.fault.get().cloned()
    }
}

/// The reason is in [`Sending`].
#[derive(Debug, thiserror::Error)]
#[error("the body of the request was cut")]
pub(crate) struct Cut;

/// A body on its way out.
pub(crate) struct OutBody {
    content: Content,
    sending: Arc<Sending>,
}

enum Content {
    Whole(Bytes),
    Stream {
        body: BodyStream,
        // Invariant: what is announced and not yet sent; none if nothing was announced.
        left: Option<u64>,
        // Invariant: what may still be sent.
        room: u64,
    },
    Ended,
}

impl OutBody {
    /// Takes a body, and says how it is going.
    ///
    /// # Errors
    /// When more is announced than is allowed.
    pub(crate) fn new(outgoing: Outgoing) -> Result<(Self, Arc<Sending>), Fault> {
        let content = match outgoing {
            Outgoing::Empty => Content::Ended,
            Outgoing::Whole(bytes) if bytes.is_empty() => Content::Ended,
            Outgoing::Whole(bytes) => Content::Whole(bytes),
            Outgoing::Stream { length, max, .. } if length.is_some_and(|length| length > max) => {
                return Err(Fault::RequestBody);
            }
            Outgoing::Stream { body, length, max } => Content::Stream {
                body,
                left: length,
                room: max,
            },
        };
        let sending = Arc::new(Sending::default());
        sending
            .done
            .store(matches!(content, Content::Ended), Ordering::Release);
        let body = Self {
            content,
            sending: Arc::clone(&sending),
        };
        Ok((body, sending))
    }

    fn cut(&mut self, why: SendError) -> Poll<Option<Result<http_body::Frame<Bytes>, Cut>>> {
        self.content = Content::Ended;
        // The first reason stays.
        drop(self.sending.fault.set(why));
        Poll::Ready(Some(Err(Cut)))
    }

    fn finished(&mut self) {
        self.content = Content::Ended;
        self.sending.done.store(true, Ordering::Release);
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let piece = match &mut this.content {
            Content::Ended => return Poll::Ready(None),
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                this.finished();
                bytes
            }
            Content::Stream { body, left, room } => loop {
                let next = body.as_mut().poll_next(cx);
                this.sending.waiting.store(next.is_pending(), Ordering::Release);
                match next {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) if left.is_none_or(|left| left == 0) => {
                        this.finished();
                        return Poll::Ready(None);
                    }
                    // Trailers would reach the server beside everything that was checked.
                    Poll::Ready(None | Some(Ok(Frame::Trailers(_)))) => {
                        return this.cut(Fault::RequestBody.into());
                    }
                    Poll::Ready(Some(Err(error))) => return this.cut(error),
                    Poll::Ready(Some(Ok(Frame::Data(bytes)))) if bytes.is_empty() => {}
                    Poll::Ready(Some(Ok(Frame::Data(bytes)))) => {
                        let size = bytes.len() as u64;
                        let rest = left.map(|left| left.checked_sub(size));
                        let (Some(less), None | Some(Some(_))) = (room.checked_sub(size), rest) else {
                            return this.cut(Fault::RequestBody.into());
                        };
                        *room = less;
                        *left = rest.flatten();
                        if *left == Some(0) {
                            this.finished();
                        }
                        break bytes;
                    }
                }
            },
        };
        this.sending.pieces.fetch_add(1, Ordering::AcqRel);
        Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Ended => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream { left: Some(left), .. } => SizeHint::with_exact(*left),
            Content::Stream { left: None, .. } => SizeHint::new(),
        }
    }
}
