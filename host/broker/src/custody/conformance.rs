//! What every custody must do, as one suite over `&dyn Custody`, and a permit to do it with. Tests only; knows no custody.

use std::sync::{Arc, Mutex};

use claviger_core::audit::{AuditError, AuditSink, Entry, EntryIndex, Settlement, Use};
use claviger_core::custody::{Custody, CustodyError, Generated};
use claviger_core::profile::{FrameContext, Framed, Narrowing, Profile};
use claviger_core::{
    Algorithm, BoxFuture, Clock, ComponentDigest, InstanceId, KeyRef, KeyVersion, ManifestDigest, Permit,
    PublicKey, Secret,
};
use jiff::Timestamp;

/// A log in memory, so that permits can be had.
#[derive(Debug, Default)]
pub(crate) struct MemorySink(Mutex<Vec<Entry>>);

impl AuditSink for MemorySink {
    fn append(&self, entry: Entry) -> BoxFuture<'static, Result<EntryIndex, AuditError>> {
        let mut entries = self.0.lock().unwrap();
        entries.push(entry);
        let index = u64::try_from(entries.len()).unwrap() - 1;
        Box::pin(std::future::ready(Ok(index)))
    }

    fn note(&self, entry: Entry) {
        self.0.lock().unwrap().push(entry);
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<String, AuditError>> {
        Box::pin(std::future::ready(Ok(String::new())))
    }
}

#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

/// A reference to the first version of a key of this name.
pub(crate) fn key_ref(name: &str) -> KeyRef {
    KeyRef {
        name: name.parse().unwrap(),
        version: KeyVersion::FIRST,
    }
}

/// A message that a `labeled` key signs.
pub(crate) fn framed(public: &PublicKey, content: &[u8]) -> Framed {
    let context = FrameContext {
        key: public,
        now: Timestamp::UNIX_EPOCH,
        nonce: [0; 16],
    };
    let profile = Profile::Labeled {
        label: "conformance".parse().unwrap(),
    };
    profile
        .narrow(&Narrowing::default())
        .unwrap()
        .frame(content, &context)
        .unwrap()
}

/// A permit for this message under this key.
pub(crate) async fn permit(key: &KeyRef, message: &Framed) -> Permit {
    let allowed = Use {
        instance: InstanceId(1),
        agent: "tester".parse().unwrap(),
        component: ComponentDigest::of(b"component"),
        manifest: ManifestDigest::of(b"manifest"),
        grant: "grant".parse().unwrap(),
        key: key.clone(),
        profile: "labeled".to_owned(),
        content: message.content(),
        size: u64::try_from(message.size()).unwrap(),
        number: 1,
        rate_until: None,
    };
    Permit::to_sign(
        Arc::new(MemorySink::default()),
        Arc::new(StoppedClock),
        Timestamp::UNIX_EPOCH,
        allowed,
        message,
    )
    .await
    .unwrap()
}

fn copy(secret: &Secret) -> Secret {
    Secret::take(&mut secret.expose().to_vec()).unwrap()
}

/// Every promise of [`Custody`] and of the keys it opens, for each of its algorithms.
pub(crate) async fn conforms(custody: &dyn Custody) {
    let all = [Algorithm::Ed25519, Algorithm::P256];
    assert!(!custody.algorithms().is_empty());
    for algorithm in all {
        if custody.algorithms().contains(&algorithm) {
            signs_what_verifies_and_again_after_reopening(custody, algorithm).await;
            refuses_a_permit_or_a_message_for_something_else(custody, algorithm).await;
            refuses_foreign_and_damaged_material(custody, algorithm).await;
        } else {
            refuses_an_algorithm_it_does_not_have(custody, algorithm).await;
        }
    }
}

