//! The body of an agent's request, as the broker reads it. Buffers nothing: a piece is taken from the agent when it is asked for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use claviger_core::egress::{BodyStream, Fault, Frame, SendError};
use futures_core::Stream;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;
use wasmtime_wasi_http::WasiBody;

use super::life::Life;

/// What an agent still writes after nobody reads it is thrown away up to this many bytes; then its stream is closed. Libraries that send
/// and receive at once report a closed stream instead of the refusal, so the bytes of an ordinary request have to go somewhere.
const MAX_DRAINED: u64 = 8 << 20;

/// A body, and its first piece if that was waited for. Dropped before its end, it throws away what still comes.
struct Upload {
    // None after the end.
    body: Option<WasiBody>,
    first: Option<Frame>,
    life: Arc<Life>,
}

/// The agent's body as a stream, or none if it ended before anything came: libraries open a body for every request.
///
/// Waits for the first piece unless bytes were announced. So a request is decided when it is known to have a body, or none.
pub(super) async fn stream(
    body: WasiBody,
    announced: bool,
    life: Arc<Life>,
) -> Result<Option<BodyStream>, SendError> {
    let mut upload = Upload {
        body: Some(body),
        first: None,
        life,
    };
    if !announced {
        match std::future::poll_fn(|context| Pin::new(&mut upload).poll_next(context)).await {
            Some(first) => upload.first = Some(first?),
            None => return Ok(None),
        }
    }
    Ok(Some(Box::pin(upload)))
}

impl Stream for Upload {
    type Item = Result<Frame, SendError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        loop {
            let Some(body) = self.body.as_mut() else {
                return Poll::Ready(None);
            };
            let frame = match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return self.aborted(),
                // The body of an agent that was stopped looks as if it had ended here. It must not look so to a server.
                None if self.life.ended() => return self.aborted(),
                None => {
                    self.body = None;
                    return Poll::Ready(None);
                }
            };
            match frame.into_data() {
                // An empty piece would end a chunked body early, if it were written as it is.
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::Data(bytes)))),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.body = None;
                    return Poll::Ready(Some(Ok(Frame::Trailers(super::exchange::fields(&trailers)))));
                }
            }
        }
    }
}

impl Upload {
    fn aborted(&mut self) -> Poll<Option<Result<Frame, SendError>>> {
        self.body = None;
        Poll::Ready(Some(Err(Fault::RequestAborted.into())))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(mut body), Ok(tasks)) = (self.body.take(), Handle::try_current()) else {
            return;
        };
        if self.life.ended() {
            return;
        }
        let life = self.life.clone();
        // Ends with the agent at the latest: its end of the body is in its resource table.
        tasks.spawn(async move {
            let mut drained = 0_u64;
            while let Some(Ok(frame)) = body.frame().await {
                let size = frame.data_ref().map_or(0, bytes::Bytes::len);
                drained = drained.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
                if drained > MAX_DRAINED {
                    break;
                }
            }
            drop(life);
        });
    }
}
