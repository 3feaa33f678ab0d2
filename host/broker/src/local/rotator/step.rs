//! One step of a rotation that a rotator does, as the host sees it: what it may ask for, what was taken out of an answer, and what the
//! provider answered. A component's own word counts for nothing here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_core::audit::SecretRef;
use claviger_core::manifest::Rotates;
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{GrantAlias, Refusal, SecretName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of one step, so many answers' status codes are remembered; a step that needs more is not understood.
const MAX_STATUSES: usize = 64;

/// What a step is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Doing {
    /// A new credential is asked for, once.
    Issue,
    /// This version is attached to requests of the probe.
    Probe(SecretRef),
    /// A credential is withdrawn.
    Withdraw,
}

/// A step that is under way, or was.
#[derive(Debug)]
pub(in super::super) struct Step {
    pub(in super::super) doing: Doing,
    seen: Mutex<Seen>,
    // Held by what takes a credential out of an answer, which comes to its end whatever becomes of the agent.
    taking: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Seen {
    // Invariant: never false again.
    over: bool,
    // Whether the one request for a credential was allowed. Invariant: never false again.
    asked: bool,
    taken: Option<Result<SecretRef, String>>,
    statuses: Vec<u16>,
}

impl Step {
    pub(super) fn new(doing: Doing) -> Arc<Self> {
        Arc::new(Self {
            doing,
            seen: Mutex::default(),
            taking: Arc::new(Semaphore::new(1)),
        })
    }

    /// Whether a grant may be used in this step, and the version of its secret that is attached if it is not the one in use.
    pub(in super::super) fn allows(
        &self,
        rotates: &Rotates,
        alias: &GrantAlias,
    ) -> Result<Option<&SecretRef>, Denial> {
        self.goes_on()?;
        let seen = self.seen();
        if seen.statuses.len() >= MAX_STATUSES {
            return Err(denied("a step of a rotation has so many requests and no more"));
        }
        match &self.doing {
            Doing::Issue if *alias == rotates.issue && seen.asked => {
                Err(denied("one credential is asked for in a rotation, and it was"))
            }
            // Where the new value may be in an answer, nobody looks for it yet.
            Doing::Issue if *alias != rotates.issue && seen.asked && seen.taken.is_none() => {
                Err(denied("the answer with the new credential is being read"))
            }
            Doing::Probe(secret) if *alias == rotates.probe => Ok(Some(secret)),
            Doing::Probe(_) | Doing::Withdraw if *alias == rotates.issue => {
                Err(denied("a new credential is asked for in the step `issue` alone"))
            }
            Doing::Issue | Doing::Withdraw if *alias == rotates.probe => {
                Err(denied("no version is tried but in the step `probe`"))
            }
            Doing::Issue | Doing::Probe(_) | Doing::Withdraw => Ok(None),
        }
    }

    /// Whether it goes on: nothing is done in its name afterwards.
    pub(in super::super) fn goes_on(&self) -> Result<(), Denial> {
        if self.seen().over {
            return Err(denied(
                "the step of the rotation that this instance is for is over",
            ));
        }
        Ok(())
    }

    /// Spends the right to ask for a credential. What is returned is held until the answer was looked at.
    pub(in super::super) fn ask(&self) -> Result<OwnedSemaphorePermit, Denial> {
        let mut seen = self.seen();
        if seen.over || seen.asked {
            return Err(denied("one credential is asked for in a rotation, and it was"));
        }
        let taking = Arc::clone(&self.taking)
            .try_acquire_owned()
            .map_err(|_| denied("one credential is asked for in a rotation, and it was"))?;
        seen.asked = true;
        Ok(taking)
    }

    /// What was taken out of the answer, or why nothing was.
    pub(in super::super) fn took(&self, taken: Result<SecretRef, String>) {
        self.seen().taken = Some(taken);
    }

    /// What the provider answered to a request under a grant. Of a probe, nothing but the probe's own counts.
    pub(in super::super) fn saw(&self, rotates: &Rotates, alias: &GrantAlias, status: u16) {
        let counts = match &self.doing {
            Doing::Probe(_) => *alias == rotates.probe,
            Doing::Issue | Doing::Withdraw => true,
        };
        let mut seen = self.seen();
        if !counts {
            return;
        }
        if seen.statuses.len() < MAX_STATUSES {
            seen.statuses.push(status);
        }
    }

    /// Ends it: nothing is asked for in its name any more. Waits for an answer that a credential is still taken out of.
    pub(super) async fn end(&self) -> Ended {
        self.seen().over = true;
        // Never closed.
        drop(self.taking.acquire().await);
        let mut seen = self.seen();
        Ended {
            taken: seen.taken.take(),
            statuses: std::mem::take(&mut seen.statuses),
        }
    }

    /// Whether it is over, and no credential is still taken out of an answer.
    fn is_done(&self) -> bool {
        self.seen().over && self.taking.available_permits() > 0
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there was of a step.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) taken: Option<Result<SecretRef, String>>,
    pub(super) statuses: Vec<u16>,
}

fn denied(text: &str) -> Denial {
    Denial::new(Refusal::NotGranted, Rule::Rotation, text)
}

/// Which secrets are being rotated, each with the step that its rotator's instances are for.
#[derive(Debug, Default)]
pub(in super::super) struct Rotations {
    now: Mutex<HashMap<SecretName, Option<Arc<Step>>>>,
}

impl Rotations {
    /// Begins a rotation of a secret, if none is under way, and nothing is still being issued of one that was cut off.
    pub(super) fn begin(self: &Arc<Self>, secret: &SecretName) -> Option<Turn> {
        let mut now = self.lock();
        match now.get(secret) {
            Some(Some(step)) if step.is_done() => {}
            Some(Some(_) | None) => return None,
            None => {}
        }
        now.insert(secret.clone(), None);
        Some(Turn {
            rotations: Arc::clone(self),
            secret: secret.clone(),
        })
    }

    /// The step that an instance of this secret's rotator is started for.
    pub(in super::super) fn step(&self, secret: &SecretName) -> Option<Arc<Step>> {
        let step = self.lock().get(secret).cloned().flatten()?;
        step.goes_on().is_ok().then_some(step)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SecretName, Option<Arc<Step>>>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A rotation that is under way. Dropped, it is over.
pub(super) struct Turn {
    rotations: Arc<Rotations>,
    secret: SecretName,
}

impl Turn {
    /// From here on, and until the next one, instances are started for this step.
    pub(super) fn step(&self, step: &Arc<Step>) {
        self.rotations
            .lock()
            .insert(self.secret.clone(), Some(Arc::clone(step)));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut now = self.rotations.lock();
        // Whoever dropped the rotation waits for nothing; an instance that is left asks in vain.
        if let Some(step) = now.remove(&self.secret).flatten() {
            step.seen().over = true;
            // It stays until the last answer was looked at: two at once would take each other's place.
            if !step.is_done() {
                now.insert(self.secret.clone(), Some(step));
            }
        }
    }
}
