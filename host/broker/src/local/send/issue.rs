//! A new credential on its way from its provider into the keyring: the answer is read here, its value taken out of it, logged and kept
//! before the agent that asked learns more than the status. Not the decision whether it is used: a rotation makes it.

use std::sync::Arc;

use claviger_core::audit::{Event, SecretRef};
use claviger_core::egress::{Answer, BodyStream, Egress, Frame, Plan, SendError};
use claviger_core::http::{Capture, MAX_CAPTURED};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{AgentName, GrantAlias, Refusal, SecretName};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use zeroize::Zeroizing;

use super::super::rotator::Step;
use super::super::{Instance, LocalBroker};
use super::Failure;
use super::exchange::{Exchange, Flow, Guarded, Registered, Settling};
use crate::keyring::SecretReplacement;

/// A request for a credential that was permitted, with all that it needs to come to its end by itself.
pub(super) struct Issuing {
    pub(super) step: Arc<Step>,
    pub(super) secret: SecretName,
    pub(super) capture: Capture,
    pub(super) agent: AgentName,
    pub(super) settling: Settling,
    pub(super) exchange: Arc<Exchange>,
    pub(super) registered: Registered,
    // Until it is dropped, the step is not over.
    pub(super) taking: OwnedSemaphorePermit,
}

/// What is left of it for whoever waits.
pub(super) struct Issued {
    pub(super) answered: Result<Answer, SendError>,
    pub(super) settling: Settling,
    pub(super) exchange: Arc<Exchange>,
    pub(super) registered: Registered,
}

impl Issuing {
    /// Sends the request and keeps what comes. The answer that is left has no header fields and no body. Run as a task of its own: what a
    /// provider has issued is kept, also if the agent is stopped meanwhile.
    pub(super) async fn send(self, broker: Arc<LocalBroker>, egress: Arc<dyn Egress>, plan: Plan) -> Issued {
        let Self {
            step,
            secret,
            capture,
            agent,
            mut settling,
            exchange,
            registered,
            taking,
        } = self;
        let sent = tokio::select! {
            biased;
            // Once it may finish, only a credential of it that is taken out of use stops it.
            stop = exchange.stopped() => {
                step.took(Err(stop.denial().detail));
                Err(SendError::Refused { refusal: stop.denial().refusal, grant: Some(exchange.alias.clone()) })
            }
            sent = egress.send(&settling.permit, plan) => sent,
        };
        let answered = match sent {
            Err(error) => Err(error),
            Ok(answer) => {
                settling.status = Some(answer.status);
                let status = answer.status;
                if (200..300).contains(&status) {
                    let read = whole(answer.body, &mut settling).await;
                    read.map(|body| (status, Some(body)))
                } else {
                    Ok((status, None))
                }
            }
        };
        let answered = match answered {
            Err(error) => {
                step.took(Err(format!("the request failed: {error}")));
                settling.failed(&error);
                // An operator learns of it whatever became of the component.
                Err(broker.told(&agent, &exchange.alias, error).await)
            }
            Ok((status, body)) => {
                let taken = match body {
                    None => Err(format!("the provider answered with status {status}")),
                    Some(None) => Err(format!(
                        "the provider's answer has more than {MAX_CAPTURED} bytes"
                    )),
                    Some(Some(body)) => broker.keep_issued(&capture, &body, &secret, &agent).await,
                };
                step.took(taken);
                Ok(Answer {
                    status,
                    headers: Vec::new(),
                    body: Box::pin(Nothing),
                    dpop_nonce: None,
                })
            }
        };
        drop(taking);
        Issued {
            answered,
            settling,
            exchange,
            registered,
        }
    }
}

/// All of an answer, or none if it is too large.
async fn whole(
    mut body: BodyStream,
    settling: &mut Settling,
) -> Result<Option<Zeroizing<Vec<u8>>>, SendError> {
    let max = usize::try_from(MAX_CAPTURED).unwrap_or(usize::MAX);
    // Of its full size from the start: grown, it would leave parts of the credential behind.
    let mut whole = Zeroizing::new(Vec::with_capacity(max));
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_next(cx)).await {
        match frame? {
            Frame::Data(bytes) => {
                settling.received = settling.received.saturating_add(super::as_u64(bytes.len()));
                if whole.len().saturating_add(bytes.len()) > max {
                    return Ok(None);
                }
                whole.extend_from_slice(&bytes);
            }
            Frame::Trailers(_) => {}
        }
    }
    Ok(Some(whole))
}

