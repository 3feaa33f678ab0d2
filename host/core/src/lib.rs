//! The words of Claviger as types: names, the manifest, requests, refusals, profiles, permits, and the traits between crates.
//!
//! This crate reads no files, opens no sockets, reads no clock, and knows no async runtime, no wasmtime, no TPM and no TLS.
//! What it decides, it decides from its arguments.
//!
//! Its enums are closed, not `#[non_exhaustive]`: Claviger's crates match them without `_`, so that a new variant must be thought
//! of wherever it matters. Error enums of one operation stay open.
#![forbid(unsafe_code)]

pub mod admission;
pub mod approval;
pub mod attest;
pub mod audit;
pub mod broker;
pub mod clock;
pub mod custody;
pub mod digest;
pub mod egress;
pub mod future;
mod glob;
pub mod http;
pub mod json;
pub mod key;
pub mod manifest;
pub mod name;
pub mod permit;
pub mod profile;
pub mod proposal;
pub mod refusal;
pub mod request;
pub mod rotator;
pub mod secret;
pub mod stack;

pub use admission::{Admission, AdmissionId, NotAdmitted};
pub use approval::Approver;
pub use audit::{AuditError, AuditSink, Entry, EntryIndex, Event};
pub use broker::Broker;
pub use clock::Clock;
pub use digest::{ComponentDigest, ContentDigest, ManifestDigest, RequestDigest};
pub use future::BoxFuture;
pub use key::{Algorithm, KeyAlgorithm, KeyIdentity, KeyRef, KeyVersion, PublicKey, Signature};
pub use manifest::Manifest;
pub use name::{AgentName, GrantAlias, KeyName, SecretName};
pub use permit::Permit;
pub use refusal::Refusal;
pub use request::{InstanceId, Outcome, Request};
pub use secret::Secret;
