//! A question about an approval, put to an operator's web service as a request of the host's own: on the log before it is sent, with a
//! secret of the keyring attached. Not what is asked and answered: whoever asks writes the body, and reads what comes back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claviger_core::approval::Question;
use claviger_core::audit::{RequestLine, RequestPurpose, Settlement, Traffic, Use};
use claviger_core::egress::{BodyStream, Destination, Egress, Fault, Frame, Lane, Outgoing, Plan, SendError};
use claviger_core::http::{HttpGrant, Injection, Method, Origin, Target, WebhookScheme};
use claviger_core::manifest::Bytes as Quantity;
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{ContentDigest, Permit, Refusal};

use super::super::LocalBroker;
use super::signed::{self, FIELDS, NotSigned};
use super::slots::{Filling, fill};
use super::{Credentials, Exchange, HttpTerms, no_egress};
use crate::guard;

/// An answer has at most this many bytes: a word and a reason.
pub const MAX_HOOK_ANSWER: u64 = 16 * 1024;
/// The status of an answer that decides something. Any other is none yet, or an error, whoever says so.
const DECIDED: u16 = 200;
/// One exchange takes at most this long: a service may think about its answer, and be asked again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A web service that is asked for approvals.
pub struct Webhook {
    terms: HttpTerms,
    target: Target,
}

impl Webhook {
    /// At this URL, under the terms of a grant to its origin: whom to trust, which private networks, and the secret that is attached. One that
    /// signs the question (`webhook-hmac` by the convention of Standard Webhooks) must sign the answer, too.
    #[must_use]
    pub fn new(target: Target, grant: &HttpGrant) -> Self {
        let mut grant = grant.clone();
        grant.answer.max = Quantity(MAX_HOOK_ANSWER);
        grant.timeout = PATIENCE;
        grant.answer.headers = FIELDS.iter().filter_map(|name| name.parse().ok()).collect();
        Self {
            terms: HttpTerms::new(Arc::new(grant)),
            target,
        }
    }

    /// Whether its answers are signed.
    fn signs(&self) -> bool {
        matches!(
            self.terms.grant.inject,
            Some(Injection::WebhookHmac {
                scheme: WebhookScheme::Standard,
                ..
            })
        )
    }

    /// Where it is.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        self.target.origin()
    }
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Webhook({})", self.origin())
    }
}

