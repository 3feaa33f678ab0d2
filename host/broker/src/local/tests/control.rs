//! The control socket: its file and who reaches it, commands over it, and peers that are broken, slow, hostile or many.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::commands::{add, value};
use super::web::CANARY;
use super::*;
use crate::operator::{
    Change, Client, ClientError, Command, Control, ControlError, Fault, MAX_CONNECTIONS, MAX_FRAME, PROTOCOL,
    Reply, SOCKET,
};

/// What ends by a deadline of the host ends within this.
const SOON: Duration = Duration::from_secs(60);

impl Fixture {
    pub(super) fn keyring(&self) -> PathBuf {
        self.folder.path().join("keyring")
    }

    fn socket(&self) -> PathBuf {
        self.keyring().join(SOCKET)
    }

    pub(super) async fn host(&self) -> Client {
        Client::connect(&self.keyring()).await.unwrap()
    }

    async fn ask(&self, command: Command) -> Result<Reply, ClientError> {
        self.host().await.command(&command, None).await
    }
}

fn revoke(key: &str) -> Command {
    Command::ChangeKey {
        name: name(key),
        change: Change::Revoke,
    }
}

pub(super) async fn serving() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.broker.serve_control().unwrap();
    fixture
}

/// A connection past the host's hello.
pub(super) async fn raw(fixture: &Fixture) -> UnixStream {
    let mut stream = UnixStream::connect(fixture.socket()).await.unwrap();
    let hello = read_frame(&mut stream).await.unwrap();
    assert!(hello.starts_with(b"{\"claviger-control\":1,"));
    stream
}

pub(super) async fn read_frame(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let length = stream.read_u32().await.ok()?;
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

pub(super) fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes()[..], bytes].concat()
}

pub(super) fn order(command: &Command) -> Vec<u8> {
    let json = serde_json::json!({ "claviger-control": PROTOCOL, "command": command });
    frame(json.to_string().as_bytes())
}

#[tokio::test]
async fn an_operator_s_command_holds_at_the_agent_s_next_call() {
    let fixture = serving().await;
    let who = fixture.start(RELEASE).await;
    fixture.sign(who, "release", b"x").await.unwrap();
    assert_eq!(fixture.host().await.pid(), std::process::id());
    let reply = fixture.ask(revoke("release")).await.unwrap();
    assert!(matches!(reply, Reply::Keys(keys) if keys[0].name == name("release")));
    assert_eq!(fixture.sign(who, "release", b"x").await, Err(Refusal::Revoked));
    // What stands against one comes back with its kind.
    let enable = Command::ChangeKey {
        name: name("release"),
        change: Change::Enable,
    };
    let refused = fixture.ask(enable).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(problem) if problem.fault == Fault::Failed));
    // What is revoked already is not refused: whoever does not know whether it was done asks again.
    fixture.ask(revoke("release")).await.unwrap();
    assert!(refused.to_string().contains("cannot become"), "{refused}");
    // A value goes beside its command, and is what the keyring then has.
    let added = fixture.host().await;
    let added = added.command(&add("github"), value(CANARY).as_ref()).await;
    assert!(matches!(added.unwrap(), Reply::Secrets(_)));
    let record = fixture.broker.keyring().secret(&name("github")).unwrap();
    let kept = fixture.broker.keyring().secret_material(&record.secret).unwrap();
    assert!(kept.equals(CANARY.as_bytes()));
}

#[tokio::test]
async fn the_socket_is_the_owner_s_alone_and_goes_with_the_host() {
    let fixture = serving().await;
    let meta = std::fs::symlink_metadata(fixture.socket()).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let folder = std::fs::metadata(fixture.keyring()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o077, 0);
    assert!(crate::operator::is_ours(meta.uid()));
    assert!(!crate::operator::is_ours(meta.uid() + 1));
    assert!(matches!(
        fixture.broker.serve_control(),
        Err(ControlError::Serving)
    ));
    // Closed, and dropped without being closed.
    fixture.broker.close().await.unwrap();
    assert!(!fixture.socket().exists());
    assert!(matches!(
        Client::connect(&fixture.keyring()).await,
        Err(ClientError::NoHost)
    ));
    let fixture = serving().await;
    let Fixture { folder, broker, .. } = fixture;
    drop(broker);
    assert!(!folder.path().join("keyring").join(SOCKET).exists());
}

