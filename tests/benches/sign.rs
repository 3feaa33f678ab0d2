//! A signature from an agent against the bare primitive, and the group commit against a sync for each use. Both sides of a ratio
//! are measured one after the other in the same run; only the ratios count.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark stops at the first surprise, and nobody calls it"
)]

mod support;

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use claviger_broker::audit::{Durability, Reader};
use claviger_core::audit::Event;
use claviger_core::custody::CustodyKind;
use claviger_core::{Algorithm, Broker, ComponentDigest, InstanceId, Outcome, Request};
use claviger_tpm::SessionKind;
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use ed25519_dalek::{Signer as _, SigningKey};
use support::{Fixture, GRANT};

const CONTENT: [u8; 32] = [b'x'; 32];
const CALLERS: usize = 64;
/// Before an entry its length, after it its leaf hash.
const FRAME: usize = 4 + 32;

fn sealed(durability: Durability) -> Fixture {
    Fixture::new(
        durability,
        Algorithm::Ed25519,
        CustodyKind::TpmSealed,
        SessionKind::Password,
    )
}

/// One long run of the agent, divided by its signatures: what instantiation costs is measured elsewhere.
fn sign(criterion: &mut Criterion) {
    let fixture = sealed(Durability::Process);
    let agent = fixture.load(kit::Guest::Agent);
    let who = start(&fixture);
    let mut group = criterion.benchmark_group("sign");
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .measurement_time(Duration::from_secs(5));
    group.bench_function("process", |b| {
        b.iter_custom(|times| fixture.sign(&agent, times));
    });
    let key = SigningKey::from_bytes(&[7; 32]);
    group.bench_function("bare-ed25519", |b| b.iter(|| key.sign(black_box(&CONTENT))));
    // The same without the agent: the difference is the guest and the host call.
    group.bench_function("broker-alone", |b| {
        b.iter_custom(|times| {
            fixture.runtime.block_on(async {
                let began = Instant::now();
                for _ in 0..times {
                    perform(&fixture, who).await;
                }
                began.elapsed()
            })
        });
    });
    group.finish();
}

/// So many callers at once, with one sync for all who wait, and with one for each.
fn sync(criterion: &mut Criterion) {
    let fixture = Arc::new(sealed(Durability::Sync));
    let who = start(&fixture);
    let mut group = criterion.benchmark_group(format!("sync-{CALLERS}"));
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    group.bench_function("group-commit", |b| {
        b.iter_custom(|times| together(&fixture, who, times));
    });
    let record = vec![b'x'; record_length(&fixture)];
    group.bench_function("fdatasync-per-use", |b| {
        b.iter_custom(|times| one_by_one(&record, times));
    });
    group.finish();
}

fn start(fixture: &Fixture) -> InstanceId {
    let component = kit::guest(kit::Guest::Agent);
    let manifest = support::manifest(component);
    let admission = fixture
        .runtime
        .block_on(fixture.broker.admit(&manifest, ComponentDigest::of(component)))
        .unwrap();
    fixture.broker.start(admission.id).unwrap()
}

async fn perform(fixture: &Fixture, who: InstanceId) {
    let request = Request::Sign {
        grant: GRANT.parse().unwrap(),
        content: CONTENT.to_vec(),
    };
    match fixture.broker.perform(who, request).await {
        Ok(Outcome::Signed { signature }) => drop(black_box(signature)),
        other => panic!("{other:?}"),
    }
}

/// Counts down what is left to do, for callers that share the work.
fn takes_one(left: &AtomicU64) -> bool {
    left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        .is_ok()
}

fn together(fixture: &Arc<Fixture>, who: InstanceId, times: u64) -> Duration {
    let left = Arc::new(AtomicU64::new(times));
    fixture.runtime.block_on(async {
        let began = Instant::now();
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (fixture, left) = (Arc::clone(fixture), Arc::clone(&left));
                tokio::spawn(async move {
                    while takes_one(&left) {
                        perform(&fixture, who).await;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        began.elapsed()
    })
}

/// A plain log: as many threads, each appends a record as long as ours and syncs it before it signs.
fn one_by_one(record: &[u8], times: u64) -> Duration {
    let folder = support::folder();
    let log = Mutex::new(File::create(folder.path().join("log")).unwrap());
    let key = SigningKey::from_bytes(&[7; 32]);
    let left = AtomicU64::new(times);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while takes_one(&left) {
                    let mut file = log.lock().unwrap();
                    file.write_all(record).unwrap();
                    rustix::fs::fdatasync(&*file).unwrap();
                    drop(file);
                    black_box(key.sign(&CONTENT));
                }
            });
        }
    });
    began.elapsed()
}

/// What one use adds to the log: that it was allowed, and what came of it.
fn record_length(fixture: &Fixture) -> usize {
    fixture.runtime.block_on(fixture.broker.checkpoint()).unwrap();
    let reader = Reader::open(&fixture.audit()).unwrap();
    let entries = reader.entries(0).map(|entry| entry.unwrap().1);
    let lengths: Vec<_> = entries
        .skip_while(|entry| !matches!(entry.event, Event::Allowed(_)))
        .filter(|entry| matches!(entry.event, Event::Allowed(_) | Event::Settled { .. }))
        .take(CALLERS)
        .map(|entry| serde_json::to_vec(&entry).unwrap().len() + FRAME)
        .collect();
    2 * lengths.iter().sum::<usize>() / lengths.len()
}

criterion_group!(benches, sign, sync);
criterion_main!(benches);
