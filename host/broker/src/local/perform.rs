//! The one path from a request to a result: find, frame, decide, log, use, settle. Every refusal on it is logged.

use std::sync::Arc;

use claviger_core::audit::{Settlement, Use};
use claviger_core::name::nearest;
use claviger_core::profile::{FrameContext, FrameError, Framed, SigningRule};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::request::SignerInfo;
use claviger_core::{GrantAlias, InstanceId, Outcome, Permit, Refusal, Request};
use jiff::Timestamp;
use rand_core::RngCore as _;

use super::admit::{AdmittedGrant, Granted};
use super::{Instance, LocalBroker};
use crate::guard;
use crate::keyring::KeyRecord;

impl LocalBroker {
    pub(super) async fn perform_request(
        &self,
        who: InstanceId,
        request: Request,
    ) -> Result<Outcome, Refusal> {
        // An instance that has ended has no agent to log a refusal for.
        let Some(instance) = self.instance(who) else {
            return Err(Refusal::NotGranted);
        };
        match request {
            Request::OpenSigner { alias } => self.open_signer(&instance, &alias).await,
            Request::DescribeSigner { grant } => self.describe(&instance, &grant).await,
            Request::Sign { grant, content } => self.sign(&instance, &grant, content).await,
            Request::ListGrants => Ok(Outcome::Grants {
                grants: self.list_grants(&instance),
            }),
        }
    }

    async fn open_signer(&self, instance: &Instance, alias: &str) -> Result<Outcome, Refusal> {
        let known = alias.parse::<GrantAlias>().ok().filter(|alias| {
            let grant = instance.admitted.grants.get(alias);
            grant.is_some_and(|grant| matches!(grant.capability, Granted::Sign { .. }))
        });
        let Some(grant) = known else {
            let denial = Denial::new(Refusal::NotGranted, Rule::Grant, &no_such_grant(instance, alias));
            return Err(self.deny(instance, alias, denial).await);
        };
        Ok(Outcome::SignerOpened { grant })
    }

    async fn describe(&self, instance: &Instance, alias: &GrantAlias) -> Result<Outcome, Refusal> {
        let (_, _, record) = match self.find(instance, alias) {
            Ok(found) => found,
            Err(denial) => return Err(self.deny(instance, alias.as_str(), denial).await),
        };
        let public_key = record.public.to_openssh("").map_err(|_| Refusal::Unavailable)?;
        Ok(Outcome::Signer(SignerInfo {
            profile: record.profile.kind().to_owned(),
            algorithm: record.algorithm.to_string(),
            key_id: record.public.thumbprint(),
            version: record.key.version.0,
            public_key,
        }))
    }

    async fn sign(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        content: Vec<u8>,
    ) -> Result<Outcome, Refusal> {
        let (permit, record, message) = match self.authorise(instance, alias, content).await {
            Ok(authorised) => authorised,
            Err(denial) => return Err(self.refuse(instance, alias, denial).await),
        };
        // From here the use is on the log: whatever happens, the permit settles it.
        match self.sign_with(&permit, &record, &message).await {
            Ok(signature) => {
                // A device may have taken seconds: what was stopped meanwhile gets nothing.
                if let Err(denial) = self.still_holds(instance, alias, &record) {
                    permit.settle(Settlement::Failed);
                    return Err(self.refuse(instance, alias, denial).await);
                }
                permit.settle(Settlement::Released);
                Ok(Outcome::Signed { signature })
            }
            Err(denial) => {
                permit.settle(Settlement::Failed);
                Err(self.refuse(instance, alias, denial).await)
            }
        }
    }

