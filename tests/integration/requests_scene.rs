//! A real agent in a real host on a real keyring, the real client, and servers on loopback that do as they are told: nothing between them
//! is a model. With every scene goes an oracle: what a server sees was on the log before, and the secret is where it belongs alone.
//! Not a test itself: the tests of requests share it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use claviger::{Agent, Answer, OutputSink, RunInput, RunReport};
use claviger_broker::local::{AUDIT_FOLDER, SecretCreation};
use claviger_core::audit::{Entry, Event, Settlement, Traffic, Use};
use claviger_core::http::InjectionKind;
use claviger_core::refusal::Rule;
use claviger_core::{BoxFuture, Refusal, Secret};
use claviger_egress::{HttpsClient, Phases, Resolver};
use kit::Guest;
use kit::entries::entries;
use kit::scan::{Hit, Scanner};
use kit::stage::{Action, Stage};
use kit::vault::{Vault, named, swtpm};
use tempfile::TempDir;

use self::pki::{Leaf, Speaks};
use self::server::{Look, Server, Step};

// Those of the client's own tests: a server by script, its certificates, and the spellings in which it echoes.
#[path = "../../host/egress/tests/kit/echo.rs"]
#[allow(dead_code, reason = "the other test binary uses all of it")]
pub(crate) mod echo;
#[path = "../../host/egress/tests/kit/pki.rs"]
#[allow(dead_code, reason = "the other test binary uses all of it")]
pub(crate) mod pki;
#[path = "../../host/egress/tests/kit/server.rs"]
#[allow(dead_code, reason = "the other test binary uses all of it")]
pub(crate) mod server;

/// The credential of every test: what an escape changes is in it.
pub(crate) const SECRET: &str = "tok/4f+Zq7\"Q<mXpW=t9~K!bVr2";
/// What the agent is given in its input, and so must be found in its memory.
const CONTROL: &str = "control-9c1b7e42d05fa863";
/// Every server's name.
pub(crate) const HOST: &str = "api.test";

/// What the keyring stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    Passphrase,
    Swtpm,
}

/// A request as a server saw it, and what the log said by then.
struct Seen {
    port: u16,
    holds_secret: bool,
    // Whether the server read it to its end: some scripts do not.
    whole: bool,
    allowed_before: usize,
}

#[derive(Default)]
struct Witness {
    seen: Mutex<Vec<Seen>>,
}

/// Every name leads to loopback; what was asked is kept.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Vec<String>>);

impl Names {
    pub(crate) fn asked(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.0.lock().unwrap().push(name.to_owned());
        Box::pin(std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])))
    }
}

/// What an agent said, line by line, and when it was at its end.
pub(crate) struct Told {
    pub(crate) answers: Vec<String>,
    pub(crate) ended: Instant,
}

pub(crate) struct Scene {
    pub(crate) stage: Stage,
    pub(crate) names: Arc<Names>,
    folder: TempDir,
    witness: Arc<Witness>,
    hits: Mutex<Vec<Hit>>,
}

impl Scene {
    pub(crate) async fn new(root: Root) -> Self {
        let folder = TempDir::new().unwrap();
        let names = Arc::new(Names::default());
        let client = HttpsClient::with(Arc::clone(&names) as Arc<dyn Resolver>, Phases::default());
        let tpm = match root {
            Root::Passphrase => None,
            Root::Swtpm => Some(swtpm(folder.path())),
        };
        let vault = Vault::sending(folder.path(), tpm, Arc::new(client)).await;
        Self {
            stage: Stage::new(vault),
            names,
            folder,
            witness: Arc::default(),
            hits: Mutex::default(),
        }
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.stage.vault.folder().join(AUDIT_FOLDER)
    }

    /// Starts a server whose requests are compared with the log as they come.
    pub(crate) async fn server(&self, steps: Vec<Step>) -> Server {
        let (log, witness) = (self.audit(), Arc::clone(&self.witness));
        let look: Look = Arc::new(move |port, request| {
            let allowed = entries(&log);
            let allowed = allowed.iter().filter(|entry| is_for(entry, port));
            witness.seen.lock().unwrap().push(Seen {
                port,
                holds_secret: echo::holds(request, SECRET).is_some(),
                whole: request.windows(4).any(|four| four == b"\r\n\r\n"),
                allowed_before: allowed.count(),
            });
        });
        let config = pki::server_config(&pki::leaf(Leaf::Right), &Speaks::default());
        Server::watched(Some(config), steps, look).await
    }

