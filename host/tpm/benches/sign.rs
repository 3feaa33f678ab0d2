//! A resident P-256 signature through the custody trait, against the bare `tss-esapi` call: same software TPM, same kind of
//! session, key loaded. Goal: at most 1.15 times the bare call. The difference is the queue, the hash, and verifying what the
//! TPM gave; `verify` shows what the last costs alone. The printed ratios count: both sides take turns, so that what else the
//! machine does weighs on both.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark stops at the first surprise, and nobody calls it"
)]

use std::hint::black_box;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claviger_core::audit::{AuditError, AuditSink, Entry, EntryIndex, Use};
use claviger_core::profile::{FrameContext, Framed, SigningRule};
use claviger_core::{
    Algorithm, BoxFuture, Clock, ComponentDigest, ContentDigest, InstanceId, KeyRef, KeyVersion,
    ManifestDigest, Permit, PublicKey,
};
use claviger_tpm::{SessionKind, Tpm, TpmChoice};
use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::{KeyHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Auth, Digest, EccPoint, EccScheme, PublicBuilder, PublicEccParametersBuilder, SignatureScheme,
    SymmetricDefinition,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_HASHCHECK};

const CONTENT: &[u8] = &[7; 32];

#[derive(Debug)]
struct Nowhere;

impl AuditSink for Nowhere {
    fn append(&self, _: Entry) -> BoxFuture<'static, Result<EntryIndex, AuditError>> {
        Box::pin(std::future::ready(Ok(0)))
    }
    fn note(&self, _: Entry) {}
    fn checkpoint(&self) -> BoxFuture<'_, Result<String, AuditError>> {
        Box::pin(std::future::ready(Err(AuditError::Closed)))
    }
}

impl Clock for Nowhere {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

fn framed(key: &PublicKey) -> Framed {
    let label = "bench".parse().unwrap();
    let context = FrameContext {
        key,
        now: Timestamp::UNIX_EPOCH,
        nonce: [0; 16],
    };
    SigningRule::Labeled { label }.frame(CONTENT, &context).unwrap()
}

async fn permit(key: &KeyRef, message: &Framed) -> Permit {
    let allowed = Use {
        instance: InstanceId(1),
        agent: "bench".parse().unwrap(),
        component: ComponentDigest::of(b"component"),
        manifest: ManifestDigest::of(b"manifest"),
        grant: "sign".parse().unwrap(),
        key: key.clone(),
        profile: "labeled".to_owned(),
        content: ContentDigest::of(CONTENT),
        size: 32,
        number: 1,
        rate_until: None,
    };
    let now = Timestamp::UNIX_EPOCH;
    Permit::to_sign(Arc::new(Nowhere), Arc::new(Nowhere), now, allowed, message)
        .await
        .unwrap()
}

/// A key of the same template, loaded through a context of its own on the same software TPM.
fn bare(tpm: &Tpm, session: SessionKind) -> (tss_esapi::Context, KeyHandle) {
    let line = std::fs::read(format!("/proc/{}/cmdline", tpm.swtpm_pid().unwrap())).unwrap();
    let line = String::from_utf8(line).unwrap();
    let port = line.split_once("port=").unwrap().1.split(',').next().unwrap();
    let conf = TctiNameConf::from_str(&format!("swtpm:host=127.0.0.1,port={port}")).unwrap();
    let mut context = tss_esapi::Context::new(conf).unwrap();
    let srk = TpmHandle::Persistent(PersistentTpmHandle::new(0x8100_0001).unwrap());
    let srk = KeyHandle::from(context.tr_from_tpm_public(srk).unwrap());
    let session = match session {
        SessionKind::SaltedEncrypted => {
            let kind = SymmetricDefinition::AES_128_CFB;
            let session = context
                .start_auth_session(
                    Some(srk),
                    None,
                    None,
                    SessionType::Hmac,
                    kind,
                    HashingAlgorithm::Sha256,
                )
                .unwrap()
                .unwrap();
            let (attributes, mask) = SessionAttributesBuilder::new()
                .with_continue_session(true)
                .with_decrypt(true)
                .with_encrypt(true)
                .build();
            context.tr_sess_set_attributes(session, attributes, mask).unwrap();
            session
        }
        _ => AuthSession::Password,
    };
    context.set_sessions((Some(session), None, None));
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()
        .unwrap();
    let scheme = EccScheme::create(EccSchemeAlgorithm::EcDsa, Some(HashingAlgorithm::Sha256), None).unwrap();
    let public = PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_unrestricted_signing_key(scheme, EccCurve::NistP256)
                .build()
                .unwrap(),
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
        .unwrap();
    let auth = Auth::try_from(vec![9; 32]).unwrap();
    let made = context
        .create(srk, public, Some(auth.clone()), None, None, None)
        .unwrap();
    let key = context.load(srk, made.out_private, made.out_public).unwrap();
    context.tr_set_auth(key.into(), auth).unwrap();
    (context, key)
}

fn bare_sign(context: &mut tss_esapi::Context, key: KeyHandle) -> tss_esapi::structures::Signature {
    let ticket = TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: TPM2B_DIGEST::default(),
    };
    let digest = Digest::try_from(CONTENT).unwrap();
    context
        .sign(key, digest, SignatureScheme::Null, ticket.try_into().unwrap())
        .unwrap()
}

