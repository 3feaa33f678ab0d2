//! Decides one use: clock, suspension, expiry, hours, uses, rate, in this order. It does nothing else: it neither logs nor touches keys.

use claviger_core::Refusal;
use claviger_core::approval::{Approval, ApprovalMode};
use claviger_core::http::{Budget, ByteBudget};
use claviger_core::manifest::{Bytes, Constraints, OnViolation, Rate, format_duration};
use claviger_core::refusal::{Denial, Rule};
use jiff::{SignedDuration, Timestamp};

use crate::ledger::{GrantState, Stopped};

/// The wall clock may be this far behind the latest time on record: what NTP corrects in one step without being asked.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// The time to decide by: never before what is on record.
///
/// # Errors
/// When the clock is behind by more than [`CLOCK_TOLERANCE`]: an expired grant could revive.
pub fn trusted_time(now: Timestamp, latest: Option<Timestamp>) -> Result<Timestamp, Denial> {
    match latest {
        Some(latest) if latest.duration_since(now) > CLOCK_TOLERANCE => Err(Denial::new(
            Refusal::Unavailable,
            Rule::Clock,
            &format!(
                "the clock says {now}, but {latest} is on record; set the clock, or run `claviger audit accept-clock`"
            ),
        )),
        Some(latest) => Ok(now.max(latest)),
        None => Ok(now),
    }
}

/// Whether nothing is suspended or stopped that the grant is a part of. A part of [`decide`], and asked again after whatever took time.
///
/// # Errors
/// What is stopped, and what lifts it; the agent learns no more than `suspended`.
pub fn in_force(state: &GrantState) -> Result<(), Denial> {
    let detail = match (state.stopped, state.suspended) {
        (Some(Stopped::Everything), _) => {
            "all use of credentials is stopped; `claviger panic --lift` lifts it"
        }
        (Some(Stopped::Agent), _) => "the agent is suspended; `claviger agent resume` resumes it",
        (None, true) => "the grant is suspended; `claviger grant resume` resumes it",
        (None, false) => return Ok(()),
    };
    Err(Denial::new(Refusal::Suspended, Rule::Suspension, detail))
}

/// What a use that may happen does to the grant's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The new end of the rate's bucket.
    pub rate_until: Option<Timestamp>,
}

/// Decides one use of a grant at a trusted time.
///
/// # Errors
/// The first rule that stands against it.
pub fn decide(constraints: &Constraints, state: &GrantState, now: Timestamp) -> Result<Allowance, Denial> {
    for check in CHECKS {
        check(constraints, state, now)?;
    }
    Ok(Allowance {
        rate_until: constraints.rate.map(|rate| rate_after(rate, state, now)),
    })
}

/// One line of an explanation: a rule, what it compares, and whether it allows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// Whether a use is allowed by it.
    pub allows: bool,
    /// What it compares.
    pub detail: String,
}

/// Says of every rule whether it would allow a use now, by the very checks that decide.
#[must_use]
pub fn explain(constraints: &Constraints, state: &GrantState, now: Timestamp) -> Vec<Finding> {
    let standing = [
        (Rule::Suspension, "not suspended".to_owned()),
        (
            Rule::Expires,
            constraints
                .expires
                .map_or_else(|| "never expires".to_owned(), |at| format!("expires {at}")),
        ),
        (
            Rule::Hours,
            if constraints.hours.is_empty() {
                "at any hour".to_owned()
            } else {
                constraints
                    .hours
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            },
        ),
        (
            Rule::Uses,
            constraints.uses.map_or_else(
                || format!("{} used, no limit", state.uses),
                |uses| format!("{} of {uses} used", state.uses),
            ),
        ),
        (
            Rule::Rate,
            constraints
                .rate
                .map_or_else(|| "no rate".to_owned(), |rate| rate.to_string()),
        ),
    ];
    // Whether somebody will approve is known to nobody: it is said, and denies nothing here.
    let approval = constraints.approval.map(|approval| Finding {
        rule: Rule::Approval,
        allows: true,
        detail: approval_words(approval),
    });
    CHECKS
        .iter()
        .zip(standing)
        .map(|(check, (rule, detail))| match check(constraints, state, now) {
            Ok(()) => Finding {
                rule,
                allows: true,
                detail,
            },
            Err(denial) => Finding {
                rule,
                allows: false,
                detail: denial.detail,
            },
        })
        .chain(approval)
        .collect()
}

fn approval_words(approval: Approval) -> String {
    let which = match approval.mode {
        ApprovalMode::Each => "each use",
        ApprovalMode::FirstUse => {
            "the first use of each right by this component under this revision of the manifest"
        }
    };
    let timeout = format_duration(approval.timeout);
    format!("{which} waits up to {timeout} for an operator's approval, and is decided again after it")
}

