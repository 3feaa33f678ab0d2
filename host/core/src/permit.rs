//! Proof that one use was authorised and is durably on the audit log. Not a decision: the guard in `claviger-broker` decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use crate::audit::{AuditError, AuditSink, Entry, EntryIndex, Event, Settlement, Use};
use crate::clock::Clock;
use crate::key::KeyRef;
use crate::profile::Framed;
use crate::request::InstanceId;

/// One authorised and logged use. Consumed by [`Permit::settle`]; dropped before, it is logged as abandoned.
///
/// Whoever has an [`AuditSink`] can make one: that custody is reached with permits of the real log alone is because only the
/// broker holds both.
///
/// The only ways to one are [`Permit::record`] and [`Permit::to_sign`], which return it after the entry is durable. It cannot be cloned, printed or
/// serialised, and custody checks that it covers what it is asked to do.
#[expect(
    missing_debug_implementations,
    reason = "a permit that prints is a permit that leaks into logs"
)]
#[must_use = "a permit that is dropped is logged as abandoned"]
pub struct Permit {
    // Invariant: `allowed` is durable in `sink` at `index`.
    index: EntryIndex,
    allowed: Use,
    // The one framed message that it allows to sign; none for a use that signs nothing itself.
    message: Option<u64>,
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    settlement: Settlement,
    // Invariant: never false again. One entry on the log is one signature.
    spent: AtomicBool,
}

impl Permit {
    /// Logs an authorised use and returns the proof once the entry is durable. It covers no message: for what signs nothing, as
    /// [`Egress::send`](crate::egress::Egress::send), which takes a permit too.
    ///
    /// # Errors
    /// When the entry cannot be made durable: then nothing may be done.
    pub fn record(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        time: Timestamp,
        allowed: Use,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        Self::recorded(sink, clock, time, allowed, None)
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
        Self::recorded(sink, clock, time, allowed, Some(message.serial()))
    }

    fn recorded(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        time: Timestamp,
        allowed: Use,
        message: Option<u64>,
    ) -> impl Future<Output = Result<Self, AuditError>> + Send + use<> {
        // At the call, not at the first poll: who calls under a lock gets its place in the log under that lock.
        let appended = sink.append(Entry {
            time,
            event: Event::Allowed(allowed.clone()),
        });
        async move {
            let index = appended.await?;
            Ok(Self {
                index,
                allowed,
                message,
                sink,
                clock,
                settlement: Settlement::Abandoned,
                spent: AtomicBool::new(false),
            })
        }
    }

    /// Whether this permit is for signing this very message with this key. The same content in another frame is another message.
    #[must_use]
    pub fn covers(&self, key: &KeyRef, message: &Framed) -> bool {
        self.allowed.key == *key && self.message == Some(message.serial())
    }

    /// Takes the one signature that this permit is good for: true once, and only for what it [covers](Permit::covers). Asked for
    /// something else, it is left as it was.
    #[must_use]
    pub fn spend(&self, key: &KeyRef, message: &Framed) -> bool {
        self.covers(key, message) && !self.spent.swap(true, Ordering::AcqRel)
    }

    /// Says what came of the use.
    pub fn settle(mut self, settlement: Settlement) {
        self.settlement = settlement;
    }

    /// Which instance it was given to: devices queue by it.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.allowed.instance
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.sink.note(Entry {
            time: self.clock.now(),
            event: Event::Settled {
                of: self.index,
                settlement: self.settlement,
            },
        });
    }
}
