//! Outbound HTTP for agents: the one place that resolves, connects, attaches a credential and looks through the answer.
//!
//! [`HttpsClient`] is core's `Egress`. It sends what a broker has permitted and logged, to the origin that the permit names and to no
//! other, and gives back what a grant lets an agent see. It decides nothing, and knows no Wasm, no keyring, no TPM and no log.
#![forbid(unsafe_code)]

mod address;
mod answer;
mod body;
mod client;
mod connect;
mod exchange;
mod forms;
mod identity;
mod locked;
mod nonce;
mod outgoing;
mod phases;
mod pool;
mod request;
#[doc(hidden)]
pub mod scrub; // Not for embedders: the fuzz target and the benchmark reach it.
mod sigv4;
mod tls;
mod token;

pub use address::{Resolver, SystemResolver};
pub use client::{HttpsClient, MAX_CONNECTIONS};
pub use phases::Phases;
#[doc(hidden)]
pub use request::written; // Not for embedders: tests show it to other signers.
