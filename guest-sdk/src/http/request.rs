//! A request and its sending. Blocks the agent until the answer's head is there, and nothing else.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    Fields, FutureIncomingResponse, HeaderError, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme,
};
use wasip2::io::poll::poll;
use wasip2::io::streams::{OutputStream, StreamError};

use super::error::Error;
use super::response::Response;

/// So much is read of a body at a time.
const PIECE: usize = 64 * 1024;

/// A request that is being put together. What it may be, the grant says; what is wrong with it, [`Request::send`].
pub struct Request<'a> {
    method: Method,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Content<'a>,
    timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    problem: Option<Error>,
}

/// The body of a request.
enum Content<'a> {
    Empty,
    Whole(Vec<u8>),
    Stream(Box<dyn Read + 'a>),
}

impl<'a> Request<'a> {
    /// A request with this method.
    #[must_use]
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            other => Method::Other(other.to_owned()),
        };
        Self {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: Content::Empty,
            timeout: None,
            idle_timeout: None,
            problem: None,
        }
    }

    /// `GET`.
    #[must_use]
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// `HEAD`.
    #[must_use]
    pub fn head(url: impl Into<String>) -> Self {
        Self::new("HEAD", url)
    }

    /// `POST`.
    #[must_use]
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// `PUT`.
    #[must_use]
    pub fn put(url: impl Into<String>) -> Self {
        Self::new("PUT", url)
    }

    /// `PATCH`.
    #[must_use]
    pub fn patch(url: impl Into<String>) -> Self {
        Self::new("PATCH", url)
    }

    /// `DELETE`.
    #[must_use]
    pub fn delete(url: impl Into<String>) -> Self {
        Self::new("DELETE", url)
    }

    /// Adds a header field. The grant lists which an agent may set; those that authenticate are the host's.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sends these bytes.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Content::Whole(body.into());
        self
    }

    /// Sends this as JSON, with its content type.
    #[cfg(feature = "json")]
    #[must_use]
    pub fn json(mut self, value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.header("content-type", "application/json").body(body),
            Err(error) => {
                self.problem = Some(Error::Unsendable(error.to_string()));
                self
            }
        }
    }

    /// Sends what this gives, as it is read: a body of any size takes 64 KiB of memory.
    #[must_use]
    pub fn stream(mut self, body: impl Read + 'a) -> Self {
        self.body = Content::Stream(Box::new(body));
        self
    }

    /// Waits at most this long for the answer's head. The grant's own timeout holds as well.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Waits at most this long for each piece of the answer's body.
    #[must_use]
    pub const fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Sends it and waits for the answer's head. An answer with any status is one, also a redirect or an error.
    ///
    /// # Errors
    /// When the host refuses, the exchange fails, the request cannot be put into words, or the stream of its body fails.
    pub fn send(mut self) -> Result<Response, Error> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let body = std::mem::replace(&mut self.body, Content::Empty);
        if let Content::Whole(bytes) = &body {
            let length = bytes.len().to_string();
            self.headers
                .retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
            self.headers
                .push(("content-length".to_owned(), length.into_bytes()));
        }
        let request = self.assemble()?;
        let options = self.options()?;
        let out = match body {
            Content::Empty => None,
            Content::Whole(_) | Content::Stream(_) => Some(request.body().map_err(|()| odd())?),
        };
        let answer = handle(request, options).map_err(|code| Error::of(&code))?;
        let unsent = match (body, out) {
            (Content::Whole(bytes), Some(out)) => upload(bytes.as_slice(), out, &answer)?,
            (Content::Stream(read), Some(out)) => upload(read, out, &answer)?,
            (Content::Empty | Content::Whole(_) | Content::Stream(_), _) => None,
        };
        answer.subscribe().block();
        Ok(Response::new(&taken(&answer)?, unsent))
    }

    fn assemble(&mut self) -> Result<OutgoingRequest, Error> {
        let fields = Fields::new();
        for (name, value) in &self.headers {
            fields.append(name, value).map_err(|error| match error {
                HeaderError::Forbidden => unsendable("the host sets this header field", name),
                HeaderError::InvalidSyntax | HeaderError::Immutable => {
                    unsendable("this is no header field", name)
                }
            })?;
        }
        let (scheme, authority, path) =
            split(&self.url).ok_or_else(|| unsendable("this is no absolute URL", &self.url))?;
        let request = OutgoingRequest::new(fields);
        let no_url = |()| unsendable("this is no URL", &self.url);
        request
            .set_method(&self.method)
            .map_err(|()| Error::Unsendable("this is no method".to_owned()))?;
        request.set_scheme(Some(&scheme)).map_err(no_url)?;
        request.set_authority(Some(authority)).map_err(no_url)?;
        request.set_path_with_query(Some(path)).map_err(no_url)?;
        Ok(request)
    }

    fn options(&self) -> Result<Option<RequestOptions>, Error> {
        if self.timeout.is_none() && self.idle_timeout.is_none() {
            return Ok(None);
        }
        let nanoseconds = |timeout: Option<Duration>| {
            timeout.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
        };
        let options = RequestOptions::new();
        options
            .set_first_byte_timeout(nanoseconds(self.timeout))
            .map_err(|()| odd())?;
        options
            .set_between_bytes_timeout(nanoseconds(self.idle_timeout))
            .map_err(|()| odd())?;
        Ok(Some(options))
    }
}

