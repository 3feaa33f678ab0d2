//! Requests put together by hand.

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, RequestOptions, Scheme, http_error_code,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// What a test is told.
type Said = Result<String, String>;

/// A request for a URL, cut into what `wasi:http` wants.
fn request(method: &Method, url: &str, fields: Fields) -> Result<OutgoingRequest, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let request = OutgoingRequest::new(fields);
    request.set_method(method).map_err(|()| "method")?;
    request
        .set_scheme(Some(&scheme_of(scheme)))
        .map_err(|()| "scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "authority")?;
    request
        .set_path_with_query(Some(path))
        .map_err(|()| "path-with-query")?;
    Ok(request)
}

fn scheme_of(text: &str) -> Scheme {
    match text {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    }
}

/// Waits for an answer.
fn wait(future: &FutureIncomingResponse) -> Result<IncomingResponse, String> {
    future.subscribe().block();
    future
        .get()
        .ok_or("not ready")?
        .map_err(|()| "taken")?
        .map_err(|code| said(&code))
}

fn sent(request: OutgoingRequest) -> Result<IncomingResponse, String> {
    wait(&handle(request, None).map_err(|code| said(&code))?)
}

fn said(code: &ErrorCode) -> String {
    format!("{code:?}")
}

/// Reads a piece; none at the end.
fn read(stream: &InputStream) -> Result<Option<Vec<u8>>, String> {
    match stream.blocking_read(65_536) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StreamError::Closed) => Ok(None),
        Err(StreamError::LastOperationFailed(error)) => Err(format!(
            "{:?} {}",
            http_error_code(&error),
            error.to_debug_string()
        )),
    }
}

fn body(response: &IncomingResponse) -> Result<(IncomingBody, InputStream), String> {
    let body = response.consume().map_err(|()| "consumed")?;
    let stream = body.stream().map_err(|()| "streamed")?;
    Ok((body, stream))
}

