//! Backups made by a running host, over its socket: the file comes whole or not at all, nothing of it stays, and agents are served meanwhile.

use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;

use super::control::{frame, order, raw, read_frame, serving};
use super::recovery::identity;
use super::*;
use crate::backup::{Contents, Recipient};
use crate::operator::{Client, ClientError, Command, CommandError, Fault, Reply, SOCKET};

fn back_up(recipients: &[Recipient]) -> Command {
    Command::BackUp {
        recipients: recipients.to_vec(),
        by: "uid 7 (an operator)".to_owned(),
    }
}

/// What lies in a keyring's folder, in order.
fn files(folder: &std::path::Path) -> Vec<std::ffi::OsString> {
    let all = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = all.map(|file| file.unwrap().file_name()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_running_host_makes_a_backup_while_its_agents_sign() {
    let fixture = serving().await;
    let (identities, recipient) = identity();
    let who = fixture.start(RELEASE).await;
    let before = files(&fixture.keyring());
    let mut file = Vec::new();
    let command = back_up(std::slice::from_ref(&recipient));
    let host = fixture.host().await;
    let (reply, signed) = tokio::join!(host.command_into(&command, None, Some(&mut file)), async {
        for _ in 0..5 {
            fixture.sign(who, "release", b"x").await.unwrap();
        }
        true
    });
    let Reply::BackedUp(made) = reply.unwrap() else {
        panic!("another reply");
    };
    assert!(signed);
    let contents = Contents::read(file.as_slice(), &identities).unwrap();
    assert_eq!(contents.vkey, fixture.broker.keyring().info().vkey.unwrap());
    let there: Vec<_> = contents
        .keys
        .iter()
        .filter(|(_, there)| *there)
        .map(|(record, _)| record.key.clone())
        .collect();
    assert!(!there.is_empty() && there == made.keys, "{made:?}");
    assert_eq!(files(&fixture.keyring()), before, "nothing of it stays");
    let events = fixture.events().await;
    let asked = events.iter().any(|event| {
        matches!(event, Event::BackupRequested { by, recipients, .. }
            if by == "uid 7 (an operator)" && *recipients == [recipient.to_string()])
    });
    assert!(asked, "{events:?}");
}

#[tokio::test]
async fn what_stands_against_a_backup_is_told_and_no_file_comes() {
    let fixture = serving().await;
    let (_, recipient) = identity();
    for count in [0, 17] {
        let mut file = Vec::new();
        let command = back_up(&vec![recipient.clone(); count]);
        let asked = fixture.host().await;
        let refused = asked.command_into(&command, None, Some(&mut file)).await;
        assert!(
            matches!(&refused, Err(ClientError::Refused(problem)) if problem.fault == Fault::Usage),
            "{count}: {refused:?}"
        );
        assert!(file.is_empty());
    }
    let command = back_up(&[recipient]);
    let refused = fixture.broker.command(command.clone(), None).await;
    assert!(matches!(refused, Err(CommandError::FileMissing)), "{refused:?}");
    // A recipient that is none is no command.
    let mut stream = raw(&fixture).await;
    let mut bad = serde_json::to_value(&command).unwrap();
    bad["back-up"]["recipients"][0] = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z".into();
    let bad = serde_json::json!({ "claviger-control": 1, "command": bad });
    stream
        .write_all(&frame(bad.to_string().as_bytes()))
        .await
        .unwrap();
    let answer = String::from_utf8(read_frame(&mut stream).await.unwrap()).unwrap();
    assert!(answer.contains("is not a recipient"), "{answer}");
    // The control, without anybody to take the reply's file.
    let asked = fixture.host().await.command(&command, None).await;
    assert!(matches!(asked, Err(ClientError::Lost)), "{asked:?}");
    let mut file = Vec::new();
    let asked = fixture.host().await;
    asked.command_into(&command, None, Some(&mut file)).await.unwrap();
    assert!(!file.is_empty());
}

#[tokio::test]
async fn who_goes_away_or_has_a_full_disk_leaves_nothing_behind() {
    /// A disk that is full.
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let fixture = serving().await;
    let (_, recipient) = identity();
    let before = files(&fixture.keyring());
    let command = back_up(&[recipient]);
    let mut gone = raw(&fixture).await;
    gone.write_all(&order(&command)).await.unwrap();
    drop(gone);
    let mut reading = raw(&fixture).await;
    reading.write_all(&order(&command)).await.unwrap();
    // It takes the answer, and then not the file.
    let answer = String::from_utf8(read_frame(&mut reading).await.unwrap()).unwrap();
    assert!(answer.starts_with(r#"{"done-with-file":"#), "{answer}");
    drop(reading);
    let asked = fixture.host().await;
    let full = asked.command_into(&command, None, Some(&mut Full)).await;
    assert!(matches!(full, Err(ClientError::File(_))), "{full:?}");
    assert_eq!(files(&fixture.keyring()), before);
    fixture
        .host()
        .await
        .command(&Command::Status, None)
        .await
        .unwrap();
}

/// Asks a host that is none for a backup, which says this; gives what came of it, and how much was written.
async fn impostor(answer: serde_json::Value, file: &[u8]) -> (Result<Reply, ClientError>, usize) {
    let folder = TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
    let hello = frame(br#"{"claviger-control":1,"version":"9.9.9","pid":1}"#);
    let said = [hello, frame(answer.to_string().as_bytes()), file.to_vec()].concat();
    let mut taken = Vec::new();
    let (_, asked) = tokio::join!(
        async {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(stream.write_all(&said).await);
            drop(read_frame(&mut stream).await);
        },
        async {
            let host = Client::connect(folder.path()).await?;
            host.command_into(&back_up(&[]), None, Some(&mut taken)).await
        }
    );
    (asked, taken.len())
}

#[tokio::test]
async fn a_file_of_another_length_than_the_host_said_is_not_believed() {
    let made = "2026-06-01T12:00:00Z";
    let reply =
        serde_json::json!({ "backed-up": { "made": made, "keys": [], "secrets": 0, "left_out": [] } });
    let answer = |length: u64| serde_json::json!({ "done-with-file": { "reply": reply, "length": length } });
    let (asked, taken) = impostor(answer(4), b"file").await;
    assert!(matches!(asked, Ok(Reply::BackedUp(_))), "the control: {asked:?}");
    assert_eq!(taken, 4);
    let (asked, _) = impostor(answer(5), b"file").await;
    assert!(matches!(asked, Err(ClientError::Lost)), "{asked:?}");
    let (asked, taken) = impostor(answer(u64::MAX), b"file").await;
    assert!(matches!(asked, Err(ClientError::Lost)), "{asked:?}");
    assert_eq!(taken, 0, "nothing of so much is taken");
}
