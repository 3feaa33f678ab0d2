//! Grants and keys for boxes and MACs, found or the reason why not. Decides no use and touches no key.

use std::sync::Arc;

use claviger_core::admission::CapabilityKind;
use claviger_core::key::{KeyId, KeyIdentity, KeyVersion};
use claviger_core::manifest::{Bytes, MacRight, SealRight};
use claviger_core::profile::{InputError, MacRule, SealRule};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{GrantAlias, KeyName, KeyRef, Refusal};

use super::super::admit::{AdmittedGrant, Granted};
use super::super::perform::no_such_grant;
use super::super::{Instance, LocalBroker};
use crate::guard;
use crate::keyring::KeyRecord;

/// A grant to seal, as it was admitted.
pub(super) struct Sealing<'a> {
    pub(super) grant: &'a AdmittedGrant,
    pub(super) key: &'a KeyName,
    pub(super) rule: &'a SealRule,
    pub(super) budget: Option<Bytes>,
}

/// A grant for MACs, as it was admitted.
pub(super) struct Macs<'a> {
    pub(super) grant: &'a AdmittedGrant,
    pub(super) key: &'a KeyName,
    pub(super) rule: &'a MacRule,
}

impl LocalBroker {
    /// The version that is used for what is new.
    pub(super) fn in_use(&self, key: &KeyName) -> Result<Arc<KeyRecord>, Denial> {
        self.active_key(key).map_err(|text| revoked(&text))
    }

    /// Whether any version of a key still opens boxes or verifies tags. If not, nothing that an agent brings matters.
    pub(in super::super) fn some_opens(&self, key: &KeyName) -> Result<(), Denial> {
        if self.keyring.key(key).is_some() {
            return Ok(());
        }
        let now = self.trusted_now()?;
        let keys = self.keyring.keys();
        let mut versions = keys.iter().filter(|record| record.key.name == *key);
        if versions.any(|record| record.is_accepted(now)) {
            return Ok(());
        }
        Err(revoked(&format!(
            "no version of key `{key}` is active or retiring"
        )))
    }

    /// The version of a key that a box or tag names, if it is one that still opens; and what an operator is told if it does not open. The
    /// agent is told the same whatever it is.
    pub(super) fn target(
        &self,
        key: &KeyName,
        version: Option<KeyVersion>,
    ) -> Result<(Option<Arc<KeyRecord>>, String), Denial> {
        let now = self.trusted_now()?;
        let Some(version) = version else {
            let why = "it is no box: its length or its first byte is wrong";
            return Ok((None, why.to_owned()));
        };
        let name = KeyRef {
            name: key.clone(),
            version,
        };
        Ok(match self.keyring.record(&name) {
            None => (None, format!("it names key `{name}`, which was never made")),
            Some(record) if record.is_accepted(now) => (
                Some(record),
                format!("it was not sealed with key `{name}` and this context, or was changed"),
            ),
            Some(record) => {
                let standing = record.standing();
                (None, format!("it names key `{name}`, which is {standing}"))
            }
        })
    }

    /// Whether nothing that stops a use at once has happened since it was authorised. A rotation does not.
    pub(super) fn still_holds_for(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        key: &KeyRef,
    ) -> Result<(), Denial> {
        self.still_granted(instance, alias)?;
        if self.may_finish(key).is_none() {
            let detail = "the key was taken out of use while it was used; nothing was released";
            return Err(revoked(detail));
        }
        Ok(())
    }

    fn still_granted(&self, instance: &Instance, alias: &GrantAlias) -> Result<(), Denial> {
        guard::in_force(&self.ledger().grant(&instance.admitted.agent, alias))?;
        if self.instance(instance.id).is_none() {
            let detail = "the instance ended while the key was used; nothing was released";
            return Err(Denial::new(Refusal::NotGranted, Rule::Instance, detail));
        }
        Ok(())
    }
}

/// A grant to seal with this right; with any, if none is named.
pub(super) fn sealing<'a>(
    instance: &'a Instance,
    alias: &GrantAlias,
    right: Option<SealRight>,
) -> Result<Sealing<'a>, Denial> {
    let grant = granted(instance, alias)?;
    match &grant.capability {
        Granted::Seal {
            key,
            rule,
            allow,
            budget,
        } => {
            if let Some(right) = right.filter(|right| !allow.contains(right)) {
                return Err(no_right(alias, right.as_str()));
            }
            Ok(Sealing {
                grant,
                key,
                rule,
                budget: *budget,
            })
        }
        other @ (Granted::Sign { .. } | Granted::Http(_) | Granted::Attest(_) | Granted::Mac { .. }) => {
            Err(another(alias, other, CapabilityKind::Seal))
        }
    }
}

/// A grant for MACs with this right; with any, if none is named.
pub(super) fn macs<'a>(
    instance: &'a Instance,
    alias: &GrantAlias,
    right: Option<MacRight>,
) -> Result<Macs<'a>, Denial> {
    let grant = granted(instance, alias)?;
    match &grant.capability {
        Granted::Mac { key, rule, allow } => {
            if let Some(right) = right.filter(|right| !allow.contains(right)) {
                return Err(no_right(alias, right.as_str()));
            }
            Ok(Macs { grant, key, rule })
        }
        other @ (Granted::Sign { .. } | Granted::Http(_) | Granted::Attest(_) | Granted::Seal { .. }) => {
            Err(another(alias, other, CapabilityKind::Mac))
        }
    }
}

/// The identifier that boxes of a key are bound to.
pub(super) fn identifier(record: &KeyRecord) -> Result<KeyId, Denial> {
    match &record.identity {
        KeyIdentity::Symmetric(id) => Ok(*id),
        KeyIdentity::Public(_) => {
            let detail = format!("key `{}` has a public half: it seals nothing", record.key);
            Err(Denial::new(Refusal::NotGranted, Rule::Capability, &detail))
        }
    }
}

fn granted<'a>(instance: &'a Instance, alias: &GrantAlias) -> Result<&'a AdmittedGrant, Denial> {
    instance.admitted.grants.get(alias).ok_or_else(|| {
        let detail = no_such_grant(instance, alias.as_str());
        Denial::new(Refusal::NotGranted, Rule::Grant, &detail)
    })
}

fn another(alias: &GrantAlias, has: &Granted, wanted: CapabilityKind) -> Denial {
    let detail = format!("grant `{alias}` is for `{}`, not for `{wanted}`", has.kind());
    Denial::new(Refusal::NotGranted, Rule::Capability, &detail)
}

fn no_right(alias: &GrantAlias, right: &str) -> Denial {
    let detail = format!("grant `{alias}` does not allow to {right}");
    Denial::new(Refusal::NotGranted, Rule::Right, &detail)
}

fn revoked(detail: &str) -> Denial {
    Denial::new(Refusal::Revoked, Rule::KeyState, detail)
}

pub(super) fn unfit(error: &InputError) -> Denial {
    let rule = match error {
        InputError::TooLarge { .. } => Rule::ContentSize,
        InputError::Context(_) => Rule::Content,
    };
    Denial::new(Refusal::Invalid, rule, &error.to_string())
}
