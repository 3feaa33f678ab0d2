//! What the grants of a manifest need of a keyring, and whether it is there: one judgement for admission, which refuses by it, and for
//! `claviger check` and `explain`, which show it. Opens no keyring, and decides no use.

use std::fmt;
use std::sync::Arc;

use claviger_core::custody::CustodyKind;
use claviger_core::http::{HttpGrant, Injection, InjectionKind, Origin};
use claviger_core::manifest::Capability;
use claviger_core::name::nearest;
use claviger_core::profile::{Narrowing, Profile, ProfileError};
use claviger_core::refusal::Rule;
use claviger_core::{GrantAlias, KeyName, Manifest, SecretName};
use jiff::Timestamp;

use crate::keyring::{KeyRecord, KeyState, SecretRecord};

mod proof;

/// One thing that a grant needs, and what was found of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Need {
    /// The rule that refuses each use while it is not met.
    pub rule: Rule,
    /// The field of the grant that asks for it: `sign` or `inject` say.
    pub field: &'static str,
    /// What is there, or what is not.
    pub found: Result<String, Unmet>,
}

/// Why a need is not met, and what to type.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unmet {
    /// What is wrong and what was expected.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problem, fix } = self;
        write!(f, "{problem}; {fix}")
    }
}

fn unmet<T>(problem: String, fix: String) -> Result<T, Unmet> {
    Err(Unmet { problem, fix })
}

/// The credentials of a keyring as they are described: no material and no value.
#[derive(Debug, Default)]
pub struct Shelf {
    keys: Vec<Arc<KeyRecord>>,
    secrets: Vec<Arc<SecretRecord>>,
}

impl Shelf {
    /// With every version of every key and secret.
    pub fn new<K, S>(keys: impl IntoIterator<Item = K>, secrets: impl IntoIterator<Item = S>) -> Self
    where
        K: Into<Arc<KeyRecord>>,
        S: Into<Arc<SecretRecord>>,
    {
        Self {
            keys: keys.into_iter().map(Into::into).collect(),
            secrets: secrets.into_iter().map(Into::into).collect(),
        }
    }

    /// Every credential that a grant of a manifest uses at this time; none of a grant that it does not have. Whether a device or an egress
    /// is there to use them, whoever has them knows.
    #[must_use]
    pub fn needs(&self, manifest: &Manifest, alias: &GrantAlias, now: Timestamp) -> Vec<Need> {
        let Some(grant) = manifest.grants.get(alias) else {
            return Vec::new();
        };
        let tried = manifest
            .rotates
            .as_ref()
            .is_some_and(|rotates| rotates.probe == *alias);
        let versions = if tried { Versions::Any } else { Versions::InUse };
        let found = match &grant.capability {
            Capability::Sign { key, narrowing } => {
                let fits = |profile: &Profile| profile.narrow(narrowing).map(drop);
                self.granted(key, profile_of(narrowing), fits)
            }
            Capability::Seal { key, .. } => {
                let fits = |profile: &Profile| profile.sealing().map(drop);
                self.granted(key, Some("seal"), fits)
            }
            Capability::Mac { key, label, .. } => {
                let fits = |profile: &Profile| profile.macs(label.as_ref()).map(drop);
                self.granted(key, Some("mac"), fits)
            }
            Capability::Attest(attest) => {
                let found = self.granted(&attest.key, Some("attest"), Profile::evidences);
                found.and_then(|found| self.in_a_device(&attest.key).map(|()| found))
            }
            Capability::Http(http) => return self.attached(http, versions, now),
        };
        vec![Need {
            rule: Rule::KeyState,
            field: grant.capability.kind().as_str(),
            found,
        }]
    }

