//! Requests that a key signs: framed before they are logged, signed under the permit that the log gave, attached as fields. Signatures that
//! go before a request, for a token or for the connection, have entries of their own. Not the frames: those are core's profiles.

use std::fmt;
use std::sync::{Arc, Weak};

use claviger_core::audit::{RequestLine, RequestPurpose, Settlement, Use};
use claviger_core::egress::{ClientIdentity, Slot};
use claviger_core::http::{Injection, Origin};
use claviger_core::profile::proof::{
    Possession, RequestParts, SignatureFields, certificate_verify, dpop, http_signature,
};
use claviger_core::profile::{FrameContext, FrameError, Framed, Profile};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{BoxFuture, GrantAlias, KeyName, KeyRef, Permit, Refusal, Secret, Signature};
use rand_core::{OsRng, RngCore as _};

use super::super::perform::{failed, signs};
use super::super::tokens::Verifier;
use super::super::{Instance, LocalBroker};
use super::slots::field;
use super::{Credentials, Prepared};
use crate::guard;
use crate::keyring::KeyRecord;

/// What a key signs of one request, framed and not yet signed.
pub(super) struct Proof {
    record: Arc<KeyRecord>,
    framed: Framed,
    kind: Kind,
}

enum Kind {
    /// The signature is put into fields.
    Fields(SignatureFields),
    /// The signed token is one field.
    Dpop,
}

impl Proof {
    pub(super) const fn framed(&self) -> &Framed {
        &self.framed
    }

    /// Whether it is by the first of these keys, which is the one that the log names.
    pub(super) fn must_be_by(&self, credentials: &Credentials) -> Result<(), Denial> {
        if credentials.keys().first() == Some(&self.record.key) {
            return Ok(());
        }
        Err(Denial::new(
            Refusal::Throttled,
            Rule::KeyState,
            "the key was replaced while the request was decided",
        ))
    }
}

impl LocalBroker {
    /// Frames what a key signs of a request, if one does.
    pub(super) fn proof(
        &self,
        instance: &Instance,
        prepared: &Prepared<'_>,
        token: Option<&Arc<Secret>>,
    ) -> Result<Option<Proof>, Denial> {
        let Some(inject) = &prepared.decided.grant.inject else {
            return Ok(None);
        };
        let credentials = self.credentials_of(instance, prepared.decided.alias, prepared.terms)?;
        let decided = &prepared.decided;
        match inject {
            Injection::HttpSignature { key, lifetime } => {
                let record = credentials.key(key)?;
                let request = RequestParts {
                    method: decided.method,
                    target: &decided.target,
                    body: prepared.present(),
                };
                let (framed, fields) = self.framed(&record, |context| {
                    http_signature(&record.profile, *lifetime, &request, context)
                })?;
                Ok(Some(Proof {
                    record,
                    framed,
                    kind: Kind::Fields(fields),
                }))
            }
            Injection::Dpop { key, .. } => {
                let record = credentials.key(key)?;
                let token = match (token, credentials.secrets().first()) {
                    (Some(token), _) => Arc::clone(token),
                    (None, Some(secret)) => self.open_secret(secret)?,
                    (None, None) => return Err(super::no_credential(inject)),
                };
                let nonce = self
                    .tokens
                    .nonce(&instance.admitted, decided.alias, Verifier::Api);
                let request = Possession {
                    method: decided.method,
                    target: &decided.target,
                    token: Some(&token),
                    nonce: nonce.as_deref(),
                };
                let framed = self.framed(&record, |context| dpop(&record.profile, &request, context))?;
                Ok(Some(Proof {
                    record,
                    framed,
                    kind: Kind::Dpop,
                }))
            }
            Injection::Bearer { .. }
            | Injection::Basic { .. }
            | Injection::Header { .. }
            | Injection::Query { .. }
            | Injection::OAuth2(_)
            | Injection::GithubApp(_)
            | Injection::AwsSigV4(_)
            | Injection::WebhookHmac { .. }
            | Injection::Mtls { .. } => Ok(None),
        }
    }

    /// Signs under the permit of the request, and gives the fields. A permit is good for one signature.
    pub(super) async fn prove(&self, proof: Option<&Proof>, permit: &Permit) -> Result<Vec<Slot>, Denial> {
        let Some(proof) = proof else {
            return Ok(Vec::new());
        };
        let signature = self.signature(permit, &proof.record, &proof.framed).await?;
        let wrong = |_| custody("the signature is of another algorithm than the key");
        match &proof.kind {
            Kind::Fields(fields) => fields
                .finish(&signature)
                .map_err(wrong)?
                .iter()
                .map(|(name, value)| field(name.as_str(), &[value.as_bytes()]))
                .collect(),
            Kind::Dpop => {
                let token = proof.framed.finish(&signature).map_err(wrong)?;
                Ok(vec![field("dpop", &[&token])?])
            }
        }
    }