/// Whether a denial is the agent's doing, so that `on-violation` applies.
#[must_use]
pub fn suspends(constraints: &Constraints, denial: &Denial) -> bool {
    let to_blame = match denial.rule {
        Rule::Hours
        | Rule::Uses
        | Rule::Rate
        | Rule::Content
        | Rule::ContentSize
        | Rule::Target
        | Rule::Query
        | Rule::Header
        | Rule::Body
        | Rule::Budget
        | Rule::Guesses
        | Rule::Rotation => true,
        Rule::Instance
        | Rule::Grant
        | Rule::Capability
        | Rule::Right
        // One box that does not open may be an old one; many are guesses.
        | Rule::Mismatch
        | Rule::Expires
        | Rule::Suspension
        | Rule::KeyState
        | Rule::Clock
        | Rule::Custody
        | Rule::Audit
        | Rule::Egress
        | Rule::Concurrency
        | Rule::Route
        | Rule::SecretState
        | Rule::Token
        | Rule::Approval
        | Rule::Proposal => false,
        // Whatever the manifest says: who gets a secret back once tries again.
        Rule::Reflection => return true,
    };
    match constraints.on_violation {
        OnViolation::Deny => false,
        OnViolation::Suspend => to_blame,
    }
}

/// The bytes that one request may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Of its body.
    pub sent: u64,
    /// Of the answer's.
    pub received: u64,
}

/// How long a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes.
    Known(u64),
    /// At most so many.
    AtMost(u64),
}

/// Takes room for one request from what is left of a grant's byte budget: all of a known length, or what there is up to the most that
/// may come.
///
/// # Errors
/// When the budget is spent.
pub fn room(budget: &ByteBudget, state: &GrantState, body: BodyLength, answer: u64) -> Result<Room, Denial> {
    let left = |budget: Budget, moved: u64| budget.map_or(u64::MAX, |bytes| bytes.0.saturating_sub(moved));
    let spent = |what: &str, budget: Budget, moved: u64| {
        let all = budget.map_or_else(String::new, |bytes| bytes.to_string());
        Err(Denial::new(
            Refusal::OverBudget,
            Rule::Budget,
            &format!("{moved} bytes of {what} are spent or under way; the budget is {all}"),
        ))
    };
    let to_send = left(budget.sent, state.sent);
    let sent = match body {
        BodyLength::Known(length) if length > to_send => {
            return spent("requests", budget.sent, state.sent);
        }
        BodyLength::Known(length) => length,
        BodyLength::AtMost(_) if to_send == 0 => return spent("requests", budget.sent, state.sent),
        BodyLength::AtMost(most) => most.min(to_send),
    };
    let received = left(budget.received, state.received).min(answer);
    if received == 0 && answer > 0 {
        return spent("answers", budget.received, state.received);
    }
    Ok(Room { sent, received })
}

