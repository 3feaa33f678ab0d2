//! Keys for MACs and sealed keys that the TPM refuses once they are revoked: an older keyring put back, a keyring that is sealed anew, a
//! backup. The software TPM's own state is kept: it stands for the chip.

use std::path::Path;
use std::sync::Arc;

use claviger_broker::LocalBroker;
use claviger_broker::backup::Identity;
use claviger_broker::keyring::KeyState;
use claviger_broker::local::{KeyCreation, NewRoot, ResealError, Rotation};
use claviger_core::custody::CustodyKind;
use claviger_core::profile::{Plaintext, Profile};
use claviger_core::{Algorithm, Broker as _, InstanceId, Outcome, Refusal, Request};
use claviger_tpm::Tpm;
use kit::vault::{Vault, copy_folder, labeled, named, sign, start, swtpm, tpm_options};
use tempfile::TempDir;

const GRANTS: &str = "[grants.notes]\nsign = { key = \"notes\" }\n\
                      [grants.hook]\nmac = { key = \"hook\", allow = [\"generate\", \"verify\"] }\n\
                      [grants.state]\nseal = { key = \"state\", allow = [\"seal\", \"unseal\"] }\n\
                      [grants.plain-notes]\nsign = { key = \"plain-notes\" }\n\
                      [grants.plain-hook]\nmac = { key = \"plain-hook\", allow = [\"generate\", \"verify\"] }\n\
                      [grants.plain-state]\nseal = { key = \"plain-state\", allow = [\"seal\", \"unseal\"] }\n";
const KINDS: [&str; 3] = ["notes", "hook", "state"];

fn mac() -> Profile {
    Profile::Mac {
        label: named("acme/hook"),
    }
}

/// A keyring with a key of each kind that the TPM refuses once it is revoked, and one of each that it does not know from any other.
async fn keys(folder: &Path) -> Vault {
    let vault = Vault::swtpm(folder).await;
    let broker = &vault.broker;
    for name in ["notes", "plain-notes"] {
        let creation = KeyCreation {
            name: named(name),
            profile: labeled(),
            algorithm: Algorithm::Ed25519,
            custody: CustodyKind::TpmSealed,
        };
        let made = if name == "notes" {
            broker.create_key_revocable_by_hardware(creation).await
        } else {
            broker.create_key(creation).await
        };
        assert_eq!(made.unwrap().hardware.is_some(), name == "notes");
    }
    for (name, profile, custody) in [
        ("hook", mac(), CustodyKind::Tpm),
        ("state", Profile::Seal {}, CustodyKind::TpmSealed),
    ] {
        let hard = broker.create_symmetric_key_revocable_by_hardware(named(name), profile.clone(), custody);
        assert!(hard.await.unwrap().hardware.is_some());
        let plain = broker.create_symmetric_key(named(&format!("plain-{name}")), profile, custody);
        plain.await.unwrap();
    }
    vault
}

/// Uses the key behind a grant for what it is for, both ways where there are two.
async fn uses(broker: &LocalBroker, who: InstanceId, grant: &str) -> Result<(), Refusal> {
    let grant_name = named(grant);
    if grant.ends_with("notes") {
        return sign(broker, who, grant, b"content").await.map(drop);
    }
    if grant.ends_with("hook") {
        let request = Request::GenerateTag {
            grant: grant_name,
            content: b"content".to_vec(),
        };
        return broker.perform(who, request).await.map(drop);
    }
    let request = Request::Seal {
        grant: named(grant),
        plaintext: Plaintext::new(b"content".to_vec()),
        context: b"context".to_vec(),
    };
    let Outcome::Sealed { sealed } = broker.perform(who, request).await? else {
        panic!("not a box");
    };
    let request = Request::Unseal {
        grant: grant_name,
        sealed,
        context: b"context".to_vec(),
    };
    broker.perform(who, request).await.map(drop)
}

async fn closed(broker: Arc<LocalBroker>) {
    broker.close().await.unwrap();
    drop(broker);
}

async fn opened(folder: &Path, tpm: &Tpm) -> Arc<LocalBroker> {
    LocalBroker::open(tpm_options(&folder.join("keyring"), tpm))
        .await
        .unwrap()
}

fn put_back(folder: &Path) {
    std::fs::remove_dir_all(folder.join("keyring")).unwrap();
    copy_folder(&folder.join("copy"), &folder.join("keyring"));
}