    fn attached(&self, http: &HttpGrant, versions: Versions, now: Timestamp) -> Vec<Need> {
        let Some(inject) = &http.inject else {
            return Vec::new();
        };
        let need = |rule, found| Need {
            rule,
            field: "inject",
            found,
        };
        let secrets = inject
            .secrets(&http.origin)
            .into_iter()
            .map(|(name, kind, origin)| {
                need(
                    Rule::SecretState,
                    self.secret(name, kind, origin, (versions, now)),
                )
            });
        let keys = inject.keys().into_iter().map(|(name, profile)| {
            let found = self.proving(name, profile, inject, &http.origin);
            need(Rule::KeyState, found)
        });
        secrets.chain(keys).collect()
    }

    /// A key that a grant names for itself.
    fn granted(
        &self,
        name: &KeyName,
        profile: Option<&'static str>,
        fits: impl FnOnce(&Profile) -> Result<(), ProfileError>,
    ) -> Result<String, Unmet> {
        let record = self.key(name, profile)?;
        match fits(&record.profile) {
            Ok(()) => Ok(usable(record)),
            Err(error) => unmet(format!("key `{name}`: {error}"), another_key(&error, profile)),
        }
    }

    /// A key that proves something of a request.
    fn proving(
        &self,
        name: &KeyName,
        profile: &'static str,
        inject: &Injection,
        origin: &Origin,
    ) -> Result<String, Unmet> {
        let record = self.key(name, Some(profile))?;
        if record.profile.kind() != profile {
            return unmet(
                format!(
                    "key `{name}` is for `{}`; `inject` needs one for `{profile}`",
                    record.profile.kind()
                ),
                made_for(profile),
            );
        }
        match proof::fits(inject, origin, record) {
            Ok(()) => Ok(usable(record)),
            Err(problem) => unmet(problem, proof::fix(profile)),
        }
    }

    fn in_a_device(&self, name: &KeyName) -> Result<(), Unmet> {
        let record = self.key(name, None)?;
        match record.custody {
            CustodyKind::Tpm => Ok(()),
            CustodyKind::TpmSealed | CustodyKind::Software => unmet(
                format!(
                    "key `{name}` is in `{}` custody, which gives no evidence; `attest` needs a TPM",
                    record.custody
                ),
                made_for("attest"),
            ),
        }
    }

    /// The version of a key that is used now.
    fn key(&self, name: &KeyName, profile: Option<&str>) -> Result<&KeyRecord, Unmet> {
        let versions = || self.keys.iter().filter(|record| record.key.name == *name);
        let by_version = |record: &&Arc<KeyRecord>| record.key.version;
        if let Some(record) = versions()
            .filter(|record| record.is_in_use())
            .max_by_key(by_version)
        {
            return Ok(record);
        }
        if let Some(last) = versions().max_by_key(by_version) {
            let fix = match (last.deleted, last.state) {
                (Some(_), _) => format!("`claviger key restore {name}` takes the deletion back"),
                (None, KeyState::Disabled) => format!("`claviger key enable {name}` puts it back into use"),
                (None, KeyState::Pending) => format!("`claviger key promote {name}` puts it into use"),
                (
                    None,
                    KeyState::Active
                    | KeyState::Retiring
                    | KeyState::Retired
                    | KeyState::Revoked
                    | KeyState::Destroyed,
                ) => "name another key: `claviger key list` shows them".to_owned(),
            };
            return unmet(
                format!(
                    "key `{}` is {}, only active keys are used",
                    last.key,
                    last.standing()
                ),
                fix,
            );
        }
        let problem = format!("the keyring has no key `{name}`");
        match nearest(
            name.as_str(),
            self.keys.iter().map(|record| record.key.name.as_str()),
        ) {
            Some(near) => unmet(problem, format!("did you mean `{near}`?")),
            None => {
                let profile = profile.unwrap_or("…");
                unmet(
                    problem,
                    format!("make one with `claviger key create {name} --profile {profile}`"),
                )
            }
        }
    }

