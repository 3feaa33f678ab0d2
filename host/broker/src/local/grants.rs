//! Grants as their agent and their operator see them: listing, suspending, resuming. Not their constraints: the manifest has those.

use claviger_core::audit::Event;
use claviger_core::request::GrantInfo;
use claviger_core::{AgentName, AuditError, GrantAlias, Refusal};

use super::{Instance, LocalBroker};
use crate::guard;

impl LocalBroker {
    /// Suspends a grant by an operator's decision; it holds from the next request on.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn suspend(&self, agent: &AgentName, grant: &GrantAlias) -> Result<(), AuditError> {
        self.append(Event::Suspended {
            agent: agent.clone(),
            grant: grant.clone(),
            cause: None,
        })
        .await
        .map(drop)
    }

    /// Resumes a suspended grant.
    ///
    /// # Errors
    /// When the log cannot be written; the grant then stays unusable, as everything does.
    pub async fn resume(&self, agent: &AgentName, grant: &GrantAlias) -> Result<(), AuditError> {
        self.append(Event::Resumed {
            agent: agent.clone(),
            grant: grant.clone(),
        })
        .await
        .map(drop)
    }

    pub(super) fn list_grants(&self, instance: &Instance) -> Vec<GrantInfo> {
        let admitted = &instance.admitted;
        let ledger = self.snapshot_of(admitted.grants.keys(), &admitted.agent);
        let time = guard::trusted_time(self.clock.now(), self.ledger().latest());
        admitted
            .grants
            .iter()
            .zip(ledger)
            .map(|((alias, grant), state)| {
                let refused = match (&time, self.keyring.key(&grant.key)) {
                    (Err(denial), _) => Some(denial.refusal),
                    (Ok(_), None) => Some(Refusal::Revoked),
                    (Ok(now), Some(_)) => guard::decide(&grant.constraints, &state, *now)
                        .err()
                        .map(|denial| denial.refusal),
                };
                GrantInfo {
                    alias: alias.clone(),
                    capability: "sign".to_owned(),
                    uses_left: grant
                        .constraints
                        .uses
                        .map(|uses| uses.get().saturating_sub(state.uses)),
                    expires: grant
                        .constraints
                        .expires
                        .and_then(|at| u64::try_from(at.as_second()).ok()),
                    refused,
                }
            })
            .collect()
    }

    fn snapshot_of<'a>(
        &self,
        aliases: impl Iterator<Item = &'a GrantAlias>,
        agent: &AgentName,
    ) -> Vec<crate::ledger::GrantState> {
        let ledger = self.ledger();
        aliases.map(|alias| ledger.grant(agent, alias)).collect()
    }
}
