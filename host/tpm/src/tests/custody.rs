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
        assert_eq!(custody.algorithms(), [Algorithm::P256, Algorithm::Rsa2048]);
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
async fn an_rsa_key_is_resident_and_signs_under_both_kinds_of_session() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let key = rig.key_of(Algorithm::Rsa2048, "app").await;
        assert_eq!(key.public.algorithm(), Algorithm::Rsa2048);
        let first = key.sign(1, b"content").await.unwrap();
        let second = key.sign(1, b"content").await.unwrap();
        assert_eq!(first, second, "PKCS#1 v1.5 is deterministic");
        assert_eq!(first.as_bytes().len(), 256);
        // Opened anew from what is stored, as after a restart; and not with a bit of it changed, or as another key.
        let custody = rig.tpm.custody();
        let stored = |bytes: &[u8]| Secret::take(&mut bytes.to_vec()).unwrap();
        let open = custody
            .open(&key.name, &key.public, stored(&key.stored))
            .await
            .unwrap();
        let message = framed(&key.public, b"content");
        let allowed = permit(&key.name, &message, 1).await;
        assert_eq!(open.sign(&allowed, &message).await.unwrap(), first);
        let again = open.sign(&allowed, &message).await;
        assert!(matches!(again, Err(CustodyError::PermitMismatch)), "{again:?}");
        let other = rig.key_of(Algorithm::P256, "other").await;
        let refused = custody.open(&key.name, &other.public, stored(&key.stored)).await;
        assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
        let message = framed(&other.public, b"content");
        let elsewhere = permit(&key.name, &message, 1).await;
        let refused = open.sign(&elsewhere, &message).await;
        assert!(
            matches!(refused, Err(CustodyError::PermitMismatch)),
            "{refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_algorithm_that_tpms_do_not_have_is_refused() {
    let rig = Rig::new();
    let refused = rig
        .tpm
        .custody()
        .generate(&key_ref("x"), Algorithm::Ed25519)
        .await;
    assert!(
        matches!(refused, Err(CustodyError::Algorithm { .. })),
        "{refused:?}"
    );
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
