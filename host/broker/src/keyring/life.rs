//! The life of one version of a key or a secret, as a function: a state, what happens, a time, and the state after it. It reads no clock,
//! no disk and no other version: that at most one version of a name is active is the keyring's to see to.
//!
//! What happened already changes nothing when it happens again: whoever does not know whether a step was taken takes it once more.
//!
//! ```text
//! pending ──activate──▶ active ──supersede──▶ retiring ──time──▶ retired
//!    │cancel              │▲                    │▲                  │
//!    │             disable││enable       disable││enable            │
//!    │                    ▼│                    ▼│                  │
//!    │                 disabled ────────────────────────────────────┤
//!    ▼                         revoke, compromise (from any but pending) ──▶ revoked
//! destroyed ◀──purge── deleted, after its window (from any; restore goes back)
//! ```

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::columns::Reason;
use super::record::KeyState;

/// What is deleted can be restored for so long, if nothing else was said: a month of holidays.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(30 * 86_400);
/// The window of what is purge-locked is at least this.
pub const LOCKED_WINDOW: Duration = DEFAULT_WINDOW;
/// No window is longer: the name would be reserved for ever by a typing error.
pub const MAX_WINDOW: Duration = Duration::from_secs(366 * 86_400);

/// What two clocks may differ by.
pub(super) const AHEAD: Duration = Duration::from_secs(60);

/// Where a version is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Its state. Of a deleted one, the state that it comes back to.
    pub state: KeyState,
    /// When a retiring version retires; of a disabled one, that it was retiring, and until when; of a deleted one, when it may be purged;
    /// of a revoked one, that it was compromised while it was in use, since when, and that nothing has taken its place yet.
    pub until: Option<Timestamp>,
    /// Since when it is deleted.
    pub deleted: Option<Timestamp>,
    /// Why it was disabled or revoked.
    pub reason: Option<Reason>,
    /// Whether its recovery window cannot be shortened.
    pub locked: bool,
}

impl Life {
    /// Whether it was compromised while it was in use, and nothing has taken its place since.
    #[must_use]
    pub fn lacks_successor(&self) -> bool {
        self.state == KeyState::Revoked && self.deleted.is_none() && self.until.is_some()
    }
}

/// What happens to a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LifeEvent {
    /// A pending version becomes the one that is used.
    Activate,
    /// A pending version is given up; its material is destroyed.
    Cancel,
    /// Another version takes its place; what it made is good until then.
    Supersede {
        /// The end of the overlap; now or earlier retires it at once.
        until: Timestamp,
    },
    /// It is taken out of use.
    Disable(Option<Reason>),
    /// It is put back to where it was disabled.
    Enable,
    /// It is taken out of use for good.
    Revoke(Option<Reason>),
    /// Somebody else may have it: it is out of use for good, and if it was in use, another shall take its place. One that waits is given
    /// up.
    Compromise(Reason),
    /// It is deleted, and can be restored for so long.
    Delete {
        /// At most [`MAX_WINDOW`].
        window: Duration,
    },
    /// It is as it was before it was deleted. An overlap that it was in starts anew.
    Restore {
        /// How long an overlap lasts.
        overlap: Duration,
    },
    /// Its material is destroyed, after the window.
    Purge,
    /// Time has passed.
    Tick {
        /// How long an overlap lasts: one that ends later was written by a clock that had run ahead, and is cut to this. So is the recovery
        /// window of what was deleted by such a clock, to its own length.
        overlap: Duration,
    },
}

/// Why a version cannot go that way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LifeError {
    /// From its state there is no such way.
    #[error("is {from} and cannot become {to}")]
    Transition {
        /// Its state.
        from: KeyState,
        /// The state asked for.
        to: KeyState,
    },
    /// It is deleted.
    #[error("is deleted; restore it first")]
    Deleted,
    /// It is not deleted.
    #[error("is not deleted; only what was deleted is purged")]
    NotDeleted,
    /// The recovery window is not over.
    #[error("can be restored until {until} and not be purged before")]
    InWindow {
        /// When it may be purged.
        until: Timestamp,
    },
    /// The purge is locked.
    #[error("has a purge lock: its window is at least {} days", LOCKED_WINDOW.as_secs() / 86_400)]
    Locked,
    /// The window is over its bound.
    #[error("has a recovery window of at most {} days", MAX_WINDOW.as_secs() / 86_400)]
    Window,
}

