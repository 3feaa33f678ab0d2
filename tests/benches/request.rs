//! A credentialed HTTPS GET against the bare client to the same server over a connection that is kept; the same from agents, alone and in
//! a crowd; and the search of answers for secrets. Both sides of a ratio are measured one after the other in the same run.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark stops at the first surprise, and nobody calls it"
)]

mod support;

#[path = "../../host/egress/tests/kit/pki.rs"]
#[allow(
    clippy::unwrap_used,
    dead_code,
    reason = "the other test binary uses all of it"
)]
mod pki;

use std::convert::Infallible;
use std::hint::black_box;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use claviger::{Agent, Answer, Host, PoolSize, RunInput};
use claviger_broker::LocalBroker;
use claviger_broker::local::SecretCreation;
use claviger_core::egress::{Frame, RequestHead};
use claviger_core::http::InjectionKind;
use claviger_core::{BoxFuture, Broker, ComponentDigest, InstanceId, Manifest, Secret};
use claviger_egress::scrub::Scrubber;
use claviger_egress::{HttpsClient, Phases, Resolver};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kit::vault::Vault;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const TOKEN: &str = "a-token-of-forty-characters-0123456789ab";
const CROWD: usize = 64;
/// What the server answers: as much as a small object of an API.
const BODY: &[u8] = &[b'j'; 512];

/// Every name leads to loopback.
#[derive(Debug)]
struct Loopback;

impl Resolver for Loopback {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])))
    }
}

/// A server on threads of its own.
fn serve() -> (Runtime, SocketAddr) {
    let runtime = support::runtime();
    let config = pki::server_config(&pki::leaf(pki::Leaf::Right), &pki::Speaks::default());
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let answer = hyper::service::service_fn(|_| {
                    let body = Full::new(Bytes::from_static(BODY));
                    std::future::ready(Ok::<_, Infallible>(Response::new(body)))
                });
                let served = hyper::server::conn::http1::Builder::new();
                drop(served.serve_connection(TokioIo::new(tls), answer).await);
            });
        }
    });
    (runtime, address)
}

/// A keyring with one token and an agent that may use it.
struct Scene {
    runtime: Runtime,
    broker: Arc<LocalBroker>,
    url: String,
    manifest: Manifest,
    address: SocketAddr,
    _vault: Vault,
    _folder: TempDir,
    _server: Runtime,
}

fn scene() -> Scene {
    let (server, address) = serve();
    let (runtime, folder) = (support::runtime(), support::folder());
    let client = HttpsClient::with(Arc::new(Loopback), Phases::default());
    let vault = runtime.block_on(Vault::sending(folder.path(), None, Arc::new(client)));
    let origin = format!("https://api.test:{}", address.port());
    let creation = SecretCreation {
        name: "token".parse().unwrap(),
        kind: InjectionKind::Bearer,
        origin: origin.parse().unwrap(),
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut TOKEN.as_bytes().to_vec()).unwrap(),
    };
    runtime.block_on(vault.broker.add_secret(creation)).unwrap();
    let base64 = Base64::encode_string(&pki::ca().der);
    let lines: Vec<_> = base64
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    let manifest = kit::manifest(&format!(
        "digest = \"{}\"\n[limits]\ndeadline = \"1 h\"\ncpu = \"1 h\"\n[grants.web]\ninject = {{ bearer = \"token\" }}\n\
         [grants.web.http]\norigin = \"{origin}\"\nallow = [\"GET /v1/*\"]\nprivate-network = [\"127.0.0.0/8\"]\n\
         authorities = \"-----BEGIN CERTIFICATE-----\\n{}\\n-----END CERTIFICATE-----\\n\"\n",
        ComponentDigest::of(kit::guest(kit::Guest::Http)),
        lines.join("\\n")
    ));
    Scene {
        runtime,
        broker: Arc::clone(&vault.broker),
        url: format!("{origin}/v1/a"),
        manifest,
        address,
        _vault: vault,
        _folder: folder,
        _server: server,
    }
}

/// One request through broker and egress.
async fn through(broker: &LocalBroker, who: InstanceId, url: &str) {
    let head = RequestHead {
        method: "GET".to_owned(),
        url: url.to_owned(),
        headers: Vec::new(),
    };
    let mut answer = broker.send(who, head, None).await.unwrap();
    let mut length = 0;
    while let Some(frame) = std::future::poll_fn(|context| answer.body.as_mut().poll_next(context)).await {
        if let Frame::Data(bytes) = frame.unwrap() {
            length += bytes.len();
        }
    }
    assert_eq!((answer.status, length), (200, BODY.len()));
}

