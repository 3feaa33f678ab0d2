//! What an operator does to a keyring, open or at rest: one closed enum, and one function that does it. A running host takes the same commands
//! over a socket. Not a policy, and not for agents: nothing here is linked into one.
//!
//! A new command is a variant of [`Command`], its arm in [`LocalBroker::command`], and, if its answer is of a new kind, a variant of
//! [`Reply`]. Everything that is read without the keyring open, such as lists, needs no command.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use claviger_core::approval::{AnsweredBy, ApprovalId, Question};
use claviger_core::audit::SecretRef;
use claviger_core::custody::CustodyKind;
use claviger_core::http::{InjectionKind, Origin};
use claviger_core::key::{Algorithm, KeyRef};
use claviger_core::profile::Profile;
use claviger_core::secret::MAX_SECRET;
use claviger_core::{AgentName, GrantAlias, KeyName, Secret, SecretName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::LocalBroker;
use crate::backup::Recipient;
use crate::import::{ImportedKey, KeyFormat, is_wrapped};
use crate::keyring::{KeyState, Lock, RotationPlan, SecretReplacement};
use crate::local::{
    AnswerError, Enforced, KeyCreation, KeyImport, NewKeyError, PendingApproval, SecretCreation,
    SecretRotation, WrappedImport,
};

mod backup;
mod client;
mod error;
mod life;
mod server;
mod unknown;
mod wire;

pub use backup::{BackedUp, LeftOut};
pub use client::{Client, ClientError};
pub use error::{CommandError, Fault, Problem};
pub use life::{Act, End, LifeCommand, RotatedKey, RotatedSecret};
pub use server::{ControlError, MAX_CONNECTIONS, SOCKET};
pub use wire::{MAX_FRAME, PROTOCOL};

pub(crate) use server::Control;
pub(crate) use server::is_ours;

/// A value that goes with a command has at most this many bytes.
pub const MAX_VALUE: usize = MAX_SECRET;
/// A status names at most this many agents of each kind.
pub const MAX_NAMED: usize = 1000;

/// What an operator wants done. Plain data with bounded parts; a secret value goes beside it, never in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Say what runs, and what is suspended or stopped. Changes nothing.
    Status,
    /// Suspend one grant.
    SuspendGrant {
        /// Whose.
        agent: AgentName,
        /// Which.
        grant: GrantAlias,
    },
    /// Resume a suspended grant.
    ResumeGrant {
        /// Whose.
        agent: AgentName,
        /// Which.
        grant: GrantAlias,
    },
    /// Suspend every grant that an agent has or will have.
    SuspendAgent {
        /// Which.
        agent: AgentName,
    },
    /// Resume a suspended agent.
    ResumeAgent {
        /// Which.
        agent: AgentName,
    },
    /// Stop all use of every credential.
    Panic,
    /// Let credentials be used again.
    LiftPanic,
    /// Make a key.
    CreateKey {
        /// Its name.
        name: KeyName,
        /// What it is for.
        profile: Profile,
        /// Its algorithm; if none is said, what the profile needs or the custody is best at.
        algorithm: Option<Algorithm>,
        /// Where it lives; if nothing is said, in the hardest custody there is.
        custody: Option<CustodyKind>,
        /// Who refuses it once it is revoked.
        enforced: Enforced,
        /// When a new version takes its place.
        plan: RotationPlan,
        /// Whether its purge is locked from the beginning.
        lock: Option<Lock>,
    },
    /// Take in a key that was made elsewhere. The file goes beside the command.
    ImportKey {
        /// Its name.
        name: KeyName,
        /// What it is for.
        profile: Profile,
        /// The form that its file is in; if none is said, whichever it is.
        format: Option<KeyFormat>,
        /// Where it lives; if nothing is said, in the hardest custody there is, which may take none.
        custody: Option<CustodyKind>,
    },
    /// Take the newest version of a key out of use, or back into it.
    ChangeKey {
        /// Which.
        name: KeyName,
        /// How.
        change: Change,
    },
    /// Ask for a certificate of a key.
    RequestCertificate {
        /// Which key.
        name: KeyName,
        /// Whom it is for, `CN=release-bot` say.
        subject: String,
    },
    /// Add a secret. Its value goes beside the command.
    AddSecret {
        /// Its name.
        name: SecretName,
        /// What it is for.
        kind: InjectionKind,
        /// Where alone it may be sent.
        origin: Origin,
        /// When it stops being accepted, if that is known.
        expires: Option<Timestamp>,
        /// How often it shall be replaced.
        rotate_every: Option<Duration>,
        /// How long the value before is kept after a replacement, unused.
        overlap: Duration,
        /// Whether its purge is locked from the beginning.
        lock: Option<Lock>,
    },
    /// Put a new value in the place of a secret's. It goes beside the command.
    ReplaceSecret {
        /// Which.
        name: SecretName,
        /// When it stops being accepted, if that is known.
        expires: Option<Timestamp>,
        /// How often it shall be replaced; if nothing is said, as before.
        rotate_every: Option<Duration>,
    },
    /// Add a value for a secret that waits beside the one in use. It goes beside the command.
    StageSecret {
        /// Which.
        name: SecretName,
        /// When it stops being accepted, if that is known.
        expires: Option<Timestamp>,
        /// How often it shall be replaced; if nothing is said, as before.
        rotate_every: Option<Duration>,
    },
    /// Do something to the life of a key or a secret.
    Life(LifeCommand),
    /// Take the newest version of a secret out of use, or back into it.
    ChangeSecret {
        /// Which.
        name: SecretName,
        /// How.
        change: Change,
    },
    /// Destroy the values of all versions of a secret.
    DestroySecret {
        /// Which.
        name: SecretName,
    },
    /// List the uses that wait for an approval. Changes nothing.
    Approvals,
    /// Show one of them, with what would be signed or sent. Changes nothing.
    ShowApproval {
        /// Which.
        id: ApprovalId,
    },
    /// Approve one use.
    Approve {
        /// Which.
        id: ApprovalId,
    },
    /// Deny one use.
    Deny {
        /// Which.
        id: ApprovalId,
        /// Why: for the log, escaped and cut.
        reason: String,
    },
    /// Put a proposal aside.
    DismissProposal {
        /// Whose.
        agent: AgentName,
        /// Which.
        grant: GrantAlias,
    },
    /// Write a backup. Its file comes beside the reply.
    BackUp {
        /// Who can open it; 1 to 16.
        recipients: Vec<Recipient>,
        /// Who wants it: for the log, escaped and cut.
        by: String,
    },
    /// Sign a checkpoint of the audit log.
    Checkpoint,
    /// Vouch for the clock after it had run ahead.
    AcceptClock,
}

