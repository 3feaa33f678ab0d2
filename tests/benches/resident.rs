//! A resident P-256 signature from an agent (guest, broker, log, queue, TPM, verification) against the bare `tss-esapi` call: same
//! software TPM, same kind of session, key loaded. Every signature is verified before it is released; `verify` is that part alone.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark stops at the first surprise, and nobody calls it"
)]

mod support;

use std::str::FromStr as _;
use std::time::Duration;

use claviger_broker::audit::Durability;
use claviger_core::custody::CustodyKind;
use claviger_core::{Algorithm, PublicKey};
use claviger_tpm::{SessionKind, Tpm};
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use p256::ecdsa::signature::Signer as _;
use support::Fixture;
use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::{KeyHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Auth, Digest, EccPoint, EccScheme, PublicBuilder, PublicEccParametersBuilder, Signature, SignatureScheme,
    SymmetricDefinition,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_HASHCHECK};

const DIGEST: [u8; 32] = [7; 32];

fn resident(criterion: &mut Criterion) {
    for (name, session) in [
        ("resident-password", SessionKind::Password),
        ("resident-encrypted", SessionKind::SaltedEncrypted),
    ] {
        let fixture = Fixture::new(Durability::Process, Algorithm::P256, CustodyKind::Tpm, session);
        let agent = fixture.load(kit::Guest::Agent);
        let (mut context, key) = bare(&fixture.tpm, session);

        let mut group = criterion.benchmark_group(name);
        group
            .sampling_mode(SamplingMode::Flat)
            .sample_size(20)
            .measurement_time(Duration::from_secs(6));
        group.bench_function("agent", |b| b.iter_custom(|times| fixture.sign(&agent, times)));
        group.bench_function("bare-tss-esapi", |b| b.iter(|| sign(&mut context, key)));
        group.finish();
    }
    let key = p256::ecdsa::SigningKey::from_slice(&DIGEST).unwrap();
    let signature: p256::ecdsa::Signature = key.sign(&DIGEST);
    let signature = claviger_core::Signature::new(Algorithm::P256, signature.to_bytes().into());
    let key = PublicKey::p256(key.verifying_key().to_encoded_point(false).as_bytes()).unwrap();
    criterion.bench_function("resident/verify", |b| {
        b.iter(|| key.verify(&DIGEST, &signature).unwrap());
    });
}

/// A key of the template that custody uses, loaded through a context of its own on the same software TPM.
fn bare(tpm: &Tpm, session: SessionKind) -> (Context, KeyHandle) {
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", tpm.swtpm_pid().unwrap())).unwrap();
    let port = line.split_once("port=").unwrap().1.split(',').next().unwrap();
    let place = TctiNameConf::from_str(&format!("swtpm:host=127.0.0.1,port={port}")).unwrap();
    let mut context = Context::new(place).unwrap();
    let srk = TpmHandle::Persistent(PersistentTpmHandle::new(0x8100_0001).unwrap());
    let srk = KeyHandle::from(context.tr_from_tpm_public(srk).unwrap());
    let session = match session {
        SessionKind::SaltedEncrypted => salted(&mut context, srk),
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
    let parameters = PublicEccParametersBuilder::new_unrestricted_signing_key(scheme, EccCurve::NistP256);
    let public = PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters.build().unwrap())
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

fn salted(context: &mut Context, srk: KeyHandle) -> AuthSession {
    let cipher = SymmetricDefinition::AES_128_CFB;
    let session = context
        .start_auth_session(
            Some(srk),
            None,
            None,
            SessionType::Hmac,
            cipher,
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

fn sign(context: &mut Context, key: KeyHandle) -> Signature {
    let not_hashed_by_the_tpm = TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: TPM2B_DIGEST::default(),
    };
    let digest = Digest::try_from(DIGEST.as_slice()).unwrap();
    context
        .sign(
            key,
            digest,
            SignatureScheme::Null,
            not_hashed_by_the_tpm.try_into().unwrap(),
        )
        .unwrap()
}

criterion_group!(benches, resident);
criterion_main!(benches);
