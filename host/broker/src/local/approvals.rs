//! Uses that wait for an approval: put on record, shown, answered, and let go on once. Not a permit: what was approved is decided anew
//! and logged like any other use. Content is held here only while it waits, and the last one that was approved, to compare with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use claviger_core::approval::{
    Answer, ApprovalId, ApprovalMode, Approver, NoVerdict, Question, Subject, Verdict,
};
use claviger_core::audit::{ApprovalEnd, ApprovalRequest, Event};
use claviger_core::manifest::format_duration;
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{AgentName, AuditError, BoxFuture, GrantAlias, Refusal, RequestDigest};
use jiff::{SignedDuration, Timestamp};
use rand_core::RngCore as _;
use tokio::sync::{oneshot, watch};

use super::admit::AdmittedGrant;
use super::record::Record;
use super::{Instance, LocalBroker};

mod answers;

pub use answers::{AnswerError, PendingApproval};

/// An agent has at most this many uses that wait: what more of one agent is put to a person is not read.
pub const MAX_PENDING_PER_AGENT: usize = 8;
/// At most this many uses wait in all.
pub const MAX_PENDING: usize = 64;
/// At most this many bytes of content are held for uses that wait, in all.
pub const MAX_PENDING_BYTES: usize = 64 * 1024 * 1024;
/// Of so many grants it is remembered what was approved last: at most 32 KiB each.
const MAX_REMEMBERED: usize = 64;
/// Proof that one use was approved, on record. Good for that use alone: consumed when the use is decided for good.
pub(super) struct Approved {
    id: ApprovalId,
    // None for a use that follows the approval of an earlier one.
    request: Option<RequestDigest>,
}

impl Approved {
    /// Takes the approval for this very use.
    pub(super) fn of(self, request: RequestDigest) -> Result<ApprovalId, Denial> {
        match self.request {
            Some(approved) if approved != request => {
                let detail =
                    "the use is not the one that was approved: its key or its terms changed while it waited";
                Err(not_approved(detail))
            }
            Some(_) | None => Ok(self.id),
        }
    }
}

/// Everything that waits, and who is asked beside whoever answers here.
#[derive(Default)]
pub(super) struct Approvals {
    state: Mutex<State>,
    others: Vec<Arc<dyn Approver>>,
    closed: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    waiting: HashMap<ApprovalId, Waiting>,
    held: usize,
    // What was approved last of each kind, and when. Never a text that was sealed.
    last: HashMap<(AgentName, GrantAlias, &'static str), (Timestamp, Arc<Subject>)>,
    refused: u64,
}

struct Waiting {
    question: Arc<Question>,
    held: usize,
    // Gone once it was answered here: one question, one answer.
    answer: Option<oneshot::Sender<Verdict>>,
    // What came of it, for whoever answered.
    ended: watch::Sender<Option<ApprovalEnd>>,
}

impl Approvals {
    /// Asks these, too.
    pub(super) fn with(others: Vec<Arc<dyn Approver>>) -> Self {
        Self {
            others,
            ..Self::default()
        }
    }

    /// Ends the wait of everything, and takes nothing new.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a question, or says why there is none.
    fn enter(&self, question: &Arc<Question>, held: usize) -> Result<(), Denial> {
        let mut state = self.lock();
        let of_agent = state
            .waiting
            .values()
            .filter(|one| one.question.agent == question.agent)
            .count();
        let full = |what: String| Err(Denial::new(Refusal::Throttled, Rule::Approval, &what));
        if of_agent >= MAX_PENDING_PER_AGENT {
            return full(format!(
                "{MAX_PENDING_PER_AGENT} uses of the agent wait for an approval"
            ));
        }
        if state.waiting.len() >= MAX_PENDING {
            return full(format!("{MAX_PENDING} uses wait for an approval"));
        }
        let bytes = state.held.saturating_add(held);
        if bytes > MAX_PENDING_BYTES {
            return full(format!(
                "what waits for an approval would hold more than {MAX_PENDING_BYTES} bytes"
            ));
        }
        state.held = bytes;
        let waiting = Waiting {
            question: Arc::clone(question),
            held,
            answer: None,
            ended: watch::Sender::new(None),
        };
        state.waiting.insert(question.id, waiting);
        Ok(())
    }

    /// Gives the place back, and tells whoever answered what came of it.
    fn leave(&self, id: ApprovalId, end: ApprovalEnd) {
        let mut state = self.lock();
        let Some(waiting) = state.waiting.remove(&id) else {
            return;
        };
        state.held = state.held.saturating_sub(waiting.held);
        let question = &waiting.question;
        if matches!(end, ApprovalEnd::Approved { .. }) && is_remembered(&question.subject) {
            if state.last.len() >= MAX_REMEMBERED {
                let oldest = state
                    .last
                    .iter()
                    .min_by_key(|(_, (at, _))| *at)
                    .map(|(key, _)| key.clone());
                if let Some(oldest) = oldest {
                    state.last.remove(&oldest);
                }
            }
            state.last.insert(
                of_its_kind(&question.agent, &question.grant, &question.subject),
                (question.asked, Arc::new(question.subject.clone())),
            );
        }
        drop(state);
        waiting.ended.send_replace(Some(end));
    }

