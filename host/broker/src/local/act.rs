//! An operator's act that is on the log before it is done, and whose entry is settled however it ends. Not an agent's use: a permit is.

use claviger_core::AuditError;
use claviger_core::audit::{EntryIndex, Event, Settlement};
use claviger_core::name::escape;

use super::LocalBroker;

/// Who did it is cut to so many bytes: a user's name and number.
const MAX_BY: usize = 64;

/// An act that is on the log. Dropping it says that it was abandoned.
pub(super) struct Act<'a> {
    broker: &'a LocalBroker,
    entry: EntryIndex,
    settlement: Settlement,
}

impl<'a> Act<'a> {
    /// Puts the act on the log, and returns once it is durable.
    pub(super) async fn begin(broker: &'a LocalBroker, event: Event) -> Result<Self, AuditError> {
        let entry = broker.append(event).await?;
        Ok(Self {
            broker,
            entry,
            settlement: Settlement::Abandoned,
        })
    }

    /// Settles it by how it ended.
    pub(super) fn end<T, E>(mut self, result: Result<T, E>) -> Result<T, E> {
        self.settlement = match result {
            Ok(_) => Settlement::Released,
            Err(_) => Settlement::Failed,
        };
        result
    }
}

impl Drop for Act<'_> {
    fn drop(&mut self) {
        self.broker.note(Event::Settled {
            of: self.entry,
            settlement: self.settlement,
            traffic: None,
        });
    }
}

/// Who, as it stands on the log.
pub(super) fn who(by: &str) -> String {
    escape(by, MAX_BY)
}
