//! Evidence of a running agent: the same path as a signature, with a device's quote beside it. Not a claim of the agent's: all of it is
//! the host's, but the verifier's nonce.

use std::collections::BTreeSet;
use std::sync::Arc;

use claviger_core::approval::{Content, Subject};
use claviger_core::attest::Evidence;
use claviger_core::audit::{Settlement, Use};
use claviger_core::manifest::AttestGrant;
use claviger_core::name::{Principal, nearest};
use claviger_core::profile::{EvidenceClaims, FrameContext, Framed, Profile, evidence};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::request::EvidenceInfo;
use claviger_core::{GrantAlias, KeyName, Outcome, Permit, Refusal};
use jiff::Timestamp;
use rand_core::RngCore as _;

use super::admit::{AdmittedGrant, Granted};
use super::{Instance, LocalBroker};
use crate::guard;
use crate::keyring::KeyRecord;

/// What a grant to attest was frozen to.
pub(super) struct AttestTerms {
    pub(super) key: KeyName,
    audiences: BTreeSet<Principal>,
    ttl: u32,
}

/// One decided use: everything that is needed after the log has it.
struct Decided {
    alias: GrantAlias,
    record: Arc<KeyRecord>,
    message: Framed,
    permit: Permit,
}

impl LocalBroker {
    /// Whether a grant to attest can be honoured: by a key that lives in a device which gives evidence. There is no weaker sort.
    pub(super) fn resolve_attest(&self, grant: &AttestGrant) -> Result<AttestTerms, String> {
        let key = &grant.key;
        let record = self.active_key(key)?;
        if !matches!(record.profile, Profile::Attest {}) {
            return Err(format!(
                "key `{key}` is for `{}`; `attest` needs one with profile `attest`: `claviger key create NAME --profile attest`",
                record.profile.kind()
            ));
        }
        if self
            .custody(record.custody)
            .is_none_or(|custody| custody.attester().is_none())
        {
            return Err(format!(
                "key `{key}` is in `{}` custody, which gives no evidence; `attest` needs a TPM",
                record.custody
            ));
        }
        Ok(AttestTerms {
            key: key.clone(),
            audiences: grant.audiences.clone(),
            ttl: grant.ttl,
        })
    }

    pub(super) async fn attest(
        &self,
        instance: &Instance,
        audience: &str,
        nonce: &[u8],
    ) -> Result<Outcome, Refusal> {
        let Some((alias, grant, terms, audience)) = find(instance, audience) else {
            let detail = no_such_audience(instance, audience);
            let denial = Denial::new(Refusal::NotGranted, Rule::Grant, &detail);
            return Err(self.deny(instance, "attest", denial).await);
        };
        let decided = match self.decide(instance, alias, grant, terms, audience, nonce).await {
            Ok(decided) => decided,
            Err(denial) => return Err(self.refuse(instance, alias, denial).await),
        };
        let Decided {
            alias,
            record,
            message,
            permit,
        } = decided;
        // From here the use is on the log: whatever happens, the permit settles it.
        let given = self.give(&permit, &record, &message).await;
        // A device may have taken seconds: what was stopped meanwhile gets nothing.
        let released = {
            let _releasing = self.record.releasing();
            let released =
                given.and_then(|given| self.still_holds(instance, &alias, &record).map(|()| given));
            permit.settle(match &released {
                Ok(_) => Settlement::Released,
                Err(_) => Settlement::Failed,
            });
            released
        };
        match released {
            Ok(given) => Ok(Outcome::Evidence(given)),
            Err(denial) => Err(self.refuse(instance, &alias, denial).await),
        }
    }

    /// Everything up to the durable entry. No key is opened here.
    async fn decide(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        grant: &AdmittedGrant,
        terms: &AttestTerms,
        audience: &Principal,
        nonce: &[u8],
    ) -> Result<Decided, Denial> {
        let admitted = &instance.admitted;
        let mut ready = self.ready_to_attest(instance, alias, grant, terms, audience, nonce)?;
        let approval = match grant.constraints.approval {
            None => None,
            Some(_) => {
                let asked = subject(&ready.0, terms, audience, nonce);
                let approved = self.approval(instance, alias, grant, asked, nonce.len()).await?;
                // Everything anew, the token's time as well: the wait was long.
                ready = self.ready_to_attest(instance, alias, grant, terms, audience, nonce)?;
                let now = subject(&ready.0, terms, audience, nonce);
                Some(approved.of(instance.request_of(alias, &now))?)
            }
        };
        let (record, message) = ready;
        let recording = {
            // As for a signature: decided, reserved and placed in the log under one lock.
            let mut ledger = self.ledger();
            let time = guard::trusted_time(self.clock.now(), ledger.latest())?;
            let state = ledger.grant(&admitted.agent, alias);
            let allowance = guard::decide(&grant.constraints, &state, time)?;
            let allowed = Use {
                instance: instance.id,
                agent: admitted.agent.clone(),
                component: admitted.component,
                manifest: admitted.manifest,
                grant: alias.clone(),
                key: Some(record.key.clone()),
                secret: None,
                profile: record.profile.kind().to_owned(),
                operation: None,
                request: None,
                content: message.content(),
                size: message.size() as u64,
                number: ledger.reserve(&admitted.agent, alias, time, allowance.rate_until),
                rate_until: allowance.rate_until,
                approval,
            };
            ledger.used(&allowed, time);
            Permit::to_sign(
                Arc::clone(&self.permits),
                Arc::clone(&self.clock),
                time,
                allowed,
                &message,
            )
        };
        let permit = recording
            .await
            .map_err(|error| Denial::new(Refusal::Unavailable, Rule::Audit, &error.to_string()))?;
        Ok(Decided {
            alias: alias.clone(),
            record,
            message,
            permit,
        })
    }

