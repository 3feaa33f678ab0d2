//! Budgets, suspensions, known keys and secrets as a fold of the audit log. Not a store: what is not on the log is not here after a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use claviger_core::approval::{ApprovalId, ApprovalMode};
use claviger_core::audit::{
    ApprovalEnd, ApprovalRequest, CredentialName, Entry, Event, Operation, RequestPurpose, SecretRef, Use,
};
use claviger_core::key::{KeyRef, KeyVersion};
use claviger_core::proposal::Wish;
use claviger_core::rotator::ProviderId;
use claviger_core::{AgentName, ComponentDigest, EntryIndex, GrantAlias, ManifestDigest, SecretName};
use jiff::Timestamp;

mod standing;
mod usage;

use standing::Standings;
use usage::Usages;
pub use usage::{Tally, Usage};

/// What the log says about every grant, key and the time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    grants: HashMap<(AgentName, GrantAlias), GrantState>,
    keys: BTreeMap<String, (KeyRef, String)>,
    // The newest version of each secret that was added.
    secrets: BTreeMap<SecretName, KeyVersion>,
    // What providers have issued and not withdrawn, the oldest first; at most `KEPT_ISSUED` of each secret.
    issued: BTreeMap<SecretName, Vec<Issued>>,
    standings: Standings,
    usages: Usages,
    // Requests that may still move fewer bytes than were reserved for them. What a crash leaves here stays reserved.
    reserved: HashMap<EntryIndex, Reserved>,
    // Of grants whose first use must be approved: by which approval the others follow. As many as an operator approved.
    approved: HashMap<Approved, ApprovalId>,
    // First uses that wait and were not stopped since: an answer to any other stands for no later use.
    asked: HashMap<ApprovalId, (AgentName, GrantAlias)>,
    proposals: BTreeMap<AgentName, BTreeMap<GrantAlias, Proposal>>,
    suspended: BTreeSet<AgentName>,
    panic: bool,
    latest: Option<Timestamp>,
    last_instance: u64,
    keyring: u64,
}

/// What an approval of a first use covers: one grant of one agent, by these bytes, under this revision of the manifest; of a grant with
/// rights, one of them.
type Approved = (
    AgentName,
    GrantAlias,
    ComponentDigest,
    ManifestDigest,
    Option<Operation>,
);

/// So many credentials of one secret are remembered until they are withdrawn: a provider that agrees to no withdrawal fills no memory.
const KEPT_ISSUED: usize = 64;

/// A credential that a provider issued and, as far as the log says, takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The version that it became, or would have become.
    pub version: KeyVersion,
    /// What its provider calls it.
    pub id: ProviderId,
    /// Whether the provider was seen to take it after it agreed to withdraw it.
    pub still_taken: bool,
}

/// A grant that an agent asked for, and that no operator has looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// When it was made.
    pub time: Timestamp,
    /// What it would allow.
    pub wish: Wish,
    /// Why, in the agent's words, escaped.
    pub reason: String,
}

/// What the log says about one grant of one agent. Counted by name and alias, not by digest: new bytes or a new manifest do not
/// refill a budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrantState {
    /// How many uses were authorised.
    pub uses: u64,
    /// When the rate's bucket is full again.
    pub rate_until: Option<Timestamp>,
    /// Whether it is suspended by itself.
    pub suspended: bool,
    /// Whether something that it is a part of is stopped.
    pub stopped: Option<Stopped>,
    /// Bytes of requests' bodies that were sent, or may be sent by what is under way.
    pub sent: u64,
    /// Bytes of answers' bodies that were received, or may be.
    pub received: u64,
    /// Bytes that were sealed and unsealed, or asked to be: a box that does not open counts, too.
    pub sealed: u64,
}

/// What an operator stopped that a grant is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// All use of every credential.
    Everything,
    /// Every grant of its agent.
    Agent,
}

