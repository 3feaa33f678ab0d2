//! What the benchmarks share: a broker on disk, a host over it, and an agent that signs. Measures nothing.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(dead_code, reason = "each benchmark uses its part")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use claviger::{Agent, Answer, Host, Manifest, PoolSize, RunInput};
use claviger_broker::LocalBroker;
use claviger_broker::audit::Durability;
use claviger_broker::keyring::{RootKind, RootSpec};
use claviger_broker::local::{AUDIT_FOLDER, KeyCreation, Options};
use claviger_core::custody::CustodyKind;
use claviger_core::profile::Profile;
use claviger_core::{Algorithm, Broker, ComponentDigest};
use claviger_tpm::{SessionKind, Tpm, TpmChoice};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The grant and the key.
pub(crate) const GRANT: &str = "bench";
const KEYRING: &str = "keyring";

/// A keyring in a private software TPM and its log, in a folder that is removed at the end, on the disk that cargo builds on: `/tmp` may
/// be memory.
pub(crate) struct Fixture {
    /// Where the measured futures run.
    pub(crate) runtime: Runtime,
    /// The broker.
    pub(crate) broker: Arc<LocalBroker>,
    /// Its TPM.
    pub(crate) tpm: Tpm,
    /// Holds the keyring and the TPM's state.
    pub(crate) folder: TempDir,
}

impl Fixture {
    /// A broker with one `labeled` key.
    pub(crate) fn new(
        durability: Durability,
        algorithm: Algorithm,
        custody: CustodyKind,
        session: SessionKind,
    ) -> Self {
        let runtime = runtime();
        let folder = folder();
        let choice = TpmChoice::Swtpm {
            state: folder.path().join("tpm"),
        };
        let tpm = match session {
            SessionKind::SaltedEncrypted => Tpm::connect_encrypted(choice),
            _ => Tpm::connect(choice),
        }
        .unwrap();
        let keyring = folder.path().join(KEYRING);
        let root = RootSpec {
            kind: RootKind::Swtpm,
            settings: tpm.settings(&keyring).unwrap(),
        };
        let options = Options::new(keyring, tpm.sealer())
            .resident(tpm.custody())
            .durability(durability);
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
            tpm,
            folder,
        }
    }

    /// The audit log's folder.
    pub(crate) fn audit(&self) -> PathBuf {
        self.folder.path().join(KEYRING).join(AUDIT_FOLDER)
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
