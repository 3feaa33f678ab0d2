//! The client: one permitted request from its plan to its answer. Decides nothing: the broker did. Follows no redirect, keeps no cookie,
//! knows no proxy, repeats nothing that a server may have seen, and reads no environment.

use std::sync::Arc;

use claviger_core::egress::{Answer, Destination, Egress, Fault, Plan, SendError, TokenAnswer, TokenPlan};
use claviger_core::{BoxFuture, Permit, Refusal};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::address::{Resolver, SystemResolver};
use crate::answer;
use crate::body::{Reading, Returned};
use crate::connect::connect;
use crate::exchange::{Live, Sent};
use crate::nonce;
use crate::outgoing::{OutBody, Sending};
use crate::phases::{Phases, within};
use crate::pool::Pool;
use crate::request::{self, Written};
use crate::scrub::{Kept, Watched};
use crate::tls::Tls;
use crate::token;

/// A client has at most this many connections open, waiting ones included: half of the files that a process commonly may open.
pub const MAX_CONNECTIONS: usize = 512;

/// A permit that is for somewhere else, or a plan that is.
const ELSEWHERE: SendError = SendError::Refused {
    refusal: Refusal::NotGranted,
    grant: None,
};

/// Speaks HTTPS to the outside: HTTP/1.1 over TLS 1.3, or 1.2 where a grant says so.
///
/// Needs a tokio runtime with I/O and time. Nothing runs in the background but closing idle connections.
#[derive(Debug)]
pub struct HttpsClient {
    resolver: Arc<dyn Resolver>,
    phases: Phases,
    tls: Tls,
    pool: Arc<Pool>,
    // One for each connection, from before a name is looked up for it until it is closed.
    places: Arc<Semaphore>,
    kept: Kept,
}

impl Default for HttpsClient {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpsClient {
    /// With the system's resolver and the default phases.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Arc::new(SystemResolver), Phases::default())
    }

    /// With a resolver and phases of one's own.
    #[must_use]
    pub fn with(resolver: Arc<dyn Resolver>, phases: Phases) -> Self {
        Self {
            resolver,
            phases,
            tls: Tls::new(),
            pool: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            kept: Kept::default(),
        }
    }

    async fn answer(&self, permit: &Permit, plan: Plan) -> Result<Answer, SendError> {
        let destination = Arc::clone(&plan.destination);
        let watched = self.kept.watched(&plan.watched).map_err(|_| request::INVALID)?;
        let method = plan.method;
        let (head, reading) = self
            .exchange(permit, &destination, Written::from(plan), &watched)
            .await?;
        let headers = answer::checked(&head, method, &destination.answer, &watched)?;
        Ok(Answer {
            status: head.status().as_u16(),
            headers,
            dpop_nonce: nonce::of_answer(&head),
            body: Box::pin(Returned::new(reading, watched)),
        })
    }

    /// Sends one request and gives the head of its answer, unchecked, with what reads the rest.
    pub(crate) async fn exchange(
        &self,
        permit: &Permit,
        destination: &Arc<Destination>,
        written: Written,
        watched: &Arc<Watched>,
    ) -> Result<(Response<()>, Reading), SendError> {
        let origin = &destination.origin;
        if !permit.covers_origin(origin) || !request::same_origin(&written.target, origin) {
            return Err(ELSEWHERE);
        }
        let now = Instant::now();
        let deadline = now.checked_add(destination.timeout).unwrap_or(now);
        let (request, sending) = request::build(written)?;
        let (live, head) = self
            .sent(permit, destination, request, &sending, watched, deadline)
            .await?;
        let (head, incoming) = head.into_parts();
        let reading = Reading::new(
            live,
            incoming,
            sending,
            Arc::clone(destination),
            Arc::clone(&self.pool),
            (self.phases.answer, deadline),
        );
        Ok((Response::from_parts(head, ()), reading))
    }

    /// Over a waiting connection if there is one, else over a new one. A request goes to a second connection only if nothing of it
    /// was written to the first.
    async fn sent(
        &self,
        permit: &Permit,
        destination: &Arc<Destination>,
        mut request: Request<OutBody>,
        sending: &Sending,
        watched: &Arc<Watched>,
        deadline: Instant,
    ) -> Result<(Live, Response<Incoming>), SendError> {
        while let Some(mut live) = self.pool.take(destination) {
            match live.send(request, sending, watched, &self.phases, deadline).await {
                Sent::Head(head) => return Ok((live, head)),
                Sent::Unsent(back) => request = back,
                Sent::Failed(error) => return Err(error),
            }
        }
        let mut live = self.open(permit, destination, deadline).await?;
        match live.send(request, sending, watched, &self.phases, deadline).await {
            Sent::Head(head) => Ok((live, head)),
            Sent::Unsent(_) => Err(Fault::Incomplete.into()),
            Sent::Failed(error) => Err(error),
        }
    }

    /// With at most so many connections, instead of [`MAX_CONNECTIONS`].
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.places = Arc::new(Semaphore::new(most.min(MAX_CONNECTIONS)));
        self
    }

    /// A place for a connection; one that waits for its next request gives way.
    fn place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        loop {
            match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => return Ok(place),
                Err(_) if self.pool.close_one() => {}
                Err(_) => return Err(Fault::Crowded),
            }
        }
    }

    async fn open(
        &self,
        permit: &Permit,
        destination: &Destination,
        deadline: Instant,
    ) -> Result<Live, SendError> {
        let place = self.place()?;
        let stream = connect(self.resolver.as_ref(), destination, &self.phases, deadline).await?;
        let shaken = self.tls.handshake(stream, destination, permit);
        let stream = within(self.phases.tls, deadline, shaken).await?;
        Ok(Live::open(stream, place).await?)
    }
}

impl Egress for HttpsClient {
    fn send<'a>(&'a self, permit: &'a Permit, plan: Plan) -> BoxFuture<'a, Result<Answer, SendError>> {
        Box::pin(self.answer(permit, plan))
    }

    fn token<'a>(
        &'a self,
        permit: &'a Permit,
        plan: TokenPlan,
    ) -> BoxFuture<'a, Result<TokenAnswer, SendError>> {
        Box::pin(token::obtain(self, permit, plan))
    }
}
