//! The path of a box and of a MAC, from a request to a result: find, decide, log, use, settle. Every refusal on it is logged. What does not
//! open or match costs a use like what does, and the agent learns nothing of why.

use std::sync::Arc;

use claviger_core::admission::CapabilityKind;
use claviger_core::approval::ApprovalId;
use claviger_core::audit::{Event, Operation, Settlement, Use};
use claviger_core::manifest::Bytes;
use claviger_core::profile::{Plaintext, Serial, UnsealInput};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::request::SymmetricInfo;
use claviger_core::{
    AuditError, BoxFuture, ContentDigest, GrantAlias, KeyName, KeyRef, Outcome, Permit, Refusal,
};

use super::admit::AdmittedGrant;
use super::perform::{failed, no_such_grant};
use super::{Instance, LocalBroker};
use crate::guard;

mod find;
mod ready;

use find::{macs, sealing};
use ready::{ToGenerate, ToSeal, ToUnseal, ToVerify};

/// One use, before it is decided.
struct Wanted {
    /// Which version of the key; none if the box or tag names none that is used.
    key: Option<KeyRef>,
    capability: CapabilityKind,
    operation: Operation,
    content: ContentDigest,
    size: usize,
    /// What the permit is for; none where no key is asked.
    serial: Option<Serial>,
    budget: Option<Bytes>,
    approval: Option<ApprovalId>,
}

impl LocalBroker {
    pub(super) async fn open_symmetric(
        &self,
        instance: &Instance,
        alias: &str,
        kind: CapabilityKind,
    ) -> Result<GrantAlias, Refusal> {
        let known = alias.parse::<GrantAlias>().ok().filter(|alias| {
            let grant = instance.admitted.grants.get(alias);
            grant.is_some_and(|grant| grant.capability.kind() == kind)
        });
        match known {
            Some(grant) => Ok(grant),
            None => {
                let denial = Denial::new(Refusal::NotGranted, Rule::Grant, &no_such_grant(instance, alias));
                Err(self.deny(instance, alias, denial).await)
            }
        }
    }

    pub(super) async fn describe_sealer(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
    ) -> Result<Outcome, Refusal> {
        let found = sealing(instance, alias, None).map(|found| (found.key, None));
        let described = self.describe_symmetric(instance, alias, found).await;
        described.map(Outcome::Sealer)
    }

    pub(super) async fn describe_authenticator(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
    ) -> Result<Outcome, Refusal> {
        let found =
            macs(instance, alias, None).map(|found| (found.key, Some(found.rule.label().to_string())));
        let described = self.describe_symmetric(instance, alias, found).await;
        described.map(Outcome::Authenticator)
    }

    async fn describe_symmetric(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        found: Result<(&KeyName, Option<String>), Denial>,
    ) -> Result<SymmetricInfo, Refusal> {
        let described = found.and_then(|(key, label)| {
            let record = self.in_use(key)?;
            Ok(SymmetricInfo {
                algorithm: record.algorithm.to_string(),
                key_id: record.key_id(),
                version: record.key.version.0,
                label,
            })
        });
        match described {
            Ok(info) => Ok(info),
            Err(denial) => Err(self.deny(instance, alias.as_str(), denial).await),
        }
    }

    pub(super) async fn seal(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        plaintext: Plaintext,
        context: &[u8],
    ) -> Result<Outcome, Refusal> {
        match self.seal_or_deny(instance, alias, plaintext, context).await {
            Ok(sealed) => Ok(Outcome::Sealed { sealed }),
            Err(denial) => Err(self.refuse(instance, alias, denial).await),
        }
    }

    async fn seal_or_deny(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        plaintext: Plaintext,
        context: &[u8],
    ) -> Result<Vec<u8>, Denial> {
        let ready = self.ready_to_seal(instance, alias, plaintext, context)?;
        let again = |it: ToSeal<'_>| self.ready_to_seal(instance, alias, it.input.into_plaintext(), context);
        let (ready, approval) = self.once_approved(instance, alias, ready, again).await?;
        let ToSeal {
            found, record, input, ..
        } = ready;
        let wanted = Wanted {
            key: Some(record.key.clone()),
            capability: CapabilityKind::Seal,
            operation: Operation::Seal,
            content: input.content(),
            size: input.size(),
            serial: Some((&input).into()),
            budget: found.budget,
            approval,
        };
        let permit = self.allow(instance, alias, found.grant, wanted).await?;
        let sealed = match self.open_sealing_key(&record).await {
            Ok(key) => key.seal(&permit, &input).await,
            Err(error) => Err(error),
        };
        let _releasing = self.record.releasing();
        let sealed = sealed.map_err(|error| failed(&error)).and_then(|sealed| {
            self.still_holds_for(instance, alias, &record.key)
                .map(|()| sealed)
        });
        permit.settle(settlement(&sealed));
        sealed
    }

