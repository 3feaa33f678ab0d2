//! Everything about a box or a MAC that needs no place in the log: the grant, the key, cheap limits, the framed input, and what an operator
//! is asked about it. Decides no use for good, and touches no key.

use std::sync::Arc;

use claviger_core::approval::{ApprovalId, Content, Salt, Subject};
use claviger_core::manifest::{MacRight, SealRight};
use claviger_core::profile::{Context, MAX_BOX, MacInput, Plaintext, SealInput, Tag, UnsealInput};
use claviger_core::refusal::Denial;
use claviger_core::{ContentDigest, GrantAlias};

use super::super::admit::AdmittedGrant;
use super::super::approvals::random;
use super::super::{Instance, LocalBroker};
use super::find::{Macs, Sealing, identifier, macs, sealing, unfit};
use crate::guard;
use crate::keyring::KeyRecord;

/// A use that would be allowed now.
pub(super) trait Ready {
    /// Under which grant.
    fn grant(&self) -> &AdmittedGrant;

    /// What an operator is asked about it.
    fn subject(&self, salt: Salt) -> Subject;

    /// Whether its grant has room for it, apart from what every grant limits.
    fn room(&self, broker: &LocalBroker, instance: &Instance, alias: &GrantAlias) -> Result<(), Denial>;
}

/// A text that can be sealed.
pub(super) struct ToSeal<'a> {
    pub(super) found: Sealing<'a>,
    pub(super) record: Arc<KeyRecord>,
    pub(super) input: SealInput,
    context: Context<'a>,
}

/// A box that can be tried.
pub(super) struct ToUnseal<'a> {
    pub(super) found: Sealing<'a>,
    /// The version that it names, if it is one that opens.
    pub(super) target: Option<Arc<KeyRecord>>,
    /// None if no key is asked.
    pub(super) input: Option<UnsealInput>,
    pub(super) context: Context<'a>,
    pub(super) sealed: &'a [u8],
    /// What an operator is told if it does not open.
    pub(super) why: String,
}

/// Content of which a tag can be made.
pub(super) struct ToGenerate<'a> {
    pub(super) found: Macs<'a>,
    pub(super) record: Arc<KeyRecord>,
    pub(super) input: MacInput,
    content: &'a [u8],
}

/// A tag that can be compared.
pub(super) struct ToVerify<'a> {
    pub(super) found: Macs<'a>,
    /// The version that it names, if it is one that verifies.
    pub(super) target: Option<Arc<KeyRecord>>,
    pub(super) input: MacInput,
    /// None if it is none.
    pub(super) tag: Option<Tag>,
    content: &'a [u8],
    given: &'a [u8],
}

