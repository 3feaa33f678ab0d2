//! The one path from a request to a result: find, frame, decide, log, use, settle. Every refusal on it is logged.

use std::sync::Arc;

use claviger_core::admission::CapabilityKind;
use claviger_core::approval::{Content, Subject};
use claviger_core::audit::{Settlement, Use};
use claviger_core::custody::CustodyError;
use claviger_core::name::nearest;
use claviger_core::profile::{FrameContext, FrameError, Framed, SigningRule};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::request::SignerInfo;
use claviger_core::{GrantAlias, InstanceId, KeyRef, Outcome, Permit, PublicKey, Refusal, Request};
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
            Request::Attest { audience, nonce } => self.attest(&instance, &audience, &nonce).await,
            Request::ListGrants => Ok(Outcome::Grants {
                grants: self.list_grants(&instance),
            }),
            Request::ProposeGrant { alias, wish, reason } => {
                self.propose(&instance, &alias, &wish, &reason).await
            }
            Request::OpenSealer { alias } => {
                let opened = self.open_symmetric(&instance, &alias, CapabilityKind::Seal).await;
                opened.map(|grant| Outcome::SealerOpened { grant })
            }
            Request::DescribeSealer { grant } => self.describe_sealer(&instance, &grant).await,
            Request::Seal {
                grant,
                plaintext,
                context,
            } => self.seal(&instance, &grant, plaintext, &context).await,
            Request::Unseal {
                grant,
                sealed,
                context,
            } => self.unseal(&instance, &grant, &sealed, &context).await,
            Request::OpenAuthenticator { alias } => {
                let opened = self.open_symmetric(&instance, &alias, CapabilityKind::Mac).await;
                opened.map(|grant| Outcome::AuthenticatorOpened { grant })
            }
            Request::DescribeAuthenticator { grant } => self.describe_authenticator(&instance, &grant).await,
            Request::GenerateTag { grant, content } => self.generate_tag(&instance, &grant, &content).await,
            Request::VerifyTag { grant, content, tag } => {
                self.verify_tag(&instance, &grant, &content, &tag).await
            }
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
        let public = record.public().ok_or(Refusal::NotGranted)?;
        let public_key = public.to_openssh("").map_err(|_| Refusal::Unavailable)?;
        Ok(Outcome::Signer(SignerInfo {
            profile: record.profile.kind().to_owned(),
            algorithm: record.algorithm.to_string(),
            key_id: record.key_id(),
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
                let released = {
                    let _releasing = self.record.releasing();
                    // A device may have taken seconds: what was stopped meanwhile gets nothing.
                    let holds = self.still_holds(instance, alias, &record);
                    permit.settle(match &holds {
                        Ok(()) => Settlement::Released,
                        Err(_) => Settlement::Failed,
                    });
                    holds
                };
                match released {
                    Ok(()) => Ok(Outcome::Signed { signature }),
                    Err(denial) => Err(self.refuse(instance, alias, denial).await),
                }
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
        let kept = grant.constraints.approval.map(|_| content.clone());
        let message = frame_anywhere(rule, &record, content, time).await?;
        let (record, message, approval) = match kept {
            None => (record, message, None),
            Some(content) => {
                let subject = signing_subject(rule, &record, &content);
                let approved = self
                    .approval(instance, alias, grant, subject, content.len())
                    .await?;
                // Everything anew: the wait was long.
                let (_, rule, record) = self.find(instance, alias)?;
                let now = signing_subject(rule, &record, &content);
                let id = approved.of(instance.request_of(alias, &now))?;
                let message = frame_anywhere(rule, &record, content, self.trusted_now()?).await?;
                (record, message, Some(id))
            }
        };

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
                operation: None,
                request: None,
                content: message.content(),
                size: message.size() as u64,
                number: ledger.reserve(agent, alias, time, allowance.rate_until),
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
        Ok((permit, record, message))
    }

    async fn sign_with(
        &self,
        permit: &Permit,
        record: &Arc<KeyRecord>,
        message: &Framed,
    ) -> Result<Vec<u8>, Denial> {
        let key = self.open_key(record).await.map_err(|error| failed(&error))?;
        let signature = key.sign(permit, message).await.map_err(|error| failed(&error))?;
        message
            .finish(&signature)
            .map_err(|error| Denial::new(Refusal::Unavailable, Rule::Custody, &error.to_string()))
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
            Granted::Http(_) | Granted::Attest(_) | Granted::Seal { .. } | Granted::Mac { .. } => {
                let detail = format!(
                    "grant `{alias}` is for `{}`, not for `sign`",
                    grant.capability.kind()
                );
                return Err(Denial::new(Refusal::NotGranted, Rule::Capability, &detail));
            }
        };
        let record = self
            .active_key(key)
            .map_err(|text| Denial::new(Refusal::Revoked, Rule::KeyState, &text))?;
        Ok((grant, rule, record))
    }

    /// Whether nothing that stops a use at once has happened since it was authorised.
    pub(super) fn still_holds(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        record: &KeyRecord,
    ) -> Result<(), Denial> {
        guard::in_force(&self.ledger().grant(&instance.admitted.agent, alias))?;
        if self.instance(instance.id).is_none() {
            let detail = "the instance ended while the signature was made; it was not released";
            return Err(Denial::new(Refusal::NotGranted, Rule::Instance, detail));
        }
        if self.may_finish(&record.key).is_none() {
            let detail = "the key was taken out of use while the signature was made; it was not released";
            return Err(Denial::new(Refusal::Revoked, Rule::KeyState, detail));
        }
        Ok(())
    }

    /// The version that a use was allowed with, if the use may still be released: a rotation since then does not stop it, disabling,
    /// revoking and deleting do.
    pub(super) fn may_finish(&self, key: &KeyRef) -> Option<Arc<KeyRecord>> {
        self.keyring.record(key).filter(|record| record.may_finish())
    }

    pub(super) fn trusted_now(&self) -> Result<Timestamp, Denial> {
        guard::trusted_time(self.clock.now(), self.ledger().latest())
    }

    /// Logs a refusal of a grant and, where its manifest says so, suspends it.
    pub(super) async fn refuse(&self, instance: &Instance, alias: &GrantAlias, denial: Denial) -> Refusal {
        let agent = &instance.admitted.agent;
        // A key that was closed because the use was stopped did not fail: the agent learns that it was stopped.
        let stopped = guard::in_force(&self.ledger().grant(agent, alias)).err();
        let denial = match stopped {
            Some(stopped) if denial.rule == Rule::Custody => stopped,
            Some(_) | None => denial,
        };
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

/// The public half of a key that signs.
pub(super) fn signs(record: &KeyRecord) -> Result<&PublicKey, Denial> {
    record.public().ok_or_else(|| {
        let text = format!("key `{}` signs nothing: it has no public half", record.key);
        Denial::new(Refusal::NotGranted, Rule::Capability, &text)
    })
}

/// What an operator is asked about a signature.
fn signing_subject(rule: &SigningRule, record: &KeyRecord, content: &[u8]) -> Subject {
    Subject::Sign {
        key: record.key.clone(),
        rule: rule.clone(),
        content: Content::of(content),
    }
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
        SigningRule::Sshsig { .. }
        | SigningRule::Labeled { .. }
        | SigningRule::Git(_)
        | SigningRule::SshAuth(_) => {}
    }
    rule.frame(
        content,
        &FrameContext {
            key: signs(record)?,
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
            | FrameError::Git(_)
            | FrameError::SshAuth(_)
            // What proofs of requests alone can be; a grant to sign has none of them.
            | FrameError::Profile { .. }
            | FrameError::Destination { .. }
            | FrameError::Lifetime { .. }
            | FrameError::Nonce
            | FrameError::VerifierNonce(_)
            | FrameError::Handshake
            | FrameError::Subject
            | FrameError::Certificate
            | FrameError::Algorithm(_)
            | FrameError::Encoding => Rule::Content,
        };
        Denial::new(Refusal::Invalid, rule, &error.to_string())
    })
}

/// What became of a key that custody did not open or use.
pub(super) fn failed(error: &CustodyError) -> Denial {
    match error {
        // The keyring says that it is active: an older copy of it was put back, or the device's owner took the key away.
        CustodyError::Revoked(text) => Denial::new(Refusal::Revoked, Rule::KeyState, text),
        other => Denial::new(Refusal::Unavailable, Rule::Custody, &other.to_string()),
    }
}

pub(super) fn no_such_grant(instance: &Instance, asked: &str) -> String {
    let aliases = || instance.admitted.grants.keys().map(GrantAlias::as_str);
    match nearest(asked, aliases()) {
        Some(near) => format!("the manifest has no grant `{asked}`; the nearest is `{near}`"),
        None => format!("the manifest has no grant `{asked}`"),
    }
}
