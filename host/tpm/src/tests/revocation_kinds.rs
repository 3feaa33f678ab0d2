//! Keys for MACs and sealed data that the TPM itself refuses once they are revoked: by the key that is open, by copies of what was stored, and
//! by hand with every value that is known.

use claviger_core::custody::{MacKey, RevocableMaterial};
use claviger_core::key::SymmetricAlgorithm;

use super::formats::{port, run, succeed, take_apart};
use super::*;

fn secret(bytes: &[u8]) -> Secret {
    Secret::take(&mut bytes.to_vec()).unwrap()
}

fn tcti(rig: &Rig) -> String {
    format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm))
}

/// A revocable key for MACs that is open, what is stored of it, and what revokes it.
pub(super) async fn revocable_mac(rig: &Rig, name: &KeyRef) -> (Arc<dyn MacKey>, Vec<u8>, Vec<u8>) {
    let custody = rig.tpm.custody();
    let made = custody.generate_symmetric_revocable(name, SymmetricAlgorithm::HmacSha256);
    let RevocableMaterial { material, revocation } = made.await.unwrap();
    let stored = material.expose().to_vec();
    let open = custody.macs().unwrap().open(name, material).await.unwrap();
    (open, stored, revocation)
}

pub(super) async fn mac(open: &Arc<dyn MacKey>, name: &KeyRef) -> Result<Vec<u8>, CustodyError> {
    let input = macs::input(b"content");
    let allowed = macs::permit(name, &input).await;
    let value = open.mac(&allowed, &input).await?;
    Ok(value.tag(KeyVersion::FIRST).to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_for_macs_makes_no_more_and_neither_does_a_copy_of_it() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let custody = rig.tpm.custody();
        let macs = custody.macs().unwrap();
        let (name, other) = (key_ref("hook"), key_ref("other"));
        let (open, stored, revocation) = revocable_mac(&rig, &name).await;
        let (second, _, _) = revocable_mac(&rig, &other).await;
        let first = mac(&open, &name).await.unwrap();
        rig.tpm.kill_child();
        let copy = macs.open(&name, secret(&stored)).await.unwrap();
        assert_eq!(
            mac(&copy, &name).await.unwrap(),
            first,
            "the control: a copy is the same key"
        );
        assert!(matches!(
            macs.open(&other, secret(&stored)).await,
            Err(CustodyError::NotOurs(_))
        ));
        // Led to no other counter, and to none.
        for at in 33..=46 {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(
                matches!(
                    macs.open(&name, secret(&changed)).await,
                    Err(CustodyError::NotOurs(_))
                ),
                "{at}"
            );
        }
        let without = [&stored[..33], &stored[46..]].concat();
        assert!(matches!(
            macs.open(&name, secret(&without)).await,
            Err(CustodyError::NotOurs(_))
        ));

        let done = custody.revoke(&name, &revocation).await.unwrap();
        for again in [&open, &copy, &macs.open(&name, secret(&stored)).await.unwrap()] {
            let refused = mac(again, &name).await;
            assert!(matches!(refused, Err(CustodyError::Revoked(_))), "{refused:?}");
        }
        assert_eq!(custody.revoke(&name, &done).await.unwrap(), done);
        mac(&second, &other)
            .await
            .expect("another key is not revoked with it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sealed_and_revoked_opens_no_more_and_neither_does_a_copy() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let sealer = rig.tpm.sealer();
        let made = sealer
            .seal_revocable("key:a@v1", &secret(&[7; 32]))
            .await
            .unwrap();
        let RevocableMaterial { material, revocation } = made;
        let stored = material.expose().to_vec();
        let other = sealer
            .seal_revocable("key:b@v1", &secret(&[8; 128]))
            .await
            .unwrap();
        let control = sealer.seal("key:a@v1", &secret(&[7; 32])).await.unwrap();
        rig.tpm.kill_child();
        assert!(sealer.unseal("key:a@v1", &stored).await.unwrap().equals(&[7; 32]));
        let refused = sealer.unseal("key:b@v1", &stored).await.map(drop);
        assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
        for at in 0..=13 {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            let refused = sealer.unseal("key:a@v1", &changed).await.map(drop);
            assert!(
                matches!(refused, Err(CustodyError::NotOurs(_))),
                "{at}: {refused:?}"
            );
        }
        let refused = sealer.unseal("key:a@v1", &stored[13..]).await.map(drop);
        assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");

        let done = sealer.revoke(&revocation).await.unwrap();
        for _ in 0..2 {
            let refused = sealer.unseal("key:a@v1", &stored).await.map(drop);
            assert!(matches!(refused, Err(CustodyError::Revoked(_))), "{refused:?}");
            rig.tpm.kill_child();
        }
        assert_eq!(sealer.revoke(&done).await.unwrap(), done);
        let other = sealer.unseal("key:b@v1", other.material.expose()).await.unwrap();
        assert!(other.equals(&[8; 128]), "another is not revoked with it");
        let control = sealer.unseal("key:a@v1", &control).await.unwrap();
        assert!(
            control.equals(&[7; 32]),
            "the control: without a counter, a copy opens for ever"
        );
        // Nothing is left behind: no session and no object but what a connection has for itself.
        let listed = succeed(
            "tpm2",
            rig.folder.path(),
            &["getcap", "handles-loaded-session", "-T", &tcti(&rig)],
        );
        assert!(listed.lines().count() <= 1, "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_values_alone_open_nothing_by_hand() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let sealer = rig.tpm.sealer();
    let plain = sealer.seal("p", &secret(&[7; 32])).await.unwrap();
    let made = sealer.seal_revocable("p", &secret(&[7; 32])).await.unwrap();
    let tcti = tcti(&rig);
    let unseal_by_hand = |stored: &[u8]| {
        let value = crate::sealer::value(stored[1..33].try_into().unwrap(), "p");
        std::fs::write(folder.join("key.tss"), &stored[33..]).unwrap();
        succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
        take_apart(folder);
        let load = [
            "load",
            "-C",
            "0x81000001",
            "-u",
            "pub",
            "-r",
            "priv",
            "-c",
            "o.ctx",
            "-T",
            &tcti,
        ];
        succeed("tpm2", folder, &load);
        succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
        let auth = format!("hex:{}", hex::encode(*value));
        run(
            "tpm2",
            folder,
            &["unseal", "-c", "o.ctx", "-p", &auth, "-T", &tcti],
        )
    };
    let output = unseal_by_hand(&plain);
    assert_eq!(
        output.stdout,
        [7; 32],
        "the control: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Twelve bytes of counter and one of its kind stand before the blob.
    let output = unseal_by_hand(&made.material.expose()[13..]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.stdout.is_empty() && said.contains("0x12F"), "{said}");
}