    /// Puts [`SECRET`] into the keyring, for this server.
    pub(crate) async fn secret(&self, name: &str, kind: InjectionKind, server: &Server) {
        let creation = SecretCreation {
            name: named(name),
            kind,
            origin: named(&origin(server)),
            expires: None,
            rotate_every: None,
            value: Secret::take(&mut SECRET.as_bytes().to_vec()).unwrap(),
        };
        self.stage.vault.broker.add_secret(creation).await.unwrap();
    }

    pub(crate) async fn agent(&self, name: &str, grants: &str) -> Agent {
        let rest = format!("[limits]\noutput = \"16 MiB\"\ndeadline = \"10 min\"\n{grants}");
        let loaded = self.stage.load_guest(Guest::Http, name, &rest).await;
        loaded.unwrap_or_else(|error| panic!("{error}: {error:?}\nof\n{grants}"))
    }

    /// Runs the script; at each line that `watch` prints the next action happens. At its end the agent prints its whole memory, in
    /// which nothing of the secret may be.
    pub(crate) async fn play(&self, agent: &Agent, script: &str, actions: Vec<Action>) -> Told {
        let waiting = Mutex::new(VecDeque::from(actions));
        let act = move |bytes: &[u8]| {
            if bytes == b"1\n" {
                let action = waiting.lock().unwrap().pop_front();
                action.expect("an action for each line")();
            }
        };
        let input = RunInput::text(format!("{script}\nlong {CONTROL} 1\nmemory"));
        let report = agent.run(input.stdout(OutputSink::new(act))).await.unwrap();
        let ended = Instant::now();
        self.look_through(&report);
        let Answer::Done(text) = report.answer else {
            panic!("{:?} {:?}", report.answer, report.end)
        };
        let mut answers: Vec<String> = text.lines().map(str::to_owned).collect();
        answers.truncate(answers.len() - 2);
        Told { answers, ended }
    }

    /// As [`Scene::play`], without anything that happens meanwhile.
    pub(crate) async fn run(&self, agent: &Agent, script: &str) -> Vec<String> {
        self.play(agent, script, Vec::new()).await.answers
    }

    fn look_through(&self, report: &RunReport) {
        let mut scanner = scanner();
        let hits = [
            scanner.scan("the agent's memory and stdout", 0, &report.stdout),
            scanner.scan("stderr", 0, &report.stderr),
            scanner.scan("the answer", 0, format!("{:?}", report.answer).as_bytes()),
        ];
        self.hits.lock().unwrap().extend(hits.into_iter().flatten());
        scanner.add("control", CONTROL.as_bytes());
        let found = scanner.scan("the agent's memory", 0, &report.stdout);
        let found = found
            .iter()
            .any(|hit| hit.secret == "control" && hit.encoding == "raw");
        assert!(
            found,
            "the control: {} bytes of memory are searched: {:?}",
            report.stdout.len(),
            report.end
        );
    }

    pub(crate) async fn log(&self) -> Log {
        Log(self.stage.log().await)
    }

    /// Closes the keyring, and has the oracle look at all that was seen, said, logged and left behind.
    pub(crate) async fn close(self) -> Log {
        let log = Log(self.stage.close().await);
        self.judge(&log);
        log
    }

    /// The secret is in nothing that an agent had or said, and in no file.
    pub(crate) fn assert_clean(&self) {
        let mut hits = self.hits.lock().unwrap().clone();
        hits.extend(scanner().scan_files(self.folder.path()));
        assert!(hits.is_empty(), "{hits:?}");
    }

    /// What [`Scene::close`] proves, without closing: for logs that are broken on purpose.
    pub(crate) fn judge(&self, log: &Log) {
        self.assert_clean();
        let uses = log.uses();
        let mut by_port: BTreeMap<u16, Vec<&Seen>> = BTreeMap::new();
        let seen = self.witness.seen.lock().unwrap();
        for seen in seen.iter() {
            by_port.entry(seen.port).or_default().push(seen);
        }
        for (port, seen) in by_port {
            for (number, seen) in (1..).zip(&seen) {
                assert!(
                    seen.allowed_before >= number,
                    "request {number} to port {port} was seen after {} entries that allow one",
                    seen.allowed_before
                );
            }
            let of_port = |logged: &&Logged| port_of(&logged.allowed) == Some(port);
            let settled: Vec<_> = uses
                .iter()
                .filter(of_port)
                .filter_map(|one| one.settled.as_ref())
                .collect();
            let injected = settled.iter().filter(|(_, traffic)| traffic.injected).count();
            let with = seen.iter().filter(|seen| seen.holds_secret).count();
            let said = format!(
                "port {port}: the log says {injected} times that a credential left, it was seen {with} times"
            );
            if seen.iter().all(|seen| seen.whole) {
                assert_eq!(injected, with, "{said}");
            } else {
                assert!((with..=seen.len()).contains(&injected), "{said}");
            }
            let answered = settled
                .iter()
                .filter(|(_, traffic)| traffic.status.is_some())
                .count();
            assert!(answered <= seen.len(), "port {port}: what was answered was seen");
        }
    }
}