#[tokio::test]
async fn a_dead_host_s_socket_is_replaced_and_nothing_else_is() {
    let fixture = Fixture::new().await;
    drop(std::os::unix::net::UnixListener::bind(fixture.socket()).unwrap());
    assert!(matches!(
        Client::connect(&fixture.keyring()).await,
        Err(ClientError::NoHost)
    ));
    fixture.broker.serve_control().unwrap();
    fixture.ask(Command::Status).await.unwrap();

    for kind in ["file", "folder", "link"] {
        let fixture = Fixture::new().await;
        let elsewhere = fixture.folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "precious").unwrap();
        match kind {
            "file" => std::fs::write(fixture.socket(), "precious").unwrap(),
            "folder" => std::fs::create_dir(fixture.socket()).unwrap(),
            _ => std::os::unix::fs::symlink(&elsewhere, fixture.socket()).unwrap(),
        }
        let refused = fixture.broker.serve_control().unwrap_err();
        assert!(
            matches!(refused, ControlError::NotASocket(_)),
            "{kind}: {refused}"
        );
        assert!(std::fs::symlink_metadata(fixture.socket()).is_ok(), "{kind}");
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
        // The broker works without.
        let who = fixture.start(RELEASE).await;
        fixture.sign(who, "release", b"x").await.unwrap();
    }
}

#[tokio::test]
async fn another_socket_in_its_place_is_not_removed() {
    let fixture = serving().await;
    std::fs::remove_file(fixture.socket()).unwrap();
    let _another = std::os::unix::net::UnixListener::bind(fixture.socket()).unwrap();
    fixture.broker.close().await.unwrap();
    assert!(fixture.socket().exists());
}

