//! A keyring on a TPM that is not its own, or that dies. Through the broker: what the agent and the operator see.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use claviger_broker::LocalBroker;
use claviger_broker::audit::verify;
use claviger_broker::keyring::Keyring;
use claviger_broker::local::AUDIT_FOLDER;
use claviger_core::audit::Settlement;
use claviger_core::{Algorithm, Refusal};
use claviger_tpm::Tpm;
use kit::entries::{entries, uses};
use kit::vault::{Vault, copy_folder, labeled, named, sign, start, swtpm, tpm_options};
use tempfile::TempDir;

const GRANTS: &str =
    "[grants.resident]\nsign = { key = \"resident\" }\n[grants.sealed]\nsign = { key = \"sealed\" }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_keyring_opens_on_its_own_tpm_and_on_no_other() {
    let (here, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let vault = Vault::swtpm(here.path()).await;
    vault.key("resident", labeled(), Algorithm::P256).await;
    vault.key("sealed", labeled(), Algorithm::Ed25519).await;
    vault.broker.close().await.unwrap();
    let Vault { broker, tpm, .. } = vault;
    drop(broker);
    let copy = elsewhere.path().join("keyring");
    copy_folder(&here.path().join("keyring"), &copy);

    let other = swtpm(elsewhere.path());
    let refused = LocalBroker::open(tpm_options(&copy, &other))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.starts_with("the keyring's root key does not open: "),
        "{refused}"
    );
    drop(other);
    // What the command does: it connects by what the keyring recorded, which now leads to the other TPM.
    let settings = Keyring::peek(&copy).unwrap().root.settings;
    let refused = Tpm::connect_with(&settings, elsewhere.path())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("made on another TPM"), "{refused}");

    // The control: the copy on its own TPM.
    let broker = LocalBroker::open(tpm_options(&copy, tpm.as_ref().unwrap()))
        .await
        .unwrap();
    let who = start(&broker, GRANTS).await;
    for grant in ["resident", "sealed"] {
        sign(&broker, who, grant, b"x").await.unwrap();
    }
    broker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_dies_again_and_again_gives_signatures_or_says_unavailable() {
    let folder = TempDir::new().unwrap();
    let vault = Vault::swtpm(folder.path()).await;
    vault.key("resident", labeled(), Algorithm::P256).await;
    vault.key("sealed", labeled(), Algorithm::Ed25519).await;
    let who = start(&vault.broker, GRANTS).await;
    let ended = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let killer = {
        let (tpm, ended, stop) = (vault.tpm.clone().unwrap(), Arc::clone(&ended), Arc::clone(&stop));
        std::thread::spawn(move || kill_often(&tpm, &ended, &stop))
    };
    let mut callers = Vec::new();
    for _ in 0..4 {
        let (broker, ended) = (Arc::clone(&vault.broker), Arc::clone(&ended));
        callers.push(tokio::spawn(async move {
            let mut results = Vec::new();
            for n in 0..50_u64 {
                let grant = if n % 5 == 0 { "sealed" } else { "resident" };
                results.push(sign(&broker, who, grant, &n.to_be_bytes()).await);
                ended.fetch_add(1, Ordering::SeqCst);
            }
            results
        }));
    }
    let (mut signed, mut unavailable) = (0_u64, 0_u64);
    for caller in callers {
        let results = tokio::time::timeout(Duration::from_secs(50), caller)
            .await
            .expect("none hangs")
            .unwrap();
        for result in results {
            match result {
                Ok(_) => signed += 1,
                Err(Refusal::Unavailable) => unavailable += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    let kills = killer.join().unwrap();
    assert!(kills >= 5, "the control: it was killed {kills} times");
    assert_eq!(signed + unavailable, 200);
    for grant in ["resident", "sealed"] {
        sign(&vault.broker, who, grant, b"again")
            .await
            .expect("it works again");
    }
    let vkey = vault.broker.keyring().info().vkey.unwrap();
    vault.broker.close().await.unwrap();
    let log = vault.folder().join(AUDIT_FOLDER);
    verify(&log, &vkey).unwrap();
    let count = |wanted| {
        uses(&entries(&log))
            .values()
            .filter(|(_, settled)| *settled == Some(wanted))
            .count() as u64
    };
    assert_eq!(
        count(Settlement::Released),
        signed + 2,
        "released is what was signed"
    );
    assert_eq!(
        count(Settlement::Failed),
        unavailable,
        "failed is what was refused"
    );
    assert!(vault.broker.keyring().key(&named("resident")).is_some());
}

/// Kills the software TPM at moments that follow the uses, but not always at the same distance; how often.
fn kill_often(tpm: &Tpm, ended: &AtomicU64, stop: &AtomicBool) -> u64 {
    let (mut kills, mut next) = (0_u64, 5_u64);
    while !stop.load(Ordering::SeqCst) {
        if ended.load(Ordering::SeqCst) < next {
            std::thread::yield_now();
            continue;
        }
        let (start, drift) = (Instant::now(), Duration::from_micros(700 * (kills * 7 % 11)));
        while start.elapsed() < drift {
            std::hint::spin_loop();
        }
        if let Some(pid) = tpm.swtpm_pid() {
            let killed = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status()
                .unwrap();
            kills += u64::from(killed.success());
        }
        next = ended.load(Ordering::SeqCst) + 3 + kills % 9;
    }
    kills
}
