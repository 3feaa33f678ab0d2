//! One request for a token, and what proves who asks. Not what becomes of the answer.

use std::sync::Arc;
use std::time::Duration;

use claviger_core::audit::{RequestLine, RequestPurpose, Settlement, Traffic, Use};
use claviger_core::egress::{
    Destination, Egress, Fault, Lane, SendError, TokenAnswer, TokenPlan, TokenSecrets,
};
use claviger_core::http::{AnswerRule, ClientAuth, HttpGrant, Method, Trust};
use claviger_core::manifest::Bytes;
use claviger_core::profile::proof::{Possession, client_assertion, dpop, github_app};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{ContentDigest, GrantAlias, Permit, Refusal, Secret};

use super::super::send::{Credentials, Exchange, HttpTerms, Stop};
use super::super::{Instance, LocalBroker};
use super::Verifier;
use super::wanted::{Wanted, What};
use crate::guard;

/// An answer of a token endpoint has at most this many bytes.
const MAX_TOKEN_ANSWER: Bytes = Bytes(64 * 1024);
/// A token endpoint answers within this time.
pub(super) const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// One request for a token that was answered, or failed.
pub(super) struct Asked {
    pub(super) permit: Permit,
    /// What it was asked with.
    pub(super) credentials: Credentials,
    pub(super) answered: Result<TokenAnswer, SendError>,
}

impl Asked {
    pub(super) fn settle(mut self, settlement: Settlement, fault: Option<Fault>) {
        settle(&mut self.permit, settlement, fault, true);
    }
}

