//! Replacing a secret that a provider issues: pending → probed → promoted → the old one withdrawn, with the provider's part done by a
//! rotator. Not the rotator, which is a component that sees no value, and not when: `schedule` says what is due.
//!
//! Each step is durable before the next, so that a rotation that was cut off goes on where it was: a version that waits is probed, not
//! issued once more, and what was replaced or lost is withdrawn by the name that its provider gave it.

use std::time::Duration;

use claviger_core::audit::{Event, SecretRef, SecretSource};
use claviger_core::name::escape;
use claviger_core::rotator::{ProviderId, RotationStep, Rotator};
use claviger_core::{AuditError, GrantAlias, SecretName};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::secrets::{NewSecretError, Opening};
use super::{Instance, LocalBroker};
use crate::keyring::{KeyState, KeyringError, LifeEvent, SecretRecord};

mod registered;
mod step;

pub use registered::Attended;
pub(super) use registered::Registered;
pub(super) use step::{Doing, Rotations, Step};
use step::{Ended, Turn};

/// What was replaced by a rotator is kept at least so long, so that its provider can be seen to refuse it.
pub const WITHDRAWAL: Duration = Duration::from_secs(10 * 60);
/// Requests that carry what was replaced have so long to end before it is withdrawn: most APIs answer within that.
const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked whether they have.
const GLANCE: Duration = Duration::from_millis(20);
/// The last third of the life of a credential is there to replace it in.
const RENEW_IN_LAST: u32 = 3;

/// What came of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRotation {
    /// The version that is in use now.
    pub new: SecretRef,
    /// When it expires, if its provider said so.
    pub expires: Option<Timestamp>,
    /// What was in use before, or was last.
    pub old: OldVersion,
    /// What was withdrawn at the provider, of this rotation and of earlier ones.
    pub withdrawn: Vec<Withdrawal>,
}

/// A version that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OldVersion {
    /// Which.
    pub secret: SecretRef,
    /// What becomes of it.
    pub becomes: Replaced,
}

/// What becomes of a version that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replaced {
    /// It is withdrawn; see [`SecretRotation::withdrawn`].
    Withdrawn,
    /// It is withdrawn by the next rotation, or by whatever does what is due, after its overlap.
    Later {
        /// The end of the overlap.
        after: Timestamp,
    },
    /// Nobody knows what its provider calls it: an operator has to withdraw it there.
    ByHand,
}

/// A credential that its provider was asked to take no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    /// Which version it was, or would have become.
    pub secret: SecretRef,
    /// What its provider calls it.
    pub id: ProviderId,
    /// What came of it.
    pub end: WithdrawalEnd,
}

/// What came of withdrawing a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithdrawalEnd {
    /// The provider agreed, and was seen to refuse it.
    Refused,
    /// The provider agreed. Its value is gone, or the answer was unclear, so that nobody has seen it refused.
    NotSeen,
    /// The provider agreed, and takes it all the same.
    StillTaken,
    /// It was not withdrawn, and is tried again by the next rotation. Escaped.
    Failed(String),
}

impl Withdrawal {
    /// Whether the credential may be good at its provider on.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        match self.end {
            WithdrawalEnd::Refused | WithdrawalEnd::NotSeen => false,
            WithdrawalEnd::StillTaken | WithdrawalEnd::Failed(_) => true,
        }
    }
}

