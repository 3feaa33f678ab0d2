//! What an operator does to the lives of keys and secrets, as commands. Not how: `LocalBroker` has a function for each.

use std::num::NonZeroU64;
use std::time::Duration;

use claviger_core::audit::SecretRef;
use claviger_core::key::{KeyRef, KeyVersion};
use claviger_core::name::escape;
use claviger_core::{KeyName, SecretName};
use serde::{Deserialize, Serialize};

use super::{CommandError, Reply};
use crate::LocalBroker;
use crate::keyring::{KeyRecord, KeyringError, LifeEvent, Lock, Reason, RotationPlan, SecretRecord, Start};
use crate::local::{Attended, Due, NewKeyError, NewSecretError, Rotation, SecretRotation, Withdrawal};

/// What is done to the life of a key or a secret. The reply is [`Reply::Keys`] or [`Reply::Secrets`], the versions that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LifeCommand {
    /// Make the next version of a key.
    RotateKey {
        /// Which.
        name: KeyName,
        /// Only if this version is the one in use.
        of: Option<KeyVersion>,
        /// How long the version before is still good; if nothing is said, as planned.
        overlap: Option<Duration>,
        /// When the new version is used.
        start: Start,
    },
    /// Put the pending version of a key into use.
    PromoteKey {
        /// Which.
        name: KeyName,
    },
    /// Give up the pending version of a key.
    CancelKey {
        /// Which.
        name: KeyName,
    },
    /// Set when a key is rotated.
    PlanKey {
        /// Which.
        name: KeyName,
        /// At which age.
        every: Option<Duration>,
        /// After how many uses.
        uses: Option<NonZeroU64>,
        /// How long the version before is still good.
        overlap: Duration,
        /// Whether its purge is locked from now on.
        lock: Option<Lock>,
    },
    /// Revoke a key that somebody else may have, then replace it. The reply has the revoked versions, then the new one, if there is one.
    CompromiseKey {
        /// Which.
        name: KeyName,
        /// Which version; none is all of them.
        version: Option<KeyVersion>,
        /// Why; escaped and cut.
        reason: Option<String>,
    },
    /// Do something to one version of a key.
    ActKey {
        /// Which.
        name: KeyName,
        /// Which version; none is the one in use, else the newest that was.
        version: Option<KeyVersion>,
        /// What.
        act: Act,
    },
    /// Do something to a key as a whole.
    EndKey {
        /// Which.
        name: KeyName,
        /// What.
        end: End,
    },
    /// Put the pending value of a secret into use.
    PromoteSecret {
        /// Which.
        name: SecretName,
    },
    /// Give up the pending value of a secret.
    CancelSecret {
        /// Which.
        name: SecretName,
    },
    /// Set when a secret shall be replaced.
    PlanSecret {
        /// Which.
        name: SecretName,
        /// At which age.
        every: Option<Duration>,
        /// How long the value before is kept, unused.
        overlap: Duration,
        /// Whether its purge is locked from now on.
        lock: Option<Lock>,
    },
    /// Revoke a secret that somebody else may have. The reply has the revoked versions.
    CompromiseSecret {
        /// Which.
        name: SecretName,
        /// Which version; none is all of them but one that waits.
        version: Option<KeyVersion>,
        /// Why; escaped and cut.
        reason: Option<String>,
    },
    /// Do something to one version of a secret.
    ActSecret {
        /// Which.
        name: SecretName,
        /// Which version; none is the one in use, else the newest that was.
        version: Option<KeyVersion>,
        /// What.
        act: Act,
    },
    /// Do something to a secret as a whole.
    EndSecret {
        /// Which.
        name: SecretName,
        /// What.
        end: End,
    },
    /// Replace a secret with the rotator that the host has for it. The reply is [`Reply::SecretRotated`].
    RotateSecret {
        /// Which.
        name: SecretName,
    },
    /// Rotate every key that is due, and every secret that is and that the host has a rotator for. The reply is [`Reply::Rotated`].
    RotateDue,
}

/// What is done to one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Act {
    /// Out of use until it is enabled again.
    Disable {
        /// Why; escaped and cut.
        reason: Option<String>,
    },
    /// Back to where it was disabled.
    Enable,
    /// Out of use for good.
    Revoke {
        /// Why; escaped and cut.
        reason: Option<String>,
    },
}

impl Act {
    fn event(&self) -> LifeEvent {
        match self {
            Self::Disable { reason } => LifeEvent::Disable(because(reason.as_deref())),
            Self::Enable => LifeEvent::Enable,
            Self::Revoke { reason } => LifeEvent::Revoke(because(reason.as_deref())),
        }
    }
}

/// What is done to a credential as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum End {
    /// Delete it; it can be restored for so long.
    Delete {
        /// How long.
        window: Duration,
    },
    /// Take the deletion back.
    Restore,
    /// Destroy it, after its window.
    Purge,
}

/// What came of one key that was due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotatedKey {
    /// The version that was due.
    pub key: KeyRef,
    /// Why.
    pub due: Due,
    /// The version that took its place, or waits to.
    pub new: Option<KeyRef>,
    /// Why there is none; escaped.
    pub problem: Option<String>,
}

/// What came of one secret that has a rotator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotatedSecret {
    /// Which.
    pub secret: SecretName,
    /// The rotation, if it was due and went well.
    pub rotation: Option<SecretRotation>,
    /// What was withdrawn at its provider, if it was not due.
    pub withdrawn: Vec<Withdrawal>,
    /// Why it was not rotated; escaped.
    pub problem: Option<String>,
}

