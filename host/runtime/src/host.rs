//! The host of agents for embedders that want everything: loads components under manifests. Holds no credential: its broker does.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claviger_core::manifest::Manifest;
use claviger_core::name::escape;
use claviger_core::{Admission, Broker, ComponentDigest, Secret};
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::agent::{Agent, Entrance};
use crate::blocking::blocking;
use crate::cache::{Cache, CacheEvent, Entry, NoEntry};
use crate::compile::{Compiler, MAX_COMPONENT, compile};
use crate::engine::{self, PoolSize};
use crate::error::{HostError, LoadError, MAX_SHOWN};
use crate::folders::{Guarded, OpenFolder};
use crate::imports::bindings::AgentPre;
use crate::imports::rotation::RotatorPre;
use crate::linker::{self, Call};
use crate::native::OwnCode;
use crate::rotator::Rotator;

/// Loads and runs agents. Cheap to clone; clones share the engine, its pool and the broker.
///
/// One host is one trust domain: its agents share pool slots, which are wiped in between. Agents of owners who do not trust
/// each other belong into separate processes.
#[derive(Debug, Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

/// What every agent of a host uses.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) engine: EngineHandle,
    // As many permits as the pool has room: a run waits for one instead of failing.
    pub(crate) slots: Semaphore,
    compiler: Compiler,
    cache: Option<Arc<Cache>>,
    guarded: Guarded,
}

/// The engine, which has no `Debug`.
#[derive(Clone)]
pub(crate) struct EngineHandle(pub(crate) Engine);

impl fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

/// Chooses how a [`Host`] works; every choice has a default.
pub struct HostBuilder {
    broker: Arc<dyn Broker>,
    pool: PoolSize,
    compiler: Compiler,
    cache: Option<(PathBuf, Secret)>,
    guarded: Guarded,
}

impl fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBuilder")
            .field("broker", &self.broker)
            .field("pool", &self.pool)
            .field("compiler", &self.compiler)
            .field("cache", &self.cache.as_ref().map(|(folder, _)| folder))
            .finish()
    }
}

impl HostBuilder {
    /// How many instances can run at once; more wait for their turn. Default 32.
    #[must_use]
    pub fn pool(mut self, size: PoolSize) -> Self {
        self.pool = size;
        self
    }

    /// Where components are compiled. Default: in this process.
    #[must_use]
    pub fn compiler(mut self, compiler: Compiler) -> Self {
        self.compiler = compiler;
        self
    }

    /// Keeps compiled components in this folder, authenticated with this key: whoever can write there gains nothing. No agent is given it
    /// or a folder that holds it. Default: none.
    #[must_use]
    pub fn cache(mut self, folder: PathBuf, key: Secret) -> Self {
        self.cache = Some((folder, key));
        self
    }

    /// Never hands this file or folder to an agent, nor a folder that holds it, whatever a manifest says: the keyring's folder.
    #[must_use]
    pub fn keep_from_agents(mut self, path: impl Into<PathBuf>) -> Self {
        self.guarded.hidden.push(path.into());
        self
    }

    /// Never hands this file, or a folder that holds it, to an agent that could write there: manifests, this program.
    #[must_use]
    pub fn keep_from_writing(mut self, path: impl Into<PathBuf>) -> Self {
        self.guarded.unwritable.push(path.into());
        self
    }

    /// Makes the engine and its pool.
    ///
    /// # Errors
    /// When the address space does not suffice or the cache's folder cannot be used.
    pub fn build(mut self) -> Result<Host, HostError> {
        let engine = engine::pooled(self.pool).map_err(HostError::Engine)?;
        let cache = match self.cache {
            None => None,
            Some((folder, key)) => {
                // Whoever writes there has every load compile again, or fills it.
                self.guarded.hidden.push(folder.clone());
                Some(Arc::new(
                    Cache::open(&folder, key).map_err(|source| HostError::Cache { folder, source })?,
                ))
            }
        };
        Ok(Host {
            shared: Arc::new(Shared {
                broker: self.broker,
                engine: EngineHandle(engine),
                slots: Semaphore::new(self.pool.live() as usize),
                compiler: self.compiler,
                cache,
                guarded: self.guarded,
            }),
        })
    }
}

