//! Links exactly what one admission grants, and the closed subset of WASI. Reads no manifest: only the broker's admission.

use claviger_core::Admission;
use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasData, InstancePre, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView as _};
use wasmtime_wasi::{WasiView, p2::bindings as wasi};
use wasmtime_wasi_io::bindings::wasi::io;
use wasmtime_wasi_io::streams::Error as HostError;

use crate::error::{LoadError, MAX_SHOWN};
use crate::files;
use crate::http;
use crate::imports;
use crate::interfaces;
use crate::state::State;

/// Checks that the component imports nothing that is not granted, and links it.
pub(crate) fn link(
    engine: &Engine,
    component: &Component,
    admission: &Admission,
) -> Result<InstancePre<State>, LoadError> {
    let kind = component.component_type();
    let names: Vec<&str> = kind.imports(engine).map(|(name, _)| name).collect();
    let missing = interfaces::missing(names.iter().copied(), admission);
    if !missing.is_empty() {
        return Err(LoadError::NotGranted(missing));
    }
    let mismatch = |error: wasmtime::Error| {
        LoadError::Mismatch(claviger_core::name::escape(&format!("{error:#}"), MAX_SHOWN))
    };
    let mut linker = Linker::new(engine);
    add_wasi(&mut linker).map_err(mismatch)?;
    files::bound(&mut linker).map_err(mismatch)?;
    if interfaces::granted(admission).contains(&interfaces::HTTP_HANDLER) {
        http::add_to_linker(&mut linker).map_err(mismatch)?;
    }
    imports::add_granted_to_linker(&mut linker, admission, State::credentials).map_err(mismatch)?;
    linker.instantiate_pre(component).map_err(mismatch)
}

/// Interface by interface, so that a new one in a later wasmtime is not linked unseen. The list in `interfaces` says the same.
fn add_wasi(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use wasi::{cli, clocks, filesystem, random, sockets};
    let l = linker;
    io::error::add_to_linker::<State, QuietErrors>(l, |state| ErrorsView(state.ctx().table))?;
    io::poll::add_to_linker::<State, Io>(l, |state| state.ctx().table)?;
    io::streams::add_to_linker::<State, Io>(l, |state| state.ctx().table)?;
    cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    clocks::monotonic_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    clocks::wall_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    random::random::add_to_linker::<State, WasiRandom>(l, |state| state.ctx().ctx.random())?;
    random::insecure::add_to_linker::<State, WasiRandom>(l, |state| state.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<State, WasiRandom>(l, |state| state.ctx().ctx.random())?;
    filesystem::preopens::add_to_linker::<State, WasiFilesystem>(l, State::filesystem)?;
    filesystem::types::add_to_linker::<State, WasiFilesystem>(l, State::filesystem)?;
    sockets::instance_network::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    let options = wasi::LinkOptions::default();
    sockets::network::add_to_linker::<State, WasiSockets>(l, &(&options).into(), State::sockets)?;
    sockets::tcp::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::udp::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::udp_create_socket::add_to_linker::<State, WasiSockets>(l, State::sockets)
}

/// How the component is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// `claviger:agent/run`.
    Agent,
    /// `wasi:cli/run`.
    Command,
    /// `claviger:agent/rotation`: of a component whose manifest makes it a rotator.
    Rotator,
}

impl Call {
    /// The agent's interface first: a component may have both. A rotator is called as nothing else.
    pub(crate) fn of(component: &Component, rotates: bool) -> Result<Self, LoadError> {
        let has = |name: &str| {
            matches!(
                component.get_export(None, name),
                Some((ComponentItem::ComponentInstance(_), _))
            )
        };
        if rotates {
            return if has("claviger:agent/rotation@0.1.0") {
                Ok(Self::Rotator)
            } else {
                Err(LoadError::NoRotation)
            };
        }
        if has("claviger:agent/run@0.1.0") {
            Ok(Self::Agent)
        } else if has("wasi:cli/run@0.2.0") {
            Ok(Self::Command)
        } else {
            Err(LoadError::NothingToRun)
        }
    }
}

/// The rest of `wasi:io`, as wasmtime-wasi has it.
struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

/// `wasi:io/error` with texts of our own: the host's error chain may name paths and more, and does not reach a guest.
struct QuietErrors;

impl HasData for QuietErrors {
    type Data<'a> = ErrorsView<'a>;
}

struct ErrorsView<'a>(&'a mut ResourceTable);

impl io::error::Host for ErrorsView<'_> {}

impl io::error::HostError for ErrorsView<'_> {
    fn to_debug_string(&mut self, error: Resource<HostError>) -> wasmtime::Result<String> {
        let error = self.0.get(&error)?;
        if let Some(told) = http::told(error) {
            return Ok(told);
        }
        // The kind is one of a closed set of texts of the standard library, "permission denied" say.
        Ok(match error.downcast_ref::<std::io::Error>() {
            Some(error) => error.kind().to_string(),
            None => "the operation failed".to_owned(),
        })
    }

    fn drop(&mut self, error: Resource<HostError>) -> wasmtime::Result<()> {
        self.0.delete(error)?;
        Ok(())
    }
}
