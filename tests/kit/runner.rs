//! The bare runner: `bare-runner COMPONENT` runs one `wasi:cli/command` with plain wasmtime and wasmtime-wasi, the engine compiled
//! and configured as the host's. What it compiles it keeps beside the component, and trusts what it finds there: for measuring only.
#![expect(clippy::print_stderr, reason = "it is a command")]

use std::path::Path;
use std::process::ExitCode;

use claviger::wasmtime::component::{Component, Linker};
use claviger::wasmtime::{Engine, Result, Store, format_err};
use kit::bare::Bare;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::bindings::Command;

fn main() -> ExitCode {
    match run() {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(())) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bare-runner: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<std::result::Result<(), ()>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or_else(|| format_err!("usage: bare-runner COMPONENT"))?;
    let engine = Engine::new(&claviger::config())?;
    let component = load(&engine, path.as_ref())?;
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let wasi = WasiCtxBuilder::new().inherit_stdio().build();
        let mut store = Store::new(&engine, Bare::new(wasi));
        store.set_epoch_deadline(u64::MAX / 2);
        let command = Command::instantiate_async(&mut store, &component, &linker).await?;
        command.wasi_cli_run().call_run(&mut store).await
    })
}

fn load(engine: &Engine, path: &Path) -> Result<Component> {
    let compiled = path.with_extension("cwasm");
    if !compiled.exists() {
        std::fs::write(&compiled, engine.precompile_component(&std::fs::read(path)?)?)?;
    }
    #[expect(unsafe_code, reason = "wasmtime has no safe way to load what it compiled")]
    // SAFETY: the file was written above or by an earlier start; nobody else writes beside a component that is being measured.
    let component = unsafe { Component::deserialize_file(engine, compiled) }?;
    Ok(component)
}
