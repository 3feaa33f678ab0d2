//! What one run may consume, and how a stop at a limit is told from a fault of the guest. Not the pool: that is `engine`'s.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use claviger_core::audit::{InstanceEnd, StopLimit};
use claviger_core::name::escape;
use claviger_core::profile::MAX_SSHSIG_CONTENT;
use wasmtime::component::ResourceTableError;
use wasmtime::{ResourceLimiter, Trap};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::FieldMapError;

use crate::engine::MAX_TABLE_ELEMENTS;

/// Bytes that one host call may lift from the guest: the largest content to sign, and room for a list that is just over it, so
/// that the broker can refuse and log that one.
pub(crate) const HOSTCALL_BYTES: usize = MAX_SSHSIG_CONTENT + 64 * 1024;

/// Handles alive in one instance, in all its handle tables: signers, streams, files, pollables.
pub(crate) const MAX_HANDLES: usize = 4096;

/// Host resources alive in one instance: each has a host allocation behind it, so this is tighter than the handles.
pub(crate) const MAX_HOST_RESOURCES: usize = 1024;

/// Files, folders and listings open at once in one instance: each is a file descriptor of the host, of which a process often has 1024. A
/// file is open until its descriptor and all its streams are gone.
pub(crate) const MAX_OPEN_FILES: usize = 64;

/// Signers open at once in one instance, as promised in WIT.
pub(crate) const MAX_OPEN_SIGNERS: usize = 64;

/// Sealers open at once in one instance, as promised in WIT.
pub(crate) const MAX_OPEN_SEALERS: usize = 64;

/// Authenticators open at once in one instance, as promised in WIT.
pub(crate) const MAX_OPEN_AUTHENTICATORS: usize = 64;

/// Elements in all tables of one instance.
const MAX_ALL_TABLE_ELEMENTS: usize = 100_000;

/// Random bytes in one call: more than any key or seed.
pub(crate) const MAX_RANDOM: u64 = 64 * 1024;

/// The input of `claviger:agent/run`, in bytes, as promised in WIT.
pub const MAX_INPUT: usize = 1024 * 1024;

/// The answer of `claviger:agent/run`, in bytes, as promised in WIT. A manifest's `output` can be tighter.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// The error that ends a run at a limit. Never seen by the guest: it is a trap.
#[derive(Debug, thiserror::Error)]
#[error("stopped at the limit of {0:?}")]
pub(crate) struct Stop(pub(crate) StopLimit);

/// Totals of one instance, over all its memories and tables.
#[derive(Debug)]
pub(crate) struct Totals {
    memory: usize,
    max_memory: usize,
    elements: usize,
    // What the last growth asked for: given back if it fails after it was allowed.
    last_memory: usize,
    last_elements: usize,
}

impl Totals {
    pub(crate) fn new(max_memory: u64) -> Self {
        Self {
            memory: 0,
            max_memory: usize::try_from(max_memory).unwrap_or(usize::MAX),
            elements: 0,
            last_memory: 0,
            last_elements: 0,
        }
    }

    fn grow_memory(&mut self, current: usize, desired: usize) -> Result<(), Stop> {
        let more = desired.saturating_sub(current);
        let total = self.memory.saturating_add(more);
        if total > self.max_memory {
            return Err(Stop(StopLimit::Memory));
        }
        self.memory = total;
        self.last_memory = more;
        Ok(())
    }

    fn grow_table(&mut self, current: usize, desired: usize) -> Result<(), Stop> {
        let more = desired.saturating_sub(current);
        let total = self.elements.saturating_add(more);
        if desired > MAX_TABLE_ELEMENTS || total > MAX_ALL_TABLE_ELEMENTS {
            return Err(Stop(StopLimit::Tables));
        }
        self.elements = total;
        self.last_elements = more;
        Ok(())
    }
}

impl ResourceLimiter for Totals {
    // An error stops the instance and says why; `Ok(false)` would make a Rust guest abort as if by a fault of its own.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow_memory(current, desired)?;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory = self.memory.saturating_sub(std::mem::take(&mut self.last_memory));
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow_table(current, desired)?;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.elements = self
            .elements
            .saturating_sub(std::mem::take(&mut self.last_elements));
        Ok(())
    }
}

/// A run's future with its processor time counted: the guest gives way at every tick of the engine, and time in which a host
/// call is pending is not spent in here. Work that a host call does at once counts as the agent's. What the broker does on a thread for
/// blocking work, such as hashing content over 1 MiB, does not: the deadline bounds that, and the grant's rate and uses.
pub(crate) struct Metered<F> {
    run: Pin<Box<F>>,
    spent: Duration,
    limit: Duration,
}

