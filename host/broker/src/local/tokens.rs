//! Tokens that the host obtains and keeps: one request for all who wait, a new one before the old one expires, and a rotated refresh
//! token on disk before anything is done with what came with it. Agents never see one. Not the request itself, which is the egress's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_core::audit::{RequestLine, RequestPurpose, SecretRef, SecretSource, Settlement, Traffic, Use};
use claviger_core::egress::{Destination, Fault, Lane, SendError, Token, TokenAnswer, TokenSecrets};
use claviger_core::http::{AnswerRule, ClientAuth, HttpGrant, OAuth2, OAuthGrant, Trust};
use claviger_core::manifest::Bytes;
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{
    AgentName, ContentDigest, GrantAlias, KeyRef, ManifestDigest, Permit, Refusal, Secret, SecretName,
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

mod ask;
mod nonces;
mod wanted;

use nonces::Nonces;
pub(super) use nonces::Verifier;
use wanted::Wanted;

use super::admit::Admitted;
use super::send::{Credentials, HttpTerms};
use super::{Instance, LocalBroker};
use crate::guard;
use crate::keyring::SecretReplacement;

/// A token is renewed this long before it expires, so that none expires on its way; one of a short life at half of it.
const SKEW: SignedDuration = SignedDuration::from_secs(30);
/// What a token's life is taken for if the server does not say (RFC 6749 §5.1 leaves it open).
const UNSAID_LIFE: SignedDuration = SignedDuration::from_mins(5);
/// A token is renewed after this long at the latest: a client that was taken back at the server is noticed.
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(12);
/// After a failure the server is left alone for this long, and twice as long after each further one, up to the longest.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(1);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(60);
/// An answer of a token endpoint has at most this many bytes.
const MAX_TOKEN_ANSWER: Bytes = Bytes(64 * 1024);
/// A token endpoint answers within this time.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// Why there is no token.
pub(super) enum NoToken {
    /// A rule stands against asking for one.
    Denied(Denial),
    /// The authorization server gave none, now or a moment ago.
    NotGiven(Denial),
}

/// The tokens of every grant that needs one.
#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Place, Arc<Slot>>>,
    // A refresh token is good for one request: two grants that share it take turns.
    turns: Mutex<HashMap<SecretName, Arc<tokio::sync::Mutex<()>>>>,
    nonces: Nonces,
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
}

struct Kept {
    token: Arc<Secret>,
    renew: Timestamp,
    // The credentials that it was given for: another version, another token.
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
    result: Option<Kept>,
    now: Timestamp,
}

