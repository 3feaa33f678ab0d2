//! What the benchmarks share: a broker on disk, a host over it, and an agent that signs. Measures nothing.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark stops at the first surprise"
)]
#![allow(dead_code, reason = "each benchmark uses its part")]

use std::sync::Arc;
use std::time::Duration;

use claviger::{Agent, Answer, Host, Manifest, PoolSize, RunInput};
use claviger_broker::LocalBroker;
use claviger_broker::audit::Durability;
use claviger_broker::custody::{KdfCost, PassphraseSealer};
use claviger_broker::keyring::{RootKind, RootSpec};
use claviger_broker::local::{KeyCreation, Options};
use claviger_core::custody::{Custody, CustodyKind};
use claviger_core::profile::Profile;
use claviger_core::{Algorithm, Broker, ComponentDigest, Secret};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The grant and the key.
pub(crate) const GRANT: &str = "bench";

/// A keyring and its log in a folder that is removed at the end, on the disk that cargo builds on: `/tmp` may be memory.
pub(crate) struct Fixture {
    /// Where the measured futures run.
    pub(crate) runtime: Runtime,
    /// The broker.
    pub(crate) broker: Arc<LocalBroker>,
    /// Holds the keyring.
    pub(crate) folder: TempDir,
}

impl Fixture {
    /// A broker with one `labeled` key, opened under a passphrase that costs nothing.
    pub(crate) fn new(
        durability: Durability,
        algorithm: Algorithm,
        custody: CustodyKind,
        resident: Option<Arc<dyn Custody>>,
    ) -> Self {
        let runtime = runtime();
        let folder = folder();
        let mut passphrase = *b"correct horse";
        let passphrase = Secret::take(&mut passphrase).unwrap();
        let sealer = Arc::new(PassphraseSealer::new(passphrase, KdfCost::INSECURE_FOR_TESTS).unwrap());
        let mut options = Options::new(folder.path().join("keyring"), sealer).durability(durability);
        options.resident = resident;
        let root = RootSpec {
            kind: RootKind::Passphrase,
            settings: String::new(),
        };
        let key = KeyCreation {
            name: GRANT.parse().unwrap(),
            profile: Profile::Labeled {
                label: GRANT.parse().unwrap(),
            },
            algorithm,
            custody,
        };
        let broker = runtime.block_on(async {
            let broker = LocalBroker::create(options, root).await.unwrap();
            broker.create_key(key).await.unwrap();
            broker
        });
        Self {
            runtime,
            broker,
            folder,
        }
    }

    /// Loads a guest that may sign with the key, in a host with the default pool.
    pub(crate) fn load(&self, guest: kit::Guest) -> Agent {
        let component = kit::guest(guest);
        let host = Host::builder(Arc::clone(&self.broker) as Arc<dyn Broker>)
            .pool(PoolSize::default())
            .build()
            .unwrap();
        let manifest = manifest(component);
        let folder = self.folder.path();
        self.runtime
            .block_on(host.load(&manifest, folder, component))
            .unwrap()
    }

    /// How long one run takes in which the scripted agent signs 32 bytes so often.
    pub(crate) fn sign(&self, agent: &Agent, times: u64) -> Duration {
        let input = RunInput::text(format!("sign-loop {GRANT} {times}"));
        let report = self.runtime.block_on(agent.run(input)).unwrap();
        assert_eq!(report.answer, Answer::Done(format!("signed={times}")));
        report.elapsed
    }
}

/// A manifest that grants the key, with room for long measurements.
pub(crate) fn manifest(component: &[u8]) -> Manifest {
    let digest = ComponentDigest::of(component);
    kit::manifest(&format!(
        "digest = \"{digest}\"\n[limits]\ndeadline = \"1 h\"\ncpu = \"1 h\"\n\
         [grants.{GRANT}]\nsign = {{ key = \"{GRANT}\" }}\n"
    ))
}

/// The runtime that the command uses.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// A folder on the disk that cargo builds on.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