/// Why a web service gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// It was not asked: its secret is not usable, or the log is not.
    #[error("it was not asked: {0}")]
    Refused(String),
    /// It was asked, and the exchange failed.
    #[error(transparent)]
    Failed(#[from] SendError),
    /// Somebody answered, and did not sign that with the secret that the question was signed with.
    #[error(transparent)]
    NotSigned(#[from] NotSigned),
}

impl From<Denial> for HookError {
    fn from(denial: Denial) -> Self {
        Self::Refused(denial.detail)
    }
}

impl LocalBroker {
    /// Posts JSON about a question, and gives the status and the body of the answer. Stopped when the grant or the secret is taken away.
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// When it is not sent, or there is no answer; or the answer has status 200 and is not signed, by a service that signs.
    pub async fn ask_webhook(
        &self,
        hook: &Webhook,
        question: &Question,
        json: Vec<u8>,
    ) -> Result<(u16, Bytes), HookError> {
        let egress = self.egress.as_ref().ok_or_else(no_egress)?;
        let credentials = self.credentials(&hook.terms)?;
        let exchange = Exchange::new(
            None,
            question.agent.clone(),
            question.grant.clone(),
            credentials.secrets(),
            credentials.keys(),
        );
        let _registered = self.exchanges.register(&exchange)?;
        // Again, now that it is stopped by whatever changes from here on.
        self.credentials(&hook.terms)?.must_equal(&credentials)?;
        let mut permit = self.permit_question(hook, question, &credentials, &json).await?;
        let size = u64::try_from(json.len()).unwrap_or(u64::MAX);
        let mut traffic = Traffic {
            status: None,
            sent: size,
            received: 0,
            injected: true,
            fault: None,
        };
        // Until it is known better: everything may have gone.
        permit.observe(Settlement::Failed, traffic.clone());
        let plan = match self.question_plan(hook, question, &credentials, json) {
            Ok(plan) => plan,
            Err(denial) => {
                traffic.injected = false;
                traffic.sent = 0;
                permit.observe(Settlement::Failed, traffic);
                return Err(denial.into());
            }
        };
        let signing = hook.signs().then(|| plan.watched.first().cloned()).flatten();
        let answered = tokio::select! {
            // What was stopped is not begun.
            biased;
            stop = exchange.stopped() => return Err(stop.denial().into()),
            answered = answer(egress, &permit, plan) => answered,
        };
        let settlement = match &answered {
            Ok(heard) => {
                traffic.status = Some(heard.status);
                traffic.received = u64::try_from(heard.body.len()).unwrap_or(u64::MAX);
                Settlement::Released
            }
            Err(error) => {
                if let SendError::Failed { fault, .. } = error {
                    traffic.fault = Some(*fault);
                }
                Settlement::Failed
            }
        };
        permit.observe(settlement, traffic);
        let heard = answered?;
        if heard.status == DECIDED
            && let Some(secret) = &signing
        {
            signed::check(secret.expose(), &heard.headers, &heard.body, self.clock.now())?;
        }
        Ok((heard.status, heard.body))
    }

    /// The host's own request, on the log like an agent's, and not counted as a use.
    async fn permit_question(
        &self,
        hook: &Webhook,
        question: &Question,
        credentials: &Credentials,
        json: &[u8],
    ) -> Result<Permit, Denial> {
        let recording = {
            let mut ledger = self.ledger();
            let time = guard::trusted_time(self.clock.now(), ledger.latest())?;
            let state = ledger.grant(&question.agent, &question.grant);
            guard::in_force(&state)?;
            let allowed = Use {
                instance: question.instance,
                agent: question.agent.clone(),
                component: question.component,
                manifest: question.manifest,
                grant: question.grant.clone(),
                key: None,
                secret: credentials.secrets().into_iter().next(),
                profile: hook.terms.profile().to_owned(),
                operation: None,
                request: Some(RequestLine {
                    purpose: RequestPurpose::Approval,
                    origin: hook.origin().clone(),
                    route: format!("POST {}", hook.target.path()),
                    answer: MAX_HOOK_ANSWER,
                }),
                // Not of the text, which holds the beginning of what is to be sealed, so that a short one could be guessed by it.
                content: ContentDigest::of_parts([
                    question.request.as_bytes().as_slice(),
                    question.id.to_string().as_bytes(),
                ]),
                size: u64::try_from(json.len()).unwrap_or(u64::MAX),
                number: state.uses,
                rate_until: state.rate_until,
                approval: Some(question.id),
            };
            ledger.used_by_host(&allowed, time);
            let (sink, clock) = (Arc::clone(&self.permits), Arc::clone(&self.clock));
            Permit::to_send(sink, clock, time, allowed, hook.origin().clone(), None)
        };
        recording
            .await
            .map_err(|error| Denial::new(Refusal::Unavailable, Rule::Audit, &error.to_string()))
    }

    fn question_plan(
        &self,
        hook: &Webhook,
        question: &Question,
        credentials: &Credentials,
        json: Vec<u8>,
    ) -> Result<Plan, Denial> {
        let no_secret = || {
            Denial::new(
                Refusal::Unavailable,
                Rule::SecretState,
                "the webhook has no secret",
            )
        };
        let grant = &hook.terms.grant;
        let inject: &Injection = grant.inject.as_ref().ok_or_else(no_secret)?;
        let secret = credentials.secrets().into_iter().next().ok_or_else(no_secret)?;
        let value = self.open_secret(&secret)?;
        let filling = Filling {
            value: &value,
            body: &json,
            now: self.clock.now(),
        };
        let slots = fill(inject, &filling)?;
        let content_type = "content-type"
            .parse()
            .map_err(|_| Denial::new(Refusal::Unavailable, Rule::Header, "no name of a header field"))?;
        Ok(Plan {
            destination: Arc::new(Destination {
                origin: grant.origin.clone(),
                trust: grant.trust.clone(),
                private_networks: grant.private_networks.clone(),
                answer: grant.answer.clone(),
                timeout: grant.timeout,
                lane: Lane {
                    component: question.component,
                    grant: "(approvals)".to_owned(),
                    credential: secret.to_string(),
                },
                identity: None,
            }),
            method: Method::Post,
            target: hook.target.clone(),
            headers: vec![(content_type, b"application/json".to_vec())],
            slots,
            body: Outgoing::Whole(json.into()),
            watched: vec![value],
        })
    }
}

/// What came back.
struct Heard {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
}

async fn answer(egress: &Arc<dyn Egress>, permit: &Permit, plan: Plan) -> Result<Heard, SendError> {
    let answer = egress.send(permit, plan).await?;
    Ok(Heard {
        status: answer.status,
        headers: answer.headers,
        body: short(answer.body).await?,
    })
}

/// Reads an answer that is no longer than it may be.
async fn short(mut body: BodyStream) -> Result<Bytes, SendError> {
    let mut read = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_next(cx)).await {
        match frame? {
            Frame::Data(bytes) => {
                let length = u64::try_from(read.len().saturating_add(bytes.len())).unwrap_or(u64::MAX);
                if length > MAX_HOOK_ANSWER {
                    return Err(Fault::BodyTooLarge.into());
                }
                read.extend_from_slice(&bytes);
            }
            Frame::Trailers(_) => return Err(Fault::Incomplete.into()),
        }
    }
    Ok(read.into())
}
