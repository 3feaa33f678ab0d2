//! The socket, in the hands of OpenSSH: `ssh-add`, `ssh`, and a real `sshd` that speaks over a pipe, so that no port is opened. And of
//! peers that speak the protocol otherwise.

use std::os::unix::fs::DirBuilderExt as _;
use std::process::Stdio;

use claviger_core::audit::Event;
use claviger_core::custody::CustodyKind;
use claviger_core::manifest::Manifest;
use claviger_core::profile::Profile;
use claviger_core::profile::ssh_auth::HostKeyId;
use claviger_core::refusal::Rule;
use claviger_core::{Algorithm, ComponentDigest, Secret};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::*;
use crate::LocalBroker;
use crate::audit::{Durability, Reader};
use crate::custody::{KdfCost, PassphraseSealer};
use crate::keyring::{RootKind, RootSpec};
use crate::local::{AUDIT_FOLDER, KeyCreation, Options};

const INSTALL: &str = "apt-get install openssh-server openssh-client";

/// A folder with a keyring, a server's host keys and its configuration.
struct Scene {
    folder: TempDir,
    broker: Arc<LocalBroker>,
    user: String,
}

impl Scene {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let secret = Secret::take(&mut b"correct horse".to_vec()).unwrap();
        let sealer = PassphraseSealer::new(secret, KdfCost::INSECURE_FOR_TESTS).unwrap();
        let options =
            Options::new(folder.path().join("keyring"), Arc::new(sealer)).durability(Durability::Process);
        let root = RootSpec {
            kind: RootKind::Passphrase,
            settings: String::new(),
        };
        let broker = LocalBroker::create(options, root).await.unwrap();
        let user = said("id", &["-un"]).await;
        let scene = Self {
            folder,
            broker,
            user: user.trim().to_owned(),
        };
        for (name, kind) in [("host", "ed25519"), ("other", "ed25519"), ("ecdsa", "ecdsa")] {
            said(
                "ssh-keygen",
                &["-q", "-t", kind, "-N", "", "-f", &scene.path(name)],
            )
            .await;
        }
        scene
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The fingerprint of a host key.
    fn host(&self, name: &str) -> HostKeyId {
        let key: ssh_key::PublicKey = self.read(&format!("{name}.pub")).parse().unwrap();
        HostKeyId::of(&key.to_bytes().unwrap())
    }

    /// Makes a key that logs in as these users, and gives its line.
    async fn key(&self, name: &str, algorithm: Algorithm, users: &[&str]) -> String {
        let creation = KeyCreation {
            name: name.parse().unwrap(),
            profile: Profile::SshAuth {
                users: users.iter().map(|user| user.parse().unwrap()).collect(),
                host_keys: [].into(),
            },
            algorithm,
            custody: CustodyKind::Software,
        };
        let record = self.broker.create_key(creation).await.unwrap();
        record.public().unwrap().to_openssh(name).unwrap()
    }

