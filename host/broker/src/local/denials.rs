//! Refusals on the log, without letting an agent flood it: the first of a burst one by one, the rest as counts. Uses are never
//! counted together.

use std::collections::HashMap;
use std::sync::PoisonError;

use claviger_core::Refusal;
use claviger_core::audit::Event;
use claviger_core::name::escape;
use claviger_core::refusal::{Denial, Rule};
use jiff::{SignedDuration, Timestamp};

use super::{Instance, LocalBroker};

/// So many refusals of an instance are logged one by one before counting begins.
const BURST: u32 = 64;
/// So many a second are logged one by one after that: a misconfigured agent stays readable, a hostile one stays small.
const PER_SECOND: u32 = 8;
/// So many different refusals are counted apart; the rest are counted as one.
const KINDS: usize = 64;
/// A grant's name in a denial has at most this many characters.
const MAX_GRANT_TEXT: usize = 64;

/// Stands for every name that is no grant, once refusals are counted.
const NO_SUCH_GRANT: &str = "(no such grant)";

type Kind = (String, Refusal, Rule);

/// The refusals of one instance that are not on the log yet, and how many may go there one by one.
pub(super) struct Denials {
    room: u32,
    refilled: Timestamp,
    /// Whether a second has passed since counts were last put on the log.
    due: bool,
    held: HashMap<Kind, u64>,
}

impl Denials {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            room: BURST,
            refilled: now,
            due: false,
            held: HashMap::new(),
        }
    }

    /// Whether this refusal goes on the log by itself; if not, it is counted.
    fn admit(&mut self, now: Timestamp, kind: Kind) -> Option<Kind> {
        let elapsed = now.duration_since(self.refilled);
        if elapsed >= SignedDuration::from_secs(1) {
            let seconds = u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX);
            self.room = self
                .room
                .saturating_add(seconds.saturating_mul(PER_SECOND))
                .min(BURST);
            self.refilled = now;
            self.due = true;
        }
        if let Some(room) = self.room.checked_sub(1) {
            self.room = room;
            return Some(kind);
        }
        let full = self.held.len() >= KINDS && !self.held.contains_key(&kind);
        let (name, refusal, rule) = kind;
        // The agent chooses what it calls a grant that is not there: however many names, one count.
        let kind = if rule == Rule::Grant {
            (NO_SUCH_GRANT.to_owned(), refusal, rule)
        } else {
            (name, refusal, rule)
        };
        let kind = if full {
            ("(others)".to_owned(), refusal, rule)
        } else {
            (kind.0, refusal, rule)
        };
        let count = self.held.entry(kind).or_default();
        *count = count.saturating_add(1);
        None
    }
}

impl LocalBroker {
    /// Puts a refusal on the log and says what the agent may learn. If the log cannot take it, the agent learns `unavailable`.
    pub(super) async fn deny(&self, instance: &Instance, grant: &str, denial: Denial) -> Refusal {
        let grant = escape(grant, MAX_GRANT_TEXT);
        let kind = (grant, denial.refusal, denial.rule);
        let alone = lock(instance).admit(self.clock.now(), kind);
        let Some((grant, refusal, rule)) = alone else {
            return denial.refusal;
        };
        if std::mem::take(&mut lock(instance).due) {
            self.flush_denials(instance);
        }
        let event = self.denied(instance, grant, refusal, rule, denial.detail, 1);
        match self.append(event).await {
            Ok(_) => denial.refusal,
            Err(_) => Refusal::Unavailable,
        }
    }

    /// Puts the counted refusals of an instance on the log.
    pub(super) fn flush_denials(&self, instance: &Instance) {
        let held = std::mem::take(&mut lock(instance).held);
        for ((grant, refusal, rule), count) in held {
            let event = self.denied(
                instance,
                grant,
                refusal,
                rule,
                "counted together".to_owned(),
                count,
            );
            self.note(event);
        }
    }

    fn denied(
        &self,
        instance: &Instance,
        grant: String,
        refusal: Refusal,
        rule: Rule,
        detail: String,
        count: u64,
    ) -> Event {
        Event::Denied {
            instance: instance.id,
            agent: instance.admitted.agent.clone(),
            grant,
            refusal,
            rule,
            detail,
            count,
        }
    }
}

fn lock(instance: &Instance) -> std::sync::MutexGuard<'_, Denials> {
    instance.denials.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_nothing_is_lost() {
        let start = Timestamp::UNIX_EPOCH;
        let mut denials = Denials::new(start);
        let mut alone = 0_u64;
        for n in 0..1_000_000_u64 {
            let kind = (format!("g{}", n % 1000), Refusal::NotGranted, Rule::Grant);
            alone += u64::from(denials.admit(start, kind).is_some());
        }
        assert_eq!(alone, u64::from(BURST));
        assert!(denials.held.len() <= KINDS + 1);
        assert_eq!(alone + denials.held.values().sum::<u64>(), 1_000_000);
    }

    #[test]
    fn time_makes_room_again() {
        let start = Timestamp::UNIX_EPOCH;
        let mut denials = Denials::new(start);
        let kind = || ("g".to_owned(), Refusal::NotGranted, Rule::Grant);
        for _ in 0..BURST {
            assert!(denials.admit(start, kind()).is_some());
        }
        assert!(denials.admit(start, kind()).is_none());
        assert!(
            denials
                .admit(start + SignedDuration::from_secs(1), kind())
                .is_some()
        );
    }
}