impl Command {
    /// Whether a secret value goes beside it.
    #[must_use]
    pub const fn takes_value(&self) -> bool {
        match self {
            Self::AddSecret { .. }
            | Self::ReplaceSecret { .. }
            | Self::StageSecret { .. }
            | Self::ImportKey { .. } => true,
            Self::Status
            | Self::SuspendGrant { .. }
            | Self::ResumeGrant { .. }
            | Self::SuspendAgent { .. }
            | Self::ResumeAgent { .. }
            | Self::Panic
            | Self::LiftPanic
            | Self::CreateKey { .. }
            | Self::ChangeKey { .. }
            | Self::RequestCertificate { .. }
            | Self::Life(_)
            | Self::ChangeSecret { .. }
            | Self::DestroySecret { .. }
            | Self::Approvals
            | Self::ShowApproval { .. }
            | Self::Approve { .. }
            | Self::Deny { .. }
            | Self::DismissProposal { .. }
            | Self::BackUp { .. }
            | Self::Checkpoint
            | Self::AcceptClock => false,
        }
    }
}

impl Command {
    /// Whether a file comes beside the reply.
    #[must_use]
    pub const fn gives_file(&self) -> bool {
        matches!(self, Self::BackUp { .. })
    }
}

/// Into or out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Out of use until it is enabled again.
    Disable,
    /// Back into use, if it was disabled.
    Enable,
    /// Out of use for good.
    Revoke,
}

impl Change {
    const fn to(self) -> KeyState {
        match self {
            Self::Disable => KeyState::Disabled,
            Self::Enable => KeyState::Active,
            Self::Revoke => KeyState::Revoked,
        }
    }
}

/// What came of a command. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// It is done.
    Done {
        /// What an operator may have meant otherwise.
        warning: Option<String>,
    },
    /// It is done to these versions of keys. What they are now is in the keyring, for everybody to read.
    Keys(Vec<KeyRef>),
    /// It is done to these versions of secrets.
    Secrets(Vec<SecretRef>),
    /// What came of each key that was due.
    Rotated {
        /// Of keys.
        keys: Vec<RotatedKey>,
        /// Of secrets that the host has a rotator for.
        secrets: Vec<RotatedSecret>,
    },
    /// A secret was replaced by its rotator.
    SecretRotated(SecretRotation),
    /// A text that was made: a checkpoint, a request for a certificate.
    Text(String),
    /// What runs and what does not.
    Status(Status),
    /// What waits for an approval, the oldest first.
    Approvals(Vec<PendingApproval>),
    /// One of them.
    Approval(Arc<Question>),
    /// A backup was written.
    BackedUp(BackedUp),
}

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Status {
    /// Whether all use of every credential is stopped.
    pub panic: bool,
    /// Agents that are suspended as a whole; at most [`MAX_NAMED`].
    pub suspended: Vec<AgentName>,
    /// How many instances of each agent run; at most [`MAX_NAMED`] agents.
    pub running: BTreeMap<AgentName, u64>,
    /// How many requests are under way.
    pub requests: u64,
}

