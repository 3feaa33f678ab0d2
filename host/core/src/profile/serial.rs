//! Which message of this process a permit is bound to. Not an identity that outlives the process.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Framed, MacInput, SealInput, UnsealInput};

/// Names one thing that a profile framed: a message to sign, a box to make or to open, a MAC. Only such a thing has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial(
    // Invariant: no two framed things of a process have the same.
    u64,
);

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Serial {
    pub(super) fn next() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl From<&Framed> for Serial {
    fn from(message: &Framed) -> Self {
        message.serial
    }
}

impl From<&SealInput> for Serial {
    fn from(input: &SealInput) -> Self {
        input.serial()
    }
}

impl From<&UnsealInput> for Serial {
    fn from(input: &UnsealInput) -> Self {
        input.serial()
    }
}

impl From<&MacInput> for Serial {
    fn from(input: &MacInput) -> Self {
        input.serial()
    }
}
