//! A TPM that is not the one that sealed: cleared, replaced, or left behind by a copied folder. Each says so, and opens nothing.

use std::path::Path;

use super::*;
use crate::TpmError;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// What a keyring in this folder keeps of its TPM, and something that the TPM sealed for it.
async fn sealed(rig: &Rig) -> (String, Vec<u8>) {
    let settings = rig.tpm.settings(rig.folder.path()).unwrap();
    let secret = Secret::take(&mut [7; 32]).unwrap();
    (settings, rig.tpm.sealer().seal("root", &secret).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleared_tpm_and_another_one_are_told_from_the_right_one_before_anything_is_opened() {
    let rig = Rig::new();
    let (settings, blob) = sealed(&rig).await;
    let other = Rig::new();
    let Rig { tpm, folder } = rig;
    drop(tpm);
    let state = folder.path().join("tpm");
    let kept = folder.path().join("kept");
    copy(&state, &kept);
    let Rig {
        tpm: other_tpm,
        folder: other_folder,
    } = other;
    drop(other_tpm);
    for replaced in [false, true] {
        std::fs::remove_dir_all(&state).unwrap();
        if replaced {
            copy(&other_folder.path().join("tpm"), &state);
        }
        let refused = Tpm::connect_with(&settings, folder.path()).map(drop).unwrap_err();
        assert!(matches!(refused, TpmError::NotOurs { .. }), "{refused:?}");
        assert!(
            refused.to_string().contains("or the TPM was cleared"),
            "{refused}"
        );
        // Whoever does not ask for the pinned one gets nothing out of the blob either.
        let stranger = Tpm::connect(TpmChoice::Swtpm { state: state.clone() }).unwrap();
        let refused = stranger.sealer().unseal("root", &blob).await.map(drop);
        assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
    }
    // The control: with its own state it opens, as after moving the folder to where the TPM is.
    std::fs::remove_dir_all(&state).unwrap();
    copy(&kept, &state);
    let again = Tpm::connect_with(&settings, folder.path()).unwrap();
    assert!(
        again
            .sealer()
            .unseal("root", &blob)
            .await
            .unwrap()
            .equals(&[7; 32])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_tpm2_clear_cleared_is_not_ours_any_more() {
    let rig = Rig::new();
    let (settings, blob) = sealed(&rig).await;
    assert!(
        rig.tpm.sealer().unseal("root", &blob).await.is_ok(),
        "the control"
    );
    let tcti = format!("swtpm:host=127.0.0.1,port={}", formats::port(&rig.tpm));
    let cleared = std::process::Command::new("tpm2")
        .args(["clear", "-T", &tcti])
        .output()
        .expect("needs tpm2-tools: apt-get install tpm2-tools");
    assert!(cleared.status.success(), "{cleared:?}");
    let refused = rig.tpm.sealer().unseal("root", &blob).await.map(drop);
    assert!(refused.is_err(), "{refused:?}");
    let Rig { tpm, folder } = rig;
    drop(tpm);
    let refused = Tpm::connect_with(&settings, folder.path()).map(drop).unwrap_err();
    assert!(matches!(refused, TpmError::NotOurs { .. }), "{refused:?}");
}
