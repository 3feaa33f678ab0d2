//! The one path from an agent's HTTP request to its answer: decide, log, attach, send, settle. Every refusal on it is logged, and what
//! is refused is not sent. Not the wire: that is the egress's, which knows no policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use claviger_core::audit::{RequestLine, RequestPurpose, SecretRef, Settlement, Use};
use claviger_core::egress::{Answer, BodyStream, Egress, Fault, Outgoing, Plan, RequestHead, SendError};
use claviger_core::http::{BodyPresence, Decided, Injection, decide};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{AgentName, GrantAlias, InstanceId, Permit, Refusal, Secret};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::admit::AdmittedGrant;
use super::secrets::Opening;
use super::tokens::NoToken;
use super::{Instance, LocalBroker};
use crate::guard::{self, Room};

mod approved;
mod body;
mod exchange;
mod hook;
mod issue;
mod memory;
mod prepared;
mod proof;
mod signed;
mod slots;
mod terms;

pub(super) use exchange::{Exchange, Exchanges, Stop, may_have_left};
pub use hook::{HookError, MAX_HOOK_ANSWER, Webhook};
pub(super) use memory::{Memory, Wasted};
pub use signed::NotSigned;
pub(super) use terms::{Credentials, HttpTerms};

use body::outgoing;
use exchange::{Flow, Guarded, Registered, Settling, reflected};
use prepared::{Asked, Prepared, beside};
use proof::Proof;
use slots::{Filling, fill};

/// An instance has at most this many requests under way, from the call to the end of the answer: as many as browsers make to six hosts.
/// Each holds memory of the host and, for a credential, a locked page.
pub const MAX_OUTSTANDING: usize = 32;

/// Why there is no answer.
enum Failure {
    /// Refused by a rule; not on the log yet.
    Denied {
        alias: Option<GrantAlias>,
        denial: Denial,
    },
    /// The authorization server gave no token; the request itself is not on the log yet.
    NoToken { alias: GrantAlias, denial: Denial },
    /// Allowed, and the exchange failed; settled on the log.
    Failed(SendError),
}

