//! A backup that a running host makes: what is said of it, and its file, which goes beside the reply. Not what is in it: `local` puts that
//! together.

use std::fs::File;
use std::io::{self, Seek as _};

use claviger_core::key::KeyRef;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Command, CommandError, Reply};
use crate::LocalBroker;
use crate::backup::BackupError;
use crate::keyring::MAX_KEYS;
use crate::local::{BackUpError, BackupMade};

/// A backup's file has at most this many bytes: its items have two parts of 64 KiB each, and what is around them adds little.
pub(super) const MAX_FILE: u64 = (MAX_KEYS as u64 + 64) * 2 * 66 * 1024;

/// What a backup was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackedUp {
    /// When.
    pub made: Timestamp,
    /// The versions of keys whose material is in it.
    pub keys: Vec<KeyRef>,
    /// How many versions of secrets are in it with their values.
    pub secrets: u64,
    /// Keys in use that live in a TPM.
    pub left_out: Vec<LeftOut>,
}

/// A key whose material is not in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LeftOut {
    /// Which.
    pub key: KeyRef,
    /// Its id.
    pub key_id: String,
}

impl From<BackupMade> for BackedUp {
    fn from(made: BackupMade) -> Self {
        let left_out = made.resident.iter().map(|record| LeftOut {
            key: record.key.clone(),
            key_id: record.key_id(),
        });
        Self {
            made: made.made,
            left_out: left_out.collect(),
            keys: made.keys,
            secrets: made.secrets,
        }
    }
}

/// A file that goes beside a reply.
pub(super) struct Beside {
    pub(super) file: File,
    pub(super) length: u64,
}

impl LocalBroker {
    /// Does a command that gives a file, into one without a name in the keyring's folder: however this ends, nothing of it stays.
    pub(super) async fn command_beside(&self, command: Command) -> Result<(Reply, Beside), CommandError> {
        let failed = |source: io::Error| {
            let action = "write";
            CommandError::from(BackUpError::from(BackupError::Io { action, source }))
        };
        let mut file = tempfile::tempfile_in(self.keyring().folder()).map_err(failed)?;
        let reply = self.command_into(command, None, Some(&mut file)).await?;
        let length = file.stream_position().map_err(failed)?;
        file.rewind().map_err(failed)?;
        Ok((reply, Beside { file, length }))
    }
}