/// Why a secret was not rotated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretRotationError {
    /// It is being rotated.
    #[error("secret `{0}` is being rotated by this host")]
    Busy(SecretName),
    /// Something waits that no rotator brought.
    #[error("`{0}` waits to be promoted, and no rotator brought it")]
    Waiting(SecretRef),
    /// An operator has stopped it.
    #[error("secret `{0}` is disabled, and a rotation would put it back into use; enable it first")]
    Disabled(SecretRef),
    /// An operator changed it while it was rotated.
    #[error("secret `{}` was changed while it was rotated; `{new}` is not put into use", new.name)]
    Overtaken {
        /// The version that was not put into use.
        new: SecretRef,
    },
    /// Nothing was issued, or it is lost.
    #[error("no new value for secret `{secret}`: {why}")]
    NotIssued {
        /// Which.
        secret: SecretName,
        /// Why, escaped.
        why: String,
    },
    /// The provider refuses what it issued. It was given up; what was in use is in use.
    #[error(
        "the provider refuses `{new}`, which it issued (status {status}); it was given up, and what was in use stays in use"
    )]
    NotTaken {
        /// The version that was given up.
        new: SecretRef,
        /// What the provider answered.
        status: u16,
        /// Whether it was withdrawn, too, if its name is known.
        withdrawn: Vec<Withdrawal>,
    },
    /// Nobody knows whether the provider takes what it issued.
    #[error(
        "the provider gave no clear answer to `{new}`: {why}; it waits, and what was in use stays in use"
    )]
    Unclear {
        /// The version that waits.
        new: SecretRef,
        /// What happened, escaped.
        why: String,
    },
    /// The keyring or the log.
    #[error(transparent)]
    Secret(#[from] NewSecretError),
}

impl From<KeyringError> for SecretRotationError {
    fn from(error: KeyringError) -> Self {
        Self::Secret(error.into())
    }
}

impl From<AuditError> for SecretRotationError {
    fn from(error: AuditError) -> Self {
        Self::Secret(error.into())
    }
}

/// What a provider's answers say of a credential.
enum Verdict {
    Taken,
    Refused(u16),
    Unclear(String),
}

impl LocalBroker {
    /// Replaces a secret by one that its provider issues. The old one is used until the provider was seen to take the new one, and for
    /// requests that are under way after that; then it is withdrawn, at once or after its overlap.
    ///
    /// A rotation that was cut off goes on: call it again. Dropping the future leaves the secret with one version in use, the old one or
    /// the new one, and perhaps one that waits.
    ///
    /// # Errors
    /// When there is no new value, the provider does not take it, or something cannot be written. The secret is then as usable as before,
    /// and the log says what happened.
    pub async fn rotate_secret(&self, rotator: &dyn Rotator) -> Result<SecretRotation, SecretRotationError> {
        let name = rotator.secret();
        let turn = self
            .rotations
            .begin(name)
            .ok_or_else(|| SecretRotationError::Busy(name.clone()))?;
        let rotated = self.rotated(rotator, &turn).await;
        if let Err(error) = &rotated {
            // A log that cannot be written refuses everything anyway.
            drop(self.append(failed(name, &error.to_string())).await);
        }
        rotated
    }

    async fn rotated(
        &self,
        rotator: &dyn Rotator,
        turn: &Turn,
    ) -> Result<SecretRotation, SecretRotationError> {
        let name = rotator.secret();
        // What it is when it begins: whatever an operator does to it from here on is not overruled.
        let before = self.keyring.current_secret(name)?;
        if before.state == KeyState::Disabled {
            return Err(SecretRotationError::Disabled(before.secret.clone()));
        }
        self.give_up_what_is_stale(&before).await?;
        let mut withdrawn = self.withdraw_replaced(rotator, turn).await?;
        let new = match self.keyring.pending_secret(name) {
            Some(waits) if waits.source == SecretSource::Rotator => waits.secret.clone(),
            Some(waits) => return Err(SecretRotationError::Waiting(waits.secret.clone())),
            None => self.issue(rotator, turn).await?,
        };
        match self.probe(rotator, turn, &new).await {
            Verdict::Taken => {}
            Verdict::Refused(status) => {
                self.step_secret(&new, &LifeEvent::Cancel).await?;
                let withdrawn = self.withdraw_replaced(rotator, turn).await?;
                return Err(SecretRotationError::NotTaken {
                    new,
                    status,
                    withdrawn,
                });
            }
            Verdict::Unclear(why) => return Err(SecretRotationError::Unclear { new, why }),
        }
        let promoted = self.keyring.promote_secret_over(
            &new,
            &before,
            before.overlap.saturating_add(WITHDRAWAL),
            self.now(),
        );
        let changed = promoted.map_err(|error| match error {
            KeyringError::NotWaiting { .. } => SecretRotationError::Overtaken { new: new.clone() },
            error => error.into(),
        })?;
        self.log_secrets(None, &changed).await?;
        if before.overlap.is_zero() {
            self.until_unused(&before.secret).await;
            withdrawn.extend(
                self.withdraw_versions(rotator, turn, &|record| {
                    record.secret == before.secret && record.state == KeyState::Retiring
                })
                .await?,
            );
        }
        let expires = self.keyring.secret_record(&new).and_then(|record| record.expires);
        let old = OldVersion {
            secret: before.secret.clone(),
            becomes: self.becomes(&before, &withdrawn),
        };
        Ok(SecretRotation {
            new,
            expires,
            old,
            withdrawn,
        })
    }

