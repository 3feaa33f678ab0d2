//! Outbound HTTP for agents: the one place that will resolve, connect, attach a credential and scrub the answer.
//!
//! So far it holds [`Refusing`] alone: no manifest can grant HTTP yet, and a host without HTTP is one that says no to every
//! request, not one that lacks the trait. This crate opens no sockets, resolves no names, and knows no Wasm, no keyring and
//! no TPM.
#![forbid(unsafe_code)]

mod refusing;

pub use refusing::Refusing;
