//! An egress that sends nothing. Not a firewall: there is nothing behind it.

use claviger_core::egress::{Answer, Egress, Plan, SendError, Token, TokenPlan};
use claviger_core::{BoxFuture, Permit, Refusal};

/// Refuses every request as [`Refusal::NotGranted`]: what a host uses that grants no outbound HTTP.
///
/// The answer is ready at once. The permit is only borrowed, so whoever holds it settles it; the body is dropped unread.
///
/// # Security
/// The refusal is the same for every request, so that an agent learns nothing of the network from it.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Refusing;

impl Refusing {
    /// The refusing egress.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

const REFUSED: SendError = SendError::Refused {
    refusal: Refusal::NotGranted,
    grant: None,
};

impl Egress for Refusing {
    fn send<'a>(&'a self, _permit: &'a Permit, plan: Plan) -> BoxFuture<'a, Result<Answer, SendError>> {
        drop(plan);
        Box::pin(std::future::ready(Err(REFUSED)))
    }

    fn token<'a>(&'a self, _permit: &'a Permit, plan: TokenPlan) -> BoxFuture<'a, Result<Token, SendError>> {
        drop(plan);
        Box::pin(std::future::ready(Err(REFUSED)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use claviger_core::audit::{AuditError, AuditSink, Entry, EntryIndex, Use};
    use claviger_core::digest::{ComponentDigest, ContentDigest, ManifestDigest};
    use claviger_core::egress::{BodyStream, Destination, Frame, Lane, Outgoing};
    use claviger_core::http::{HttpGrant, Method, PathEncoding, Target};
    use claviger_core::{Clock, InstanceId};
    use jiff::Timestamp;

    use super::*;

    #[derive(Debug)]
    struct NoLog;

    impl AuditSink for NoLog {
        fn append(&self, _: Entry) -> BoxFuture<'static, Result<EntryIndex, AuditError>> {
            Box::pin(std::future::ready(Ok(0)))
        }
        fn note(&self, _: Entry) {}
        fn checkpoint(&self) -> BoxFuture<'_, Result<String, AuditError>> {
            Box::pin(std::future::ready(Err(AuditError::Closed)))
        }
    }

    #[derive(Debug)]
    struct Epoch;

    impl Clock for Epoch {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    /// A future of these tests never waits, so one poll finishes it.
    fn ready<T>(future: impl Future<Output = T>) -> T {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("the future waits for something"),
        }
    }

    /// A body that must not be read.
    struct Unread;

    impl futures_core::Stream for Unread {
        type Item = Result<Frame, SendError>;
        fn poll_next(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            panic!("the body was read");
        }
    }

    #[test]
    fn even_a_permitted_request_is_refused() {
        let target = Target::parse("https://api.example.com/", PathEncoding::Refused).unwrap();
        let grant = HttpGrant::new(target.origin().clone(), Vec::new());
        let component = ComponentDigest::of(b"component");
        let allowed = Use {
            instance: InstanceId(1),
            agent: "bot".parse().unwrap(),
            component,
            manifest: ManifestDigest::of(b"manifest"),
            grant: "api".parse().unwrap(),
            key: None,
            secret: None,
            profile: "none".to_owned(),
            request: None,
            content: ContentDigest::of(b""),
            size: 0,
            number: 1,
            rate_until: None,
        };
        let permit = ready(Permit::to_send(
            Arc::new(NoLog),
            Arc::new(Epoch),
            Timestamp::UNIX_EPOCH,
            allowed,
            grant.origin.clone(),
            None,
        ))
        .unwrap();
        let plan = Plan {
            destination: Arc::new(Destination {
                origin: grant.origin,
                trust: grant.trust,
                private_networks: grant.private_networks,
                answer: grant.answer,
                timeout: grant.timeout,
                lane: Lane {
                    component,
                    grant: "bot/api".to_owned(),
                    credential: String::new(),
                },
                identity: None,
            }),
            method: Method::Post,
            target,
            headers: Vec::new(),
            slots: Vec::new(),
            body: Outgoing::Stream {
                body: Box::pin(Unread) as BodyStream,
                length: None,
                max: 1,
            },
            watched: Vec::new(),
        };
        assert_eq!(ready(Refusing::new().send(&permit, plan)).unwrap_err(), REFUSED);
    }
}
