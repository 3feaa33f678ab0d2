//! An agent that is instantiated, run and dropped, against the same component in bare wasmtime: same engine settings, same pool,
//! plain wasmtime-wasi. The difference is the closed world, the limits, and two entries on the log.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark stops at the first surprise, and nobody calls it"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use claviger::wasmtime::component::{Component, Linker};
use claviger::wasmtime::{Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use claviger::{Agent, Answer, Host, PoolSize, RunInput};
use claviger_broker::audit::Durability;
use claviger_core::admission::AdmissionId;
use claviger_core::audit::InstanceEnd;
use claviger_core::custody::CustodyKind;
use claviger_core::egress::{Answer as EgressAnswer, BodyStream, RequestHead, SendError};
use claviger_core::manifest::Manifest;
use claviger_core::{
    Admission, Algorithm, BoxFuture, Broker, ComponentDigest, InstanceId, NotAdmitted, Outcome, Refusal,
    Request,
};
use claviger_tpm::SessionKind;
use criterion::{Criterion, criterion_group, criterion_main};
use kit::Guest;
use kit::bare::Bare;
use support::Fixture;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};

const INPUT: &str = "hello";
const OUTPUT: usize = 64 * 1024;

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

async fn bare(engine: &Engine, command: &CommandPre<Bare>) -> Vec<u8> {
    let stdout = MemoryOutputPipe::new(OUTPUT);
    let wasi = WasiCtxBuilder::new()
        .stdin(MemoryInputPipe::new(INPUT))
        .stdout(stdout.clone())
        .stderr(MemoryOutputPipe::new(OUTPUT))
        .arg("test")
        .build();
    let mut store = Store::new(engine, Bare::new(wasi));
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

/// Admits everything and keeps nothing: what a run costs without the log.
#[derive(Debug)]
struct NoLog;

impl Broker for NoLog {
    fn admit<'a>(
        &'a self,
        manifest: &'a Manifest,
        component: ComponentDigest,
    ) -> BoxFuture<'a, Result<Admission, NotAdmitted>> {
        let admission = Admission {
            id: AdmissionId(0),
            agent: manifest.agent.name.clone(),
            component,
            manifest: manifest.digest,
            capabilities: manifest
                .grants
                .values()
                .map(|grant| grant.capability.kind())
                .collect(),
        };
        Box::pin(async move { Ok(admission) })
    }

    fn withdraw(&self, _: AdmissionId, _: Vec<String>) {}

    fn start(&self, _: AdmissionId) -> Result<InstanceId, Refusal> {
        Ok(InstanceId(0))
    }

    fn end(&self, _: InstanceId, _: InstanceEnd) {}

    fn perform(&self, _: InstanceId, _: Request) -> BoxFuture<'_, Result<Outcome, Refusal>> {
        Box::pin(async { Err(Refusal::NotGranted) })
    }

    fn send(
        &self,
        _: InstanceId,
        _: RequestHead,
        _: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<EgressAnswer, SendError>> {
        Box::pin(async {
            Err(SendError::Refused {
                refusal: Refusal::NotGranted,
                grant: None,
            })
        })
    }
}

fn without_log(fixture: &Fixture) -> Agent {
    let component = kit::guest(Guest::Command);
    let host = Host::builder(Arc::new(NoLog))
        .pool(PoolSize::default())
        .build()
        .unwrap();
    let manifest = support::manifest(component);
    fixture
        .runtime
        .block_on(host.load(&manifest, fixture.folder.path(), component))
        .unwrap()
}

async fn ours(agent: &Agent, said: &[u8]) {
    let report = agent.run(RunInput::text(INPUT)).await.unwrap();
    assert_eq!(
        (&report.answer, report.stdout.as_slice()),
        (&Answer::Exited(0), said)
    );
}

fn instance(criterion: &mut Criterion) {
    let fixture = Fixture::new(
        Durability::Process,
        Algorithm::Ed25519,
        CustodyKind::TpmSealed,
        SessionKind::Password,
    );
    let agent = fixture.load(Guest::Command);
    let unlogged = without_log(&fixture);
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
        b.to_async(runtime).iter(async || ours(&agent, &said).await);
    });
    group.bench_function("claviger-without-log", |b| {
        b.to_async(runtime).iter(async || ours(&unlogged, &said).await);
    });
    group.bench_function("bare-wasmtime", |b| {
        b.to_async(runtime).iter(async || bare(&engine, &command).await);
    });
    group.finish();
}

criterion_group!(benches, instance);
criterion_main!(benches);
