//! Which exit code each error of the other crates has, and what to type. Their texts are their own.

use claviger::{HostError, LoadError, RunError};
use claviger_broker::audit::{self, ReadError, ScanError, VerifyError};
use claviger_broker::keyring::KeyringError;
use claviger_broker::local::{CertificateRequestError, NewKeyError, OpenError, ProofError};
use claviger_core::admission::NotAdmittedReason;
use claviger_core::custody::CustodyError;
use claviger_core::profile::FrameError;
use claviger_core::{Algorithm, AuditError, NotAdmitted, Refusal};
use claviger_tpm::TpmError;

use crate::exit::{Exit, Failure};

/// What to do about a log that cannot be written.
const NOTHING_RELEASED: &str = "nothing was released; `claviger doctor` looks at the disk and the folder";

impl From<KeyringError> for Failure {
    fn from(error: KeyringError) -> Self {
        let exit = match &error {
            // A file in the keyring's place that is none: one flipped byte of its head is enough.
            KeyringError::Integrity { .. } | KeyringError::OtherLog { .. } | KeyringError::Format { .. } => {
                Exit::Integrity
            }
            _ => Exit::Failed,
        };
        let failure = Self::of(exit, &error);
        match &error {
            KeyringError::InUse { pid: Some(pid) } => failure.help(format!(
                "`ps -p {pid}` shows what it is; `kill {pid}` stops it in order"
            )),
            KeyringError::Database { .. } | KeyringError::Io { .. } => {
                failure.help("`claviger doctor` looks at the disk and at the folder")
            }
            // Whoever opens says what there is to do.
            KeyringError::Root(CustodyError::StartChanged(_)) => failure,
            KeyringError::Root(_) => failure.help("`claviger doctor` looks at the TPM and at the keyring"),
            KeyringError::Format { .. } => {
                failure.help("if it is no keyring of a later version, restore the folder from a backup")
            }
            KeyringError::Missing { .. } => {
                failure.help("another folder is named with `--keyring DIR` or CLAVIGER_KEYRING")
            }
            _ => failure,
        }
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        let exit = match &error {
            AuditError::Damaged(_) => Exit::Integrity,
            _ => Exit::AuditUnavailable,
        };
        Self::of(exit, &error).help(match exit {
            Exit::Integrity => "`claviger audit verify` names the first bad entry",
            _ => NOTHING_RELEASED,
        })
    }
}

impl From<CustodyError> for Failure {
    fn from(error: CustodyError) -> Self {
        Self::of(Exit::Failed, &error)
    }
}

impl From<TpmError> for Failure {
    fn from(error: TpmError) -> Self {
        Self::of(Exit::Failed, &error)
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self::of(Exit::Failed, &error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Keyring(error) => error.into(),
            OpenError::Audit(error) => error.into(),
            OpenError::Log(error) => error.into(),
            OpenError::LogKey(_) => Self::of(Exit::AuditUnavailable, &error),
            OpenError::Unfinished(_) => Self::of(Exit::Failed, &error),
            OpenError::Disagree(_) => Self::of(Exit::Integrity, &error)
                .help("restore the keyring's folder as a whole; half of it proves nothing"),
            other => Self::of(Exit::AuditUnavailable, &other),
        }
    }
}

