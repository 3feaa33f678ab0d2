//! A small HTTPS API on this machine that insists on a bearer token: what `api-bot` talks to where there is no network. Not a server to
//! expose: it keeps nothing, and one of its answers repeats the token, as careless APIs do.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example that says what it was asked")]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

/// A report has at most this many bytes.
const MAX_REPORT: usize = 64 * 1024;

type Answer = Response<Full<Bytes>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(
        std::env::args_os()
            .nth(1)
            .context("expected a folder: `local-api FOLDER`")?,
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let (acceptor, authority) = tls()?;
    let token = Arc::new(made_up_token()?);
    write(&folder, "manifest.toml", &manifest(port, &authority))?;
    write(&folder, "api-token", &token)?;
    // Last: whoever waits for this file finds the others.
    write(&folder, "api-origin", &format!("https://localhost:{port}"))?;
    println!(
        "https://localhost:{port} is up; its token is in {}",
        folder.join("api-token").display()
    );
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, token) = (acceptor.clone(), Arc::clone(&token));
        tokio::spawn(async move {
            // A client that breaks off is the client's affair.
            if let Ok(stream) = acceptor.accept(stream).await {
                let answer = service_fn(|request| answered(request, &token));
                let served =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                drop(served.await);
            }
        });
    }
}

/// What the API does, one line a request.
async fn answered(request: Request<Incoming>, token: &str) -> Result<Answer, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let authorised = request
        .headers()
        .get(AUTHORIZATION)
        .is_some_and(|value| value.as_bytes() == format!("Bearer {token}").as_bytes());
    let answer = if authorised {
        known(request).await
    } else {
        answer(
            StatusCode::UNAUTHORIZED,
            &json!({ "error": "a bearer token is needed" }),
        )
    };
    println!("{method} {path}: {}", answer.status().as_u16());
    Ok(answer)
}

async fn known(request: Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/issues") => answer(StatusCode::OK, &issues(request.uri().query())),
        (&Method::POST, "/reports") => posted(request).await,
        (&Method::DELETE, path) if path.starts_with("/issues/") => {
            answer(StatusCode::OK, &json!({ "deleted": true }))
        }
        // What careless APIs do: repeat what they were sent.
        (&Method::GET, "/debug") => {
            let fields = request.headers().iter().map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.to_string(), Value::String(value))
            });
            answer(StatusCode::OK, &Value::Object(fields.collect()))
        }
        (&Method::GET, "/moved") => {
            let mut moved = answer(StatusCode::FOUND, &json!({}));
            moved
                .headers_mut()
                .insert(LOCATION, HeaderValue::from_static("https://evil.example/collect"));
            moved
        }
        _ => answer(
            StatusCode::NOT_FOUND,
            &json!({ "error": "there is no such thing" }),
        ),
    }
}

/// All issues, or with `state=open` the open ones.
fn issues(query: Option<&str>) -> Value {
    let open = query == Some("state=open");
    let all = [
        (1, "The build is slow", "open"),
        (2, "The log is loud", "open"),
        (3, "The door is open", "closed"),
    ];
    all.iter()
        .filter(|(_, _, state)| !open || *state == "open")
        .map(|(number, title, state)| json!({ "number": number, "title": title, "state": state }))
        .collect()
}

async fn posted(request: Request<Incoming>) -> Answer {
    let body = Limited::new(request.into_body(), MAX_REPORT).collect().await;
    let report = body
        .ok()
        .and_then(|body| serde_json::from_slice::<Value>(&body.to_bytes()).ok());
    match report.as_ref().and_then(|report| report.get("open")?.as_u64()) {
        Some(open) => answer(StatusCode::CREATED, &json!({ "id": 1, "open": open })),
        None => answer(
            StatusCode::BAD_REQUEST,
            &json!({ "error": "a report says how many issues are `open`" }),
        ),
    }
}

fn answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// A certificate for `localhost` and the authority that issued it, both made up now.
fn tls() -> anyhow::Result<(TlsAcceptor, String)> {
    let mut authority = rcgen::CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(rcgen::DnType::CommonName, "local-api");
    let authority_key = rcgen::KeyPair::generate()?;
    let issued = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )?;
    Ok((TlsAcceptor::from(Arc::new(config)), issued.pem()))
}

/// 32 random bytes as hexadecimal.
fn made_up_token() -> anyhow::Result<String> {
    use rand_core::RngCore as _;
    let mut bytes = [0; 32];
    rand_core::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(hex::encode(bytes))
}

/// The manifest of an agent that may read issues and post reports here.
fn manifest(port: u16, authority: &str) -> String {
    include_str!("../manifest.toml.in")
        .replace("{origin}", &format!("https://localhost:{port}"))
        .replace("{authority}", authority.trim_end())
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let (new, path) = (folder.join(format!("{name}.new")), folder.join(name));
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}