impl<F> Metered<F> {
    pub(crate) fn new(run: F, limit: Duration) -> Self {
        Self {
            run: Box::pin(run),
            spent: Duration::ZERO,
            limit,
        }
    }
}

impl<T, F: Future<Output = wasmtime::Result<T>>> Future for Metered<F> {
    type Output = wasmtime::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Each look at the clock is a system call, so there is none after the last poll: what ended is not stopped any more.
        let before = processor_time();
        if let Poll::Ready(result) = self.run.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        self.spent += processor_time().saturating_sub(before);
        if self.spent > self.limit {
            return Poll::Ready(Err(Stop(StopLimit::Cpu).into()));
        }
        Poll::Pending
    }
}

/// Processor time of this thread: what other threads and processes take from it does not count against the agent.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Wall-clock time in the poll, where there is no clock of the thread: stricter on a busy machine.
#[cfg(not(target_os = "linux"))]
fn processor_time() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// How a run ended that did not return: at a limit, by exiting, or by a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(u8),
    Stopped(StopLimit),
    Trapped(String),
}

impl From<Ended> for InstanceEnd {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Exited(0) => Self::Finished,
            Ended::Exited(_) => Self::Failed,
            Ended::Stopped(limit) => Self::Stopped { limit },
            Ended::Trapped(trap) => Self::Trapped { trap },
        }
    }
}

/// Tells what ended a run. The engine has no types for two of its limits: their texts are pinned by tests through a guest.
pub(crate) fn classify(error: &wasmtime::Error) -> Ended {
    if let Some(Stop(limit)) = error.downcast_ref::<Stop>() {
        return Ended::Stopped(*limit);
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Ended::Exited(u8::try_from(*code).unwrap_or(u8::MAX));
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        return Ended::Stopped(StopLimit::Handles);
    }
    // More header fields than one request can have.
    if error.downcast_ref::<FieldMapError>().is_some() {
        return Ended::Stopped(StopLimit::HostCall);
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return match *trap {
            Trap::StackOverflow => Ended::Stopped(StopLimit::Stack),
            other => Ended::Trapped(escape(&other.to_string(), MAX_TRAP_TEXT)),
        };
    }
    let cause = error.root_cause().to_string();
    if cause.contains(HOSTCALL_FUEL_TEXT) {
        return Ended::Stopped(StopLimit::HostCall);
    }
    if cause.contains(HANDLES_TEXT) {
        return Ended::Stopped(StopLimit::Handles);
    }
    Ended::Trapped(escape(
        &format!("misused a host interface: {cause}"),
        MAX_TRAP_TEXT,
    ))
}

/// Of wasmtime's private `HostcallFuelExhausted`.
const HOSTCALL_FUEL_TEXT: &str = "fuel allocated for hostcalls has been exhausted";

/// Of wasmtime's handle tables.
const HANDLES_TEXT: &str = "store handle limit exceeded";

/// A trap's text in the log has at most this many characters.
const MAX_TRAP_TEXT: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_totalled_and_a_failed_growth_is_given_back() {
        let mut totals = Totals::new(100);
        totals.grow_memory(0, 60).unwrap();
        assert!(matches!(totals.grow_memory(0, 41), Err(Stop(StopLimit::Memory))));
        totals.grow_memory(0, 40).unwrap();
        totals
            .memory_grow_failed(wasmtime::Error::msg("no pages"))
            .unwrap();
        totals.grow_memory(60, 100).unwrap();
        assert!(matches!(
            totals.grow_memory(100, 101),
            Err(Stop(StopLimit::Memory))
        ));
    }

    #[test]
    fn tables_are_capped_each_and_together() {
        let mut totals = Totals::new(0);
        assert!(matches!(
            totals.grow_table(0, MAX_TABLE_ELEMENTS + 1),
            Err(Stop(StopLimit::Tables))
        ));
        for _ in 0..5 {
            totals.grow_table(0, MAX_TABLE_ELEMENTS).unwrap();
        }
        assert!(matches!(totals.grow_table(0, 1), Err(Stop(StopLimit::Tables))));
    }

    #[test]
    fn an_exit_is_not_a_fault_and_a_fault_is_not_an_exit() {
        let exit = wasmtime::Error::new(I32Exit(0)).context("in a host call");
        assert_eq!(classify(&exit), Ended::Exited(0));
        let fault = wasmtime::Error::new(Trap::IntegerDivisionByZero);
        assert!(matches!(classify(&fault), Ended::Trapped(text) if text.contains("divide by zero")));
    }
}