    fn last(&self, agent: &AgentName, grant: &GrantAlias, subject: &Subject) -> Option<Arc<Subject>> {
        let state = self.lock();
        let (_, last) = state.last.get(&of_its_kind(agent, grant, subject))?;
        Some(Arc::clone(last))
    }

    /// The first answer that is one; waits for ever if there is none.
    async fn first(&self, question: &Arc<Question>, stray: impl Fn(&Verdict)) -> Verdict {
        let mut asked: Vec<BoxFuture<'_, Result<Verdict, NoVerdict>>> = vec![self.ask(Arc::clone(question))];
        asked.extend(self.others.iter().map(|other| other.ask(Arc::clone(question))));
        std::future::poll_fn(|cx| {
            let mut found = None;
            asked.retain_mut(|one| {
                if found.is_some() {
                    return true;
                }
                match one.as_mut().poll(cx) {
                    Poll::Pending => true,
                    Poll::Ready(Ok(verdict)) if verdict.is_for(question) => {
                        found = Some(verdict);
                        false
                    }
                    Poll::Ready(Ok(verdict)) => {
                        stray(&verdict);
                        false
                    }
                    Poll::Ready(Err(NoVerdict)) => false,
                }
            });
            found.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The broker's own approver: the question waits here for an operator's command.
impl Approver for Approvals {
    fn ask(&self, question: Arc<Question>) -> BoxFuture<'_, Result<Verdict, NoVerdict>> {
        let (sender, receiver) = oneshot::channel();
        if let Some(waiting) = self.lock().waiting.get_mut(&question.id) {
            waiting.answer = Some(sender);
        }
        Box::pin(async move { receiver.await.map_err(|_| NoVerdict) })
    }
}

impl std::fmt::Debug for Approvals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Approvals")
            .field("waiting", &self.lock().waiting.len())
            .finish_non_exhaustive()
    }
}

/// A question that is on record. Dropped before it was answered, it is withdrawn, which is on record, too.
struct Open<'a> {
    approvals: &'a Approvals,
    record: &'a Record,
    request: ApprovalRequest,
    ended: bool,
}

impl Open<'_> {
    /// Puts on record what came of it. The place is given back when that is durable or has failed.
    async fn end(mut self, end: ApprovalEnd) -> Result<(), AuditError> {
        let appended = self.record.append(Event::ApprovalEnded {
            request: self.request.clone(),
            end: end.clone(),
        });
        // The entry has its place in the log: there is no second one, also if this future is dropped now.
        self.ended = true;
        let appended = appended.await;
        if appended.is_ok() {
            self.approvals.leave(self.request.id, end);
        }
        appended.map(drop)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.record.note(Event::ApprovalEnded {
                request: self.request.clone(),
                end: ApprovalEnd::Withdrawn,
            });
        }
        self.approvals.leave(self.request.id, ApprovalEnd::Withdrawn);
    }
}

impl LocalBroker {
    /// Waits until the use is approved, if its grant wants that. `held` is how many bytes of content are kept for it meanwhile.
    ///
    /// Dropping the future withdraws the question. What is approved here must be decided anew: everything may have changed.
    pub(super) async fn approval(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        grant: &AdmittedGrant,
        subject: Subject,
        held: usize,
    ) -> Result<Approved, Denial> {
        let waited = self
            .wait_for_approval(instance, alias, grant, subject, held)
            .await;
        if waited
            .as_ref()
            .is_err_and(|denial| denial.refusal == Refusal::NotApproved)
        {
            let mut state = self.approvals.lock();
            state.refused = state.refused.saturating_add(1);
        }
        waited
    }

