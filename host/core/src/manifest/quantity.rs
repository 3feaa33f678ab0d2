//! Quantities with units as operators write them: `64 MiB`, `10 s`, `30/hour`. Not bare numbers: a number without a unit is an error.

use std::num::NonZeroU32;
use std::time::Duration;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// At most so many uses in any period: a token bucket that holds `uses` and refills evenly over `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; also the largest burst.
    pub uses: NonZeroU32,
    /// In which time: a second, a minute, an hour or a day.
    pub per: Duration,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct NotAQuantity {
    /// What would be one, with an example.
    pub expected: &'static str,
}
