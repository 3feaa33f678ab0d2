//! An egress that sends nothing. Not a firewall: there is nothing behind it.

use claviger_core::egress::{Answer, BodyStream, Egress, RequestHead};
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

impl Egress for Refusing {
    fn send<'a>(
        &'a self,
        _permit: &'a Permit,
        _head: RequestHead,
        body: BodyStream,
    ) -> BoxFuture<'a, Result<Answer, Refusal>> {
        drop(body);
        Box::pin(std::future::ready(Err(Refusal::NotGranted)))
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Waker};

    use claviger_core::audit::{AuditError, AuditSink, Entry, EntryIndex, Event, Settlement, Use};
    use claviger_core::digest::{ComponentDigest, ContentDigest, ManifestDigest};
    use claviger_core::key::{KeyRef, KeyVersion};
    use claviger_core::{Clock, InstanceId};
    use jiff::Timestamp;

    use super::*;

    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<Event>>);

    impl AuditSink for Log {
        fn append(&self, entry: Entry) -> BoxFuture<'static, Result<EntryIndex, AuditError>> {
            self.note(entry);
            Box::pin(std::future::ready(Ok(0)))
        }
        fn note(&self, entry: Entry) {
            self.0.lock().unwrap().push(entry.event);
        }
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
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("the future waits for something"),
        }
    }

    fn permit(log: &Arc<Log>) -> Permit {
        let allowed = Use {
            instance: InstanceId(1),
            agent: "bot".parse().unwrap(),
            component: ComponentDigest::of(b"component"),
            manifest: ManifestDigest::of(b"manifest"),
            grant: "api".parse().unwrap(),
            key: KeyRef {
                name: "key".parse().unwrap(),
                version: KeyVersion::FIRST,
            },
            profile: "http".to_owned(),
            content: ContentDigest::of(b""),
            size: 0,
            number: 1,
            rate_until: None,
        };
        let record = Permit::record(log.clone(), Arc::new(Epoch), Timestamp::UNIX_EPOCH, allowed);
        ready(record).unwrap()
    }

    /// A body that counts how often it is read.
    struct Body(Arc<AtomicUsize>);

    impl futures_core::Stream for Body {
        type Item = Result<bytes::Bytes, Refusal>;
        fn poll_next(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(None)
        }
    }

    #[test]
    fn every_request_is_refused_alike_even_with_a_permit() {
        let log = Arc::new(Log::default());
        for url in ["https://api.example.com/", "http://127.0.0.1/", "not a url", ""] {
            let reads = Arc::new(AtomicUsize::new(0));
            let permit = permit(&log);
            let head = RequestHead {
                method: "GET".to_owned(),
                url: url.to_owned(),
                headers: Vec::new(),
            };
            let answer = ready(Refusing::new().send(&permit, head, Box::pin(Body(reads.clone()))));
            assert_eq!(answer.unwrap_err(), Refusal::NotGranted, "{url:?}");
            assert_eq!(reads.load(Ordering::Relaxed), 0, "the body of {url:?} was read");
            permit.settle(Settlement::Failed);
        }
    }

    #[test]
    fn a_refused_request_leaves_the_permit_to_its_holder() {
        let log = Arc::new(Log::default());
        let permit = permit(&log);
        let head = RequestHead {
            method: "GET".to_owned(),
            url: "https://api.example.com/".to_owned(),
            headers: Vec::new(),
        };
        let body = Box::pin(Body(Arc::default()));
        assert!(ready(Refusing::new().send(&permit, head, body)).is_err());
        assert_eq!(log.0.lock().unwrap().len(), 1, "only the holder settles");
        permit.settle(Settlement::Failed);
        let events = log.0.lock().unwrap();
        assert!(matches!(
            events.as_slice(),
            [
                Event::Allowed(_),
                Event::Settled {
                    settlement: Settlement::Failed,
                    ..
                }
            ]
        ));
    }
}
