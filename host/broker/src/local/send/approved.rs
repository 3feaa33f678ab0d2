//! What an operator is asked about a request, and what is checked before anybody is asked. Not the wait: that is `approvals`'.

use claviger_core::approval::{ApprovalId, Content, Subject, escape_bytes};
use claviger_core::refusal::Denial;
use claviger_core::{ContentDigest, GrantAlias};

use super::super::admit::AdmittedGrant;
use super::super::{Instance, LocalBroker};
use super::Prepared;
use crate::guard;

/// A request that waits, with how much of it is held meanwhile.
pub(super) struct Asking<'a> {
    grant: &'a AdmittedGrant,
    alias: &'a GrantAlias,
    subject: Subject,
    held: usize,
}

impl LocalBroker {
    /// What to ask about a request, if its grant wants it approved.
    pub(super) fn to_approve<'a>(
        &self,
        instance: &Instance,
        prepared: &Prepared<'a>,
        content: ContentDigest,
    ) -> Result<Option<Asking<'a>>, Denial> {
        if prepared.grant.constraints.approval.is_none() {
            return Ok(None);
        }
        let alias = prepared.decided.alias;
        // Nobody is asked about what there is no room for.
        let http = &prepared.terms.grant;
        let state = self.ledger().grant(&instance.admitted.agent, alias);
        guard::room(&http.budget, &state, prepared.length(), http.answer.max.0)?;
        Ok(Some(Asking {
            grant: prepared.grant,
            alias,
            subject: prepared.subject(content),
            held: prepared.whole().len(),
        }))
    }

    /// Waits until the request is approved. It is decided for good after this: its credentials, limits and budgets as they are then.
    pub(super) async fn approved(
        &self,
        instance: &Instance,
        asking: Asking<'_>,
    ) -> Result<ApprovalId, Denial> {
        let Asking {
            grant,
            alias,
            subject,
            held,
        } = asking;
        let request = instance.request_of(alias, &subject);
        let approved = self.approval(instance, alias, grant, subject, held).await?;
        // The request is held, not read again: it is the one that was shown.
        approved.of(request)
    }
}

impl Prepared<'_> {
    fn subject(&self, digest: ContentDigest) -> Subject {
        let decided = &self.decided;
        Subject::Send {
            method: decided.method.to_string(),
            url: decided.target.to_string(),
            headers: decided
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), escape_bytes(value)))
                .collect(),
            inject: self.terms.profile().to_owned(),
            digest,
            body: Content::of(self.whole()),
        }
    }
}