/// The state after an event; the same if the event has nothing more to change.
///
/// # Errors
/// When there is no such way from the state; nothing changes then.
pub fn next(life: &Life, event: &LifeEvent, now: Timestamp) -> Result<Life, LifeError> {
    match event {
        LifeEvent::Activate => activate(life),
        LifeEvent::Cancel => cancel(life),
        LifeEvent::Supersede { until } => supersede(life, *until, now),
        LifeEvent::Disable(reason) => disable(life, reason.as_ref()),
        LifeEvent::Enable => enable(life, now),
        LifeEvent::Revoke(reason) => revoke(life, reason.as_ref()),
        LifeEvent::Compromise(reason) => compromise(life, reason, now),
        LifeEvent::Delete { window } => delete(life, *window, now),
        LifeEvent::Restore { overlap } => restore(life, *overlap, now),
        LifeEvent::Purge => purge(life, now),
        LifeEvent::Tick { overlap } => Ok(tick(life, *overlap, now)),
    }
}

fn not_deleted(life: &Life) -> Result<(), LifeError> {
    match life.deleted {
        Some(_) => Err(LifeError::Deleted),
        None => Ok(()),
    }
}

fn no_way(life: &Life, to: KeyState) -> LifeError {
    LifeError::Transition { from: life.state, to }
}

fn into(life: &Life, state: KeyState, until: Option<Timestamp>) -> Life {
    Life {
        state,
        until,
        reason: None,
        ..life.clone()
    }
}

fn activate(life: &Life) -> Result<Life, LifeError> {
    not_deleted(life)?;
    match life.state {
        KeyState::Active => Ok(life.clone()),
        KeyState::Pending => Ok(into(life, KeyState::Active, None)),
        KeyState::Retiring
        | KeyState::Retired
        | KeyState::Disabled
        | KeyState::Revoked
        | KeyState::Destroyed => Err(no_way(life, KeyState::Active)),
    }
}

fn cancel(life: &Life) -> Result<Life, LifeError> {
    not_deleted(life)?;
    match life.state {
        KeyState::Destroyed => Ok(life.clone()),
        KeyState::Pending => Ok(into(life, KeyState::Destroyed, None)),
        KeyState::Active
        | KeyState::Retiring
        | KeyState::Retired
        | KeyState::Disabled
        | KeyState::Revoked => Err(no_way(life, KeyState::Destroyed)),
    }
}

fn supersede(life: &Life, until: Timestamp, now: Timestamp) -> Result<Life, LifeError> {
    not_deleted(life)?;
    match life.state {
        KeyState::Active if until <= now => Ok(into(life, KeyState::Retired, None)),
        KeyState::Active => Ok(into(life, KeyState::Retiring, Some(until))),
        KeyState::Disabled if life.until.is_none() && until <= now => Ok(into(life, KeyState::Retired, None)),
        // It stays out of use; enabled, it is no longer the one that is used.
        KeyState::Disabled if life.until.is_none() => Ok(Life {
            until: Some(until),
            ..life.clone()
        }),
        // Its place is taken.
        KeyState::Revoked => Ok(Life {
            until: None,
            ..life.clone()
        }),
        KeyState::Disabled | KeyState::Retiring | KeyState::Retired | KeyState::Destroyed => Ok(life.clone()),
        KeyState::Pending => Err(no_way(life, KeyState::Retiring)),
    }
}

fn disable(life: &Life, reason: Option<&Reason>) -> Result<Life, LifeError> {
    not_deleted(life)?;
    match life.state {
        KeyState::Disabled => Ok(life.clone()),
        // `until` stays: it says what enabling goes back to.
        KeyState::Active | KeyState::Retiring => Ok(Life {
            state: KeyState::Disabled,
            reason: reason.cloned(),
            ..life.clone()
        }),
        KeyState::Pending | KeyState::Retired | KeyState::Revoked | KeyState::Destroyed => {
            Err(no_way(life, KeyState::Disabled))
        }
    }
}

fn enable(life: &Life, now: Timestamp) -> Result<Life, LifeError> {
    not_deleted(life)?;
    match (life.state, life.until) {
        (KeyState::Active | KeyState::Retiring, _) => Ok(life.clone()),
        (KeyState::Disabled, None) => Ok(into(life, KeyState::Active, None)),
        (KeyState::Disabled, Some(until)) if until > now => Ok(into(life, KeyState::Retiring, Some(until))),
        (KeyState::Disabled, Some(_)) => Ok(into(life, KeyState::Retired, None)),
        (KeyState::Pending | KeyState::Retired | KeyState::Revoked | KeyState::Destroyed, _) => {
            Err(no_way(life, KeyState::Active))
        }
    }
}

fn revoke(life: &Life, reason: Option<&Reason>) -> Result<Life, LifeError> {
    match life.state {
        // Said on purpose: nothing shall take its place.
        KeyState::Revoked => Ok(Life {
            until: life.until.filter(|_| life.deleted.is_some()),
            ..life.clone()
        }),
        // Also of what is deleted, which comes back revoked, if it comes back.
        KeyState::Active | KeyState::Retiring | KeyState::Retired | KeyState::Disabled => Ok(Life {
            state: KeyState::Revoked,
            until: life.until.filter(|_| life.deleted.is_some()),
            reason: reason.cloned(),
            ..life.clone()
        }),
        KeyState::Pending | KeyState::Destroyed => Err(no_way(life, KeyState::Revoked)),
    }
}

