//! An answer and the reading of it. Keeps no more of a body than the agent asks for.

use std::fmt;
use std::io::{self, Read};

use wasip2::http::types::{IncomingBody, IncomingResponse, OutgoingBody, http_error_code};
use wasip2::io::streams::{InputStream, StreamError};

use super::error::{Error, Fault};
use super::events::Events;

/// So much is read at a time.
const PIECE: u64 = 64 * 1024;

/// JSON has at most this many bytes; larger answers are read as they come.
#[cfg(feature = "json")]
const MAX_JSON: usize = 8 << 20;

/// An answer whose head is there.
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Body,
}

/// The body of an answer. Read as it comes, with [`Read`] or piece by piece. Dropped, it ends the exchange.
pub struct Body {
    // None after the end. The order is that of dropping: a stream goes before its body.
    stream: Option<InputStream>,
    left: Vec<u8>,
    _body: Option<IncomingBody>,
    // What was not sent when the answer came: not cut off before the answer is read.
    _unsent: Option<OutgoingBody>,
}

impl Response {
    pub(super) fn new(response: &IncomingResponse, unsent: Option<OutgoingBody>) -> Self {
        let status = response.status();
        let headers = response.headers().entries();
        let body = response.consume().ok();
        let stream = body.as_ref().and_then(|body| body.stream().ok());
        Self {
            status,
            headers,
            body: Body {
                stream,
                left: Vec::new(),
                _body: body,
                _unsent: unsent,
            },
        }
    }

    /// The status code.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// The first header field of this name, if it is text. The host lets those through that the grant lists.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// All header fields in order; names in lower case.
    #[must_use]
    pub fn headers(&self) -> &[(String, Vec<u8>)] {
        &self.headers
    }

    /// The body, to be read as it comes.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.body
    }

    /// Reads to the end of the answer and keeps nothing of it: an answer that is dropped before its end counts as abandoned.
    ///
    /// # Errors
    /// When the exchange fails.
    pub fn finish(mut self) -> Result<u16, Error> {
        while self.body.piece()?.is_some() {}
        Ok(self.status)
    }

    /// All of the body.
    ///
    /// # Errors
    /// When there are more bytes than `limit`, or the exchange fails.
    pub fn bytes(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while let Some(piece) = self.body.piece()? {
            if piece.len() > limit.saturating_sub(all.len()) {
                return Err(Error::TooLarge { limit });
            }
            all.extend(piece);
        }
        Ok(all)
    }

    /// All of the body as UTF-8.
    ///
    /// # Errors
    /// As [`Response::bytes`], and when it is not UTF-8.
    pub fn text(self, limit: usize) -> Result<String, Error> {
        String::from_utf8(self.bytes(limit)?)
            .map_err(|_| Error::Unreadable("expected text in UTF-8".to_owned()))
    }

    /// All of the body as JSON; at most 8 MiB.
    ///
    /// # Errors
    /// As [`Response::bytes`], and when it is not JSON of this shape.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<T, Error> {
        serde_json::from_slice(&self.bytes(MAX_JSON)?).map_err(|error| Error::Unreadable(error.to_string()))
    }

    /// The body as server-sent events.
    #[must_use]
    pub fn events(self) -> Events {
        Events::new(self.body)
    }
}

impl Body {
    /// The next piece, of at most 64 KiB; none at the end. Waits for it.
    ///
    /// # Errors
    /// When the exchange fails. After an error comes nothing.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if !self.left.is_empty() {
            return Ok(Some(std::mem::take(&mut self.left)));
        }
        loop {
            let Some(stream) = &self.stream else {
                return Ok(None);
            };
            let failed = match stream.blocking_read(PIECE) {
                Ok(piece) if piece.is_empty() => continue,
                Ok(piece) => return Ok(Some(piece)),
                Err(StreamError::Closed) => None,
                Err(StreamError::LastOperationFailed(error)) => {
                    let unknown = Error::Transport(Fault::Protocol);
                    Some(http_error_code(&error).map_or(unknown, |code| Error::of(&code)))
                }
            };
            self.stream = None;
            return failed.map_or(Ok(None), Err);
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let Some(mut piece) = self.piece()? else {
            return Ok(0);
        };
        let size = piece.len().min(buffer.len());
        self.left = piece.split_off(size);
        if let Some(into) = buffer.get_mut(..size) {
            into.copy_from_slice(&piece);
        }
        Ok(size)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}