    pub(super) async fn unseal(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        sealed: &[u8],
        context: &[u8],
    ) -> Result<Outcome, Refusal> {
        match self.unseal_or_deny(instance, alias, sealed, context).await {
            Ok(plaintext) => Ok(Outcome::Unsealed { plaintext }),
            Err(denial) => Err(self.refuse(instance, alias, denial).await),
        }
    }

    async fn unseal_or_deny(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        sealed: &[u8],
        context: &[u8],
    ) -> Result<Plaintext, Denial> {
        let ready = self.ready_to_unseal(instance, alias, sealed, context)?;
        let again = |_: ToUnseal<'_>| self.ready_to_unseal(instance, alias, sealed, context);
        let (ready, approval) = self.once_approved(instance, alias, ready, again).await?;
        let wanted = Wanted {
            key: ready.target.as_ref().map(|record| record.key.clone()),
            capability: CapabilityKind::Seal,
            operation: Operation::Unseal,
            content: ready.input.as_ref().map_or_else(
                || ContentDigest::of_parts([ready.context.as_bytes(), ready.sealed]),
                UnsealInput::content,
            ),
            size: ready.size(),
            serial: ready.input.as_ref().map(Serial::from),
            budget: ready.found.budget,
            approval,
        };
        let permit = self.allow(instance, alias, ready.found.grant, wanted).await?;
        let ToUnseal {
            target, input, why, ..
        } = ready;
        let opened = match (&target, &input) {
            (Some(record), Some(input)) => match self.open_sealing_key(record).await {
                Ok(key) => key.unseal(&permit, input).await,
                Err(error) => Err(error),
            },
            (Some(_) | None, _) => Ok(None),
        };
        let _releasing = self.record.releasing();
        let opened = opened.map_err(|error| failed(&error)).and_then(|opened| {
            if let Some(record) = &target {
                self.still_holds_for(instance, alias, &record.key)?;
            }
            Ok(opened)
        });
        match opened {
            Ok(Some(plaintext)) => {
                permit.settle(Settlement::Released);
                Ok(plaintext)
            }
            Ok(None) => {
                permit.settle(Settlement::Mismatch);
                self.guessed(instance, alias);
                Err(Denial::new(Refusal::Invalid, Rule::Mismatch, &why))
            }
            Err(denial) => {
                permit.settle(Settlement::Failed);
                Err(denial)
            }
        }
    }

    pub(super) async fn generate_tag(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        content: &[u8],
    ) -> Result<Outcome, Refusal> {
        match self.generate_or_deny(instance, alias, content).await {
            Ok(tag) => Ok(Outcome::Tag { tag }),
            Err(denial) => Err(self.refuse(instance, alias, denial).await),
        }
    }

    async fn generate_or_deny(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        content: &[u8],
    ) -> Result<Vec<u8>, Denial> {
        let ready = self.ready_to_generate(instance, alias, content)?;
        let again = |_: ToGenerate<'_>| self.ready_to_generate(instance, alias, content);
        let (ready, approval) = self.once_approved(instance, alias, ready, again).await?;
        let ToGenerate {
            found, record, input, ..
        } = ready;
        let wanted = Wanted {
            key: Some(record.key.clone()),
            capability: CapabilityKind::Mac,
            operation: Operation::Generate,
            content: input.content(),
            size: input.size(),
            serial: Some((&input).into()),
            budget: None,
            approval,
        };
        let permit = self.allow(instance, alias, found.grant, wanted).await?;
        let value = match self.open_mac_key(&record).await {
            Ok(key) => key.mac(&permit, &input).await,
            Err(error) => Err(error),
        };
        let _releasing = self.record.releasing();
        let tag = value
            .map_err(|error| failed(&error))
            .and_then(|value| self.still_holds_for(instance, alias, &record.key).map(|()| value))
            .map(|value| value.tag(record.key.version));
        permit.settle(settlement(&tag));
        tag
    }

    pub(super) async fn verify_tag(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        content: &[u8],
        tag: &[u8],
    ) -> Result<Outcome, Refusal> {
        match self.verify_or_deny(instance, alias, content, tag).await {
            Ok(valid) => Ok(Outcome::Verified { valid }),
            Err(denial) => Err(self.refuse(instance, alias, denial).await),
        }
    }

