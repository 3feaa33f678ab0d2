//! Connections that wait for the next request of the same lane. Opens none, and shares none between lanes.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use claviger_core::egress::{ClientIdentity, Destination};
use tokio::time::Instant;

use crate::exchange::Live;

/// A connection waits for at most this long: less than the 5 s after which common servers close, so that requests are rarely sent
/// into a connection that is being closed.
const IDLE: Duration = Duration::from_secs(4);
/// At most this many connections of one lane wait.
const PER_LANE: usize = 8;
/// At most this many connections wait.
const TOTAL: usize = 64;

/// Waiting connections.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    // Invariant: oldest first, at most TOTAL, at most PER_LANE of one lane.
    connections: Vec<Idle>,
    // Whether a task will close what waits too long.
    swept: bool,
}

struct Idle {
    live: Live,
    destination: Arc<Destination>,
    since: Instant,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}

/// Whether requests to two destinations may share a connection: everything that decided about the connection is equal.
fn shared(one: &Arc<Destination>, other: &Arc<Destination>) -> bool {
    Arc::ptr_eq(one, other)
        || (one.lane == other.lane
            && one.origin == other.origin
            && one.trust == other.trust
            && one.private_networks == other.private_networks
            && same_identity(one.identity.as_ref(), other.identity.as_ref()))
}

fn same_identity(one: Option<&Arc<dyn ClientIdentity>>, other: Option<&Arc<dyn ClientIdentity>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.key() == other.key() && one.chain() == other.chain(),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

impl Pool {
    /// A connection to this destination that can take a request now. The one that waited least: the others get to close.
    pub(crate) fn take(&self, destination: &Arc<Destination>) -> Option<Live> {
        loop {
            let mut live = {
                let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.expire();
                let at = waiting
                    .connections
                    .iter()
                    .rposition(|idle| shared(&idle.destination, destination))?;
                waiting.connections.remove(at).live
            };
            if live.is_idle() {
                return Some(live);
            }
        }
    }

    /// Closes the connection that waits longest, if one waits.
    pub(crate) fn close_one(&self) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.connections.is_empty() {
            return false;
        }
        waiting.connections.remove(0);
        true
    }

    /// Keeps a connection whose exchange is over, if it can take another. Outside a runtime, and where it would be one too many, it
    /// is closed.
    pub(crate) fn put(self: &Arc<Self>, mut live: Live, destination: &Arc<Destination>) {
        if !live.is_idle() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.expire();
        let mut of_lane = waiting
            .connections
            .iter()
            .filter(|idle| idle.destination.lane == destination.lane);
        if waiting.connections.len() >= TOTAL || of_lane.nth(PER_LANE - 1).is_some() {
            return;
        }
        waiting.connections.push(Idle {
            live,
            destination: Arc::clone(destination),
            since: Instant::now(),
        });
        if !waiting.swept {
            waiting.swept = true;
            runtime.spawn(sweep(Arc::downgrade(self)));
        }
    }
}

impl Waiting {
    fn expire(&mut self) {
        self.connections.retain(|idle| idle.since.elapsed() < IDLE);
    }
}

/// Closes what waits too long, and ends when nothing waits or the pool is gone.
async fn sweep(pool: Weak<Pool>) {
    loop {
        let oldest = {
            let Some(pool) = pool.upgrade() else { return };
            let mut waiting = pool.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.expire();
            match waiting.connections.first() {
                Some(idle) => idle.since,
                None => {
                    waiting.swept = false;
                    return;
                }
            }
        };
        tokio::time::sleep_until(oldest + IDLE).await;
    }
}
