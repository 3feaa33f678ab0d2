//! Bodies for tests of requests: made as they are read, and counted. Not a server.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use claviger_core::egress::{Answer, BodyStream, Frame, SendError};
use futures_core::Stream;

/// Calls this for each next piece.
struct Made<F>(F);

impl<F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Frame, SendError>>> + Unpin> Stream for Made<F> {
    type Item = Result<Frame, SendError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        (self.0)(context)
    }
}

/// A body of what this returns.
pub fn made(
    next: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Frame, SendError>>> + Send + Unpin + 'static,
) -> BodyStream {
    Box::pin(Made(next))
}

/// A body of these pieces.
#[must_use]
pub fn pieces(pieces: Vec<Result<Frame, SendError>>) -> BodyStream {
    let mut pieces = pieces.into_iter();
    made(move |_| Poll::Ready(pieces.next()))
}

/// A body of this text.
#[must_use]
pub fn text(text: &str) -> BodyStream {
    pieces(vec![Ok(Frame::Data(Bytes::copy_from_slice(text.as_bytes())))])
}

/// An answer with this status and body, and one field.
#[must_use]
pub fn answer(status: u16, body: BodyStream) -> Answer {
    Answer {
        dpop_nonce: None,
        status,
        headers: vec![("content-type".to_owned(), b"text/plain".to_vec())],
        body,
    }
}

/// The next piece of a body.
pub async fn next(body: &mut BodyStream) -> Option<Result<Frame, SendError>> {
    std::future::poll_fn(|context| body.as_mut().poll_next(context)).await
}

/// Counts what is asked of a body, and says when it is gone.
#[derive(Debug, Clone, Default)]
pub struct Counted(Arc<AtomicU64>);

impl Counted {
    /// How many bytes were made up to now.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// A body of so many bytes, in pieces of 64 KiB that are made when they are asked for; then whatever `end` is.
    #[must_use]
    pub fn body(&self, size: u64, end: Option<SendError>) -> BodyStream {
        const PIECE: u64 = 64 * 1024;
        let counted = self.0.clone();
        let mut left = size;
        let mut end = end;
        let piece = Bytes::from(vec![b'd'; 64 * 1024]);
        made(move |_| {
            if left == 0 {
                return Poll::Ready(end.take().map(Err));
            }
            let now = left.min(PIECE);
            left -= now;
            counted.fetch_add(now, Ordering::SeqCst);
            Poll::Ready(Some(Ok(Frame::Data(
                piece.slice(..usize::try_from(now).unwrap_or(0)),
            ))))
        })
    }
}
