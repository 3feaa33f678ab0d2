//! How long each phase of an exchange may take. Reads no clock but tokio's timer.

use std::time::Duration;

use claviger_core::egress::Fault;
use tokio::time::Instant;

/// A bound for each phase, beneath the bound for the whole exchange that the destination has. A phase that is over in time hands
/// none of its rest to the next.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Phases {
    /// From the question to the last address. The system's resolver asks each of its servers for 5 s before the next.
    pub resolve: Duration,
    /// To a TCP connection with any of the addresses.
    pub connect: Duration,
    /// The TLS handshake, with a signature in custody if the other end asks for one.
    pub tls: Duration,
    /// Without a further piece of the request's body, from the agent or taken by the server.
    pub request: Duration,
    /// From the end of the request to the head of the answer: some APIs think for long.
    pub head: Duration,
    /// Between pieces of the answer. Event streams send a comment every 15 to 30 s.
    pub answer: Duration,
}

impl Default for Phases {
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            request: Duration::from_secs(30),
            head: Duration::from_secs(60),
            answer: Duration::from_secs(60),
        }
    }
}

/// Does one thing within a phase and within the exchange.
///
/// # Errors
/// When the time is over; what was done by then is dropped.
pub(crate) async fn within<T>(
    phase: Duration,
    deadline: Instant,
    future: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let until = Instant::now()
        .checked_add(phase)
        .map_or(deadline, |end| end.min(deadline));
    tokio::time::timeout_at(until, future)
        .await
        .unwrap_or(Err(Fault::Timeout))
}
