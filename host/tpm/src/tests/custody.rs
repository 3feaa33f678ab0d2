//! Resident keys: what they sign, and what they refuse.

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
async fn a_permit_for_something_else_is_refused() {
    let rig = Rig::new();
    let key = rig.key("release").await;
    let other = rig.key("other").await;
    let message = framed(&key.public, b"content");
    let foreign = framed(&other.public, b"content");
    let later = KeyRef {
        version: KeyVersion(2),
        ..key.name.clone()
    };
    let cases = [
        (
            permit(&key.name, &framed(&key.public, b"other content"), 1).await,
            &message,
        ),
        // The same content, framed another time.
        (
            permit(&key.name, &framed(&key.public, b"content"), 1).await,
            &message,
        ),
        (permit(&other.name, &message, 1).await, &message),
        (permit(&key.name, &foreign, 1).await, &foreign),
        (permit(&later, &message, 1).await, &message),
    ];
    for (permit, message) in cases {
        let refused = key.open.sign(&permit, message).await;
        assert!(
            matches!(refused, Err(CustodyError::PermitMismatch)),
            "{refused:?}"
        );
    }
    let permit = permit(&key.name, &message, 1).await;
    key.open.sign(&permit, &message).await.expect("the control");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_algorithm_that_no_tpm_has_is_refused() {
    let rig = Rig::new();
    let refused = rig
        .tpm
        .custody()
        .generate(&key_ref("release"), Algorithm::Ed25519)
        .await;
    assert!(
        matches!(refused, Err(CustodyError::Algorithm { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn material_that_is_changed_or_of_another_key_does_not_open() {
    let rig = Rig::new();
    let custody = rig.tpm.custody();
    let key = rig.key("release").await;
    let other = rig.key("other").await;
    let swapped = custody.open(&key.name, &other.public, key.material()).await;
    assert!(matches!(swapped, Err(CustodyError::NotOurs(_))), "{swapped:?}");

    // Past the version and the value, which nothing but use can check, every 7th byte.
    for at in (33..key.stored.len()).step_by(7).chain([0]) {
        let mut bytes = key.stored.clone();
        bytes[at] ^= 1;
        let opened = custody
            .open(&key.name, &key.public, Secret::take(&mut bytes).unwrap())
            .await;
        assert!(
            matches!(opened, Err(CustodyError::NotOurs(_))),
            "byte {at}: {opened:?}"
        );
    }

    // A wrong authorisation value opens, and then does not sign, and locks nothing.
    let mut bytes = key.stored.clone();
    bytes[5] ^= 1;
    let opened = custody
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
async fn a_key_of_another_tpm_does_not_open() {
    let (ours, theirs) = (Rig::new(), Rig::new());
    let key = theirs.key("release").await;
    let opened = ours
        .tpm
        .custody()
        .open(&key.name, &key.public, key.material())
        .await;
    assert!(matches!(opened, Err(CustodyError::NotOurs(_))), "{opened:?}");
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
