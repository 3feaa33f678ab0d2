//! A permit and a message to try a key with. Tests only. What every custody must do is a suite in the test kit, over all of them.

use std::sync::{Arc, Mutex};

use claviger_core::audit::{AuditError, AuditSink, Entry, EntryIndex, Use};
use claviger_core::profile::{FrameContext, Framed, Narrowing, Profile, Serial};
use claviger_core::{
    BoxFuture, Clock, ComponentDigest, ContentDigest, InstanceId, KeyRef, KeyVersion, ManifestDigest, Permit,
    PublicKey,
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
    let size = u64::try_from(message.size()).unwrap();
    Permit::to_sign(
        Arc::new(MemorySink::default()),
        Arc::new(StoppedClock),
        Timestamp::UNIX_EPOCH,
        used(key, message.content(), size),
        message,
    )
    .await
    .unwrap()
}

/// A permit for one use of a key without a public half.
pub(crate) async fn permit_to_use(key: &KeyRef, input: Serial) -> Permit {
    Permit::to_use(
        Arc::new(MemorySink::default()),
        Arc::new(StoppedClock),
        Timestamp::UNIX_EPOCH,
        used(key, ContentDigest::of(b""), 0),
        input,
    )
    .await
    .unwrap()
}

fn used(key: &KeyRef, content: ContentDigest, size: u64) -> Use {
    Use {
        instance: InstanceId(1),
        agent: "tester".parse().unwrap(),
        component: ComponentDigest::of(b"component"),
        manifest: ManifestDigest::of(b"manifest"),
        grant: "grant".parse().unwrap(),
        key: Some(key.clone()),
        secret: None,
        profile: "labeled".to_owned(),
        operation: None,
        request: None,
        content,
        size,
        number: 1,
        rate_until: None,
        approval: None,
    }
}
