//! The signals that ask a command to end, and how it ends then. Ends nothing itself: whoever waits decides what is finished first.

use std::task::{Context, Poll, Waker};

use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

use crate::exit::{Exit, Failure};

/// A signal that asks a command to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal is gone.
    Hangup,
}

impl Signal {
    const ALL: [Self; 3] = [Self::Interrupt, Self::Terminate, Self::Hangup];

    /// The exit code that shells give a program which a signal ended: 128 and the signal's number.
    pub(crate) const fn code(self) -> u8 {
        128 + self.number()
    }

    const fn number(self) -> u8 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "Ctrl-C",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
        }
    }

    /// How a command ends that it stopped.
    pub(crate) fn stopped(self) -> Failure {
        Failure::new(Exit::Stopped(self), format!("stopped by {}", self.name()))
    }
}

/// Listens to the signals. Once there was one of these, no signal ends the process by itself any more.
#[derive(Debug)]
pub(crate) struct Interruption {
    listeners: Vec<(Signal, Listener)>,
}

impl Interruption {
    /// Listens from now on, but not to what the caller had ignored: `nohup` is to work. Needs a runtime around it.
    pub(crate) fn new() -> Result<Self, Failure> {
        let ignored = ignored();
        let listeners = Signal::ALL
            .into_iter()
            .filter(|it| ignored & (1 << (it.number() - 1)) == 0)
            .map(|it| Ok((it, signal(SignalKind::from_raw(it.number().into()))?)))
            .collect::<std::io::Result<_>>();
        match listeners {
            Ok(listeners) => Ok(Self { listeners }),
            Err(error) => Err(Failure::failed("the process cannot listen to signals").because(Some(&error))),
        }
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The one that came, if one did.
    pub(crate) fn arrived(&mut self) -> Option<Signal> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(signal) => Some(signal),
            Poll::Pending => None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        for (signal, listener) in &mut self.listeners {
            // A closed listener hears nothing more.
            if listener.poll_recv(cx) == Poll::Ready(Some(())) {
                return Poll::Ready(*signal);
            }
        }
        Poll::Pending
    }
}

/// Does what takes milliseconds and would leave half a file behind: a signal that comes meanwhile comes too late.
pub(crate) fn to_its_end<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Failure::failed("the process cannot listen to signals").because(Some(&error)))?;
    let _entered = runtime.enter();
    let _deaf = Interruption::new()?;
    work()
}

/// The signals that this process ignores, as proc(5) shows them: bit 0 is signal 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_shells() {
        assert_eq!(Signal::ALL.map(Signal::code), [130, 143, 129]);
    }

    #[test]
    fn what_rust_ignores_from_the_start_is_seen() {
        // SIGPIPE, 13: the proof that the mask is read.
        assert_eq!(ignored() & (1 << 12), 1 << 12);
    }

    #[tokio::test]
    async fn a_signal_arrives_once() {
        let mut interruption = Interruption::new().unwrap();
        assert_eq!(interruption.arrived(), None);
        let hang_up = || {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::HUP).unwrap();
        };
        if interruption.listeners.len() == Signal::ALL.len() {
            hang_up();
            assert_eq!(interruption.next().await, Signal::Hangup);
            assert_eq!(interruption.arrived(), None);
        }
    }
}
