//! In which state the log last saw each version of a credential, and which credentials each agent was last granted. Not the states
//! themselves: the keyring has them, and the two are compared when it is opened.

use std::collections::BTreeMap;

use claviger_core::audit::{CredentialName, SecretRef};
use claviger_core::{AgentName, GrantAlias, KeyRef, KeyVersion, SecretName};

/// So many versions of one secret are remembered here: more than the keyring keeps.
const KEPT_SECRETS: u32 = 64;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Standings {
    keys: BTreeMap<String, String>,
    secrets: BTreeMap<SecretName, BTreeMap<KeyVersion, String>>,
    agents: BTreeMap<AgentName, BTreeMap<GrantAlias, Vec<CredentialName>>>,
}

impl Standings {
    pub(super) fn key(&mut self, key: &KeyRef, standing: &str) {
        self.keys.insert(key.to_string(), standing.to_owned());
    }

    pub(super) fn secret(&mut self, secret: &SecretRef, standing: &str) {
        let versions = self.secrets.entry(secret.name.clone()).or_default();
        versions.insert(secret.version, standing.to_owned());
        let newest = versions.last_key_value().map_or(0, |(version, _)| version.0);
        let oldest = newest.saturating_sub(KEPT_SECRETS);
        versions.retain(|version, _| version.0 >= oldest);
    }

    pub(super) fn admitted(
        &mut self,
        agent: &AgentName,
        credentials: Option<&BTreeMap<GrantAlias, Vec<CredentialName>>>,
    ) {
        self.agents
            .insert(agent.clone(), credentials.cloned().unwrap_or_default());
    }

    pub(super) fn of_key(&self, key: &KeyRef) -> Option<&str> {
        self.keys.get(&key.to_string()).map(String::as_str)
    }

    pub(super) fn of_secret(&self, secret: &SecretRef) -> Option<&str> {
        self.secrets
            .get(&secret.name)?
            .get(&secret.version)
            .map(String::as_str)
    }

    pub(super) fn holders(&self, credential: &CredentialName) -> BTreeMap<AgentName, Vec<GrantAlias>> {
        let grants = |grants: &BTreeMap<GrantAlias, Vec<CredentialName>>| -> Vec<GrantAlias> {
            grants
                .iter()
                .filter(|(_, credentials)| credentials.contains(credential))
                .map(|(alias, _)| alias.clone())
                .collect()
        };
        self.agents
            .iter()
            .map(|(agent, of)| (agent.clone(), grants(of)))
            .filter(|(_, grants)| !grants.is_empty())
            .collect()
    }
}
