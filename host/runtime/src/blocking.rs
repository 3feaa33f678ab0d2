//! Work that may wait for a disk or take a while, off the async threads. Knows no work.

use tokio::task::JoinError;

/// Runs it to its end, also when the future is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    tokio::task::spawn_blocking(work).await
}