/// Bytes of one request, taken from a grant's budget before it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reserved {
    agent: AgentName,
    grant: GrantAlias,
    sent: u64,
    received: u64,
}

impl Ledger {
    /// Takes one entry of the log into account; entries come in the order of the log.
    pub fn apply(&mut self, index: EntryIndex, entry: &Entry) {
        if let Event::Allowed(allowed) = &entry.event {
            self.used(allowed, entry.time);
        }
        if let Event::CertificateRequested { key, .. } = &entry.event {
            self.certified(key);
        }
        if let Event::Allowed(allowed) = &entry.event
            && let Some((sent, received)) = bytes_of(allowed)
        {
            let state = self.state(&allowed.agent, &allowed.grant);
            state.sent = state.sent.saturating_add(sent);
            state.received = state.received.saturating_add(received);
            self.reserved_at(index, allowed);
        }
        if let Event::Allowed(allowed) = &entry.event {
            self.count_sealed(allowed);
        }
        self.fold(entry);
    }

    /// As [`Ledger::apply`], for an entry that this process makes: what it allows was [reserved](Ledger::reserve) when it was decided.
    pub(crate) fn fold(&mut self, entry: &Entry) {
        self.latest = Some(entry.on_record(self.latest));
        match &entry.event {
            Event::Allowed(allowed) => {
                let state = self.state(&allowed.agent, &allowed.grant);
                state.uses = state.uses.max(allowed.number);
                state.rate_until = state.rate_until.max(allowed.rate_until);
            }
            Event::Suspended { agent, grant, .. } => {
                self.suspend(agent, grant);
                // What was stopped is asked for again.
                self.approved
                    .retain(|(of, alias, ..), _| of != agent || alias != grant);
                self.asked.retain(|_, (of, alias)| of != agent || alias != grant);
            }
            Event::ApprovalEnded { request, end } => match (request.mode, end) {
                (ApprovalMode::FirstUse, ApprovalEnd::Approved { .. }) => {
                    if self.asked.remove(&request.id).is_some() {
                        self.approved.insert(covered(request), request.id);
                    }
                }
                (ApprovalMode::Each, ApprovalEnd::Approved { .. })
                | (_, ApprovalEnd::Denied { .. } | ApprovalEnd::Expired | ApprovalEnd::Withdrawn) => {
                    self.asked.remove(&request.id);
                }
            },
            Event::ApprovalRequested(request) => {
                let grant = (request.agent.clone(), request.grant.clone());
                self.asked.insert(request.id, grant);
            }
            // What was proposed and is granted now is no proposal any more.
            Event::Admitted {
                agent,
                grants,
                credentials,
                ..
            } => {
                self.standings.admitted(agent, credentials.as_ref());
                if let Some(proposals) = self.proposals.get_mut(agent) {
                    proposals.retain(|alias, _| !grants.contains(alias));
                }
            }
            Event::GrantProposed {
                agent,
                grant,
                wish,
                reason,
                ..
            } => {
                let proposal = Proposal {
                    time: entry.time,
                    wish: wish.clone(),
                    reason: reason.clone(),
                };
                self.proposals
                    .entry(agent.clone())
                    .or_default()
                    .insert(grant.clone(), proposal);
            }
            Event::ProposalDismissed { agent, grant } => {
                if let Some(proposals) = self.proposals.get_mut(agent) {
                    proposals.remove(grant);
                }
            }
            Event::Resumed { agent, grant } => self.resume(agent, grant),
            Event::AgentSuspended { agent } => {
                self.suspended.insert(agent.clone());
                self.approved.retain(|(of, ..), _| of != agent);
                self.asked.retain(|_, (of, _)| of != agent);
            }
            Event::AgentResumed { agent } => {
                self.suspended.remove(agent);
            }
            Event::Panic => self.panic = true,
            Event::PanicLifted => self.panic = false,
            Event::KeyCreated { key, key_id, .. } => {
                self.keys.insert(key.to_string(), (key.clone(), key_id.clone()));
                self.standings.key(key, "active");
            }
            Event::KeyStateChanged {
                key, state, keyring, ..
            } => {
                self.standings.key(key, state);
                self.keyring = self.keyring.max(*keyring);
            }
            Event::SecretStateChanged {
                secret,
                state,
                keyring,
                ..
            } => {
                self.standings.secret(secret, state);
                self.keyring = self.keyring.max(*keyring);
            }
            Event::SecretAdded { secret, .. } => {
                let newest = self.secrets.entry(secret.name.clone()).or_insert(secret.version);
                *newest = (*newest).max(secret.version);
                self.standings.secret(secret, "active");
            }
            Event::SecretIssued {
                secret, id: Some(id), ..
            } => {
                let issued = self.issued.entry(secret.name.clone()).or_default();
                issued.push(Issued {
                    version: secret.version,
                    id: id.clone(),
                    still_taken: false,
                });
                let over = issued.len().saturating_sub(KEPT_ISSUED);
                issued.drain(..over);
            }
            Event::SecretWithdrawn { secret, id, refused } => {
                let issued = self.issued.entry(secret.name.clone()).or_default();
                let is_it = |one: &Issued| one.version == secret.version && one.id == *id;
                match refused {
                    Some(false) => issued
                        .iter_mut()
                        .filter(|one| is_it(one))
                        .for_each(|one| one.still_taken = true),
                    Some(true) | None => issued.retain(|one| !is_it(one)),
                }
            }
            Event::Settled { of, traffic, .. } => {
                // Without a word about traffic, all of it may have gone.
                if let (Some(reserved), Some(traffic)) = (self.reserved.remove(of), traffic) {
                    let state = self.state(&reserved.agent, &reserved.grant);
                    let unused = |reserved: u64, moved: u64| reserved.saturating_sub(moved);
                    state.sent = state.sent.saturating_sub(unused(reserved.sent, traffic.sent));
                    state.received = state
                        .received
                        .saturating_sub(unused(reserved.received, traffic.received));
                }
            }
            Event::Started { instance, .. } => self.last_instance = self.last_instance.max(instance.0),
            Event::HostStarted { keyring, .. } => {
                self.keyring = self.keyring.max(*keyring);
                // Nobody waits over the end of a host.
                self.asked.clear();
            }
            Event::HostStopped
            | Event::CertificateRequested { .. }
            | Event::BackupRequested { .. }
            | Event::RestoreRequested { .. }
            | Event::ResealRequested { .. }
            | Event::ProofRequested { .. }
            | Event::RotationFailed { .. }
            | Event::SecretRotationFailed { .. }
            | Event::SecretIssued { id: None, .. }
            | Event::NotAdmitted { .. }
            | Event::Ended { .. }
            | Event::Denied { .. }
            | Event::Alert { .. }
            | Event::ClockAccepted => {}
        }
    }

