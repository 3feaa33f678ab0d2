//! Requests of which an answer must not be lost, in tasks of their own: for tokens, and for new credentials. Whoever asked may go away, but
//! the host does not close over one. Not what they ask.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_core::manifest::MAX_ISSUING;
use claviger_core::refusal::Denial;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::ask::TOKEN_TIMEOUT;
use super::unavailable;

/// One that was sent has an answer after its timeout; then what must not be lost is written.
const FINISHING: Duration = MAX_ISSUING.saturating_add(Duration::from_secs(5));
const _: () = assert!(TOKEN_TIMEOUT.as_secs() <= MAX_ISSUING.as_secs());

/// Requests that are under way: one for each grant at most.
#[derive(Default)]
pub(in super::super) struct Askings(Mutex<UnderWay>);

#[derive(Default)]
struct UnderWay {
    // Invariant: never false again.
    closed: bool,
    tasks: JoinSet<()>,
}

impl Askings {
    pub(in super::super) fn spawn(
        &self,
        runtime: &Handle,
        asking: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Denial> {
        let mut under_way = self.lock();
        if under_way.closed {
            // `asking` is dropped after the lock, and tells those who wait.
            return Err(unavailable("the host is closing"));
        }
        while under_way.tasks.try_join_next().is_some() {}
        under_way.tasks.spawn_on(asking, runtime);
        Ok(())
    }

    /// Begins nothing more, and waits for what has begun. What is not over in time, or when the future is dropped, is dropped.
    pub(in super::super) async fn finish(&self) {
        let mut tasks = {
            let mut under_way = self.lock();
            under_way.closed = true;
            std::mem::take(&mut under_way.tasks)
        };
        let over = async { while tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(FINISHING, over).await);
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
