//! Everything real in one process: a guest in a host, on a keyring whose keys a software TPM holds or seals. What the agent gets, others
//! verify; what it does not get, and what the device does meanwhile, is on the log.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use claviger::{Agent, Answer, InstanceEnd, RunError, RunInput};
use claviger_broker::LocalBroker;
use claviger_broker::keyring::KeyState;
use claviger_core::audit::{Event, Settlement};
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::refusal::Rule;
use claviger_core::{Algorithm, Refusal};
use kit::entries::uses;
use kit::stage::{ACTION, Action, Stage, events_of, operator, play};
use kit::vault::{Vault, kill_swtpm, named, sshsig, tpm_options};
use kit::verifiers::ssh_keygen;
use tempfile::TempDir;

const GRANTS: &str = "[grants.sealed]\nsign = { key = \"sealed\", namespace = \"file\" }\n\
                      [grants.resident]\nsign = { key = \"resident\", namespace = \"file\" }\n";

/// No run here takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

async fn stage(folder: &TempDir) -> Arc<Stage> {
    let vault = Vault::swtpm(folder.path()).await;
    for (name, algorithm, custody) in [
        ("sealed", Algorithm::Ed25519, CustodyKind::TpmSealed),
        ("resident", Algorithm::P256, CustodyKind::Tpm),
    ] {
        let key = vault.key(name, sshsig(), algorithm).await;
        assert_eq!(
            (key.custody, key.assurance),
            (custody, Assurance::Swtpm),
            "the control"
        );
    }
    Arc::new(Stage::new(vault))
}

/// Runs a script whose lines are answered, each.
async fn answers(agent: &Agent, script: &[&str], actions: Vec<Action>) -> Vec<String> {
    let report = tokio::time::timeout(PATIENCE, play(agent, &script.join("\n"), actions))
        .await
        .expect("nothing hangs");
    assert_eq!(report.end, InstanceEnd::Finished, "{report:?}");
    match report.answer {
        Answer::Done(answer) => answer.lines().map(str::to_owned).collect(),
        other => panic!("{other:?}"),
    }
}

