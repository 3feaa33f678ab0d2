//! Permits to try a custody with, from a log in memory. Not a way round the broker: its custody is reached with permits of its log
//! alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use claviger_core::audit::{AuditError, AuditSink, Entry, EntryIndex, Use};
use claviger_core::http::Origin;
use claviger_core::profile::proof::github_app;
use claviger_core::profile::{FrameContext, Framed, Profile, Serial, SigningRule};
use claviger_core::{
    Algorithm, BoxFuture, Clock, ComponentDigest, ContentDigest, InstanceId, KeyRef, KeyVersion,
    ManifestDigest, Permit, PublicKey,
};
use jiff::Timestamp;

use crate::vault::named;

/// A log that only counts.
#[derive(Debug, Default)]
struct CountingSink(AtomicU64);

impl AuditSink for CountingSink {
    fn append(&self, _entry: Entry) -> BoxFuture<'static, Result<EntryIndex, AuditError>> {
        let index = self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(index)))
    }

    fn note(&self, _entry: Entry) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<String, AuditError>> {
        Box::pin(std::future::ready(Err(AuditError::Closed)))
    }
}

#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

/// The first version of a key of this name.
///
/// # Panics
/// When it is not a name.
#[must_use]
pub fn key_ref(name: &str) -> KeyRef {
    KeyRef {
        name: named(name),
        version: KeyVersion::FIRST,
    }
}

/// A message that a `labeled` key signs; for an RSA key, one that the key of a GitHub App signs, other content in another message.
///
/// # Panics
/// When the content is too large.
#[must_use]
pub fn framed(public: &PublicKey, content: &[u8]) -> Framed {
    if public.algorithm() == Algorithm::Rsa2048 {
        let origin: Origin = "https://api.github.com".parse().expect("an origin");
        let profile = Profile::GithubApp {
            app: named(&ContentDigest::of(content).to_string()),
            origin: origin.clone(),
        };
        let context = FrameContext {
            key: public,
            now: Timestamp::UNIX_EPOCH,
            nonce: [0; 16],
        };
        return github_app(&profile, &origin, &context).expect("a message");
    }
    let rule = SigningRule::Labeled {
        label: named("conformance"),
    };
    let context = FrameContext {
        key: public,
        now: Timestamp::UNIX_EPOCH,
        nonce: [0; 16],
    };
    rule.frame(content, &context).expect("a message")
}

/// A permit of this instance for this message under this key.
///
/// # Panics
/// Never: a log in memory takes everything.
pub async fn permit(key: &KeyRef, message: &Framed, who: u64) -> Permit {
    Permit::to_sign(
        Arc::new(CountingSink::default()),
        Arc::new(StoppedClock),
        Timestamp::UNIX_EPOCH,
        used(key, message.content(), message.size() as u64, who),
        message,
    )
    .await
    .expect("a permit")
}

/// A permit for one use of a key without a public half.
///
/// # Panics
/// Never: a log in memory takes everything.
pub async fn permit_to_use(key: &KeyRef, input: Serial) -> Permit {
    Permit::to_use(
        Arc::new(CountingSink::default()),
        Arc::new(StoppedClock),
        Timestamp::UNIX_EPOCH,
        used(key, ContentDigest::of(b""), 0, 1),
        input,
    )
    .await
    .expect("a permit")
}

fn used(key: &KeyRef, content: ContentDigest, size: u64, who: u64) -> Use {
    Use {
        instance: InstanceId(who),
        agent: named("tester"),
        component: ComponentDigest::of(b"component"),
        manifest: ManifestDigest::of(b"manifest"),
        grant: named("grant"),
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
