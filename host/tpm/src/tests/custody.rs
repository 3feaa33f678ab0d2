//! Resident keys beyond what every custody must do, which is a suite in the test kit: sessions, authorisation values, settings.

use claviger_core::custody::{Assurance, CustodyKind};

use super::*;
use crate::TpmError;

#[tokio::test(flavor = "multi_thread")]
async fn a_resident_key_signs_what_its_permit_covers_under_both_kinds_of_session() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let custody = rig.tpm.custody();
        assert_eq!(custody.kind(), CustodyKind::Tpm);
        assert_eq!(custody.algorithms(), [Algorithm::P256]);
        let key = rig.key("release").await;
        let first = key.sign(1, b"content").await.unwrap();
        let second = key.sign(1, b"content").await.unwrap();
        assert_ne!(
            first.as_bytes(),
            second.as_bytes(),
            "ECDSA of a TPM is randomised"
        );
        let facts = rig.tpm.facts().await.unwrap();
        assert_eq!(facts.sessions, session);
        assert_eq!(facts.assurance, Assurance::Swtpm);
        assert_eq!(facts.manufacturer, "IBM");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_authorisation_value_opens_and_then_signs_nothing_and_locks_nothing() {
    let rig = Rig::new();
    let key = rig.key("release").await;
    let mut bytes = key.stored.clone();
    bytes[5] ^= 1;
    let opened = rig
        .tpm
        .custody()
        .open(&key.name, &key.public, Secret::take(&mut bytes).unwrap())
        .await
        .unwrap();
    for _ in 0..5 {
        let message = framed(&key.public, b"content");
        let permit = permit(&key.name, &message, 1).await;
        let refused = opened.sign(&permit, &message).await;
        assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
    }
    key.sign(1, b"content")
        .await
        .expect("the control, after five wrong values");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_again_after_a_restart_with_the_settings() {
    let Rig { tpm, folder } = Rig::new();
    let rig = Rig { tpm, folder };
    let TestKey {
        name,
        public,
        stored,
        open,
    } = rig.key("release").await;
    let settings = rig.tpm.settings(std::path::Path::new("")).unwrap();
    let pid = rig.tpm.swtpm_pid().unwrap();
    let Rig { tpm, folder } = rig;
    drop(open);
    drop(tpm);
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the software TPM ended with the last handle"
    );
    let tpm = Tpm::connect_with(&settings, std::path::Path::new("")).unwrap();
    let material = Secret::take(&mut stored.clone()).unwrap();
    let open = tpm.custody().open(&name, &public, material).await.unwrap();
    let key = TestKey {
        name,
        public,
        stored,
        open,
    };
    key.sign(1, b"content").await.unwrap();
    drop(key);
    drop(tpm);
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tpm_under_the_same_settings_is_not_ours() {
    let Rig { tpm, folder } = Rig::new();
    let settings = tpm.settings(std::path::Path::new("")).unwrap();
    drop(tpm);
    std::fs::remove_dir_all(folder.path().join("tpm")).unwrap();
    let refused = Tpm::connect_with(&settings, std::path::Path::new(""));
    assert!(matches!(refused, Err(TpmError::NotOurs { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_state_is_told_so() {
    let rig = Rig::new();
    let second = Tpm::connect(TpmChoice::Swtpm {
        state: rig.folder.path().join("tpm"),
    });
    assert!(matches!(second, Err(TpmError::SwtpmInUse(_))), "{second:?}");
}
