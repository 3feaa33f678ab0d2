//! Secrets in the hands of the broker: added, replaced, taken out of use, opened while they are used, and compared with the log. Not
//! their storage, and not what they are attached to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use claviger_core::audit::{Event, SecretRef, SecretSource};
use claviger_core::http::{InjectionKind, Origin};
use claviger_core::name::nearest;
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{AuditError, BoxFuture, Refusal, Secret, SecretName};
use jiff::Timestamp;

use super::keys::IDLE;
use super::send::Stop;
use super::stops::STOPPED;
use super::{LocalBroker, OpenError};
use crate::keyring::{KeyState, KeyringError, Lock, NewSecret, SecretRecord, SecretReplacement};
use crate::ledger::Ledger;

/// What to add.
pub struct SecretCreation {
    /// Its name.
    pub name: SecretName,
    /// What it is for.
    pub kind: InjectionKind,
    /// Where alone it may be sent.
    pub origin: Origin,
    /// When it stops being accepted, if that is known.
    pub expires: Option<Timestamp>,
    /// How often it shall be replaced.
    pub rotate_every: Option<Duration>,
    /// Its value.
    pub value: Secret,
}

impl std::fmt::Debug for SecretCreation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretCreation")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Why a secret was not added or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewSecretError {
    /// The keyring refused or failed.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The log cannot be written; what was done to the secret stays, and nothing is released any more.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl LocalBroker {
    /// Adds a secret, stores it and puts it on the log.
    ///
    /// # Errors
    /// When the name is taken, the value does not fit its kind, or something cannot be written.
    pub async fn add_secret(&self, creation: SecretCreation) -> Result<Arc<SecretRecord>, NewSecretError> {
        self.add_planned_secret(creation, Duration::ZERO, None).await
    }

    /// As [`LocalBroker::add_secret`]; after a replacement the value before is kept for so long, and its purge is locked if that is asked.
    ///
    /// # Errors
    /// As there; and when the plan is out of bounds.
    pub async fn add_planned_secret(
        &self,
        creation: SecretCreation,
        overlap: Duration,
        lock: Option<Lock>,
    ) -> Result<Arc<SecretRecord>, NewSecretError> {
        let new = NewSecret {
            name: creation.name,
            kind: creation.kind,
            origin: creation.origin,
            assurance: self.assurance,
            expires: creation.expires,
            rotate_every: creation.rotate_every,
            overlap,
            locked: lock.is_some(),
            value: creation.value,
        };
        let record = self.keyring.insert_secret(new, self.now())?;
        self.append(added(&record)).await?;
        Ok(record)
    }

    /// Puts a new value in the place of a secret's, which is used from the next request on. What is under way goes on with the old
    /// one.
    ///
    /// # Errors
    /// When there is no such secret, the value does not fit its kind, or something cannot be written.
    pub async fn replace_secret(
        &self,
        replacement: SecretReplacement,
    ) -> Result<Arc<SecretRecord>, NewSecretError> {
        self.replace_secret_by(replacement, SecretSource::Operator).await
    }

    pub(super) async fn replace_secret_by(
        &self,
        replacement: SecretReplacement,
        by: SecretSource,
    ) -> Result<Arc<SecretRecord>, NewSecretError> {
        let name = replacement.name.clone();
        let before = self.keyring.secret_versions(&name);
        let record = self.keyring.replace_secret(replacement, by, self.now())?;
        let changed = self.changed_since(&before);
        self.log_secrets(Some(added(&record)), &changed).await?;
        Ok(record)
    }

    /// Takes the newest version of a secret out of use (`Disabled`, `Revoked`) or back into it (`Active`, from `Disabled` only). Holds
    /// from the next request on, and ends what is under way with it.
    ///
    /// # Errors
    /// When there is no such secret, it cannot become that, or something cannot be written. If only the log failed, the secret is in
    /// the new state, and nothing is released any more.
    pub async fn set_secret_state(
        &self,
        name: &SecretName,
        state: KeyState,
    ) -> Result<Arc<SecretRecord>, NewSecretError> {
        let before = self.keyring.secret_versions(name);
        let record = self.keyring.set_secret_state(name, state, self.now())?;
        let changed = self.changed_since(&before);
        self.log_secrets(None, &changed).await?;
        Ok(record)
    }

    /// Overwrites the values of all versions of a secret, and ends what is under way with one.
    ///
    /// # Errors
    /// When there is no such secret, all of it was destroyed before, or something cannot be written.
    pub async fn destroy_secret(&self, name: &SecretName) -> Result<Vec<Arc<SecretRecord>>, NewSecretError> {
        let records = self.keyring.destroy_secret(name, self.now())?;
        self.log_secrets(None, &records).await?;
        Ok(records)
    }

    /// The versions of one secret that are in another state than these were.
    pub(super) fn changed_since(&self, before: &[Arc<SecretRecord>]) -> Vec<Arc<SecretRecord>> {
        before
            .iter()
            .filter_map(|old| self.keyring.secret_record(&old.secret).filter(|new| new != old))
            .collect()
    }

    /// Closes what is out of use, ends what is under way with what was stopped, and puts what is new, and the new states, on the log.
    pub(super) async fn log_secrets(
        &self,
        added: Option<Event>,
        changed: &[Arc<SecretRecord>],
    ) -> Result<(), NewSecretError> {
        // All have their places in the log before one is waited for.
        let mut appended: Vec<BoxFuture<'static, _>> = Vec::new();
        if let Some(event) = added {
            appended.push(Box::pin(self.record.append(event)));
        }
        for record in changed {
            self.open_secrets.close(&record.secret.name);
            let stop = || {
                if !record.may_finish() {
                    self.exchanges
                        .stop(Stop::Revoked, |one| one.secrets.contains(&record.secret));
                }
            };
            appended.push(Box::pin(
                self.record.append_stopping(self.secret_changed(record), &stop),
            ));
        }
        for one in appended {
            one.await?;
        }
        Ok(())
    }

    pub(super) fn secret_changed(&self, record: &SecretRecord) -> Event {
        Event::SecretStateChanged {
            secret: record.secret.clone(),
            state: record.standing().to_owned(),
            reason: record.reason.as_ref().map(ToString::to_string),
            keyring: self.keyring.info().generation,
        }
    }

    /// The version of a secret that is used now for this, or why there is none.
    pub(super) fn active_secret(
        &self,
        name: &SecretName,
        kind: InjectionKind,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<Arc<SecretRecord>, Denial> {
        let denied = |refusal, text: String| Err(Denial::new(refusal, Rule::SecretState, &text));
        let Some(record) = self.keyring.secret(name) else {
            return denied(Refusal::Revoked, self.no_active_secret(name));
        };
        let secret = &record.secret;
        is_for(&record, kind, origin)?;
        if record.is_expired(now) {
            return denied(
                Refusal::Expired,
                format!("secret `{secret}` expired; `claviger secret replace {name}` takes a new value"),
            );
        }
        Ok(record)
    }

    fn no_active_secret(&self, name: &SecretName) -> String {
        let secrets = self.keyring.secrets();
        let newest = secrets
            .iter()
            .filter(|record| record.secret.name == *name)
            .max_by_key(|record| record.secret.version);
        if let Some(record) = newest {
            return format!(
                "secret `{}` is {}, only active secrets are used",
                record.secret,
                record.standing()
            );
        }
        let names = secrets.iter().map(|record| record.secret.name.as_str());
        match nearest(name.as_str(), names) {
            Some(near) => format!("the keyring has no secret `{name}`; did you mean `{near}`?"),
            None => format!("the keyring has no secret `{name}`; add it with `claviger secret add {name} …`"),
        }
    }

    /// The value of the version that is in use, kept open while it is used. One that was taken out of use or replaced is not opened.
    pub(super) fn open_secret(&self, secret: &SecretRef) -> Result<Arc<Secret>, Denial> {
        self.open_secret_to(secret, Opening::Use)
    }

    /// As [`LocalBroker::open_secret`], to be used or for another purpose.
    pub(super) fn open_secret_to(&self, secret: &SecretRef, to: Opening) -> Result<Arc<Secret>, Denial> {
        let opened = self.open_secrets.open(
            secret,
            || match self.keyring.secret_record(secret).map(|record| record.state) {
                Some(KeyState::Active) => Ok(()),
                Some(KeyState::Pending | KeyState::Retiring) if to == Opening::TryOrWatch => Ok(()),
                Some(KeyState::Retiring | KeyState::Retired) => {
                    let text = format!("secret `{secret}` was replaced while the request was decided");
                    Err(Denial::new(Refusal::Throttled, Rule::SecretState, &text))
                }
                Some(
                    state
                    @ (KeyState::Pending | KeyState::Disabled | KeyState::Revoked | KeyState::Destroyed),
                ) => {
                    let text = format!("secret `{secret}` is {state}, only active secrets are used");
                    Err(Denial::new(Refusal::Revoked, Rule::SecretState, &text))
                }
                None => {
                    let text = format!("secret `{secret}` is gone");
                    Err(Denial::new(Refusal::Revoked, Rule::SecretState, &text))
                }
            },
            || {
                self.keyring
                    .secret_material(secret)
                    .map_err(|error| Denial::new(Refusal::Unavailable, Rule::SecretState, &error.to_string()))
            },
        )?;
        // As with keys: looked at after it was opened.
        if self.in_panic() {
            self.open_secrets.close(&secret.name);
            return Err(Denial::new(Refusal::Suspended, Rule::Suspension, STOPPED));
        }
        Ok(opened)
    }

    /// Compares the secrets of keyring and log, as keys are compared.
    pub(super) fn reconcile_secrets(&self, ledger: &Ledger) -> Result<(), OpenError> {
        let records = self.keyring.secrets();
        let logged: HashMap<_, _> = ledger
            .secrets()
            .map(|secret| (secret.name, secret.version))
            .collect();
        for (name, version) in &logged {
            if !records
                .iter()
                .any(|record| record.secret.name == *name && record.secret.version >= *version)
            {
                return Err(OpenError::Disagree(format!(
                    "the log says that secret `{name}@{version}` was added, the keyring does not have it"
                )));
            }
        }
        for record in &records {
            let known = logged.get(&record.secret.name);
            if known.is_none_or(|newest| record.secret.version > *newest) {
                self.note(added(record));
            }
            let said = ledger.secret_standing(&record.secret);
            let known = match known {
                Some(newest) if record.secret.version <= *newest => said,
                // Added just now, in use as far as the log says.
                Some(_) | None => Some(KeyState::Active.as_str()),
            };
            if known != Some(record.standing()) {
                self.note(self.secret_changed(record));
            }
        }
        Ok(())
    }
}

