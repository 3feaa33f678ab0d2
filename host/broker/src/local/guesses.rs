//! Boxes that did not open and tags that were wrong, counted for each grant of an agent: trying must not be free. Not on the log by itself:
//! each such use is, and a host that starts anew begins with an empty minute.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use claviger_core::refusal::{Denial, Rule};
use claviger_core::{AgentName, GrantAlias, Refusal};
use jiff::{SignedDuration, Timestamp};

/// So many within [`WINDOW`], and the grant waits: an agent that has its boxes in order fails now and then at a rotation; one that tries
/// what it does not know fails always. What is under way when the bound is reached still gets its answer: one use of each instance.
pub const MAX_GUESSES: usize = 10;
/// A failure is forgotten after this.
pub const WINDOW: SignedDuration = SignedDuration::from_secs(60);

type Failures = HashMap<(AgentName, GrantAlias), VecDeque<Timestamp>>;

/// The failures of the last minute.
// Invariant: at most `MAX_GUESSES` times for each grant, the oldest first.
#[derive(Default)]
pub(super) struct Guesses(Mutex<Failures>);

impl Guesses {
    /// Whether another box or tag of this grant may be tried.
    pub(super) fn check(&self, agent: &AgentName, alias: &GrantAlias, now: Timestamp) -> Result<(), Denial> {
        let mut failures = self.lock();
        let Some(times) = failures.get_mut(&(agent.clone(), alias.clone())) else {
            return Ok(());
        };
        times.retain(|time| now.duration_since(*time) < WINDOW);
        if times.len() < MAX_GUESSES {
            return Ok(());
        }
        Err(Denial::new(
            Refusal::Throttled,
            Rule::Guesses,
            &format!(
                "{MAX_GUESSES} boxes did not open, or tags were wrong, within {} s",
                WINDOW.as_secs()
            ),
        ))
    }

    /// Counts a failure; says whether it is the one that the grant waits for.
    pub(super) fn failed(&self, agent: &AgentName, alias: &GrantAlias, now: Timestamp) -> bool {
        let mut failures = self.lock();
        let times = failures.entry((agent.clone(), alias.clone())).or_default();
        times.retain(|time| now.duration_since(*time) < WINDOW);
        if times.len() >= MAX_GUESSES {
            times.pop_front();
            times.push_back(now);
            return false;
        }
        times.push_back(now);
        times.len() == MAX_GUESSES
    }

    fn lock(&self) -> MutexGuard<'_, Failures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_grant_and_forgotten_after_the_window() {
        let guesses = Guesses::default();
        let (agent, alias, other): (AgentName, GrantAlias, GrantAlias) =
            ("a".parse().unwrap(), "g".parse().unwrap(), "h".parse().unwrap());
        let start = Timestamp::UNIX_EPOCH;
        let at = |seconds| start + SignedDuration::from_secs(seconds);
        for n in 1..=MAX_GUESSES {
            guesses.check(&agent, &alias, at(0)).unwrap();
            assert_eq!(guesses.failed(&agent, &alias, at(0)), n == MAX_GUESSES);
        }
        let refused = guesses.check(&agent, &alias, at(59)).unwrap_err();
        assert_eq!(
            (refused.refusal, refused.rule),
            (Refusal::Throttled, Rule::Guesses)
        );
        guesses.check(&agent, &other, at(59)).unwrap();
        // What was under way moves the window on and is not reported again.
        assert!(!guesses.failed(&agent, &alias, at(59)));
        guesses.check(&agent, &alias, at(60)).unwrap();
        assert_eq!(guesses.lock()[&(agent, alias)].len(), 1);
    }
}