impl LocalBroker {
    /// Does what an operator wants, with the value that goes beside the command if it takes one. What is taken out of use by it is used by
    /// nobody from when this returns, and requests under way with it have been cut off.
    ///
    /// Dropping the future leaves the command done as a whole, or to its keyring but not to its log; opening mends that.
    ///
    /// # Errors
    /// What stands against it. If only the log failed, it is done, and nothing is released any more.
    pub async fn command(&self, command: Command, value: Option<Secret>) -> Result<Reply, CommandError> {
        self.command_into(command, value, None).await
    }

    /// As [`LocalBroker::command`], with the file for one that gives one. If it fails, what is in the file is of no use.
    ///
    /// # Errors
    /// As [`LocalBroker::command`].
    pub async fn command_into(
        &self,
        command: Command,
        value: Option<Secret>,
        file: Option<&mut (dyn Write + Send)>,
    ) -> Result<Reply, CommandError> {
        let mut value = match (command.takes_value(), value) {
            (false, None) => None,
            (true, Some(value)) => Some(value),
            (true, None) => return Err(CommandError::ValueMissing),
            (false, Some(_)) => return Err(CommandError::ValueUnexpected),
        };
        let mut value = || value.take().ok_or(CommandError::ValueMissing);
        match command {
            Command::Status => Ok(Reply::Status(self.status())),
            Command::SuspendGrant { agent, grant } => {
                let warning = self.unknown_grant(&agent, &grant);
                self.suspend(&agent, &grant).await?;
                Ok(Reply::Done { warning })
            }
            Command::ResumeGrant { agent, grant } => {
                if !self.snapshot().grant(&agent, &grant).suspended {
                    return Err(CommandError::GrantNotSuspended { agent, grant });
                }
                self.resume(&agent, &grant).await?;
                Ok(done())
            }
            Command::SuspendAgent { agent } => {
                let warning = self.unknown_agent(&agent);
                self.suspend_agent(&agent).await?;
                Ok(Reply::Done { warning })
            }
            Command::ResumeAgent { agent } => {
                if !self.snapshot().suspended_agents().any(|one| *one == agent) {
                    return Err(CommandError::AgentNotSuspended { agent });
                }
                self.resume_agent(&agent).await?;
                Ok(done())
            }
            Command::Panic => {
                self.panic().await?;
                Ok(done())
            }
            Command::LiftPanic => {
                if !self.in_panic() {
                    return Err(CommandError::NotStopped);
                }
                self.lift_panic().await?;
                Ok(done())
            }
            Command::CreateKey {
                name,
                profile,
                algorithm,
                custody,
                enforced,
                plan,
                lock,
            } => {
                let record = match (profile.symmetric(), algorithm) {
                    (Some(own), None) => {
                        let custody = custody.unwrap_or_else(|| self.default_custody(own));
                        self.create_symmetric_key_with(name, profile, custody, plan, lock, enforced)
                            .await?
                    }
                    // Of what signs nothing an algorithm was named: that is refused with the right one.
                    (Some(_) | None, algorithm) => {
                        let algorithm =
                            algorithm.unwrap_or_else(|| self.default_algorithm(&profile, custody));
                        let creation = KeyCreation {
                            name,
                            profile,
                            algorithm,
                            custody: custody.unwrap_or_else(|| self.default_custody(algorithm)),
                        };
                        self.create_key_with(creation, plan, lock, enforced).await?
                    }
                };
                Ok(Reply::Keys(vec![record.key.clone()]))
            }
            Command::ImportKey {
                name,
                profile,
                format,
                custody,
            } => {
                let file = value()?;
                let record = if is_wrapped(&file, format, custody).map_err(NewKeyError::from)? {
                    let import = WrappedImport { name, profile, file };
                    self.import_wrapped_key(import).await?
                } else {
                    let private = ImportedKey::read(&file, format).map_err(NewKeyError::from)?;
                    let import = KeyImport {
                        name,
                        profile,
                        custody,
                        private,
                    };
                    self.import_key(import).await?
                };
                Ok(Reply::Keys(vec![record.key.clone()]))
            }
            Command::ChangeKey { name, change } => {
                let record = self.set_key_state(&name, change.to()).await?;
                Ok(Reply::Keys(vec![record.key.clone()]))
            }
            Command::RequestCertificate { name, subject } => {
                Ok(Reply::Text(self.certificate_request(&name, &subject).await?))
            }
            Command::AddSecret {
                name,
                kind,
                origin,
                expires,
                rotate_every,
                overlap,
                lock,
            } => {
                let creation = SecretCreation {
                    name,
                    kind,
                    origin,
                    expires,
                    rotate_every,
                    value: value()?,
                };
                let record = self.add_planned_secret(creation, overlap, lock).await?;
                Ok(Reply::Secrets(vec![record.secret.clone()]))
            }
            Command::ReplaceSecret {
                name,
                expires,
                rotate_every,
            } => {
                let replacement = SecretReplacement {
                    name,
                    of: None,
                    expires,
                    rotate_every,
                    value: value()?,
                };
                let record = self.replace_secret(replacement).await?;
                Ok(Reply::Secrets(vec![record.secret.clone()]))
            }
            Command::StageSecret {
                name,
                expires,
                rotate_every,
            } => {
                let replacement = SecretReplacement {
                    name,
                    of: None,
                    expires,
                    rotate_every,
                    value: value()?,
                };
                let record = self.stage_secret(replacement).await?;
                Ok(Reply::Secrets(vec![record.secret.clone()]))
            }
            Command::Life(command) => self.life_command(command).await,
            Command::ChangeSecret { name, change } => {
                let record = self.set_secret_state(&name, change.to()).await?;
                Ok(Reply::Secrets(vec![record.secret.clone()]))
            }
            Command::DestroySecret { name } => {
                let records = self.destroy_secret(&name).await?;
                let secrets = records.iter().map(|record| record.secret.clone());
                Ok(Reply::Secrets(secrets.collect()))
            }
            Command::Approvals => Ok(Reply::Approvals(self.approvals())),
            Command::ShowApproval { id } => {
                let question = self.approval_question(id).ok_or(AnswerError::Unknown(id))?;
                Ok(Reply::Approval(question))
            }
            Command::Approve { id } => {
                self.approve(id, this_user()).await?;
                Ok(done())
            }
            Command::Deny { id, reason } => {
                self.deny_approval(id, this_user(), &reason).await?;
                Ok(done())
            }
            Command::DismissProposal { agent, grant } => {
                if !self.dismiss_proposal(&agent, &grant).await? {
                    return Err(CommandError::NoProposal { agent, grant });
                }
                Ok(done())
            }
            Command::BackUp { recipients, by } => {
                let file = file.ok_or(CommandError::FileMissing)?;
                let made = self.back_up(&recipients, &by, file).await?;
                Ok(Reply::BackedUp(made.into()))
            }
            Command::Checkpoint => Ok(Reply::Text(self.checkpoint().await?)),
            Command::AcceptClock => {
                self.accept_clock().await?;
                Ok(done())
            }
        }
    }

