//! What bodies that are read whole cost the host: memory while they are held, and work for those that come to nothing. Both bounded for
//! the host and for each instance. Reads no body.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies that are held whole take at most this much memory in all: several of the largest (`MAX_WHOLE_BODY`), and less than a small
/// machine has.
const MAX_HELD: usize = 256 << 20;
/// Those of one instance, so that one agent does not keep the others from sending: one of the largest while its JSON is checked.
const MAX_HELD_BY_ONE: usize = 64 << 20;
/// So many bytes may be read for requests of an instance that are then not permitted, ...
const WASTED_BURST: u64 = 64 << 20;
/// ... and so many more each second: what costs less than a tenth of a processor.
const WASTED_PER_SECOND: u64 = 1 << 20;

/// Memory for bodies that are held whole.
pub(in super::super) struct Memory(Arc<Semaphore>);

impl Memory {
    /// For all instances.
    pub(in super::super) fn of_host() -> Self {
        Self(Arc::new(Semaphore::new(MAX_HELD)))
    }

    /// For one.
    pub(in super::super) fn of_instance() -> Self {
        Self(Arc::new(Semaphore::new(MAX_HELD_BY_ONE)))
    }

    /// So that a test need not fill all of it.
    #[cfg(test)]
    pub(in super::super) fn leave(&self, bytes: usize) {
        self.0.forget_permits(self.0.available_permits() - bytes);
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(bytes).ok()
    }
}

/// Memory that is taken, until it is dropped.
pub(super) struct Taken {
    of: [OwnedSemaphorePermit; 2],
}

impl Taken {
    /// So many bytes of both, or none where there is no room.
    pub(super) fn new(of: [&Memory; 2], bytes: usize) -> Option<Self> {
        let [host, instance] = of;
        Some(Self {
            of: [host.take(bytes)?, instance.take(bytes)?],
        })
    }

    pub(super) fn and(&mut self, more: Self) {
        for (taken, more) in self.of.iter_mut().zip(more.of) {
            taken.merge(more);
        }
    }

    /// The body that the memory was taken for. What it does not need is given back at once, the rest with the last part of the body.
    pub(super) fn hold(mut self, body: Bytes) -> Bytes {
        for taken in &mut self.of {
            drop(taken.split(taken.num_permits().saturating_sub(body.len())));
        }
        Bytes::from_owner(Held { body, _taken: self })
    }
}

struct Held {
    body: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// What an instance made the host read for nothing.
#[derive(Clone)]
pub(in super::super) struct Wasted(Arc<Mutex<Bucket>>);

struct Bucket {
    bytes: u64,
    drained: Timestamp,
}

impl Wasted {
    pub(in super::super) fn new(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Bucket {
            bytes: 0,
            drained: now,
        })))
    }

    /// Something that is about to be read, if there was not too much of that.
    pub(super) fn more(&self, now: Timestamp) -> Option<Unspent> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = now.duration_since(bucket.drained).as_secs();
        if let Ok(seconds @ 1..) = u64::try_from(seconds) {
            bucket.bytes = bucket
                .bytes
                .saturating_sub(seconds.saturating_mul(WASTED_PER_SECOND));
            bucket.drained = now;
        }
        (bucket.bytes < WASTED_BURST).then(|| Unspent {
            wasted: self.clone(),
            bytes: 0,
        })
    }
}

/// Bytes that were read for a request that is not permitted yet: wasted if it never is.
pub(super) struct Unspent {
    wasted: Wasted,
    bytes: u64,
}

impl Unspent {
    pub(super) const fn read(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The request is permitted: its grant's limits count it.
    pub(super) const fn permitted(&mut self) {
        self.bytes = 0;
    }
}

impl Drop for Unspent {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut bucket = self.wasted.0.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.bytes = bucket.bytes.saturating_add(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_with_the_last_part_of_a_body() {
        let (host, one, other) = (Memory::of_host(), Memory::of_instance(), Memory::of_instance());
        let mut taken = Taken::new([&host, &one], MAX_HELD_BY_ONE - 1).unwrap();
        taken.and(Taken::new([&host, &one], 1).unwrap());
        assert!(Taken::new([&host, &one], 1).is_none());
        assert!(
            Taken::new([&host, &other], MAX_HELD_BY_ONE).is_some(),
            "another has its own"
        );
        let body = taken.hold(vec![1, 2, 3].into());
        let part = body.slice(1..2);
        drop(body);
        let rest = Taken::new([&host, &one], MAX_HELD_BY_ONE - 3).unwrap();
        assert!(Taken::new([&host, &one], 1).is_none());
        drop((part, rest));
        assert!(Taken::new([&host, &one], MAX_HELD_BY_ONE).is_some());
        // And all of them together.
        let all: Vec<_> = (0..MAX_HELD / MAX_HELD_BY_ONE)
            .map(|_| Taken::new([&host, &Memory::of_instance()], MAX_HELD_BY_ONE).unwrap())
            .collect();
        assert!(Taken::new([&host, &other], 1).is_none());
        drop(all);
        assert!(Taken::new([&host, &other], 1).is_some());
    }

    #[test]
    fn what_is_read_for_nothing_runs_out_and_comes_back_slowly() {
        let start = Timestamp::UNIX_EPOCH;
        let wasted = Wasted::new(start);
        let read = |now, bytes, permitted: bool| {
            let Some(mut one) = wasted.more(now) else {
                return false;
            };
            one.read(bytes);
            if permitted {
                one.permitted();
            }
            true
        };
        for _ in 0..100 {
            assert!(read(start, WASTED_BURST, true));
        }
        assert!(read(start, WASTED_BURST, false));
        assert!(!read(start, 1, false));
        let later = start + jiff::SignedDuration::from_secs(1);
        assert!(read(later, WASTED_PER_SECOND, false));
        assert!(!read(later, 1, false));
        // A clock that runs back gives nothing.
        assert!(!read(start, 1, false));
    }
}
