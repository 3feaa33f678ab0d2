//! An agent that is instantiated, run and dropped, against the same component in bare wasmtime: same engine settings, same pool,
//! plain wasmtime-wasi. The difference is the closed world, the limits, and two entries on the log.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark stops at the first surprise, and nobody calls it"
)]

mod support;

use std::time::Duration;

use claviger::wasmtime::component::{Component, Linker, ResourceTable};
use claviger::wasmtime::{Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use claviger::{Answer, RunInput};
use claviger_broker::audit::Durability;
use claviger_core::Algorithm;
use claviger_core::custody::CustodyKind;
use claviger_tpm::SessionKind;
use criterion::{Criterion, criterion_group, criterion_main};
use kit::Guest;
use support::Fixture;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

const INPUT: &str = "hello";
const OUTPUT: usize = 64 * 1024;

struct State {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// The pool that a host makes for 32.
fn engine() -> Engine {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(32)
        .total_core_instances(64 * 32)
        .total_memories(4 * 32)
        .total_tables(64 * 32)
        .total_stacks(32)
        .max_core_instances_per_component(64)
        .max_memories_per_component(4)
        .max_tables_per_component(64)
        .max_memories_per_module(4)
        .max_tables_per_module(64)
        .max_memory_size(1 << 30)
        .table_elements(20_000)
        .max_unused_warm_slots(32)
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(16 << 10)
        .async_stack_keep_resident(64 << 10);
    let mut config = claviger::config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).unwrap()
}

async fn bare(engine: &Engine, command: &CommandPre<State>) -> Vec<u8> {
    let stdout = MemoryOutputPipe::new(OUTPUT);
    let wasi = WasiCtxBuilder::new()
        .stdin(MemoryInputPipe::new(INPUT))
        .stdout(stdout.clone())
        .stderr(MemoryOutputPipe::new(OUTPUT))
        .arg("test")
        .build();
    let table = ResourceTable::new();
    let mut store = Store::new(engine, State { wasi, table });
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = command.instantiate_async(&mut store).await.unwrap();
    instance
        .wasi_cli_run()
        .call_run(&mut store)
        .await
        .unwrap()
        .unwrap();
    drop(store);
    stdout.contents().to_vec()
}

fn instance(criterion: &mut Criterion) {
    let fixture = Fixture::new(
        Durability::Process,
        Algorithm::Ed25519,
        CustodyKind::TpmSealed,
        SessionKind::Password,
    );
    let agent = fixture.load(Guest::Command);
    let engine = engine();
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    let component = Component::new(&engine, kit::guest(Guest::Command)).unwrap();
    let command = CommandPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
    let runtime = &fixture.runtime;
    let said = runtime.block_on(bare(&engine, &command));

    let mut group = criterion.benchmark_group("instance");
    group.measurement_time(Duration::from_secs(5));
    group.bench_function("claviger", |b| {
        b.to_async(runtime).iter(async || {
            let report = agent.run(RunInput::text(INPUT)).await.unwrap();
            assert_eq!((&report.answer, &report.stdout), (&Answer::Exited(0), &said));
        });
    });
    group.bench_function("bare-wasmtime", |b| {
        b.to_async(runtime).iter(async || bare(&engine, &command).await);
    });
    group.finish();
}

criterion_group!(benches, instance);
criterion_main!(benches);
