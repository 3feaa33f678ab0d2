//! The body of an answer: bounded, timed, looked through, and streamed without being gathered. Not its head.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use claviger_core::egress::{Destination, Fault, Frame, SendError};
use futures_core::Stream;
use http::HeaderMap;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::answer;
use crate::exchange::{self, Live};
use crate::outgoing::Sending;
use crate::pool::Pool;
use crate::scrub::{Found, Scrubber, Watched};

/// Reads the rest of an answer from the connection that it owns. Dropped before the end, it closes the connection.
pub(crate) struct Reading {
    // Invariant: none once the body has ended or failed.
    live: Option<Live>,
    incoming: Incoming,
    // What the body may still have.
    left: u64,
    idle: Duration,
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
    // Whether the timer runs for the piece that is waited for.
    waiting: bool,
    sending: Arc<Sending>,
    destination: Arc<Destination>,
    pool: Arc<Pool>,
}

impl Reading {
    pub(crate) fn new(
        live: Live,
        incoming: Incoming,
        sending: Arc<Sending>,
        destination: Arc<Destination>,
        pool: Arc<Pool>,
        (idle, deadline): (Duration, Instant),
    ) -> Self {
        Self {
            live: Some(live),
            incoming,
            left: destination.answer.max.0,
            idle,
            deadline,
            timer: Box::pin(sleep_until(deadline)),
            waiting: false,
            sending,
            destination,
            pool,
        }
    }

    /// The next piece, or none at the end.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Fault>>> {
        let Some(live) = &mut self.live else {
            return Poll::Ready(None);
        };
        if Instant::now() >= self.deadline {
            return self.failed(Fault::Timeout);
        }
        let mut next = Pin::new(&mut self.incoming).poll_frame(cx);
        if next.is_pending() {
            live.poll(cx);
            next = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        if next.is_pending() {
            if !self.waiting {
                self.waiting = true;
                let until = Instant::now().checked_add(self.idle);
                let until = until.map_or(self.deadline, |end| end.min(self.deadline));
                self.timer.as_mut().reset(until);
            }
            ready!(self.timer.as_mut().poll(cx));
            return self.failed(Fault::Timeout);
        }
        self.waiting = false;
        match ready!(next) {
            None => {
                self.over();
                Poll::Ready(None)
            }
            Some(Err(error)) => self.failed(exchange::fault(&error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => match self.left.checked_sub(bytes.len() as u64) {
                    Some(left) => {
                        self.left = left;
                        Poll::Ready(Some(Ok(Piece::Data(bytes))))
                    }
                    None => self.failed(Fault::BodyTooLarge),
                },
                Err(frame) => Poll::Ready(Some(Ok(Piece::Trailers(
                    frame.into_trailers().unwrap_or_default(),
                )))),
            },
        }
    }

    /// Ends it for a reason, and closes the connection.
    pub(crate) fn failed<T>(&mut self, fault: Fault) -> Poll<Option<Result<T, Fault>>> {
        self.live = None;
        Poll::Ready(Some(Err(fault)))
    }

    /// All of the answer was read: gives the connection back if all of the request was sent.
    fn over(&mut self) {
        if let Some(live) = self.live.take()
            && self.sending.is_done()
        {
            self.pool.put(live, &self.destination);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // A reader may stop at the last byte without asking for more.
        if self.incoming.is_end_stream() {
            self.over();
        }
    }
}

/// A piece of an answer's body as it came.
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The body as an agent gets it.
pub(crate) struct Returned {
    reading: Reading,
    scrubber: Scrubber,
    watched: Arc<Watched>,
    // Invariant: fields that may be returned, after the data that was held back.
    trailers: Option<answer::Fields>,
    over: bool,
}

impl Returned {
    pub(crate) fn new(reading: Reading, watched: Arc<Watched>) -> Self {
        Self {
            reading,
            scrubber: Scrubber::of(Arc::clone(&watched)),
            watched,
            trailers: None,
            over: false,
        }
    }

    fn poll_clean(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        loop {
            if self.over {
                // Nothing but what was put aside.
                return Poll::Ready(self.trailers.take().map(|fields| Ok(Frame::Trailers(fields))));
            }
            let clean = match ready!(self.reading.poll_piece(cx)) {
                Some(Ok(Piece::Data(bytes))) => self.scrubber.scan(bytes),
                Some(Ok(Piece::Trailers(headers))) => {
                    let rule = &self.reading.destination.answer;
                    match answer::returned(&headers, rule, &self.watched) {
                        Ok(fields) => self.trailers = Some(fields).filter(|fields| !fields.is_empty()),
                        Err(fault) => return self.reading.failed(fault),
                    }
                    continue;
                }
                Some(Err(fault)) => return Poll::Ready(Some(Err(fault))),
                None => {
                    self.over = true;
                    self.scrubber.finish()
                }
            };
            match clean {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::Data(bytes)))),
                Err(Found { .. }) => return self.reading.failed(Fault::Reflected),
            }
        }
    }
}

impl Stream for Returned {
    type Item = Result<Frame, SendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.poll_clean(cx));
        if matches!(next, Some(Err(_))) {
            self.over = true;
            self.trailers = None;
        }
        Poll::Ready(next.map(|frame| frame.map_err(SendError::from)))
    }
}