fn compromise(life: &Life, reason: &Reason, now: Timestamp) -> Result<Life, LifeError> {
    match (life.state, life.deleted) {
        (KeyState::Active, None) => Ok(Life {
            state: KeyState::Revoked,
            until: Some(now),
            reason: Some(reason.clone()),
            ..life.clone()
        }),
        // Also one that is deleted: it must not come back to wait.
        (KeyState::Pending, _) => Ok(Life {
            deleted: None,
            ..into(life, KeyState::Destroyed, None)
        }),
        (KeyState::Revoked | KeyState::Destroyed, _) => Ok(life.clone()),
        (KeyState::Active | KeyState::Retiring | KeyState::Retired | KeyState::Disabled, _) => {
            revoke(life, Some(reason))
        }
    }
}

fn delete(life: &Life, window: Duration, now: Timestamp) -> Result<Life, LifeError> {
    if life.deleted.is_some() {
        return Ok(life.clone());
    }
    if window > MAX_WINDOW {
        return Err(LifeError::Window);
    }
    if life.locked && window < LOCKED_WINDOW {
        return Err(LifeError::Locked);
    }
    let state = match (life.state, life.until) {
        (KeyState::Destroyed, _) => return Ok(life.clone()),
        // Its overlap is over when it comes back: it opened nothing anyway.
        (KeyState::Disabled, Some(_)) => KeyState::Retired,
        (
            state @ (KeyState::Pending
            | KeyState::Active
            | KeyState::Retiring
            | KeyState::Retired
            | KeyState::Disabled
            | KeyState::Revoked),
            _,
        ) => state,
    };
    Ok(Life {
        state,
        until: Some(after(now, window)),
        deleted: Some(now),
        ..life.clone()
    })
}

fn restore(life: &Life, overlap: Duration, now: Timestamp) -> Result<Life, LifeError> {
    if life.state == KeyState::Destroyed {
        return Err(no_way(life, KeyState::Active));
    }
    if life.deleted.is_none() {
        return Ok(life.clone());
    }
    let (state, until) = match life.state {
        KeyState::Retiring if overlap.is_zero() => (KeyState::Retired, None),
        KeyState::Retiring => (KeyState::Retiring, Some(after(now, overlap))),
        KeyState::Pending
        | KeyState::Active
        | KeyState::Retired
        | KeyState::Disabled
        | KeyState::Revoked
        | KeyState::Destroyed => (life.state, None),
    };
    Ok(Life {
        state,
        until,
        deleted: None,
        ..life.clone()
    })
}

fn purge(life: &Life, now: Timestamp) -> Result<Life, LifeError> {
    match (life.state, life.deleted, life.until) {
        (KeyState::Destroyed, _, _) => Ok(life.clone()),
        (_, None, _) => Err(LifeError::NotDeleted),
        (_, Some(_), Some(until)) if now < until => Err(LifeError::InWindow { until }),
        (_, Some(_), Some(_) | None) => Ok(Life {
            deleted: None,
            ..into(life, KeyState::Destroyed, None)
        }),
    }
}

fn tick(life: &Life, overlap: Duration, now: Timestamp) -> Life {
    if let (Some(deleted), Some(until)) = (life.deleted, life.until)
        && deleted > after(now, AHEAD)
    {
        // As long as it was meant to be, and not until a clock that had run ahead would come by again.
        let window = until.duration_since(deleted);
        return Life {
            deleted: Some(now),
            until: Some(now.saturating_add(window).unwrap_or(Timestamp::MAX)),
            ..life.clone()
        };
    }
    let ends = match (life.state, life.deleted) {
        (KeyState::Retiring | KeyState::Disabled, None) => life.until,
        (
            KeyState::Pending
            | KeyState::Active
            | KeyState::Retired
            | KeyState::Revoked
            | KeyState::Destroyed
            | KeyState::Retiring
            | KeyState::Disabled,
            _,
        ) => None,
    };
    let latest = after(now, overlap);
    match ends {
        None => life.clone(),
        Some(until) if until <= now => into(life, KeyState::Retired, None),
        Some(until) if until > latest => Life {
            until: Some(latest),
            ..life.clone()
        },
        Some(_) => life.clone(),
    }
}

/// So long after this time.
pub(crate) fn after(now: Timestamp, time: Duration) -> Timestamp {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    now.saturating_add(time).unwrap_or(Timestamp::MAX)
}
