//! One request that is under way, from its registration to the end of its answer: stopped at once when what allowed it is gone, and
//! settled on the log however it ends. Not the decision, and not the wire.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use claviger_core::audit::{Event, SecretRef, Settlement, Traffic};
use claviger_core::egress::{BodyStream, Fault, Frame, SendError};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{AgentName, BoxFuture, GrantAlias, InstanceId, KeyRef, Permit, Refusal};
use futures_core::Stream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep, sleep_until};

use super::super::grants::suspend;
use super::super::record::Record;

/// Why a request is stopped while it is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Stop {
    /// Its grant was suspended.
    Suspended,
    /// Its agent was suspended.
    AgentSuspended,
    /// All use of every credential was stopped.
    Panic,
    /// A credential of it was taken out of use.
    Revoked,
    /// Its instance ended.
    Ended,
    /// Its grant or a secret of it expired.
    Expired,
    /// The broker is closed.
    Closed,
}

impl Stop {
    pub(in super::super) fn denial(self) -> Denial {
        let (refusal, rule, detail) = match self {
            Self::Suspended => (
                Refusal::Suspended,
                Rule::Suspension,
                "the grant was suspended while the request was under way; the rest was not released",
            ),
            Self::AgentSuspended => (
                Refusal::Suspended,
                Rule::Suspension,
                "the agent was suspended while the request was under way; the rest was not released",
            ),
            Self::Panic => (
                Refusal::Suspended,
                Rule::Suspension,
                "all use of credentials was stopped while the request was under way; the rest was not released",
            ),
            Self::Revoked => (
                Refusal::Revoked,
                Rule::SecretState,
                "the credential was taken out of use while the request was under way; the rest was not released",
            ),
            Self::Ended => (
                Refusal::NotGranted,
                Rule::Instance,
                "the instance ended while the request was under way; the rest was not released",
            ),
            Self::Expired => (
                Refusal::Expired,
                Rule::Expires,
                "the grant or its secret expired while the request was under way; the rest was not released",
            ),
            Self::Closed => (Refusal::Unavailable, Rule::Audit, "the host is closing"),
        };
        Denial::new(refusal, rule, detail)
    }

    const fn settlement(self) -> Settlement {
        match self {
            Self::Suspended | Self::AgentSuspended | Self::Panic | Self::Revoked | Self::Expired => {
                Settlement::Failed
            }
            Self::Ended | Self::Closed => Settlement::Abandoned,
        }
    }

    /// Whether it stops even what was [let finish](Exchange::let_finish).
    const fn stops_everything(self) -> bool {
        match self {
            Self::Revoked => true,
            // Lifted later, the refresh token is to be there still.
            Self::Panic
            | Self::Suspended
            | Self::AgentSuspended
            | Self::Ended
            | Self::Expired
            | Self::Closed => false,
        }
    }
}

/// A request that is under way.
pub(in super::super) struct Exchange {
    // None of a request for a token: its end is not that of the instance that asked first.
    pub(in super::super) instance: Option<InstanceId>,
    pub(in super::super) agent: AgentName,
    pub(in super::super) alias: GrantAlias,
    pub(in super::super) secrets: Vec<SecretRef>,
    pub(in super::super) keys: Vec<KeyRef>,
    state: Mutex<State>,
    stopped: Notify,
}

#[derive(Default)]
struct State {
    stop: Option<Stop>,
    // Invariant: never false again.
    finishing: bool,
    flow: Option<Flow>,
    waker: Option<Waker>,
}

/// An answer's body, with what settles the use when it is dropped. Dropping the body closes the connection.
pub(super) struct Flow {
    pub(super) body: BodyStream,
    pub(super) settling: Settling,
}

impl Exchange {
    pub(in super::super) fn new(
        instance: Option<InstanceId>,
        agent: AgentName,
        alias: GrantAlias,
        secrets: Vec<SecretRef>,
        keys: Vec<KeyRef>,
    ) -> Arc<Self> {
        Arc::new(Self {
            instance,
            agent,
            alias,
            secrets,
            keys,
            state: Mutex::default(),
            stopped: Notify::new(),
        })
    }

    /// Ends when the exchange is stopped, or at this moment.
    pub(super) async fn stopped_by(&self, expiry: Option<Instant>) -> Stop {
        match expiry {
            None => self.stopped().await,
            Some(at) => tokio::time::timeout_at(at, self.stopped())
                .await
                .unwrap_or(Stop::Expired),
        }
    }

    /// Ends when the exchange is stopped.
    pub(in super::super) async fn stopped(&self) -> Stop {
        loop {
            if let Some(stop) = self.state().stop {
                return stop;
            }
            self.stopped.notified().await;
        }
    }

    /// From here on it comes to its end, unless a credential of it is taken out of use: what a server rotates must not be lost.
    pub(in super::super) fn let_finish(&self) -> Result<(), Stop> {
        let mut state = self.state();
        match state.stop {
            Some(stop) => Err(stop),
            None => {
                state.finishing = true;
                Ok(())
            }
        }
    }

