//! Why an agent cannot be loaded or run. Not what an agent learns: these are for the operator and the embedder.

use std::path::PathBuf;

use claviger_core::{NotAdmitted, Refusal};

use crate::compile::MAX_COMPONENT;
use crate::limits::MAX_INPUT;

/// What the engine or the compiler says of a component is shown up to this many characters: it quotes names that the component chose.
pub(crate) const MAX_SHOWN: usize = 400;

/// Why a host cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The engine cannot be made: usually the address space is limited (ulimit -v).
    #[error("the engine cannot be made; each of the pool's instances needs about 17 GiB of address space")]
    Engine(#[source] wasmtime::Error),
    /// The cache's folder cannot be used.
    #[error("the cache folder `{}` cannot be used", folder.display())]
    Cache {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Why an agent cannot be loaded. Nothing of it has run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file is too large.
    #[error("a component has at most {MAX_COMPONENT} bytes, this file has {0}")]
    TooLarge(usize),
    /// The file is not WebAssembly.
    #[error("this is not WebAssembly; expected a component, which starts with `\\0asm`")]
    NotWasm,
    /// The file is a core module.
    #[error("this is a core module, expected a component; build it with `--target wasm32-wasip2`")]
    CoreModule,
    /// The file starts like WebAssembly but is of no version that exists.
    #[error("this is WebAssembly of an unknown kind, expected a component (version 13, layer 1)")]
    UnknownWasm,
    /// The component cannot be compiled: truncated, invalid, too large, or it uses features that are off here.
    #[error("the component cannot be compiled: {0}")]
    NotCompiled(String),
    /// The compiling child cannot be run.
    #[error("the compiling process cannot be run")]
    Compiler(#[source] std::io::Error),
    /// The broker does not admit it.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// It imports what it was not granted; all such imports at once.
    #[error("the component imports what it was not granted:{}", .0.iter().map(|missing| format!("\n  {missing}")).collect::<String>())]
    NotGranted(Vec<MissingImport>),
    /// It fits the names of what is linked but not the types.
    #[error("the component does not fit this host's interfaces: {0}")]
    Mismatch(String),
    /// It exports nothing that can be run.
    #[error(
        "the component exports neither `claviger:agent/run@0.1.0` nor `wasi:cli/run@0.2.x`; nothing can be run"
    )]
    NothingToRun,
    /// Its manifest makes it a rotator, and it is none.
    #[error(
        "the manifest has `[rotates]`, and the component does not export `claviger:agent/rotation@0.1.0`"
    )]
    NoRotation,
    /// Its manifest does not make it a rotator.
    #[error("the manifest has no `[rotates]`, which makes a component a rotator")]
    NotARotator,
    /// A folder of `[files]` is not there or is not a folder.
    #[error("the folder `{}`, `{guest}` for the agent, cannot be opened", host.display())]
    Folder {
        /// What the agent would call it.
        guest: String,
        /// Where it should be.
        host: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder of `[files]` would give the agent what decides over it, what the kernel shows of processes, or one folder under two names.
    #[error("the folder `{}`, `{guest}` for the agent, {why}; give it a folder of its own", host.display())]
    FolderOverlaps {
        /// What the agent would call it.
        guest: String,
        /// Where it is.
        host: PathBuf,
        /// With what.
        why: String,
    },
    /// Its needs do not fit the pool.
    #[error("the component needs more than the pool gives one instance: {0}")]
    TooComplex(String),
}

/// An import that is not linked, and what would change that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{import}`: {hint}")]
pub struct MissingImport {
    /// As the component names it, escaped.
    pub import: String,
    /// The line of the manifest that grants it, or why none does.
    pub hint: String,
}

/// Why a run could not begin, or was lost by the host. What the agent itself does ends in a [`crate::RunReport`] instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The input is too large.
    #[error("the input has at most {MAX_INPUT} bytes, this one has {0}")]
    InputTooLarge(usize),
    /// It is a rotator, which is run by rotations alone.
    #[error("the manifest has `[rotates]`: a rotator is run by a rotation, not by itself")]
    Rotator,
    /// The broker does not begin instances: the audit log cannot be written, or the admission is not its own.
    #[error("the broker does not start the agent: {0}")]
    NotStarted(Refusal),
    /// A folder that was open at load cannot be handed on.
    #[error("the folder `{guest}` cannot be given to the agent")]
    Folder {
        /// What the agent would call it.
        guest: String,
        /// Why.
        source: wasmtime::Error,
    },
}
