//! How the parts of an exchange, which live on tasks of their own, know that their agent has ended, and how its end waits for theirs.
//! Cuts nothing off: the resource table does, when it is dropped.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

/// What every part of an exchange holds.
pub(super) struct Life {
    ended: AtomicBool,
    // Never sent on: the other end learns that the last one is gone.
    _held: mpsc::Sender<Infallible>,
}

/// Waits until no part of an exchange is left.
#[derive(Debug)]
pub(crate) struct Gone(mpsc::Receiver<Infallible>);

/// What is cut off is gone at once, or its owner keeps it against the rules; then the log says of the use that it was abandoned, later.
const PATIENCE: Duration = Duration::from_secs(2);

impl Life {
    pub(super) fn new() -> (Arc<Self>, Gone) {
        let (held, gone) = mpsc::channel(1);
        let life = Self {
            ended: AtomicBool::new(false),
            _held: held,
        };
        (Arc::new(life), Gone(gone))
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Whether the agent has ended: what ends now did not end by itself.
    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Gone {
    /// Waits for the last part, for a while.
    pub(crate) async fn wait(mut self) {
        tokio::time::timeout(PATIENCE, self.0.recv()).await.ok();
    }
}
