//! What waits for an approval as an operator lists, reads and answers it. Not the wait: the use itself does that, and decides what counts.

use std::sync::Arc;
use std::time::Duration;

use claviger_core::approval::{Answer, AnsweredBy, ApprovalId, ApprovalMode, Question, Verdict};
use claviger_core::audit::ApprovalEnd;
use claviger_core::{AgentName, GrantAlias, RequestDigest};
use jiff::Timestamp;

use super::super::LocalBroker;

/// An answer is on record within this time, or whoever gave it is told that it is not known to be: the agent may be stopped.
const RECORDING: Duration = Duration::from_secs(10);

/// Why an answer to a question had no effect.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Nothing of this name waits.
    #[error(
        "no use waits for an approval `{0}`: it was answered, it expired, its agent went away, or it never was"
    )]
    Unknown(ApprovalId),
    /// Its time is over.
    #[error("approval `{0}` has expired; the use was refused")]
    Expired(ApprovalId),
    /// Whoever waited is gone.
    #[error("approval `{0}` was withdrawn: its agent went away before the answer had an effect")]
    Withdrawn(ApprovalId),
    /// Another answer came first.
    #[error("approval `{0}` was answered otherwise before")]
    Overtaken(ApprovalId),
    /// The answer is not on record.
    #[error("the audit log cannot be written; the use was refused")]
    Audit,
    /// The answer was given, and nobody says what came of it.
    #[error(
        "approval `{0}` was answered; it is not known whether the answer had an effect: see `claviger audit tail`"
    )]
    NotKnown(ApprovalId),
}

/// What waits, in a line: without its content.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct PendingApproval {
    /// What to answer to.
    pub id: ApprovalId,
    /// Who asks.
    pub agent: AgentName,
    /// Under which grant.
    pub grant: GrantAlias,
    /// What an approval would cover.
    pub mode: ApprovalMode,
    /// What would be done, in one word: `sign` say.
    pub kind: String,
    /// How many bytes of content, or of body.
    pub size: u64,
    /// What an approval is bound to.
    pub request: RequestDigest,
    /// Since when.
    pub asked: Timestamp,
    /// The first moment at which no answer counts any more.
    pub expires: Timestamp,
}

impl From<&Question> for PendingApproval {
    fn from(question: &Question) -> Self {
        Self {
            id: question.id,
            agent: question.agent.clone(),
            grant: question.grant.clone(),
            mode: question.mode,
            kind: question.subject.kind().to_owned(),
            size: question.subject.content().size,
            request: question.request,
            asked: question.asked,
            expires: question.expires,
        }
    }
}

impl LocalBroker {
    /// What waits for an approval now, the oldest first.
    #[must_use]
    pub fn approvals(&self) -> Vec<PendingApproval> {
        let state = self.approvals.lock();
        let mut all: Vec<_> = state
            .waiting
            .values()
            .filter(|one| one.answer.is_some())
            .map(|one| PendingApproval::from(&*one.question))
            .collect();
        drop(state);
        all.sort_by_key(|one| (one.asked, one.id));
        all
    }

    /// One of them, with exactly what would be done.
    #[must_use]
    pub fn approval_question(&self, id: ApprovalId) -> Option<Arc<Question>> {
        let state = self.approvals.lock();
        let waiting = state.waiting.get(&id).filter(|one| one.answer.is_some())?;
        Some(Arc::clone(&waiting.question))
    }

    /// Approves one use, by an operator's decision. It goes on when the approval is on record, which it is when this returns.
    ///
    /// # Errors
    /// When it does not wait any more, or the approval is not on record: then nothing was done.
    pub async fn approve(&self, id: ApprovalId, by: AnsweredBy) -> Result<(), AnswerError> {
        self.answer(id, |question| Verdict::approve(question, by)).await
    }

    /// Denies one use, by an operator's decision. The reason goes on the log, escaped and cut; the agent does not learn it.
    ///
    /// # Errors
    /// When it does not wait any more, or the denial is not on record: it was refused all the same.
    pub async fn deny_approval(
        &self,
        id: ApprovalId,
        by: AnsweredBy,
        reason: &str,
    ) -> Result<(), AnswerError> {
        self.answer(id, |question| Verdict::deny(question, by, reason))
            .await
    }

    async fn answer(
        &self,
        id: ApprovalId,
        verdict: impl FnOnce(&Question) -> Verdict,
    ) -> Result<(), AnswerError> {
        let (given, mut ended) = {
            let mut state = self.approvals.lock();
            let waiting = state.waiting.get_mut(&id).ok_or(AnswerError::Unknown(id))?;
            let sender = waiting.answer.take().ok_or(AnswerError::Unknown(id))?;
            let verdict = verdict(&waiting.question);
            let ended = waiting.ended.subscribe();
            sender
                .send(verdict.clone())
                .map_err(|_| AnswerError::Withdrawn(id))?;
            (verdict.answer, ended)
        };
        let ended = tokio::time::timeout(RECORDING, ended.wait_for(Option::is_some)).await;
        let ended = match ended {
            Ok(Ok(ended)) => (*ended).clone(),
            // Nobody says what came of it: the log, or the host, is gone.
            Ok(Err(_)) | Err(_) => None,
        };
        match (given, ended) {
            (Answer::Approve, Some(ApprovalEnd::Approved { .. }))
            | (Answer::Deny { .. }, Some(ApprovalEnd::Denied { .. })) => Ok(()),
            (_, Some(ApprovalEnd::Expired)) => Err(AnswerError::Expired(id)),
            (_, Some(ApprovalEnd::Withdrawn)) if self.record.log.check_usable().is_err() => {
                Err(AnswerError::Audit)
            }
            (_, Some(ApprovalEnd::Withdrawn)) => Err(AnswerError::Withdrawn(id)),
            (_, Some(ApprovalEnd::Approved { .. } | ApprovalEnd::Denied { .. })) => {
                Err(AnswerError::Overtaken(id))
            }
            (_, None) if self.record.log.check_usable().is_err() => Err(AnswerError::Audit),
            (_, None) => Err(AnswerError::NotKnown(id)),
        }
    }

    /// How many uses were refused since this broker was opened because nobody approved them.
    #[must_use]
    pub fn not_approved(&self) -> u64 {
        self.approvals.lock().refused
    }
}
