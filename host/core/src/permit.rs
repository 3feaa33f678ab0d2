//! Proof that one use was authorised and is durably on the audit log. Not a decision: the guard in `claviger-broker` decides.

use std::sync::Arc;

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
///
/// ```compile_fail
/// fn forge() -> claviger_core::Permit { claviger_core::Permit { index: 0 } }
/// ```
/// ```compile_fail
/// fn copy(permit: &claviger_core::Permit) -> claviger_core::Permit { permit.clone() }
/// ```
/// ```compile_fail
/// fn print(permit: &claviger_core::Permit) -> String { format!("{permit:?}") }
/// ```
/// ```compile_fail
/// fn use_twice(permit: claviger_core::Permit) {
///     permit.settle(claviger_core::audit::Settlement::Released);
///     permit.settle(claviger_core::audit::Settlement::Released);
/// }
/// ```
/// The control: what these have in common compiles.
/// ```
/// fn use_once(permit: claviger_core::Permit) { permit.settle(claviger_core::audit::Settlement::Released); }
/// ```
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
}

impl Permit {
    /// Logs an authorised use and returns the proof once the entry is durable. It covers no message: for uses that sign nothing.
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
            })
        }
    }

    /// Whether this permit is for signing this very message with this key. The same content in another frame is another message.
    #[must_use]
    pub fn covers(&self, key: &KeyRef, message: &Framed) -> bool {
        self.allowed.key == *key && self.message == Some(message.serial())
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