    async fn verify_or_deny(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        content: &[u8],
        tag: &[u8],
    ) -> Result<bool, Denial> {
        let ready = self.ready_to_verify(instance, alias, content, tag)?;
        let again = |_: ToVerify<'_>| self.ready_to_verify(instance, alias, content, tag);
        let (ready, approval) = self.once_approved(instance, alias, ready, again).await?;
        let ToVerify {
            found,
            target,
            input,
            tag,
            ..
        } = ready;
        let wanted = Wanted {
            key: target.as_ref().map(|record| record.key.clone()),
            capability: CapabilityKind::Mac,
            operation: Operation::Verify,
            content: input.content(),
            size: input.size(),
            serial: target.as_ref().map(|_| (&input).into()),
            budget: None,
            approval,
        };
        let permit = self.allow(instance, alias, found.grant, wanted).await?;
        let compared = match (&target, &tag) {
            (Some(record), Some(tag)) => {
                let value = match self.open_mac_key(record).await {
                    Ok(key) => key.mac(&permit, &input).await,
                    Err(error) => Err(error),
                };
                value
                    .map(|value| tag.matches(&value))
                    .map_err(|error| failed(&error))
            }
            (Some(_) | None, _) => Ok(false),
        };
        let _releasing = self.record.releasing();
        let compared = compared.and_then(|valid| match &target {
            Some(record) => self.still_holds_for(instance, alias, &record.key).map(|()| valid),
            None => Ok(valid),
        });
        match compared {
            Ok(true) => permit.settle(Settlement::Released),
            Ok(false) => {
                permit.settle(Settlement::Mismatch);
                self.guessed(instance, alias);
            }
            Err(_) => permit.settle(Settlement::Failed),
        }
        compared
    }

    /// Decides one use, reserves it and puts it on the log; no key is asked before.
    async fn allow(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        grant: &AdmittedGrant,
        wanted: Wanted,
    ) -> Result<Permit, Denial> {
        let agent = &instance.admitted.agent;
        let size = u64::try_from(wanted.size).unwrap_or(u64::MAX);
        let recording: BoxFuture<'static, Result<Permit, AuditError>> = {
            // Under one lock, as for signatures: of two callers for the last use or the last bytes one is refused.
            let mut ledger = self.ledger();
            let time = guard::trusted_time(self.clock.now(), ledger.latest())?;
            let state = ledger.grant(agent, alias);
            let allowance = guard::decide(&grant.constraints, &state, time)?;
            guard::sealed_room(wanted.budget, &state, size)?;
            let allowed = Use {
                instance: instance.id,
                agent: agent.clone(),
                component: instance.admitted.component,
                manifest: instance.admitted.manifest,
                grant: alias.clone(),
                key: wanted.key,
                secret: None,
                profile: wanted.capability.as_str().to_owned(),
                operation: Some(wanted.operation),
                request: None,
                content: wanted.content,
                size,
                number: ledger.reserve(agent, alias, time, allowance.rate_until),
                rate_until: allowance.rate_until,
                approval: wanted.approval,
            };
            ledger.used(&allowed, time);
            ledger.count_sealed(&allowed);
            let (sink, clock) = (Arc::clone(&self.permits), Arc::clone(&self.clock));
            match wanted.serial {
                Some(serial) => Box::pin(Permit::to_use(sink, clock, time, allowed, serial)),
                None => Box::pin(Permit::record(sink, clock, time, allowed)),
            }
        };
        recording
            .await
            .map_err(|error| Denial::new(Refusal::Unavailable, Rule::Audit, &error.to_string()))
    }

    /// The cheap rules first, so that a suspended agent cannot make the host hash or copy.
    fn may_use(&self, instance: &Instance, alias: &GrantAlias, grant: &AdmittedGrant) -> Result<(), Denial> {
        let time = self.trusted_now()?;
        let state = self.ledger().grant(&instance.admitted.agent, alias);
        guard::decide(&grant.constraints, &state, time).map(drop)
    }

    fn may_guess(&self, instance: &Instance, alias: &GrantAlias) -> Result<(), Denial> {
        let now = self.trusted_now()?;
        self.guesses.check(&instance.admitted.agent, alias, now)
    }

    /// Counts a box that did not open or a tag that was wrong. The last one that is let through is an operator's to know.
    fn guessed(&self, instance: &Instance, alias: &GrantAlias) {
        let agent = &instance.admitted.agent;
        let now = self.trusted_now().unwrap_or_else(|_| self.clock.now());
        if self.guesses.failed(agent, alias, now) {
            self.note(Event::Alert {
                agent: agent.clone(),
                grant: alias.clone(),
                rule: Rule::Guesses,
                detail: "as many boxes did not open, or tags were wrong, as may within a minute".to_owned(),
            });
        }
    }
}

fn settlement<T>(result: &Result<T, Denial>) -> Settlement {
    match result {
        Ok(_) => Settlement::Released,
        Err(_) => Settlement::Failed,
    }
}
