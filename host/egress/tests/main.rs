//! The client against servers that misbehave by script: real TLS over loopback, nothing further.
#![expect(unreachable_pub, reason = "a test binary: nothing reaches into it")]

mod addresses;
mod kit;
mod misbehaving;
mod sending;
mod tls;
