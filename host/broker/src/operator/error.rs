//! Why a command was not done, here and as a host says it over its socket. No variant holds a secret.

use std::error::Error;

use claviger_core::name::escape;
use claviger_core::profile::FrameError;
use claviger_core::{AgentName, AuditError, GrantAlias, SecretName};
use serde::{Deserialize, Serialize};

use crate::backup::BackupError;
use crate::import::ImportError;
use crate::keyring::KeyringError;
use crate::local::{
    AnswerError, BackUpError, CertificateRequestError, NewKeyError, NewSecretError, SecretRotationError,
};

/// Each text of a problem is cut to this many characters.
const MAX_TEXT: usize = 1000;
/// A problem has at most this many causes.
const MAX_CAUSES: usize = 8;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// About a key.
    #[error(transparent)]
    Key(#[from] NewKeyError),
    /// About a secret.
    #[error(transparent)]
    Secret(#[from] NewSecretError),
    /// About a request for a certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateRequestError),
    /// About a backup.
    #[error(transparent)]
    Backup(#[from] BackUpError),
    /// The command gives a file, and there is none to put it into.
    #[error("the command gives a file, and came without one to put it into")]
    FileMissing,
    /// The log cannot be written. What was done stays, and nothing is released any more.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// There is nothing to resume.
    #[error("grant `{grant}` of agent `{agent}` is not suspended")]
    GrantNotSuspended {
        /// Whose.
        agent: AgentName,
        /// Which.
        grant: GrantAlias,
    },
    /// There is nothing to resume.
    #[error("agent `{agent}` is not suspended")]
    AgentNotSuspended {
        /// Which.
        agent: AgentName,
    },
    /// There is nothing to lift.
    #[error("the use of credentials is not stopped")]
    NotStopped,
    /// About an approval.
    #[error(transparent)]
    Approval(#[from] AnswerError),
    /// There is nothing to put aside.
    #[error("agent `{agent}` has no proposal `{grant}` that waits")]
    NoProposal {
        /// Whose.
        agent: AgentName,
        /// Which.
        grant: GrantAlias,
    },
    /// A secret was not replaced by its rotator.
    #[error(transparent)]
    Rotation(#[from] SecretRotationError),
    /// There is no rotator for it here.
    #[error("this host has no rotator for secret `{secret}`")]
    NoRotator {
        /// Which.
        secret: SecretName,
    },
    /// The command needs a value and came without.
    #[error("the command needs a secret value beside it, and came without")]
    ValueMissing,
    /// The command came with a value that it has no use for.
    #[error("the command takes no secret value, and came with one")]
    ValueUnexpected,
}

/// Of what kind a problem is, as far as a script may act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It cannot be done as it is.
    Failed,
    /// The command is wrong.
    Usage,
    /// A rule stands against it.
    Denied,
    /// The audit log cannot be written.
    AuditUnavailable,
    /// Something was changed or damaged.
    Integrity,
}

impl CommandError {
    /// Of what kind it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Key(NewKeyError::Profile(_) | NewKeyError::Import(ImportError::OtherFormat { .. }))
            | Self::Certificate(CertificateRequestError::Frame(FrameError::Subject))
            | Self::Backup(BackUpError::Backup(BackupError::Recipients { .. }))
            | Self::FileMissing
            | Self::ValueMissing
            | Self::ValueUnexpected => Fault::Usage,
            Self::Key(NewKeyError::Keyring(error))
            | Self::Secret(NewSecretError::Keyring(error))
            | Self::Backup(BackUpError::Keyring(error)) => keyring(error),
            Self::Rotation(SecretRotationError::Secret(NewSecretError::Keyring(error))) => keyring(error),
            Self::Rotation(SecretRotationError::Secret(NewSecretError::Audit(error))) => audit(error),
            Self::Key(NewKeyError::Audit(error))
            | Self::Secret(NewSecretError::Audit(error))
            | Self::Certificate(CertificateRequestError::Audit(error))
            | Self::Backup(BackUpError::Audit(error))
            | Self::Audit(error) => audit(error),
            Self::Certificate(CertificateRequestError::Stopped) => Fault::Denied,
            Self::Approval(AnswerError::Audit) => Fault::AuditUnavailable,
            Self::Key(_)
            | Self::Rotation(_)
            | Self::NoRotator { .. }
            | Self::Certificate(_)
            | Self::Backup(_)
            | Self::GrantNotSuspended { .. }
            | Self::AgentNotSuspended { .. }
            | Self::Approval(
                AnswerError::Unknown(_)
                | AnswerError::Expired(_)
                | AnswerError::Withdrawn(_)
                | AnswerError::NotKnown(_)
                | AnswerError::Overtaken(_),
            )
            | Self::NoProposal { .. }
            | Self::NotStopped => Fault::Failed,
        }
    }
}

fn keyring(error: &KeyringError) -> Fault {
    match error {
        KeyringError::Integrity { .. } | KeyringError::OtherLog { .. } | KeyringError::Format { .. } => {
            Fault::Integrity
        }
        _ => Fault::Failed,
    }
}

fn audit(error: &AuditError) -> Fault {
    match error {
        AuditError::Damaged(_) => Fault::Integrity,
        _ => Fault::AuditUnavailable,
    }
}

/// Why a command was not done, as a host says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Of what kind it is.
    pub fault: Fault,
    /// What is wrong, escaped.
    pub message: String,
    /// Why, from near to far, escaped.
    pub causes: Vec<String>,
}

impl Problem {
    pub(super) fn usage(message: &str) -> Self {
        Self {
            fault: Fault::Usage,
            message: escape(message, MAX_TEXT),
            causes: Vec::new(),
        }
    }

    pub(super) fn closing() -> Self {
        Self {
            fault: Fault::Failed,
            message: "the host is closing; nothing was done".to_owned(),
            causes: Vec::new(),
        }
    }
}

impl From<&CommandError> for Problem {
    fn from(error: &CommandError) -> Self {
        let message = error.to_string();
        let causes =
            std::iter::successors(error.source(), |error: &&(dyn Error + 'static)| (*error).source())
                .map(ToString::to_string)
                // Some errors repeat their cause in their own text.
                .filter(|text| !message.contains(text.as_str()))
                .take(MAX_CAUSES)
                .map(|text| escape(&text, MAX_TEXT))
                .collect();
        Self {
            fault: error.fault(),
            message: escape(&message, MAX_TEXT),
            causes,
        }
    }
}
