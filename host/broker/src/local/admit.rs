//! Admission: these bytes under this manifest, with every grant resolved against the keyring and frozen. Not the decision of a use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use claviger_core::admission::NotAdmittedReason;
use claviger_core::audit::Event;
use claviger_core::manifest::{Capability, Constraints, Manifest};
use claviger_core::name::{escape, nearest};
use claviger_core::profile::SigningRule;
use claviger_core::{
    Admission, AdmissionId, AgentName, ComponentDigest, GrantAlias, KeyName, ManifestDigest, NotAdmitted,
};

use super::{LocalBroker, write};
use crate::keyring::KeyRecord;

/// An admitted agent: what every use is decided by.
pub(super) struct Admitted {
    pub(super) agent: AgentName,
    pub(super) component: ComponentDigest,
    pub(super) manifest: ManifestDigest,
    pub(super) grants: BTreeMap<GrantAlias, AdmittedGrant>,
}

/// One grant with every choice made.
pub(super) struct AdmittedGrant {
    pub(super) key: KeyName,
    pub(super) rule: SigningRule,
    pub(super) constraints: Constraints,
}

impl LocalBroker {
    /// Every reason against admitting these bytes under this manifest, without logging or admitting anything: for `claviger check`.
    #[must_use]
    pub fn check(&self, manifest: &Manifest, component: Option<ComponentDigest>) -> Vec<NotAdmittedReason> {
        let mut reasons = component.map_or_else(Vec::new, |component| check_digest(manifest, component));
        reasons.extend(self.resolve(manifest).err().unwrap_or_default());
        reasons
    }

    pub(super) async fn admit_agent(
        &self,
        manifest: &Manifest,
        component: ComponentDigest,
    ) -> Result<Admission, NotAdmitted> {
        let mut reasons = check_digest(manifest, component);
        let grants = match self.resolve(manifest) {
            Ok(grants) => grants,
            Err(problems) => {
                reasons.extend(problems);
                BTreeMap::new()
            }
        };
        let agent = manifest.agent.name.clone();
        if !reasons.is_empty() {
            let texts = reasons
                .iter()
                .take(MAX_LOGGED_REASONS)
                .map(|reason| escape(&reason.to_string(), 200))
                .collect();
            let event = Event::NotAdmitted {
                agent: agent.clone(),
                component,
                manifest: manifest.digest,
                reasons: texts,
            };
            if let Err(problem) = self.append(event).await {
                reasons.push(NotAdmittedReason::Audit {
                    problem: problem.to_string(),
                });
            }
            return Err(NotAdmitted { agent, reasons });
        }
        let event = Event::Admitted {
            agent: agent.clone(),
            component,
            manifest: manifest.digest,
            grants: grants.keys().cloned().collect(),
        };
        if let Err(problem) = self.append(event).await {
            let reasons = vec![NotAdmittedReason::Audit {
                problem: problem.to_string(),
            }];
            return Err(NotAdmitted { agent, reasons });
        }
        let id = AdmissionId(self.next_admission.fetch_add(1, Ordering::Relaxed));
        let capabilities: BTreeSet<_> = manifest
            .grants
            .values()
            .map(|grant| grant.capability.kind())
            .collect();
        let admitted = Admitted {
            agent: agent.clone(),
            component,
            manifest: manifest.digest,
            grants,
        };
        write(&self.admissions).insert(id, Arc::new(admitted));
        Ok(Admission {
            id,
            agent,
            component,
            manifest: manifest.digest,
            capabilities,
        })
    }

    fn resolve(
        &self,
        manifest: &Manifest,
    ) -> Result<BTreeMap<GrantAlias, AdmittedGrant>, Vec<NotAdmittedReason>> {
        let mut grants = BTreeMap::new();
        let mut reasons = Vec::new();
        for (alias, grant) in &manifest.grants {
            let (key, narrowing) = match &grant.capability {
                Capability::Sign { key, narrowing } => (key, narrowing),
                Capability::Http(_) => {
                    reasons.push(problem(alias, "this host sends no requests".to_owned()));
                    continue;
                }
            };
            let record = match self.active_key(key) {
                Ok(record) => record,
                Err(text) => {
                    reasons.push(problem(alias, text));
                    continue;
                }
            };
            match record.profile.narrow(narrowing) {
                Ok(rule) => {
                    let constraints = grant.constraints.clone();
                    grants.insert(
                        alias.clone(),
                        AdmittedGrant {
                            key: key.clone(),
                            rule,
                            constraints,
                        },
                    );
                }
                Err(error) => reasons.push(problem(alias, format!("key `{key}`: {error}"))),
            }
        }
        if reasons.is_empty() {
            Ok(grants)
        } else {
            Err(reasons)
        }
    }

    /// The version of a key that is used now, or why there is none.
    pub(super) fn active_key(&self, key: &KeyName) -> Result<Arc<KeyRecord>, String> {
        if let Some(record) = self.keyring.key(key) {
            return Ok(record);
        }
        let keys = self.keyring.keys();
        match keys
            .iter()
            .filter(|record| record.key.name == *key)
            .max_by_key(|record| record.key.version)
        {
            Some(last) => Err(format!(
                "key `{}` is {}, only active keys are used",
                last.key, last.state
            )),
            None => Err(no_such_key(key, &keys)),
        }
    }
}

fn no_such_key(key: &KeyName, keys: &[Arc<KeyRecord>]) -> String {
    match nearest(key.as_str(), keys.iter().map(|record| record.key.name.as_str())) {
        Some(near) => format!("the keyring has no key `{key}`; did you mean `{near}`?"),
        None => {
            format!("the keyring has no key `{key}`; make one with `claviger key create {key} --profile …`")
        }
    }
}

/// An entry holds at most this many reasons; a manifest with every grant wrong has more, and the operator sees them all.
pub(super) const MAX_LOGGED_REASONS: usize = 64;

fn check_digest(manifest: &Manifest, component: ComponentDigest) -> Vec<NotAdmittedReason> {
    match manifest.agent.digest {
        Some(pinned) if pinned == component => Vec::new(),
        Some(pinned) => vec![NotAdmittedReason::Digest {
            actual: component,
            pinned,
        }],
        None => vec![NotAdmittedReason::NotPinned],
    }
}

fn problem(alias: &GrantAlias, problem: String) -> NotAdmittedReason {
    NotAdmittedReason::Grant {
        alias: alias.to_string(),
        problem,
    }
}
