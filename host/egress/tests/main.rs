//! The client against servers that misbehave by script: real TLS over loopback, nothing further.

mod addresses;
mod kit;
mod misbehaving;
mod sending;
mod tls;