    /// Everything up to the durable entry. No key is opened here.
    async fn authorise(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        content: Vec<u8>,
    ) -> Result<(Permit, Arc<KeyRecord>, Framed), Denial> {
        let (grant, rule, record) = self.find(instance, alias)?;
        let time = self.trusted_now()?;
        // Cheap rules first, so that a suspended agent cannot make the host hash megabytes.
        guard::decide(
            &grant.constraints,
            &self.ledger().grant(&instance.admitted.agent, alias),
            time,
        )?;
        // A token says `iat` of now; the use is on the log at the time of the decision below.
        let message = frame_anywhere(rule, &record, content, time).await?;

        let agent = &instance.admitted.agent;
        let recording = {
            // Deciding, reserving and taking a place in the log under one lock: of two callers for the last use one is refused,
            // and what a crash leaves of the log is a budget without gaps.
            let mut ledger = self.ledger();
            // The time anew: a grant may have expired while its content waited to be hashed.
            let time = guard::trusted_time(self.clock.now(), ledger.latest())?;
            let allowance = guard::decide(&grant.constraints, &ledger.grant(agent, alias), time)?;
            let allowed = Use {
                instance: instance.id,
                agent: agent.clone(),
                component: instance.admitted.component,
                manifest: instance.admitted.manifest,
                grant: alias.clone(),
                key: Some(record.key.clone()),
                secret: None,
                profile: record.profile.kind().to_owned(),
                request: None,
                content: message.content(),
                size: message.size() as u64,
                number: ledger.reserve(agent, alias, time, allowance.rate_until),
                rate_until: allowance.rate_until,
            };
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
        Ok((permit, record, message))
    }

    async fn sign_with(
        &self,
        permit: &Permit,
        record: &Arc<KeyRecord>,
        message: &Framed,
    ) -> Result<Vec<u8>, Denial> {
        let failed = |text: &str| Denial::new(Refusal::Unavailable, Rule::Custody, text);
        let key = self
            .open_key(record)
            .await
            .map_err(|error| failed(&error.to_string()))?;
        let signature = key
            .sign(permit, message)
            .await
            .map_err(|error| failed(&error.to_string()))?;
        message
            .finish(&signature)
            .map_err(|error| failed(&error.to_string()))
    }

    fn find<'a>(
        &self,
        instance: &'a Instance,
        alias: &GrantAlias,
    ) -> Result<(&'a AdmittedGrant, &'a SigningRule, Arc<KeyRecord>), Denial> {
        let Some(grant) = instance.admitted.grants.get(alias) else {
            return Err(Denial::new(
                Refusal::NotGranted,
                Rule::Grant,
                &no_such_grant(instance, alias.as_str()),
            ));
        };
        let (key, rule) = match &grant.capability {
            Granted::Sign { key, rule } => (key, rule),
            Granted::Http(_) => {
                let detail = format!("grant `{alias}` is for requests, not for signatures");
                return Err(Denial::new(Refusal::NotGranted, Rule::Capability, &detail));
            }
        };
        let record = self
            .active_key(key)
            .map_err(|text| Denial::new(Refusal::Revoked, Rule::KeyState, &text))?;
        Ok((grant, rule, record))
    }

    /// Whether nothing that stops a use at once has happened since it was authorised.
    fn still_holds(&self, instance: &Instance, alias: &GrantAlias, record: &KeyRecord) -> Result<(), Denial> {
        if self.ledger().grant(&instance.admitted.agent, alias).suspended {
            let detail = "the grant was suspended while the signature was made; it was not released";
            return Err(Denial::new(Refusal::Suspended, Rule::Suspension, detail));
        }
        if self.instance(instance.id).is_none() {
            let detail = "the instance ended while the signature was made; it was not released";
            return Err(Denial::new(Refusal::NotGranted, Rule::Instance, detail));
        }
        match self.keyring.key(&record.key.name) {
            Some(active) if active.key == record.key => Ok(()),
            Some(_) | None => {
                let detail = "the key was taken out of use while the signature was made; it was not released";
                Err(Denial::new(Refusal::Revoked, Rule::KeyState, detail))
            }
        }
    }

    pub(super) fn trusted_now(&self) -> Result<Timestamp, Denial> {
        guard::trusted_time(self.clock.now(), self.ledger().latest())
    }

