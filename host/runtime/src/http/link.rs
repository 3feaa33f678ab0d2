//! `wasi:http/outgoing-handler` and `wasi:http/types` in a linker. The handler is ours; the types are wasmtime-wasi-http's, with bounds
//! put over what an agent could size, and with the codes of errors that it loses.

use claviger_core::egress::MAX_HEAD;
use wasmtime::StoreContextMut;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types::{
    ErrorCode, HostOutgoingRequest as _, IoError, LinkOptions, Method, add_to_linker as add_types,
};
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;
use wasmtime_wasi_http::{Error, WasiHttpCtxView};

use super::{HttpState, error, exchange};

/// The instances, as this release of wasmtime-wasi-http names them: another name would bound nothing, which the tests through a guest
/// would notice.
const TYPES: &str = "wasi:http/types@0.2.12";
const HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";

/// Ties the view to the generated code.
struct Http;

impl HasData for Http {
    type Data<'a> = WasiHttpCtxView<'a>;
}

/// Adds `wasi:http/types` and `wasi:http/outgoing-handler` to a linker. What an agent may send, the broker decides at every request.
///
/// # Errors
/// When the linker defines one of them already.
pub fn add_to_linker<T: HttpState + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    add_types::<T, Http>(linker, &LinkOptions::default(), |state| state.http().wasi())?;
    linker.instance(HANDLER)?.func_wrap(
        "handle",
        |mut store: StoreContextMut<'_, T>, (request, options)| {
            Ok((exchange::handle(&mut store.data_mut().http(), request, options)?,))
        },
    )?;
    linker.allow_shadowing(true);
    let bounded = bound(linker);
    linker.allow_shadowing(false);
    bounded
}

type Request = Resource<HostOutgoingRequest>;
/// What a setter says to an agent.
type Set = Result<(), ()>;

/// wasmtime-wasi-http keeps a method and an authority of any size.
fn bound<T: HttpState + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: StoreContextMut<'_, T>, (request, method): (Request, Method)| {
            let size = match &method {
                Method::Other(other) => other.len(),
                Method::Get
                | Method::Head
                | Method::Post
                | Method::Put
                | Method::Delete
                | Method::Connect
                | Method::Options
                | Method::Trace
                | Method::Patch => 0,
            };
            let set = |mut view: WasiHttpCtxView<'_>| view.set_method(request, method);
            Ok((bounded(size, || set(store.data_mut().http().wasi()))?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: StoreContextMut<'_, T>, (request, authority): (Request, Option<String>)| {
            let size = authority.as_ref().map_or(0, String::len);
            let set = |mut view: WasiHttpCtxView<'_>| view.set_authority(request, authority);
            Ok((bounded(size, || set(store.data_mut().http().wasi()))?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store: StoreContextMut<'_, T>, (request, path): (Request, Option<String>)| {
            let size = path.as_ref().map_or(0, String::len);
            let set = |mut view: WasiHttpCtxView<'_>| view.set_path_with_query(request, path);
            Ok((bounded(size, || set(store.data_mut().http().wasi()))?,))
        },
    )?;
    types.func_wrap(
        "http-error-code",
        |mut store: StoreContextMut<'_, T>, (failed,): (Resource<IoError>,)| {
            let failed = store.data_mut().http().table.get(&failed)?;
            let written = failed.downcast_ref::<ErrorCode>().cloned();
            Ok((written.or_else(|| failed.downcast_ref::<Error>().map(error::code)),))
        },
    )
}

/// Sets what is no larger than a request can be; what is larger is no such thing.
fn bounded(size: usize, set: impl FnOnce() -> wasmtime::Result<Set>) -> wasmtime::Result<Set> {
    if size > MAX_HEAD { Ok(Err(())) } else { set() }
}
