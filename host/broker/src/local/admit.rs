//! Admission: these bytes under this manifest, with every grant resolved against the keyring and frozen. Not the decision of a use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use claviger_core::admission::{CapabilityKind, NotAdmittedReason};
use claviger_core::audit::{CredentialName, Event};
use claviger_core::http::{HttpGrant, Router, overlapping};
use claviger_core::manifest::{Bytes, Capability, Constraints, MacRight, Manifest, Rotates, SealRight};
use claviger_core::name::{escape, nearest};
use claviger_core::profile::{MacRule, Profile, ProfileError, SealRule, SigningRule};
use claviger_core::{
    Admission, AdmissionId, AgentName, ComponentDigest, GrantAlias, KeyName, ManifestDigest, NotAdmitted,
    SecretName,
};

use super::evidence::AttestTerms;
use super::send::HttpTerms;
use super::{LocalBroker, write};
use crate::fit::Shelf;
use crate::keyring::KeyRecord;

/// An admitted agent: what every use is decided by.
pub(super) struct Admitted {
    pub(super) agent: AgentName,
    pub(super) component: ComponentDigest,
    pub(super) manifest: ManifestDigest,
    pub(super) grants: BTreeMap<GrantAlias, AdmittedGrant>,
    /// Which of them a request falls under.
    pub(super) router: Router,
    /// Which secret it replaces, if it is a rotator.
    pub(super) rotates: Option<Rotates>,
    /// Every secret that any of them can attach: what must not come back in any answer.
    pub(super) watched: BTreeSet<SecretName>,
}

impl Admitted {
    /// The terms of a grant of outbound HTTP.
    pub(super) fn http(&self, alias: &GrantAlias) -> Option<&HttpTerms> {
        match &self.grants.get(alias)?.capability {
            Granted::Http(terms) => Some(terms),
            Granted::Sign { .. } | Granted::Attest(_) | Granted::Seal { .. } | Granted::Mac { .. } => None,
        }
    }
}

/// One grant with every choice made.
pub(super) struct AdmittedGrant {
    pub(super) capability: Granted,
    pub(super) constraints: Constraints,
}

/// What an admitted grant allows.
pub(super) enum Granted {
    /// Signatures with a key.
    Sign { key: KeyName, rule: SigningRule },
    /// Requests.
    Http(HttpTerms),
    /// Evidence.
    Attest(AttestTerms),
    /// Boxes.
    Seal {
        key: KeyName,
        rule: SealRule,
        allow: BTreeSet<SealRight>,
        budget: Option<Bytes>,
    },
    /// MACs.
    Mac {
        key: KeyName,
        rule: MacRule,
        allow: BTreeSet<MacRight>,
    },
}

impl Granted {
    pub(super) const fn kind(&self) -> CapabilityKind {
        match self {
            Self::Sign { .. } => CapabilityKind::Sign,
            Self::Http(_) => CapabilityKind::Http,
            Self::Attest(_) => CapabilityKind::Attest,
            Self::Seal { .. } => CapabilityKind::Seal,
            Self::Mac { .. } => CapabilityKind::Mac,
        }
    }

    /// Every credential that it uses.
    fn credentials(&self) -> Vec<CredentialName> {
        match self {
            Self::Sign { key, .. } | Self::Seal { key, .. } | Self::Mac { key, .. } => {
                vec![CredentialName::Key(key.clone())]
            }
            Self::Http(terms) => {
                let secrets = terms
                    .secrets()
                    .map(|(name, _, _)| CredentialName::Secret(name.clone()));
                let keys = terms.keys().map(|(name, _)| CredentialName::Key(name.clone()));
                secrets.chain(keys).collect()
            }
            Self::Attest(terms) => vec![CredentialName::Key(terms.key.clone())],
        }
    }
}