#[tokio::test]
async fn a_folder_that_others_reach_is_not_asked() {
    let fixture = serving().await;
    std::fs::set_permissions(fixture.keyring(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = Client::connect(&fixture.keyring()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Keyring(_)), "{refused:?}");
}

#[tokio::test]
async fn a_path_too_long_for_an_address_is_reached_all_the_same() {
    let fixture = Fixture::new().await;
    let folder = fixture.folder.path().join("x".repeat(120)).join("y".repeat(120));
    std::fs::DirBuilder::new()
        .recursive(true)
        .create(&folder)
        .unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    let _control = Control::bind_with(&folder, Arc::downgrade(&fixture.broker), SOON).unwrap();
    let host = Client::connect(&folder).await.unwrap();
    host.command(&Command::Status, None).await.unwrap();
}

#[tokio::test]
async fn broken_input_is_told_and_does_nothing() {
    let fixture = serving().await;
    let before = fixture.events().await.len();
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let with = |json: &str| frame(json.as_bytes());
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", frame(b"\x00\xff\xfe{not json")),
        ("no order", with("{}")),
        (
            "of another version",
            with(r#"{"claviger-control":2,"command":"panic"}"#),
        ),
        ("without a version", with(r#"{"command":"panic"}"#)),
        (
            "with more than it should",
            with(r#"{"claviger-control":1,"command":"panic","as":"root"}"#),
        ),
        ("no command", with(r#"{"claviger-control":1,"command":"export"}"#)),
        (
            "a name that is a path",
            with(r#"{"claviger-control":1,"command":{"suspend-agent":{"agent":"../x"}}}"#),
        ),
        ("deep", with(&deep)),
        ("empty", frame(b"")),
        ("huge", u32::MAX.to_be_bytes().to_vec()),
        ("over its bound", frame(&vec![b' '; 64 * 1024 + 1])),
        ("a request of a browser", b"POST / HTTP/1.1\r\n\r\n".to_vec()),
        (
            "a huge value",
            [order(&add("github")), u32::MAX.to_be_bytes().to_vec()].concat(),
        ),
        ("an empty value", [order(&add("github")), frame(b"")].concat()),
    ];
    for (trick, bytes) in rows {
        let mut stream = raw(&fixture).await;
        // It may be let go before everything is sent.
        drop(stream.write_all(&bytes).await);
        let answer = read_frame(&mut stream).await.unwrap_or_default();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(r#"{"failed":{"fault":"usage""#),
            "{trick}: {answer}"
        );
        assert_eq!(
            stream.read(&mut [0]).await.unwrap_or_default(),
            0,
            "{trick}: it is let go"
        );
    }
    assert_eq!(fixture.events().await.len(), before);
    // The control: the same way, in order, it does something.
    let mut stream = raw(&fixture).await;
    stream.write_all(&order(&Command::Panic)).await.unwrap();
    let answer = read_frame(&mut stream).await.unwrap();
    assert_eq!(answer, br#"{"done":{"done":{"warning":null}}}"#);
    assert!(fixture.broker.in_panic());
}

#[tokio::test]
async fn half_a_command_is_none_and_a_whole_one_is_done_though_nobody_waits() {
    let fixture = serving().await;
    let command = order(&revoke("release"));
    for cut in [0, 1, 3, 4, 5, command.len() / 2, command.len() - 1] {
        let mut stream = raw(&fixture).await;
        stream.write_all(&command[..cut]).await.unwrap();
        stream.shutdown().await.unwrap();
        // Let go without a word.
        assert!(read_frame(&mut stream).await.is_none(), "{cut}");
    }
    // A command whose value never comes is none either.
    let mut stream = raw(&fixture).await;
    let half = [order(&add("github")), frame(CANARY.as_bytes())[..9].to_vec()].concat();
    stream.write_all(&half).await.unwrap();
    drop(stream);
    assert!(fixture.broker.keyring().key(&name("release")).is_some());
    assert!(fixture.broker.keyring().secret(&name("github")).is_none());

    let mut stream = raw(&fixture).await;
    stream.write_all(&command).await.unwrap();
    drop(stream);
    let revoked = async {
        while fixture.broker.keyring().key(&name("release")).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, revoked).await.unwrap();
    fixture.ask(Command::Status).await.unwrap();
}

#[tokio::test]
async fn slow_silent_and_many_peers_are_let_go_and_an_operator_gets_through() {
    let fixture = Fixture::new().await;
    let patience = Duration::from_millis(200);
    let control = Control::bind_with(&fixture.keyring(), Arc::downgrade(&fixture.broker), patience).unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 * MAX_CONNECTIONS {
        silent.push(UnixStream::connect(fixture.socket()).await.unwrap());
    }
    // One that goes on sending a byte at a time.
    let mut slow = UnixStream::connect(fixture.socket()).await.unwrap();
    let dripping = tokio::spawn(async move {
        let mut sent: u64 = 0;
        for byte in order(&Command::Panic).into_iter().cycle() {
            if slow.write_all(&[byte]).await.is_err() {
                break;
            }
            sent += 1;
            tokio::time::sleep(patience / 10).await;
        }
        sent
    });
    let reply = tokio::time::timeout(SOON, fixture.ask(Command::Status))
        .await
        .unwrap();
    assert!(matches!(reply.unwrap(), Reply::Status(_)));
    let dripped = tokio::time::timeout(SOON, dripping).await.unwrap().unwrap();
    assert!(dripped < order(&Command::Panic).len() as u64);
    assert!(!fixture.broker.in_panic());
    for mut stream in silent {
        let ended = async { while stream.read(&mut [0; 256]).await.is_ok_and(|read| read > 0) {} };
        tokio::time::timeout(SOON, ended).await.unwrap();
    }
    control.close().await;
}

#[tokio::test]
async fn closing_waits_for_nobody_who_says_nothing() {
    let fixture = serving().await;
    let _silent = [raw(&fixture).await, raw(&fixture).await];
    // Well before the deadline of a silent peer, or this takes as long.
    tokio::time::timeout(Duration::from_secs(4), fixture.broker.close())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn commands_from_many_at_once_are_each_done_once() {
    let fixture = Arc::new(serving().await);
    let tasks: Vec<_> = (0..3 * MAX_CONNECTIONS)
        .map(|number| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                let command = Command::SuspendAgent {
                    agent: name(&format!("agent-{number}")),
                };
                fixture.ask(command).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(SOON, task).await.unwrap().unwrap();
    }
    assert_eq!(
        fixture.broker.snapshot().suspended_agents().count(),
        3 * MAX_CONNECTIONS
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_use_that_began_after_the_reply_succeeds() {
    let fixture = Arc::new(serving().await);
    for _ in 0..10 {
        let mut signing = tokio::task::JoinSet::new();
        let (first, mut signed) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..16 {
            let who = fixture.start(RELEASE).await;
            let (fixture, first) = (Arc::clone(&fixture), first.clone());
            signing.spawn(async move {
                let mut began = std::time::Instant::now();
                loop {
                    let now = std::time::Instant::now();
                    match fixture.sign(who, "release", b"x").await {
                        Ok(_) => began = now,
                        Err(refusal) => {
                            assert_eq!(refusal, Refusal::Revoked);
                            return began;
                        }
                    }
                    first.send(()).unwrap();
                    tokio::task::yield_now().await;
                }
            });
        }
        // All of them are at it.
        for _ in 0..64 {
            signed.recv().await.unwrap();
        }
        let change = |change| Command::ChangeKey {
            name: name("release"),
            change,
        };
        fixture.ask(change(Change::Disable)).await.unwrap();
        let replied = std::time::Instant::now();
        for began in signing.join_all().await {
            assert!(began <= replied);
        }
        fixture.ask(change(Change::Enable)).await.unwrap();
    }
}

/// A host that is none: it says this, and goes away.
async fn impostor(said: Vec<u8>) -> (TempDir, Result<Reply, ClientError>) {
    let folder = TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
    let (_, asked) = tokio::join!(
        async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&said).await.unwrap();
            // Whatever is asked: the end comes when it was.
            if said.starts_with(&[0]) {
                drop(read_frame(&mut stream).await);
            }
        },
        async {
            let host = Client::connect(folder.path()).await?;
            host.command(&Command::Panic, None).await
        }
    );
    (folder, asked)
}

#[tokio::test]
async fn a_host_that_is_none_is_not_believed() {
    let hello = |protocol: u32| {
        frame(format!(r#"{{"claviger-control":{protocol},"version":"9.9.9","pid":1}}"#).as_bytes())
    };
    let (_, silent) = impostor(Vec::new()).await;
    assert!(matches!(silent, Err(ClientError::NoHost)), "{silent:?}");
    let (_, later) = impostor(hello(2)).await;
    assert!(
        matches!(&later, Err(ClientError::Protocol { version, protocol: 2 }) if version == "9.9.9"),
        "{later:?}"
    );
    let (_, lost) = impostor(hello(1)).await;
    assert!(matches!(lost, Err(ClientError::Lost)), "{lost:?}");
    let huge = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes().to_vec();
    for nonsense in [
        [hello(1), frame(b"{}")].concat(),
        [hello(1), huge].concat(),
        [hello(1), frame(br#"{"done":{"key":"canary"}}"#)].concat(),
    ] {
        let (_, asked) = impostor(nonsense).await;
        assert!(matches!(asked, Err(ClientError::Lost)), "{asked:?}");
    }
}