/// Looks for the secret.
pub(crate) fn scanner() -> Scanner {
    let mut scanner = Scanner::new();
    scanner.add("the secret", SECRET.as_bytes());
    scanner
}

pub(crate) fn origin(server: &Server) -> String {
    format!("https://{HOST}:{}", server.port)
}

fn port_of(allowed: &Use) -> Option<u16> {
    Some(allowed.request.as_ref()?.origin.port())
}

fn is_for(entry: &Entry, port: u16) -> bool {
    match &entry.event {
        Event::Allowed(allowed) => port_of(allowed) == Some(port),
        _ => false,
    }
}

/// A grant for a server: `inject` and constraints as `rest`, further fields of `http` as `more`.
pub(crate) fn grant(alias: &str, server: &Server, allow: &str, rest: &str, more: &str) -> String {
    let base64 = echo::base64(&pki::ca().der, ['+', '/']);
    let padding = "=".repeat((4 - base64.len() % 4) % 4);
    let lines: Vec<_> = (base64 + &padding)
        .into_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let pem = lines.join("\\n");
    format!(
        "[grants.{alias}]\n{rest}\n[grants.{alias}.http]\norigin = \"{}\"\nallow = [{allow}]\nprivate-network = [\"127.0.0.0/8\"]\n\
         authorities = \"-----BEGIN CERTIFICATE-----\\n{pem}\\n-----END CERTIFICATE-----\\n\"\n{more}\n",
        origin(server)
    )
}

/// A use with what came of it.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) allowed: Use,
    pub(crate) settled: Option<(Settlement, Traffic)>,
}

pub(crate) struct Log(pub(crate) Vec<Entry>);

impl Log {
    pub(crate) fn uses(&self) -> Vec<Logged> {
        let mut uses = BTreeMap::new();
        for (index, entry) in (0..).zip(&self.0) {
            match &entry.event {
                Event::Allowed(allowed) => {
                    let allowed = allowed.clone();
                    uses.insert(
                        index,
                        Logged {
                            allowed,
                            settled: None,
                        },
                    );
                }
                Event::Settled {
                    of,
                    settlement,
                    traffic: Some(traffic),
                } => {
                    let used: &mut Logged = uses.get_mut(of).expect("what is settled was allowed");
                    let before = used.settled.replace((*settlement, traffic.clone()));
                    assert!(before.is_none(), "settled twice: {used:?}");
                }
                _ => {}
            }
        }
        uses.into_values().collect()
    }

    /// The uses of one grant of an agent, as settled.
    pub(crate) fn settled(&self, agent: &str) -> Vec<(Settlement, Traffic)> {
        let uses = self.uses();
        let of_agent = uses.into_iter().filter(|one| one.allowed.agent.as_str() == agent);
        of_agent
            .map(|one| one.settled.expect("every use is settled"))
            .collect()
    }

    pub(crate) fn denied(&self, agent: &str) -> Vec<(Refusal, Rule, String)> {
        let denied = self.0.iter().filter_map(|entry| match &entry.event {
            Event::Denied {
                agent: of,
                refusal,
                rule,
                detail,
                ..
            } if of.as_str() == agent => Some((*refusal, *rule, detail.clone())),
            _ => None,
        });
        denied.collect()
    }
}

/// An answer with a body.
pub(crate) fn answer(status: &str, fields: &str, body: &str) -> Step {
    Step::Write(
        format!(
            "HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}

/// Answers every request with this text.
pub(crate) fn always(body: &str) -> Vec<Step> {
    vec![Step::Read, answer("200 OK", "", body), Step::Again]
}

/// Sends the first event of a stream that never ends.
pub(crate) fn endless() -> Vec<Step> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![
        Step::Read,
        Step::Write(format!("{head}9\r\ndata: 1\n\n\r\n").into_bytes()),
        Step::Wait,
    ]
}
