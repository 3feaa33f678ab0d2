//! What each version of a credential was used for, as a fold of the log: how often, by whom, first and last. Not what came of a use.

use std::collections::BTreeMap;

use claviger_core::audit::{SecretRef, Use};
use claviger_core::{AgentName, GrantAlias, KeyName, KeyRef, KeyVersion, SecretName};
use jiff::Timestamp;

/// So many versions of one secret are remembered here: a refresh token has a new one every hour.
const KEPT_SECRETS: u32 = 64;

/// Uses of one version, by anybody or by one grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Tally {
    /// How many uses were allowed.
    pub uses: u64,
    /// When the first was.
    pub first: Option<Timestamp>,
    /// When the last was.
    pub last: Option<Timestamp>,
}

impl Tally {
    fn count(&mut self, time: Timestamp) {
        self.uses = self.uses.saturating_add(1);
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
        self.last = self.last.max(Some(time));
    }
}

/// What one version was used for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// By every agent together.
    pub all: Tally,
    /// By agent and grant. As many as manifests have named.
    pub by: BTreeMap<AgentName, BTreeMap<GrantAlias, Tally>>,
    /// How many requests for certificates an operator had it sign.
    pub certificates: u64,
}

impl Usage {
    fn count(&mut self, allowed: &Use, time: Timestamp) {
        self.all.count(time);
        self.by
            .entry(allowed.agent.clone())
            .or_default()
            .entry(allowed.grant.clone())
            .or_default()
            .count(time);
    }
}

/// The uses of every version on the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Usages {
    keys: BTreeMap<KeyName, BTreeMap<KeyVersion, Usage>>,
    secrets: BTreeMap<SecretName, BTreeMap<KeyVersion, Usage>>,
}

impl Usages {
    pub(super) fn count(&mut self, allowed: &Use, time: Timestamp) {
        if let Some(key) = &allowed.key {
            self.key_mut(key).count(allowed, time);
        }
        if let Some(secret) = &allowed.secret {
            let versions = self.secrets.entry(secret.name.clone()).or_default();
            versions.entry(secret.version).or_default().count(allowed, time);
            let oldest = secret.version.0.saturating_sub(KEPT_SECRETS);
            if versions
                .first_key_value()
                .is_some_and(|(first, _)| first.0 < oldest)
            {
                versions.retain(|version, _| version.0 >= oldest);
            }
        }
    }

    pub(super) fn certified(&mut self, key: &KeyRef) {
        let usage = self.key_mut(key);
        usage.certificates = usage.certificates.saturating_add(1);
    }

    // Names are shared text: a copy is a count.
    fn key_mut(&mut self, key: &KeyRef) -> &mut Usage {
        self.keys
            .entry(key.name.clone())
            .or_default()
            .entry(key.version)
            .or_default()
    }

    pub(super) fn key(&self, key: &KeyRef) -> Option<&Usage> {
        self.keys.get(&key.name)?.get(&key.version)
    }

    pub(super) fn secret(&self, secret: &SecretRef) -> Option<&Usage> {
        self.secrets.get(&secret.name)?.get(&secret.version)
    }
}