/// The ratio of the medians of both, taken in turn: what else the machine does then weighs on both alike.
fn side_by_side(name: &str, mut bare: impl FnMut(), mut custody: impl FnMut()) {
    const ROUNDS: usize = 400;
    let time = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64() * 1e6
    };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(time(&mut bare));
        times[1].push(time(&mut custody));
    }
    let [bare, custody] = times.map(|mut list| {
        list.sort_by(f64::total_cmp);
        list[ROUNDS / 2]
    });
    println!(
        "{name}: bare {bare:.0} µs, custody {custody:.0} µs, ratio {:.2} (goal 1.15)",
        custody / bare
    );
}

fn sign(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    for (name, session) in [
        ("sign, password session", SessionKind::Password),
        ("sign, salted and encrypted session", SessionKind::SaltedEncrypted),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let choice = TpmChoice::Swtpm {
            state: folder.path().join("tpm"),
        };
        let tpm = match session {
            SessionKind::SaltedEncrypted => Tpm::connect_encrypted(choice),
            _ => Tpm::connect(choice),
        };
        let tpm = tpm.unwrap_or_else(|error| panic!("{error}"));
        let key_ref = KeyRef {
            name: "bench".parse().unwrap(),
            version: KeyVersion::FIRST,
        };
        let (public, open) = runtime.block_on(async {
            let custody = tpm.custody();
            let made = custody.generate(&key_ref, Algorithm::P256).await.unwrap();
            let open = custody.open(&key_ref, &made.public, made.material).await.unwrap();
            (made.public, open)
        });
        let message = framed(&public);
        let permit = runtime.block_on(permit(&key_ref, &message));
        let (mut context, key) = bare(&tpm, session);
        side_by_side(
            name,
            || {
                black_box(bare_sign(&mut context, key));
            },
            || {
                black_box(runtime.block_on(open.sign(&permit, &message)).unwrap());
            },
        );
        let mut group = criterion.benchmark_group(name);
        group.measurement_time(Duration::from_secs(6));
        group.bench_function("bare tss-esapi", |b| {
            b.iter(|| bare_sign(&mut context, key));
        });
        group.bench_function("custody", |b| {
            b.to_async(&runtime)
                .iter(|| async { open.sign(&permit, &message).await.unwrap() });
        });
        let signature = runtime.block_on(open.sign(&permit, &message)).unwrap();
        group.bench_function("verify", |b| {
            b.iter(|| public.verify(message.message(), &signature).unwrap());
        });
        group.finish();
        drop(context);
        drop(open);
        drop(tpm);
    }
}

criterion_group!(benches, sign);
criterion_main!(benches);
