//! An agent that sends what its input says, one command a line, and answers with one line for each. It uses `wasi:http` with no library
//! between, so that it can say what none would: what it tries is listed in [`obey`].

mod memory;
mod raw;
mod sdk;

use claviger_sdk::Error;

claviger_sdk::agent!(run);

#[expect(clippy::needless_pass_by_value, reason = "the agent is given its input")]
fn run(input: String) -> Result<String, Error> {
    let mut answers = Vec::new();
    for line in input.lines() {
        answers.push(obey(line)?);
    }
    Ok(answers.join("\n"))
}

/// What fails is an answer, so that a test can go on after it.
fn obey(line: &str) -> Result<String, Error> {
    let words: Vec<&str> = line.split(' ').collect();
    let said = |result: Result<String, String>| Ok(result.unwrap_or_else(|error| format!("failed {error}")));
    match words.as_slice() {
        ["get", url] => said(raw::get(url)),
        // METHOD SCHEME AUTHORITY PATH: `-` stands for none.
        ["send", method, scheme, authority, path] => said(raw::send(method, scheme, authority, path)),
        // Sets one field, the value in hexadecimal.
        ["field", url, name, value] => said(raw::field(url, name, value)),
        ["fields", url, count, size] => said(raw::fields(url, number(count)?, number(size)?)),
        ["long", what, size] => Ok(raw::long(what, number(size)?)),
        ["upload", url, size, piece] => said(raw::upload(url, number(size)?, number(piece)?, None)),
        ["upload-announced", url, size, announced] => {
            said(raw::upload(url, number(size)?, 65_536, Some(announced)))
        }
        ["upload-trailers", url] => said(raw::upload_trailers(url)),
        ["upload-abort", url] => said(raw::upload_abort(url)),
        ["upload-hang", url] => said(raw::upload_hang(url)),
        ["fill", url] => said(raw::fill(url)),
        ["watch", url] => said(raw::watch(url)),
        // Everything it has or ever had and did not write over.
        ["memory"] => memory::print(),
        ["download", url] => said(raw::download(url)),
        ["echo-pieces", url, count] => said(raw::echo_pieces(url, number(count)?)),
        ["trailers", url] => said(raw::trailers(url)),
        ["trailers-unread", url] => said(raw::trailers_unread(url)),
        ["cancel", url] => said(raw::cancel(url)),
        ["cancel-body", url] => said(raw::cancel_body(url)),
        ["timeouts", url, connect, first, between] => said(raw::timeouts(
            url,
            nanoseconds(connect)?,
            nanoseconds(first)?,
            nanoseconds(between)?,
        )),
        ["repeat", url, times] => said(raw::repeat(url, number(times)?)),
        ["hold", url, count] => said(raw::hold(url, number(count)?)),
        ["hold-fields", count] => Ok(raw::hold_fields(number(count)?)),
        ["hold-bodies", count] => Ok(raw::hold_bodies(number(count)?)),
        ["sdk", method, url] => shown(sdk::send(method, url, "")),
        ["sdk", method, url, body] => shown(sdk::send(method, url, body)),
        ["sdk-post", url, content_type, body] => shown(sdk::post(url, content_type, body)),
        ["sdk-json", url] => shown(sdk::json(url)),
        ["sdk-stream", url, size] => shown(sdk::stream(url, size.parse()?)),
        ["sdk-read", url] => shown(sdk::read(url)),
        ["sdk-limited", url, limit] => shown(sdk::limited(url, number(limit)?)),
        ["sdk-events", url] => shown(sdk::events(url)),
        ["sdk-timeout", url, milliseconds] => shown(sdk::timeout(url, milliseconds.parse()?)),
        ["sdk-header", url, name, value] => shown(sdk::header(url, name, value)),
        ["sdk-error", url] => Ok(match sdk::send("GET", url, "") {
            Ok(text) => text,
            Err(error) => format!("{error:?}"),
        }),
        other => Err(Error::Other(format!("the test agent has no command {other:?}"))),
    }
}

/// As whoever reads the agent's answer sees it.
fn shown(result: Result<String, claviger_sdk::http::Error>) -> Result<String, Error> {
    Ok(result.unwrap_or_else(|error| format!("failed: {error}")))
}

fn number(text: &str) -> Result<usize, Error> {
    text.parse()
        .map_err(|_| Error::Other(format!("expected a number, not {text:?}")))
}

/// `-` stands for none.
fn nanoseconds(text: &str) -> Result<Option<u64>, Error> {
    if text == "-" {
        return Ok(None);
    }
    Ok(Some(text.parse()?))
}