async fn signs_what_verifies_and_again_after_reopening(custody: &dyn Custody, algorithm: Algorithm) {
    let key = key_ref("first");
    let Generated { public, material } = custody.generate(&key, algorithm).await.unwrap();
    assert_eq!(public.algorithm(), algorithm);
    for round in 0..2 {
        let open = custody.open(&key, &public, copy(&material)).await.unwrap();
        for content in [b"".as_slice(), b"hello", &[0xa5; 4096]] {
            let message = framed(&public, content);
            let permit = permit(&key, &message).await;
            let signature = open.sign(&permit, &message).await.unwrap();
            permit.settle(Settlement::Released);
            public.verify(message.message(), &signature).unwrap();
            assert!(public.verify(b"another message", &signature).is_err());
        }
        let shown = format!("{custody:?} {open:?}");
        assert!(
            !shown.contains(&hex::encode(material.expose())),
            "{round}: {shown}"
        );
    }
    let other = custody.generate(&key, algorithm).await.unwrap();
    assert_ne!(other.public, public, "two keys are never the same");
}

async fn refuses_a_permit_or_a_message_for_something_else(custody: &dyn Custody, algorithm: Algorithm) {
    let (key, other) = (key_ref("first"), key_ref("second"));
    let Generated { public, material } = custody.generate(&key, algorithm).await.unwrap();
    let open = custody.open(&key, &public, material).await.unwrap();
    let message = framed(&public, b"content");
    let mut next = key.clone();
    next.version = KeyVersion(2);

    let stranger = custody.generate(&other, algorithm).await.unwrap().public;
    let framed_for_another_key = framed(&stranger, b"content");
    let wrong = [
        ("another key's permit", permit(&other, &message).await, &message),
        (
            "another version's permit",
            permit(&next, &message).await,
            &message,
        ),
        (
            "a permit for another content",
            permit(&key, &framed(&public, b"other")).await,
            &message,
        ),
        (
            "a permit for the same content in another frame",
            permit(&key, &framed(&public, b"content")).await,
            &message,
        ),
        (
            "a message framed for another key",
            permit(&key, &framed_for_another_key).await,
            &framed_for_another_key,
        ),
    ];
    for (what, permit, message) in wrong {
        let refused = open.sign(&permit, message).await;
        assert!(
            matches!(refused, Err(CustodyError::PermitMismatch)),
            "{what}: {refused:?}"
        );
    }
    let right = permit(&key, &message).await;
    assert!(open.sign(&right, &message).await.is_ok(), "the control");
}

async fn refuses_foreign_and_damaged_material(custody: &dyn Custody, algorithm: Algorithm) {
    let key = key_ref("first");
    let own = custody.generate(&key, algorithm).await.unwrap();
    let other = custody.generate(&key, algorithm).await.unwrap();
    let mut flipped = own.material.expose().to_vec();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let mut cut = own.material.expose()[..last].to_vec();
    let mut longer = [own.material.expose(), &[0]].concat();
    for (what, material) in [
        ("another key's", other.material),
        ("one bit changed", Secret::take(&mut flipped).unwrap()),
        ("one byte short", Secret::take(&mut cut).unwrap()),
        ("one byte long", Secret::take(&mut longer).unwrap()),
        ("one byte in all", Secret::take(&mut [1]).unwrap()),
        ("all zero", Secret::take(&mut [0; 32]).unwrap()),
        ("all ones", Secret::take(&mut [0xff; 32]).unwrap()),
    ] {
        let refused = custody.open(&key, &own.public, material).await;
        assert!(
            matches!(refused, Err(CustodyError::NotOurs(_))),
            "{what}: {refused:?}"
        );
    }
    assert!(
        custody.open(&key, &own.public, own.material).await.is_ok(),
        "the control"
    );
}

async fn refuses_an_algorithm_it_does_not_have(custody: &dyn Custody, algorithm: Algorithm) {
    let key = key_ref("first");
    let refused = custody.generate(&key, algorithm).await;
    assert!(
        matches!(refused, Err(CustodyError::Algorithm { .. })),
        "{refused:?}"
    );
}
