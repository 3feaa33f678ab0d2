//! Custody on a TPM 2.0: resident keys that sign and make MACs, sealed secrets, evidence, and the private software TPM that development
//! uses.
//!
//! One thread owns the device ([`Tpm`]); everything else asks it through bounded queues, one for each agent instance. This
//! crate knows no keyring, no manifest and no policy; what a key may sign was decided before, and a [`Permit`] says so.
//!
//! libtss2 writes a line to stderr for every command that fails; a program that wants its stderr to itself calls
//! [`quiet_libtss2`] first in `main`.
//!
//! [`Permit`]: claviger_core::Permit

mod actor;
mod agreement;
mod attester;
mod blob;
mod bound;
mod choice;
mod code;
mod control;
mod counter;
mod custody;
mod device;
mod error;
mod esys;
mod import;
mod link;
mod mac;
mod process;
mod quote;
mod recovery;
mod registers;
mod residue;
mod revocable;
mod sealer;
mod swtpm;
mod template;
mod tpm;
mod tss2;
mod wrap;

#[cfg(test)]
mod tests;

pub use choice::TpmChoice;
pub use error::TpmError;
pub use process::quiet_libtss2;
pub use recovery::{MAX_RECOVERY_FILE, NotRecoveryCode, RecoveryCode};
pub use registers::{NotRegisters, Registers};
pub use sealer::MAX_SEALED;
pub use tpm::{SessionKind, Tpm, TpmFacts};