impl Asking {
    async fn run(mut self, broker: Arc<LocalBroker>, instance: Arc<Instance>, alias: GrantAlias) {
        self.result = broker.obtain(&instance, &alias).await.ok();
        self.now = broker.clock.now();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.slot.state();
        state.asking = false;
        match self.result.take() {
            Some(kept) => {
                state.kept = Some(kept);
                state.failures = 0;
                state.not_before = None;
            }
            None => {
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
            .unwrap_or_else(|_| Err(not_given()))
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
            let (secrets, keys) = (credentials.secrets(), credentials.keys());
            let now = self.clock.now();
            let ask;
            let mut ended = {
                let mut state = slot.state();
                if let Some(kept) = &state.kept
                    && kept.secrets == secrets
                    && kept.keys == keys
                    && (waited || now < kept.renew)
                {
                    return Ok(Arc::clone(&kept.token));
                }
                if waited || state.not_before.is_some_and(|at| now < at) {
                    return Err(not_given());
                }
                let ended = slot.ended.subscribe();
                ask = !std::mem::replace(&mut state.asking, true);
                ended
            };
            if ask {
                // Without the lock: what cannot be asked is over at once.
                let asking = Asking {
                    slot: Arc::clone(&slot),
                    result: None,
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
        // Not waited for: it tells those who wait when it ends.
        drop(runtime.spawn(asking.run(broker, Arc::clone(instance), alias.clone())));
        Ok(())
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
        // In turn only: another grant may just have replaced the refresh token.
        let credentials = self.credentials(terms)?;
        let asked = (instance, alias, &wanted, &credentials);
        let (mut permit, mut answered) = self.ask_once(egress, terms, asked).await?;
        if let Ok(TokenAnswer::NonceDemanded(nonce)) = answered {
            settle(&mut permit, Settlement::Failed, Some(Fault::Token));
            drop(permit);
            self.tokens
                .keep_nonce(&instance.admitted, alias, Verifier::Endpoint, nonce);
            // Once: a server that is not content with its own nonce will not be with the next.
            (permit, answered) = self.ask_once(egress, terms, asked).await?;
        }
        let nonce = match &mut answered {
            Ok(TokenAnswer::Given(token)) => token.dpop_nonce.take(),
            Ok(TokenAnswer::NonceDemanded(nonce)) => Some(std::mem::take(nonce)),
            Err(_) => None,
        };
        if let (Some(nonce), Some(_)) = (nonce, wanted.dpop) {
            self.tokens
                .keep_nonce(&instance.admitted, alias, Verifier::Endpoint, nonce);
        }
        let no_token = || unavailable("the authorization server gave no token");
        let result = match answered {
            Ok(TokenAnswer::Given(token)) => self.keep(token, rotating, &credentials).await,
            Ok(TokenAnswer::NonceDemanded(_)) => Err((Some(Fault::Token), no_token())),
            Err(error) => Err((fault(&error), no_token())),
        };
        match &result {
            Ok(_) => settle(&mut permit, Settlement::Released, None),
            Err((fault, _)) => settle(&mut permit, Settlement::Failed, *fault),
        }
        result.map_err(|(_, denial)| denial)
    }

    /// Puts a rotated refresh token on disk and on the log, and only then gives the access token to be used.
    async fn keep(
        &self,
        token: Token,
        rotating: Option<&SecretName>,
        credentials: &Credentials,
    ) -> Result<Kept, (Option<Fault>, Denial)> {
        let now = self.clock.now();
        let mut secrets = credentials.secrets();
        if let (Some(name), Some(refresh)) = (rotating, token.refresh) {
            let current = secrets.iter_mut().find(|secret| secret.name == *name);
            let Some(current) = current else {
                return Err((None, unavailable("the refresh token is gone")));
            };
            let known = self.open_secret(current).map_err(|denial| (None, denial))?;
            // A server that does not rotate says the same one again.
            if !known.equals(refresh.expose()) {
                let replacement = SecretReplacement {
                    name: name.clone(),
                    of: Some(current.clone()),
                    expires: None,
                    rotate_every: None,
                    value: refresh,
                };
                let record = self
                    .replace_secret_by(replacement, SecretSource::Server)
                    .await
                    .map_err(|error| (None, unavailable(&error.to_string())))?;
                *current = record.secret.clone();
            }
        }
        // As RFC 6750 §2.1 has it; anything else would not survive in a header field.
        if !token.access.expose().iter().all(u8::is_ascii_graphic) {
            let denial = unavailable("the authorization server gave a token that is none");
            return Err((Some(Fault::Token), denial));
        }
        let life = token.expires_in.map_or(UNSAID_LIFE, |seconds| {
            SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)).min(LONGEST_LIFE)
        });
        let renew_in = (life - SKEW).max(life / 2);
        Ok(Kept {
            token: Arc::new(token.access),
            renew: now.saturating_add(renew_in).unwrap_or(Timestamp::MAX),
            secrets,
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
            let ledger = self.ledger();
            let time = guard::trusted_time(self.clock.now(), ledger.latest())?;
            let state = ledger.grant(agent, alias);
            if state.suspended {
                return Err(Denial::new(
                    Refusal::Suspended,
                    Rule::Suspension,
                    "the grant is suspended; `claviger grant resume` resumes it",
                ));
            }
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
            };
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

fn settle(permit: &mut Permit, settlement: Settlement, fault: Option<Fault>) {
    permit.observe(
        settlement,
        Traffic {
            status: None,
            sent: 0,
            received: 0,
            injected: true,
            fault,
        },
    );
}

fn fault(error: &SendError) -> Option<Fault> {
    match error {
        SendError::Failed { fault } => Some(*fault),
        SendError::Refused { .. } => None,
    }
}

fn unavailable(text: &str) -> Denial {
    Denial::new(Refusal::Unavailable, Rule::Token, text)
}

fn not_given() -> NoToken {
    NoToken::NotGiven(unavailable(
        "the authorization server gave no token; what it is asked with is the entry before",
    ))
}
