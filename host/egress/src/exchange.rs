//! One connection and one request on it, up to the head of the answer. No task runs beside: whoever waits drives the connection, and
//! whoever is dropped closes it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};

use claviger_core::egress::{Fault, MAX_ANSWER_FIELDS, MAX_ANSWER_HEAD, SendError};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::client::TlsStream;

use crate::outgoing::{OutBody, Sending};
use crate::phases::Phases;
use crate::scrub::Watched;

/// A server may send this many informational answers before the answer: one `100`, one `103`, and some patience.
const MAX_INFORMATIONAL: u8 = 8;

/// An open connection.
pub(crate) struct Live {
    sender: SendRequest<OutBody>,
    // Invariant: none once it has ended; it is never polled after that.
    connection: Option<Pin<Box<Http>>>,
    _place: OwnedSemaphorePermit,
}

type Http = Connection<TokioIo<TlsStream<TcpStream>>, OutBody>;

/// What became of a request.
pub(crate) enum Sent {
    /// The head of the answer came.
    Head(Response<Incoming>),
    /// The connection had ended before anything was written. Nobody has seen the request.
    Unsent(Request<OutBody>),
    /// There is no answer.
    Failed(SendError),
}

impl Live {
    /// Speaks HTTP/1.1 over this stream.
    pub(crate) async fn open(
        stream: TlsStream<TcpStream>,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, Fault> {
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_ANSWER_FIELDS)
            .max_header_size(MAX_ANSWER_HEAD)
            // Also what a head that does not end may fill.
            .max_buf_size(MAX_ANSWER_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Fault::NoConnection)?;
        Ok(Self {
            sender,
            connection: Some(Box::pin(connection)),
            _place: place,
        })
    }

    /// Moves the connection on; an error shows where the answer is waited for.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Whether another request can be sent: the last exchange is over, the other end has not closed, and nothing came that nobody
    /// asked for.
    pub(crate) fn is_idle(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        self.poll(cx);
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of the answer. Dropping the future leaves a connection that must not be used again.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<OutBody>,
        sending: &Sending,
        watched: &Arc<Watched>,
        phases: &Phases,
        deadline: Instant,
    ) -> Sent {
        let early = Arc::new(Early::new(Arc::clone(watched)));
        let heard = Arc::clone(&early);
        hyper::ext::on_informational(&mut request, move |answer| heard.hear(answer.headers()));
        let mut answer = Box::pin(self.sender.try_send_request(request));
        let mut patience = Patience::new(sending, phases, deadline);
        let ended = std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = answer.as_mut().poll(cx) {
                    return Poll::Ready(Ok(ended));
                }
                let Some(connection) = &mut self.connection else {
                    // hyper answers when its connection ends.
                    return Poll::Ready(Err(SendError::from(Fault::Incomplete)));
                };
                let over = connection.as_mut().poll(cx).is_ready();
                if over {
                    self.connection = None;
                }
                if let Some(fault) = early.fault() {
                    return Poll::Ready(Err(fault.into()));
                }
                if let Poll::Ready(ended) = answer.as_mut().poll(cx) {
                    return Poll::Ready(Ok(ended));
                }
                if !over {
                    return patience.poll(cx).map(|fault| Err(fault.into()));
                }
            }
        })
        .await;
        if let Some(fault) = early.fault() {
            return Sent::Failed(fault.into());
        }
        match ended {
            Ok(Ok(head)) => Sent::Head(head),
            Err(fault) => Sent::Failed(fault),
            Ok(Err(mut error)) => match error.take_message() {
                Some(request) => Sent::Unsent(request),
                None => Sent::Failed(sending.fault().unwrap_or_else(|| fault(error.error()).into())),
            },
        }
    }
}

/// What a failure of hyper on an open connection means: never that nothing was sent. Nothing of the server's is in it.
pub(crate) fn fault(error: &hyper::Error) -> Fault {
    if error.is_parse_too_large() {
        return Fault::HeadTooLarge;
    }
    if error.is_parse() {
        return Fault::Protocol;
    }
    if error.is_user() {
        return Fault::RequestAborted;
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            let tls = io
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>());
            return match (tls, io.kind()) {
                // After the handshake, so neither `Tls` nor `Certificate`: whoever sends an alert now may have read the request.
                (Some(rustls::Error::AlertReceived(_)), _) => Fault::Incomplete,
                // A record, or a chunk, that is none.
                (Some(_), _) | (None, std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData) => {
                    Fault::Protocol
                }
                (None, _) => Fault::Incomplete,
            };
        }
        source = inner.source();
    }
    if error.is_timeout() {
        Fault::Timeout
    } else {
        Fault::Incomplete
    }
}

/// Counts informational answers and looks through them, though no agent sees them.
struct Early {
    watched: Arc<Watched>,
    count: AtomicU8,
    // Invariant: 0, or why the exchange must end; never 0 again.
    fault: AtomicU8,
}

const TOO_MANY: u8 = 1;
const REFLECTED: u8 = 2;

impl Early {
    const fn new(watched: Arc<Watched>) -> Self {
        Self {
            watched,
            count: AtomicU8::new(0),
            fault: AtomicU8::new(0),
        }
    }

    fn hear(&self, headers: &http::HeaderMap) {
        if headers
            .values()
            .any(|value| self.watched.check(value.as_bytes()).is_err())
        {
            self.fault.store(REFLECTED, Ordering::Release);
        } else if self.count.fetch_add(1, Ordering::AcqRel) >= MAX_INFORMATIONAL {
            // The count may wrap; the verdict stays.
            self.fault.fetch_max(TOO_MANY, Ordering::AcqRel);
        }
    }

    fn fault(&self) -> Option<Fault> {
        match self.fault.load(Ordering::Acquire) {
            0 => None,
            REFLECTED => Some(Fault::Reflected),
            _ => Some(Fault::Protocol),
        }
    }
}

/// Waits as long as the phases say: while the body is sent, from piece to piece; then for the head.
struct Patience<'a> {
    sending: &'a Sending,
    phases: &'a Phases,
    deadline: Instant,
    seen: (u64, bool),
    timer: Pin<Box<Sleep>>,
}

impl<'a> Patience<'a> {
    fn new(sending: &'a Sending, phases: &'a Phases, deadline: Instant) -> Self {
        let mut new = Self {
            sending,
            phases,
            deadline,
            seen: (sending.pieces(), sending.is_done()),
            timer: Box::pin(sleep_until(deadline)),
        };
        new.rewind();
        new
    }

    fn rewind(&mut self) {
        let (_, done) = self.seen;
        let phase = if done {
            self.phases.head
        } else {
            self.phases.request
        };
        let until = Instant::now()
            .checked_add(phase)
            .map_or(self.deadline, |end| end.min(self.deadline));
        self.timer.as_mut().reset(until);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let now = (self.sending.pieces(), self.sending.is_done());
        if now != self.seen {
            self.seen = now;
            self.rewind();
        }
        self.timer.as_mut().poll(cx).map(|()| {
            let for_the_agent = self.sending.waits_for_the_agent() && Instant::now() < self.deadline;
            if for_the_agent {
                Fault::RequestAborted
            } else {
                Fault::Timeout
            }
        })
    }
}