/// A connection of hyper over rustls, and nothing else.
async fn connect(address: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(pki::ca().der.as_slice())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = ServerName::try_from("api.test").unwrap();
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn bare(sender: &mut SendRequest<Empty<Bytes>>) {
    let request = Request::get("/v1/a")
        .header("host", "api.test")
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(Empty::new())
        .unwrap();
    sender.ready().await.unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!((status.as_u16(), body.len()), (200, BODY.len()));
}

fn requests(criterion: &mut Criterion) {
    let scene = scene();
    let component = kit::guest(kit::Guest::Http);
    let digest = ComponentDigest::of(component);
    let admission = scene
        .runtime
        .block_on(scene.broker.admit(&scene.manifest, digest))
        .unwrap();
    let who = scene.broker.start(admission.id).unwrap();
    let mut group = criterion.benchmark_group("request");
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .measurement_time(Duration::from_secs(5));
    group.bench_function("claviger", |b| {
        b.iter_custom(|times| {
            scene.runtime.block_on(async {
                let began = Instant::now();
                for _ in 0..times {
                    through(&scene.broker, who, &scene.url).await;
                }
                began.elapsed()
            })
        });
    });
    group.bench_function("hyper-rustls", |b| {
        b.iter_custom(|times| {
            scene.runtime.block_on(async {
                let mut sender = connect(scene.address).await;
                let began = Instant::now();
                for _ in 0..times {
                    bare(&mut sender).await;
                }
                began.elapsed()
            })
        });
    });
    let host = Host::builder(Arc::clone(&scene.broker) as Arc<dyn Broker>)
        .pool(PoolSize::new(u32::try_from(CROWD).unwrap()))
        .build()
        .unwrap();
    let folder = support::folder();
    let loading = host.load(&scene.manifest, folder.path(), component);
    let agent = Arc::new(scene.runtime.block_on(loading).unwrap());
    for agents in [1, CROWD] {
        group.bench_function(format!("agents-{agents}"), |b| {
            b.iter_custom(|times| {
                let each = usize::try_from(times).unwrap().div_ceil(agents);
                let took = scene.runtime.block_on(crowd(&agent, &scene.url, agents, each));
                // Per request, whatever the number that each agent made.
                took.mul_f64(times as f64 / (each * agents) as f64)
            });
        });
    }
    group.finish();
}

/// So many agents at once, each sending so many requests, one after the other.
async fn crowd(agent: &Arc<Agent>, url: &str, agents: usize, each: usize) -> Duration {
    let began = Instant::now();
    let running: Vec<_> = (0..agents)
        .map(|_| {
            let (agent, input) = (Arc::clone(agent), RunInput::text(format!("repeat {url} {each}")));
            tokio::spawn(async move { agent.run(input).await.unwrap().answer })
        })
        .collect();
    for one in running {
        assert_eq!(one.await.unwrap(), Answer::Done(format!("{each} answered")));
    }
    began.elapsed()
}

/// Clean answers, as text that looks like that of APIs.
fn scrub(criterion: &mut Criterion) {
    let line = "{\"id\": 4711, \"name\": \"release-2026\", \"url\": \"https://api.test/repos/acme/site\", \"sha\": \"9f86d081884c7d65\"},\n";
    let mut text = line.repeat((1 << 20) / line.len() + 1).into_bytes();
    text.truncate(1 << 20);
    let chunk = Bytes::from(text);
    let mut group = criterion.benchmark_group("scrub");
    group.throughput(Throughput::Bytes(1 << 20)).sample_size(20);
    for (name, count) in [("one-secret", 1_u8), ("eight-secrets", 8)] {
        // Of different beginnings, as tokens of different issuers are.
        let secrets: Vec<_> = (0..count)
            .map(|n| {
                let text = format!(
                    "{}{n}{TOKEN}",
                    ["gh", "Zk", "q7", "xo", "AK", "R5", "mN", "8t"][usize::from(n)]
                );
                Arc::new(Secret::take(&mut text.into_bytes()).unwrap())
            })
            .collect();
        let mut scrubber = Scrubber::new(&secrets).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| scrubber.scan(black_box(chunk.clone())).unwrap());
        });
    }
    group.bench_function("copy", |b| b.iter(|| black_box(&chunk).to_vec()));
    group.finish();
}

criterion_group!(benches, requests, scrub);
criterion_main!(benches);