/// Scheme, authority, and path with query. Nothing is decoded or completed: the host accepts one spelling.
fn split(url: &str) -> Option<(Scheme, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        other => Scheme::Other(other.to_owned()),
    };
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(at)?;
    Some((scheme, authority, path))
}

fn unsendable(why: &str, what: &str) -> Error {
    Error::Unsendable(format!("{why}: {what:?}"))
}

/// What a host of `wasi:http` does not do.
fn odd() -> Error {
    Error::Unsendable("the host does not take the request".to_owned())
}

fn taken(answer: &FutureIncomingResponse) -> Result<IncomingResponse, Error> {
    match answer.get() {
        Some(Ok(Ok(response))) => Ok(response),
        Some(Ok(Err(code))) => Err(Error::of(&code)),
        Some(Err(())) | None => Err(odd()),
    }
}

/// Writes all of it, or what is taken before the answer is there: then the rest of the body is given back, for as long as the answer is
/// read.
fn upload(
    mut body: impl Read,
    out: OutgoingBody,
    answer: &FutureIncomingResponse,
) -> Result<Option<OutgoingBody>, Error> {
    let stream = out.write().map_err(|()| odd())?;
    let mut piece = vec![0; PIECE];
    loop {
        let size = match body.read(&mut piece) {
            Ok(size) => size,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Unsendable(error.to_string())),
        };
        if size == 0 {
            drop(stream);
            return match OutgoingBody::finish(out, None) {
                Ok(()) => Ok(None),
                Err(code) => Err(Error::of(&code)),
            };
        }
        match write(&stream, piece.get(..size).unwrap_or_default(), answer) {
            Written::All => {}
            Written::Answered => {
                drop(stream);
                return Ok(Some(out));
            }
        }
    }
}

/// What became of a piece.
enum Written {
    All,
    /// Nobody takes more: the answer, or the error in its place, says why.
    Answered,
}

fn write(stream: &OutputStream, mut piece: &[u8], answer: &FutureIncomingResponse) -> Written {
    let room = stream.subscribe();
    let answered = answer.subscribe();
    while !piece.is_empty() {
        match stream.check_write() {
            Ok(0) => {
                let ready = poll(&[&room, &answered]);
                if !ready.contains(&0) {
                    return Written::Answered;
                }
            }
            Ok(size) => {
                let size = usize::try_from(size).unwrap_or(usize::MAX).min(piece.len());
                let (now, later) = piece.split_at(size);
                match stream.write(now) {
                    Ok(()) => piece = later,
                    Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => {
                        return Written::Answered;
                    }
                }
            }
            Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => return Written::Answered,
        }
    }
    Written::All
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_cut_and_not_changed() {
        let cut = |url| split(url).map(|(_, authority, path)| (authority, path));
        assert_eq!(cut("https://h:8443/a?b=c"), Some(("h:8443", "/a?b=c")));
        assert_eq!(cut("https://h"), Some(("h", "")));
        assert_eq!(cut("https://h?x"), Some(("h", "?x")));
        assert_eq!(cut("https://user@h/%2e"), Some(("user@h", "/%2e")));
        assert_eq!(cut("/a"), None);
    }
}
