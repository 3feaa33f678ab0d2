//! The client against servers that misbehave by script: real TLS over loopback, nothing further.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the functions that tests share fail as tests do"
)]

mod addresses;
mod kit;
mod misbehaving;
mod sending;
mod tls;
mod tokens;
