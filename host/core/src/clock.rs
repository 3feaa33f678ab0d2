//! The clock as a trait. Not a clock: `claviger-broker` reads the system's.

use std::fmt::Debug;

use jiff::Timestamp;

/// Tells the time for expiry, hours and rates.
pub trait Clock: Debug + Send + Sync {
    /// The wall-clock time now. It may jump; whoever decides by it compares it with times already on record.
    fn now(&self) -> Timestamp;
}
