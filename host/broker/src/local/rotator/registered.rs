//! The rotators that a host has, and doing with them what is due. Not a rotation itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_core::SecretName;
use claviger_core::audit::SecretSource;
use claviger_core::rotator::Rotator;
use jiff::Timestamp;

use super::{SecretRotation, SecretRotationError, WITHDRAWAL, Withdrawal, due_secret};
use crate::keyring::{KeyState, after};
use crate::local::LocalBroker;
use crate::local::schedule::{LOOK, RETRY};

/// What ends soon is tried so often until then.
const TRIES_LEFT: u32 = 8;

/// The rotators of a host, by the secret that each replaces.
#[derive(Debug, Default)]
pub(in super::super) struct Registered {
    all: Mutex<BTreeMap<SecretName, One>>,
}

#[derive(Debug)]
struct One {
    rotator: Arc<dyn Rotator>,
    // When it is tried again after a failure.
    retry: Option<Timestamp>,
}

impl Registered {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SecretName, One>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of one secret that has a rotator.
#[derive(Debug)]
pub enum Attended {
    /// It was due, and rotated or not.
    Rotated(SecretName, Result<SecretRotation, SecretRotationError>),
    /// It was not due; what it has left behind was withdrawn or not.
    Withdrawn(SecretName, Result<Vec<Withdrawal>, SecretRotationError>),
}

impl Attended {
    /// Whether it has to be tried again.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        match self {
            Self::Rotated(_, Ok(done)) => done.withdrawn.iter().any(Withdrawal::has_failed),
            Self::Withdrawn(_, Ok(done)) => done.iter().any(Withdrawal::has_failed),
            Self::Rotated(_, Err(_)) | Self::Withdrawn(_, Err(_)) => true,
        }
    }
}

impl LocalBroker {
    /// Has this secret rotated by this rotator from now on: when its plan says so, when two thirds of its life are over, and when an
    /// operator says so. Another one for the same secret takes its place.
    pub fn add_rotator(&self, rotator: Arc<dyn Rotator>) {
        let secret = rotator.secret().clone();
        let one = One { retry: None, rotator };
        self.rotators.lock().insert(secret, one);
    }

    /// The rotator of a secret, if this host has one.
    #[must_use]
    pub fn rotator(&self, secret: &SecretName) -> Option<Arc<dyn Rotator>> {
        self.rotators
            .lock()
            .get(secret)
            .map(|one| Arc::clone(&one.rotator))
    }

    /// Does what is due with every rotator that this host has: rotates a secret by its plan, or before its provider ends it, goes on with
    /// a rotation that was cut off, and withdraws what is left behind. A failure is on the log. Says nothing of a secret of which there is
    /// nothing to do.
    pub async fn attend_secrets(&self) -> Vec<Attended> {
        let all: Vec<_> = self
            .rotators
            .lock()
            .values()
            .map(|one| Arc::clone(&one.rotator))
            .collect();
        let mut done = Vec::new();
        for rotator in all {
            done.extend(self.attend(rotator.as_ref()).await);
        }
        done
    }

    /// As [`LocalBroker::attend_secrets`], and leaves a secret alone for a while after a failure.
    pub(in super::super) async fn look_after_secrets(&self) {
        let now = self.now();
        let ready: Vec<_> = self
            .rotators
            .lock()
            .values()
            // One that is further ahead was written by a clock that had run ahead.
            .filter(|one| one.retry.is_none_or(|at| at <= now || at > after(now, RETRY)))
            .map(|one| Arc::clone(&one.rotator))
            .collect();
        for rotator in ready {
            let failed = self
                .attend(rotator.as_ref())
                .await
                .is_some_and(|done| done.has_failed());
            if let Some(one) = self.rotators.lock().get_mut(rotator.secret()) {
                one.retry = failed.then(|| after(now, self.patience(rotator.secret())));
            }
        }
    }

    /// How long a secret is left alone after a failure: an hour, or less of what soon ends.
    fn patience(&self, name: &SecretName) -> Duration {
        let expires = self.keyring.secret(name).and_then(|record| record.expires);
        let left = expires.map(|at| Duration::try_from(at.duration_since(self.now())).unwrap_or_default());
        let versions = self.keyring.secret_versions(name);
        let now = self.now();
        let retiring = versions.iter().any(|record| {
            record.state == KeyState::Retiring && record.until.is_some_and(|until| until > now)
        });
        // What is kept to be tried is tried while it is kept.
        let longest = if retiring { WITHDRAWAL / TRIES_LEFT } else { RETRY };
        left.map_or(longest, |left| (left / TRIES_LEFT).clamp(LOOK, longest))
    }

    async fn attend(&self, rotator: &dyn Rotator) -> Option<Attended> {
        let name = rotator.secret();
        let current = self.keyring.current_secret(name).ok()?;
        if current.deleted.is_some() {
            return None;
        }
        if let Err(error) = self.give_up_what_is_stale(&current).await {
            return Some(Attended::Rotated(name.clone(), Err(error)));
        }
        // What an operator has stopped is not put back into use because something waits.
        let wanted = current.is_in_use() || current.lacks_successor();
        let waits = self
            .keyring
            .pending_secret(name)
            .is_some_and(|record| wanted && record.source == SecretSource::Rotator);
        let due = self
            .keyring
            .secret(name)
            .is_some_and(|record| due_secret(&record, self.now()).is_some());
        if waits || due {
            return Some(Attended::Rotated(name.clone(), self.rotate_secret(rotator).await));
        }
        let withdrawn = self.withdraw_secrets(rotator).await;
        let nothing = matches!(&withdrawn, Ok(all) if all.is_empty());
        (!nothing).then(|| Attended::Withdrawn(name.clone(), withdrawn))
    }
}
