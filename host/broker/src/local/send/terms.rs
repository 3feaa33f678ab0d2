//! The terms of one grant of outbound HTTP, and the credentials that it uses now. Not a decision of a request.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use claviger_core::audit::SecretRef;
use claviger_core::egress::{ClientIdentity, Destination, Lane};
use claviger_core::http::{HttpGrant, Injection, InjectionKind, Origin};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{GrantAlias, KeyName, KeyRef, Refusal, SecretName};
use jiff::Timestamp;

use super::super::admit::Admitted;
use super::super::secrets::is_for;
use super::super::{Instance, LocalBroker};
use super::proof::{Handshakes, revoked};
use super::references;
use crate::keyring::{KeyRecord, SecretRecord};

/// A grant as it was admitted.
pub(in super::super) struct HttpTerms {
    pub(in super::super) grant: Arc<HttpGrant>,
    // The one for the credential's version that was used last: connections are kept by it.
    destination: Mutex<Option<Arc<Destination>>>,
}

impl HttpTerms {
    pub(in super::super) fn new(grant: Arc<HttpGrant>) -> Self {
        Self {
            grant,
            destination: Mutex::default(),
        }
    }

    /// Every secret that it uses, with its kind and the origin that it is sent to.
    pub(in super::super) fn secrets(&self) -> impl Iterator<Item = (&SecretName, InjectionKind, &Origin)> {
        let inject = self.grant.inject.as_ref();
        inject
            .into_iter()
            .flat_map(|inject| inject.secrets(&self.grant.origin))
    }

    /// Every key that it signs with, and the kind of profile that the key must have.
    pub(in super::super) fn keys(&self) -> impl Iterator<Item = (&KeyName, &'static str)> {
        self.grant.inject.iter().flat_map(Injection::keys)
    }

    /// What the log calls it.
    pub(in super::super) fn profile(&self) -> &'static str {
        self.grant.inject.as_ref().map_or("none", Injection::as_str)
    }

    /// Where requests go, with a lane that no other agent, grant or credential shares.
    pub(super) fn destination(
        &self,
        admitted: &Admitted,
        alias: &GrantAlias,
        credentials: &Credentials,
        broker: &Weak<LocalBroker>,
    ) -> Arc<Destination> {
        let credential = credentials.label();
        let mut last = self.destination.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(destination) = last.as_ref()
            && destination.lane.credential == credential
        {
            return Arc::clone(destination);
        }
        let grant = &self.grant;
        let destination = Arc::new(Destination {
            origin: grant.origin.clone(),
            trust: grant.trust.clone(),
            private_networks: grant.private_networks.clone(),
            answer: grant.answer.clone(),
            timeout: grant.timeout,
            lane: Lane {
                component: admitted.component,
                grant: format!("{}/{alias}", admitted.agent),
                credential,
            },
            identity: self.identity(alias, credentials, broker),
        });
        *last = Some(Arc::clone(&destination));
        destination
    }
}

impl HttpTerms {
    /// The client certificate, if the grant has one.
    fn identity(
        &self,
        alias: &GrantAlias,
        credentials: &Credentials,
        broker: &Weak<LocalBroker>,
    ) -> Option<Arc<dyn ClientIdentity>> {
        let Some(Injection::Mtls { chain, .. }) = &self.grant.inject else {
            return None;
        };
        let key = credentials.keys().into_iter().next()?;
        let origin = &self.grant.origin;
        Some(Handshakes::identity(
            Weak::clone(broker),
            alias,
            origin,
            key,
            chain,
        ))
    }
}

/// The versions of credentials that a request is decided with.
pub(in super::super) struct Credentials {
    secrets: Vec<Arc<SecretRecord>>,
    keys: Vec<Arc<KeyRecord>>,
}

impl Credentials {
    pub(in super::super) fn secrets(&self) -> Vec<SecretRef> {
        references(self.secrets.iter().map(|record| &record.secret))
    }

    /// The version of this key.
    pub(in super::super) fn key(&self, name: &KeyName) -> Result<Arc<KeyRecord>, Denial> {
        let record = self.keys.iter().find(|record| record.key.name == *name);
        record.cloned().ok_or_else(|| revoked(name))
    }

    pub(in super::super) fn keys(&self) -> Vec<KeyRef> {
        self.keys.iter().map(|record| record.key.clone()).collect()
    }

    /// When the secrets expire that do.
    pub(super) fn expires(&self) -> Vec<Timestamp> {
        self.secrets.iter().filter_map(|record| record.expires).collect()
    }

    /// Whether these are the same versions.
    pub(in super::super) fn must_equal(&self, other: &Self) -> Result<(), Denial> {
        if self.secrets() == other.secrets() && self.keys() == other.keys() {
            return Ok(());
        }
        Err(Denial::new(
            Refusal::Throttled,
            Rule::SecretState,
            "the credential was replaced while the request was decided",
        ))
    }

    fn label(&self) -> String {
        let secrets = self.secrets.iter().map(|record| match record.kind {
            // Its versions come and go; what goes over the connection is a token.
            InjectionKind::OauthRefresh => record.secret.name.to_string(),
            InjectionKind::Bearer
            | InjectionKind::Basic
            | InjectionKind::Header
            | InjectionKind::Query
            | InjectionKind::OauthClient
            | InjectionKind::OauthSubject
            | InjectionKind::AwsSigv4
            | InjectionKind::WebhookHmac => record.secret.to_string(),
        });
        let keys = self.keys.iter().map(|record| record.key.to_string());
        secrets.chain(keys).collect::<Vec<_>>().join(" ")
    }
}

impl LocalBroker {
    /// The versions that an instance uses now under a grant: those in use, or, in a step of a rotation, the one that is tried.
    pub(super) fn credentials_of(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        terms: &HttpTerms,
    ) -> Result<Credentials, Denial> {
        let (Some(step), Some(rotates)) = (&instance.step, &instance.admitted.rotates) else {
            return self.credentials(terms);
        };
        let Some(tried) = step.allows(rotates, alias)? else {
            return self.credentials(terms);
        };
        let denied = |text: String| Denial::new(Refusal::Revoked, Rule::SecretState, &text);
        let record = self
            .keyring
            .secret_record(tried)
            .ok_or_else(|| denied(format!("secret `{tried}` is gone")))?;
        if !record.is_good() {
            return Err(denied(format!(
                "secret `{tried}` is {} and cannot be tried",
                record.standing()
            )));
        }
        for (_, kind, origin) in terms.secrets() {
            is_for(&record, kind, origin)?;
        }
        Ok(Credentials {
            secrets: vec![record],
            keys: Vec::new(),
        })
    }

    /// The versions that a grant uses now, each active, of its kind, and for its origin.
    pub(in super::super) fn credentials(&self, terms: &HttpTerms) -> Result<Credentials, Denial> {
        let now = self.clock.now();
        let secrets = terms
            .secrets()
            .map(|(name, kind, origin)| self.active_secret(name, kind, origin, now))
            .collect::<Result<_, _>>()?;
        let keys = terms
            .keys()
            .map(|(name, profile)| {
                let record = self
                    .active_key(name)
                    .map_err(|text| Denial::new(Refusal::Revoked, Rule::KeyState, &text))?;
                if record.profile.kind() == profile {
                    return Ok(record);
                }
                let text = format!("key `{}` is not for `{profile}`", record.key);
                Err(Denial::new(Refusal::Revoked, Rule::KeyState, &text))
            })
            .collect::<Result<_, Denial>>()?;
        Ok(Credentials { secrets, keys })
    }
}