impl LocalBroker {
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
            credentials: credentials(&grants),
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
        let mut router = Router::default();
        let mut watched = BTreeSet::new();
        for (alias, grant) in &grants {
            match &grant.capability {
                Granted::Http(terms) => {
                    router.add(alias, &terms.grant.origin, &terms.grant.allow);
                    watched.extend(terms.secrets().map(|(name, _, _)| name.clone()));
                }
                Granted::Sign { .. } | Granted::Attest(_) | Granted::Seal { .. } | Granted::Mac { .. } => {}
            }
        }
        let admitted = Admitted {
            agent: agent.clone(),
            component,
            manifest: manifest.digest,
            grants,
            router,
            rotates: manifest.rotates.clone(),
            watched,
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
        let mut reasons = overlaps(manifest);
        let shelf = Shelf::new(self.keyring.keys(), self.keyring.secrets());
        let now = self.clock.now();
        for (alias, grant) in &manifest.grants {
            let needs = shelf.needs(manifest, alias, now).into_iter();
            let unmet: Vec<_> = needs.filter_map(|need| need.found.err()).collect();
            let all_met = unmet.is_empty();
            reasons.extend(unmet.into_iter().map(|unmet| problem(alias, unmet.to_string())));
            let capability = match &grant.capability {
                Capability::Sign { key, narrowing } => self
                    .resolve_key(key, |profile| profile.narrow(narrowing))
                    .map(|rule| Granted::Sign {
                        key: key.clone(),
                        rule,
                    }),
                Capability::Http(http) => self.resolve_http(http).map(Granted::Http),
                Capability::Attest(attest) => self.resolve_attest(attest).map(Granted::Attest),
                Capability::Seal { key, allow, bytes } => {
                    self.resolve_key(key, Profile::sealing).map(|rule| Granted::Seal {
                        key: key.clone(),
                        rule,
                        allow: allow.clone(),
                        budget: *bytes,
                    })
                }
                Capability::Mac { key, label, allow } => self
                    .resolve_key(key, |profile| profile.macs(label.as_ref()))
                    .map(|rule| Granted::Mac {
                        key: key.clone(),
                        rule,
                        allow: allow.clone(),
                    }),
            };
            match capability {
                Ok(capability) => {
                    let constraints = grant.constraints.clone();
                    grants.insert(
                        alias.clone(),
                        AdmittedGrant {
                            capability,
                            constraints,
                        },
                    );
                }
                // What it lacks was said.
                Err(text) if all_met => reasons.push(problem(alias, text)),
                Err(_) => {}
            }
        }
        if reasons.is_empty() {
            Ok(grants)
        } else {
            Err(reasons)
        }
    }

    /// What a grant makes of the profile of its key.
    fn resolve_key<T>(
        &self,
        key: &KeyName,
        rule: impl FnOnce(&Profile) -> Result<T, ProfileError>,
    ) -> Result<T, String> {
        self.active_key(key)
            .and_then(|record| rule(&record.profile).map_err(|error| format!("key `{key}`: {error}")))
    }

    fn resolve_http(&self, grant: &Arc<HttpGrant>) -> Result<HttpTerms, String> {
        match &self.egress {
            Some(_) => Ok(HttpTerms::new(Arc::clone(grant))),
            None => Err("this host sends no requests: it was opened without egress".to_owned()),
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
                last.key,
                last.standing()
            )),
            None => Err(no_such_key(key, &keys)),
        }
    }
}

/// What each grant may use, if it fits an entry beside everything else that is in one.
fn credentials(
    grants: &BTreeMap<GrantAlias, AdmittedGrant>,
) -> Option<BTreeMap<GrantAlias, Vec<CredentialName>>> {
    let credentials: BTreeMap<_, Vec<_>> = grants
        .iter()
        .map(|(alias, grant)| (alias.clone(), grant.capability.credentials()))
        .collect();
    // Names, with the punctuation of JSON.
    let size: usize = credentials
        .iter()
        .map(|(alias, names)| {
            let names = names.iter().map(|name| match name {
                CredentialName::Key(name) => name.as_str().len() + 12,
                CredentialName::Secret(name) => name.as_str().len() + 15,
            });
            alias.as_str().len() + 6 + names.sum::<usize>()
        })
        .sum();
    (size <= MAX_LOGGED_CREDENTIALS).then_some(credentials)
}

/// An entry says which credentials an agent may use if that takes at most so many bytes. With the aliases of a manifest with as many
/// grants as there may be, more would not fit [`claviger_core::audit::MAX_ENTRY`].
const MAX_LOGGED_CREDENTIALS: usize = 12 * 1024;

/// Requests that two grants would cover: which credential goes with them would depend on an order that nobody wrote down.
fn overlaps(manifest: &Manifest) -> Vec<NotAdmittedReason> {
    let grants: Vec<_> = manifest
        .grants
        .iter()
        .filter_map(|(alias, grant)| match &grant.capability {
            Capability::Http(http) => Some((alias, http)),
            Capability::Sign { .. }
            | Capability::Attest(_)
            | Capability::Seal { .. }
            | Capability::Mac { .. } => None,
        })
        .collect();
    let mut reasons = Vec::new();
    for (index, (alias, grant)) in grants.iter().enumerate() {
        for (other, earlier) in grants.iter().take(index) {
            if grant.origin == earlier.origin
                && let Some((one, two)) = overlapping(&grant.allow, &earlier.allow)
            {
                reasons.push(problem(
                    alias,
                    format!("`{one}` and `{two}` of grant `{other}` cover the same requests"),
                ));
            }
        }
    }
    reasons
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
