//! A request between the decision by its head and the permit: what is known of it, and what of its body was read. Decides nothing.

use bytes::Bytes;
use claviger_core::approval::ApprovalId;
use claviger_core::http::Decided;
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{ContentDigest, Refusal};

use super::super::admit::AdmittedGrant;
use super::super::perform::MAX_INLINE;
use super::as_u64;
use super::body::Body;
use super::memory::Unspent;
use super::proof::Proof;
use super::terms::HttpTerms;
use crate::guard::BodyLength;

/// A request that was decided by its head, with its body as far as it had to be read.
pub(super) struct Prepared<'a> {
    pub(super) decided: Decided<'a>,
    pub(super) terms: &'a HttpTerms,
    pub(super) grant: &'a AdmittedGrant,
    pub(super) body: Body,
    // What was read of it counts until the request is permitted.
    pub(super) unspent: Option<Unspent>,
}

/// What is decided for good: all of a request but its body.
pub(super) struct Asked<'a> {
    pub(super) decided: &'a Decided<'a>,
    pub(super) terms: &'a HttpTerms,
    pub(super) grant: &'a AdmittedGrant,
    pub(super) length: BodyLength,
    pub(super) content: ContentDigest,
    pub(super) proof: Option<&'a Proof>,
    pub(super) approval: Option<ApprovalId>,
}

impl Prepared<'_> {
    pub(super) fn length(&self) -> BodyLength {
        match (&self.body, self.decided.length) {
            (Body::Whole(bytes), _) => BodyLength::Known(as_u64(bytes.len())),
            (Body::Stream(_), Some(length)) => BodyLength::Known(length),
            (Body::Stream(_), None) => BodyLength::AtMost(self.decided.grant.body.max.0),
        }
    }

    pub(super) fn whole(&self) -> &[u8] {
        match &self.body {
            Body::Whole(bytes) => bytes,
            Body::Stream(_) => &[],
        }
    }

    /// The body as a receiver gets it, if it gets one.
    pub(super) fn present(&self) -> Option<&[u8]> {
        Some(self.whole()).filter(|body| !body.is_empty())
    }

    /// Of the head as it is sent and, where it was read, the body.
    pub(super) fn content(&self) -> impl Future<Output = Result<ContentDigest, Denial>> + Send + use<> {
        let Decided {
            method,
            target,
            headers,
            ..
        } = &self.decided;
        let (method, target, headers) = (*method, target.to_string(), headers.clone());
        let body = match &self.body {
            Body::Whole(bytes) => bytes.clone(),
            Body::Stream(_) => Bytes::new(),
        };
        beside(body.len(), move || {
            let head = [method.as_str().as_bytes(), target.as_bytes()];
            let fields = headers
                .iter()
                .flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_slice()]);
            ContentDigest::of_parts(head.into_iter().chain(fields).chain([body.as_ref()]))
        })
    }
}

/// Does work on this thread or, if there is much to do and a runtime, on one for blocking work. Dropping the future leaves it to its end
/// unseen.
pub(super) async fn beside<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Denial> {
    let elsewhere = (size > MAX_INLINE).then(tokio::runtime::Handle::try_current);
    let Some(Ok(runtime)) = elsewhere else {
        return Ok(work());
    };
    runtime.spawn_blocking(work).await.map_err(|error| {
        let detail = format!("the body was not looked at: {error}");
        Denial::new(Refusal::Unavailable, Rule::Body, &detail)
    })
}
