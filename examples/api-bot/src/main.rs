//! Reads issues from an API and posts a report, with an ordinary HTTP library. Not trusted by anyone: it never has the token that the API
//! insists on, and what it may request is in `manifest.toml`.
//!
//! Its input is the API's origin. With `probe` after it, or as an argument, it tries what nobody granted it and says what came of that.
#![expect(clippy::print_stdout, reason = "it is a command")]

use std::io::Read as _;

use serde_json::{Value, json};
use wstd::http::{Body, Client, Error, Request, Response};

fn main() -> Result<(), Error> {
    wstd::runtime::block_on(run())
}

async fn run() -> Result<(), Error> {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    let mut words = input.split_whitespace();
    let origin = words.next().unwrap_or("https://api.example.com");
    if words.any(|word| word == "probe") || std::env::args().any(|argument| argument == "probe") {
        for (what, outcome) in probe(origin).await {
            println!("{what}: {outcome}");
        }
        return Ok(());
    }
    println!("{}", report(origin).await?);
    Ok(())
}

/// Counts the open issues and posts what it found.
async fn report(origin: &str) -> Result<String, Error> {
    let issues: Value = get(&format!("{origin}/issues?state=open"))
        .await?
        .body_mut()
        .json()
        .await?;
    let titles: Vec<&str> = issues
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|issue| issue.pointer("/title")?.as_str())
        .collect();
    let report = json!({ "open": titles.len(), "titles": titles });
    let request = Request::post(format!("{origin}/reports"))
        .header("content-type", "application/json")
        .body(Body::from_json(&report)?)?;
    let answer = Client::new().send(request).await?;
    Ok(format!(
        "reported {} open issues: {}",
        titles.len(),
        answer.status()
    ))
}

async fn get(url: &str) -> Result<Response<Body>, Error> {
    Client::new().send(Request::get(url).body(Body::empty())?).await
}

/// What a malicious agent would do next. Each attempt gives one line.
async fn probe(origin: &str) -> Vec<(&'static str, String)> {
    let host = origin.trim_start_matches("https://");
    vec![
        ("another path", tried(get(&format!("{origin}/admin")).await)),
        ("another method", tried(delete(&format!("{origin}/issues")).await)),
        ("another host", tried(get("https://evil.example/issues").await)),
        (
            "the cloud's metadata",
            tried(get("http://169.254.169.254/latest/meta-data/").await),
        ),
        ("without TLS", tried(get(&format!("http://{host}/issues")).await)),
        (
            "dots in the path",
            tried(get(&format!("{origin}/issues/../admin")).await),
        ),
        (
            "encoded dots",
            tried(get(&format!("{origin}/issues/%2e%2e/admin")).await),
        ),
        (
            "a query of its own",
            tried(get(&format!("{origin}/issues?token=all")).await),
        ),
        (
            "a token of its own",
            tried(get_with(&format!("{origin}/issues"), "authorization", "Bearer guess").await),
        ),
        (
            "another content type",
            tried(post(&format!("{origin}/reports"), "text/html", "<script>").await),
        ),
        (
            "where a redirect leads",
            followed(&format!("{origin}/moved")).await,
        ),
        // Last: an API that repeats what it was sent, token included.
        ("an echo of the token", echoed(&format!("{origin}/debug")).await),
    ]
}

async fn delete(url: &str) -> Result<Response<Body>, Error> {
    Client::new()
        .send(Request::delete(url).body(Body::empty())?)
        .await
}

async fn get_with(url: &str, name: &str, value: &str) -> Result<Response<Body>, Error> {
    let request = Request::get(url).header(name, value).body(Body::empty())?;
    Client::new().send(request).await
}

async fn post(url: &str, kind: &str, text: &'static str) -> Result<Response<Body>, Error> {
    let request = Request::post(url)
        .header("content-type", kind)
        .body(Body::from(text))?;
    Client::new().send(request).await
}

/// Goes where an answer says, as a client that follows redirects would.
async fn followed(url: &str) -> String {
    let answer = match get(url).await {
        Ok(answer) => answer,
        Err(why) => return format!("refused, {why}"),
    };
    match answer
        .headers()
        .get("location")
        .and_then(|there| there.to_str().ok())
    {
        Some(there) => tried(get(there).await),
        None => "refused, there was no redirect".to_owned(),
    }
}

/// Reads an answer to its end: what the API repeats is in it.
async fn echoed(url: &str) -> String {
    let answer = match get(url).await {
        Ok(mut answer) => answer.body_mut().str_contents().await.map(str::len),
        Err(why) => Err(why),
    };
    match answer {
        Ok(length) => format!("SUCCEEDED with {length} bytes, and must not have"),
        Err(why) => format!("refused, {why}"),
    }
}

fn tried(outcome: Result<Response<Body>, Error>) -> String {
    match outcome {
        Ok(answer) => format!("SUCCEEDED with {}, and must not have", answer.status()),
        Err(why) => format!("refused, {why}"),
    }
}
