//! Tokens that the host obtains and keeps: one request for all who wait, a new one before the old one expires, and a rotated refresh
//! token on disk before anything is done with what came with it. Agents never see one. Not the request itself, which is the egress's.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_core::audit::{SecretRef, Settlement};
use claviger_core::egress::{Fault, Token, TokenAnswer, TokenSecrets};
use claviger_core::http::{ClientAuth, OAuth2, OAuthGrant};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{AgentName, GrantAlias, KeyRef, ManifestDigest, Refusal, Secret, SecretName};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

mod ask;
mod askings;
mod lineages;
mod nonces;
mod rotation;
mod wanted;

use ask::{Asked, fault, settle};
pub(super) use askings::Askings;
use lineages::Lineages;
use nonces::Nonces;
pub(super) use nonces::Verifier;
use rotation::Rotation;
use wanted::Wanted;

use super::admit::Admitted;
use super::send::{Credentials, HttpTerms, may_have_left};
use super::{Instance, LocalBroker};

/// A token is renewed this long before it expires, so that none expires on its way; one of a short life at half of it.
const SKEW: SignedDuration = SignedDuration::from_secs(30);
/// What a token's life is taken for if the server does not say (RFC 6749 §5.1 leaves it open).
const UNSAID_LIFE: SignedDuration = SignedDuration::from_mins(5);
/// A token is renewed after this long at the latest: a client that was taken back at the server is noticed.
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(12);
/// After a failure the server is left alone for this long, and twice as long after each further one, up to the longest.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(1);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(60);

/// Why there is no token.
pub(super) enum NoToken {
    /// A rule stands against asking for one.
    Denied(Denial),
    /// None could be had, now or a moment ago, for a reason that is not the agent's to know.
    NotGiven(Denial),
}

impl From<Denial> for NoToken {
    fn from(denial: Denial) -> Self {
        match denial.refusal {
            Refusal::Unavailable => Self::NotGiven(denial),
            Refusal::NotGranted
            | Refusal::Expired
            | Refusal::Revoked
            | Refusal::Suspended
            | Refusal::OverBudget
            | Refusal::Throttled
            | Refusal::NotApproved
            | Refusal::Invalid => Self::Denied(denial),
        }
    }
}

/// The tokens of every grant that needs one.
#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Place, Arc<Slot>>>,
    // A refresh token is good for one request: two grants that share it take turns.
    turns: Mutex<HashMap<SecretName, Arc<tokio::sync::Mutex<()>>>>,
    lineages: Lineages,
    nonces: Nonces,
    askings: Askings,
}

/// Whose token: nobody else gets it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    agent: AgentName,
    manifest: ManifestDigest,
    alias: GrantAlias,
}

impl Place {
    fn of(admitted: &Admitted, alias: &GrantAlias) -> Self {
        Self {
            agent: admitted.agent.clone(),
            manifest: admitted.manifest,
            alias: alias.clone(),
        }
    }
}

/// One grant's token.
struct Slot {
    state: Mutex<State>,
    // How many requests for a token have ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    asking: bool,
    failures: u32,
    not_before: Option<Timestamp>,
    // Why the last request for a token gave none, if it gave none.
    failure: Option<Denial>,
}

struct Kept {
    token: Arc<Secret>,
    renew: Timestamp,
    expires: Timestamp,
    // The credentials that it was given for, as an operator set them: another version, another token.
    secrets: Vec<SecretRef>,
    keys: Vec<KeyRef>,
}

impl Slot {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            ended: watch::Sender::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request for a token that is under way. However it ends, those who wait are told.
struct Asking {
    slot: Arc<Slot>,
    result: Result<Kept, Denial>,
    now: Timestamp,
}

impl Asking {
    async fn run(mut self, broker: Arc<LocalBroker>, instance: Arc<Instance>, alias: GrantAlias) {
        self.result = broker.obtain(&instance, &alias).await;
        self.now = broker.clock.now();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.slot.state();
        state.asking = false;
        match std::mem::replace(&mut self.result, Err(not_finished())) {
            Ok(kept) => {
                state.kept = Some(kept);
                state.failures = 0;
                state.not_before = None;
                state.failure = None;
            }
            Err(denial) => {
                state.failure = Some(denial);
                let doubled = 1_i32.checked_shl(state.failures).unwrap_or(i32::MAX);
                let pause = FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE);
                state.failures = state.failures.saturating_add(1).min(16);
                state.not_before = Some(self.now.saturating_add(pause).unwrap_or(Timestamp::MAX));
            }
        }
        drop(state);
        self.slot
            .ended
            .send_modify(|ended| *ended = ended.wrapping_add(1));
    }
}

impl Tokens {
    fn slot(&self, place: Place) -> Arc<Slot> {
        Arc::clone(self.slots().entry(place).or_insert_with(Slot::new))
    }