    /// What needs no place in the log: the key, cheap limits, the token.
    fn ready_to_attest(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        grant: &AdmittedGrant,
        terms: &AttestTerms,
        audience: &Principal,
        nonce: &[u8],
    ) -> Result<(Arc<KeyRecord>, Framed), Denial> {
        let record = self
            .active_key(&terms.key)
            .map_err(|text| Denial::new(Refusal::Revoked, Rule::KeyState, &text))?;
        let admitted = &instance.admitted;
        let time = self.trusted_now()?;
        guard::decide(
            &grant.constraints,
            &self.ledger().grant(&admitted.agent, alias),
            time,
        )?;
        let claims = EvidenceClaims {
            audience,
            nonce,
            ttl: terms.ttl,
            agent: &admitted.agent,
            component: admitted.component,
            manifest: admitted.manifest,
            host_version: env!("CARGO_PKG_VERSION"),
            assurance: record.assurance,
        };
        let message = frame(&record, &claims, time)?;
        Ok((record, message))
    }

    async fn give(
        &self,
        permit: &Permit,
        record: &KeyRecord,
        message: &Framed,
    ) -> Result<EvidenceInfo, Denial> {
        let failed = |text: &str| Denial::new(Refusal::Unavailable, Rule::Custody, text);
        let key = self
            .open_attesting(record)
            .await
            .map_err(|error| failed(&error.to_string()))?;
        let evidence = key
            .evidence(permit, message)
            .await
            .map_err(|error| failed(&error.to_string()))?;
        put_together(message, evidence).ok_or_else(|| failed("the evidence cannot be encoded"))
    }
}

/// What an operator is asked about evidence.
fn subject(record: &KeyRecord, terms: &AttestTerms, audience: &Principal, nonce: &[u8]) -> Subject {
    Subject::Attest {
        key: record.key.clone(),
        audience: audience.clone(),
        ttl: terms.ttl,
        nonce: Content::of(nonce),
    }
}

fn put_together(message: &Framed, evidence: Evidence) -> Option<EvidenceInfo> {
    let token = message.finish(&evidence.signature).ok()?;
    Some(EvidenceInfo {
        token: String::from_utf8(token).ok()?,
        quote: evidence.quote,
        quote_signature: evidence.quote_signature,
        pcrs: evidence.pcrs,
        attestation_key: evidence.attestation_key.to_pem().ok()?,
        token_key: message.key().to_pem().ok()?,
    })
}

fn frame(record: &KeyRecord, claims: &EvidenceClaims<'_>, now: Timestamp) -> Result<Framed, Denial> {
    let failed = |text: &str| Denial::new(Refusal::Unavailable, Rule::Custody, text);
    let mut nonce = [0; 16];
    rand_core::OsRng
        .try_fill_bytes(&mut nonce)
        .map_err(|_| failed("the system gives no random numbers"))?;
    let key = record
        .public()
        .ok_or_else(|| failed("the key has no public half"))?;
    let context = FrameContext { key, now, nonce };
    evidence(&record.profile, claims, &context)
        .map_err(|error| Denial::new(Refusal::Invalid, Rule::Content, &error.to_string()))
}

/// The one grant that attests for this audience: a manifest with two is refused.
fn find<'a>(
    instance: &'a Instance,
    audience: &str,
) -> Option<(&'a GrantAlias, &'a AdmittedGrant, &'a AttestTerms, &'a Principal)> {
    instance.admitted.grants.iter().find_map(|(alias, grant)| {
        let Granted::Attest(terms) = &grant.capability else {
            return None;
        };
        let audience = terms.audiences.iter().find(|known| known.as_str() == audience)?;
        Some((alias, grant, terms, audience))
    })
}

fn no_such_audience(instance: &Instance, asked: &str) -> String {
    let mut known = Vec::new();
    for grant in instance.admitted.grants.values() {
        if let Granted::Attest(terms) = &grant.capability {
            known.extend(terms.audiences.iter().map(Principal::as_str));
        }
    }
    match nearest(asked, known) {
        Some(near) => format!("no grant attests for `{asked}`; the nearest audience is `{near}`"),
        None => format!("no grant attests for `{asked}`"),
    }
}
