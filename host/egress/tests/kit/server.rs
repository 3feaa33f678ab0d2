//! A server that does what a script says, byte by byte, over real TLS. Knows no HTTP but where a request ends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::pki::{Leaf, Speaks, leaf, server_config};

/// One step of a script.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Reads one whole request.
    Read,
    /// Reads this many bytes.
    ReadSome(usize),
    /// Writes.
    Write(Vec<u8>),
    /// Writes past TLS, onto the TCP connection.
    Bare(Vec<u8>),
    /// Writes each byte as a record of its own.
    Trickle(Vec<u8>),
    /// Writes this until the other end has had enough.
    Flood(Vec<u8>),
    /// Says goodbye in TLS and closes.
    Close,
    /// Closes without a goodbye.
    Cut,
    /// Resets the connection.
    Reset,
    /// Waits until the other end closes.
    Wait,
    /// Begins the script anew, on the same connection.
    Again,
}

/// What a server saw.
#[derive(Debug, Default)]
pub(crate) struct Saw {
    pub(crate) connections: usize,
    pub(crate) handshakes: usize,
    pub(crate) requests: Vec<Vec<u8>>,
    /// Scripts that came to their end, or to that of their connection.
    pub(crate) ended: usize,
}

/// Called with the server's port and each request before the script goes on.
pub(crate) type Look = Arc<dyn Fn(u16, &[u8]) + Send + Sync>;

/// A running server; dropped, it ends.
pub(crate) struct Server {
    pub(crate) port: u16,
    saw: Arc<Mutex<Saw>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(steps: Vec<Step>) -> Self {
        let config = server_config(&leaf(Leaf::Right), &Speaks::default());
        Self::with(Some(config), steps).await
    }

    /// Without a configuration, the script is played over bare TCP.
    pub(crate) async fn with(config: Option<Arc<ServerConfig>>, steps: Vec<Step>) -> Self {
        Self::watched(config, steps, Arc::new(|_, _| ())).await
    }

    pub(crate) async fn watched(config: Option<Arc<ServerConfig>>, steps: Vec<Step>, look: Look) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let saw = Arc::new(Mutex::new(Saw::default()));
        let seen = Arc::clone(&saw);
        let task = tokio::spawn(async move {
            let mut playing = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                seen.lock().unwrap().connections += 1;
                tcp.set_nodelay(true).unwrap();
                let (config, steps, seen) = (config.clone(), steps.clone(), Arc::clone(&seen));
                let (look, counts) = (Arc::clone(&look), Arc::clone(&seen));
                let look = move |request: Vec<u8>| {
                    look(port, &request);
                    seen.lock().unwrap().requests.push(request);
                };
                playing.spawn(async move {
                    match config {
                        None => {
                            drop(play(Wire::Tcp(tcp), &steps, &look).await);
                            counts.lock().unwrap().ended += 1;
                        }
                        Some(config) => {
                            if let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await {
                                counts.lock().unwrap().handshakes += 1;
                                drop(play(Wire::Tls(Box::new(tls)), &steps, &look).await);
                                counts.lock().unwrap().ended += 1;
                            }
                        }
                    }
                });
            }
        });
        Self { port, saw, task }
    }

    /// Waits until what it saw is so.
    pub(crate) async fn until(&self, so: impl Fn(&Saw) -> bool) {
        let waiting = async {
            while !self.saw(&so) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .unwrap();
    }

    pub(crate) fn saw<T>(&self, look: impl FnOnce(&Saw) -> T) -> T {
        look(&self.saw.lock().unwrap())
    }
}

enum Wire {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read(buffer).await,
            Self::Tls(tls) => tls.read(buffer).await,
        }
    }

    fn bare(&mut self) -> &mut TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_mut().0,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.write_all(bytes).await,
            Self::Tls(tls) => {
                tls.write_all(bytes).await?;
                tls.flush().await
            }
        }
    }
}

async fn play(mut wire: Wire, steps: &[Step], look: &(dyn Fn(Vec<u8>) + Sync)) -> std::io::Result<()> {
    let mut rest = Vec::new();
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        at += 1;
        match step {
            Step::Read => match request(&mut wire, &mut rest).await? {
                Some(request) => look(request),
                None => return Ok(()),
            },
            Step::ReadSome(count) => {
                let mut some = vec![0; *count];
                let mut have = 0;
                while have < *count {
                    match wire.read(&mut some[have..]).await? {
                        0 => return Ok(()),
                        more => have += more,
                    }
                }
                look(some);
            }
            Step::Write(bytes) => wire.write(bytes).await?,
            Step::Bare(bytes) => wire.bare().write_all(bytes).await?,
            Step::Trickle(bytes) => {
                for byte in bytes {
                    wire.write(&[*byte]).await?;
                    tokio::task::yield_now().await;
                }
            }
            Step::Flood(bytes) => loop {
                wire.write(bytes).await?;
            },
            Step::Close => {
                if let Wire::Tls(tls) = &mut wire {
                    tls.shutdown().await?;
                }
                return Ok(());
            }
            Step::Cut => return Ok(()),
            Step::Reset => {
                let tcp = match wire {
                    Wire::Tcp(tcp) => tcp,
                    Wire::Tls(tls) => tls.into_inner().0,
                };
                return tcp.set_zero_linger();
            }
            Step::Wait => {
                let mut buffer = [0; 1024];
                while wire.read(&mut buffer).await? > 0 {}
            }
            Step::Again => at = 0,
        }
    }
    // What was written must arrive: a socket that is closed with unread bytes resets.
    if let Wire::Tls(tls) = &mut wire {
        tls.shutdown().await?;
    }
    Ok(())
}

/// The bytes of one request: its head, and its body by `content-length` or chunks. None at the end of the connection.
async fn request(wire: &mut Wire, rest: &mut Vec<u8>) -> std::io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&rest[..end]).to_lowercase();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            let chunked = head.contains("transfer-encoding: chunked");
            let whole = if chunked {
                rest[end..]
                    .windows(5)
                    .position(|five| five == b"0\r\n\r\n")
                    .map(|at| end + at + 5)
            } else {
                Some(end + 4 + length).filter(|whole| rest.len() >= *whole)
            };
            if let Some(whole) = whole {
                return Ok(Some(rest.drain(..whole).collect()));
            }
        }
        match wire.read(&mut buffer).await? {
            0 => return Ok(None),
            count => rest.extend(&buffer[..count]),
        }
    }
}