    /// Takes over the answer's body; if the exchange was stopped, settles it instead.
    pub(super) fn attach(&self, mut flow: Flow) -> Result<(), Stop> {
        let mut state = self.state();
        let Some(stop) = state.stop else {
            state.flow = Some(flow);
            return Ok(());
        };
        drop(state);
        flow.settling.settlement = stop.settlement();
        Err(stop)
    }

    fn stop(&self, why: Stop) {
        let mut state = self.state();
        if state.finishing && !why.stops_everything() {
            return;
        }
        state.stop.get_or_insert(why);
        let flow = state.flow.take();
        let waker = state.waker.take();
        drop(state);
        if let Some(mut flow) = flow {
            flow.settling.settlement = why.settlement();
        }
        self.stopped.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn take_flow(&self) -> Option<Flow> {
        self.state().flow.take()
    }

    // Never held while the ledger is waited for: a permit that is dropped takes it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that is under way.
#[derive(Default)]
pub(in super::super) struct Exchanges {
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    closed: bool,
    next: u64,
    all: HashMap<u64, Weak<Exchange>>,
}

impl Exchanges {
    /// Registers an exchange. From here on it is stopped by whatever happens to its grant, credentials and instance.
    pub(in super::super) fn register(
        self: &Arc<Self>,
        exchange: &Arc<Exchange>,
    ) -> Result<Registered, Denial> {
        let mut under_way = self.lock();
        if under_way.closed {
            return Err(Stop::Closed.denial());
        }
        let id = under_way.next;
        under_way.next = id.wrapping_add(1);
        under_way.all.insert(id, Arc::downgrade(exchange));
        Ok(Registered {
            exchanges: Arc::clone(self),
            id,
        })
    }

    /// Stops every exchange of which this holds: the connection is closed and the use settled when this returns.
    pub(in super::super) fn stop(&self, why: Stop, of: impl Fn(&Exchange) -> bool) {
        let found: Vec<_> = self
            .lock()
            .all
            .values()
            .filter_map(Weak::upgrade)
            .filter(|one| of(one))
            .collect();
        for exchange in found {
            exchange.stop(why);
        }
    }

    /// How many there are.
    pub(in super::super) fn count(&self) -> u64 {
        u64::try_from(self.lock().all.len()).unwrap_or(u64::MAX)
    }

    /// Stops everything, and takes nothing new.
    pub(in super::super) fn close(&self) {
        self.lock().closed = true;
        self.stop(Stop::Closed, |_| true);
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An exchange's place among those under way, until it is dropped.
pub(in super::super) struct Registered {
    exchanges: Arc<Exchanges>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.exchanges.lock().all.remove(&self.id);
    }
}

/// Settles a use when it is dropped, with what went over the wire by then.
pub(super) struct Settling {
    pub(super) permit: Permit,
    pub(super) settlement: Settlement,
    pub(super) status: Option<u16>,
    pub(super) sent: Arc<AtomicU64>,
    pub(super) received: u64,
    pub(super) injected: bool,
    pub(super) fault: Option<Fault>,
    // Another request of the instance may start when this one is settled.
    _place: OwnedSemaphorePermit,
}

impl Settling {
    /// A use of which nothing has come yet: abandoned if it is dropped now.
    pub(super) fn new(permit: Permit, sent: Arc<AtomicU64>, place: OwnedSemaphorePermit) -> Self {
        Self {
            permit,
            settlement: Settlement::Abandoned,
            status: None,
            sent,
            received: 0,
            injected: false,
            fault: None,
            _place: place,
        }
    }

    /// The exchange failed.
    pub(super) fn failed(&mut self, error: &SendError) {
        self.settlement = Settlement::Failed;
        self.fault = match error {
            SendError::Failed { fault, .. } => Some(*fault),
            SendError::Refused { .. } => None,
        };
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let traffic = Traffic {
            status: self.status,
            sent: self.sent.load(Ordering::Acquire),
            received: self.received,
            injected: self.injected,
            fault: self.fault,
        };
        self.permit.observe(self.settlement, traffic);
    }
}

/// What is told when a secret came back: on the log, and the grant suspended, before anybody learns of it.
pub(super) fn reflected(
    record: &Record,
    exchanges: &Exchanges,
    agent: &AgentName,
    alias: &GrantAlias,
) -> BoxFuture<'static, SendError> {
    let alert = record.append(Event::Alert {
        agent: agent.clone(),
        grant: alias.clone(),
        rule: Rule::Reflection,
        detail: "a managed secret was in an answer; the answer was withheld and the grant is suspended"
            .to_owned(),
    });
    let suspended = suspend(record, exchanges, agent, alias, Some(Rule::Reflection));
    let grant = alias.clone();
    Box::pin(async move {
        match (alert.await, suspended.await) {
            (Ok(_), Ok(())) => SendError::from(Fault::Reflected).under(&grant),
            (Err(_), _) | (_, Err(_)) => SendError::Refused {
                refusal: Refusal::Unavailable,
                grant: Some(grant),
            },
        }
    })
}

/// An answer's body as the agent gets it.
pub(super) struct Guarded {
    exchange: Arc<Exchange>,
    // Not held open by an answer that nobody reads on: the broker may be closed and its log opened anew.
    record: Weak<Record>,
    exchanges: Arc<Exchanges>,
    // What was reserved for it.
    max: u64,
    last: Last,
    // When what allowed it expires.
    expiry: Option<Pin<Box<Sleep>>>,
    _registered: Registered,
}

/// What is still to be said.
enum Last {
    Body,
    Telling(BoxFuture<'static, SendError>),
    Nothing,
}

impl Guarded {
    pub(super) fn new(
        exchange: Arc<Exchange>,
        record: &Arc<Record>,
        exchanges: Arc<Exchanges>,
        max: u64,
        expiry: Option<Instant>,
        registered: Registered,
    ) -> Self {
        Self {
            exchange,
            record: Arc::downgrade(record),
            exchanges,
            max,
            last: Last::Body,
            expiry: expiry.map(|at| Box::pin(sleep_until(at))),
            _registered: registered,
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, SendError>>> {
        if let Some(expiry) = &mut self.expiry
            && expiry.as_mut().poll(cx).is_ready()
        {
            self.exchange.stop(Stop::Expired);
        }
        let mut state = self.exchange.state();
        if let Some(stop) = state.stop {
            drop(state);
            self.last = Last::Nothing;
            return Poll::Ready(Some(Err(self.refused(stop))));
        }
        let Some(flow) = &mut state.flow else {
            drop(state);
            self.last = Last::Nothing;
            return Poll::Ready(None);
        };
        let error = match flow.body.as_mut().poll_next(cx) {
            Poll::Pending => {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(None) => {
                drop(state);
                return Poll::Ready(self.released());
            }
            Poll::Ready(Some(Ok(Frame::Data(bytes)))) => {
                let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                flow.settling.received = flow.settling.received.saturating_add(more);
                if flow.settling.received <= self.max {
                    return Poll::Ready(Some(Ok(Frame::Data(bytes))));
                }
                // More than the egress was told to accept is let through by nobody.
                flow.settling.received = self.max;
                Fault::BodyTooLarge.into()
            }
            // Nothing comes after them, and some readers do not ask.
            Poll::Ready(Some(Ok(Frame::Trailers(fields)))) => {
                let flow = state.flow.take();
                drop(state);
                self.last = Last::Nothing;
                if let Some(mut flow) = flow {
                    flow.settling.settlement = Settlement::Released;
                }
                return Poll::Ready(Some(Ok(Frame::Trailers(fields))));
            }
            Poll::Ready(Some(Err(error))) => error,
        };
        let flow = state.flow.take();
        drop(state);
        if let Some(mut flow) = flow {
            flow.settling.failed(&error);
        }
        if error == SendError::from(Fault::Reflected)
            && let Some(record) = self.record.upgrade()
        {
            let one = &self.exchange;
            self.last = Last::Telling(reflected(&record, &self.exchanges, &one.agent, &one.alias));
            return self.poll_telling(cx);
        }
        self.last = Last::Nothing;
        Poll::Ready(Some(Err(error.under(&self.exchange.alias))))
    }

    /// Settles a whole answer, unless it was stopped.
    fn released(&mut self) -> Option<Result<Frame, SendError>> {
        self.last = Last::Nothing;
        let record = self.record.upgrade();
        let _releasing = record.as_deref().map(Record::releasing);
        let mut state = self.exchange.state();
        if let Some(stop) = state.stop {
            drop(state);
            return Some(Err(self.refused(stop)));
        }
        let flow = state.flow.take();
        drop(state);
        if let Some(mut flow) = flow {
            flow.settling.settlement = Settlement::Released;
        }
        None
    }

    fn refused(&self, stop: Stop) -> SendError {
        SendError::Refused {
            refusal: stop.denial().refusal,
            grant: Some(self.exchange.alias.clone()),
        }
    }

    fn poll_telling(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, SendError>>> {
        let Last::Telling(telling) = &mut self.last else {
            return Poll::Ready(None);
        };
        telling.as_mut().poll(cx).map(|error| {
            self.last = Last::Nothing;
            Some(Err(error))
        })
    }
}

impl Stream for Guarded {
    type Item = Result<Frame, SendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.last {
            Last::Body => self.poll_body(cx),
            Last::Telling(_) => self.poll_telling(cx),
            Last::Nothing => Poll::Ready(None),
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Before its end: abandoned.
        drop(self.exchange.take_flow());
    }
}

/// Whether the credential may have reached anybody before an exchange failed.
pub(in super::super) const fn may_have_left(error: &SendError) -> bool {
    match error {
        SendError::Refused { .. } => false,
        SendError::Failed { fault, .. } => match fault {
            Fault::NoAddress
            | Fault::Crowded
            | Fault::ForbiddenAddress
            | Fault::NoConnection
            | Fault::Tls
            | Fault::Certificate => false,
            Fault::Timeout
            | Fault::Protocol
            | Fault::Incomplete
            | Fault::HeadTooLarge
            | Fault::BodyTooLarge
            | Fault::Encoded
            | Fault::RequestBody
            | Fault::RequestAborted
            | Fault::Token
            | Fault::Reflected => true,
        },
    }
}
