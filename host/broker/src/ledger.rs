//! Budgets, suspensions, known keys and secrets as a fold of the audit log. Not a store: what is not on the log is not here after a restart.

use std::collections::{BTreeMap, HashMap};

use claviger_core::audit::{Entry, Event, Operation, RequestPurpose, SecretRef, Use};
use claviger_core::key::{KeyRef, KeyVersion};
use claviger_core::{AgentName, EntryIndex, GrantAlias, SecretName};
use jiff::Timestamp;

/// What the log says about every grant, key and the time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    grants: HashMap<(AgentName, GrantAlias), GrantState>,
    keys: BTreeMap<String, (KeyRef, String)>,
    // The newest version of each secret that was added.
    secrets: BTreeMap<SecretName, KeyVersion>,
    // Requests that may still move fewer bytes than were reserved for them. What a crash leaves here stays reserved.
    reserved: HashMap<EntryIndex, Reserved>,
    latest: Option<Timestamp>,
    last_instance: u64,
    keyring: u64,
}

/// What the log says about one grant of one agent. Counted by name and alias, not by digest: new bytes or a new manifest do not
/// refill a budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrantState {
    /// How many uses were authorised.
    pub uses: u64,
    /// When the rate's bucket is full again.
    pub rate_until: Option<Timestamp>,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Bytes of requests' bodies that were sent, or may be sent by what is under way.
    pub sent: u64,
    /// Bytes of answers' bodies that were received, or may be.
    pub received: u64,
    /// Bytes that were sealed and unsealed, or asked to be: a box that does not open counts, too.
    pub sealed: u64,
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
            Event::Suspended { agent, grant, .. } => self.suspend(agent, grant),
            Event::Resumed { agent, grant } => self.resume(agent, grant),
            Event::KeyCreated { key, key_id, .. } => {
                self.keys.insert(key.to_string(), (key.clone(), key_id.clone()));
            }
            Event::SecretAdded { secret, .. } => {
                let newest = self.secrets.entry(secret.name.clone()).or_insert(secret.version);
                *newest = (*newest).max(secret.version);
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
            Event::HostStarted { keyring, .. } => self.keyring = self.keyring.max(*keyring),
            Event::HostStopped
            | Event::KeyStateChanged { .. }
            | Event::CertificateRequested { .. }
            | Event::ProofRequested { .. }
            | Event::Admitted { .. }
            | Event::NotAdmitted { .. }
            | Event::Ended { .. }
            | Event::Denied { .. }
            | Event::Alert { .. }
            | Event::SecretStateChanged { .. }
            | Event::ClockAccepted => {}
        }
    }

    /// The state of a grant; of one never used, the default.
    #[must_use]
    pub fn grant(&self, agent: &AgentName, alias: &GrantAlias) -> GrantState {
        self.grants
            .get(&(agent.clone(), alias.clone()))
            .copied()
            .unwrap_or_default()
    }

    /// Every grant on the log, by agent and alias.
    pub fn grants(&self) -> impl Iterator<Item = (&AgentName, &GrantAlias, GrantState)> {
        self.grants
            .iter()
            .map(|((agent, alias), state)| (agent, alias, *state))
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

    /// The highest generation of the keyring that a host started with.
    #[must_use]
    pub const fn keyring(&self) -> u64 {
        self.keyring
    }

    /// The latest time on record.
    #[must_use]
    pub const fn latest(&self) -> Option<Timestamp> {
        self.latest
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

/// What a request reserves of its grant's byte budget; of the host's own, nothing.
fn bytes_of(allowed: &Use) -> Option<(u64, u64)> {
    let request = allowed.request.as_ref()?;
    match request.purpose {
        RequestPurpose::Agent => Some((allowed.size, request.answer)),
        RequestPurpose::Token | RequestPurpose::Proof => None,
    }
}
