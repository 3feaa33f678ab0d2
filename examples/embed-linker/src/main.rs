//! An agent runtime of your own: its engine, linker, store and limits stay yours, and the credentials interfaces are mounted into it.
//!
//! Usage: `embed-linker KEYRING MANIFEST INPUT < passphrase`
#![expect(clippy::print_stdout, reason = "it is a command")]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use claviger::credentials::{self, CredentialsCtx, CredentialsView};
use claviger::wasmtime::component::{Component, Linker, ResourceTable};
use claviger::wasmtime::error::Context as _;
use claviger::wasmtime::{Engine, Result, Store, format_err};
use claviger::{Broker as _, InstanceEnd, Manifest, Secret};
use claviger_broker::LocalBroker;
use claviger_broker::custody::{KdfCost, PassphraseSealer};
use claviger_broker::local::Options;
use claviger_core::ComponentDigest;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

/// Your store's data, with one field more: the instance at its broker.
struct State(WasiCtx, ResourceTable, CredentialsCtx);

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Self(ctx, table, _) = self;
        WasiCtxView { ctx, table }
    }
}

fn credentials(State(_, table, ctx): &mut State) -> CredentialsView<'_> {
    CredentialsView { ctx, table }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [keyring, path, input] = arguments.as_slice() else {
        return Err(format_err!("usage: embed-linker KEYRING MANIFEST INPUT"));
    };
    let typed = std::io::read_to_string(std::io::stdin())?;
    let passphrase = Secret::take(&mut typed.trim_end().to_owned().into_bytes())?;
    let sealer = Arc::new(PassphraseSealer::new(passphrase, KdfCost::STANDARD)?);
    let broker = LocalBroker::open(Options::new(keyring, sealer)).await?;
    let text = std::fs::read_to_string(path)?;
    let (manifest, _warnings) = Manifest::parse(&text).map_err(|problems| format_err!("{problems:?}"))?;
    let folder = Path::new(path).parent().context("the manifest is in no folder")?;
    let bytes = std::fs::read(folder.join(&manifest.agent.component))?;

    // Admission binds the grants to these very bytes; the instance is on the audit log from here to its end.
    let admission = broker.admit(&manifest, ComponentDigest::of(&bytes)).await?;
    let instance =
        CredentialsCtx::start(broker.clone(), &admission).map_err(|refusal| format_err!("{refusal}"))?;
    let engine = Engine::new(&claviger::config())?;
    let ticker = engine.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(claviger::TICK);
            ticker.increment_epoch();
        }
    });
    let mut linker: Linker<State> = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    credentials::add_granted_to_linker(&mut linker, &admission, credentials)?;
    let state = State(WasiCtx::builder().build(), ResourceTable::new(), instance);
    let mut store = Store::new(&engine, state);
    store.epoch_deadline_async_yield_and_update(1);
    let agent = linker
        .instantiate_async(&mut store, &Component::new(&engine, &bytes)?)
        .await?;
    let run = agent.get_export_index(&mut store, None, "claviger:agent/run@0.1.0");
    let run = agent
        .get_export_index(&mut store, run.as_ref(), "run")
        .context("it exports no agent")?;
    let run = agent.get_typed_func::<(&str,), (std::result::Result<String, String>,)>(&mut store, run)?;
    let call = run.call_async(&mut store, (input,));
    let (answer,) = tokio::time::timeout(Duration::from_secs(60), call).await??;
    store.data_mut().2.end(InstanceEnd::Finished);
    println!("{answer:?}");
    Ok(broker.close().await?)
}
