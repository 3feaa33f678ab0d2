//! Where a key shall live, as an argument. Not whether such a place is there: the keyring knows.

use clap::ValueEnum;
use claviger_core::custody::CustodyKind;

/// Where a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Custody {
    /// In the TPM, which signs; the key never leaves it
    Tpm,
    /// Sealed by the TPM, opened in locked memory while in use
    TpmSealed,
    /// Encrypted in the keyring, opened in locked memory while in use
    Software,
}

impl From<Custody> for CustodyKind {
    fn from(custody: Custody) -> Self {
        match custody {
            Custody::Tpm => Self::Tpm,
            Custody::TpmSealed => Self::TpmSealed,
            Custody::Software => Self::Software,
        }
    }
}