impl Host {
    /// Starts choosing. The broker decides over every credential; the host itself holds none.
    #[must_use]
    pub fn builder(broker: Arc<dyn Broker>) -> HostBuilder {
        HostBuilder {
            broker,
            pool: PoolSize::default(),
            compiler: Compiler::default(),
            cache: None,
            guarded: Guarded::default(),
        }
    }

    /// Has these bytes admitted under this manifest, compiled or taken from the cache, and linked with exactly what was granted.
    /// `manifest_dir` is what the manifest's folders are relative to.
    ///
    /// Dropping the future leaves nothing behind but what is already on the audit log and in the cache.
    ///
    /// # Errors
    /// When the file is not a component, the broker does not admit it, it cannot be compiled, it imports what is not granted, or
    /// a folder is missing.
    pub async fn load(
        &self,
        manifest: &Manifest,
        manifest_dir: &Path,
        component: &[u8],
    ) -> Result<Agent, LoadError> {
        let digest = ComponentDigest::of(component);
        let admission = self.shared.broker.admit(manifest, digest).await?;
        let admission = Admitted {
            broker: self.shared.broker.clone(),
            admission,
        };
        let loaded = self
            .load_admitted(manifest, manifest_dir, component, &admission)
            .await;
        match loaded {
            Ok((entrance, folders, cache)) => Ok(Agent {
                shared: self.shared.clone(),
                manifest: manifest.clone(),
                admission,
                entrance,
                folders,
                cache,
            }),
            Err(error) => {
                admission.reject(&error);
                Err(error)
            }
        }
    }

    /// As [`Host::load`], of a component whose manifest has `[rotates]`. What comes back is given to the broker's rotation.
    ///
    /// # Errors
    /// As there, and when the manifest has none.
    pub async fn load_rotator(
        &self,
        manifest: &Manifest,
        manifest_dir: &Path,
        component: &[u8],
    ) -> Result<Rotator, LoadError> {
        let rotates = manifest.rotates.as_ref().ok_or(LoadError::NotARotator)?;
        let agent = self.load(manifest, manifest_dir, component).await?;
        Ok(Rotator::new(agent, rotates.secret.clone()))
    }

    async fn load_admitted(
        &self,
        manifest: &Manifest,
        manifest_dir: &Path,
        component: &[u8],
        admission: &Admitted,
    ) -> Result<(Entrance, Vec<OpenFolder>, CacheEvent), LoadError> {
        // Not before it is admitted: the log has every reason, this one too.
        is_component(component)?;
        let file = manifest_dir.join(&manifest.agent.component);
        let folders = self
            .shared
            .guarded
            .open_all(&manifest.world, manifest_dir, &file)?;
        let (code, cache) = self.code(admission.admission.component, component).await?;
        let rotates = manifest.rotates.is_some();
        let entrance = self.link(code, admission.admission.clone(), rotates).await?;
        Ok((entrance, folders, cache))
    }