/// Whether a secret may be attached in this way, and sent there.
pub(super) fn is_for(record: &SecretRecord, kind: InjectionKind, origin: &Origin) -> Result<(), Denial> {
    let secret = &record.secret;
    let denied = |text: String| Err(Denial::new(Refusal::Revoked, Rule::SecretState, &text));
    if record.kind != kind {
        return denied(format!(
            "secret `{secret}` is for `{}`, not for `{kind}`",
            record.kind
        ));
    }
    if record.origin != *origin {
        return denied(format!(
            "secret `{secret}` may be sent to {} alone, not to {origin}",
            record.origin
        ));
    }
    Ok(())
}

pub(super) fn added(record: &SecretRecord) -> Event {
    Event::SecretAdded {
        secret: record.secret.clone(),
        kind: record.kind,
        origin: record.origin.clone(),
        assurance: record.assurance,
        by: record.source,
    }
}

/// What a secret is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// To be attached to what an agent sends: the version in use alone.
    Use,
    /// To be tried by a rotation, or looked for in answers: one that waits or retires may be good at its server, too.
    TryOrWatch,
}

/// The secrets that are open, each closed when it was idle for a while.
#[derive(Default)]
pub(super) struct OpenSecrets {
    open: Mutex<HashMap<SecretRef, (Arc<Secret>, Instant)>>,
}

impl OpenSecrets {
    /// Opens a version of which `usable` holds.
    fn open(
        &self,
        secret: &SecretRef,
        usable: impl FnOnce() -> Result<(), Denial>,
        read: impl FnOnce() -> Result<Secret, Denial>,
    ) -> Result<Arc<Secret>, Denial> {
        // Held from before its state is looked at: a secret that is taken out of use meanwhile is closed afterwards, not kept.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        usable()?;
        if let Some((value, used)) = open.get_mut(secret) {
            *used = Instant::now();
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(read()?);
        open.insert(secret.clone(), (Arc::clone(&value), Instant::now()));
        Ok(value)
    }

    pub(super) fn close_idle(&self, now: Instant) {
        self.retain(|_, used| now.saturating_duration_since(used) < IDLE);
    }

    fn close(&self, name: &SecretName) {
        self.retain(|secret, _| secret.name != *name);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    pub(super) fn close_all(&self) {
        self.retain(|_, _| false);
    }

    fn retain(&self, keep: impl Fn(&SecretRef, Instant) -> bool) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|secret, (_, used)| keep(secret, *used));
    }
}
