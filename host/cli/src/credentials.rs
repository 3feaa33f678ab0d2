//! The credentials of a keyring as far as it shows them without being opened, beside what a manifest's grants need. For showing and checking:
//! nothing here is authenticated, and no value is read. Admission decides, by the same judgement.

use claviger_broker::fit::{Need, Shelf, Unmet};
use claviger_broker::keyring::{Keyring, SecretRecord};
use claviger_core::manifest::Capability;
use claviger_core::{GrantAlias, Manifest};
use jiff::Timestamp;

use crate::context::Context;
use crate::exit::Failure;

/// What the keyring shows.
#[derive(Debug)]
pub(crate) struct Shown {
    shelf: Shelf,
    secrets: Vec<SecretRecord>,
}

/// Something that a grant needs and that is not there.
#[derive(Debug)]
pub(crate) struct Lack<'a> {
    pub(crate) alias: &'a GrantAlias,
    /// The field that asks for it.
    pub(crate) field: &'static str,
    pub(crate) unmet: Unmet,
}

/// Looks at the keyring.
pub(crate) fn shown(cx: &Context) -> Result<Shown, Failure> {
    let folder = cx.keyring()?;
    let secrets = Keyring::list_public_secrets(&folder)?;
    Ok(Shown {
        shelf: Shelf::new(Keyring::list_public(&folder)?, secrets.clone()),
        secrets,
    })
}

impl Shown {
    /// Every credential that a grant uses.
    pub(crate) fn needs(&self, manifest: &Manifest, alias: &GrantAlias, now: Timestamp) -> Vec<Need> {
        self.shelf.needs(manifest, alias, now)
    }

    /// What stands against a manifest's grants.
    pub(crate) fn lacks<'a>(&self, manifest: &'a Manifest, now: Timestamp) -> Vec<Lack<'a>> {
        let mut lacks = Vec::new();
        for alias in manifest.grants.keys() {
            for need in self.needs(manifest, alias, now) {
                if let Err(unmet) = need.found {
                    lacks.push(Lack {
                        alias,
                        field: need.field,
                        unmet,
                    });
                }
            }
        }
        lacks
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
}
