//! The crate against real software TPMs, each in a folder of its own and ended with its test. Not the rules: those are tested
//! beside their code.

mod agreement;
mod attesting;
mod bound;
mod custody;
mod device;
mod formats;
mod importing;
mod interposer;
mod lost;
mod macs;
mod queues;
mod recovery;
mod revocation;
mod revocation_kinds;
mod sealing;
mod unusable;
mod wrapped;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use claviger_core::audit::{AuditError, AuditSink, Entry, EntryIndex, Use};
use claviger_core::custody::{CustodyError, Generated, SigningKey};
use claviger_core::http::Origin;
use claviger_core::profile::proof::github_app;
use claviger_core::profile::{FrameContext, Framed, Profile, SigningRule};
use claviger_core::{
    Algorithm, BoxFuture, Clock, ComponentDigest, ContentDigest, InstanceId, KeyRef, KeyVersion,
    ManifestDigest, Permit, PublicKey, Secret, Signature,
};
use jiff::Timestamp;
use tempfile::TempDir;

use crate::{SessionKind, Tpm, TpmChoice};

pub(crate) const SESSIONS: [SessionKind; 2] = [SessionKind::Password, SessionKind::SaltedEncrypted];

/// A software TPM in a folder that goes with it.
pub(crate) struct Rig {
    // Dropped first: it ends the child.
    pub(crate) tpm: Tpm,
    pub(crate) folder: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(SessionKind::Password)
    }

    pub(crate) fn with(session: SessionKind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let choice = TpmChoice::Swtpm {
            state: folder.path().join("tpm"),
        };
        let tpm = match session {
            SessionKind::Password => Tpm::connect(choice),
            SessionKind::SaltedEncrypted => Tpm::connect_encrypted(choice),
        };
        Self {
            tpm: tpm.unwrap_or_else(|error| panic!("{error}")),
            folder,
        }
    }

    /// A new key that is open.
    pub(crate) async fn key(&self, name: &str) -> TestKey {
        self.key_of(Algorithm::P256, name).await
    }

    /// As [`Rig::key`], of this algorithm.
    pub(crate) async fn key_of(&self, algorithm: Algorithm, name: &str) -> TestKey {
        let custody = self.tpm.custody();
        let name = key_ref(name);
        let Generated { public, material } = custody.generate(&name, algorithm).await.unwrap();
        let stored = material.expose().to_vec();
        let open = custody.open(&name, &public, material).await.unwrap();
        TestKey {
            name,
            public,
            stored,
            open,
        }
    }
}

/// A key, and what a keyring would store of it.
pub(crate) struct TestKey {
    pub(crate) name: KeyRef,
    pub(crate) public: PublicKey,
    pub(crate) stored: Vec<u8>,
    pub(crate) open: Arc<dyn SigningKey>,
}

impl TestKey {
    /// Signs as the broker does: frame, log, use.
    pub(crate) async fn sign(&self, who: u64, content: &[u8]) -> Result<Signature, CustodyError> {
        let framed = framed(&self.public, content);
        let permit = permit(&self.name, &framed, who).await;
        let signature = self.open.sign(&permit, &framed).await?;
        verify(&self.public, &framed, &signature);
        Ok(signature)
    }
}

pub(crate) fn key_ref(name: &str) -> KeyRef {
    KeyRef {
        name: name.parse().unwrap(),
        version: KeyVersion::FIRST,
    }
}

pub(crate) fn framed(key: &PublicKey, content: &[u8]) -> Framed {
    let context = FrameContext {
        key,
        now: Timestamp::UNIX_EPOCH,
        nonce: [0; 16],
    };
    if key.algorithm() == Algorithm::Rsa2048 {
        let origin: Origin = "https://api.github.com".parse().unwrap();
        let profile = Profile::GithubApp {
            app: ContentDigest::of(content).to_string().parse().unwrap(),
            origin: origin.clone(),
        };
        return github_app(&profile, &origin, &context).unwrap();
    }
    let rule = SigningRule::Labeled {
        label: "test".parse().unwrap(),
    };
    rule.frame(content, &context).unwrap()
}

/// Verifies with the `p256` crate itself, from the bytes alone; RSA as core does.
pub(crate) fn verify(key: &PublicKey, framed: &Framed, signature: &Signature) {
    use p256::ecdsa::signature::Verifier as _;
    if key.algorithm() == Algorithm::Rsa2048 {
        key.verify(framed.message(), signature).unwrap();
        return;
    }
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key.as_bytes()).unwrap();
    let signature = p256::ecdsa::Signature::from_slice(signature.as_bytes()).unwrap();
    key.verify(framed.message(), &signature).unwrap();
}

pub(crate) async fn permit(key: &KeyRef, message: &Framed, who: u64) -> Permit {
    let allowed = Use {
        instance: InstanceId(who),
        agent: "tester".parse().unwrap(),
        component: ComponentDigest::of(b"component"),
        manifest: ManifestDigest::of(b"manifest"),
        grant: "sign".parse().unwrap(),
        key: Some(key.clone()),
        secret: None,
        profile: "labeled".to_owned(),
        operation: None,
        request: None,
        content: message.content(),
        size: message.size() as u64,
        number: 1,
        rate_until: None,
        approval: None,
    };
    let sink = Arc::new(CountingSink::default());
    Permit::to_sign(sink, Arc::new(Epoch), Timestamp::UNIX_EPOCH, allowed, message)
        .await
        .unwrap()
}

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
struct Epoch;

impl Clock for Epoch {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}
