//! Runs WebAssembly agents that use credentials without ever holding one.
//!
//! Two ways to embed it. [`Host`] does everything: it loads a component under a manifest, links exactly what the manifest grants,
//! and runs it within limits. [`credentials::add_to_linker`] puts the credentials interfaces into a linker that you already have,
//! in the style of wasmtime-wasi. Both need a [`Broker`]: the part that decides, logs and uses credentials.
//!
//! This crate knows no keyring, no TPM and no TLS, and makes no decision about a credential: it asks its broker.
//!
//! ```no_run
//! # async fn example(broker: std::sync::Arc<dyn claviger::Broker>, text: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use claviger::{Host, Manifest, RunInput};
//!
//! let (manifest, _warnings) = Manifest::parse(text).map_err(|problems| format!("{problems:?}"))?;
//! let host = Host::builder(broker).build()?;
//! let component = std::fs::read("agent.wasm")?;
//! let agent = host.load(&manifest, ".".as_ref(), &component).await?;
//! let report = agent.run(RunInput::text("v1.2.3")).await?;
//! println!("{:?}", report.answer);
//! # Ok(())
//! # }
//! ```

mod agent;
mod blocking;
mod cache;
mod compile;
mod engine;
mod error;
mod files;
mod folders;
mod host;
pub mod http;
mod imports;
mod interfaces;
mod kernel;
mod limits;
mod linker;
mod native;
mod output;
mod rotator;
mod state;

pub use agent::{Agent, Answer, RunInput, RunReport};
pub use cache::CacheEvent;
pub use compile::{Compiler, CompilerCommand, MAX_COMPONENT, compile_child};
pub use engine::{PoolSize, TICK, config};
pub use error::{HostError, LoadError, MissingImport, RunError};
pub use host::{Host, HostBuilder};
pub use limits::{MAX_ANSWER, MAX_INPUT};
pub use output::OutputSink;
pub use rotator::Rotator;

pub use claviger_core::audit::{InstanceEnd, StopLimit};
pub use claviger_core::{Admission, Broker, Manifest, Secret};
pub use wasmtime;

/// The credentials interfaces for a linker of your own.
///
/// ```
/// use std::sync::Arc;
///
/// use claviger::credentials::{self, CredentialsCtx, CredentialsView};
/// use claviger::wasmtime::component::{Linker, ResourceTable};
/// use claviger::{Admission, Broker, wasmtime};
///
/// /// The data of your store: what you have there already, and these two.
/// struct State {
///     credentials: CredentialsCtx,
///     table: ResourceTable,
/// }
///
/// impl State {
///     fn credentials(&mut self) -> CredentialsView<'_> {
///         CredentialsView { ctx: &mut self.credentials, table: &mut self.table }
///     }
/// }
///
/// fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
///     credentials::add_to_linker(linker, State::credentials)
/// }
///
/// fn state(broker: Arc<dyn Broker>, admission: &Admission) -> Result<State, claviger::credentials::Refusal> {
///     Ok(State { credentials: CredentialsCtx::start(broker, admission)?, table: ResourceTable::new() })
/// }
/// # let _ = (link, state);
/// ```
pub mod credentials {
    pub use crate::imports::{CredentialsCtx, CredentialsView, add_granted_to_linker, add_to_linker};
    pub use claviger_core::Refusal;
}