    /// The machine code of a component: the cache's if it is authentic, else the compiler's.
    async fn code(
        &self,
        digest: ComponentDigest,
        component: &[u8],
    ) -> Result<(OwnCode, CacheEvent), LoadError> {
        let engine = &self.shared.engine.0;
        let compiled = compile(&self.shared.compiler, engine, component);
        let Some(cache) = self.shared.cache.clone() else {
            return Ok((compiled.await?, CacheEvent::Off));
        };
        let entry = Arc::new(Entry::new(digest, engine));
        let found = blocking({
            let (cache, entry) = (cache.clone(), entry.clone());
            move || cache.read(&entry)
        })
        .await
        .map_err(lost)?;
        let event = match found {
            Ok(code) => return Ok((code, CacheEvent::Hit)),
            Err(NoEntry::Absent) => CacheEvent::Miss,
            Err(NoEntry::Rejected(why)) => CacheEvent::Rejected { why },
        };
        let code = compiled.await?;
        let (code, stored) = blocking(move || {
            let stored = cache.write(&entry, &code);
            (code, stored)
        })
        .await
        .map_err(lost)?;
        match stored {
            Ok(()) => Ok((code, event)),
            Err(error) => Ok((
                code,
                CacheEvent::NotStored {
                    why: error.to_string(),
                },
            )),
        }
    }

    async fn link(&self, code: OwnCode, admission: Admission, rotates: bool) -> Result<Entrance, LoadError> {
        let engine = self.shared.engine.0.clone();
        blocking(move || {
            let component = code
                .load(&engine)
                .map_err(|error| LoadError::TooComplex(escape(&format!("{error:#}"), MAX_SHOWN)))?;
            entrance(&engine, &component, &admission, rotates)
        })
        .await
        .map_err(lost)?
    }
}

/// An admission for as long as there is a use for it.
#[derive(Debug)]
pub(crate) struct Admitted {
    broker: Arc<dyn Broker>,
    pub(crate) admission: Admission,
}

impl Admitted {
    /// Puts on the log why the agent could not be loaded, each reason by itself. The broker escapes and bounds them.
    fn reject(&self, error: &LoadError) {
        let reasons = match error {
            LoadError::NotGranted(missing) => missing.iter().map(ToString::to_string).collect(),
            error => vec![error.to_string()],
        };
        self.broker.withdraw(self.admission.id, reasons);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        // Nothing after a rejection: that withdrew it already.
        self.broker.withdraw(self.admission.id, Vec::new());
    }
}

fn entrance(
    engine: &Engine,
    component: &Component,
    admission: &Admission,
    rotates: bool,
) -> Result<Entrance, LoadError> {
    let linked = linker::link(engine, component, admission)?;
    // The engine quotes names that the component chose.
    let mismatch = |error: wasmtime::Error| LoadError::Mismatch(escape(&format!("{error:#}"), MAX_SHOWN));
    match Call::of(component, rotates)? {
        Call::Agent => AgentPre::new(linked).map(Entrance::Agent).map_err(mismatch),
        Call::Command => CommandPre::new(linked).map(Entrance::Command).map_err(mismatch),
        Call::Rotator => RotatorPre::new(linked).map(Entrance::Rotator).map_err(mismatch),
    }
}

/// The thread for blocking work did not come to its end.
fn lost(error: JoinError) -> LoadError {
    LoadError::Compiler(std::io::Error::other(error))
}

/// Tells a component from what is often given instead. Component-model Binary.md: magic, version 13, layer 1.
fn is_component(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() > MAX_COMPONENT {
        return Err(LoadError::TooLarge(bytes.len()));
    }
    match bytes.get(..8) {
        Some(b"\0asm\x0d\0\x01\0") => Ok(()),
        Some(b"\0asm\x01\0\0\0") => Err(LoadError::CoreModule),
        Some([b'\0', b'a', b's', b'm', ..]) => Err(LoadError::UnknownWasm),
        Some(_) | None => Err(LoadError::NotWasm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_component_is_named() {
        assert!(is_component(b"\0asm\x0d\0\x01\0").is_ok());
        assert!(matches!(
            is_component(b"\0asm\x01\0\0\0"),
            Err(LoadError::CoreModule)
        ));
        assert!(matches!(
            is_component(b"\0asm\x02\0\0\0"),
            Err(LoadError::UnknownWasm)
        ));
        assert!(matches!(is_component(b"#!/bin/sh"), Err(LoadError::NotWasm)));
        assert!(matches!(is_component(b""), Err(LoadError::NotWasm)));
    }
}
