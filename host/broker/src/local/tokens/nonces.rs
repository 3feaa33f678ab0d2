//! The nonces that servers want in DPoP proofs (RFC 9449 §8, §9), until they say another one. Held for a grant, seen by no agent, on no
//! disk: who has none yet is told one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_core::egress::{Answer, DpopNonce};
use claviger_core::http::{HttpGrant, Injection};
use claviger_core::{GrantAlias, Secret};

use super::super::{Instance, LocalBroker};
use super::Place;

/// Whose nonce: an authorization server and an API have one each, even at one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) enum Verifier {
    /// The token endpoint.
    Endpoint,
    /// The API that the grant is for.
    Api,
}

/// The last nonce of each; as many as there are grants with a DPoP key, twice.
#[derive(Default)]
pub(super) struct Nonces(Mutex<HashMap<(Place, Verifier), String>>);

impl Nonces {
    pub(super) fn last(&self, place: Place, verifier: Verifier) -> Option<String> {
        self.held().get(&(place, verifier)).cloned()
    }

    pub(super) fn keep(&self, place: Place, verifier: Verifier, nonce: String) {
        self.held().insert((place, verifier), nonce);
    }

    pub(super) fn forget_all(&self) {
        self.held().clear();
    }

    fn held(&self) -> MutexGuard<'_, HashMap<(Place, Verifier), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalBroker {
    /// What the answer to an agent's request says for the next one: another nonce, or that the token is no longer taken.
    pub(in super::super) fn learn(
        &self,
        instance: &Instance,
        grant: &HttpGrant,
        alias: &GrantAlias,
        answer: &Answer,
        token: Option<&Arc<Secret>>,
    ) {
        let proves = matches!(grant.inject, Some(Injection::Dpop { .. }));
        let nonce = answer.dpop_nonce.as_ref().filter(|_| proves);
        if let Some(DpopNonce::Supplied(nonce) | DpopNonce::Demanded(nonce)) = nonce {
            self.tokens
                .keep_nonce(&instance.admitted, alias, Verifier::Api, nonce.clone());
        }
        // Where the proof was refused, nothing is said of the token.
        let refused = answer.status == 401 && !matches!(nonce, Some(DpopNonce::Demanded(_)));
        if let (true, Some(token)) = (refused, token) {
            self.tokens.forget(&instance.admitted, alias, token);
        }
    }
}