fn text(response: &IncomingResponse) -> Said {
    let (_body, stream) = body(response)?;
    let mut all = Vec::new();
    while let Some(piece) = read(&stream)? {
        all.extend(piece);
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

fn shown(fields: &Fields) -> String {
    let mut shown: Vec<String> = fields
        .entries()
        .iter()
        .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
        .collect();
    shown.sort();
    shown.join(";")
}

/// Status, header fields and text.
pub(crate) fn get(url: &str) -> Said {
    let response = sent(request(&Method::Get, url, Fields::new())?)?;
    let text = text(&response)?;
    Ok(format!(
        "{} [{}] {text}",
        response.status(),
        shown(&response.headers())
    ))
}

/// What each setter says, and then what the host does.
pub(crate) fn send(method: &str, scheme: &str, authority: &str, path: &str) -> Said {
    let given = |text: &str| (text != "-").then(|| text.to_owned());
    let request = OutgoingRequest::new(Fields::new());
    let method = match method {
        "GET" => Method::Get,
        "CONNECT" => Method::Connect,
        other => Method::Other(other.to_owned()),
    };
    request.set_method(&method).map_err(|()| "at method")?;
    let scheme = given(scheme).map(|scheme| scheme_of(&scheme));
    request.set_scheme(scheme.as_ref()).map_err(|()| "at scheme")?;
    request
        .set_authority(given(authority).as_deref())
        .map_err(|()| "at authority")?;
    request
        .set_path_with_query(given(path).as_deref())
        .map_err(|()| "at path")?;
    Ok(format!("status {}", sent(request)?.status()))
}

/// A request with one field more.
pub(crate) fn field(url: &str, name: &str, value: &str) -> Said {
    let value: Vec<u8> = value
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let fields = Fields::new();
    fields
        .append(name, &value)
        .map_err(|error| format!("at field: {error:?}"))?;
    Ok(format!(
        "status {}",
        sent(request(&Method::Get, url, fields)?)?.status()
    ))
}

/// A request with many fields.
pub(crate) fn fields(url: &str, count: usize, size: usize) -> Said {
    let fields = Fields::new();
    for number in 0..count {
        fields
            .append(&format!("x-{number}"), &vec![b'a'; size])
            .map_err(|error| format!("at field {number}: {error:?}"))?;
    }
    Ok(format!(
        "status {}",
        sent(request(&Method::Get, url, fields)?)?.status()
    ))
}

/// Keeps as many requests with something long as the host takes.
pub(crate) fn long(what: &str, size: usize) -> String {
    let text = "a".repeat(size);
    let mut kept = Vec::new();
    for _ in 0..500 {
        let request = OutgoingRequest::new(Fields::new());
        let set = match what {
            "method" => request.set_method(&Method::Other(text.clone())),
            "scheme" => request.set_scheme(Some(&Scheme::Other(text.clone()))),
            "authority" => request.set_authority(Some(&text)),
            _ => request.set_path_with_query(Some(&format!("/{text}"))),
        };
        if set.is_err() {
            return format!("refused after {}", kept.len());
        }
        kept.push(request);
    }
    format!("kept {}", kept.len())
}

/// Writes all of these bytes, as many at a time as the host takes.
fn write(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        let ready = stream.subscribe();
        let room = loop {
            match stream.check_write() {
                Ok(0) => ready.block(),
                Ok(room) => break usize::try_from(room).unwrap_or(usize::MAX),
                Err(error) => return Err(failed(&error)),
            }
        };
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        stream.write(now).map_err(|error| failed(&error))?;
        bytes = later;
    }
    Ok(())
}

fn failed(error: &StreamError) -> String {
    match error {
        StreamError::Closed => "write: closed".to_owned(),
        StreamError::LastOperationFailed(error) => format!("write: {:?}", http_error_code(error)),
    }
}

/// A request that is being sent, and its body.
fn begin(url: &str, fields: Fields) -> Result<(FutureIncomingResponse, OutgoingBody), String> {
    let request = request(&Method::Post, url, fields)?;
    let body = request.body().map_err(|()| "no body")?;
    Ok((handle(request, None).map_err(|code| said(&code))?, body))
}

/// Sends a body of this size and waits for the answer, also if nobody reads the body.
pub(crate) fn upload(url: &str, size: usize, piece: usize, announced: Option<&str>) -> Said {
    let fields = Fields::new();
    if let Some(announced) = announced {
        fields
            .append("content-length", announced.as_bytes())
            .map_err(|error| format!("at field: {error:?}"))?;
    }
    let (future, body) = begin(url, fields)?;
    let mut written = Ok(());
    let stream = body.write().map_err(|()| "no stream")?;
    let bytes = vec![b'u'; piece];
    let mut left = size;
    while left > 0 && written.is_ok() {
        let now = bytes.get(..left).unwrap_or(&bytes);
        written = write(&stream, now);
        left -= now.len();
    }
    drop(stream);
    let finished = OutgoingBody::finish(body, None).map_err(|code| said(&code));
    let text = wait(&future).and_then(|response| text(&response));
    Ok(format!("{written:?} {finished:?} {text:?}"))
}

pub(crate) fn upload_trailers(url: &str) -> Said {
    let (future, body) = begin(url, Fields::new())?;
    let stream = body.write().map_err(|()| "no stream")?;
    write(&stream, b"content")?;
    drop(stream);
    let trailers = Fields::new();
    let host = trailers.append("host", b"evil.test");
    let plain = trailers.append("x-after", b"1");
    OutgoingBody::finish(body, Some(trailers)).map_err(|code| said(&code))?;
    let text = text(&wait(&future)?)?;
    Ok(format!("{host:?} {plain:?} {text}"))
}

/// Drops a body in its middle.
pub(crate) fn upload_abort(url: &str) -> Said {
    let (future, body) = begin(url, Fields::new())?;
    let stream = body.write().map_err(|()| "no stream")?;
    write(&stream, b"half of it")?;
    drop(stream);
    drop(body);
    wait(&future).map(|response| format!("status {}", response.status()))
}

/// Writes a part of a body and never goes on.
pub(crate) fn upload_hang(url: &str) -> Said {
    let (future, body) = begin(url, Fields::new())?;
    let stream = body.write().map_err(|()| "no stream")?;
    write(&stream, b"half of it")?;
    wait(&future).map(|response| format!("status {}", response.status()))
}

/// Writes as long as the host takes something within a while, and says how much that was.
pub(crate) fn fill(url: &str) -> Said {
    let (_future, body) = begin(url, Fields::new())?;
    let stream = body.write().map_err(|()| "no stream")?;
    let ready = stream.subscribe();
    let mut taken = 0;
    loop {
        match stream.check_write().map_err(|error| failed(&error))? {
            0 => {
                let later = wasip2::clocks::monotonic_clock::subscribe_duration(100_000_000);
                if !wasip2::io::poll::poll(&[&ready, &later]).contains(&0) {
                    return Ok(format!("{taken}"));
                }
            }
            room => {
                let bytes = vec![0; usize::try_from(room).unwrap_or(0)];
                stream.write(&bytes).map_err(|error| failed(&error))?;
                taken += room;
            }
        }
    }
}

/// Counts a body's bytes up to its end or its error.
pub(crate) fn download(url: &str) -> Said {
    let response = sent(request(&Method::Get, url, Fields::new())?)?;
    let (_body, stream) = body(&response)?;
    let mut count = 0_u64;
    loop {
        match read(&stream) {
            Ok(Some(piece)) => count += piece.len() as u64,
            Ok(None) => return Ok(format!("{count} bytes")),
            Err(error) => return Ok(format!("{count} bytes, then {error}")),
        }
    }
}

/// As `download`, and prints a line when the first piece is there.
#[expect(clippy::print_stdout, reason = "whoever watches acts on it")]
pub(crate) fn watch(url: &str) -> Said {
    let response = sent(request(&Method::Get, url, Fields::new())?)?;
    let (_body, stream) = body(&response)?;
    let mut count = 0;
    loop {
        match read(&stream) {
            Ok(Some(piece)) => {
                if count == 0 {
                    println!("1");
                }
                count += piece.len();
            }
            Ok(None) => return Ok(format!("{count} bytes")),
            Err(error) => return Ok(format!("{count} bytes, then {error}")),
        }
    }
}

/// Sends so many pieces, each after the one before has come back.
pub(crate) fn echo_pieces(url: &str, count: usize) -> Said {
    let (future, out) = begin(url, Fields::new())?;
    let writer = out.write().map_err(|()| "no stream")?;
    write(&writer, b"piece")?;
    let response = wait(&future)?;
    let (_body, reader) = body(&response)?;
    for number in 0..count {
        let mut back = 0;
        while back < 5 {
            back += read(&reader)?.ok_or("ended")?.len();
        }
        if number + 1 < count {
            write(&writer, b"piece")?;
        }
    }
    drop(writer);
    OutgoingBody::finish(out, None).map_err(|code| said(&code))?;
    match read(&reader)? {
        None => Ok(format!("{count} pieces")),
        Some(more) => Err(format!("{} bytes too many", more.len())),
    }
}

pub(crate) fn trailers(url: &str) -> Said {
    let response = sent(request(&Method::Get, url, Fields::new())?)?;
    let (body, stream) = body(&response)?;
    while read(&stream)?.is_some() {}
    drop(stream);
    let future = IncomingBody::finish(body);
    future.subscribe().block();
    match future.get().ok_or("not ready")?.map_err(|()| "taken")? {
        Ok(Some(trailers)) => Ok(shown(&trailers)),
        Ok(None) => Ok("none".to_owned()),
        Err(code) => Err(said(&code)),
    }
}

/// Asks for the trailers of a body that it does not read.
pub(crate) fn trailers_unread(url: &str) -> Said {
    let response = sent(request(&Method::Get, url, Fields::new())?)?;
    let future = IncomingBody::finish(response.consume().map_err(|()| "consumed")?);
    future.subscribe().block();
    Ok(match future.get().ok_or("not ready")?.map_err(|()| "taken")? {
        Ok(Some(trailers)) => shown(&trailers),
        Ok(None) => "none".to_owned(),
        Err(code) => said(&code),
    })
}

/// Gives up before there is an answer.
pub(crate) fn cancel(url: &str) -> Said {
    let future = handle(request(&Method::Get, url, Fields::new())?, None).map_err(|code| said(&code))?;
    let ready = future.subscribe();
    // Long enough that the host has begun: it answers in the same moment that it would be done.
    let later = wasip2::clocks::monotonic_clock::subscribe_duration(20_000_000);
    wasip2::io::poll::poll(&[&ready, &later]);
    drop(ready);
    drop(future);
    Ok("cancelled".to_owned())
}

/// Gives up after the first piece.
pub(crate) fn cancel_body(url: &str) -> Said {
    let response = sent(request(&Method::Get, url, Fields::new())?)?;
    let (body, stream) = body(&response)?;
    let first = read(&stream)?.map_or(0, |piece| piece.len());
    drop(stream);
    drop(body);
    drop(response);
    Ok(format!("cancelled after {first}"))
}

pub(crate) fn timeouts(url: &str, connect: Option<u64>, first: Option<u64>, between: Option<u64>) -> Said {
    let options = RequestOptions::new();
    options.set_connect_timeout(connect).map_err(|()| "connect")?;
    options.set_first_byte_timeout(first).map_err(|()| "first")?;
    options
        .set_between_bytes_timeout(between)
        .map_err(|()| "between")?;
    let request = request(&Method::Get, url, Fields::new())?;
    let response = wait(&handle(request, Some(options)).map_err(|code| said(&code))?)?;
    text(&response)
}

/// Sends one after the other, each with options, and says how many were answered.
pub(crate) fn repeat(url: &str, times: usize) -> Said {
    for number in 0..times {
        timeouts(url, Some(u64::MAX), Some(u64::MAX), Some(u64::MAX))
            .map_err(|error| format!("{error} at {number}"))?;
    }
    Ok(format!("{times} answered"))
}

/// Sends so many at once, then waits for each.
pub(crate) fn hold(url: &str, count: usize) -> Said {
    let mut futures = Vec::new();
    for _ in 0..count {
        futures.push(handle(request(&Method::Get, url, Fields::new())?, None).map_err(|code| said(&code))?);
    }
    let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
    for future in futures {
        let outcome = match wait(&future) {
            Ok(response) => response.status().to_string(),
            Err(error) => error,
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    Ok(format!("{outcomes:?}"))
}

pub(crate) fn hold_fields(count: usize) -> String {
    let held: Vec<Fields> = (0..count).map(|_| Fields::new()).collect();
    format!("held {}", held.len())
}

/// Fills so many bodies that nobody reads.
pub(crate) fn hold_bodies(count: usize) -> String {
    let mut held = Vec::new();
    for _ in 0..count {
        let request = OutgoingRequest::new(Fields::new());
        let Ok(body) = request.body() else { break };
        let Ok(stream) = body.write() else { break };
        while let Ok(room @ 1..) = stream.check_write() {
            if stream
                .write(&vec![0; usize::try_from(room).unwrap_or(0)])
                .is_err()
            {
                break;
            }
        }
        held.push((stream, body, request));
    }
    format!("held {}", held.len())
}