/// Whether so many bytes more may be sealed or unsealed under a grant's budget. A text is taken whole or not at all.
///
/// # Errors
/// When they may not.
pub fn sealed_room(budget: Option<Bytes>, state: &GrantState, size: u64) -> Result<(), Denial> {
    match budget {
        Some(budget) if state.sealed.saturating_add(size) > budget.0 => Err(Denial::new(
            Refusal::OverBudget,
            Rule::Budget,
            &format!(
                "{} bytes were sealed and unsealed, {size} more are asked for; the budget is {budget}",
                state.sealed
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

/// As [`explain`], of the byte budget: whether there is room for a request with this body.
#[must_use]
pub fn explain_budget(budget: &ByteBudget, state: &GrantState, body: BodyLength, answer: u64) -> Finding {
    let moved = |what: &str, budget: Budget, moved: u64| match budget {
        None => format!("{what} without a budget"),
        Some(all) => format!("{what}: {moved} bytes of {all} spent or under way"),
    };
    let (allows, detail) = match room(budget, state, body, answer) {
        Ok(_) => (
            true,
            [
                moved("requests", budget.sent, state.sent),
                moved("answers", budget.received, state.received),
            ]
            .join("; "),
        ),
        Err(denial) => (false, denial.detail),
    };
    Finding {
        rule: Rule::Budget,
        allows,
        detail,
    }
}

type Check = fn(&Constraints, &GrantState, Timestamp) -> Result<(), Denial>;

/// In the order of decision; `explain` walks the same list.
const CHECKS: [Check; 5] = [suspension, expiry, hours, uses, rate];

fn suspension(_: &Constraints, state: &GrantState, _: Timestamp) -> Result<(), Denial> {
    in_force(state)
}

fn expiry(constraints: &Constraints, _: &GrantState, now: Timestamp) -> Result<(), Denial> {
    match constraints.expires {
        Some(expires) if now >= expires => Err(Denial::new(
            Refusal::Expired,
            Rule::Expires,
            &format!("the grant expired {expires}"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn hours(constraints: &Constraints, _: &GrantState, now: Timestamp) -> Result<(), Denial> {
    if constraints.hours.is_empty() || constraints.hours.iter().any(|window| window.contains(now)) {
        return Ok(());
    }
    let windows = constraints
        .hours
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    Err(Denial::new(
        Refusal::Throttled,
        Rule::Hours,
        &format!("{now} is outside {windows}"),
    ))
}

fn uses(constraints: &Constraints, state: &GrantState, _: Timestamp) -> Result<(), Denial> {
    match constraints.uses {
        Some(uses) if state.uses >= uses.get() => Err(Denial::new(
            Refusal::OverBudget,
            Rule::Uses,
            &format!("{} of {uses} uses are spent", state.uses),
        )),
        Some(_) | None => Ok(()),
    }
}

/// The generic cell rate algorithm (ITU-T I.371) with a bucket of `uses`.
fn rate(constraints: &Constraints, state: &GrantState, now: Timestamp) -> Result<(), Denial> {
    let Some(rate) = constraints.rate else {
        return Ok(());
    };
    let full = state.rate_until.unwrap_or(now).max(now);
    let per = SignedDuration::try_from(rate.per).unwrap_or(SignedDuration::MAX);
    // There is room for one more if the bucket, after it, is full again within the period.
    if full.duration_since(now).saturating_add(interval(rate)) > per {
        return Err(Denial::new(
            Refusal::Throttled,
            Rule::Rate,
            &format!("the rate of {rate} is exceeded"),
        ));
    }
    Ok(())
}

fn rate_after(rate: Rate, state: &GrantState, now: Timestamp) -> Timestamp {
    let full = state.rate_until.unwrap_or(now).max(now);
    full.saturating_add(interval(rate)).unwrap_or(Timestamp::MAX)
}

/// The time in which one use comes back, rounded down to a nanosecond, so that `uses` of them never exceed the period.
fn interval(rate: Rate) -> SignedDuration {
    SignedDuration::try_from(rate.per / rate.uses.get()).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};
    use std::time::Duration;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn constraints(set: impl FnOnce(&mut Constraints)) -> Constraints {
        let mut constraints = Constraints::default();
        set(&mut constraints);
        constraints
    }

    #[track_caller]
    fn check(constraints: &Constraints, state: GrantState, now: &str, expected: Result<(), Rule>) {
        let decided = decide(constraints, &state, at(now))
            .map(drop)
            .map_err(|denial| denial.rule);
        assert_eq!(decided, expected);
        // What `explain` says is what `decide` does.
        let refusing = explain(constraints, &state, at(now))
            .into_iter()
            .find(|finding| !finding.allows);
        assert_eq!(refusing.map(|finding| finding.rule), expected.err());
    }

    #[test]
    fn every_rule_refuses_at_its_bound_and_allows_just_before() {
        let used = |uses| GrantState {
            uses,
            ..GrantState::default()
        };
        let none = GrantState::default();
        check(&constraints(|_| {}), none, "2026-06-01T12:00:00Z", Ok(()));

        let uses = constraints(|c| c.uses = NonZeroU64::new(3));
        check(&uses, used(2), "2026-06-01T12:00:00Z", Ok(()));
        check(&uses, used(3), "2026-06-01T12:00:00Z", Err(Rule::Uses));
        check(&uses, used(u64::MAX), "2026-06-01T12:00:00Z", Err(Rule::Uses));

        let expires = constraints(|c| c.expires = Some(at("2026-06-01T12:00:00Z")));
        check(&expires, none, "2026-06-01T11:59:59.999999999Z", Ok(()));
        check(&expires, none, "2026-06-01T12:00:00Z", Err(Rule::Expires));

        let hours = constraints(|c| c.hours = vec!["Mon-Fri 08:00-18:00 Europe/Zurich".parse().unwrap()]);
        check(&hours, none, "2026-06-01T15:59:59Z", Ok(())); // a Monday, 17:59:59 in Zurich
        check(&hours, none, "2026-06-01T16:00:00Z", Err(Rule::Hours));
        check(&hours, none, "2026-06-06T10:00:00Z", Err(Rule::Hours));

        let suspended = GrantState {
            suspended: true,
            ..none
        };
        let stopped = [Stopped::Everything, Stopped::Agent].map(|stopped| GrantState {
            stopped: Some(stopped),
            ..none
        });
        for state in [&[suspended], &stopped[..]].concat() {
            check(
                &constraints(|_| {}),
                state,
                "2026-06-01T12:00:00Z",
                Err(Rule::Suspension),
            );
        }
    }

    #[test]
    fn a_rate_allows_its_burst_then_refills_evenly() {
        let rated = constraints(|c| {
            c.rate = Some(Rate {
                uses: NonZeroU32::new(30).unwrap(),
                per: Duration::from_secs(3600),
            });
        });
        let mut state = GrantState::default();
        let mut now = at("2026-06-01T12:00:00Z");
        let mut use_one = |now| match decide(&rated, &state, now) {
            Ok(allowance) => {
                state.rate_until = allowance.rate_until;
                true
            }
            Err(denial) => {
                assert_eq!((denial.refusal, denial.rule), (Refusal::Throttled, Rule::Rate));
                false
            }
        };
        assert_eq!((0..40).filter(|_| use_one(now)).count(), 30);
        now += SignedDuration::from_secs(119);
        assert!(!use_one(now));
        now += SignedDuration::from_secs(1);
        assert!(use_one(now));
        assert!(!use_one(now));
        now += SignedDuration::from_hours(48);
        assert_eq!((0..40).filter(|_| use_one(now)).count(), 30);
    }

    #[test]
    fn a_clock_behind_the_record_is_not_trusted() {
        let latest = Some(at("2026-06-01T12:00:00Z"));
        assert_eq!(
            trusted_time(at("2026-06-01T12:00:01Z"), latest).unwrap(),
            at("2026-06-01T12:00:01Z")
        );
        // Within the tolerance time stands still, it does not go back.
        assert_eq!(
            trusted_time(at("2026-06-01T11:59:55Z"), latest).unwrap(),
            at("2026-06-01T12:00:00Z")
        );
        let denial = trusted_time(at("2026-06-01T11:59:54Z"), latest).unwrap_err();
        assert_eq!((denial.refusal, denial.rule), (Refusal::Unavailable, Rule::Clock));
    }

    #[test]
    fn a_byte_budget_is_used_to_its_last_byte_and_not_beyond() {
        use claviger_core::manifest::Bytes;
        let budget = ByteBudget {
            sent: Some(Bytes(10)),
            received: Some(Bytes(100)),
        };
        let state = |sent, received| GrantState {
            sent,
            received,
            ..GrantState::default()
        };
        let ask = |state: GrantState, body| {
            room(&budget, &state, body, 60)
                .map(|room| (room.sent, room.received))
                .map_err(|denial| (denial.refusal, denial.rule))
        };
        let over = Err((Refusal::OverBudget, Rule::Budget));
        assert_eq!(ask(state(0, 0), BodyLength::Known(10)), Ok((10, 60)));
        assert_eq!(ask(state(1, 0), BodyLength::Known(10)), over);
        assert_eq!(ask(state(10, 0), BodyLength::Known(0)), Ok((0, 60)));
        assert_eq!(ask(state(4, 50), BodyLength::AtMost(99)), Ok((6, 50)));
        assert_eq!(ask(state(10, 0), BodyLength::AtMost(99)), over);
        assert_eq!(ask(state(0, 100), BodyLength::Known(0)), over);
        assert_eq!(ask(state(0, u64::MAX), BodyLength::Known(0)), over);
        for (state, body) in [
            (state(4, 50), BodyLength::AtMost(99)),
            (state(1, 0), BodyLength::Known(10)),
            (state(0, 100), BodyLength::Known(0)),
        ] {
            let finding = explain_budget(&budget, &state, body, 60);
            assert_eq!(finding.allows, ask(state, body).is_ok(), "{finding:?}");
        }
        let all = state(u64::MAX, u64::MAX);
        let unlimited = room(&ByteBudget::default(), &all, BodyLength::AtMost(7), 60).unwrap();
        assert_eq!((unlimited.sent, unlimited.received), (7, 60));
    }

    #[test]
    fn only_what_the_agent_did_suspends() {
        let suspending = constraints(|c| c.on_violation = OnViolation::Suspend);
        let denial = |rule| Denial::new(Refusal::Unavailable, rule, "");
        for rule in [
            Rule::Uses,
            Rule::Rate,
            Rule::Hours,
            Rule::Content,
            Rule::ContentSize,
        ] {
            assert!(suspends(&suspending, &denial(rule)), "{rule:?}");
            assert!(!suspends(&constraints(|_| {}), &denial(rule)), "{rule:?}");
        }
        for rule in [
            Rule::Custody,
            Rule::Audit,
            Rule::Clock,
            Rule::Expires,
            Rule::KeyState,
        ] {
            assert!(!suspends(&suspending, &denial(rule)), "{rule:?}");
        }
    }
}
