//! An agent's stdout and stderr: kept up to a cap, handed on as they come. Shows nothing itself; whoever shows it, escapes it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use claviger_core::audit::StopLimit;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

use crate::limits::Stop;

/// What a guest may write in one go: the usual pipe buffer.
const MAX_CHUNK: usize = 64 * 1024;

/// Called with each piece of output as it comes, on the thread that runs the agent: it must be quick, and escape what it shows.
#[derive(Clone)]
pub struct OutputSink(Arc<Sink>);

/// What is called with each piece.
type Sink = dyn Fn(&[u8]) + Send + Sync;

impl OutputSink {
    /// Calls this with each piece.
    #[must_use]
    pub fn new(sink: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }
}

impl fmt::Debug for OutputSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutputSink")
    }
}

/// One captured stream; clones write to the same.
#[derive(Debug, Clone)]
pub(crate) struct Captured {
    kept: Arc<Mutex<Vec<u8>>>,
    cap: usize,
    sink: Option<OutputSink>,
}

impl Captured {
    pub(crate) fn new(cap: usize, sink: Option<OutputSink>) -> Self {
        Self {
            kept: Arc::default(),
            cap,
            sink,
        }
    }

    /// What was written up to now.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps what fits; more than fits is an error, after what fits was kept.
    fn keep(&self, bytes: &[u8]) -> Result<(), Stop> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.cap.saturating_sub(kept.len());
        let fits = bytes.get(..room).unwrap_or(bytes);
        kept.extend_from_slice(fits);
        drop(kept);
        if let Some(sink) = &self.sink {
            (sink.0)(fits);
        }
        if fits.len() < bytes.len() {
            return Err(Stop(StopLimit::Output));
        }
        Ok(())
    }
}

impl IsTerminal for Captured {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Captured {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Captured {
    async fn ready(&mut self) {}
}

impl OutputStream for Captured {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.keep(&bytes).map_err(|stop| StreamError::Trap(stop.into()))
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(MAX_CHUNK)
    }
}

impl AsyncWrite for Captured {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(
            self.keep(bytes)
                .map(|()| bytes.len())
                .map_err(std::io::Error::other),
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_kept_and_the_rest_stops() {
        let captured = Captured::new(5, None);
        captured.keep(b"abc").unwrap();
        assert!(matches!(captured.keep(b"def"), Err(Stop(StopLimit::Output))));
        assert_eq!(captured.take(), b"abcde");
    }
}
