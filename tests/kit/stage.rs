//! A real guest in a real host on a real keyring: nothing between them is a model. What an operator does while the agent runs happens
//! where the agent's script prints, so that no test has to wait for it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use claviger::{Agent, Host, LoadError, Manifest, OutputSink, RunInput, RunReport, Secret};
use claviger_broker::audit::verify;
use claviger_broker::local::AUDIT_FOLDER;
use claviger_core::ComponentDigest;
use claviger_core::audit::{Entry, Event};

use crate::entries::entries;
use crate::guests::{Guest, compiled, guest};
use crate::vault::Vault;

/// What happens while an agent runs.
pub type Action = Box<dyn FnOnce() + Send>;

/// A line of a script at which the next [`Action`] happens.
pub const ACTION: &str = "print 1";

/// A keyring and a host whose broker it is.
#[derive(Debug)]
pub struct Stage {
    /// The host. Declared before the keyring, which ends after its last user.
    pub host: Host,
    /// The keyring.
    pub vault: Vault,
}

impl Stage {
    /// A host with a pool for four on this keyring, and the cache of compiled guests that all tests share.
    ///
    /// # Panics
    /// When the host cannot be built.
    #[must_use]
    pub fn new(vault: Vault) -> Self {
        let host = Host::builder(vault.broker.clone())
            .pool(claviger::PoolSize::new(4))
            .cache(compiled(), Secret::take(&mut [9; 32]).expect("locked memory"))
            .build()
            .expect("a host for four");
        Self { host, vault }
    }

    /// Loads the scripted agent under this name, pinned, with these lines after `[agent]`.
    ///
    /// # Errors
    /// The host's: it was not admitted.
    ///
    /// # Panics
    /// When the manifest does not parse: the problems are shown.
    pub async fn load(&self, name: &str, rest: &str) -> Result<Agent, LoadError> {
        self.load_guest(Guest::Agent, name, rest).await
    }

    /// As [`Stage::load`], with this guest.
    ///
    /// # Errors
    /// The host's: it was not admitted.
    ///
    /// # Panics
    /// When the manifest does not parse: the problems are shown.
    pub async fn load_guest(&self, which: Guest, name: &str, rest: &str) -> Result<Agent, LoadError> {
        let code = guest(which);
        let digest = ComponentDigest::of(code);
        let text = format!(
            "schema = 1\n[agent]\nname = \"{name}\"\ncomponent = \"agent.wasm\"\ndigest = \"{digest}\"\n{rest}"
        );
        match Manifest::parse(&text) {
            Ok((manifest, _warnings)) => self.host.load(&manifest, Path::new("/nonexistent"), code).await,
            Err(problems) => panic!("{problems:#?}\nin\n{text}"),
        }
    }

    /// Everything on the log so far.
    ///
    /// # Panics
    /// When the log cannot be written.
    pub async fn log(&self) -> Vec<Entry> {
        self.vault.broker.checkpoint().await.expect("a checkpoint");
        entries(&self.vault.folder().join(AUDIT_FOLDER))
    }

    /// Closes the keyring, has its log verified as anybody could, and returns what is on it.
    ///
    /// # Panics
    /// When the log does not verify.
    pub async fn close(&self) -> Vec<Entry> {
        let vkey = self.vault.broker.keyring().info().vkey.expect("a key of the log");
        self.vault.broker.close().await.expect("closes");
        let log = self.vault.folder().join(AUDIT_FOLDER);
        verify(&log, &vkey).expect("the log verifies");
        entries(&log)
    }
}

/// Runs a script; at each line [`ACTION`] the next action happens, and the agent goes on after it.
///
/// # Panics
/// When the agent does not start, or not every action happened.
pub async fn play(agent: &Agent, script: &str, actions: Vec<Action>) -> RunReport {
    let waiting = Arc::new(Mutex::new(VecDeque::from(actions)));
    let queue = Arc::clone(&waiting);
    let next = move |_: &[u8]| {
        let action = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        action.expect("an action for each line")();
    };
    let report = agent
        .run(RunInput::text(script).stdout(OutputSink::new(next)))
        .await
        .expect("starts");
    let left = waiting.lock().unwrap_or_else(PoisonError::into_inner).len();
    assert_eq!(left, 0, "every action happened: {report:?}");
    report
}

/// Does what an operator does, from a place that cannot wait: an [`Action`].
///
/// # Panics
/// Outside of a runtime with several threads.
pub fn operator<T: Send>(act: impl Future<Output = T> + Send) -> T {
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        let acting = scope.spawn(move || runtime.block_on(act));
        acting.join().expect("the operator succeeds")
    })
}

/// The events of one agent and of its instances, without the settlements.
#[must_use]
pub fn events_of<'a>(log: &'a [Entry], name: &str) -> Vec<&'a Event> {
    let of_agent = |event: &&Event| match event {
        Event::Admitted { agent, .. }
        | Event::NotAdmitted { agent, .. }
        | Event::Started { agent, .. }
        | Event::Ended { agent, .. }
        | Event::Denied { agent, .. }
        | Event::Suspended { agent, .. }
        | Event::Alert { agent, .. }
        | Event::SecretIssued { agent, .. }
        | Event::AgentSuspended { agent }
        | Event::AgentResumed { agent }
        | Event::Resumed { agent, .. }
        | Event::GrantProposed { agent, .. }
        | Event::ProposalDismissed { agent, .. } => agent.as_str() == name,
        Event::Allowed(allowed) => allowed.agent.as_str() == name,
        Event::ApprovalRequested(request) | Event::ApprovalEnded { request, .. } => {
            request.agent.as_str() == name
        }
        Event::HostStarted { .. }
        | Event::HostStopped
        | Event::KeyCreated { .. }
        | Event::KeyStateChanged { .. }
        | Event::CertificateRequested { .. }
        | Event::BackupRequested { .. }
        | Event::RestoreRequested { .. }
        | Event::ResealRequested { .. }
        | Event::ProofRequested { .. }
        | Event::RotationFailed { .. }
        | Event::SecretAdded { .. }
        | Event::SecretWithdrawn { .. }
        | Event::SecretRotationFailed { .. }
        | Event::SecretStateChanged { .. }
        | Event::Settled { .. }
        | Event::ClockAccepted
        | Event::Panic
        | Event::PanicLifted => false,
    };
    log.iter().map(|entry| &entry.event).filter(of_agent).collect()
}