/// Every key of a kind is refused or used, in an older keyring that was put back.
async fn only_the_controls_are_used(broker: &LocalBroker) {
    let who = start(broker, GRANTS).await;
    for kind in KINDS {
        let active = broker.keyring().key(&named(kind)).unwrap().state;
        assert_eq!(active, KeyState::Active, "the copy knows nothing of it");
        assert_eq!(uses(broker, who, kind).await, Err(Refusal::Revoked), "{kind}");
        uses(broker, who, &format!("plain-{kind}"))
            .await
            .unwrap_or_else(|refusal| panic!("the control: {kind}: {refusal:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_keyring_put_back_brings_no_key_of_any_kind_back() {
    let temporary = TempDir::new().unwrap();
    let folder = temporary.path();
    let Vault { broker, tpm, .. } = keys(folder).await;
    let tpm = tpm.unwrap();
    let who = start(&broker, GRANTS).await;
    for kind in KINDS {
        uses(&broker, who, kind).await.unwrap();
        let next = broker
            .rotate_key(&named(kind), Rotation::default())
            .await
            .unwrap();
        assert!(
            next.hardware.is_some(),
            "rotation keeps what the key was made with"
        );
        uses(&broker, who, kind).await.unwrap();
    }
    closed(broker).await;
    copy_folder(&folder.join("keyring"), &folder.join("copy"));

    let broker = opened(folder, &tpm).await;
    for kind in KINDS {
        for name in [kind.to_owned(), format!("plain-{kind}")] {
            broker
                .set_key_state(&named(&name), KeyState::Revoked)
                .await
                .unwrap();
        }
    }
    assert_eq!(broker.unenforced(), Vec::<String>::new());
    closed(broker).await;
    put_back(folder);
    let broker = opened(folder, &tpm).await;
    only_the_controls_are_used(&broker).await;
    closed(broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_anew_by_the_same_tpm_a_key_hangs_on_its_counter_still_and_it_goes_to_no_other() {
    let temporary = TempDir::new().unwrap();
    let folder = temporary.path();
    let Vault { broker, tpm, .. } = keys(folder).await;
    let tpm = tpm.unwrap();
    closed(broker).await;
    copy_folder(&folder.join("keyring"), &folder.join("copy"));
    let broker = opened(folder, &tpm).await;
    let same = NewRoot {
        spec: broker.keyring().info().root,
        sealer: tpm.sealer(),
        resident: Some(tpm.custody()),
    };
    broker.reseal(same, false, "x").await.unwrap();
    closed(broker).await;
    let broker = opened(folder, &tpm).await;
    let who = start(&broker, GRANTS).await;
    for kind in KINDS {
        uses(&broker, who, kind).await.unwrap();
    }
    let elsewhere = TempDir::new().unwrap();
    let other = swtpm(elsewhere.path());
    let mut spec = broker.keyring().info().root;
    spec.settings = other.settings(folder).unwrap();
    let moving = NewRoot {
        spec,
        sealer: other.sealer(),
        resident: Some(other.custody()),
    };
    let refused = broker.reseal(moving, true, "x").await.unwrap_err();
    let ResealError::Resident(stay) = &refused else {
        panic!("{refused:?}");
    };
    let stay: Vec<_> = stay.iter().map(|key| key.name.to_string()).collect();
    assert_eq!(stay, ["hook", "notes", "plain-hook", "state"]);
    // Revoked after it was sealed anew: the copy from before has the same counter.
    for kind in KINDS {
        broker
            .set_key_state(&named(kind), KeyState::Revoked)
            .await
            .unwrap();
    }
    closed(broker).await;
    put_back(folder);
    let broker = opened(folder, &tpm).await;
    only_the_controls_are_used(&broker).await;
    closed(broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_holds_no_key_that_the_tpm_could_not_refuse_afterwards() {
    let temporary = TempDir::new().unwrap();
    let vault = keys(temporary.path()).await;
    let (_, recipient) = Identity::generate().unwrap();
    let made = vault.broker.back_up(&[recipient], "x", Vec::new()).await.unwrap();
    let mut held: Vec<_> = made.keys.iter().map(|key| key.name.to_string()).collect();
    held.sort();
    assert_eq!(held, ["plain-notes", "plain-state"]);
    let mut left: Vec<_> = made
        .resident
        .iter()
        .map(|record| record.key.name.to_string())
        .collect();
    left.sort();
    assert_eq!(left, ["hook", "notes", "plain-hook", "state"]);
}