    fn turn(&self, secret: &SecretName) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(secret.clone()).or_default())
    }

    /// Every token that is kept for this agent.
    pub(super) fn of(&self, admitted: &Admitted) -> Vec<Arc<Secret>> {
        self.slots()
            .iter()
            .filter(|(place, _)| place.agent == admitted.agent)
            .filter_map(|(_, slot)| slot.state().kept.as_ref().map(|kept| Arc::clone(&kept.token)))
            .collect()
    }

    /// Forgets a token that a server no longer takes; a newer one is kept.
    pub(super) fn forget(&self, admitted: &Admitted, alias: &GrantAlias, token: &Arc<Secret>) {
        let slot = self.slot(Place::of(admitted, alias));
        let mut state = slot.state();
        if state
            .kept
            .as_ref()
            .is_some_and(|kept| Arc::ptr_eq(&kept.token, token))
        {
            state.kept = None;
        }
    }

    /// What a proof for this verifier must hold, as far as it is known.
    pub(super) fn nonce(
        &self,
        admitted: &Admitted,
        alias: &GrantAlias,
        verifier: Verifier,
    ) -> Option<String> {
        self.nonces.last(Place::of(admitted, alias), verifier)
    }

    pub(super) fn keep_nonce(
        &self,
        admitted: &Admitted,
        alias: &GrantAlias,
        verifier: Verifier,
        nonce: String,
    ) {
        self.nonces.keep(Place::of(admitted, alias), verifier, nonce);
    }

    /// Waits for the requests for tokens that are under way, and lets no new one begin. What is not over in time is dropped.
    pub(super) async fn finish(&self) {
        self.askings.finish().await;
    }

    pub(super) fn forget_all(&self) {
        self.nonces.forget_all();
        self.slots().clear();
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Place, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalBroker {
    /// The token of a grant, from memory or from the authorization server. Dropping the future takes nobody else's away: the request
    /// for a token goes on.
    pub(super) async fn token(
        &self,
        instance: &Arc<Instance>,
        alias: &GrantAlias,
    ) -> Result<Arc<Secret>, NoToken> {
        let Some(terms) = instance.admitted.http(alias) else {
            return Err(NoToken::Denied(unavailable("the grant has no token")));
        };
        let waiting = self.token_from_slot(instance, alias, terms);
        tokio::time::timeout(terms.grant.timeout, waiting)
            .await
            .unwrap_or_else(|_| Err(unavailable("there was no token within the grant's timeout").into()))
    }

    async fn token_from_slot(
        &self,
        instance: &Arc<Instance>,
        alias: &GrantAlias,
        terms: &HttpTerms,
    ) -> Result<Arc<Secret>, NoToken> {
        let slot = self.tokens.slot(Place::of(&instance.admitted, alias));
        let mut waited = false;
        loop {
            let credentials = self.credentials(terms).map_err(NoToken::Denied)?;
            let secrets = self.tokens.lineages.origins(credentials.secrets());
            let keys = credentials.keys();
            let now = self.clock.now();
            let ask;
            let mut ended = {
                let mut state = slot.state();
                let pausing = state.not_before.is_some_and(|at| now < at);
                if let Some(kept) = &state.kept
                    && kept.secrets == secrets
                    && kept.keys == keys
                    // If it cannot be renewed, it is used to its end, and not beyond.
                    && (now < kept.renew || ((waited || pausing) && now < kept.expires))
                {
                    return Ok(Arc::clone(&kept.token));
                }
                if waited || pausing {
                    let failure = state.failure.clone();
                    return Err(failure.unwrap_or_else(none_fits).into());
                }
                let ended = slot.ended.subscribe();
                ask = !std::mem::replace(&mut state.asking, true);
                ended
            };
            if ask {
                // Without the lock: what cannot be asked is over at once.
                let asking = Asking {
                    slot: Arc::clone(&slot),
                    result: Err(not_finished()),
                    now,
                };
                self.ask(instance, alias, asking).map_err(NoToken::Denied)?;
            }
            // The sender is in the slot, which is held here.
            drop(ended.changed().await);
            waited = true;
        }
    }

    /// Asks for a token in a task of its own: whoever asked first may go away, and what a server has rotated must be kept.
    fn ask(&self, instance: &Arc<Instance>, alias: &GrantAlias, asking: Asking) -> Result<(), Denial> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| unavailable("there is no runtime to ask for a token on"))?;
        let broker = self
            .me
            .upgrade()
            .ok_or_else(|| unavailable("the host is closing"))?;
        // Waited for when the broker is closed; whoever waits before is told when it ends.
        self.tokens
            .askings
            .spawn(&runtime, asking.run(broker, Arc::clone(instance), alias.clone()))
    }

    async fn obtain(&self, instance: &Instance, alias: &GrantAlias) -> Result<Kept, Denial> {
        let terms = instance
            .admitted
            .http(alias)
            .ok_or_else(|| unavailable("the grant has no token"))?;
        let wanted = Wanted::of(&terms.grant).ok_or_else(|| unavailable("the grant has no token"))?;
        let egress = self
            .egress
            .as_ref()
            .ok_or_else(|| unavailable("this host sends no requests"))?;
        let rotating = wanted.rotating();
        let turn = rotating.map(|name| self.tokens.turn(name));
        let _turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let asking = (instance, alias, &wanted);
        // In turn only: another grant may just have replaced the refresh token.
        let mut asked = self.ask_once(egress, terms, asking).await?;
        if let Ok(TokenAnswer::NonceDemanded(nonce)) = &asked.answered {
            let nonce = nonce.clone();
            asked.settle(Settlement::Failed, Some(Fault::Token));
            self.tokens
                .keep_nonce(&instance.admitted, alias, Verifier::Endpoint, nonce);
            // Once: a server that is not content with its own nonce will not be with the next.
            asked = self.ask_once(egress, terms, asking).await?;
        }
        let Asked {
            mut permit,
            credentials,
            mut answered,
        } = asked;
        let nonce = match &mut answered {
            Ok(TokenAnswer::Given(token)) => token.dpop_nonce.take(),
            Ok(TokenAnswer::NonceDemanded(nonce)) => Some(std::mem::take(nonce)),
            Ok(TokenAnswer::Rotated(_)) | Err(_) => None,
        };
        if let (Some(nonce), Some(_)) = (nonce, wanted.dpop) {
            self.tokens
                .keep_nonce(&instance.admitted, alias, Verifier::Endpoint, nonce);
        }
        let rotation = Rotation {
            agent: &instance.admitted.agent,
            alias,
            secret: rotating,
        };
        let left = match &answered {
            Ok(_) => true,
            Err(error) => may_have_left(error),
        };
        let no_token =
            |why: &dyn Display| unavailable(&format!("the authorization server gave no token: {why}"));
        let result = match answered {
            Ok(TokenAnswer::Given(token)) => self.keep(token, rotation, &credentials).await,
            Ok(TokenAnswer::Rotated(refresh)) => {
                let kept = self.keep_refresh(refresh, rotation, &credentials).await;
                Err((
                    Some(Fault::Token),
                    kept.err()
                        .unwrap_or_else(|| no_token(&"its answer has no usable one")),
                ))
            }
            Ok(TokenAnswer::NonceDemanded(_)) => Err((
                Some(Fault::Token),
                no_token(&"it demands another nonce each time"),
            )),
            Err(error) => Err((fault(&error), no_token(&error))),
        };
        match &result {
            Ok(_) => settle(&mut permit, Settlement::Released, None, left),
            Err((fault, _)) => settle(&mut permit, Settlement::Failed, *fault, left),
        }
        result.map_err(|(_, denial)| denial)
    }

    /// What an authorization server gave, ready to be used; a rotated refresh token first of all.
    async fn keep(
        &self,
        token: Token,
        rotation: Rotation<'_>,
        credentials: &Credentials,
    ) -> Result<Kept, (Option<Fault>, Denial)> {
        let now = self.clock.now();
        if let Some(refresh) = token.refresh {
            let kept = self.keep_refresh(refresh, rotation, credentials).await;
            kept.map_err(|denial| (None, denial))?;
        }
        // As RFC 6750 §2.1 has it; anything else would not survive in a header field.
        if !token.access.expose().iter().all(u8::is_ascii_graphic) {
            let denial = unavailable("the authorization server gave a token that is none");
            return Err((Some(Fault::Token), denial));
        }
        let life = token.expires_in.map_or(UNSAID_LIFE, |seconds| {
            SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
        });
        let until_renewal = life.min(LONGEST_LIFE);
        let until_renewal = (until_renewal - SKEW).max(until_renewal / 2);
        let after = |time| now.saturating_add(time).unwrap_or(Timestamp::MAX);
        Ok(Kept {
            token: Arc::new(token.access),
            renew: after(until_renewal),
            expires: after(life),
            secrets: self.tokens.lineages.origins(credentials.secrets()),
            keys: credentials.keys(),
        })
    }

    fn token_secrets(&self, oauth: &OAuth2, credentials: &Credentials) -> Result<TokenSecrets, Denial> {
        let secrets = credentials.secrets();
        let open = |name: &SecretName| {
            let secret = secrets
                .iter()
                .find(|secret| secret.name == *name)
                .ok_or_else(|| unavailable("a secret of the token request is gone"))?;
            self.open_secret(secret).map(Some)
        };
        let client = match &oauth.auth {
            ClientAuth::Basic(name) | ClientAuth::Post(name) => open(name)?,
            ClientAuth::PrivateKeyJwt(_) | ClientAuth::None => None,
        };
        let grant = match &oauth.grant {
            OAuthGrant::RefreshToken(name) => open(name)?,
            OAuthGrant::TokenExchange { subject, .. } => open(subject)?,
            OAuthGrant::ClientCredentials => None,
        };
        Ok(TokenSecrets { client, grant })
    }
}

fn unavailable(text: &str) -> Denial {
    Denial::new(Refusal::Unavailable, Rule::Token, text)
}

fn none_fits() -> Denial {
    unavailable("the token that came has expired, or is for a credential that was replaced")
}

fn not_finished() -> Denial {
    unavailable("the request for a token did not come to its end")
}
