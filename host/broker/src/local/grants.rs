//! Grants as their agent and their operator see them: listing, suspending, resuming. Not their constraints: the manifest has those.

use claviger_core::audit::Event;
use claviger_core::refusal::{Denial, Rule};
use claviger_core::request::GrantInfo;
use claviger_core::{AgentName, AuditError, GrantAlias, Refusal};

use super::admit::{AdmittedGrant, Granted};
use super::record::Record;
use super::send::{Exchanges, Stop};
use super::{Instance, LocalBroker};
use crate::guard::{self, BodyLength};
use crate::ledger::GrantState;

impl LocalBroker {
    /// Suspends a grant by an operator's decision; it holds from the next request on.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn suspend(&self, agent: &AgentName, grant: &GrantAlias) -> Result<(), AuditError> {
        self.suspend_for(agent, grant, None).await
    }

    /// Suspends a grant and ends what is under way for it. Both hold when this is called; the future ends when it is on the log.
    pub(super) fn suspend_for(
        &self,
        agent: &AgentName,
        grant: &GrantAlias,
        cause: Option<Rule>,
    ) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
        suspend(&self.record, &self.exchanges, agent, grant, cause)
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
                let refused = match &time {
                    Err(denial) => Some(denial.refusal),
                    Ok(now) => self.credential_refused(grant).or_else(|| {
                        guard::decide(&grant.constraints, &state, *now)
                            .map(drop)
                            .and_then(|()| bytes_left(grant, &state))
                            .err()
                            .map(|denial| denial.refusal)
                    }),
                };
                GrantInfo {
                    alias: alias.clone(),
                    capability: grant.capability.kind().as_str().to_owned(),
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

    /// Whether a grant's credentials cannot be used now.
    fn credential_refused(&self, grant: &AdmittedGrant) -> Option<Refusal> {
        match &grant.capability {
            Granted::Sign { key, .. } => self.keyring.key(key).is_none().then_some(Refusal::Revoked),
            Granted::Attest(terms) => self.keyring.key(&terms.key).is_none().then_some(Refusal::Revoked),
            // Something of it can be done while any version opens.
            Granted::Seal { key, .. } | Granted::Mac { key, .. } => {
                self.some_opens(key).err().map(|denial| denial.refusal)
            }
            Granted::Http(terms) => self.credentials(terms).err().map(|denial| denial.refusal),
        }
    }

    fn snapshot_of<'a>(
        &self,
        aliases: impl Iterator<Item = &'a GrantAlias>,
        agent: &AgentName,
    ) -> Vec<GrantState> {
        let ledger = self.ledger();
        aliases.map(|alias| ledger.grant(agent, alias)).collect()
    }
}

/// Whether there is room for the smallest request.
fn bytes_left(grant: &AdmittedGrant, state: &GrantState) -> Result<(), Denial> {
    match &grant.capability {
        Granted::Sign { .. } | Granted::Attest(_) | Granted::Mac { .. } => Ok(()),
        Granted::Seal { budget, .. } => guard::sealed_room(*budget, state, 1),
        Granted::Http(terms) => {
            let http = &terms.grant;
            guard::room(&http.budget, state, BodyLength::Known(0), http.answer.max.0).map(drop)
        }
    }
}

/// As [`LocalBroker::suspend`], for whoever has the parts alone: an answer that a secret came back in.
pub(super) fn suspend(
    record: &Record,
    exchanges: &Exchanges,
    agent: &AgentName,
    grant: &GrantAlias,
    cause: Option<Rule>,
) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
    let event = Event::Suspended {
        agent: agent.clone(),
        grant: grant.clone(),
        cause,
    };
    let appended = record.append_stopping(event, &|| {
        exchanges.stop(Stop::Suspended, |one| one.agent == *agent && one.alias == *grant);
    });
    async move { appended.await.map(drop) }
}
