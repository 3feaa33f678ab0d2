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
mod rotate;
pub mod sealing;
mod signer;

pub use error::{Error, Refusal};
pub use grants::{Grant, Wish, grants, request_grant};
pub use rotate::Rotate;
pub use signer::{Signer, SignerInfo};

#[doc(hidden)]
pub use wit_bindgen;

/// The generated code of the world of rotators. Public for the macro only.
#[doc(hidden)]
pub mod rotator_bindings {
    wit_bindgen::generate!({
        path: ["../wit/credentials", "../wit/agent"],
        world: "claviger:agent/rotator",
        runtime_path: "::claviger_sdk::wit_bindgen::rt",
        default_bindings_module: "::claviger_sdk::rotator_bindings",
        export_macro_name: "export_rotator",
        pub_export_macro: true,
        with: {
            "claviger:credentials/types@0.1.0": crate::bindings::claviger::credentials::types,
            "claviger:credentials/signing@0.1.0": crate::bindings::claviger::credentials::signing,
            "claviger:credentials/sealing@0.1.0": crate::bindings::claviger::credentials::sealing,
            "claviger:credentials/mac@0.1.0": crate::bindings::claviger::credentials::mac,
            "claviger:credentials/attestation@0.1.0": crate::bindings::claviger::credentials::attestation,
            "claviger:credentials/grants@0.1.0": crate::bindings::claviger::credentials::grants,
        },
    });
}

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

/// Makes a type the rotator: its [`Rotate`] is called, one function for each step, each in an instance of its own. Once in a crate.
///
/// ```
/// use claviger_sdk::http::{self, Request};
/// use claviger_sdk::Rotate;
///
/// claviger_sdk::rotator!(Tokens);
///
/// struct Tokens;
///
/// impl Rotate for Tokens {
///     type Error = http::Error;
///
///     fn issue() -> Result<(), http::Error> {
///         // The host takes the new token out of the answer; this gets the status.
///         Request::post("https://api.example.com/tokens").send()?.finish().map(drop)
///     }
///
///     fn probe() -> Result<(), http::Error> {
///         Request::get("https://api.example.com/me").send()?.finish().map(drop)
///     }
///
///     fn withdraw(id: String) -> Result<(), http::Error> {
///         Request::delete(format!("https://api.example.com/tokens/{id}")).send()?.finish().map(drop)
///     }
/// }
/// ```
#[macro_export]
macro_rules! rotator {
    ($rotator:ty) => {
        const _: () = {
            struct ClavigerRotator;

            impl $crate::rotator_bindings::exports::claviger::agent::rotation::Guest for ClavigerRotator {
                fn issue() -> ::core::result::Result<(), ::std::string::String> {
                    <$rotator as $crate::Rotate>::issue()
                        .map_err(|error| ::std::string::ToString::to_string(&error))
                }

                fn probe() -> ::core::result::Result<(), ::std::string::String> {
                    <$rotator as $crate::Rotate>::probe()
                        .map_err(|error| ::std::string::ToString::to_string(&error))
                }

                fn withdraw(id: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                    <$rotator as $crate::Rotate>::withdraw(id)
                        .map_err(|error| ::std::string::ToString::to_string(&error))
                }
            }

    $crate::rotator_bindings::export_rotator!(ClavigerRotator with_types_in $crate::rotator_bindings);
        };
    };
}
