//! How long a revocation takes to hold, over all instances of a host: 64 instances use a key in a loop, and 64 answers stream, while an
//! operator takes the credential away through the control socket. Prints percentiles; the one thing it insists on is that no use that began
//! after the reply succeeds. Not a criterion benchmark: what counts is the slowest of a hundred, not the middle.
#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use claviger_broker::LocalBroker;
use claviger_broker::local::SecretCreation;
use claviger_broker::operator::{Change, Client, Command};
use claviger_core::egress::{Answer, Egress, Frame, Plan, RequestHead, SendError, TokenAnswer, TokenPlan};
use claviger_core::http::InjectionKind;
use claviger_core::{Algorithm, BoxFuture, Broker as _, InstanceId, Permit, Refusal, Secret};
use futures_core::Stream;
use kit::vault::{Vault, labeled, named, sign, start};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const INSTANCES: usize = 64;
/// So many that a p99 is one of them.
const ROUNDS: usize = 200;

const GRANTS: &str = "[grants.notes]\nsign = { key = \"notes\" }\n\
    [grants.api]\nhttp = { origin = \"https://api.test\", allow = [\"GET /**\"] }\ninject = { bearer = \"token\" }\n";

/// An outside whose answers go on for ever, a piece whenever one is wanted.
#[derive(Debug)]
struct Endless;

struct Pieces;

impl Stream for Pieces {
    type Item = Result<Frame, SendError>;
    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(b"piece")))))
    }
}

impl Egress for Endless {
    fn send<'a>(&'a self, _: &'a Permit, _: Plan) -> BoxFuture<'a, Result<Answer, SendError>> {
        Box::pin(std::future::ready(Ok(Answer {
            status: 200,
            headers: Vec::new(),
            body: Box::pin(Pieces),
            dpop_nonce: None,
        })))
    }

    fn token<'a>(&'a self, _: &'a Permit, _: TokenPlan) -> BoxFuture<'a, Result<TokenAnswer, SendError>> {
        Box::pin(std::future::pending())
    }
}

/// When the last result came, and whether one was of a use that began after the reply.
struct Last {
    came: Instant,
    began: Instant,
}

/// One instance that signs until it is refused.
async fn sign_until_refused(broker: Arc<LocalBroker>, who: InstanceId, ready: Arc<Barrier>) -> Last {
    sign(&broker, who, "notes", b"warm").await.unwrap();
    ready.wait().await;
    let now = Instant::now();
    let mut last = Last {
        came: now,
        began: now,
    };
    loop {
        let began = Instant::now();
        match sign(&broker, who, "notes", b"x").await {
            Ok(_) => {
                last = Last {
                    came: Instant::now(),
                    began,
                };
            }
            Err(Refusal::Revoked) => return last,
            Err(other) => panic!("{other}"),
        }
        tokio::task::yield_now().await;
    }
}

/// One instance that reads an answer until it is cut off.
async fn read_until_cut(broker: Arc<LocalBroker>, who: InstanceId, ready: Arc<Barrier>) -> Last {
    let head = RequestHead {
        method: "GET".to_owned(),
        url: "https://api.test/events".to_owned(),
        headers: Vec::new(),
    };
    let mut answer = broker.send(who, head, None).await.unwrap();
    ready.wait().await;
    let now = Instant::now();
    let mut last = Last {
        came: now,
        began: now,
    };
    loop {
        let began = Instant::now();
        let piece = std::future::poll_fn(|cx| answer.body.as_mut().poll_next(cx)).await;
        match piece {
            Some(Ok(_)) => {
                last = Last {
                    came: Instant::now(),
                    began,
                };
            }
            Some(Err(SendError::Refused {
                refusal: Refusal::Revoked,
                ..
            })) => return last,
            Some(Err(error)) => panic!("{error}"),
            None => panic!("it has no end of its own"),
        }
        tokio::task::yield_now().await;
    }
}

/// Has the host do it, as the command does, and says when it was asked and when it had done it.
async fn operate(folder: &Path, command: &Command) -> (Instant, Instant) {
    let asked = Instant::now();
    let host = Client::connect(folder).await.unwrap();
    host.command(command, None).await.unwrap();
    (asked, Instant::now())
}

#[derive(Default)]
struct Times {
    /// From the operator's command to its reply.
    reply: Vec<Duration>,
    /// From the command to the last result of all instances.
    holds: Vec<Duration>,
    /// From the reply to the last result, if it came later: it had been released before.
    late: Vec<Duration>,
    /// Results of uses that began after the reply.
    wrong: usize,
}

impl Times {
    fn take(&mut self, asked: Instant, replied: Instant, lasts: Vec<Last>) {
        self.reply.push(replied - asked);
        self.wrong += lasts.iter().filter(|last| last.began > replied).count();
        let last = lasts.into_iter().map(|last| last.came).max().unwrap();
        self.holds.push(last.saturating_duration_since(asked));
        self.late.push(last.saturating_duration_since(replied));
    }

    fn show(mut self, what: &str) {
        println!("{what}: {ROUNDS} rounds with {INSTANCES} instances");
        for (name, times) in [
            ("command to reply", &mut self.reply),
            ("command to last result", &mut self.holds),
            ("reply to last result", &mut self.late),
        ] {
            times.sort_unstable();
            let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
            println!(
                "  {name:<24} p50 {:>10.3?}  p99 {:>10.3?}  most {:>10.3?}",
                at(50),
                at(99),
                at(100)
            );
        }
        println!("  results of uses that began after the reply: {}", self.wrong);
        assert_eq!(self.wrong, 0, "a revocation must hold at the next call");
    }
}

/// Takes the credential away while every instance uses it, and puts it back, again and again.
async fn measure<F>(
    vault: &Vault,
    away: &Command,
    back: &Command,
    busy: fn(Arc<LocalBroker>, InstanceId, Arc<Barrier>) -> F,
) -> Times
where
    F: Future<Output = Last> + Send + 'static,
{
    let folder: PathBuf = vault.folder().to_owned();
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        instances.push(start(&vault.broker, GRANTS).await);
    }
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        let ready = Arc::new(Barrier::new(INSTANCES + 1));
        let mut running = JoinSet::new();
        for who in &instances {
            running.spawn(busy(Arc::clone(&vault.broker), *who, Arc::clone(&ready)));
        }
        ready.wait().await;
        let (asked, replied) = operate(&folder, away).await;
        times.take(asked, replied, running.join_all().await);
        operate(&folder, back).await;
    }
    times
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    runtime.block_on(async {
        let vault = Vault::sending(folder.path(), None, Arc::new(Endless)).await;
        vault.key("notes", labeled(), Algorithm::Ed25519).await;
        let creation = SecretCreation {
            name: named("token"),
            kind: InjectionKind::Bearer,
            origin: named("https://api.test"),
            expires: None,
            rotate_every: None,
            value: Secret::take(&mut b"a-token-of-this-benchmark".to_vec()).unwrap(),
        };
        vault.broker.add_secret(creation).await.unwrap();
        vault.broker.serve_control().unwrap();
        // Disabling is revoking but for the state's name, and can be taken back.
        let key = |change| Command::ChangeKey {
            name: named("notes"),
            change,
        };
        let secret = |change| Command::ChangeSecret {
            name: named("token"),
            change,
        };
        measure(
            &vault,
            &key(Change::Disable),
            &key(Change::Enable),
            sign_until_refused,
        )
        .await
        .show("a key in use");
        measure(
            &vault,
            &secret(Change::Disable),
            &secret(Change::Enable),
            read_until_cut,
        )
        .await
        .show("a secret of open streams");
        vault.broker.close().await.unwrap();
    });
}