/// `ssh-keygen` takes what the agent was given, for this content and no other.
fn signed(stage: &Stage, grant: &str, content: &str, said: &str) {
    let key = stage.vault.broker.keyring().key(&named(grant)).unwrap();
    let armoured = said.replace('|', "\n");
    let taken = |content: &str| {
        ssh_keygen(
            key.public().unwrap(),
            "file",
            armoured.as_bytes(),
            content.as_bytes(),
        )
    };
    assert!(taken(content), "{grant} {content}: {said}");
    assert!(!taken("another content"), "the control");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_signs_with_sealed_and_resident_keys_and_others_verify() {
    let folder = TempDir::new().unwrap();
    let stage = stage(&folder).await;
    let agent = stage.load("signer", GRANTS).await.unwrap();
    let script = [
        "sign sealed hello",
        "sign resident hello",
        "sign release hello",
        "sign resident again",
    ];
    let said = answers(&agent, &script, Vec::new()).await;
    signed(&stage, "sealed", "hello", &said[0]);
    signed(&stage, "resident", "hello", &said[1]);
    assert_eq!(said[2], "refused NotGranted");
    signed(&stage, "resident", "again", &said[3]);
    drop(agent);
    let log = stage.close().await;
    let story: Vec<_> = events_of(&log, "signer").into_iter().map(told).collect();
    assert_eq!(
        story,
        [
            "admitted",
            "started",
            "sealed 1",
            "resident 1",
            "release: not granted by Grant",
            "resident 2",
            "ended Finished",
        ]
    );
    let settled: Vec<_> = uses(&log).into_values().map(|(_, settled)| settled).collect();
    assert_eq!(settled, [Some(Settlement::Released); 3]);
    assert_eq!(log.last().map(|entry| &entry.event), Some(&Event::HostStopped));
}

/// An event in few words.
fn told(event: &Event) -> String {
    match event {
        Event::Admitted { .. } => "admitted".to_owned(),
        Event::Started { .. } => "started".to_owned(),
        Event::Allowed(allowed) => format!("{} {}", allowed.grant, allowed.number),
        Event::Denied {
            grant, refusal, rule, ..
        } => format!("{grant}: {refusal} by {rule:?}"),
        Event::Ended { end, .. } => format!("ended {end:?}"),
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_while_the_agent_runs_signs_nothing_from_the_next_call_on() {
    let folder = TempDir::new().unwrap();
    let stage = stage(&folder).await;
    let agent = stage.load("signer", GRANTS).await.unwrap();
    let revoke = |name: &'static str| -> Action {
        let stage = Arc::clone(&stage);
        Box::new(move || {
            let name = named(name);
            operator(stage.vault.broker.set_key_state(&name, KeyState::Revoked)).unwrap();
        })
    };
    let script = [
        "sign sealed 1",
        "sign resident 1",
        ACTION,
        "sign sealed 2",
        "sign resident 2",
        ACTION,
        "sign resident 3",
    ];
    let public = ["sealed", "resident"].map(|name| stage.vault.broker.keyring().key(&named(name)).unwrap());
    let said = answers(&agent, &script, vec![revoke("sealed"), revoke("resident")]).await;
    let taken = |key: usize, content: &str, said: &str| {
        ssh_keygen(
            public[key].public().unwrap(),
            "file",
            said.replace('|', "\n").as_bytes(),
            content.as_bytes(),
        )
    };
    assert!(
        taken(0, "1", &said[0]) && taken(1, "1", &said[1]),
        "the control: {said:?}"
    );
    assert_eq!(said[3], "refused Revoked");
    assert!(taken(1, "2", &said[4]), "the other key goes on: {said:?}");
    assert_eq!(said[6], "refused Revoked");
    drop(agent);
    let log = stage.close().await;
    let denied: Vec<_> = log
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Denied {
                grant, refusal, rule, ..
            } => Some((grant.as_str(), *refusal, *rule)),
            _ => None,
        })
        .collect();
    assert_eq!(
        denied,
        [
            ("sealed", Refusal::Revoked, Rule::KeyState),
            ("resident", Refusal::Revoked, Rule::KeyState)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_dies_while_the_agent_runs_is_started_again_or_unavailable_and_never_a_hang() {
    let folder = TempDir::new().unwrap();
    let stage = stage(&folder).await;
    let agent = stage.load("signer", GRANTS).await.unwrap();
    let (state, aside) = (folder.path().join("tpm"), folder.path().join("aside"));
    let pids = Arc::new(Mutex::new(Vec::new()));
    let kill = || -> Action {
        let (stage, pids) = (Arc::clone(&stage), Arc::clone(&pids));
        Box::new(move || {
            let tpm = stage.vault.tpm.as_ref().unwrap();
            pids.lock().unwrap().push(tpm.swtpm_pid());
            assert!(kill_swtpm(tpm), "it runs");
        })
    };
    let take: Action = {
        let (kill, state, aside) = (kill(), state.clone(), aside.clone());
        Box::new(move || {
            kill();
            std::fs::rename(&state, &aside).unwrap();
            std::fs::write(&state, b"not a folder").unwrap();
        })
    };
    let give: Action = Box::new(move || {
        std::fs::remove_file(&state).unwrap();
        std::fs::rename(&aside, &state).unwrap();
    });
    let script = [
        "sign resident 0",
        "sign sealed 1",
        ACTION,
        "sign resident 3",
        ACTION,
        "sign sealed 5",
        "sign resident 6",
        ACTION,
        "sign resident 8",
        "sign sealed 9",
        ACTION,
        "sign resident 11",
        "sign sealed 12",
    ];
    let said = answers(&agent, &script, vec![kill(), kill(), take, give]).await;
    for (at, grant) in [
        (0, "resident"),
        (1, "sealed"),
        (3, "resident"),
        (5, "sealed"),
        (6, "resident"),
        (9, "sealed"),
        (11, "resident"),
        (12, "sealed"),
    ] {
        signed(&stage, grant, &at.to_string(), &said[at]);
    }
    assert_eq!(said[8], "refused Unavailable");
    let pids = pids.lock().unwrap().clone();
    assert!(
        pids.windows(2).all(|two| two[0] != two[1]),
        "the control: it was another each time: {pids:?}"
    );
    drop(agent);
    let log = stage.close().await;
    let settled: Vec<_> = uses(&log)
        .into_values()
        .map(|(used, settled)| (used.grant.as_str().to_owned(), settled.unwrap()))
        .collect();
    let failed: Vec<_> = settled
        .iter()
        .filter(|(_, settled)| *settled != Settlement::Released)
        .collect();
    assert_eq!(
        (settled.len(), failed),
        (9, vec![&("resident".to_owned(), Settlement::Failed)])
    );
    let denied = events_of(&log, "signer")
        .into_iter()
        .filter(|event| matches!(event, Event::Denied { .. }));
    assert_eq!(
        denied.map(told).collect::<Vec<_>>(),
        ["resident: unavailable by Custody"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_on_a_closed_keyring_and_everything_goes_on_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let stage = stage(&folder).await;
    let limited = format!("{GRANTS}uses = 3\n");
    let agent = stage.load("signer", &limited).await.unwrap();
    let script = ["sign resident 0", "sign resident 1"];
    for (at, said) in answers(&agent, &script, Vec::new()).await.iter().enumerate() {
        signed(&stage, "resident", &at.to_string(), said);
    }
    stage.close().await;
    let refused = agent.run(RunInput::text("sign resident x")).await;
    assert!(matches!(refused, Err(RunError::NotStarted(_))), "{refused:?}");
    drop(agent);
    let Stage { host, vault } = Arc::into_inner(stage).unwrap();
    drop(host);
    let keyring = vault.folder().to_owned();
    drop(vault);

    // As another process: the TPM is found by what the keyring recorded.
    let settings = claviger_broker::keyring::Keyring::peek(&keyring)
        .unwrap()
        .root
        .settings;
    let tpm = claviger_tpm::Tpm::connect_with(&settings, folder.path()).unwrap();
    let broker = LocalBroker::open(tpm_options(&keyring, &tpm)).await.unwrap();
    let stage = Stage::new(Vault::opened(broker, Some(tpm), keyring));
    let agent = stage.load("signer", &limited).await.unwrap();
    let said = answers(
        &agent,
        &["sign resident 0", "sign resident 1", "sign sealed 2"],
        Vec::new(),
    )
    .await;
    signed(&stage, "resident", "0", &said[0]);
    assert_eq!(said[1], "refused OverBudget");
    signed(&stage, "sealed", "2", &said[2]);
    drop(agent);
    stage.close().await;
}
