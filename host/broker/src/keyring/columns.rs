//! The columns that say how a version of a key or secret lives: how it is rotated, when its state ends, whether it is deleted and why it
//! was stopped. Not the rules of that life: `life` has them.

use std::num::NonZeroU64;
use std::time::Duration;

use claviger_core::name::escape;
use jiff::Timestamp;

use super::KeyringError;
use super::envelope::append;

/// A reason has at most this many bytes, escaped: a sentence for whoever reads the listing.
pub const MAX_REASON: usize = 200;
/// What a custody keeps of its own about a key has at most this many bytes: the name of a TPM's NV index and its counters fit.
pub const MAX_HARDWARE: usize = 256;
/// The old version of a key still verifies and opens for so long after a rotation, if nothing was said: longer than any token of it
/// lives, and a weekend.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(7 * 86_400);

/// Why a credential was disabled or revoked, in an operator's words: escaped and cut to [`MAX_REASON`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Reason(
    // Invariant: escaped, at most `MAX_REASON` bytes.
    String,
);

impl Reason {
    /// Escapes and cuts; an empty text is no reason.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut text = escape(text.trim(), MAX_REASON);
        let cut = text.floor_char_boundary(MAX_REASON);
        text.truncate(cut);
        Some(text).filter(|text| !text.is_empty()).map(Self)
    }

    /// Of a version whose material somebody else may have.
    #[must_use]
    pub fn compromised() -> Self {
        Self("compromised".to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the keyring kept: only what [`Reason::new`] can have made.
    fn kept(text: &str) -> Option<Self> {
        let plain = text.replace('\\', "");
        let made = !text.is_empty() && text.len() <= MAX_REASON && escape(&plain, MAX_REASON) == plain;
        made.then(|| Self(text.to_owned()))
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// When a new version takes the place of a key's or secret's, and for how long the one before stays good for what it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationPlan {
    /// At this age, in whole seconds; at least one.
    pub every: Option<Duration>,
    /// After so many uses. Of keys only.
    pub uses: Option<NonZeroU64>,
    /// How long the version before stays `retiring`, in whole seconds. Zero retires it at once.
    pub overlap: Duration,
}

impl RotationPlan {
    /// Whether it can be kept: in whole seconds, and not due all the time.
    pub(super) fn check(&self) -> Result<(), KeyringError> {
        let whole = |time: Duration| time.subsec_nanos() == 0;
        let every = self.every.is_none_or(|every| whole(every) && !every.is_zero());
        if every && whole(self.overlap) {
            Ok(())
        } else {
            Err(KeyringError::Plan)
        }
    }
}

impl Default for RotationPlan {
    /// No rotation by itself; [`DEFAULT_OVERLAP`] when an operator rotates.
    fn default() -> Self {
        Self {
            every: None,
            uses: None,
            overlap: DEFAULT_OVERLAP,
        }
    }
}

/// The columns that keys and secrets share, as they are stored since format 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LifeColumns {
    pub(super) source: String,
    pub(super) overlap: i64,
    pub(super) until: Option<String>,
    pub(super) deleted: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) locked: i64,
}

/// The same, read.
pub(super) struct LifeCells {
    pub(super) overlap: Duration,
    pub(super) until: Option<Timestamp>,
    pub(super) deleted: Option<Timestamp>,
    pub(super) reason: Option<Reason>,
    pub(super) locked: bool,
}

impl LifeColumns {
    pub(super) fn new(source: &str, cells: &LifeCells) -> Self {
        Self {
            source: source.to_owned(),
            overlap: seconds(cells.overlap),
            until: cells.until.map(|at| at.to_string()),
            deleted: cells.deleted.map(|at| at.to_string()),
            reason: cells.reason.as_ref().map(|reason| reason.as_str().to_owned()),
            locked: i64::from(cells.locked),
        }
    }

    pub(super) fn read(&self, wrong: &dyn Fn(&str) -> KeyringError) -> Result<LifeCells, KeyringError> {
        let time = |text: &String| text.parse::<Timestamp>().map_err(|_| wrong("time"));
        let reason = |text: &String| Reason::kept(text).ok_or_else(|| wrong("reason"));
        Ok(LifeCells {
            overlap: duration(self.overlap).ok_or_else(|| wrong("overlap"))?,
            until: self.until.as_ref().map(time).transpose()?,
            deleted: self.deleted.as_ref().map(time).transpose()?,
            reason: self.reason.as_ref().map(reason).transpose()?,
            locked: match self.locked {
                0 => false,
                1 => true,
                _ => return Err(wrong("purge lock")),
            },
        })
    }

    /// Adds the columns to what is authenticated. What is absent differs from what is empty or zero.
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) {
        append(bytes, self.source.as_bytes());
        append(bytes, &self.overlap.to_be_bytes());
        append_text(bytes, self.until.as_deref());
        append_text(bytes, self.deleted.as_deref());
        append_text(bytes, self.reason.as_deref());
        append(bytes, &self.locked.to_be_bytes());
    }
}

fn append_text(bytes: &mut Vec<u8>, text: Option<&str>) {
    append_optional(bytes, text.map(str::as_bytes));
}

/// Appends a field that may be absent: whether it is there, then the field.
pub(super) fn append_optional(bytes: &mut Vec<u8>, field: Option<&[u8]>) {
    append(bytes, &[u8::from(field.is_some())]);
    append(bytes, field.unwrap_or_default());
}

/// Whole seconds as SQLite keeps them.
pub(super) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

pub(super) fn duration(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