    /// Gives up a version that waits and is good for nothing: its life is over, or a newer one is in use.
    pub(super) async fn give_up_what_is_stale(
        &self,
        current: &SecretRecord,
    ) -> Result<(), SecretRotationError> {
        let now = self.now();
        let waits = self.keyring.pending_secret(&current.secret.name);
        let stale = waits.filter(|waits| {
            waits.source == SecretSource::Rotator
                && (waits.is_expired(now) || waits.secret.version < current.secret.version)
        });
        if let Some(stale) = stale {
            self.step_secret(&stale.secret, &LifeEvent::Cancel).await?;
        }
        Ok(())
    }

    /// Waits until no request carries a version that was replaced, or for so long.
    async fn until_unused(&self, old: &SecretRef) {
        let unused = async {
            while self.exchanges.any(|one| one.secrets.contains(old)) {
                tokio::time::sleep(GLANCE).await;
            }
        };
        // What takes longer than this is cut off by its provider.
        drop(tokio::time::timeout(GRACE, unused).await);
    }

    fn becomes(&self, old: &SecretRecord, withdrawn: &[Withdrawal]) -> Replaced {
        if withdrawn.iter().any(|one| one.secret == old.secret) {
            return Replaced::Withdrawn;
        }
        let named = self
            .ledger()
            .issued(&old.secret.name)
            .any(|one| one.version == old.secret.version);
        let record = self.keyring.secret_record(&old.secret);
        match (named, record.and_then(|record| record.until)) {
            (true, Some(kept)) => Replaced::Later {
                after: before(kept, WITHDRAWAL),
            },
            // Over already: by the next rotation.
            (true, None) => Replaced::Later { after: self.now() },
            (false, _) => Replaced::ByHand,
        }
    }

    /// Withdraws at their provider what a rotator's secret has left behind: versions that are out of use or at the end of their overlap,
    /// and credentials that were issued and lost.
    ///
    /// # Errors
    /// When the secret is being rotated, or the log cannot be written. That one was not withdrawn is in its result.
    pub async fn withdraw_secrets(
        &self,
        rotator: &dyn Rotator,
    ) -> Result<Vec<Withdrawal>, SecretRotationError> {
        let name = rotator.secret();
        let turn = self
            .rotations
            .begin(name)
            .ok_or_else(|| SecretRotationError::Busy(name.clone()))?;
        self.withdraw_replaced(rotator, &turn).await
    }

    async fn withdraw_replaced(
        &self,
        rotator: &dyn Rotator,
        turn: &Turn,
    ) -> Result<Vec<Withdrawal>, SecretRotationError> {
        // It is kept for longer than its overlap, to be tried.
        let now = crate::keyring::after(self.now(), WITHDRAWAL);
        self.withdraw_versions(rotator, turn, &|record| match record.state {
            KeyState::Retired | KeyState::Revoked | KeyState::Destroyed => true,
            KeyState::Retiring => record.until.is_none_or(|until| until <= now),
            KeyState::Pending | KeyState::Active | KeyState::Disabled => false,
        })
        .await
    }

