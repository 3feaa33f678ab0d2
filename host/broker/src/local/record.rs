//! The audit log and what it says, changed under one lock: both see entries in one order, and their times only go forward. Not a
//! decision: `guard` decides, by the ledger that is held here.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use claviger_core::{AuditError, AuditSink, BoxFuture, Clock, Entry, EntryIndex, Event};
use jiff::Timestamp;

use crate::audit::TileLog;
use crate::ledger::Ledger;

/// The log and the ledger.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) log: Arc<TileLog>,
    // Invariant: the fold of all entries that the log took. Whoever gives the log an entry holds this.
    ledger: Mutex<Ledger>,
    clock: Arc<dyn Clock>,
    // Read while a result is released, written while what stops uses takes its place in the log: no release stands after what stops it.
    // Taken before the ledger.
    gate: RwLock<()>,
}

impl Record {
    pub(super) fn new(log: Arc<TileLog>, ledger: Ledger, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            log,
            ledger: Mutex::new(ledger),
            clock,
            gate: RwLock::new(()),
        })
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic while the ledger was held cannot leave it half changed: each change is one assignment.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes its place in the log when it is called, not when the future is polled.
    pub(super) fn append(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<EntryIndex, AuditError>> + Send + use<> {
        let mut ledger = self.ledger();
        let entry = Entry {
            time: time_after(&ledger, self.clock.now()),
            event,
        };
        ledger.fold(&entry);
        self.log.append(entry)
    }

    /// As [`Record::append`], for an event that depends on what is on record: both happen under one lock.
    pub(super) fn append_decided<E>(
        &self,
        decide: impl FnOnce(&Ledger) -> Result<Event, E>,
    ) -> Result<BoxFuture<'static, Result<EntryIndex, AuditError>>, E> {
        let mut ledger = self.ledger();
        let entry = Entry {
            time: time_after(&ledger, self.clock.now()),
            event: decide(&ledger)?,
        };
        ledger.fold(&entry);
        Ok(self.log.append(entry))
    }

    /// As [`Record::append`], for what stops uses; what is under way is stopped by `stop`. Results that were found to be releasable before
    /// are on the log before it, and none is afterwards.
    pub(super) fn append_stopping(
        &self,
        event: Event,
        stop: &dyn Fn(),
    ) -> impl Future<Output = Result<EntryIndex, AuditError>> + Send + use<> {
        let _stopping = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let appended = self.append(event);
        // Afterwards: what begins meanwhile is decided by what was just appended.
        stop();
        appended
    }

    /// Held from the last look at what could stop a use until the use is settled.
    pub(super) fn releasing(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, event: Event) {
        let mut ledger = self.ledger();
        self.note_under(&mut ledger, self.clock.now(), event);
    }

    /// Puts on record that the clock is right, even if it says less than what is on record.
    pub(super) fn accept_clock(&self) -> impl Future<Output = Result<EntryIndex, AuditError>> + Send + use<> {
        let mut ledger = self.ledger();
        let entry = Entry {
            time: self.clock.now(),
            event: Event::ClockAccepted,
        };
        ledger.fold(&entry);
        self.log.append(entry)
    }

    fn note_under(&self, ledger: &mut Ledger, time: Timestamp, event: Event) {
        let entry = Entry {
            time: time_after(ledger, time),
            event,
        };
        ledger.fold(&entry);
        self.log.note(entry);
    }
}

/// The time for an entry: never before what is on record, so that the log reads forwards.
fn time_after(ledger: &Ledger, now: Timestamp) -> Timestamp {
    ledger.latest().map_or(now, |latest| latest.max(now))
}

/// The record as permits see it. An append is made by whoever decided, who holds the ledger and has counted the use in it; a permit
/// is settled whenever it is dropped, which must not be while the ledger is held.
#[derive(Debug)]
pub(super) struct PermitSink(pub(super) Arc<Record>);

impl AuditSink for PermitSink {
    fn append(&self, entry: Entry) -> BoxFuture<'static, Result<EntryIndex, AuditError>> {
        self.0.log.append(entry)
    }

    fn note(&self, entry: Entry) {
        let mut ledger = self.0.ledger();
        self.0.note_under(&mut ledger, entry.time, entry.event);
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<String, AuditError>> {
        self.0.log.checkpoint()
    }
}