    /// Logs a refusal of a grant and, where its manifest says so, suspends it.
    pub(super) async fn refuse(&self, instance: &Instance, alias: &GrantAlias, denial: Denial) -> Refusal {
        let agent = &instance.admitted.agent;
        let suspend = instance
            .admitted
            .grants
            .get(alias)
            .is_some_and(|grant| guard::suspends(&grant.constraints, &denial));
        if suspend && !self.ledger().grant(agent, alias).suspended {
            // The ledger is suspended even if the log fails; a failed log refuses everything anyway.
            if self.suspend_for(agent, alias, Some(denial.rule)).await.is_err() {
                return Refusal::Unavailable;
            }
        }
        self.deny(instance, alias.as_str(), denial).await
    }
}

/// More content than this is hashed on a thread for blocking work: a MiB takes about a millisecond, which is as long as a task may keep
/// others from a thread that runs many. Below, the hop costs more than it saves.
///
/// An agent's `cpu` limit does not count what these threads do for it. What bounds it: the agent is stopped in its one call meanwhile, so
/// an instance has one such job at a time, of at most `MAX_SSHSIG_CONTENT` bytes, and only under a grant that would have allowed the
/// use just before. An agent with an unlimited grant can so keep one core hashing until its `deadline`; a grant's `uses` and `rate` are
/// what makes it less.
pub(super) const MAX_INLINE: usize = 1024 * 1024;

/// Frames content on this thread or, if there is much of it and a runtime, on one for blocking work. Dropping the future abandons the
/// message; hashing that has begun goes on to its end unseen.
async fn frame_anywhere(
    rule: &SigningRule,
    record: &Arc<KeyRecord>,
    content: Vec<u8>,
    now: Timestamp,
) -> Result<Framed, Denial> {
    let elsewhere = (content.len() > MAX_INLINE).then(tokio::runtime::Handle::try_current);
    let Some(Ok(runtime)) = elsewhere else {
        return frame(rule, record, &content, now);
    };
    let (rule, record) = (rule.clone(), Arc::clone(record));
    runtime
        .spawn_blocking(move || frame(&rule, &record, &content, now))
        .await
        .map_err(|error| {
            let detail = format!("the content was not hashed: {error}");
            Denial::new(Refusal::Unavailable, Rule::Custody, &detail)
        })?
}

fn frame(rule: &SigningRule, record: &KeyRecord, content: &[u8], now: Timestamp) -> Result<Framed, Denial> {
    let mut nonce = [0; 16];
    match rule {
        SigningRule::Jws { .. } => rand_core::OsRng.try_fill_bytes(&mut nonce).map_err(|_| {
            Denial::new(
                Refusal::Unavailable,
                Rule::Custody,
                "the system gives no random numbers",
            )
        })?,
        // No random number in their frames, and none drawn: a system call is a part of what a signature costs.
        SigningRule::Sshsig { .. } | SigningRule::Labeled { .. } => {}
    }
    rule.frame(
        content,
        &FrameContext {
            key: &record.public,
            now,
            nonce,
        },
    )
    .map_err(|error| {
        let rule = match error {
            FrameError::TooLarge { .. } | FrameError::Grown { .. } => Rule::ContentSize,
            FrameError::NotAnObject
            | FrameError::Number
            | FrameError::HostClaim(_)
            // What proofs of requests alone can be; a grant to sign has none of them.
            | FrameError::Profile { .. }
            | FrameError::Destination { .. }
            | FrameError::Lifetime { .. }
            | FrameError::Nonce
            | FrameError::Handshake
            | FrameError::Subject
            | FrameError::Certificate
            | FrameError::Algorithm(_)
            | FrameError::Encoding => Rule::Content,
        };
        Denial::new(Refusal::Invalid, rule, &error.to_string())
    })
}

fn no_such_grant(instance: &Instance, asked: &str) -> String {
    let aliases = || instance.admitted.grants.keys().map(GrantAlias::as_str);
    match nearest(asked, aliases()) {
        Some(near) => format!("the manifest has no grant `{asked}`; the nearest is `{near}`"),
        None => format!("the manifest has no grant `{asked}`"),
    }
}