    /// All that is said to anybody: not which reservations may still come back.
    #[cfg(test)]
    pub(crate) fn said(&self) -> Self {
        Self {
            reserved: HashMap::new(),
            ..self.clone()
        }
    }

    /// The state of a grant; of one never used, the default.
    #[must_use]
    pub fn grant(&self, agent: &AgentName, alias: &GrantAlias) -> GrantState {
        let state = self.grants.get(&(agent.clone(), alias.clone()));
        self.within(agent, state.copied().unwrap_or_default())
    }

    /// Every grant on the log, by agent and alias.
    pub fn grants(&self) -> impl Iterator<Item = (&AgentName, &GrantAlias, GrantState)> {
        self.grants
            .iter()
            .map(|((agent, alias), state)| (agent, alias, self.within(agent, *state)))
    }

    /// Every agent that is suspended as a whole.
    pub fn suspended_agents(&self) -> impl Iterator<Item = &AgentName> {
        self.suspended.iter()
    }

    /// Whether all use of every credential is stopped.
    #[must_use]
    pub const fn in_panic(&self) -> bool {
        self.panic
    }

    /// A grant's state as a part of its agent, and of everything.
    fn within(&self, agent: &AgentName, state: GrantState) -> GrantState {
        let stopped = if self.panic {
            Some(Stopped::Everything)
        } else {
            self.suspended.contains(agent).then_some(Stopped::Agent)
        };
        GrantState { stopped, ..state }
    }