impl From<audit::OpenError> for Failure {
    fn from(error: audit::OpenError) -> Self {
        match error {
            audit::OpenError::Append(error) => error.into(),
            audit::OpenError::Scan(error) => error.into(),
            audit::OpenError::Checkpoint(_) | audit::OpenError::NotALog(_) => {
                Self::of(Exit::Integrity, &error)
                    .help("the keyring has a log; restore the keyring's folder as a whole")
            }
            audit::OpenError::InUse(_) => Self::of(Exit::Failed, &error),
            audit::OpenError::Exists(_) => Self::of(Exit::Failed, &error).help(
                "its keyring is gone: restore the folder as a whole, or name another with `--keyring DIR`",
            ),
            other => Self::of(Exit::AuditUnavailable, &other),
        }
    }
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Damaged(damage) => {
                Self::new(Exit::Integrity, format!("the audit log is damaged: {damage}"))
                    .help("what precedes this entry was checked; restore the keyring's folder from a backup")
            }
            other => Self::of(Exit::AuditUnavailable, &other),
        }
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Scan(error) => error.into(),
            VerifyError::NoCheckpoint | VerifyError::Checkpoint(_) => Self::of(Exit::Integrity, &error),
            other => Self::of(Exit::AuditUnavailable, &other),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Scan(error) => error.into(),
            ReadError::Checkpoint(_) | ReadError::Tiles(_) => {
                Self::of(Exit::Integrity, &error).help("`claviger audit verify` says more")
            }
            ReadError::NotCovered { .. } => Self::of(Exit::Failed, &error).help("claviger audit checkpoint"),
            other => Self::of(Exit::AuditUnavailable, &other),
        }
    }
}

impl From<CertificateRequestError> for Failure {
    fn from(error: CertificateRequestError) -> Self {
        match error {
            CertificateRequestError::Frame(FrameError::Subject) => Self::of(Exit::Usage, &error),
            CertificateRequestError::Frame(FrameError::Profile { .. }) => Self::of(Exit::Failed, &error)
                .help("`claviger key create NAME --profile mtls` makes a key for client certificates"),
            CertificateRequestError::NotActive(_) => {
                Self::of(Exit::Failed, &error).help("`claviger key list` shows the keys there are")
            }
            CertificateRequestError::Audit(error) => error.into(),
            error => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<ProofError> for Failure {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::NoKey(_) => {
                Self::of(Exit::Failed, &error).help("`claviger key list` shows the keys there are")
            }
            ProofError::Stopped => Self::of(Exit::Denied, &error).help("`claviger panic --lift` ends it"),
            ProofError::Keyring(error) => error.into(),
            ProofError::Custody(error) => error.into(),
            ProofError::Audit(error) => error.into(),
            error => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<NewKeyError> for Failure {
    fn from(error: NewKeyError) -> Self {
        match error {
            NewKeyError::Profile(error) => Self::of(Exit::Usage, &error),
            NewKeyError::NoCustody(kind) => Self::of(Exit::Failed, &error).help(format!(
                "leave out `--custody {kind}`, or make a keyring with `claviger init --custody tpm`"
            )),
            NewKeyError::Custody(CustodyError::Algorithm {
                algorithm: Algorithm::Rsa2048,
                ..
            }) => Self::of(Exit::Failed, &error).help(
                "RSA keys live in a TPM and nowhere else: a keyring made with `claviger init` on a machine with a TPM has them",
            ),
            NewKeyError::Keyring(error) => error.into(),
            NewKeyError::Audit(error) => error.into(),
            other => Self::of(Exit::Failed, &other),
        }
    }
}

impl From<NotAdmitted> for Failure {
    fn from(error: NotAdmitted) -> Self {
        let audit = |reason: &NotAdmittedReason| matches!(reason, NotAdmittedReason::Audit { .. });
        let exit = if error.reasons.iter().any(audit) {
            Exit::AuditUnavailable
        } else {
            Exit::Denied
        };
        let mut failure = Self::new(exit, format!("agent `{}` is not admitted", error.agent));
        failure.causes = error.reasons.iter().map(ToString::to_string).collect();
        match exit {
            Exit::AuditUnavailable => failure.help(NOTHING_RELEASED),
            _ => failure,
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::NotAdmitted(error) => error.into(),
            LoadError::NotGranted(missing) => {
                let mut failure = Self::new(Exit::Denied, "the component imports what it was not granted");
                failure.causes = missing.iter().map(ToString::to_string).collect();
                failure
            }
            other => Self::of(Exit::Failed, &other),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let exit = match &error {
            RunError::NotStarted(Refusal::Unavailable) => Exit::AuditUnavailable,
            RunError::NotStarted(_) => Exit::Denied,
            _ => Exit::Failed,
        };
        Self::of(exit, &error)
    }
}