impl From<Attended> for RotatedSecret {
    fn from(done: Attended) -> Self {
        let said = |error: &dyn std::error::Error| Some(escape(&error.to_string(), 300));
        let (secret, rotation, withdrawn, problem) = match done {
            Attended::Rotated(secret, Ok(rotation)) => (secret, Some(rotation), Vec::new(), None),
            Attended::Withdrawn(secret, Ok(withdrawn)) => (secret, None, withdrawn, None),
            Attended::Rotated(secret, Err(error)) | Attended::Withdrawn(secret, Err(error)) => {
                (secret, None, Vec::new(), said(&error))
            }
        };
        Self {
            secret,
            rotation,
            withdrawn,
            problem,
        }
    }
}

impl LocalBroker {
    pub(super) async fn life_command(&self, command: LifeCommand) -> Result<Reply, CommandError> {
        match command {
            LifeCommand::RotateKey {
                name,
                of,
                overlap,
                start,
            } => {
                let record = self.rotate_key(&name, Rotation { of, overlap, start }).await?;
                Ok(keys([&*record]))
            }
            LifeCommand::PromoteKey { name } => Ok(keys([&*self.promote_key(&name).await?])),
            LifeCommand::CancelKey { name } => Ok(keys([&*self.cancel_key(&name).await?])),
            LifeCommand::PlanKey {
                name,
                every,
                uses,
                overlap,
                lock,
            } => {
                let plan = RotationPlan { every, uses, overlap };
                let records = self.plan_key(&name, plan, lock).map_err(NewKeyError::from)?;
                Ok(keys(records.iter().map(AsRef::as_ref)))
            }
            LifeCommand::CompromiseKey {
                name,
                version,
                reason,
            } => {
                let done = self
                    .compromise_key(&name, version, because(reason.as_deref()))
                    .await?;
                Ok(keys(
                    done.revoked.iter().chain(&done.replaced_by).map(AsRef::as_ref),
                ))
            }
            LifeCommand::ActKey { name, version, act } => {
                let key = match version {
                    Some(version) => KeyRef { name, version },
                    None => self.current_key(&name)?.key.clone(),
                };
                Ok(keys([&*self.step_key(&key, &act.event()).await?]))
            }
            LifeCommand::EndKey { name, end } => {
                let records = match end {
                    End::Delete { window } => self.delete_key(&name, window).await?,
                    End::Restore => self.restore_key(&name).await?,
                    End::Purge => self.purge_key(&name).await?,
                };
                Ok(keys(records.iter().map(AsRef::as_ref)))
            }
            LifeCommand::PromoteSecret { name } => Ok(secrets([&*self.promote_secret(&name).await?])),
            LifeCommand::CancelSecret { name } => Ok(secrets([&*self.cancel_secret(&name).await?])),
            LifeCommand::PlanSecret {
                name,
                every,
                overlap,
                lock,
            } => {
                let records = self
                    .plan_secret(&name, every, overlap, lock)
                    .map_err(NewSecretError::from)?;
                Ok(secrets(records.iter().map(AsRef::as_ref)))
            }
            LifeCommand::CompromiseSecret {
                name,
                version,
                reason,
            } => {
                let revoked = self
                    .compromise_secret(&name, version, because(reason.as_deref()))
                    .await?;
                Ok(secrets(revoked.iter().map(AsRef::as_ref)))
            }
            LifeCommand::ActSecret { name, version, act } => {
                let secret = match version {
                    Some(version) => SecretRef { name, version },
                    None => self.current_secret(&name)?,
                };
                Ok(secrets([&*self.step_secret(&secret, &act.event()).await?]))
            }
            LifeCommand::EndSecret { name, end } => {
                let records = match end {
                    End::Delete { window } => self.delete_secret(&name, window).await?,
                    End::Restore => self.restore_secret(&name).await?,
                    End::Purge => self.purge_secret(&name).await?,
                };
                Ok(secrets(records.iter().map(AsRef::as_ref)))
            }
            LifeCommand::RotateSecret { name } => {
                let rotator = self
                    .rotator(&name)
                    .ok_or(CommandError::NoRotator { secret: name })?;
                let done = self.rotate_secret(rotator.as_ref()).await?;
                Ok(Reply::SecretRotated(done))
            }
            LifeCommand::RotateDue => {
                // First: what is at the end of its overlap is withdrawn while it can still be tried.
                let secrets = self.attend_secrets().await;
                let done = self.rotate_due().await?;
                let each = done.into_iter().map(|one| {
                    let (new, problem) = match one.result {
                        Ok(record) => (Some(record.key.clone()), None),
                        Err(error) => (None, Some(escape(&error.to_string(), 200))),
                    };
                    RotatedKey {
                        key: one.key,
                        due: one.due,
                        new,
                        problem,
                    }
                });
                Ok(Reply::Rotated {
                    keys: each.collect(),
                    secrets: secrets.into_iter().map(RotatedSecret::from).collect(),
                })
            }
        }
    }

    fn current_secret(&self, name: &SecretName) -> Result<SecretRef, NewSecretError> {
        let record: Result<_, KeyringError> = self.keyring().current_secret(name);
        Ok(record?.secret.clone())
    }
}

fn because(reason: Option<&str>) -> Option<Reason> {
    reason.and_then(Reason::new)
}

fn keys<'a>(records: impl IntoIterator<Item = &'a KeyRecord>) -> Reply {
    Reply::Keys(records.into_iter().map(|record| record.key.clone()).collect())
}

fn secrets<'a>(records: impl IntoIterator<Item = &'a SecretRecord>) -> Reply {
    Reply::Secrets(records.into_iter().map(|record| record.secret.clone()).collect())
}
