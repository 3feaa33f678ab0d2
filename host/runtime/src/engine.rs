//! The engine: what WebAssembly may be, how it is compiled, and the pool that instances live in. Compiles nothing itself.
//!
//! Each setting has its reason in docs/adr/0005-runtime-limits.md.

use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy, WasmFeatures};

/// The engine's clock ticks this often: a guest that computes gives way within two ticks.
pub const TICK: Duration = Duration::from_millis(10);

/// The wasm stack of one instance: deep recursion ends here, well inside the fiber's stack.
const MAX_WASM_STACK: usize = 512 * 1024;

/// A fiber's stack: the wasm stack, and as much again for host functions called from its end.
const FIBER_STACK: usize = 1024 * 1024;

/// The largest linear memory a manifest can grant. Each slot reserves address space for 4 GiB anyway.
const MAX_MEMORY: usize = 1 << 30;

/// Elements in one table. QuickJS and CPython have a few thousand.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 20_000;

/// Core instances in one component: Python components have 38.
const MAX_CORE_INSTANCES: u32 = 64;

/// Memories in one component: QuickJS components have 3.
const MAX_MEMORIES: u32 = 4;

/// Tables in one component: one for each core instance is usual, most are empty.
const MAX_TABLES: u32 = 64;

/// How many instances can be live at once in one [`crate::Host`]. Each takes about 17 GiB of address space and no memory until used, and
/// up to 64 file descriptors if it has folders, and one more for each folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    // Invariant: 1..=MAX_LIVE.
    live: u32,
}

/// More live instances than this do not fit the address space of a process with room to spare (47 bits).
const MAX_LIVE: u32 = 4096;

impl PoolSize {
    /// A pool for this many live instances, at least 1 and at most 4096: what is outside is moved to the nearest bound.
    #[must_use]
    pub fn new(live: u32) -> Self {
        Self {
            live: live.clamp(1, MAX_LIVE),
        }
    }

    /// How many instances can be live at once.
    #[must_use]
    pub const fn live(self) -> u32 {
        self.live
    }
}

impl Default for PoolSize {
    /// 32: a developer's machine or a small server; a host of many agents sets its own.
    fn default() -> Self {
        Self { live: 32 }
    }
}

/// The configuration with which components are compiled: the same in the compiling child and in the host, so that the one can
/// load what the other made. Embedders that keep an engine of their own can start from it.
///
/// Coredumps and host backtraces are not compiled in. Threads and exceptions are switched off, whatever features a build gives wasmtime.
#[must_use]
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .epoch_interruption(true)
        .concurrency_support(false)
        .wasm_features(WasmFeatures::THREADS | WasmFeatures::EXCEPTIONS, false)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_gc(false)
        .wasm_stack_switching(false)
        .wasm_custom_page_sizes(false)
        .gc_support(false)
        .wasm_backtrace_max_frames(None)
        .max_wasm_stack(MAX_WASM_STACK)
        .async_stack_size(FIBER_STACK)
        .async_stack_zeroing(true)
        .memory_init_cow(true)
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .guard_before_linear_memory(true);
    config
}

/// An engine with a pool, and a thread that moves its epoch on for as long as it lives.
pub(crate) fn pooled(size: PoolSize) -> Result<Engine, wasmtime::Error> {
    let live = size.live();
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(live)
        .total_core_instances(MAX_CORE_INSTANCES * live)
        .total_memories(MAX_MEMORIES * live)
        .total_tables(MAX_TABLES * live)
        .total_stacks(live)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memories_per_module(MAX_MEMORIES)
        .max_tables_per_module(MAX_TABLES)
        .max_memory_size(MAX_MEMORY)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_unused_warm_slots(live.min(64))
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(16 << 10)
        .async_stack_keep_resident(64 << 10);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config)?;
    tick(&engine)?;
    Ok(engine)
}

/// An engine that only compiles: it reserves no pool, which would not fit the child's limits.
pub(crate) fn compiling() -> Result<Engine, wasmtime::Error> {
    Engine::new(&config())
}

fn tick(engine: &Engine) -> Result<(), wasmtime::Error> {
    // Weak: the thread must not keep the engine alive, and ends within a tick of it.
    let weak = engine.weak();
    std::thread::Builder::new()
        .name("claviger-epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    use super::*;

    #[test]
    fn what_the_child_compiles_the_pooled_engine_loads() {
        let hash = |engine: &Engine| {
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(
            hash(&compiling().unwrap()),
            hash(&pooled(PoolSize::new(1)).unwrap())
        );
    }
}
