//! Grants that agents ask for: checked, bounded, and on record as proposals. Grants nothing: an operator writes manifests.

use claviger_core::audit::Event;
use claviger_core::name::escape;
use claviger_core::proposal::{MAX_PENDING, MAX_REASON, Wish, WishText};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{AgentName, AuditError, GrantAlias, Outcome, Refusal};

use super::{Instance, LocalBroker};
use crate::ledger::{Ledger, Proposal};

impl LocalBroker {
    /// Puts a proposal on record. Asking for the same again does nothing; asking for something else under the same alias is refused until
    /// an operator has looked.
    pub(super) async fn propose(
        &self,
        instance: &Instance,
        alias: &str,
        wish: &WishText,
        reason: &str,
    ) -> Result<Outcome, Refusal> {
        let admitted = &instance.admitted;
        let no = |refusal, text: &str| Denial::new(refusal, Rule::Proposal, text);
        let read = || {
            let alias = alias
                .parse::<GrantAlias>()
                .map_err(|error| no(Refusal::Invalid, &format!("the alias is none; {error}")))?;
            let wish = Wish::parse(wish).map_err(|error| no(Refusal::Invalid, &error.to_string()))?;
            if admitted.grants.contains_key(&alias) {
                let text = "the manifest has a grant of this alias; more is asked for under another";
                return Err(no(Refusal::Invalid, text));
            }
            Ok((alias, wish))
        };
        let (grant, wish) = match read() {
            Ok(read) => read,
            Err(denial) => return Err(self.deny(instance, alias, denial).await),
        };
        let recording = self.record.append_decided(|ledger| {
            judge(ledger, &admitted.agent, &grant, &wish)?;
            Ok(Event::GrantProposed {
                instance: instance.id,
                agent: admitted.agent.clone(),
                component: admitted.component,
                grant: grant.clone(),
                wish: wish.clone(),
                reason: escape(reason, MAX_REASON),
            })
        });
        match recording {
            Ok(recording) => {
                let appended = recording.await;
                appended
                    .map(|_| Outcome::Proposed)
                    .map_err(|_| Refusal::Unavailable)
            }
            Err(NotNew::There) => Ok(Outcome::Proposed),
            Err(NotNew::Other) => {
                let text = "another proposal of this alias waits; `claviger grant dismiss` puts it aside";
                Err(self.deny(instance, alias, no(Refusal::Throttled, text)).await)
            }
            Err(NotNew::Full) => {
                let text = format!(
                    "{MAX_PENDING} proposals of the agent wait; `claviger grant dismiss` puts one aside"
                );
                Err(self.deny(instance, alias, no(Refusal::Throttled, &text)).await)
            }
        }
    }

    /// Puts a proposal aside, by an operator's decision; says whether there was one.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn dismiss_proposal(&self, agent: &AgentName, grant: &GrantAlias) -> Result<bool, AuditError> {
        let there = self
            .ledger()
            .proposals_of(agent)
            .is_some_and(|all| all.contains_key(grant));
        if there {
            let event = Event::ProposalDismissed {
                agent: agent.clone(),
                grant: grant.clone(),
            };
            self.append(event).await?;
        }
        Ok(there)
    }
}

/// Why a proposal does not go on record.
enum NotNew {
    /// It is there.
    There,
    /// Another one has its alias.
    Other,
    /// As many wait as may.
    Full,
}

fn judge(ledger: &Ledger, agent: &AgentName, alias: &GrantAlias, wish: &Wish) -> Result<(), NotNew> {
    let Some(waiting) = ledger.proposals_of(agent) else {
        return Ok(());
    };
    match waiting.get(alias) {
        Some(Proposal { wish: other, .. }) if other == wish => Err(NotNew::There),
        Some(_) => Err(NotNew::Other),
        None if waiting.len() >= MAX_PENDING => Err(NotNew::Full),
        None => Ok(()),
    }
}
