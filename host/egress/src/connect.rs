//! From an origin to a TCP connection: resolve once, check every address, dial the checked ones. Knows no TLS and no HTTP.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use claviger_core::egress::{Destination, Fault};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::address::{Checked, Resolver};
use crate::phases::{Phases, within};

/// The next address is tried after this long without a connection: RFC 8305 §5 recommends it.
const NEXT_ATTEMPT: Duration = Duration::from_millis(250);

/// Opens a connection to the destination. Dropping the future closes what was opened.
pub(crate) async fn connect(
    resolver: &dyn Resolver,
    destination: &Destination,
    phases: &Phases,
    deadline: Instant,
) -> Result<TcpStream, Fault> {
    let origin = &destination.origin;
    let found = within(phases.resolve, deadline, async {
        resolver
            .resolve(origin.host())
            .await
            .map_err(|_| Fault::NoAddress)
    })
    .await?;
    let checked = Checked::new(&found, &destination.private_networks)?;
    within(phases.connect, deadline, dial(&checked, origin.port())).await
}

/// The first connection that any address takes, tried in order and staggered (RFC 8305 §5).
async fn dial(checked: &Checked, port: u16) -> Result<TcpStream, Fault> {
    let mut waiting = alternating(checked.addresses()).into_iter();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(TcpStream::connect(SocketAddr::new(address, port)));
        }
        let attempt = attempts.join_next();
        let ended = if waiting.len() == 0 {
            attempt.await
        } else {
            match tokio::time::timeout(NEXT_ATTEMPT, attempt).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(Ok(stream))) => {
                // Small requests leave at once; if the system does not want to, they leave later.
                drop(stream.set_nodelay(true));
                return Ok(stream);
            }
            None if waiting.len() == 0 => return Err(Fault::NoConnection),
            // One address failed: on to the next.
            Some(Ok(Err(_)) | Err(_)) | None => {}
        }
    }
}

/// The families in turn, beginning with that of the first address, so that a family without a way out costs one attempt.
fn alternating(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut one, mut other): (Vec<IpAddr>, Vec<IpAddr>) = addresses
        .iter()
        .copied()
        .rev()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut out = Vec::with_capacity(addresses.len());
    while !(one.is_empty() && other.is_empty()) {
        out.extend(one.pop());
        out.extend(other.pop());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_in_the_order_of_the_resolver() {
        let addresses =
            ["2a00::1", "2a00::2", "2a00::3", "8.8.8.8", "9.9.9.9"].map(|text| text.parse().unwrap());
        let expected = ["2a00::1", "8.8.8.8", "2a00::2", "9.9.9.9", "2a00::3"]
            .map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(alternating(&addresses), expected);
    }
}
