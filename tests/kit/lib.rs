//! What tests through real guests share: where the guests are, manifests, and brokers to run them with. Not a test itself.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test kit fails by panicking"
)]

pub mod bare;
pub mod bodies;
pub mod custody;
pub mod custody_symmetric;
pub mod driver;
pub mod entries;
mod guests;
pub mod held;
pub mod holder;
pub mod judge;
pub mod lives;
pub mod permits;
pub mod process;
pub mod scan;
pub mod stage;
mod toy;
pub mod vault;
pub mod verifiers;

pub use guests::{Guest, guest};
pub use toy::{Record, ToyBroker};

use claviger::{Agent, Host, LoadError, Manifest, RunInput, RunReport, Secret};
use std::path::Path;
use std::sync::Arc;

/// A manifest of an agent named `test` with these lines after `[agent]`.
///
/// # Panics
/// When it does not parse: the problems are shown.
#[must_use]
pub fn manifest(rest: &str) -> Manifest {
    let text = format!("schema = 1\n\n[agent]\nname = \"test\"\ncomponent = \"test.wasm\"\n\n{rest}");
    match Manifest::parse(&text) {
        Ok((manifest, _warnings)) => manifest,
        Err(problems) => panic!("{problems:#?}\nin\n{text}"),
    }
}

/// A grant to sign, for manifests.
pub const GRANT: &str = "[grants.release]\nsign = { key = \"release\", namespace = \"file\" }\n";

/// The grant `api`, of everything at `https://toy.test`, for manifests. The broker of these tests looks into none of it.
pub const HTTP_GRANT: &str =
    "[grants.api]\nhttp = { origin = \"https://toy.test\", allow = [\"GET /**\"] }\n";

/// A toy broker and a host that uses it.
#[derive(Debug)]
pub struct Bench {
    /// The broker, for what it recorded.
    pub broker: Arc<ToyBroker>,
    /// The host.
    pub host: Host,
}

impl Bench {
    /// A host with a pool for four, and a cache of compiled guests that all tests share: compiling takes most of their time.
    ///
    /// # Panics
    /// When the host cannot be built.
    #[must_use]
    pub fn new() -> Self {
        let broker = Arc::new(ToyBroker::new());
        let host = Host::builder(broker.clone())
            .pool(claviger::PoolSize::new(4))
            .cache(
                guests::compiled(),
                Secret::take(&mut [9; 32]).expect("locked memory"),
            )
            .build()
            .expect("a host for four");
        Self { broker, host }
    }

    /// Loads a guest under a manifest with these lines, in a folder that has nothing.
    ///
    /// # Errors
    /// The host's.
    pub async fn load(&self, rest: &str, component: &[u8]) -> Result<Agent, LoadError> {
        self.host
            .load(&manifest(rest), Path::new("/nonexistent"), component)
            .await
    }

    /// Loads the agent that sends requests, under [`HTTP_GRANT`] and these lines, and has it obey.
    ///
    /// # Panics
    /// When it cannot be loaded or started.
    pub async fn requests(&self, rest: &str, commands: &str) -> RunReport {
        let rest = format!("{rest}\n{HTTP_GRANT}");
        let agent = self.load(&rest, guest(Guest::Http)).await.expect("loads");
        agent.run(RunInput::text(commands)).await.expect("starts")
    }

    /// Loads the scripted agent and has it obey.
    ///
    /// # Panics
    /// When it cannot be loaded or started.
    pub async fn script(&self, rest: &str, commands: &str) -> RunReport {
        let agent = self.load(rest, guest(Guest::Agent)).await.expect("loads");
        agent.run(RunInput::text(commands)).await.expect("starts")
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