impl LocalBroker {
    pub(super) fn ready_to_seal<'a>(
        &self,
        instance: &'a Instance,
        alias: &GrantAlias,
        plaintext: Plaintext,
        context: &'a [u8],
    ) -> Result<ToSeal<'a>, Denial> {
        let found = sealing(instance, alias, Some(SealRight::Seal))?;
        let record = self.in_use(found.key)?;
        self.may_use(instance, alias, found.grant)?;
        let context = Context::parse(context).map_err(|error| unfit(&error))?;
        let id = identifier(&record)?;
        let input = found
            .rule
            .seal(id, record.key.version, plaintext, context)
            .map_err(|error| unfit(&error))?;
        Ok(ToSeal {
            found,
            record,
            input,
            context,
        })
    }

    pub(super) fn ready_to_unseal<'a>(
        &self,
        instance: &'a Instance,
        alias: &GrantAlias,
        sealed: &'a [u8],
        context: &'a [u8],
    ) -> Result<ToUnseal<'a>, Denial> {
        let found = sealing(instance, alias, Some(SealRight::Unseal))?;
        self.some_opens(found.key)?;
        self.may_use(instance, alias, found.grant)?;
        self.may_guess(instance, alias)?;
        let context = Context::parse(context).map_err(|error| unfit(&error))?;
        // One byte over the bound is no box either, and is hashed sooner than all that an agent can send.
        let sealed = sealed.get(..=MAX_BOX).unwrap_or(sealed);
        let (target, why) = self.target(found.key, found.rule.version(sealed))?;
        let input = match &target {
            Some(record) => found
                .rule
                .unseal(identifier(record)?, record.key.version, sealed, context),
            None => None,
        };
        Ok(ToUnseal {
            found,
            target,
            input,
            context,
            sealed,
            why,
        })
    }

    pub(super) fn ready_to_generate<'a>(
        &self,
        instance: &'a Instance,
        alias: &GrantAlias,
        content: &'a [u8],
    ) -> Result<ToGenerate<'a>, Denial> {
        let found = macs(instance, alias, Some(MacRight::Generate))?;
        let record = self.in_use(found.key)?;
        self.may_use(instance, alias, found.grant)?;
        let input = found.rule.frame(content).map_err(|error| unfit(&error))?;
        Ok(ToGenerate {
            found,
            record,
            input,
            content,
        })
    }

    pub(super) fn ready_to_verify<'a>(
        &self,
        instance: &'a Instance,
        alias: &GrantAlias,
        content: &'a [u8],
        given: &'a [u8],
    ) -> Result<ToVerify<'a>, Denial> {
        let found = macs(instance, alias, Some(MacRight::Verify))?;
        self.some_opens(found.key)?;
        self.may_use(instance, alias, found.grant)?;
        self.may_guess(instance, alias)?;
        let input = found.rule.frame(content).map_err(|error| unfit(&error))?;
        let tag = Tag::parse(given);
        let (target, _) = self.target(found.key, tag.as_ref().map(Tag::version))?;
        Ok(ToVerify {
            found,
            target,
            input,
            tag,
            content,
            given,
        })
    }

    /// Waits until what is ready is approved, if its grant wants that, and says by which approval. It is readied again then: the wait was
    /// long, and what is used is what was shown.
    ///
    /// Dropping the future withdraws the question.
    pub(super) async fn once_approved<R: Ready>(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        ready: R,
        again: impl FnOnce(R) -> Result<R, Denial>,
    ) -> Result<(R, Option<ApprovalId>), Denial> {
        if ready.grant().constraints.approval.is_none() {
            return Ok((ready, None));
        }
        // Nobody is asked about what there is no room for.
        ready.room(self, instance, alias)?;
        let salt = Salt::new(random()?);
        let asked = ready.subject(salt);
        let held = usize::try_from(asked.content().size).unwrap_or(usize::MAX);
        let approved = self.approval(instance, alias, ready.grant(), asked, held).await?;
        let ready = again(ready)?;
        let id = approved.of(instance.request_of(alias, &ready.subject(salt)))?;
        Ok((ready, Some(id)))
    }

    fn sealed_room(
        &self,
        instance: &Instance,
        alias: &GrantAlias,
        found: &Sealing<'_>,
        size: usize,
    ) -> Result<(), Denial> {
        let state = self.ledger().grant(&instance.admitted.agent, alias);
        guard::sealed_room(found.budget, &state, u64::try_from(size).unwrap_or(u64::MAX))
    }
}

impl ToUnseal<'_> {
    /// The length of the text that would come out, or of what is no box.
    pub(super) fn size(&self) -> usize {
        self.input.as_ref().map_or(self.sealed.len(), UnsealInput::size)
    }
}

impl Ready for ToSeal<'_> {
    fn grant(&self) -> &AdmittedGrant {
        self.found.grant
    }

    fn subject(&self, salt: Salt) -> Subject {
        Subject::Seal {
            key: self.record.key.clone(),
            context: Content::of(self.context.as_bytes()),
            plaintext: Content::of(self.input.plaintext()),
            salt,
        }
    }

    fn room(&self, broker: &LocalBroker, instance: &Instance, alias: &GrantAlias) -> Result<(), Denial> {
        broker.sealed_room(instance, alias, &self.found, self.input.size())
    }
}

impl Ready for ToUnseal<'_> {
    fn grant(&self) -> &AdmittedGrant {
        self.found.grant
    }

    fn subject(&self, _: Salt) -> Subject {
        Subject::Unseal {
            key: self.target.as_ref().map(|record| record.key.clone()),
            context: Content::of(self.context.as_bytes()),
            sealed: Content::unread(self.sealed),
        }
    }

    fn room(&self, broker: &LocalBroker, instance: &Instance, alias: &GrantAlias) -> Result<(), Denial> {
        broker.sealed_room(instance, alias, &self.found, self.size())
    }
}

impl Ready for ToGenerate<'_> {
    fn grant(&self) -> &AdmittedGrant {
        self.found.grant
    }

    fn subject(&self, _: Salt) -> Subject {
        Subject::Generate {
            key: self.record.key.clone(),
            label: self.found.rule.label().clone(),
            content: Content::of(self.content),
        }
    }

    fn room(&self, _: &LocalBroker, _: &Instance, _: &GrantAlias) -> Result<(), Denial> {
        Ok(())
    }
}

impl Ready for ToVerify<'_> {
    fn grant(&self) -> &AdmittedGrant {
        self.found.grant
    }

    fn subject(&self, _: Salt) -> Subject {
        Subject::Verify {
            key: self.target.as_ref().map(|record| record.key.clone()),
            label: self.found.rule.label().clone(),
            content: Content::of(self.content),
            tag: ContentDigest::of(self.given),
        }
    }

    fn room(&self, _: &LocalBroker, _: &Instance, _: &GrantAlias) -> Result<(), Denial> {
        Ok(())
    }
}
