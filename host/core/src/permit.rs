//! Proof that one use was authorised and is durably on the audit log. Not a decision: the guard in `claviger-broker` decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use crate::audit::{AuditError, AuditSink, Entry, EntryIndex, Event, Settlement, Traffic, Use};
use crate::clock::Clock;
use crate::http::Origin;
use crate::key::KeyRef;
use crate::profile::{Framed, Serial};
use crate::request::InstanceId;

/// One authorised and logged use. Consumed by [`Permit::settle`]; dropped before, it is logged as abandoned.
///
/// Whoever has an [`AuditSink`] can make one: that custody is reached with permits of the real log alone is because only the
/// broker holds both.
///
/// The only ways to one are [`Permit::record`] and the functions beside it, which return it after the entry is durable. It cannot be cloned, printed or
/// serialised, and custody checks that it covers what it is asked to do.
#[expect(
    missing_debug_implementations,
    reason = "a permit that prints is a permit that leaks into logs"
)]
#[must_use = "a permit that is dropped is logged as abandoned"]
pub struct Permit {
    // Invariant: the entry that allows it is durable in `sink` at `index`.
    index: EntryIndex,
    instance: InstanceId,
    key: Option<KeyRef>,
    // The one framed message that it allows to use the key on; none for a use that does nothing with a key itself.
    message: Option<Serial>,
    // The one origin that it allows to send to; none for a use that sends nothing.
    origin: Option<Origin>,
    // The one key that it allows to prove something of; none for every other use.
    subject: Option<KeyRef>,
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    settlement: Settlement,
    traffic: Option<Traffic>,
    // Invariant: never false again. One entry on the log is one signature.
    spent: AtomicBool,
}

/// What an entry allows.
struct Terms {
    instance: InstanceId,
    key: Option<KeyRef>,
    message: Option<Serial>,
    origin: Option<Origin>,
    subject: Option<KeyRef>,
}

impl Permit {
    /// Logs an authorised use and returns the proof once the entry is durable. It covers no message and no origin: for what neither
    /// signs nor sends.
    ///
    /// # Errors
    /// When the entry cannot be made durable: then nothing may be done.
    pub fn record(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        time: Timestamp,
        allowed: Use,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        Self::used(sink, clock, time, allowed, None, None)
    }

    /// As [`Permit::record`], for sending to this origin and no other; and, where the request is signed, for signing this message and
    /// no other.
    ///
    /// # Errors
    /// When the entry cannot be made durable: then nothing may be sent.
    pub fn to_send(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        time: Timestamp,
        allowed: Use,
        origin: Origin,
        message: Option<&Framed>,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        Self::used(
            sink,
            clock,
            time,
            allowed,
            message.map(Serial::from),
            Some(origin),
        )
    }

    /// As [`Permit::record`], for signing this message and no other.
    ///
    /// # Errors
    /// When the entry cannot be made durable: then nothing may be signed.
    pub fn to_sign(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        time: Timestamp,
        allowed: Use,
        message: &Framed,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        Self::used(sink, clock, time, allowed, Some(message.into()), None)
    }

    /// As [`Permit::record`], for one use of a key that has no public half: sealing or opening this box, or this MAC, and no other.
    ///
    /// # Errors
    /// When the entry cannot be made durable: then the key may not be used.
    pub fn to_use(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        time: Timestamp,
        allowed: Use,
        input: Serial,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        Self::used(sink, clock, time, allowed, Some(input), None)
    }

    /// As [`Permit::record`], for an operator who asks for a certificate: for signing this request with this key and no other.
    ///
    /// # Errors
    /// When the entry cannot be made durable: then nothing may be signed.
    pub fn to_certify(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        time: Timestamp,
        key: KeyRef,
        subject: &str,
        message: &Framed,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        let event = Event::CertificateRequested {
            key: key.clone(),
            subject: crate::name::escape(subject, 200),
        };
        let terms = Terms {
            instance: InstanceId::OPERATOR,
            key: Some(key),
            message: Some(message.into()),
            origin: None,
            subject: None,
        };
        Self::recorded(sink, clock, Entry { time, event }, terms)
    }

    /// As [`Permit::record`], for an operator who asks for proof of where a key lives: for one certificate of this key by that one.
    ///
    /// # Errors
    /// When the entry cannot be made durable: then nothing may be certified.
    pub fn to_prove(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        time: Timestamp,
        key: KeyRef,
        by: KeyRef,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        let event = Event::ProofRequested {
            key: key.clone(),
            by: by.clone(),
        };
        let terms = Terms {
            instance: InstanceId::OPERATOR,
            key: Some(by),
            message: None,
            origin: None,
            subject: Some(key),
        };
        Self::recorded(sink, clock, Entry { time, event }, terms)
    }

    fn used(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        time: Timestamp,
        allowed: Use,
        message: Option<Serial>,
        origin: Option<Origin>,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        let terms = Terms {
            instance: allowed.instance,
            key: allowed.key.clone(),
            message,
            origin,
            subject: None,
        };
        let event = Event::Allowed(allowed);
        Self::recorded(sink, clock, Entry { time, event }, terms)
    }

    fn recorded(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        entry: Entry,
        terms: Terms,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        // At the call, not at the first poll: who calls under a lock gets its place in the log under that lock.
        let appended = sink.append(entry);
        async move {
            let index = appended.await?;
            let Terms {
                instance,
                key,
                message,
                origin,
                subject,
            } = terms;
            Ok(Self {
                index,
                instance,
                key,
                message,
                origin,
                subject,
                sink,
                clock,
                settlement: Settlement::Abandoned,
                traffic: None,
                spent: AtomicBool::new(false),
            })
        }
    }

    /// Whether this permit is for using this key on this very message, box or MAC. The same content in another frame is another message.
    #[must_use]
    pub fn covers(&self, key: &KeyRef, message: impl Into<Serial>) -> bool {
        self.key.as_ref() == Some(key) && self.message == Some(message.into())
    }

    /// Takes the one use of a key that this permit is good for: true once, and only for what it [covers](Permit::covers). Asked for
    /// something else, it is left as it was.
    #[must_use]
    pub fn spend(&self, key: &KeyRef, message: impl Into<Serial>) -> bool {
        self.covers(key, message) && !self.spent.swap(true, Ordering::AcqRel)
    }

    /// Takes the one certificate that this permit is good for: true once, and only for this key by that one.
    #[must_use]
    pub fn spend_to_prove(&self, subject: &KeyRef, by: &KeyRef) -> bool {
        let covered = self.key.as_ref() == Some(by) && self.subject.as_ref() == Some(subject);
        covered && !self.spent.swap(true, Ordering::AcqRel)
    }

    /// Whether this permit is for sending to this origin.
    #[must_use]
    pub fn covers_origin(&self, origin: &Origin) -> bool {
        self.origin.as_ref() == Some(origin)
    }

    /// Says what came of a use that sent something, and what went over the wire. May be called as it becomes known; the last word
    /// counts.
    pub fn observe(&mut self, settlement: Settlement, traffic: Traffic) {
        self.settlement = settlement;
        self.traffic = Some(traffic);
    }

    /// Says what came of the use.
    pub fn settle(mut self, settlement: Settlement) {
        self.settlement = settlement;
    }

    /// Where the use is on the log.
    #[must_use]
    pub const fn index(&self) -> EntryIndex {
        self.index
    }

    /// Which instance it was given to, or [`InstanceId::OPERATOR`]: devices queue by it.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.sink.note(Entry {
            time: self.clock.now(),
            event: Event::Settled {
                of: self.index,
                settlement: self.settlement,
                traffic: self.traffic.take(),
            },
        });
    }
}