impl LocalBroker {
    /// Dropping the future abandons the request: before its permit nothing is sent, after it the connection is closed and the use
    /// settled as abandoned.
    pub(super) async fn send_request(
        &self,
        who: InstanceId,
        head: RequestHead,
        body: Option<BodyStream>,
    ) -> Result<Answer, SendError> {
        // An instance that has ended has no agent to log a refusal for.
        let Some(instance) = self.instance(who) else {
            return Err(SendError::Refused {
                refusal: Refusal::NotGranted,
                grant: None,
            });
        };
        match self.exchange(&instance, &head, body).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Failed(error)) => Err(error),
            Err(Failure::NoToken { alias, denial }) => {
                self.refuse(&instance, &alias, denial).await;
                Err(SendError::from(Fault::Token).under(&alias))
            }
            Err(Failure::Denied { alias, denial }) => {
                let refusal = match &alias {
                    Some(alias) => self.refuse(&instance, alias, denial).await,
                    None => self.deny(&instance, NO_GRANT, denial).await,
                };
                Err(SendError::Refused {
                    refusal,
                    grant: alias,
                })
            }
        }
    }

    async fn exchange(
        &self,
        instance: &Arc<Instance>,
        head: &RequestHead,
        body: Option<BodyStream>,
    ) -> Result<Answer, Failure> {
        let unplaced = |denial| Failure::Denied { alias: None, denial };
        let place = Arc::clone(&instance.outstanding)
            .try_acquire_owned()
            .map_err(|_| unplaced(too_many()))?;
        let Some(egress) = &self.egress else {
            return Err(unplaced(no_egress()));
        };
        let mut prepared = self.prepare(instance, head, body).await?;
        let alias = prepared.decided.alias;
        let denied = |denial| Failure::Denied {
            alias: Some(alias.clone()),
            denial,
        };
        let content = prepared.content().await.map_err(denied)?;
        let asking = self.to_approve(instance, &prepared, content).map_err(denied)?;
        let approval = match asking {
            Some(asking) => Some(self.approved(instance, asking).await.map_err(denied)?),
            None => None,
        };
        // A token is obtained before the request is decided for good: it may take seconds.
        let token = match &prepared.decided.grant.inject {
            Some(inject) if inject.obtains_a_token() => {
                let token = self.token(instance, alias).await;
                Some(token.map_err(|why| match why {
                    NoToken::Denied(denial) => denied(denial),
                    NoToken::NotGiven(denial) => Failure::NoToken {
                        alias: alias.clone(),
                        denial,
                    },
                })?)
            }
            Some(_) | None => None,
        };
        let mut place = Some(place);
        let mut tries = 0;
        // A credential that is replaced while the request is decided is no reason to refuse it: it is decided with the new one.
        let (proof, permitted) = loop {
            let proof = self.proof(instance, &prepared, token.as_ref()).map_err(denied)?;
            let request = Asked {
                decided: &prepared.decided,
                terms: prepared.terms,
                grant: prepared.grant,
                length: prepared.length(),
                content,
                proof: proof.as_ref(),
                approval,
            };
            match self.permit(instance, &request, &mut place).await {
                Ok(permitted) => break (proof, permitted),
                Err(denial) if was_replaced(&denial) && tries < REDECISIONS => tries += 1,
                Err(denial) => return Err(denied(denial)),
            }
        };
        if let Some(unspent) = &mut prepared.unspent {
            unspent.permitted();
        }
        // From here the use is on the log: whatever happens, it is settled.
        self.send_permitted(egress, instance, prepared, (token, proof), permitted)
            .await
    }

    /// Everything that needs no place in the log: the head, the credentials' states, cheap limits, the body where a rule reads it.
    async fn prepare<'a>(
        &self,
        instance: &'a Instance,
        head: &RequestHead,
        body: Option<BodyStream>,
    ) -> Result<Prepared<'a>, Failure> {
        let admitted = &instance.admitted;
        let presence = match &body {
            Some(_) => BodyPresence::Present,
            None => BodyPresence::Absent,
        };
        let grants = |alias: &GrantAlias| admitted.http(alias).map(|terms| terms.grant.as_ref());
        let decided = decide(&admitted.router, grants, head, presence).map_err(|no| Failure::Denied {
            alias: no.grant,
            denial: no.denial,
        })?;
        let alias = decided.alias;
        let denied = |denial| Failure::Denied {
            alias: Some(alias.clone()),
            denial,
        };
        let (Some(grant), Some(terms)) = (admitted.grants.get(alias), admitted.http(alias)) else {
            return Err(denied(no_egress()));
        };
        self.credentials_of(instance, alias, terms).map_err(denied)?;
        // Cheap rules first, so that a suspended agent cannot make the host read and parse megabytes.
        let time = self.trusted_now().map_err(denied)?;
        let state = self.ledger().grant(&admitted.agent, alias);
        guard::decide(&grant.constraints, &state, time).map_err(denied)?;
        let (body, unspent) = self
            .read_body(instance, (terms, grant), &decided, body)
            .await
            .map_err(denied)?;
        Ok(Prepared {
            decided,
            terms,
            grant,
            body,
            unspent,
        })
    }

    /// Decides for good, reserves and logs, under one lock; the permit comes when that is durable.
    async fn permit(
        &self,
        instance: &Instance,
        request: &Asked<'_>,
        place: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Permitted, Denial> {
        let Asked {
            decided,
            terms,
            grant,
            length,
            content,
            proof,
            approval,
        } = *request;
        let alias = decided.alias;
        let agent = &instance.admitted.agent;
        let credentials = self.credentials_of(instance, alias, terms)?;
        let exchange = Exchange::new(
            Some(instance.id),
            agent.clone(),
            alias.clone(),
            credentials.secrets(),
            credentials.keys(),
        );
        let registered = self.exchanges.register(&exchange)?;
        // Again, now that the exchange is stopped by whatever changes from here on.
        self.credentials_of(instance, alias, terms)?
            .must_equal(&credentials)?;
        if let Some(proof) = proof {
            proof.must_be_by(&credentials)?;
        }
        if self.instance(instance.id).is_none() {
            return Err(Stop::Ended.denial());
        }
        // Before the entry: a value that is replaced after it is gone, and the use was allowed with it.
        let opened = match credentials.secrets().first() {
            Some(secret) => Some(self.open_secret_to(secret, instance.opening(alias))?),
            None => None,
        };
        // Last of what can be decided anew: a new credential is asked for once.
        let asking = match &instance.step {
            Some(step) if instance.issues(alias) => Some(step.ask()?),
            Some(_) | None => None,
        };
        let (recording, allowed, room) = {
            let mut ledger = self.ledger();
            let time = guard::trusted_time(self.clock.now(), ledger.latest())?;
            let state = ledger.grant(agent, alias);
            let allowance = guard::decide(&grant.constraints, &state, time)?;
            let room = guard::room(&terms.grant.budget, &state, length, terms.grant.answer.max.0)?;
            ledger.reserve_bytes(agent, alias, room.sent, room.received);
            let allowed = Use {
                instance: instance.id,
                agent: agent.clone(),
                component: instance.admitted.component,
                manifest: instance.admitted.manifest,
                grant: alias.clone(),
                key: credentials.keys().into_iter().next(),
                secret: credentials.secrets().into_iter().next(),
                profile: terms.profile().to_owned(),
                operation: None,
                request: Some(RequestLine {
                    purpose: RequestPurpose::Agent,
                    origin: terms.grant.origin.clone(),
                    route: decided.route.to_string(),
                    answer: room.received,
                }),
                content,
                size: room.sent,
                number: ledger.reserve(agent, alias, time, allowance.rate_until),
                rate_until: allowance.rate_until,
                approval,
            };
            ledger.used(&allowed, time);
            let recording = Permit::to_send(
                Arc::clone(&self.permits),
                Arc::clone(&self.clock),
                time,
                allowed.clone(),
                terms.grant.origin.clone(),
                proof.map(Proof::framed),
            );
            (recording, allowed, room)
        };
        let permit = recording
            .await
            .map_err(|error| Denial::new(Refusal::Unavailable, Rule::Audit, &error.to_string()))?;
        // What is not sent comes back when the use is settled. If this future was dropped before, nothing comes back.
        self.ledger().reserved_at(permit.index(), &allowed);
        let sent = Arc::new(AtomicU64::new(0));
        Ok(Permitted {
            settling: Settling::new(permit, sent, place.take().ok_or_else(too_many)?),
            exchange,
            registered,
            credentials,
            opened,
            room,
            asking,
        })
    }

    async fn send_permitted(
        &self,
        egress: &Arc<dyn Egress>,
        instance: &Instance,
        prepared: Prepared<'_>,
        (token, proof): (Option<Arc<Secret>>, Option<Proof>),
        permitted: Permitted,
    ) -> Result<Answer, Failure> {
        let Permitted {
            mut settling,
            exchange,
            registered,
            credentials,
            opened,
            room,
            asking,
        } = permitted;
        let alias = prepared.decided.alias;
        let denied = |denial| Failure::Denied {
            alias: Some(alias.clone()),
            denial,
        };
        let proved = tokio::select! {
            biased;
            stop = exchange.stopped() => Err(stop.denial()),
            proved = self.prove(proof.as_ref(), &settling.permit) => proved,
        };
        let planned = proved.and_then(|proved| {
            let mut plan = self.plan(
                instance,
                prepared.decided.clone(),
                &prepared,
                &credentials,
                (token.as_ref(), opened),
            )?;
            plan.slots.extend(proved);
            Ok(plan)
        });
        let (plan, inject) = match planned {
            Ok(plan) => (plan, prepared.terms.grant.inject.is_some()),
            Err(denial) => {
                settling.settlement = Settlement::Failed;
                drop(settling);
                return Err(denied(denial));
            }
        };
        let plan = Plan {
            body: outgoing(prepared.body, prepared.decided.length, room, &settling.sent),
            ..plan
        };
        settling.injected = inject;
        if let Some(taking) = asking {
            let issuing = (taking, settling, exchange, registered);
            return self.issued(egress, instance, alias, plan, issuing).await;
        }
        let expiry = self.expiry(prepared.grant, &credentials);
        let sending = tokio::select! {
            // What was stopped is not begun.
            biased;
            stop = exchange.stopped_by(expiry) => Err(stop),
            answer = egress.send(&settling.permit, plan) => Ok(answer),
        };
        let answer = match sending {
            Err(stop) => {
                settling.settlement = Settlement::Failed;
                drop(settling);
                return Err(denied(stop.denial()));
            }
            Ok(Err(error)) => {
                settling.failed(&error);
                if !may_have_left(&error) {
                    settling.injected = false;
                    settling.sent.store(0, Ordering::Release);
                }
                drop(settling);
                return Err(Failure::Failed(
                    self.told(&instance.admitted.agent, alias, error).await,
                ));
            }
            Ok(Ok(answer)) => answer,
        };
        settling.status = Some(answer.status);
        if let (Some(step), Some(rotates)) = (&instance.step, &instance.admitted.rotates) {
            step.saw(rotates, alias, answer.status);
        }
        self.learn(instance, &prepared.terms.grant, alias, &answer, token.as_ref());
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
            room.received,
            expiry,
            registered,
        );
        Ok(Answer {
            status: answer.status,
            headers: answer.headers,
            body: Box::pin(guarded),
            // The host's own, like the proofs.
            dpop_nonce: None,
        })
    }

    /// When what allows a request expires, by the timer: so long as it is from now by the clock.
    fn expiry(&self, grant: &AdmittedGrant, credentials: &Credentials) -> Option<Instant> {
        let first = credentials.expires().into_iter().chain(grant.constraints.expires);
        let left = first.min()?.duration_since(self.clock.now());
        Instant::now().checked_add(Duration::try_from(left).unwrap_or_default())
    }

    /// What the egress is asked to do, but for the body.
    fn plan(
        &self,
        instance: &Instance,
        decided: Decided<'_>,
        prepared: &Prepared<'_>,
        credentials: &Credentials,
        (token, secret): (Option<&Arc<Secret>>, Option<Arc<Secret>>),
    ) -> Result<Plan, Denial> {
        let terms = prepared.terms;
        let mut opened = None;
        let slots = match &terms.grant.inject {
            None => Vec::new(),
            Some(inject) => {
                let value = match (token, secret) {
                    (Some(token), _) => Some(Arc::clone(token)),
                    (None, Some(secret)) => Some(secret),
                    // A key signs the request or the connection: nothing is attached but its proof.
                    (None, None) if !credentials.keys().is_empty() => None,
                    (None, None) => return Err(no_credential(inject)),
                };
                let filled = value.as_ref().map(|value| {
                    let filling = Filling {
                        value,
                        body: prepared.whole(),
                        now: self.clock.now(),
                    };
                    fill(inject, &filling)
                });
                opened = value;
                filled.transpose()?.unwrap_or_default()
            }
        };
        let mut watched = self.watched(instance)?;
        watched.extend(opened);
        Ok(Plan {
            destination: terms.destination(&instance.admitted, decided.alias, credentials, &self.me),
            method: decided.method,
            target: decided.target,
            headers: decided.headers,
            slots,
            body: Outgoing::Empty,
            watched,
        })
    }

    /// Every secret that a grant of this agent can attach, and every token that was obtained for one.
    fn watched(&self, instance: &Instance) -> Result<Vec<Arc<Secret>>, Denial> {
        let mut watched = self.tokens.of(&instance.admitted);
        for name in &instance.admitted.watched {
            // One that is out of use is in no request either; one that waits or retires may be good at its server.
            let versions = self.keyring.secret_versions(name);
            let used = self.keyring.secret(name);
            for record in versions.iter().filter(|record| record.is_good()) {
                match self.open_secret_to(&record.secret, Opening::TryOrWatch) {
                    Ok(value) => watched.push(value),
                    // Replaced this moment, or, if it is the one in use, a fault.
                    Err(denial) if used.as_ref().is_some_and(|used| used.secret == record.secret) => {
                        return Err(denial);
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(watched)
    }

    /// What the agent learns of a failure; an operator first, if a secret came back.
    async fn told(&self, agent: &AgentName, alias: &GrantAlias, error: SendError) -> SendError {
        if error == SendError::from(Fault::Reflected) {
            return reflected(&self.record, &self.exchanges, agent, alias).await;
        }
        error.under(alias)
    }
}

/// A request that is on the log and may be sent.
struct Permitted {
    // Before what it settles: dropped first.
    settling: Settling,
    exchange: Arc<Exchange>,
    registered: Registered,
    credentials: Credentials,
    // The value of its first secret.
    opened: Option<Arc<Secret>>,
    room: Room,
    // Of a request for a new credential: until its answer was looked at.
    asking: Option<OwnedSemaphorePermit>,
}

/// Stands for the grant of a request that falls under none.
pub(super) const NO_GRANT: &str = "(no grant)";

/// A request is decided anew so often because its credential was replaced meanwhile: more often is no rotation but a fault.
const REDECISIONS: u32 = 3;

/// Whether this refuses only because a credential was replaced while the request was decided.
fn was_replaced(denial: &Denial) -> bool {
    denial.refusal == Refusal::Throttled && matches!(denial.rule, Rule::SecretState | Rule::KeyState)
}

fn too_many() -> Denial {
    Denial::new(
        Refusal::Throttled,
        Rule::Concurrency,
        &format!("{MAX_OUTSTANDING} requests of the instance are under way"),
    )
}

fn no_egress() -> Denial {
    Denial::new(
        Refusal::NotGranted,
        Rule::Egress,
        "the manifest grants no outbound HTTP",
    )
}

fn no_credential(inject: &Injection) -> Denial {
    Denial::new(
        Refusal::Unavailable,
        Rule::SecretState,
        &format!("`{}` has nothing to attach", inject.as_str()),
    )
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The names of credentials as the log has them.
fn references<'a>(records: impl Iterator<Item = &'a SecretRef>) -> Vec<SecretRef> {
    records.cloned().collect()
}
