//! Whether the keyring has what an HTTP grant attaches, as far as it shows without being opened. For showing and checking: nothing here
//! is authenticated, and no value is read. Admission decides.

use claviger_broker::keyring::{KeyRecord, Keyring, SecretRecord};
use claviger_core::http::{HttpGrant, InjectionKind, Origin};
use claviger_core::manifest::Capability;
use claviger_core::name::nearest;
use claviger_core::refusal::Rule;
use claviger_core::{KeyName, Manifest, SecretName};
use jiff::Timestamp;

use crate::context::Context;
use crate::exit::Failure;

/// What the keyring shows.
#[derive(Debug)]
pub(crate) struct Shelf {
    keys: Vec<KeyRecord>,
    secrets: Vec<SecretRecord>,
}

/// One credential of a grant: whether it can be used, and why not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) rule: Rule,
    pub(crate) usable: bool,
    pub(crate) detail: String,
}

/// Looks at the keyring.
pub(crate) fn shelf(cx: &Context) -> Result<Shelf, Failure> {
    Ok(Shelf {
        keys: crate::keys::list(cx)?,
        secrets: Keyring::list_public_secrets(&cx.keyring()?)?,
    })
}

impl Shelf {
    /// Every credential that a grant attaches.
    pub(crate) fn of(&self, http: &HttpGrant, now: Timestamp) -> Vec<Found> {
        let Some(inject) = &http.inject else {
            return Vec::new();
        };
        let secrets = inject
            .secrets(&http.origin)
            .into_iter()
            .map(|(name, kind, origin)| {
                let found = self.secret(name, kind, origin, now);
                Found::new(Rule::SecretState, found)
            });
        let keys = inject
            .keys()
            .into_iter()
            .map(|(name, profile)| Found::new(Rule::KeyState, self.key(name, profile)));
        secrets.chain(keys).collect()
    }

    /// What stands against a manifest's HTTP grants.
    pub(crate) fn against(&self, manifest: &Manifest, now: Timestamp) -> Vec<String> {
        let mut against = Vec::new();
        for (alias, grant) in &manifest.grants {
            let Capability::Http(http) = &grant.capability else {
                continue;
            };
            let unusable = self.of(http, now).into_iter().filter(|found| !found.usable);
            against.extend(unusable.map(|found| format!("grant `{alias}`: {}", found.detail)));
        }
        against
    }

    /// What of a manifest's secrets is due for a new value.
    pub(crate) fn due(&self, manifest: &Manifest, now: Timestamp) -> Vec<String> {
        let mut due = Vec::new();
        for grant in manifest.grants.values() {
            let Capability::Http(http) = &grant.capability else {
                continue;
            };
            for (name, _, _) in http.inject.iter().flat_map(|inject| inject.secrets(&http.origin)) {
                let active = self
                    .secrets
                    .iter()
                    .find(|record| record.secret.name == *name && record.is_in_use());
                let text = active
                    .filter(|record| !record.is_expired(now))
                    .and_then(|record| crate::command::secret::standing(record, now))
                    .map(|standing| format!("secret `{name}` is {standing}"));
                due.extend(text.filter(|text| !due.contains(text)));
            }
        }
        due
    }

    fn secret(
        &self,
        name: &SecretName,
        kind: InjectionKind,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<String, String> {
        let versions = || self.secrets.iter().filter(|record| record.secret.name == *name);
        let newest = versions()
            .find(|record| record.is_in_use())
            .or_else(|| versions().max_by_key(|record| record.secret.version));
        let Some(record) = newest else {
            let near = nearest(
                name.as_str(),
                self.secrets.iter().map(|record| record.secret.name.as_str()),
            );
            return Err(match near {
                Some(near) => format!("the keyring has no secret `{name}`; did you mean `{near}`?"),
                None => format!(
                    "the keyring has no secret `{name}`; add it with `claviger secret add {name} --kind {kind} --origin {origin}`"
                ),
            });
        };
        if !record.is_in_use() {
            return Err(format!(
                "secret `{}` is {}, only active ones are used",
                record.secret,
                record.standing()
            ));
        }
        if record.kind != kind {
            return Err(format!(
                "secret `{name}` is for `{}`, and the grant needs `{kind}`",
                record.kind
            ));
        }
        if record.origin != *origin {
            return Err(format!(
                "secret `{name}` is for {}, and would be sent to {origin}",
                record.origin
            ));
        }
        if let Some(expires) = record.expires.filter(|_| record.is_expired(now)) {
            return Err(format!("secret `{}` expired {expires}", record.secret));
        }
        Ok(format!(
            "secret `{}` is active, for `{kind}` at {origin}",
            record.secret
        ))
    }

    fn key(&self, name: &KeyName, profile: &str) -> Result<String, String> {
        let record = crate::keys::find(&self.keys, name).map_err(|failure| failure.message)?;
        if !record.is_in_use() {
            return Err(format!(
                "key `{}` is {}, only active keys sign",
                record.key,
                record.standing()
            ));
        }
        if record.profile.kind() != profile {
            return Err(format!(
                "key `{name}` is for `{}`, and the grant needs `{profile}`",
                record.profile.kind()
            ));
        }
        Ok(format!("key `{}` is active, for {profile}", record.key))
    }
}

impl Found {
    fn new(rule: Rule, found: Result<String, String>) -> Self {
        let usable = found.is_ok();
        Self {
            rule,
            usable,
            detail: found.unwrap_or_else(|why| why),
        }
    }
}
