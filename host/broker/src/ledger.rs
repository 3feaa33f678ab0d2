//! Budgets, suspensions and known keys as a fold of the audit log. Not a store: what is not on the log is not here after a restart.

use std::collections::{BTreeMap, HashMap};

use claviger_core::audit::{Entry, Event};
use claviger_core::key::KeyRef;
use claviger_core::{AgentName, GrantAlias};
use jiff::Timestamp;

/// What the log says about every grant, key and the time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    grants: HashMap<(AgentName, GrantAlias), GrantState>,
    keys: BTreeMap<String, (KeyRef, String)>,
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
}

impl Ledger {
    /// Takes one entry of the log into account; entries come in the order of the log.
    pub fn apply(&mut self, entry: &Entry) {
        self.latest = Some(entry.on_record(self.latest));
        match &entry.event {
            Event::Allowed(allowed) => {
                let state = self
                    .grants
                    .entry((allowed.agent.clone(), allowed.grant.clone()))
                    .or_default();
                state.uses = state.uses.max(allowed.number);
                state.rate_until = state.rate_until.max(allowed.rate_until);
            }
            Event::Suspended { agent, grant, .. } => self.suspend(agent, grant),
            Event::Resumed { agent, grant } => self.resume(agent, grant),
            Event::KeyCreated { key, key_id, .. } => {
                self.keys.insert(key.to_string(), (key.clone(), key_id.clone()));
            }
            Event::Started { instance, .. } => self.last_instance = self.last_instance.max(instance.0),
            Event::HostStarted { keyring, .. } => self.keyring = self.keyring.max(*keyring),
            Event::HostStopped
            | Event::KeyStateChanged { .. }
            | Event::CertificateRequested { .. }
            | Event::Admitted { .. }
            | Event::NotAdmitted { .. }
            | Event::Ended { .. }
            | Event::Denied { .. }
            | Event::Settled { .. }
            | Event::Alert { .. }
            | Event::SecretAdded { .. }
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
