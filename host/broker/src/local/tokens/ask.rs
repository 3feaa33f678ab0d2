//! One request for a token, and what proves who asks. Not what becomes of the answer.

use std::sync::Arc;

use claviger_core::egress::{Egress, SendError, TokenAnswer, TokenPlan, TokenSecrets};
use claviger_core::http::{ClientAuth, Method};
use claviger_core::profile::proof::{Possession, client_assertion, dpop, github_app};
use claviger_core::refusal::Denial;
use claviger_core::{GrantAlias, Permit, Secret};

use super::super::send::{Credentials, Exchange, HttpTerms, Stop};
use super::super::{Instance, LocalBroker};
use super::wanted::{Wanted, What};
use super::{Verifier, destination};

impl LocalBroker {
    /// One request for a token, with an assertion and a proof of its own: both are good for one.
    pub(super) async fn ask_once(
        &self,
        egress: &Arc<dyn Egress>,
        terms: &HttpTerms,
        (instance, alias, wanted, credentials): (&Instance, &GrantAlias, &Wanted<'_>, &Credentials),
    ) -> Result<(Permit, Result<TokenAnswer, SendError>), Denial> {
        let secrets = match wanted.what {
            What::OAuth2(oauth) => self.token_secrets(oauth, credentials)?,
            What::App(_) => TokenSecrets::default(),
        };
        let assertion = self.assertion(instance, alias, wanted, credentials).await?;
        let dpop = self.possession(instance, alias, wanted, credentials).await?;
        let exchange = Exchange::new(
            None,
            instance.admitted.agent.clone(),
            alias.clone(),
            credentials.secrets(),
            credentials.keys(),
        );
        let _registered = self.exchanges.register(&exchange)?;
        // Again, now that it is stopped by whatever changes from here on.
        self.credentials(terms)?.must_equal(credentials)?;
        let permit = self
            .permit_token(instance, alias, terms, wanted, credentials)
            .await?;
        let plan = TokenPlan {
            destination: destination(instance, alias, terms, wanted),
            request: wanted.request(),
            secrets,
            assertion,
            dpop,
        };
        let stopped = |stop: Stop| {
            Err(SendError::Refused {
                refusal: stop.denial().refusal,
                grant: Some(alias.clone()),
            })
        };
        let answered = if wanted.rotating().is_some() {
            tokio::select! {
                // What was stopped is not begun. What was begun goes on to its end: the server may have replaced the refresh token.
                biased;
                stop = exchange.stopped() => stopped(stop),
                () = std::future::ready(()) => egress.token(&permit, plan).await,
            }
        } else {
            tokio::select! {
                biased;
                stop = exchange.stopped() => stopped(stop),
                answered = egress.token(&permit, plan) => answered,
            }
        };
        Ok((permit, answered))
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
}
