//! Why a TPM cannot be used at all. Not why one operation failed: that is `CustodyError`.

use std::io;
use std::path::PathBuf;

use claviger_core::custody::CustodyError;

/// Why a TPM cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// There is no such device.
    #[error(
        "there is no TPM at {}; enable it in the firmware's set-up, or ask for a software TPM or a passphrase", .0.display()
    )]
    NoDevice(PathBuf),
    /// The device may not be opened by this user.
    #[error(
        "{} may not be opened by this user; `sudo apt-get install tpm-udev`, `sudo usermod -aG tss $USER`, then log in again",
        .0.display()
    )]
    NoAccess(PathBuf),
    /// The device or the connection cannot be opened.
    #[error("the TPM at {place} cannot be opened: {cause}")]
    Open {
        /// Which.
        place: String,
        /// Why.
        cause: String,
    },
    /// The name of the connection is not one.
    #[error("expected `device:…`, `swtpm:…`, `mssim:…` or `tabrmd:…`, not `{0}`")]
    Tcti(String),
    /// The program is not installed.
    #[error("the program `swtpm` is not installed; `sudo apt-get install swtpm`")]
    SwtpmMissing,
    /// Another process has the software TPM's state.
    #[error("another process uses the software TPM in {}; only one may", .0.display())]
    SwtpmInUse(PathBuf),
    /// The software TPM did not start.
    #[error("the software TPM in {} did not start: {why}", .state.display())]
    SwtpmFailed {
        /// Its folder.
        state: PathBuf,
        /// What it wrote, or what happened.
        why: String,
    },
    /// The software TPM's folder cannot be used.
    #[error("the software TPM's folder {} cannot be used: {why}", .state.display())]
    SwtpmFolder {
        /// The folder.
        state: PathBuf,
        /// Why, and what was expected.
        why: String,
    },
    /// The storage root key is not the one that was pinned.
    #[error(
        "this keyring was made on another TPM, or the TPM was cleared: its storage root key is {found}, expected {expected}"
    )]
    NotOurs {
        /// The Name that was pinned, in hexadecimal.
        expected: String,
        /// The Name that was found.
        found: String,
    },
    /// The owner's hierarchy has a password, and no storage root key is persistent.
    #[error(
        "the TPM's owner has a password and no ECC storage root key is at 0x81000001; make one with \
         `tpm2_createprimary -C o -P PASSWORD -G ecc -c srk.ctx` (attributes of TCG template H-2) and \
         `tpm2_evictcontrol -C o -P PASSWORD -c srk.ctx 0x81000001`"
    )]
    OwnerPassword,
    /// The settings are not ours.
    #[error("the TPM's settings cannot be read: {0}")]
    Settings(String),
    /// A command failed.
    #[error("the TPM failed to {doing}: {cause}")]
    Command {
        /// What it was asked.
        doing: &'static str,
        /// The code and its meaning.
        cause: String,
        /// The raw response code (TPM 2.0 Library Part 2 §6.6), if the TPM or libtss2 gave one.
        code: Option<u32>,
    },
    /// The thread that owns the TPM cannot be started, or has ended.
    #[error("the TPM's thread does not run")]
    Thread(#[source] io::Error),
}

impl From<TpmError> for CustodyError {
    fn from(error: TpmError) -> Self {
        match error {
            TpmError::NotOurs { .. } => Self::NotOurs(error.to_string()),
            TpmError::NoDevice(_)
            | TpmError::NoAccess(_)
            | TpmError::Open { .. }
            | TpmError::Tcti(_)
            | TpmError::SwtpmMissing
            | TpmError::SwtpmInUse(_)
            | TpmError::SwtpmFailed { .. }
            | TpmError::SwtpmFolder { .. }
            | TpmError::OwnerPassword
            | TpmError::Settings(_)
            | TpmError::Command { .. }
            | TpmError::Thread(_) => Self::Unavailable(error.to_string()),
        }
    }
}