    async fn wait_for_approval(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        grant: &AdmittedGrant,
        subject: Subject,
        held: usize,
    ) -> Result<Approved, Denial> {
        let Some(terms) = grant.constraints.approval else {
            return Err(not_approved("the grant wants no approval"));
        };
        let admitted = &instance.admitted;
        let request = instance.request_of(alias, &subject);
        match terms.mode {
            ApprovalMode::Each => {}
            ApprovalMode::FirstUse => {
                let ledger = self.ledger();
                let earlier = ledger.approved(
                    &admitted.agent,
                    alias,
                    admitted.component,
                    admitted.manifest,
                    subject.operation(),
                );
                if let Some(id) = earlier {
                    return Ok(Approved { id, request: None });
                }
            }
        }
        let asked = self.trusted_now()?;
        let wait = SignedDuration::try_from(terms.timeout).unwrap_or(SignedDuration::MAX);
        let question = Arc::new(Question {
            id: new_id()?,
            instance: instance.id,
            agent: admitted.agent.clone(),
            component: admitted.component,
            manifest: admitted.manifest,
            grant: alias.clone(),
            mode: terms.mode,
            request,
            asked,
            expires: asked.saturating_add(wait).unwrap_or(Timestamp::MAX),
            last: self.approvals.last(&admitted.agent, alias, &subject),
            subject,
        });
        let mut closed = self.approvals.closed.subscribe();
        if *closed.borrow_and_update() {
            return Err(closing());
        }
        self.approvals.enter(&question, held)?;
        let open = self.put_on_record(&question).await?;
        let stray = |verdict: &Verdict| self.stray(&question, verdict);
        let answered = tokio::select! {
            biased;
            _ = closed.changed() => {
                let ended = open.end(ApprovalEnd::Withdrawn).await;
                return Err(ended.map_or_else(|error| unlogged(&error), |()| closing()));
            }
            answered = tokio::time::timeout(terms.timeout, self.approvals.first(&question, stray)) => answered.ok(),
        };
        // By the wall clock, too: while the machine slept, the timer did.
        let now = self.ledger().latest().max(Some(self.clock.now()));
        let in_time = answered.filter(|_| now < Some(question.expires));
        let Some(verdict) = in_time else {
            open.end(ApprovalEnd::Expired)
                .await
                .map_err(|error| unlogged(&error))?;
            let waited = format_duration(terms.timeout);
            return Err(not_approved(&format!("nobody approved it within {waited}")));
        };
        match verdict.answer {
            Answer::Approve => {
                let end = ApprovalEnd::Approved { by: verdict.by };
                open.end(end).await.map_err(|error| unlogged(&error))?;
            }
            Answer::Deny { reason } => {
                let detail = if reason.is_empty() {
                    "it was denied".to_owned()
                } else {
                    format!("it was denied: {reason}")
                };
                let end = ApprovalEnd::Denied {
                    by: verdict.by,
                    reason,
                };
                open.end(end).await.map_err(|error| unlogged(&error))?;
                return Err(not_approved(&detail));
            }
        }
        if self.instance(instance.id).is_none() {
            let detail = "the instance ended while the use waited for its approval";
            return Err(Denial::new(Refusal::NotGranted, Rule::Instance, detail));
        }
        Ok(Approved {
            id: question.id,
            request: Some(request),
        })
    }

    /// Durable before anybody is asked.
    async fn put_on_record(&self, question: &Question) -> Result<Open<'_>, Denial> {
        let request = ApprovalRequest {
            id: question.id,
            instance: question.instance,
            agent: question.agent.clone(),
            component: question.component,
            manifest: question.manifest,
            grant: question.grant.clone(),
            mode: question.mode,
            operation: question.subject.operation(),
            request: question.request,
            expires: question.expires,
        };
        let appended = self.record.append(Event::ApprovalRequested(request.clone()));
        let open = Open {
            approvals: &self.approvals,
            record: &self.record,
            request,
            ended: false,
        };
        appended.await.map_err(|error| unlogged(&error))?;
        Ok(open)
    }

    /// An answer to another question is none, and somebody should look at whoever gave it.
    fn stray(&self, question: &Question, verdict: &Verdict) {
        self.note(Event::Alert {
            agent: question.agent.clone(),
            grant: question.grant.clone(),
            rule: Rule::Approval,
            detail: format!(
                "an approver answered question {} with an answer to {}; it does not count",
                question.id, verdict.id
            ),
        });
    }
}

fn new_id() -> Result<ApprovalId, Denial> {
    random().map(ApprovalId::new)
}

/// Random bytes, for what nobody may guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Denial> {
    let mut random = [0; N];
    rand_core::OsRng.try_fill_bytes(&mut random).map_err(|_| {
        let detail = "the system gives no random numbers";
        Denial::new(Refusal::Unavailable, Rule::Approval, detail)
    })?;
    Ok(random)
}

fn of_its_kind(
    agent: &AgentName,
    grant: &GrantAlias,
    subject: &Subject,
) -> (AgentName, GrantAlias, &'static str) {
    (agent.clone(), grant.clone(), subject.kind())
}

/// Whether what was approved is kept to compare the next with: not what an agent has sealed so that nobody has it.
fn is_remembered(subject: &Subject) -> bool {
    match subject {
        Subject::Seal { .. } => false,
        Subject::Sign { .. }
        | Subject::Send { .. }
        | Subject::Unseal { .. }
        | Subject::Generate { .. }
        | Subject::Verify { .. }
        | Subject::Attest { .. } => true,
    }
}

pub(super) fn not_approved(detail: &str) -> Denial {
    Denial::new(Refusal::NotApproved, Rule::Approval, detail)
}

fn closing() -> Denial {
    Denial::new(Refusal::Unavailable, Rule::Approval, "the host is closing")
}

fn unlogged(error: &AuditError) -> Denial {
    Denial::new(Refusal::Unavailable, Rule::Audit, &error.to_string())
}
