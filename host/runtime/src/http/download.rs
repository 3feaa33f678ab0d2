//! An answer, as the agent reads it. Buffers nothing and looks into nothing: what may come back, the broker has decided.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use claviger_core::egress::{Answer, BodyStream, Frame, MAX_ANSWER_FIELDS, MAX_ANSWER_HEAD};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, WasiBody};

use super::life::Life;

/// After so many pieces that were there at once, others get their turn. wasmtime-wasi-http, which waits for trailers, throws away what comes
/// before them in one go: a server that never ends would keep the agent from its deadline. Empty pieces count, as they are skipped here.
const MAX_AT_ONCE: usize = 32;

/// The answer for wasmtime-wasi-http. `between` is how long the agent wants to wait for each piece.
pub(super) fn response(
    answer: Answer,
    between: Option<Duration>,
    life: Arc<Life>,
) -> Result<Response<WasiBody>, Error> {
    let headers = headers(&answer.headers).ok_or(Error::HttpResponseHeaderSectionSize(None))?;
    let status = StatusCode::from_u16(answer.status).map_err(|_| Error::HttpProtocolError)?;
    let body = Download {
        body: Some(answer.body),
        wait: between.map(|between| (between, Box::pin(tokio::time::sleep(between)))),
        at_once: 0,
        _life: life,
    };
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Header fields within the bounds, or nothing.
fn headers(fields: &[(String, Vec<u8>)]) -> Option<HeaderMap> {
    let size = |(name, value): &(String, Vec<u8>)| name.len() + value.len();
    if fields.len() > MAX_ANSWER_FIELDS || fields.iter().map(size).sum::<usize>() > MAX_ANSWER_HEAD {
        return None;
    }
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        map.try_append(name, HeaderValue::from_bytes(value).ok()?).ok()?;
    }
    Some(map)
}

/// The body of an answer. Dropped before its end, it abandons the exchange.
struct Download {
    // None after the end: then the exchange is over, whatever the agent keeps.
    body: Option<BodyStream>,
    wait: Option<(Duration, Pin<Box<Sleep>>)>,
    at_once: usize,
    _life: Arc<Life>,
}

impl Body for Download {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        loop {
            if self.at_once >= MAX_AT_ONCE {
                self.at_once = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(body) = self.body.as_mut() else {
                return Poll::Ready(None);
            };
            let frame = match body.as_mut().poll_next(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    self.at_once = 0;
                    return self.poll_wait(context);
                }
            };
            self.at_once += 1;
            self.restart();
            match frame {
                Some(Ok(Frame::Data(bytes))) if bytes.is_empty() => {}
                Some(Ok(Frame::Data(bytes))) => {
                    return Poll::Ready(Some(Ok(http_body::Frame::data(bytes))));
                }
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.body = None;
                    let trailers = headers(&trailers).ok_or(Error::HttpResponseTrailerSectionSize(None));
                    return Poll::Ready(Some(trailers.map(http_body::Frame::trailers)));
                }
                Some(Err(error)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(super::failed(&error))));
                }
                None => {
                    self.body = None;
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl Download {
    fn poll_wait(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        let Some((_, sleep)) = self.wait.as_mut() else {
            return Poll::Pending;
        };
        ready!(sleep.as_mut().poll(context));
        self.body = None;
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn restart(&mut self) {
        if let Some((between, sleep)) = self.wait.as_mut()
            && let Some(until) = Instant::now().checked_add(*between)
        {
            sleep.as_mut().reset(until);
        }
    }
}