    /// Makes a token that goes with a token request, under an entry of its own.
    pub(in super::super) async fn signed_token(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        record: &Arc<KeyRecord>,
        origin: &Origin,
        frame: impl FnOnce(&Profile, &FrameContext<'_>) -> Result<Framed, FrameError>,
    ) -> Result<Secret, Denial> {
        let framed = self.framed(record, |context| frame(&record.profile, context))?;
        let signature = self.sign_aside(instance, alias, record, origin, &framed).await?;
        let mut token = framed
            .finish(&signature)
            .map_err(|_| custody("the signature is of another algorithm than the key"))?;
        Secret::take(&mut token).map_err(|error| custody(&error.to_string()))
    }

    fn framed<T>(
        &self,
        record: &KeyRecord,
        frame: impl FnOnce(&FrameContext<'_>) -> Result<T, FrameError>,
    ) -> Result<T, Denial> {
        let mut nonce = [0; 16];
        OsRng
            .try_fill_bytes(&mut nonce)
            .map_err(|_| custody("the system gives no random numbers"))?;
        let context = FrameContext {
            key: signs(record)?,
            now: self.trusted_now()?,
            nonce,
        };
        frame(&context).map_err(|error| Denial::new(Refusal::Unavailable, Rule::Content, &error.to_string()))
    }

    /// Signs something that precedes a request. On the log, like any use of a key, and not counted as a use of the grant.
    async fn sign_aside(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        record: &Arc<KeyRecord>,
        origin: &Origin,
        framed: &Framed,
    ) -> Result<Signature, Denial> {
        let agent = &instance.admitted.agent;
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
                key: Some(record.key.clone()),
                secret: None,
                profile: record.profile.kind().to_owned(),
                operation: None,
                request: Some(RequestLine {
                    purpose: RequestPurpose::Proof,
                    origin: origin.clone(),
                    route: record.profile.kind().to_owned(),
                    answer: 0,
                }),
                content: framed.content(),
                size: framed.size() as u64,
                number: state.uses,
                rate_until: state.rate_until,
                approval: None,
            };
            ledger.used_by_host(&allowed, time);
            Permit::to_sign(
                Arc::clone(&self.permits),
                Arc::clone(&self.clock),
                time,
                allowed,
                framed,
            )
        };
        let permit = recording
            .await
            .map_err(|error| Denial::new(Refusal::Unavailable, Rule::Audit, &error.to_string()))?;
        let signed = self.signature(&permit, record, framed).await;
        let _releasing = self.record.releasing();
        let signed = signed.and_then(|signature| {
            // A device may have taken seconds: what was stopped meanwhile gets nothing.
            guard::in_force(&self.ledger().grant(agent, alias))?;
            self.may_finish_with(record)?;
            Ok(signature)
        });
        permit.settle(match &signed {
            Ok(_) => Settlement::Released,
            Err(_) => Settlement::Failed,
        });
        signed
    }

    /// The key must still be in use when it was signed with.
    async fn signature(
        &self,
        permit: &Permit,
        record: &Arc<KeyRecord>,
        framed: &Framed,
    ) -> Result<Signature, Denial> {
        let key = self.open_key(record).await.map_err(|error| failed(&error))?;
        let signature = key.sign(permit, framed).await.map_err(|error| failed(&error))?;
        self.may_finish_with(record)?;
        Ok(signature)
    }

    fn may_finish_with(&self, record: &KeyRecord) -> Result<(), Denial> {
        match self.may_finish(&record.key) {
            Some(_) => Ok(()),
            None => Err(revoked(&record.key.name)),
        }
    }
}

/// The client's end of TLS handshakes of one grant: its key signs in custody, each time under an entry of its own.
pub(super) struct Handshakes {
    broker: Weak<LocalBroker>,
    alias: GrantAlias,
    origin: Origin,
    key: KeyRef,
    chain: Vec<Vec<u8>>,
}

impl Handshakes {
    pub(super) fn identity(
        broker: Weak<LocalBroker>,
        alias: &GrantAlias,
        origin: &Origin,
        key: KeyRef,
        chain: &[Vec<u8>],
    ) -> Arc<dyn ClientIdentity> {
        Arc::new(Self {
            broker,
            alias: alias.clone(),
            origin: origin.clone(),
            key,
            chain: chain.to_vec(),
        })
    }

    async fn sign(&self, permit: &Permit, content: &[u8]) -> Result<Signature, Denial> {
        let gone = || Denial::new(Refusal::NotGranted, Rule::Instance, "the instance has ended");
        let broker = self.broker.upgrade().ok_or_else(gone)?;
        // Whose handshake it is says the permit of the request that opens the connection.
        let instance = broker.instance(permit.instance()).ok_or_else(gone)?;
        if !permit.covers_origin(&self.origin) {
            let text = "the permit is not for this connection";
            return Err(Denial::new(Refusal::NotGranted, Rule::Egress, text));
        }
        let Some(record) = broker.may_finish(&self.key) else {
            return Err(revoked(&self.key.name));
        };
        let framed = broker.framed(&record, |context| {
            certificate_verify(&record.profile, content, context)
        })?;
        broker
            .sign_aside(&instance, &self.alias, &record, &self.origin, &framed)
            .await
    }
}

impl ClientIdentity for Handshakes {
    fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    fn key(&self) -> &KeyRef {
        &self.key
    }

    fn sign<'a>(
        &'a self,
        permit: &'a Permit,
        content: &'a [u8],
    ) -> BoxFuture<'a, Result<Signature, Refusal>> {
        Box::pin(async move {
            match self.sign(permit, content).await {
                Ok(signature) => Ok(signature),
                Err(denial) => {
                    let refusal = denial.refusal;
                    let broker = self.broker.upgrade();
                    let instance = broker
                        .as_ref()
                        .and_then(|broker| broker.instance(permit.instance()));
                    match (broker, instance) {
                        (Some(broker), Some(instance)) => {
                            Err(broker.refuse(&instance, &self.alias, denial).await)
                        }
                        // An instance that has ended has no agent to log a refusal for.
                        (Some(_) | None, _) => Err(refusal),
                    }
                }
            }
        })
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes")
            .field("origin", &self.origin)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

fn custody(text: &str) -> Denial {
    Denial::new(Refusal::Unavailable, Rule::Custody, text)
}

pub(super) fn revoked(key: &KeyName) -> Denial {
    let text = format!("key `{key}` was taken out of use");
    Denial::new(Refusal::Revoked, Rule::KeyState, &text)
}
