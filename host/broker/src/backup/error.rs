//! Why a backup cannot be written or read. No variant holds a value, and none repeats text of a file unescaped.

use claviger_core::custody::CustodyError;
use claviger_core::secret::SecretError;

use super::FORMAT;

/// Why a backup cannot be written or read. The texts do not name the file: whoever opened it does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The system failed.
    #[error("cannot {action} the backup")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("it is not a backup: {0}")]
    NotABackup(&'static str),
    /// None of the identities is one that the file was made for.
    #[error(
        "none of the {identities} identities opens it: it was made for {recipients} other recipients, or its header was changed"
    )]
    WrongIdentity {
        /// How many were tried.
        identities: usize,
        /// For how many recipients of a kind that is known here it was made.
        recipients: usize,
    },
    /// Bytes were changed, or are missing.
    #[error("it is damaged or was cut off at byte {at}: {what}")]
    Damaged {
        /// Where in the file, counted from 0: the start of what cannot be read.
        at: u64,
        /// What.
        what: String,
    },
    /// It opens, and what is in it was not written by this program, or contradicts itself.
    #[error("its item {item} cannot be read: {what}")]
    Content {
        /// Which, counted from 1; 0 is what precedes the items.
        item: u64,
        /// What is wrong.
        what: String,
    },
    /// A later version wrote it.
    #[error(
        "it has format {found}, and this version of claviger reads up to format {FORMAT}; restore it with a later version"
    )]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It was not signed by the keyring that it says it is of, or not by the one that was expected.
    #[error("it cannot be trusted: {0}")]
    Untrusted(String),
    /// The text is not a recipient.
    #[error(
        "`{0}` is not a recipient; expected `age1` and 58 more characters, or `age1tag1` and 59, as `claviger backup keygen` prints them; \
         the first `age-keygen` prints, too"
    )]
    Recipient(String),
    /// There are no recipients, or too many.
    #[error("a backup has 1 to {allowed} recipients, not {found}")]
    Recipients {
        /// The bound.
        allowed: usize,
        /// How many were given.
        found: usize,
    },
    /// The text is not an identity file.
    #[error("line {line} of the identity file {problem}")]
    Identity {
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it. Without any of it.
        problem: &'static str,
    },
    /// An identity is a key in a TPM, and the keyring at hand has none.
    #[error("its identity is a key in a TPM, and this keyring is on none")]
    NoTpm,
    /// The TPM that an identity is in failed, or is another one.
    #[error("the TPM of its identity cannot be used")]
    Custody(#[source] CustodyError),
    /// Locked memory could not be had.
    #[error(transparent)]
    Memory(#[from] SecretError),
    /// The system gave no random numbers.
    #[error("the system gave no random numbers: {0}")]
    Random(String),
    /// Encrypting failed, which the bounds exclude.
    #[error("encrypting the backup failed")]
    Encryption,
}

impl BackupError {
    pub(super) const fn reading(source: std::io::Error) -> Self {
        Self::Io {
            action: "read",
            source,
        }
    }

    pub(super) const fn writing(source: std::io::Error) -> Self {
        Self::Io {
            action: "write",
            source,
        }
    }

    pub(super) fn damaged(at: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            at,
            what: what.into(),
        }
    }
}