impl LocalBroker {
    /// One request for a token, with an assertion and a proof of its own: both are good for one. Whatever takes the grant or a credential
    /// away stops it; once a request that may rotate a refresh token is sent, only the latter does.
    pub(super) async fn ask_once(
        &self,
        egress: &Arc<dyn Egress>,
        terms: &HttpTerms,
        (instance, alias, wanted): (&Instance, &GrantAlias, &Wanted<'_>),
    ) -> Result<Asked, Denial> {
        let credentials = self.credentials(terms)?;
        let exchange = Exchange::new(
            None,
            instance.admitted.agent.clone(),
            alias.clone(),
            credentials.secrets(),
            credentials.keys(),
        );
        let _registered = self.exchanges.register(&exchange)?;
        // Again, now that it is stopped by whatever changes from here on.
        self.credentials(terms)?.must_equal(&credentials)?;
        let proving = async {
            let assertion = self.assertion(instance, alias, wanted, &credentials).await?;
            let dpop = self.possession(instance, alias, wanted, &credentials).await?;
            Ok((assertion, dpop))
        };
        let (assertion, dpop) = tokio::select! {
            biased;
            stop = exchange.stopped() => return Err(stop.denial()),
            proved = proving => proved?,
        };
        let mut permit = self
            .permit_token(instance, alias, terms, wanted, &credentials)
            .await?;
        let opened = match wanted.what {
            What::OAuth2(oauth) => self.token_secrets(oauth, &credentials),
            What::App(_) => Ok(TokenSecrets::default()),
        };
        let opened = opened.and_then(|secrets| {
            if wanted.rotating().is_some() {
                exchange.let_finish().map_err(Stop::denial)?;
            }
            Ok(secrets)
        });
        let secrets = match opened {
            Ok(secrets) => secrets,
            Err(denial) => {
                settle(&mut permit, Settlement::Failed, None, false);
                return Err(denial);
            }
        };
        let plan = TokenPlan {
            destination: destination(instance, alias, terms, wanted),
            request: wanted.request(),
            secrets,
            assertion,
            dpop,
        };
        let answered = tokio::select! {
            // What was stopped is not begun.
            biased;
            stop = exchange.stopped() => Err(stop),
            answered = egress.token(&permit, plan) => Ok(answered),
        };
        match answered {
            Ok(answered) => Ok(Asked {
                permit,
                credentials,
                answered,
            }),
            Err(stop) => {
                settle(&mut permit, Settlement::Failed, None, true);
                Err(stop.denial())
            }
        }
    }

    /// What the client proves itself with, if it does with a key.
    async fn assertion(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        wanted: &Wanted<'_>,
        credentials: &Credentials,
    ) -> Result<Option<Secret>, Denial> {
        let origin = wanted.origin;
        match wanted.what {
            What::App(app) => {
                let record = credentials.key(&app.key)?;
                self.signed_token(instance, alias, &record, origin, |profile, context| {
                    github_app(profile, origin, context)
                })
                .await
                .map(Some)
            }
            What::OAuth2(oauth) => match &oauth.auth {
                ClientAuth::PrivateKeyJwt(key) => {
                    let record = credentials.key(key)?;
                    self.signed_token(instance, alias, &record, origin, |profile, context| {
                        client_assertion(profile, origin, context)
                    })
                    .await
                    .map(Some)
                }
                ClientAuth::Basic(_) | ClientAuth::Post(_) | ClientAuth::None => Ok(None),
            },
        }
    }

    /// The proof that binds a token to a key, if the token is to be bound (RFC 9449 §5).
    async fn possession(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        wanted: &Wanted<'_>,
        credentials: &Credentials,
    ) -> Result<Option<Secret>, Denial> {
        let (Some(key), What::OAuth2(oauth)) = (wanted.dpop, &wanted.what) else {
            return Ok(None);
        };
        let record = credentials.key(key)?;
        let nonce = self.tokens.nonce(&instance.admitted, alias, Verifier::Endpoint);
        let request = Possession {
            method: Method::Post,
            target: &oauth.endpoint,
            token: None,
            nonce: nonce.as_deref(),
        };
        self.signed_token(instance, alias, &record, wanted.origin, |profile, context| {
            dpop(profile, &request, context)
        })
        .await
        .map(Some)
    }

    /// The host's own request, on the log like an agent's, and not counted as a use.
    async fn permit_token(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        terms: &HttpTerms,
        wanted: &Wanted<'_>,
        credentials: &Credentials,
    ) -> Result<Permit, Denial> {
        let agent = &instance.admitted.agent;
        let (origin, path) = (wanted.origin, wanted.path());
        let recording = {
            let mut ledger = self.ledger();
            let time = guard::trusted_time(self.clock.now(), ledger.latest())?;
            let state = ledger.grant(agent, alias);
            guard::in_force(&state)?;
            let allowed = Use {
                instance: instance.id,
                agent: agent.clone(),
                component: instance.admitted.component,
                manifest: instance.admitted.manifest,
                grant: alias.clone(),
                key: None,
                secret: credentials.secrets().into_iter().next(),
                profile: terms.profile().to_owned(),
                operation: None,
                request: Some(RequestLine {
                    purpose: RequestPurpose::Token,
                    origin: origin.clone(),
                    route: format!("POST {path}"),
                    answer: MAX_TOKEN_ANSWER.0,
                }),
                content: ContentDigest::of_parts([
                    origin.to_string().as_bytes(),
                    path.as_bytes(),
                    wanted.client().as_bytes(),
                ]),
                size: 0,
                number: state.uses,
                rate_until: state.rate_until,
                approval: None,
            };
            ledger.used_by_host(&allowed, time);
            Permit::to_send(
                Arc::clone(&self.permits),
                Arc::clone(&self.clock),
                time,
                allowed,
                origin.clone(),
                None,
            )
        };
        recording
            .await
            .map_err(|error| Denial::new(Refusal::Unavailable, Rule::Audit, &error.to_string()))
    }
}

/// The token endpoint's terms: the grant's exceptions hold for it, too, but what is pinned is the API's key.
fn destination(
    instance: &Instance,
    alias: &GrantAlias,
    terms: &HttpTerms,
    wanted: &Wanted<'_>,
) -> Arc<Destination> {
    let grant: &HttpGrant = &terms.grant;
    let origin = wanted.origin.clone();
    let trust = Trust {
        pins: if origin == grant.origin {
            grant.trust.pins.clone()
        } else {
            Vec::new()
        },
        ..grant.trust.clone()
    };
    Arc::new(Destination {
        origin,
        trust,
        private_networks: grant.private_networks.clone(),
        answer: AnswerRule {
            max: MAX_TOKEN_ANSWER,
            headers: Vec::new(),
        },
        timeout: TOKEN_TIMEOUT.min(grant.timeout),
        lane: Lane {
            component: instance.admitted.component,
            grant: format!("{}/{alias}", instance.admitted.agent),
            credential: format!("token {}", wanted.client()),
        },
        identity: None,
    })
}

/// Says what came of a request for a token. `left`: whether a credential may have left.
pub(super) fn settle(permit: &mut Permit, settlement: Settlement, fault: Option<Fault>, left: bool) {
    permit.observe(
        settlement,
        Traffic {
            status: None,
            sent: 0,
            received: 0,
            injected: left,
            fault,
        },
    );
}

pub(super) fn fault(error: &SendError) -> Option<Fault> {
    match error {
        SendError::Failed { fault, .. } => Some(*fault),
        SendError::Refused { .. } => None,
    }
}
