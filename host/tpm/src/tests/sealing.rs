//! Sealed secrets: what opens them, and what does not.

use super::*;
use crate::MAX_SEALED;
use claviger_core::custody::Assurance;

fn secret(bytes: &[u8]) -> Secret {
    Secret::take(&mut bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_opens_for_its_purpose_only() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let sealer = rig.tpm.sealer();
        assert_eq!(sealer.assurance(), Assurance::Swtpm);
        for length in [1, 32, MAX_SEALED] {
            let bytes: Vec<u8> = (0..length).map(|i| u8::try_from(i).unwrap()).collect();
            let sealed = sealer.seal("keyring root", &secret(&bytes)).await.unwrap();
            let opened = sealer.unseal("keyring root", &sealed).await.unwrap();
            assert!(opened.equals(&bytes), "{length}");
            for other in ["keyring roo", "keyring root ", ""] {
                let refused = sealer.unseal(other, &sealed).await;
                assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{other}");
            }
            // Wrong purposes lock nothing.
            assert!(
                sealer
                    .unseal("keyring root", &sealed)
                    .await
                    .unwrap()
                    .equals(&bytes)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_with_a_flipped_bit_anywhere_does_not_open() {
    let rig = Rig::new();
    let sealer = rig.tpm.sealer();
    let sealed = sealer.seal("root", &secret(&[7; 32])).await.unwrap();
    // The last byte is the newline that PEM may or may not end with.
    for at in (0..sealed.len() - 1).step_by(5) {
        let mut bytes = sealed.clone();
        bytes[at] ^= 1;
        let refused = sealer.unseal("root", &bytes).await;
        let refused = refused.map(|_| ());
        assert!(
            matches!(refused, Err(CustodyError::NotOurs(_))),
            "byte {at}: {refused:?}"
        );
    }
    for length in [0, 1, 33, 34, sealed.len() / 2] {
        let refused = sealer.unseal("root", &sealed[..length]).await.map(|_| ());
        assert!(
            matches!(refused, Err(CustodyError::NotOurs(_))),
            "{length}: {refused:?}"
        );
    }
    assert!(sealer.unseal("root", &sealed).await.unwrap().equals(&[7; 32]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tpm_does_not_open_it_and_this_one_does_after_a_restart() {
    let (rig, other) = (Rig::new(), Rig::new());
    let sealed = rig.tpm.sealer().seal("root", &secret(&[7; 32])).await.unwrap();
    let refused = other.tpm.sealer().unseal("root", &sealed).await.map(|_| ());
    assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
    let settings = rig.tpm.settings(std::path::Path::new("")).unwrap();
    let Rig { tpm, folder } = rig;
    drop(tpm);
    let tpm = Tpm::connect_with(&settings, std::path::Path::new("")).unwrap();
    assert!(
        tpm.sealer()
            .unseal("root", &sealed)
            .await
            .unwrap()
            .equals(&[7; 32])
    );
    drop(tpm);
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_a_sealed_secret_and_a_secret_is_not_a_key() {
    let rig = Rig::new();
    let key = rig.key("release").await;
    let as_secret = rig.tpm.sealer().unseal("root", &key.stored).await.map(|_| ());
    assert!(
        matches!(as_secret, Err(CustodyError::NotOurs(_))),
        "{as_secret:?}"
    );
    let mut sealed = rig.tpm.sealer().seal("root", &secret(&[7; 32])).await.unwrap();
    let material = Secret::take(&mut sealed).unwrap();
    let as_key = rig.tpm.custody().open(&key.name, &key.public, material).await;
    assert!(matches!(as_key, Err(CustodyError::NotOurs(_))), "{as_key:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_tpm_takes_is_refused() {
    let rig = Rig::new();
    let refused = rig.tpm.sealer().seal("root", &secret(&[7; MAX_SEALED + 1])).await;
    assert!(matches!(refused, Err(CustodyError::Fault(_))), "{refused:?}");
}
