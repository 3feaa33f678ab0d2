//! What an operator stops at once beyond one grant: an agent, or all use of every credential. Not the check: `guard` makes it at every use.

use std::future::Future;

use claviger_core::audit::Event;
use claviger_core::{AgentName, AuditError};

use super::LocalBroker;
use super::send::Stop;

/// Why no credential is opened.
pub(super) const STOPPED: &str = "all use of credentials is stopped; `claviger panic --lift` lifts it";

impl LocalBroker {
    /// Suspends every grant that an agent has or will have, and ends what is under way for it. Both hold when this is called; the future
    /// ends when it is on the log.
    ///
    /// # Errors
    /// When the log cannot be written; the agent then stays suspended, and nothing is released any more.
    pub fn suspend_agent(
        &self,
        agent: &AgentName,
    ) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
        let event = Event::AgentSuspended { agent: agent.clone() };
        let appended = self.record.append_stopping(event, &|| {
            self.exchanges
                .stop(Stop::AgentSuspended, |one| one.agent == *agent);
        });
        async move { appended.await.map(drop) }
    }

    /// Resumes a suspended agent. Grants of it that were suspended by themselves stay so.
    ///
    /// # Errors
    /// When the log cannot be written; the agent then stays unusable, as everything does.
    pub async fn resume_agent(&self, agent: &AgentName) -> Result<(), AuditError> {
        self.append(Event::AgentResumed { agent: agent.clone() })
            .await
            .map(drop)
    }

    /// Stops all use of every credential until [`LocalBroker::lift_panic`], also after a restart: every request is refused, what is under
    /// way is cut off, tokens are forgotten, open keys and secrets are wiped. It holds when this is called; the future ends when it is on
    /// the log.
    ///
    /// One thing goes on to its end: a request for a token whose refresh token the server replaces with the answer. Cutting it off would lose
    /// the refresh token for good; what comes of it is kept, and not used.
    ///
    /// # Errors
    /// When the log cannot be written; nothing is released then, too, but it is not known whether a restart remembers.
    pub fn panic(&self) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
        let appended = self
            .record
            .append_stopping(Event::Panic, &|| self.exchanges.stop(Stop::Panic, |_| true));
        // After the ledger says so: what is opened meanwhile is closed by whoever opened it.
        self.tokens.forget_all();
        self.open_keys.close_all();
        self.open_secrets.close_all();
        async move { appended.await.map(drop) }
    }

    /// Lets credentials be used again. What was suspended, disabled or revoked by itself stays so.
    ///
    /// # Errors
    /// When the log cannot be written; everything then stays stopped.
    pub async fn lift_panic(&self) -> Result<(), AuditError> {
        self.append(Event::PanicLifted).await.map(drop)
    }

    /// Whether all use of every credential is stopped.
    #[must_use]
    pub fn in_panic(&self) -> bool {
        self.ledger().in_panic()
    }
}
