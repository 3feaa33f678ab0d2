//! What an agent may learn of a refusal, and what the audit log learns. Not a place for secrets: neither holds one.

use serde::{Deserialize, Serialize};

/// Why a request was refused, as the agent sees it. Closed on purpose: the WIT enum has exactly these cases, and a new one is
/// a new version of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// No grant of this name, or it does not cover the request.
    #[error("not granted")]
    NotGranted,
    /// The grant's time is over.
    #[error("expired")]
    Expired,
    /// The key or grant was revoked.
    #[error("revoked")]
    Revoked,
    /// Suspended until an operator resumes it.
    #[error("suspended")]
    Suspended,
    /// The uses are spent.
    #[error("over budget")]
    OverBudget,
    /// Not now; later may succeed.
    #[error("throttled")]
    Throttled,
    /// An operator was asked and did not approve.
    #[error("not approved")]
    NotApproved,
    /// The content does not fit the key's profile, a bound was exceeded, or a box does not open.
    #[error("invalid")]
    Invalid,
    /// The host cannot serve now.
    #[error("unavailable")]
    Unavailable,
}

/// The rule that refused, for the audit log and `explain`. The agent never sees it. Closed, so that whoever acts on a rule is made
/// to think of a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The instance is not known or has ended.
    Instance,
    /// The manifest has no such grant.
    Grant,
    /// The grant's capability is another one.
    Capability,
    /// The grant does not have the right to this operation.
    Right,
    /// `expires` has passed.
    Expires,
    /// Outside `hours`.
    Hours,
    /// `uses` are spent.
    Uses,
    /// `rate` is exceeded.
    Rate,
    /// The grant is suspended.
    Suspension,
    /// The key is disabled, revoked or gone, or was changed since admission.
    KeyState,
    /// The content does not fit the profile.
    Content,
    /// The content is larger than its bound.
    ContentSize,
    /// The wall clock is behind times already on record.
    Clock,
    /// Custody could not do the operation.
    Custody,
    /// The audit log cannot be written.
    Audit,
    /// The manifest grants no outbound HTTP, or the host has no egress.
    Egress,
    /// The URL is not in the one accepted spelling.
    Target,
    /// No grant allows this origin, method and path.
    Route,
    /// The grant does not allow this key or value of the query.
    Query,
    /// The grant does not allow this header field, or the host decides about it.
    Header,
    /// The body is not of an allowed type, or a predicate does not hold.
    Body,
    /// The byte budget is spent.
    Budget,
    /// As many requests of the instance are under way as may be.
    Concurrency,
    /// The secret is disabled, revoked, expired or gone, or was changed since admission.
    SecretState,
    /// The authorization server gave no token.
    Token,
    /// A managed secret was in an answer.
    Reflection,
    /// The use was not approved, or too many wait for an approval.
    Approval,
    /// What the agent asked for is not a grant that could be proposed, or too many proposals wait.
    Proposal,
    /// The box does not open, or is none.
    Mismatch,
    /// As many boxes did not open, or tags were wrong, as may within a minute.
    Guesses,
    /// A rotator asked for what its step of the rotation does not have, or the rotation is at an end.
    Rotation,
}

/// A refusal with its reason; what a guard returns and the log records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What the agent learns.
    pub refusal: Refusal,
    /// Which rule decided.
    pub rule: Rule,
    /// What happened and what was expected, for the operator. Without control characters; at most 200 characters and a mark where it
    /// was cut.
    pub detail: String,
}

/// The detail of a denial is cut to this many characters, after it was escaped: each refusal goes on the log, and agents choose how
/// many there are.
const MAX_DETAIL: usize = 200;

impl Denial {
    /// A denial whose detail may quote what an agent sent: it is escaped and cut here.
    #[must_use]
    pub fn new(refusal: Refusal, rule: Rule, detail: &str) -> Self {
        let mut detail = crate::name::escape(detail, MAX_DETAIL);
        if let Some((at, _)) = detail.char_indices().nth(MAX_DETAIL) {
            detail.truncate(at);
            detail.push('…');
        }
        Self {
            refusal,
            rule,
            detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_an_agent_makes_a_detail_longer() {
        for (text, cut) in [
            ("x", true),
            ("\\", true),
            ("\u{202e}", true),
            ("é", true),
            ("", false),
        ] {
            let denial = Denial::new(Refusal::Invalid, Rule::Header, &text.repeat(300));
            assert_eq!(
                denial.detail.chars().count(),
                if cut { MAX_DETAIL + 1 } else { 0 },
                "{text:?}"
            );
            assert_eq!(denial.detail.ends_with('…'), cut);
        }
    }
}
