//! What a Rust agent depends on: credentials to use, never to hold. Knows no host.
//!
//! An agent is a library of type `cdylib`, built with `cargo build --release --target wasm32-wasip2`:
//!
//! ```
//! use claviger_sdk::{Error, Signer};
//!
//! claviger_sdk::agent!(sign_release);
//!
//! fn sign_release(input: String) -> Result<String, Error> {
//!     let signature = Signer::open("sign-release")?.sign(input.as_bytes())?;
//!     Ok(String::from_utf8(signature)?)
//! }
//! ```
//!
//! The operator's manifest has a grant of that alias; without it the host does not even link the import:
//!
//! ```toml
//! [grants.sign-release]
//! sign = { key = "release", namespace = "file" }
//! ```
//!
//! What an agent may request of servers, and how, is in [`http`]. What it may keep where others can read or change it, in [`sealing`]; what
//! it may prove to itself or to others that have the same host, in [`mac`]; what the host proves of it to anybody, in [`attestation`].
//!
//! An agent prints with `println!`, reads files that its manifest gives it with [`std::fs`], and gets its variables from
//! [`std::env`](mod@std::env). Nothing else of a computer is there.

extern crate self as claviger_sdk;

pub mod attestation;
mod error;
mod grants;
pub mod http;
pub mod mac;
pub mod sealing;
mod signer;

pub use error::{Error, Refusal};
pub use grants::{Grant, Wish, grants, request_grant};
pub use signer::{Signer, SignerInfo};

#[doc(hidden)]
pub use wit_bindgen;

/// The generated code. Public for the macro only.
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../wit/credentials", "../wit/agent"],
        world: "claviger:agent/agent",
        runtime_path: "::claviger_sdk::wit_bindgen::rt",
        default_bindings_module: "::claviger_sdk::bindings",
        export_macro_name: "export_agent",
        pub_export_macro: true,
        generate_all,
    });
}

/// Makes a function the agent: it is called with the input and gives the answer, or an error whose text the host shows.
///
/// The function is `fn(String) -> Result<String, E>` where `E` is [`Error`] or anything that is displayed. Once in a crate.
#[macro_export]
macro_rules! agent {
    ($run:path) => {
        const _: () = {
            struct ClavigerAgent;

            impl $crate::bindings::exports::claviger::agent::run::Guest for ClavigerAgent {
                fn run(
                    input: ::std::string::String,
                ) -> ::core::result::Result<::std::string::String, ::std::string::String> {
                    $run(input).map_err(|error| ::std::string::ToString::to_string(&error))
                }
            }

    $crate::bindings::export_agent!(ClavigerAgent with_types_in $crate::bindings);
        };
    };
}
