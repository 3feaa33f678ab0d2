//! The only code that reaches a credential: it decides each request, logs it, and uses the key. It knows no Wasm and no HTTP.
#![forbid(unsafe_code)]

pub mod audit;
pub mod backup;
pub mod clock;
pub mod custody;
pub mod fit;
pub mod guard;
pub mod import;
pub mod keyring;
pub mod ledger;
pub mod local;
pub mod operator;
pub mod ssh_agent;

pub use clock::{ManualClock, SystemClock};
pub use local::LocalBroker;