    fn status(&self) -> Status {
        let ledger = self.snapshot();
        Status {
            panic: ledger.in_panic(),
            suspended: ledger.suspended_agents().take(MAX_NAMED).cloned().collect(),
            running: self.running().into_iter().take(MAX_NAMED).collect(),
            requests: self.requests_under_way(),
        }
    }

    /// The only algorithm that the profile has, or the one that it prefers; else the one that the TPM signs with itself, if it is there;
    /// else the one that is fastest.
    fn default_algorithm(&self, profile: &Profile, custody: Option<CustodyKind>) -> Algorithm {
        if let Some(first) = profile.algorithms().first()
            && *first != Algorithm::Ed25519
            && custody != Some(CustodyKind::TpmSealed)
        {
            return *first;
        }
        match custody.unwrap_or_else(|| self.default_custody(Algorithm::P256)) {
            CustodyKind::Tpm => Algorithm::P256,
            CustodyKind::TpmSealed | CustodyKind::Software => Algorithm::Ed25519,
        }
    }
}

/// Who gives commands: the user of this process. The socket takes none from anybody else.
fn this_user() -> AnsweredBy {
    AnsweredBy::Operator {
        uid: rustix::process::geteuid().as_raw(),
    }
}

const fn done() -> Reply {
    Reply::Done { warning: None }
}
