//! Requests through the SDK, as an agent's author writes them.

use std::io::Read;
use std::time::Duration;

use claviger_sdk::http::{Error, Request};

/// What a test is told.
type Said = Result<String, Error>;

/// Status and text.
pub(crate) fn send(method: &str, url: &str, body: &str) -> Said {
    let mut request = Request::new(method, url);
    if !body.is_empty() {
        request = request.body(body).header("content-type", "text/plain");
    }
    let response = request.send()?;
    let status = response.status();
    Ok(format!("{status} {}", response.text(1 << 20)?))
}

/// As it is, of this content type.
pub(crate) fn post(url: &str, content_type: &str, body: &str) -> Said {
    let response = Request::post(url)
        .body(body)
        .header("content-type", content_type)
        .send()?;
    let status = response.status();
    Ok(format!("{status} {}", response.text(1 << 20)?))
}

/// A field of a JSON answer to a JSON request.
pub(crate) fn json(url: &str) -> Said {
    let asked = std::collections::BTreeMap::from([("wanted", 7)]);
    let answered: std::collections::BTreeMap<String, u32> = Request::post(url).json(&asked).send()?.json()?;
    Ok(format!("{answered:?}"))
}

/// A body that is made as it is sent.
pub(crate) fn stream(url: &str, size: u64) -> Said {
    let body = std::io::repeat(b's').take(size);
    let response = Request::put(url).stream(body).send()?;
    let status = response.status();
    Ok(format!("{status} {}", response.text(1 << 20)?))
}

/// Reads with `std::io`, to the end or an error.
pub(crate) fn read(url: &str) -> Said {
    let mut body = Request::get(url).send()?.into_body();
    let mut buffer = [0; 1000];
    let mut count = 0;
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(format!("{count} bytes")),
            Ok(size) => count += size,
            Err(error) => return Ok(format!("{count} bytes, then {error}")),
        }
    }
}

/// Reads at most so much.
pub(crate) fn limited(url: &str, limit: usize) -> Said {
    Ok(format!("{} bytes", Request::get(url).send()?.bytes(limit)?.len()))
}

pub(crate) fn events(url: &str) -> Said {
    let events = Request::get(url)
        .header("accept", "text/event-stream")
        .send()?
        .events();
    let shown: Result<Vec<String>, Error> = events
        .map(|event| event.map(|event| format!("{}={}", event.event, event.data)))
        .collect();
    Ok(shown?.join(","))
}

pub(crate) fn timeout(url: &str, milliseconds: u64) -> Said {
    let response = Request::get(url)
        .timeout(Duration::from_millis(milliseconds))
        .send()?;
    Ok(response.status().to_string())
}

pub(crate) fn header(url: &str, name: &str, value: &str) -> Said {
    Ok(Request::get(url).header(name, value).send()?.status().to_string())
}