    async fn withdraw_versions(
        &self,
        rotator: &dyn Rotator,
        turn: &Turn,
        of: &(dyn Fn(&SecretRecord) -> bool + Sync),
    ) -> Result<Vec<Withdrawal>, SecretRotationError> {
        let mut all = Vec::new();
        for (secret, id) in self.to_withdraw(rotator.secret(), of) {
            let end = self.withdraw_one(rotator, turn, &secret, &id).await?;
            all.push(Withdrawal { secret, id, end });
        }
        Ok(all)
    }

    /// What is good at its provider, as far as anybody knows, and of no more use here.
    fn to_withdraw(
        &self,
        name: &SecretName,
        of: &(dyn Fn(&SecretRecord) -> bool + Sync),
    ) -> Vec<(SecretRef, ProviderId)> {
        let issued: Vec<_> = self.ledger().issued(name).cloned().collect();
        let last = |at: usize, version| issued.iter().skip(at + 1).all(|later| later.version != version);
        issued
            .iter()
            .enumerate()
            .filter(|(at, one)| {
                let secret = SecretRef {
                    name: name.clone(),
                    version: one.version,
                };
                match self.keyring.secret_record(&secret) {
                    // Issued before the one that became this version, and lost; or lost with its version's number.
                    _ if !last(*at, one.version) => true,
                    None => true,
                    Some(record) if record.source != SecretSource::Rotator => true,
                    // It may come back.
                    Some(record) if record.deleted.is_some() && record.state.keeps_value() => false,
                    Some(record) => of(&record),
                }
            })
            .map(|(_, one)| {
                let secret = SecretRef {
                    name: name.clone(),
                    version: one.version,
                };
                (secret, one.id.clone())
            })
            .collect()
    }

    async fn withdraw_one(
        &self,
        rotator: &dyn Rotator,
        turn: &Turn,
        secret: &SecretRef,
        id: &ProviderId,
    ) -> Result<WithdrawalEnd, SecretRotationError> {
        let name = &secret.name;
        let (done, ended) = self
            .step(rotator, turn, Doing::Withdraw, RotationStep::Withdraw(id.clone()))
            .await;
        // Gone already is as good.
        let good = |status: &u16| matches!(status, 200..300 | 404 | 410);
        let failure = match (done, ended.statuses.last()) {
            (Err(said), _) => Some(said),
            (Ok(()), Some(status)) if good(status) => None,
            (Ok(()), Some(status)) => Some(format!("the provider answered with status {status}")),
            (Ok(()), None) => Some("the provider was not asked".to_owned()),
        };
        if let Some(why) = failure {
            let detail = format!("`{secret}` ({id}) was not withdrawn: {why}");
            self.append(failed(name, &detail)).await?;
            return Ok(WithdrawalEnd::Failed(why));
        }
        let kept = self
            .keyring
            .secret_record(secret)
            // One whose own life is over is tried in vain.
            .is_some_and(|record| {
                record.state == KeyState::Retiring
                    && record.deleted.is_none()
                    && !record.is_expired(self.now())
            });
        let known = self
            .ledger()
            .issued(name)
            .find(|one| one.version == secret.version && one.id == *id)
            .cloned();
        let was_taken = known.as_ref().is_some_and(|one| one.still_taken);
        let end = if kept && known.is_some() {
            match self.probe(rotator, turn, secret).await {
                Verdict::Refused(_) => WithdrawalEnd::Refused,
                Verdict::Taken => WithdrawalEnd::StillTaken,
                // It can be tried again while its value is here.
                Verdict::Unclear(why) => {
                    WithdrawalEnd::Failed(format!("it was not seen to be refused: {why}"))
                }
            }
        } else if was_taken {
            // The last that anybody saw of it; it can be tried no more.
            WithdrawalEnd::StillTaken
        } else {
            WithdrawalEnd::NotSeen
        };
        let agreed = |refused| Event::SecretWithdrawn {
            secret: secret.clone(),
            id: id.clone(),
            refused,
        };
        match &end {
            WithdrawalEnd::Refused => self.append(agreed(Some(true))).await?,
            WithdrawalEnd::NotSeen => self.append(agreed(None)).await?,
            WithdrawalEnd::Failed(why) => {
                self.append(failed(name, &format!("`{secret}` ({id}): {why}")))
                    .await?
            }
            WithdrawalEnd::StillTaken => {
                self.append(agreed(kept.then_some(false))).await?;
                let detail =
                    format!("the provider was seen to take `{secret}` ({id}) after it was withdrawn there");
                self.append(failed(name, &detail)).await?
            }
        };
        Ok(end)
    }