    /// Every key version that was created, with its thumbprint.
    pub fn keys(&self) -> impl Iterator<Item = (&KeyRef, &str)> {
        self.keys.values().map(|(key, id)| (key, id.as_str()))
    }

    /// Every secret that was added, with its newest version.
    pub fn secrets(&self) -> impl Iterator<Item = SecretRef> {
        self.secrets.iter().map(|(name, version)| SecretRef {
            name: name.clone(),
            version: *version,
        })
    }

    /// What providers have issued for a secret and not withdrawn, the oldest first.
    pub fn issued(&self, secret: &SecretName) -> impl Iterator<Item = &Issued> {
        self.issued.get(secret).into_iter().flatten()
    }

    /// The state in which the log last saw a version of a key, or `deleted`.
    #[must_use]
    pub fn key_standing(&self, key: &KeyRef) -> Option<&str> {
        self.standings.of_key(key)
    }

    /// The state in which the log last saw a version of a secret, or `deleted`. Long gone versions are forgotten.
    #[must_use]
    pub fn secret_standing(&self, secret: &SecretRef) -> Option<&str> {
        self.standings.of_secret(secret)
    }

    /// What a version of a key was used for.
    #[must_use]
    pub fn key_usage(&self, key: &KeyRef) -> Option<&Usage> {
        self.usages.key(key)
    }

    /// What a version of a secret was used for. Long gone versions are forgotten.
    #[must_use]
    pub fn secret_usage(&self, secret: &SecretRef) -> Option<&Usage> {
        self.usages.secret(secret)
    }

    /// Who may use a credential: the agents whose last admission granted it, each with the grants that do.
    #[must_use]
    pub fn holders(&self, credential: &CredentialName) -> BTreeMap<AgentName, Vec<GrantAlias>> {
        self.standings.holders(credential)
    }

    /// Counts a use of its credentials, which whoever decides it does when it is decided.
    pub(crate) fn used(&mut self, allowed: &Use, time: Timestamp) {
        self.usages.count(allowed, time);
    }

    /// As [`Ledger::used`], of a use that the host makes for itself under a grant: one of its credential, and none of the grant's.
    pub(crate) fn used_by_host(&mut self, allowed: &Use, time: Timestamp) {
        self.saw(time);
        // The grant is one that something was done under, from now on, and after a restart.
        self.state(&allowed.agent, &allowed.grant);
        self.used(allowed, time);
    }

    /// As [`Ledger::used`], of a request for a certificate.
    pub(crate) fn certified(&mut self, key: &KeyRef) {
        self.usages.certified(key);
    }

    /// The highest generation of the keyring that is on the log.
    #[must_use]
    pub const fn keyring(&self) -> u64 {
        self.keyring
    }

    /// The latest time on record.
    #[must_use]
    pub const fn latest(&self) -> Option<Timestamp> {
        self.latest
    }

    /// The approval that a use follows whose grant asks for the first one alone, if there was one for these bytes under this revision of
    /// the manifest. Under a grant with rights, of the same right.
    #[must_use]
    pub fn approved(
        &self,
        agent: &AgentName,
        alias: &GrantAlias,
        component: ComponentDigest,
        manifest: ManifestDigest,
        operation: Option<Operation>,
    ) -> Option<ApprovalId> {
        let covered = (agent.clone(), alias.clone(), component, manifest, operation);
        self.approved.get(&covered).copied()
    }

