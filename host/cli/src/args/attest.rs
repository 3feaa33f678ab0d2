//! `claviger key attest`, and who refuses a revoked key, as arguments. Not what a TPM can do: the broker asks it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use claviger_core::KeyName;
use claviger_core::key::KeySpec;

/// `claviger key attest`.
#[derive(Debug, Args)]
pub(crate) struct Attest {
    /// The key that lives in the TPM, for its newest version; or `NAME@vN`
    pub(crate) key: KeySpec,
    /// The key with profile `attest` that proves it [default: the only one there is]
    #[arg(long, value_name = "KEY")]
    pub(crate) by: Option<KeyName>,
    /// What the verifier gave, 16 to 32 bytes in hexadecimal [default: random, and shown]
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    pub(crate) nonce: Option<Nonce>,
    /// The folder to write the files into; none of them may be there
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
}

/// A verifier's nonce.
#[derive(Debug, Clone)]
pub(crate) struct Nonce(pub(crate) Vec<u8>);

fn nonce(text: &str) -> Result<Nonce, String> {
    match hex::decode(text) {
        Ok(bytes) if (16..=32).contains(&bytes.len()) => Ok(Nonce(bytes)),
        Ok(bytes) => Err(format!("expected 16 to 32 bytes, not {}", bytes.len())),
        Err(_) => Err("expected hexadecimal digits, two for each byte".to_owned()),
    }
}

/// Who refuses a key once it is revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Revocation {
    /// This keyring
    #[default]
    Keyring,
    /// The TPM too, also to whoever puts an older copy of the keyring back; for keys that live in it
    Hardware,
}
