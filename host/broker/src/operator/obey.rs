//! Commands, done. Not what they mean for a credential: each is a method of the broker.

use std::sync::Arc;
use std::time::Duration;

use claviger_core::audit::SecretRef;
use claviger_core::custody::CustodyKind;
use claviger_core::key::{Algorithm, KeyRef, KeySpec, KeyVersion, SecretSpec};
use claviger_core::name::{escape, nearest};
use claviger_core::profile::Profile;
use claviger_core::{AgentName, GrantAlias, Secret, SecretName};
use jiff::Timestamp;

use super::{Command, CommandError, MAX_NAMED, Reply, RotatedKey, Status, because};
use crate::LocalBroker;
use crate::keyring::{KeyRecord, KeyringError, Lock, SecretRecord, SecretReplacement};
use crate::local::{KeyCreation, NewKeyError, NewSecretError, Rotated, Rotation, SecretCreation};

impl LocalBroker {
    /// Does what an operator wants, with the value that goes beside the command if it takes one. What is taken out of use by it is used by
    /// nobody from when this returns, and requests under way with it have been cut off.
    ///
    /// Dropping the future leaves the command done as a whole, or to its keyring but not to its log; opening mends that.
    ///
    /// # Errors
    /// What stands against it. If only the log failed, it is done, and nothing is released any more.
    pub async fn command(&self, command: Command, value: Option<Secret>) -> Result<Reply, CommandError> {
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
                plan,
                locked,
            } => {
                let algorithm = algorithm.unwrap_or_else(|| self.default_algorithm(&profile, custody));
                let creation = KeyCreation {
                    name,
                    profile,
                    algorithm,
                    custody: custody.unwrap_or_else(|| self.default_custody(algorithm)),
                };
                let made = self.create_planned_key(creation, plan, locked.then_some(Lock));
                Ok(keys(&[made.await?]))
            }
            Command::ChangeKey { key, change } => {
                let key = self.key_meant(key)?;
                Ok(keys(&[self.step_key(&key, &change.event()).await?]))
            }
            Command::RotateKey {
                name,
                of,
                overlap,
                start,
            } => {
                let rotation = Rotation { of, overlap, start };
                Ok(keys(&[self.rotate_key(&name, rotation).await?]))
            }
            Command::PromoteKey { name } => Ok(keys(&[self.promote_key(&name).await?])),
            Command::CancelKey { name } => Ok(keys(&[self.cancel_key(&name).await?])),
            Command::PlanKey { name, plan, locked } => {
                let planned = self.plan_key(&name, plan, locked.then_some(Lock));
                Ok(keys(&planned.map_err(NewKeyError::from)?))
            }
            Command::CompromiseKey { key, reason } => {
                let done = self
                    .compromise_key(&key.name, key.version, because(reason))
                    .await?;
                Ok(Reply::Compromised {
                    revoked: done.revoked.iter().map(|record| record.key.clone()).collect(),
                    replaced_by: done.replaced_by.map(|record| record.key.clone()),
                })
            }
            Command::DeleteKey { name, window } => Ok(keys(&self.delete_key(&name, window).await?)),
            Command::RestoreKey { name } => Ok(keys(&self.restore_key(&name).await?)),
            Command::PurgeKey { name } => Ok(keys(&self.purge_key(&name).await?)),
            Command::RotateDue => {
                let done = self.rotate_due().await?;
                Ok(Reply::Rotated(done.iter().map(rotated).collect()))
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
            } => {
                let creation = SecretCreation {
                    name,
                    kind,
                    origin,
                    expires,
                    rotate_every,
                    value: value()?,
                };
                Ok(secrets(&[self.add_secret(creation).await?]))
            }
            Command::ReplaceSecret {
                name,
                expires,
                rotate_every,
            } => {
                let replacement = replacement(name, expires, rotate_every, value()?);
                Ok(secrets(&[self.replace_secret(replacement).await?]))
            }
            Command::StageSecret {
                name,
                expires,
                rotate_every,
            } => {
                let replacement = replacement(name, expires, rotate_every, value()?);
                Ok(secrets(&[self.stage_secret(replacement).await?]))
            }
            Command::PromoteSecret { name } => Ok(secrets(&[self.promote_secret(&name).await?])),
            Command::CancelSecret { name } => Ok(secrets(&[self.cancel_secret(&name).await?])),
            Command::PlanSecret {
                name,
                rotate_every,
                overlap,
                locked,
            } => {
                let planned = self.plan_secret(&name, rotate_every, overlap, locked.then_some(Lock));
                Ok(secrets(&planned.map_err(NewSecretError::from)?))
            }
            Command::ChangeSecret { secret, change } => {
                let secret = self.secret_meant(secret)?;
                Ok(secrets(&[self.step_secret(&secret, &change.event()).await?]))
            }
            Command::DeleteSecret { name, window } => Ok(secrets(&self.delete_secret(&name, window).await?)),
            Command::RestoreSecret { name } => Ok(secrets(&self.restore_secret(&name).await?)),
            Command::PurgeSecret { name } => Ok(secrets(&self.purge_secret(&name).await?)),
            Command::Checkpoint => Ok(Reply::Text(self.checkpoint().await?)),
            Command::AcceptClock => {
                self.accept_clock().await?;
                Ok(done())
            }
        }
    }

    /// The version that a specification means: of a bare name, the one in use, else the newest that was.
    fn key_meant(&self, spec: KeySpec) -> Result<KeyRef, NewKeyError> {
        let known = |version| KeyRef {
            name: spec.name.clone(),
            version,
        };
        match (spec.version, self.keyring().current(&spec.name)) {
            (Some(version), _) => Ok(known(version)),
            (None, Some(current)) => Ok(current.key.clone()),
            (None, None) => Err(KeyringError::NoKey {
                key: known(KeyVersion::FIRST),
            }
            .into()),
        }
    }

    fn secret_meant(&self, spec: SecretSpec) -> Result<SecretRef, NewSecretError> {
        match spec.version {
            Some(version) => Ok(SecretRef {
                name: spec.name,
                version,
            }),
            None => Ok(self.keyring().current_secret(&spec.name)?.secret.clone()),
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

    /// A word of warning if the log never saw this grant: a misspelt name would suspend nothing.
    fn unknown_grant(&self, agent: &AgentName, grant: &GrantAlias) -> Option<String> {
        let ledger = self.snapshot();
        let known = ledger
            .grants()
            .map(|(agent, grant, _)| format!("{agent} {grant}"))
            .collect::<Vec<_>>();
        let hint = unknown(&format!("{agent} {grant}"), &known)?;
        Some(format!(
            "the audit log knows no use of grant `{grant}` by agent `{agent}`{hint}"
        ))
    }

    fn unknown_agent(&self, agent: &AgentName) -> Option<String> {
        let ledger = self.snapshot();
        let known: Vec<_> = self
            .running()
            .into_keys()
            .map(|agent| agent.to_string())
            .chain(ledger.grants().map(|(agent, _, _)| agent.to_string()))
            .collect();
        let hint = unknown(agent.as_str(), &known)?;
        Some(format!("the audit log knows no use by agent `{agent}`{hint}"))
    }
}

const fn done() -> Reply {
    Reply::Done { warning: None }
}

/// Which name may have been meant, if this one is not known.
fn unknown(asked: &str, known: &[String]) -> Option<String> {
    if known.iter().any(|one| one == asked) {
        return None;
    }
    let near = nearest(asked, known.iter().map(String::as_str));
    Some(near.map_or_else(String::new, |near| format!("; did you mean `{near}`?")))
}

fn keys(records: &[Arc<KeyRecord>]) -> Reply {
    Reply::Keys(records.iter().map(|record| record.key.clone()).collect())
}

fn secrets(records: &[Arc<SecretRecord>]) -> Reply {
    Reply::Secrets(records.iter().map(|record| record.secret.clone()).collect())
}

/// Why a key was not rotated, in at most so many characters: there may be thousands of them.
const MAX_ERROR: usize = 200;

fn rotated(one: &Rotated) -> RotatedKey {
    let (new, error) = match &one.result {
        Ok(new) => (Some(new.key.clone()), None),
        Err(error) => (None, Some(escape(&error.to_string(), MAX_ERROR))),
    };
    RotatedKey {
        key: one.key.clone(),
        due: one.due,
        new,
        error,
    }
}

const fn replacement(
    name: SecretName,
    expires: Option<Timestamp>,
    rotate_every: Option<Duration>,
    value: Secret,
) -> SecretReplacement {
    SecretReplacement {
        name,
        of: None,
        expires,
        rotate_every,
        value,
    }
}
