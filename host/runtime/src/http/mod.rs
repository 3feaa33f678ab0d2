//! `wasi:http` for an agent: any HTTP library of any language works unchanged, and each request goes to the broker. Opens no connection
//! and decides nothing: there are bounds here, and the way from the agent's words to [`RequestHead`] and back.
//!
//! Nothing of wasmtime-wasi-http that sends is linked, nor compiled in. Of its types, what an agent could size without a bound is
//! bounded in `link`. Why version 0.2 and not 0.3: docs/adr/0008-requests-through-wasi-http.md.

mod download;
mod error;
mod exchange;
mod life;
mod link;
mod upload;

use std::fmt;
use std::sync::Arc;

use claviger_core::egress::SendError;
use claviger_core::{Broker, InstanceId};
use http::{Request, Response};
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::{
    Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
};

pub(crate) use error::told;
pub(crate) use life::Gone;
pub use link::add_to_linker;

use crate::imports::CredentialsCtx;
use life::Life;

#[cfg(doc)]
use claviger_core::egress::RequestHead;

/// Bytes of one set of header fields, as they are in memory: more than any request head that is sent, and what an answer's may have.
const MAX_FIELDS: usize = 32 * 1024;

/// What an agent may write to a body in one go. Two such pieces wait in the host for each body, so this is small.
const MAX_CHUNK: usize = 64 * 1024;

/// One instance's requests. Kept in the store's data, in a field before the resource table: a body that is cut off because the table
/// is dropped is told from one that ended by this having been dropped first.
pub struct HttpCtx {
    wasi: WasiHttpCtx,
    hooks: Nothing,
    broker: Arc<dyn Broker>,
    // Invariant: started at `broker`.
    instance: InstanceId,
    life: Arc<Life>,
    gone: Option<Gone>,
}

impl HttpCtx {
    /// The requests of this instance, decided by its broker.
    #[must_use]
    pub fn new(credentials: &CredentialsCtx) -> Self {
        let mut wasi = WasiHttpCtx::new();
        wasi.set_field_size_limit(MAX_FIELDS);
        let (life, gone) = Life::new();
        Self {
            wasi,
            hooks: Nothing,
            broker: credentials.broker().clone(),
            instance: credentials.instance(),
            life,
            gone: Some(gone),
        }
    }

    /// Ends it: what is under way is cut off when the resource table is dropped, and what this returns then waits for it.
    pub(crate) fn end(mut self) -> Option<Gone> {
        self.gone.take()
    }
}

impl Drop for HttpCtx {
    fn drop(&mut self) {
        self.life.end();
    }
}

impl fmt::Debug for HttpCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpCtx({})", self.instance)
    }
}

/// What the host functions borrow of the store's data for one call.
#[derive(Debug)]
pub struct HttpView<'a> {
    /// The instance's requests.
    pub ctx: &'a mut HttpCtx,
    /// Where requests, answers and bodies are kept. Cap it: [`ResourceTable::set_max_capacity`].
    pub table: &'a mut ResourceTable,
}

impl<'a> HttpView<'a> {
    fn wasi(self) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView {
            hooks: &mut self.ctx.hooks,
            table: self.table,
            ctx: &mut self.ctx.wasi,
        }
    }
}

/// The data of a store whose agents may send requests.
pub trait HttpState: Send {
    /// What the host functions borrow.
    fn http(&mut self) -> HttpView<'_>;
}

/// The hooks of wasmtime-wasi-http: bounds, and no way to send.
struct Nothing;

/// A future on the heap, as the hooks give it.
type HookFuture<T> = Box<dyn Future<Output = T> + Send>;

impl WasiHttpHooks for Nothing {
    // This one, and not `is_forbidden_header`: it covers trailers as well. What belongs to the connection cannot be said at all; what else
    // no agent may send, `authorization` say, reaches the broker, which refuses and logs it.
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name| wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS.contains(name))
    }

    /// Never called: `outgoing-handler` is ours. If it were, it would send nothing.
    fn send_request(
        &mut self,
        _: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: HookFuture<Result<(), Error>>,
    ) -> HookFuture<Result<(Response<WasiBody>, HookFuture<Result<(), Error>>), Error>> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        1
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        MAX_CHUNK
    }
}

/// Whatever went wrong with an exchange, as wasmtime-wasi-http has it.
fn failed(error: &SendError) -> Error {
    error::wasi(error)
}
