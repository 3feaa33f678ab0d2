//! What is due, and doing it: keys whose plan says that a new version takes their place, versions at the end of their overlap. Not how:
//! that is `rotation`. It reads the broker's clock; that a minute has passed is all that a timer tells it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use claviger_core::audit::Event;
use claviger_core::name::escape;
use claviger_core::{KeyName, KeyRef};
use jiff::Timestamp;
use tokio::task::{JoinHandle, JoinSet};

use super::LocalBroker;
use super::keys::NewKeyError;
use super::rotation::{Rotation, is_certified};
use crate::keyring::{KeyRecord, Start, after};

/// How often a host looks what is due: a plan counts in days, and an overlap that ends a minute late is none that ends early.
pub(super) const LOOK: Duration = Duration::from_secs(60);
/// A rotation that failed is tried again after this: a device that is away for an hour fills no log.
pub(super) const RETRY: Duration = Duration::from_secs(3600);
/// Secrets of a host have so long before its keys are looked at.
const HEAD_START: Duration = Duration::from_secs(5);
/// What waits for its promotion for longer is worth a question.
pub const STUCK_AFTER: Duration = Duration::from_secs(86_400);

/// Why a key is due for a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "because")]
pub enum Due {
    /// Its age.
    Age {
        /// Since when it is due.
        since: Timestamp,
    },
    /// Its uses.
    Uses {
        /// How many there were.
        uses: u64,
        /// How many the plan allows.
        plan: u64,
    },
}

/// Whether the version of a key that is in use is due, by its plan, its uses on the log and the time.
#[must_use]
pub fn due(record: &KeyRecord, uses: u64, now: Timestamp) -> Option<Due> {
    if !record.is_in_use() {
        return None;
    }
    if let Some(since) = record.due(now).filter(|since| *since <= now) {
        return Some(Due::Age { since });
    }
    let plan = record.plan.uses?.get();
    (uses >= plan).then_some(Due::Uses { uses, plan })
}

/// What came of one rotation that was due.
#[derive(Debug)]
pub struct Rotated {
    /// The version that was due.
    pub key: KeyRef,
    /// Why.
    pub due: Due,
    /// The new version, or why there is none.
    pub result: Result<Arc<KeyRecord>, NewKeyError>,
}

impl LocalBroker {
    /// The keys that are due now, each with the version in use. What waits for a promotion is not due once more.
    #[must_use]
    pub fn due_keys(&self) -> Vec<(Arc<KeyRecord>, Due)> {
        let now = self.now();
        let records = self.keyring.keys();
        let ledger = self.ledger();
        records
            .into_iter()
            .filter(|record| record.is_in_use() && self.keyring.pending(&record.key.name).is_none())
            .filter_map(|record| {
                let uses = ledger.key_usage(&record.key).map_or(0, |usage| usage.all.uses);
                due(&record, uses, now).map(|due| (record, due))
            })
            .collect()
    }

    /// Does what is due: retires what is at the end of its overlap, and rotates each key whose plan says so. A key with a certificate is
    /// staged; it waits for its new one. Of several hosts of one keyring, one after the other, each version is rotated once.
    ///
    /// # Errors
    /// When the keyring or the log cannot be written. That one key could not be rotated is in its result, and on the log.
    pub async fn rotate_due(&self) -> Result<Vec<Rotated>, NewKeyError> {
        self.pass_time().await?;
        let mut done = Vec::new();
        for (record, due) in self.due_keys() {
            let start = if is_certified(&record.profile) {
                Start::Staged
            } else {
                Start::AtOnce
            };
            let rotation = Rotation {
                of: Some(record.key.version),
                overlap: None,
                start,
            };
            let result = self.rotate_seen(&record, rotation).await;
            if let Err(error) = &result {
                self.append(Event::RotationFailed {
                    key: record.key.clone(),
                    detail: escape(&error.to_string(), 200),
                })
                .await?;
            }
            done.push(Rotated {
                key: record.key.clone(),
                due,
                result,
            });
        }
        Ok(done)
    }

    /// Does what is due for as long as what this returns is kept: for hosts that run longer than a command. Ends with the broker.
    /// Dropping it ends the task; a rotation that it is in has happened or has not.
    ///
    /// Call it in a tokio runtime with timers.
    #[must_use = "dropping it ends the schedule"]
    pub fn schedule(self: &Arc<Self>) -> Schedule {
        let broker = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            let mut look = tokio::time::interval(LOOK);
            // Aborted with this task.
            let mut secrets = JoinSet::new();
            // After a pause of the machine once, not for every minute of it.
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                look.tick().await;
                let Some(broker) = broker.upgrade() else {
                    return;
                };
                // First: what is at the end of its overlap is withdrawn while it can still be tried. But keys wait for no provider.
                if secrets.is_empty() {
                    let broker = Arc::clone(&broker);
                    secrets.spawn(async move { broker.look_after_secrets().await });
                }
                drop(tokio::time::timeout(HEAD_START, secrets.join_next()).await);
                broker.look().await;
            }
        });
        Schedule { task }
    }

    /// One look of the schedule. A failure is on the log, and the key is left alone for a while.
    async fn look(&self) {
        let now = self.now();
        if self
            .retry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|at| now < at)
        {
            return;
        }
        let failed = match self.rotate_due().await {
            Ok(done) => done.iter().any(|one| one.result.is_err()),
            // The keyring or the log cannot be written: nothing is released either, and whoever asks is told why.
            Err(_) => true,
        };
        *self.retry.lock().unwrap_or_else(PoisonError::into_inner) = failed.then(|| after(now, RETRY));
    }

    /// The version of a key that waits for its promotion for too long.
    #[must_use]
    pub fn stuck(&self, name: &KeyName) -> Option<Arc<KeyRecord>> {
        let now = self.now();
        self.keyring
            .pending(name)
            .filter(|record| after(record.created, STUCK_AFTER) <= now)
    }
}

/// A schedule that runs.
#[derive(Debug)]
pub struct Schedule {
    task: JoinHandle<()>,
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.task.abort();
    }
}