    /// Serves a grant of this key until the task is dropped.
    async fn serve(&self, key: &str, narrowing: &str) -> Served {
        let digest = ComponentDigest::of(b"agent");
        let text = format!(
            "schema = 1\n[agent]\nname = \"deploy-bot\"\ncomponent = \"bot.wasm\"\ndigest = \"{digest}\"\n\
             [grants.login]\nsign = {{ key = \"{key}\", {narrowing} }}\n"
        );
        let (manifest, _) = Manifest::parse(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let admission = self.broker.admit(&manifest, digest).await.unwrap();
        let who = self.broker.start(admission.id).unwrap();
        let agent = SshAgent::new(Arc::clone(&self.broker) as _, who, "login".parse().unwrap())
            .await
            .unwrap();
        let path = self.folder.path().join(format!("{key}.sock"));
        let socket = Socket::bind(&path).await.unwrap();
        let task = tokio::spawn(async move { agent.serve(&socket).await });
        Served { task, path }
    }

    /// Logs in with nothing but the socket, at a server with this host key that lets these keys in. What it said, if it did.
    async fn login(&self, served: &Served, host: &str, authorized: &str, options: &[&str]) -> Option<String> {
        // What Debian's service makes for a server that runs as root.
        if self.user == "root" {
            drop(std::fs::DirBuilder::new().mode(0o755).create("/run/sshd"));
        }
        std::fs::write(self.path("authorized"), format!("{authorized}\n")).unwrap();
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin yes\nPidFile none\nForceCommand echo welcome\n",
            self.path(host),
            self.path("authorized")
        );
        std::fs::write(self.path("sshd_config"), config).unwrap();
        let key = self.read(&format!("{host}.pub"));
        std::fs::write(self.path("known_hosts"), format!("server {key}")).unwrap();
        let mut command = Command::new("ssh");
        command
            .args([
                "-F",
                "none",
                "-T",
                "-o",
                "BatchMode=yes",
                "-o",
                "PreferredAuthentications=publickey",
            ])
            .args(["-o", &format!("UserKnownHostsFile={}", self.path("known_hosts"))])
            .args([
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
                "IdentityFile=none",
                "-o",
                "UpdateHostKeys=no",
            ])
            .args([
                "-o",
                &format!(
                    "ProxyCommand=/usr/sbin/sshd -i -e -f {} 2>{}",
                    self.path("sshd_config"),
                    self.path("sshd.log")
                ),
            ])
            .args(options)
            .args(["-l", &self.user, "server"])
            .env("SSH_AUTH_SOCK", &served.path)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command
            .output()
            .await
            .unwrap_or_else(|error| panic!("ssh: {error}; {INSTALL}"));
        let log = self.read("sshd.log");
        assert!(
            !log.contains("not found") && !log.contains("Missing privilege"),
            "{log}; {INSTALL}"
        );
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// How many uses were allowed, and the rules of those that were not.
    async fn log(&self) -> (usize, Vec<Rule>) {
        self.broker.checkpoint().await.unwrap();
        let reader = Reader::open(&self.folder.path().join("keyring").join(AUDIT_FOLDER)).unwrap();
        let (mut allowed, mut denied) = (0, Vec::new());
        for entry in reader.entries(0) {
            match entry.unwrap().1.event {
                Event::Allowed(used) => {
                    assert_eq!(used.profile, "ssh-auth");
                    allowed += 1;
                }
                Event::Denied { rule, .. } => denied.push(rule),
                _ => {}
            }
        }
        (allowed, denied)
    }
}

struct Served {
    task: tokio::task::JoinHandle<()>,
    path: PathBuf,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await;
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; {INSTALL}"));
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_real_server_lets_the_key_in_at_the_hosts_and_as_the_user_that_the_grant_names() {
    let scene = Scene::new().await;
    let user = scene.user.clone();
    for (name, algorithm) in [("ed", Algorithm::Ed25519), ("nist", Algorithm::P256)] {
        let line = scene.key(name, algorithm, &[&user, "somebody"]).await;
        let hosts = format!(
            "host-keys = [\"{}\", \"{}\"]",
            scene.host("host"),
            scene.host("ecdsa")
        );
        let served = scene.serve(name, &format!("user = \"{user}\", {hosts}")).await;
        let (before, _) = scene.log().await;
        for host in ["host", "ecdsa"] {
            assert_eq!(
                scene.login(&served, host, &line, &[]).await.as_deref(),
                Some("welcome\n"),
                "{}",
                scene.read("sshd.log")
            );
        }
        let (allowed, denied) = scene.log().await;
        assert_eq!(
            (allowed - before, denied.as_slice()),
            (2, [].as_slice()),
            "each login is one use on the log"
        );
        // A server that does not know the key refuses it: the control.
        let other = scene.read("other.pub");
        assert_eq!(scene.login(&served, "host", &other, &[]).await, None);
    }
}

#[tokio::test]
async fn no_login_elsewhere_or_as_somebody_else_is_signed() {
    let scene = Scene::new().await;
    let user = scene.user.clone();
    let line = scene.key("here", Algorithm::Ed25519, &[&user]).await;
    let here = scene
        .serve("here", &format!("host-keys = [\"{}\"]", scene.host("host")))
        .await;
    assert!(
        scene.login(&here, "host", &line, &[]).await.is_some(),
        "the control"
    );
    let (allowed, _) = scene.log().await;
    // Another server, which has the key in its list.
    assert_eq!(scene.login(&here, "other", &line, &[]).await, None);
    // The same server, as a user that the key is not for.
    let strange = scene.key("strange", Algorithm::Ed25519, &["somebody"]).await;
    let as_somebody = scene
        .serve("strange", &format!("host-keys = [\"{}\"]", scene.host("host")))
        .await;
    assert_eq!(scene.login(&as_somebody, "host", &strange, &[]).await, None);
    let (after, denied) = scene.log().await;
    assert_eq!(after, allowed, "nothing was signed");
    assert_eq!(denied, [Rule::Content, Rule::Content], "and both are on the log");
}

#[tokio::test]
async fn ssh_add_lists_the_key_and_gets_nothing_else() {
    let scene = Scene::new().await;
    let line = scene.key("listed", Algorithm::P256, &["deploy"]).await;
    let served = scene
        .serve("listed", &format!("host-keys = [\"{}\"]", scene.host("host")))
        .await;
    std::fs::write(scene.path("listed.pub"), format!("{line}\n")).unwrap();
    let ask = async |arguments: &[&str]| {
        let mut command = Command::new("ssh-add");
        command
            .args(arguments)
            .env("SSH_AUTH_SOCK", &served.path)
            .stdin(Stdio::null());
        let output = command
            .output()
            .await
            .unwrap_or_else(|error| panic!("ssh-add: {error}; {INSTALL}"));
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (listed, keys) = ask(&["-L"]).await;
    let expected = line.rsplit_once(' ').unwrap().0;
    assert!(listed && keys == format!("{expected} login\n"), "{keys}");
    // A signature over random bytes, another key, removal, a lock.
    for refused in [
        &["-T", &scene.path("listed.pub")][..],
        &[&scene.path("other")],
        &["-D"],
        &["-d", &scene.path("listed.pub")],
    ] {
        assert!(!ask(refused).await.0, "{refused:?}");
    }
    let (allowed, denied) = scene.log().await;
    assert_eq!((allowed, denied), (0, vec![Rule::Content]));
}

/// A message with its length before it.
fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    framed(bytes)
}

async fn asked(stream: &mut UnixStream, body: &[u8]) -> Option<Vec<u8>> {
    stream.write_all(&framed(body)).await.ok()?;
    let length = stream.read_u32().await.ok()?;
    let mut answer = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut answer).await.ok()?;
    Some(answer)
}

fn bind(host_key: &[u8], session: &[u8], forwarding: u8) -> Vec<u8> {
    let mut message = vec![27];
    for part in [&b"session-bind@openssh.com"[..], host_key, session, b"signature"] {
        message.extend(string(part));
    }
    message.push(forwarding);
    message
}

#[tokio::test]
async fn every_other_message_is_refused_and_a_broken_one_ends_the_connection() {
    let scene = Scene::new().await;
    scene.key("raw", Algorithm::Ed25519, &["deploy"]).await;
    let served = scene
        .serve("raw", &format!("host-keys = [\"{}\"]", scene.host("host")))
        .await;
    let mut stream = UnixStream::connect(&served.path).await.unwrap();
    let listed = asked(&mut stream, &[11]).await.unwrap();
    assert_eq!(listed[..5], [12, 0, 0, 0, 1], "the control");
    for number in (0..=255).filter(|number| *number != 11) {
        assert_eq!(asked(&mut stream, &[number]).await, Some(vec![5]), "{number}");
        let with_more = [&[number], &[0; 40][..]].concat();
        assert_eq!(asked(&mut stream, &with_more).await, Some(vec![5]), "{number}");
    }
    assert_eq!(
        asked(&mut stream, &[11, 0]).await,
        Some(vec![5]),
        "with something after it"
    );
    // Bound once, to one server; a second makes it nobody's.
    assert_eq!(asked(&mut stream, &bind(b"one", b"s", 0)).await, Some(vec![6]));
    assert_eq!(asked(&mut stream, &bind(b"one", b"s", 0)).await, Some(vec![6]));
    assert_eq!(asked(&mut stream, &bind(b"two", b"s", 0)).await, Some(vec![5]));
    assert_eq!(asked(&mut stream, &bind(b"one", b"s", 0)).await, Some(vec![5]));
    let mut forwarded = UnixStream::connect(&served.path).await.unwrap();
    assert_eq!(asked(&mut forwarded, &bind(b"one", b"s", 1)).await, Some(vec![5]));
    assert_eq!(asked(&mut forwarded, &bind(b"one", b"s", 0)).await, Some(vec![5]));
    for length in [0, u32::try_from(MAX_MESSAGE).unwrap() + 1, u32::MAX] {
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        stream.write_all(&length.to_be_bytes()).await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "{length}");
    }
    assert_eq!(scene.log().await, (0, vec![]));
}

