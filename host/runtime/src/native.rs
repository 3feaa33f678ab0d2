//! The one place where machine code enters the process. Decides nothing: what it loads was proven to be ours before.
#![expect(
    unsafe_code,
    reason = "loading compiled code is unsafe by nature: it is native code"
)]

use wasmtime::Engine;
use wasmtime::component::Component;

/// Compiled code that this host made: authenticated by the cache's key, or straight from the compiler.
pub(crate) struct OwnCode {
    // Invariant: made by `authenticated` or `compiled`, whose callers say why the bytes are ours.
    bytes: Vec<u8>,
}

impl OwnCode {
    /// Bytes of a cache entry whose MAC verified over exactly these bytes.
    pub(crate) fn authenticated(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Bytes that a compiler of this host just returned.
    pub(crate) fn compiled(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// The machine code as a file holds it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes the code executable in this engine.
    pub(crate) fn load(&self, engine: &Engine) -> Result<Component, wasmtime::Error> {
        // SAFETY: `Component::deserialize` must be given what `Engine::precompile_component` or `Component::serialize` wrote.
        // `OwnCode` holds only such bytes, in memory that nobody else can write, so nothing changes between check and use.
        // wasmtime itself checks that they were made by this version with a compatible configuration.
        unsafe { Component::deserialize(engine, &self.bytes) }
    }
}