    fn secret(
        &self,
        name: &SecretName,
        kind: InjectionKind,
        origin: &Origin,
        (wanted, now): (Versions, Timestamp),
    ) -> Result<String, Unmet> {
        let add = |name: &str| format!("`claviger secret add {name} --kind {kind} --origin {origin}`");
        let versions = || self.secrets.iter().filter(|record| record.secret.name == *name);
        let by_version = |record: &&Arc<SecretRecord>| record.secret.version;
        let used = versions()
            .filter(|record| record.is_in_use())
            .max_by_key(by_version);
        let used = used.or_else(|| match wanted {
            Versions::InUse => None,
            Versions::Any => versions()
                .filter(|record| record.deleted.is_none())
                .max_by_key(by_version),
        });
        let Some(record) = used else {
            let Some(last) = versions().max_by_key(by_version) else {
                let names = self.secrets.iter().map(|record| record.secret.name.as_str());
                let fix = match nearest(name.as_str(), names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("add it with {}", add(name.as_str())),
                };
                return unmet(format!("the keyring has no secret `{name}`"), fix);
            };
            let fix = match (last.deleted, last.state) {
                (Some(_), _) => format!("`claviger secret restore {name}` takes the deletion back"),
                (None, KeyState::Disabled) => {
                    format!("`claviger secret enable {name}` puts it back into use")
                }
                (None, KeyState::Pending) => format!("`claviger secret promote {name}` puts it into use"),
                (
                    None,
                    KeyState::Active
                    | KeyState::Retiring
                    | KeyState::Retired
                    | KeyState::Revoked
                    | KeyState::Destroyed,
                ) => format!("{} takes a new value", add(name.as_str())),
            };
            return unmet(
                format!(
                    "secret `{}` is {}, only active secrets are used",
                    last.secret,
                    last.standing()
                ),
                fix,
            );
        };
        let secret = &record.secret;
        if record.kind != kind {
            return unmet(
                format!("secret `{secret}` is for `{}`, not for `{kind}`", record.kind),
                format!("add one for it under another name: {}", add("NAME")),
            );
        }
        if record.origin != *origin {
            return unmet(
                format!(
                    "secret `{secret}` may be sent to {} alone, not to {origin}",
                    record.origin
                ),
                format!("add one for it under another name: {}", add("NAME")),
            );
        }
        if wanted == Versions::Any {
            return Ok(format!(
                "secret `{}` is tried by a rotation, for `{kind}` at {origin}",
                secret.name
            ));
        }
        if let Some(expires) = record.expires.filter(|_| record.is_expired(now)) {
            return unmet(
                format!("secret `{secret}` expired {expires}"),
                format!("`claviger secret replace {name}` takes a new value"),
            );
        }
        Ok(format!("secret `{secret}` is active, for `{kind}` at {origin}"))
    }
}

/// Which versions of a secret a grant attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Versions {
    /// The one in use.
    InUse,
    /// The one that a rotation tries: none need be in use.
    Any,
}

fn usable(record: &KeyRecord) -> String {
    format!("key `{}` is active, for {}", record.key, record.profile.kind())
}

/// The profile that the fields of a `sign` grant are for, if they say.
fn profile_of(narrowing: &Narrowing) -> Option<&'static str> {
    narrowing.given().next().map(|(_, profile)| profile)
}

fn another_key(error: &ProfileError, profile: Option<&'static str>) -> String {
    match (error, profile) {
        (ProfileError::Ambiguous { field, .. }, _) => format!("write `{field} = \"…\"` beside `key`"),
        (ProfileError::NoHostKeys, _) => "write `host-keys = [ … ]` beside `key`".to_owned(),
        (ProfileError::ForRequests(_), _) => {
            "name it in `inject` of a grant with `http`, or name another key here".to_owned()
        }
        (_, Some(profile)) => format!("correct the grant, or name one {}", made_for(profile)),
        (_, None) => "correct the grant, or name another key: `claviger key list` shows them".to_owned(),
    }
}

/// How a key for this is made.
fn made_for(profile: &str) -> String {
    format!("that was made for it: `claviger key create NAME --profile {profile}`")
}
