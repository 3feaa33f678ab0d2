//! A host that is killed at every step of every change to the life of a key or secret. Each time: is the credential what it was or what it
//! shall be, does the log say so, and does the next start find nothing left to do?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use claviger_broker::LocalBroker;
use claviger_broker::audit::{Durability, verify};
use claviger_broker::local::{AUDIT_FOLDER, Options};
use claviger_core::Algorithm;
use claviger_core::audit::Event;
use kit::entries::entries;
use kit::lives::{CHANGES, add_token, begun, make, standings};
use kit::process::Process;
use kit::vault::{PASSPHRASE, Vault, copy_folder, labeled, sealer};
use tempfile::TempDir;

const DRIVER: &str = env!("CARGO_BIN_EXE_claviger-test-driver");

type Standings = BTreeMap<String, String>;

async fn open(folder: &Path) -> std::sync::Arc<LocalBroker> {
    let options = Options::new(folder, sealer(PASSPHRASE)).durability(Durability::Process);
    LocalBroker::open(options).await.unwrap()
}

/// What the log says that each version is, from its entries alone.
fn logged(folder: &Path) -> Standings {
    let mut said = Standings::new();
    for entry in entries(&folder.join(AUDIT_FOLDER)) {
        match entry.event {
            Event::KeyCreated { key, .. } => drop(said.insert(format!("key {key}"), "active".to_owned())),
            Event::KeyStateChanged { key, state, .. } => drop(said.insert(format!("key {key}"), state)),
            Event::SecretAdded { secret, .. } => {
                said.insert(format!("secret {secret}"), "active".to_owned());
            }
            Event::SecretStateChanged { secret, state, .. } => {
                said.insert(format!("secret {secret}"), state);
            }
            _ => {}
        }
    }
    said
}

fn changes_logged(folder: &Path) -> usize {
    let is_change = |event: &Event| {
        matches!(
            event,
            Event::KeyCreated { .. }
                | Event::KeyStateChanged { .. }
                | Event::SecretAdded { .. }
                | Event::SecretStateChanged { .. }
        )
    };
    entries(&folder.join(AUDIT_FOLDER))
        .iter()
        .filter(|entry| is_change(&entry.event))
        .count()
}

/// Runs the driver, killed when it enters a thread's `nth` call that changes a file. How many changes it said were made; none if it
/// came to its end.
fn run_killed(folder: &Path, nth: usize) -> Option<usize> {
    let calls = "pwrite64,write,fsync,fdatasync,ftruncate,unlink,rename";
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:signal=SIGKILL:when={nth}")]);
    command.args([DRIVER, "live", folder.to_str().unwrap()]);
    let mut process = Process::start(&mut command, "apt-get install strace");
    let mut done = 0;
    let mut closed = false;
    while let Some(line) = process.line() {
        match line.split_once(' ') {
            Some(("done", number)) => {
                assert_eq!(number, done.to_string());
                done += 1;
            }
            _ if line == "closed" => closed = true,
            _ if line == "starting" => {}
            _ => panic!("nonsense: {line}"),
        }
    }
    let (status, _) = process.ended();
    if closed && status.success() {
        return None;
    }
    let errors = process.errors();
    assert!(errors.is_empty(), "it was not killed, it failed: {errors}");
    Some(done)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_at_any_step_of_any_change_leaves_what_was_or_what_shall_be_and_says_so() {
    let scene = TempDir::new().unwrap();
    let (vkey, base) = {
        let vault = Vault::passphrase(scene.path(), None).await;
        vault.key("notes", labeled(), Algorithm::Ed25519).await;
        add_token(&vault.broker).await.unwrap();
        vault.broker.close().await.unwrap();
        let vkey = vault.broker.keyring().info().vkey.unwrap();
        (vkey, vault.folder().to_owned())
    };

    // Without a kill: what each change leaves.
    let calm = TempDir::new().unwrap();
    let folder = calm.path().join("keyring");
    copy_folder(&base, &folder);
    let mut reference = Vec::new();
    {
        let broker = open(&folder).await;
        reference.push(standings(&broker));
        for change in CHANGES {
            make(&broker, change).await.unwrap();
            reference.push(standings(&broker));
        }
        assert_eq!(logged(&folder), reference[CHANGES.len()]);
        broker.close().await.unwrap();
    }
    for pair in reference.windows(2) {
        assert_ne!(pair[0], pair[1], "each change changes something");
    }

    let (mut kills, mut before, mut half, mut after, mut late) = (0, 0, 0, 0, 0);
    let mut hit = BTreeSet::new();
    for nth in 1.. {
        assert!(nth < 10_000, "it never comes to its end");
        let copy = TempDir::new().unwrap();
        let folder = copy.path().join("keyring");
        copy_folder(&base, &folder);
        let Some(done) = run_killed(&folder, nth) else {
            break;
        };
        kills += 1;
        verify(&folder.join(AUDIT_FOLDER), &vkey).unwrap();
        let said = changes_logged(&folder);
        let broker = open(&folder).await;
        let found = standings(&broker);
        let what = format!("call {nth}, after {done} changes");
        if found == reference[done] {
            before += 1;
        } else if CHANGES
            .get(done)
            .and_then(|change| begun(*change, &reference[done]))
            == Some(found.clone())
        {
            half += 1;
        } else {
            assert!(
                done < CHANGES.len() && found == reference[done + 1],
                "{what}: {found:?}"
            );
            after += 1;
        }
        hit.insert(done);
        assert_eq!(logged(&folder), found, "{what}: the log says what is");
        let now_said = changes_logged(&folder);
        late += usize::from(now_said > said);
        broker.close().await.unwrap();
        drop(broker);
        let broker = open(&folder).await;
        assert_eq!(standings(&broker), found, "{what}, opened again");
        assert_eq!(
            changes_logged(&folder),
            now_said,
            "{what}: nothing is left to say"
        );
        // Whatever it was in, the next change can be made, or was.
        // What was begun is finished by the same.
        if let Some(next) = CHANGES.get(done).filter(|_| found != reference[done + 1]) {
            make(&broker, *next).await.unwrap();
            assert_eq!(standings(&broker), reference[done + 1], "{what}: {next:?}");
        }
        broker.close().await.unwrap();
    }
    println!(
        "{kills} kills: {before} left what was, {half} what was begun, {after} what shall be, {late} were logged by the next start"
    );
    assert!(kills > 50 && before > 10 && half > 0 && after > 2, "the control");
    assert!(
        late > 0,
        "the control: no kill fell between the keyring and the log"
    );
    assert!(hit.len() > CHANGES.len() / 2, "the control: {hit:?}");
}