    /// Every grant that was asked for and that no operator has looked at, by agent and alias.
    pub fn proposals(&self) -> impl Iterator<Item = (&AgentName, &GrantAlias, &Proposal)> {
        self.proposals.iter().flat_map(|(agent, proposals)| {
            proposals
                .iter()
                .map(move |(alias, proposal)| (agent, alias, proposal))
        })
    }

    /// Of one agent.
    #[must_use]
    pub fn proposals_of(&self, agent: &AgentName) -> Option<&BTreeMap<GrantAlias, Proposal>> {
        self.proposals.get(agent)
    }

    pub(crate) fn reserve(
        &mut self,
        agent: &AgentName,
        alias: &GrantAlias,
        now: Timestamp,
        rate_until: Option<Timestamp>,
    ) -> u64 {
        self.latest = self.latest.max(Some(now));
        let state = self.grants.entry((agent.clone(), alias.clone())).or_default();
        state.uses = state.uses.saturating_add(1);
        state.rate_until = state.rate_until.max(rate_until);
        state.uses
    }

    /// Takes bytes from a grant's budget, until the entry that allows them is settled.
    pub(crate) fn reserve_bytes(&mut self, agent: &AgentName, alias: &GrantAlias, sent: u64, received: u64) {
        let state = self.state(agent, alias);
        state.sent = state.sent.saturating_add(sent);
        state.received = state.received.saturating_add(received);
    }

    /// Takes what a use seals or unseals from its grant's budget. Nothing of it ever comes back.
    pub(crate) fn count_sealed(&mut self, allowed: &Use) {
        match allowed.operation {
            Some(Operation::Seal | Operation::Unseal) => {
                let state = self.state(&allowed.agent, &allowed.grant);
                state.sealed = state.sealed.saturating_add(allowed.size);
            }
            Some(Operation::Generate | Operation::Verify) | None => {}
        }
    }

    /// Remembers what was reserved under an entry, now that its place in the log is known.
    pub(crate) fn reserved_at(&mut self, index: EntryIndex, allowed: &Use) {
        if let Some((sent, received)) = bytes_of(allowed) {
            let reserved = Reserved {
                agent: allowed.agent.clone(),
                grant: allowed.grant.clone(),
                sent,
                received,
            };
            self.reserved.insert(index, reserved);
        }
    }

    fn state(&mut self, agent: &AgentName, alias: &GrantAlias) -> &mut GrantState {
        self.grants.entry((agent.clone(), alias.clone())).or_default()
    }

    /// Takes the time of an entry into account that counts nothing.
    pub(crate) fn saw(&mut self, time: Timestamp) {
        self.latest = self.latest.max(Some(time));
    }

    pub(crate) fn suspend(&mut self, agent: &AgentName, alias: &GrantAlias) {
        self.grants
            .entry((agent.clone(), alias.clone()))
            .or_default()
            .suspended = true;
    }

    pub(crate) fn resume(&mut self, agent: &AgentName, alias: &GrantAlias) {
        self.grants
            .entry((agent.clone(), alias.clone()))
            .or_default()
            .suspended = false;
    }

    pub(crate) const fn next_instance(&mut self) -> u64 {
        self.last_instance = self.last_instance.saturating_add(1);
        self.last_instance
    }
}

fn covered(request: &ApprovalRequest) -> Approved {
    let ApprovalRequest {
        agent,
        grant,
        component,
        manifest,
        operation,
        ..
    } = request;
    (agent.clone(), grant.clone(), *component, *manifest, *operation)
}

/// What a request reserves of its grant's byte budget; of the host's own, nothing.
fn bytes_of(allowed: &Use) -> Option<(u64, u64)> {
    let request = allowed.request.as_ref()?;
    match request.purpose {
        RequestPurpose::Agent => Some((allowed.size, request.answer)),
        RequestPurpose::Token | RequestPurpose::Approval | RequestPurpose::Proof => None,
    }
}