#[tokio::test]
async fn a_socket_is_its_owners_and_takes_no_name_from_anybody() {
    let scene = Scene::new().await;
    let path = scene.folder.path().join("a.sock");
    let socket = Socket::bind(&path).await.unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        matches!(Socket::bind(&path).await, Err(SshAgentError::InUse(_))),
        "it is served"
    );
    drop(socket);
    assert!(!path.exists());
    std::fs::write(&path, "a file").unwrap();
    assert!(matches!(Socket::bind(&path).await, Err(SshAgentError::InUse(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    std::fs::remove_file(&path).unwrap();
    // One that a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(Socket::bind(&path).await.unwrap());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_key_for_something_else_is_not_served() {
    let scene = Scene::new().await;
    let creation = KeyCreation {
        name: "notes".parse().unwrap(),
        profile: Profile::Labeled {
            label: "notes".parse().unwrap(),
        },
        algorithm: Algorithm::Ed25519,
        custody: CustodyKind::Software,
    };
    scene.broker.create_key(creation).await.unwrap();
    let digest = ComponentDigest::of(b"agent");
    let text = format!(
        "schema = 1\n[agent]\nname = \"b\"\ncomponent = \"b\"\ndigest = \"{digest}\"\n[grants.notes]\nsign = {{ key = \"notes\" }}\n"
    );
    let (manifest, _) = Manifest::parse(&text).unwrap();
    let admission = scene.broker.admit(&manifest, digest).await.unwrap();
    let who = scene.broker.start(admission.id).unwrap();
    let served =
        async |grant: &str| SshAgent::new(Arc::clone(&scene.broker) as _, who, grant.parse().unwrap()).await;
    assert!(matches!(served("notes").await, Err(SshAgentError::Profile(profile)) if profile == "labeled"));
    assert!(matches!(
        served("login").await,
        Err(SshAgentError::Refused(Refusal::NotGranted))
    ));
}