/// The body of an answer of which nothing is given.
struct Nothing;

impl futures_core::Stream for Nothing {
    type Item = Result<Frame, SendError>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(None)
    }
}

impl LocalBroker {
    /// Sends a request for a new credential, as a task of its own, and gives its agent the status.
    pub(super) async fn issued(
        &self,
        egress: &Arc<dyn Egress>,
        instance: &Instance,
        alias: &GrantAlias,
        plan: Plan,
        (taking, settling, exchange, registered): (OwnedSemaphorePermit, Settling, Arc<Exchange>, Registered),
    ) -> Result<Answer, Failure> {
        let denied = |denial| Failure::Denied {
            alias: Some(alias.clone()),
            denial,
        };
        let gone = || Denial::new(Refusal::Unavailable, Rule::Rotation, "the host is closing");
        let (Some(step), Some(rotates), Some(broker)) =
            (&instance.step, &instance.admitted.rotates, self.me.upgrade())
        else {
            return Err(denied(gone()));
        };
        // What was stopped until here is not begun.
        exchange.let_finish().map_err(|stop| denied(stop.denial()))?;
        let issuing = Issuing {
            step: Arc::clone(step),
            secret: rotates.secret.clone(),
            capture: rotates.capture.clone(),
            agent: instance.admitted.agent.clone(),
            settling,
            exchange,
            registered,
            taking,
        };
        let (tell, told) = oneshot::channel();
        let sending = issuing.send(broker, Arc::clone(egress), plan);
        let task = async move {
            // Who has gone away is told nothing.
            drop(tell.send(sending.await));
        };
        let runtime = Handle::try_current().map_err(|_| denied(gone()))?;
        self.issuings.spawn(&runtime, task).map_err(denied)?;
        let Issued {
            answered,
            settling,
            exchange,
            registered,
        } = told.await.map_err(|_| denied(gone()))?;
        let answer = match answered {
            Ok(answer) => answer,
            Err(error) => {
                drop(settling);
                return Err(Failure::Failed(error));
            }
        };
        let flow = Flow {
            body: answer.body,
            settling,
        };
        if let Err(stop) = exchange.attach(flow) {
            return Err(denied(stop.denial()));
        }
        let guarded = Guarded::new(
            exchange,
            &self.record,
            Arc::clone(&self.exchanges),
            MAX_CAPTURED,
            None,
            registered,
        );
        Ok(Answer {
            body: Box::pin(guarded),
            ..answer
        })
    }

    /// Takes a credential out of an answer and keeps it as the version that waits. Says why it is lost, if it is: it is good at its
    /// provider then, and nobody has it.
    async fn keep_issued(
        &self,
        capture: &Capture,
        body: &[u8],
        secret: &SecretName,
        agent: &AgentName,
    ) -> Result<SecretRef, String> {
        let captured = capture.take(body).map_err(|error| error.to_string())?;
        let now = self.clock.now();
        let becomes = SecretRef {
            name: secret.clone(),
            version: self.keyring.next_secret_version(secret),
        };
        // First on the log: what is lost after this can be withdrawn by its name.
        let issued = Event::SecretIssued {
            secret: becomes.clone(),
            id: captured.id,
            agent: agent.clone(),
        };
        self.append(issued).await.map_err(|error| error.to_string())?;
        let lifetime = captured.lifetime.map_err(|error| error.to_string())?;
        let expires = lifetime.map(|life| crate::keyring::after(now, life));
        let replacement = SecretReplacement {
            name: secret.clone(),
            of: None,
            expires,
            rotate_every: None,
            value: captured.value,
        };
        let record = self
            .stage_issued(replacement, becomes.version)
            .await
            .map_err(|error| error.to_string())?;
        Ok(record.secret.clone())
    }
}