    /// Has a new credential issued; it waits then.
    async fn issue(&self, rotator: &dyn Rotator, turn: &Turn) -> Result<SecretRef, SecretRotationError> {
        // What cannot be kept is not asked for.
        self.keyring.next_secret(rotator.secret())?;
        let (done, ended) = self.step(rotator, turn, Doing::Issue, RotationStep::Issue).await;
        let why = match (ended.taken, done) {
            // The credential is here: what the rotator says of itself does not matter.
            (Some(Ok(new)), _) => return Ok(new),
            (Some(Err(why)), _) => why,
            (None, Err(said)) => said,
            (None, Ok(())) => "the rotator asked the provider for none".to_owned(),
        };
        Err(SecretRotationError::NotIssued {
            secret: rotator.secret().clone(),
            why,
        })
    }

    /// Has this version tried, and judges by what the provider answered.
    async fn probe(&self, rotator: &dyn Rotator, turn: &Turn, secret: &SecretRef) -> Verdict {
        let doing = Doing::Probe(secret.clone());
        let (done, ended) = self.step(rotator, turn, doing, RotationStep::Probe).await;
        if ended.statuses.is_empty() {
            let why = done.err();
            return Verdict::Unclear(why.unwrap_or_else(|| "the rotator did not try it".to_owned()));
        }
        let refused = |status: &u16| matches!(status, 401 | 403);
        if let Some(status) = ended.statuses.iter().copied().find(|status| refused(status)) {
            return Verdict::Refused(status);
        }
        let other = ended.statuses.iter().find(|status| !(200..300).contains(*status));
        match (other, done) {
            (Some(status), _) => Verdict::Unclear(format!("the provider answered with status {status}")),
            (None, Err(said)) => Verdict::Unclear(said),
            (None, Ok(())) => Verdict::Taken,
        }
    }

    async fn step(
        &self,
        rotator: &dyn Rotator,
        turn: &Turn,
        doing: Doing,
        step: RotationStep,
    ) -> (Result<(), String>, Ended) {
        let now = Step::new(doing);
        turn.step(&now);
        let done = rotator.step(step).await;
        let ended = now.end().await;
        (done.map_err(|error| error.to_string()), ended)
    }
}

impl Instance {
    /// Whether the answers of this grant hold a new credential.
    pub(super) fn issues(&self, alias: &GrantAlias) -> bool {
        self.admitted
            .rotates
            .as_ref()
            .is_some_and(|rotates| rotates.issue == *alias)
    }

    /// What secrets are opened for under this grant.
    pub(super) fn opening(&self, alias: &GrantAlias) -> Opening {
        match &self.admitted.rotates {
            Some(rotates) if rotates.probe == *alias => Opening::TryOrWatch,
            Some(_) | None => Opening::Use,
        }
    }
}

/// Whether a version that is in use is due to be replaced by a rotator: by its plan, or because its provider ends it soon.
#[must_use]
pub fn due_secret(record: &SecretRecord, now: Timestamp) -> Option<Timestamp> {
    if !record.is_in_use() {
        return None;
    }
    let ends = record.expires.map(|expires| {
        let life = Duration::try_from(expires.duration_since(record.created)).unwrap_or_default();
        crate::keyring::after(record.created, life - life / RENEW_IN_LAST)
    });
    [record.due(now), ends]
        .into_iter()
        .flatten()
        .min()
        .filter(|since| *since <= now)
}

/// So long before this time.
fn before(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_sub(by).unwrap_or(Timestamp::MIN)
}

fn failed(secret: &SecretName, detail: &str) -> Event {
    Event::SecretRotationFailed {
        secret: secret.clone(),
        detail: escape(detail, 300),
    }
}
