//! Why the keyring cannot do it. No variant holds key material.

use std::path::{Path, PathBuf};

use claviger_core::audit::SecretRef;
use claviger_core::custody::{Assurance, CustodyError};
use claviger_core::profile::ProfileError;
use claviger_core::secret::SecretError;
use claviger_core::{KeyRef, SecretName};

use super::life::LifeError;
use super::{FORMAT, KeyState, MAX_KEYS, RootKind};

/// Why the keyring cannot do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// There is no keyring.
    #[error("there is no keyring in `{}`; make one with `claviger init`", .folder.display())]
    Missing {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// There is one already.
    #[error("there is a keyring in `{}` already; it was left as it is", .folder.display())]
    Exists {
        /// Where.
        folder: PathBuf,
    },
    /// Another process has it open.
    #[error("the keyring is in use by {}; stop that process first, or ask it", process(.pid))]
    InUse {
        /// Which process, if it could be read.
        pid: Option<u32>,
    },
    /// Others than the owner can reach it.
    #[error("`{}` {problem}; {fix}", .path.display())]
    Insecure {
        /// What.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
        /// What to type or do.
        fix: String,
    },
    /// The file is not a keyring, or one of a later format.
    #[error("{found}; expected a keyring of format {FORMAT}")]
    Format {
        /// What it is.
        found: String,
    },
    /// The root key does not open: another passphrase, another TPM, or changed bytes.
    #[error("the keyring's root key does not open: {0}")]
    Root(CustodyError),
    /// The keyring is protected by something else than what was offered. There is no falling back.
    #[error("the keyring's root key is protected by `{recorded}`, not by {offered}")]
    OtherRoot {
        /// What the keyring was made with.
        recorded: RootKind,
        /// What was offered.
        offered: Assurance,
    },
    /// The keyring was changed or damaged.
    #[error("the keyring was changed or damaged: {what}; restore it from a backup")]
    Integrity {
        /// What, naming the key or secret if one is known.
        what: String,
    },
    /// The system failed.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The database failed. Nothing was changed, unless the system fails to say what reached the disk; then it shows, whole,
    /// when the keyring is opened next.
    #[error("cannot {action} the keyring's database")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No such key.
    #[error("there is no key `{key}`")]
    NoKey {
        /// Which.
        key: KeyRef,
    },
    /// The key has an active version already, or the version is not the next one.
    #[error("key `{key}` cannot be added: {problem}")]
    KeyExists {
        /// Which.
        key: KeyRef,
        /// Why.
        problem: String,
    },
    /// A key cannot go from the one state to the other.
    #[error("key `{key}` is {from} and cannot become {to}")]
    Transition {
        /// Which.
        key: KeyRef,
        /// Its state.
        from: KeyState,
        /// The state asked for.
        to: KeyState,
    },
    /// A key or secret cannot go that way now.
    #[error("{what} {problem}")]
    Life {
        /// What, with its version.
        what: String,
        /// Why not.
        problem: LifeError,
    },
    /// The material is gone for good.
    #[error("key `{key}` is destroyed: its material is gone")]
    Gone {
        /// Which.
        key: KeyRef,
    },
    /// Another version is in use than the one that was to be replaced: somebody was faster.
    #[error("`{of}` is not the version in use; `{current}` is")]
    Stale {
        /// Which was to be replaced.
        of: String,
        /// Which is in use.
        current: String,
    },
    /// A version waits already.
    #[error("`{pending}` is pending; promote it or cancel it first")]
    Waiting {
        /// Which.
        pending: String,
    },
    /// No version waits.
    #[error("`{name}` has no pending version")]
    NotWaiting {
        /// Of what.
        name: String,
    },
    /// The key's profile is out of its bounds.
    #[error("key `{key}` cannot be added: {problem}")]
    Profile {
        /// Which.
        key: KeyRef,
        /// Why.
        problem: ProfileError,
    },
    /// The public key is of another algorithm than the record says.
    #[error("key `{key}` cannot be added: its public key is of another algorithm")]
    Algorithm {
        /// Which.
        key: KeyRef,
    },
    /// No such secret.
    #[error("there is no secret `{name}`")]
    NoSecret {
        /// Which.
        name: SecretName,
    },
    /// No such version of a secret.
    #[error("there is no secret `{secret}`")]
    NoSecretVersion {
        /// Which.
        secret: SecretRef,
    },
    /// The secret cannot be added or replaced.
    #[error("secret `{name}` cannot be {action}: {problem}")]
    Secret {
        /// Which.
        name: SecretName,
        /// `added` or `replaced`.
        action: &'static str,
        /// Why. Without any of its value.
        problem: String,
    },
    /// A secret cannot go from the one state to the other.
    #[error("secret `{secret}` is {from} and cannot become {to}")]
    SecretTransition {
        /// Which.
        secret: SecretRef,
        /// Its state.
        from: KeyState,
        /// The state asked for.
        to: KeyState,
    },
    /// A plan that cannot be kept.
    #[error("a rotation plan is in whole seconds, of which its age has at least one")]
    Plan,
    /// A text is over its bound.
    #[error("{what} has at most {allowed} bytes, not {sent}")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// The bound in bytes.
        allowed: usize,
        /// What came, in bytes.
        sent: usize,
    },
    /// Something else changed the keyring meanwhile.
    #[error("the keyring was changed meanwhile; nothing was done: try again")]
    Busy,
    /// The keyring is full.
    #[error("a keyring has at most {MAX_KEYS} versions of keys and secrets")]
    Full,
    /// The audit log's public key was recorded before and is another one.
    #[error("the keyring belongs to the audit log `{recorded}`, not to `{offered}`")]
    OtherLog {
        /// The log it belongs to.
        recorded: String,
        /// The log that was offered.
        offered: String,
    },
    /// Locked memory could not be had.
    #[error(transparent)]
    Memory(#[from] SecretError),
    /// The system gave no random numbers.
    #[error("the system gave no random numbers: {0}")]
    Random(String),
    /// Encrypting failed, which the bounds exclude.
    #[error("the keyring's encryption failed")]
    Encryption,
}

impl KeyringError {
    pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    pub(super) fn integrity(what: impl Into<String>) -> Self {
        Self::Integrity { what: what.into() }
    }

    /// Tells a damaged database from one that cannot be used now.
    pub(super) fn database(action: &'static str, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, SchemaChanged, TypeMismatch};
        let code = source.sqlite_error_code();
        if code == Some(NotADatabase) {
            return Self::Format {
                found: "the file is not an SQLite database".to_owned(),
            };
        }
        if matches!(code, Some(DatabaseCorrupt | TypeMismatch | SchemaChanged)) {
            return Self::integrity(format!("the database cannot be read ({source})"));
        }
        if code.is_none() {
            // Not SQLite's answer but its reading: the statements fit the schema, so it is the data that does not.
            return Self::integrity(format!("the database holds something unexpected ({source})"));
        }
        Self::Database {
            action,
            source: source.into(),
        }
    }
}

fn process(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}
