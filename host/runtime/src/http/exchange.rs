//! One request on its way to the broker and back. Decides nothing: a head that is too large is the broker's to refuse, and to log.

use std::sync::Arc;
use std::time::Duration;

use claviger_core::egress::{Fault, MAX_HEAD, RequestHead, SendError};
use claviger_core::{Broker, InstanceId, Refusal};
use http::{HeaderMap, Response, header};
use wasmtime::component::Resource;
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Method, Scheme};
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::life::Life;
use super::{HttpView, download, upload};

/// `wasi:http/outgoing-handler.handle`. The options go, as the request does: wasmtime-wasi-http would keep them to the end.
pub(super) fn handle(
    view: &mut HttpView<'_>,
    request: Resource<HostOutgoingRequest>,
    options: Option<Resource<RequestOptions>>,
) -> wasmtime::Result<Result<Resource<HostFutureIncomingResponse>, ErrorCode>> {
    let options = match options {
        Some(options) => view.table.delete(options)?,
        None => RequestOptions::default(),
    };
    let request = view.table.delete(request)?;
    let head = head(&request);
    let exchange = Exchange {
        broker: view.ctx.broker.clone(),
        instance: view.ctx.instance,
        head,
        body: request.body,
        announced: announced(&request.headers),
        options,
        life: view.ctx.life.clone(),
    };
    let answer = HostFutureIncomingResponse::Pending(spawn(exchange.run()));
    Ok(Ok(view.table.push(answer)?))
}

/// Whether the agent says that there are bytes in its body. What it says, and whether that can be, is the broker's.
fn announced(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .any(|value| value.as_bytes().iter().any(|byte| *byte != b'0'))
}

/// The agent's words, put together. Nothing is made of them: a scheme, an authority or a path that is none is the broker's to refuse.
fn head(request: &HostOutgoingRequest) -> RequestHead {
    let method = match &request.method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(other) => other,
    };
    let scheme = match &request.scheme {
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) | None => "https",
        Some(Scheme::Other(other)) => other,
    };
    let authority = request.authority.as_deref().unwrap_or_default();
    let path = request.path_with_query.as_deref().unwrap_or_default();
    // Whatever the path is, it cannot become part of the authority.
    let slash = if path.starts_with('/') { "" } else { "/" };
    RequestHead {
        method: method.to_owned(),
        url: format!("{scheme}://{authority}{slash}{path}"),
        headers: fields(&request.headers),
    }
}

/// Header fields in order.
pub(super) fn fields(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

/// A request that is being sent. Dropped, it is abandoned.
struct Exchange {
    broker: Arc<dyn Broker>,
    instance: InstanceId,
    head: RequestHead,
    body: Option<WasiBody>,
    announced: bool,
    options: RequestOptions,
    life: Arc<Life>,
}

/// What wasmtime-wasi-http waits for: the answer, and a task that works on it, of which there is none.
type Answered = Result<(Response<WasiBody>, AbortOnDropJoinHandle<()>), Error>;

impl Exchange {
    async fn run(self) -> Answered {
        let patience = patience(&self.options);
        let between = self.options.between_bytes_timeout;
        let life = self.life.clone();
        let oversized = self.head.size() > MAX_HEAD;
        let answering = async {
            let body = match self.body {
                Some(body) => upload::stream(body, self.announced, self.life.clone()).await?,
                None => None,
            };
            self.broker.send(self.instance, self.head, body).await
        };
        let answer = match patience {
            Some(patience) => tokio::time::timeout(patience, answering)
                .await
                .unwrap_or_else(|_elapsed| Err(Fault::Timeout.into())),
            None => answering.await,
        };
        let answer = answer.map_err(|error| match error {
            // Nothing else was looked at; `wasi:http` has a word for this.
            SendError::Refused {
                refusal: Refusal::Invalid,
                grant: None,
            } if oversized => Error::HttpRequestHeaderSectionSize(u32::try_from(MAX_HEAD).ok()),
            error => super::failed(&error),
        })?;
        let response = download::response(answer, between, life)?;
        Ok((response, spawn(async {})))
    }
}

/// How long the agent wants to wait for an answer's head. A connection is not told from what follows it: the times add up. An agent that
/// only says how long to wait for a connection waits as long as its grant allows.
fn patience(options: &RequestOptions) -> Option<Duration> {
    let connect = options.connect_timeout.unwrap_or_default();
    options
        .first_byte_timeout
        .map(|first| first.saturating_add(connect))
}
