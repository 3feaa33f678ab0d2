//! Keys that the TPM itself refuses once they are revoked, against whoever has copies of them, and owns the TPM too.

use std::path::Path;

use claviger_core::custody::Revocable;
use tss_esapi::handles::{NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::resource_handles::Provision;

use super::formats::{port, run, succeed, take_apart};
use super::*;
use crate::actor::Lane;
use crate::device::Device;

/// A revocable key that is open, and what a keyring would keep to revoke it.
pub(super) async fn revocable(rig: &Rig, algorithm: Algorithm, name: &str) -> (TestKey, Vec<u8>) {
    let custody = rig.tpm.custody();
    let name = key_ref(name);
    let Revocable {
        generated: Generated { public, material },
        revocation,
    } = custody.generate_revocable(&name, algorithm).await.unwrap();
    let stored = material.expose().to_vec();
    let open = custody.open(&name, &public, material).await.unwrap();
    let key = TestKey {
        name,
        public,
        stored,
        open,
    };
    (key, revocation)
}

/// Opens what was stored of a key and signs, as whoever put a copy of it back does.
async fn sign_with_copy(rig: &Rig, key: &TestKey) -> Result<Signature, CustodyError> {
    let stored = Secret::take(&mut key.stored.clone()).unwrap();
    let open = rig.tpm.custody().open(&key.name, &key.public, stored).await?;
    let message = framed(&key.public, b"content");
    let allowed = permit(&key.name, &message, 1).await;
    open.sign(&allowed, &message).await
}

fn tcti(rig: &Rig) -> String {
    format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm))
}

#[track_caller]
fn refused(result: &Result<Signature, CustodyError>) {
    assert!(matches!(result, Err(CustodyError::Revoked(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_signs_no_more_and_neither_does_a_copy_of_it() {
    for session in SESSIONS {
        for algorithm in [Algorithm::P256, Algorithm::Rsa2048] {
            let rig = Rig::with(session);
            let (key, revocation) = revocable(&rig, algorithm, "release").await;
            let (other, _) = revocable(&rig, Algorithm::P256, "other").await;
            let control = rig.key("control").await;
            key.sign(1, b"content").await.unwrap();
            sign_with_copy(&rig, &key)
                .await
                .expect("the control: a copy is good as long as the key is");

            let done = rig.tpm.custody().revoke(&key.name, &revocation).await.unwrap();
            assert_ne!(done, revocation);
            refused(&key.sign(1, b"content").await);
            refused(&sign_with_copy(&rig, &key).await);
            // Also by a TPM that was switched off meanwhile.
            rig.tpm.kill_child();
            refused(&sign_with_copy(&rig, &key).await);
            // Again, by the old record and by the new one: nothing changes.
            for record in [&revocation, &done] {
                assert_eq!(rig.tpm.custody().revoke(&key.name, record).await.unwrap(), done);
            }
            refused(&sign_with_copy(&rig, &key).await);

            other
                .sign(1, b"content")
                .await
                .expect("another key is not revoked with it");
            sign_with_copy(&rig, &control)
                .await
                .expect("the control: without a counter, a copy signs for ever");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_counter_in_the_place_of_the_old_one_brings_no_key_back() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let (key, revocation) = revocable(&rig, Algorithm::P256, "release").await;
    let index = format!("0x{}", hex::encode(&revocation[2..6]));
    let value = u64::from_be_bytes(revocation[6..].try_into().unwrap());
    let tcti = tcti(&rig);
    let tpm2 = |args: &[&str]| succeed("tpm2", folder, &[args, &["-T", &tcti]].concat());
    let name = || {
        let public = tpm2(&["nvreadpublic", &index]);
        let line = public.lines().find(|line| line.contains("name:")).unwrap();
        line.trim().to_owned()
    };
    let before = name();
    rig.tpm.custody().revoke(&key.name, &revocation).await.unwrap();
    let listed = tpm2(&["nvreadpublic"]);
    assert!(
        !listed.contains(index.trim_start_matches("0x")),
        "its room is free: {listed}"
    );
    // Whoever owns the TPM makes the same index again: same number, same attributes, so the same Name.
    let attributes = "authwrite|authread|no_da|nt=0x1";
    tpm2(&["nvdefine", &index, "-C", "o", "-s", "8", "-a", attributes]);
    tpm2(&["nvincrement", &index]);
    assert_eq!(name(), before, "the control: it is the same index by its Name");
    std::fs::write(folder.join("value"), "").unwrap();
    tpm2(&["nvread", &index, "-o", "value"]);
    let now = u64::from_be_bytes(std::fs::read(folder.join("value")).unwrap().try_into().unwrap());
    assert!(
        now > value,
        "a counter starts above all that were: {now} after {value}"
    );
    refused(&sign_with_copy(&rig, &key).await);
    // Nor does an index of another sort.
    // (`tpm2 nvundefine` waits for itself: it opens two connections, and swtpm serves one.)
    let number = u32::from_be_bytes(revocation[2..6].try_into().unwrap());
    let undefine = move |device: &mut Device| {
        device.run("remove an index", |link| {
            let handle = TpmHandle::NvIndex(NvIndexTpmHandle::new(number)?);
            let object = link
                .context()
                .execute_without_session(|context| context.tr_from_tpm_public(handle))?;
            Ok(link
                .context()
                .nv_undefine_space(Provision::Owner, object.into())?)
        })
    };
    rig.tpm.actor.run(Lane::Host, undefine).await.unwrap();
    tpm2(&[
        "nvdefine",
        &index,
        "-C",
        "o",
        "-s",
        "8",
        "-a",
        "authwrite|authread|no_da",
    ]);
    std::fs::write(folder.join("old"), value.to_be_bytes()).unwrap();
    tpm2(&["nvwrite", &index, "-i", "old"]);
    refused(&sign_with_copy(&rig, &key).await);
    rig.tpm.custody().revoke(&key.name, &revocation).await.unwrap();
    tpm2(&["nvread", &index]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_value_of_a_revocable_key_alone_signs_nothing() {
    let rig = Rig::new();
    let folder = rig.folder.path();
    let (key, _) = revocable(&rig, Algorithm::P256, "release").await;
    let plain = rig.key("plain").await;
    let tcti = tcti(&rig);
    let sign_by_hand = |stored: &[u8]| {
        let (value, pem) = (hex::encode(&stored[1..33]), &stored[33..]);
        std::fs::write(folder.join("key.tss"), pem).unwrap();
        std::fs::write(folder.join("message"), b"message").unwrap();
        succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
        let auth = format!("hex:{value}");
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
            "key.ctx",
            "-T",
            &tcti,
        ];
        succeed("tpm2", folder, &load);
        succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
        run(
            "tpm2",
            folder,
            &[
                "sign", "-c", "key.ctx", "-p", &auth, "-g", "sha256", "-o", "sig", "message", "-T", &tcti,
            ],
        )
    };
    let output = sign_by_hand(&plain.stored);
    assert!(
        output.status.success(),
        "the control: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Twelve bytes of counter and one of its kind stand before the blob.
    let output = sign_by_hand(&key.stored[13..]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("0x12F") || said.contains("12f"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_of_a_revocable_key_cannot_be_led_to_another_counter() {
    let rig = Rig::new();
    let (key, _) = revocable(&rig, Algorithm::P256, "release").await;
    for at in 0..=13 {
        let mut stored = key.stored.clone();
        stored[at] ^= 1;
        let material = Secret::take(&mut stored).unwrap();
        let opened = rig.tpm.custody().open(&key.name, &key.public, material).await;
        assert!(
            matches!(opened, Err(CustodyError::NotOurs(_))),
            "{at}: {opened:?}"
        );
    }
    let without = Secret::take(&mut key.stored[13..].to_vec()).unwrap();
    let opened = rig.tpm.custody().open(&key.name, &key.public, without).await;
    assert!(matches!(opened, Err(CustodyError::NotOurs(_))), "{opened:?}");
    sign_with_copy(&rig, &key).await.expect("the control");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_without_room_for_a_counter_says_so_and_what_to_do() {
    let rig = Rig::new();
    let (old, revocation) = revocable(&rig, Algorithm::P256, "old").await;
    let mut last = None;
    while last.is_none() {
        // In parts: nothing takes the TPM for longer than a request may wait.
        let part = |device: &mut Device| Ok((0..50).find_map(|_| device.make_counter().err()));
        last = rig.tpm.actor.run(Lane::Host, part).await.unwrap();
    }
    let full = rig
        .tpm
        .custody()
        .generate_revocable(&key_ref("new"), Algorithm::P256)
        .await;
    match full {
        Err(CustodyError::Unavailable(text)) => {
            assert!(text.contains("no room for another counter"), "{text}");
            assert!(text.contains("0x14b"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    old.sign(1, b"content").await.expect("the others go on");
    // Revoking one makes room for one.
    rig.tpm.custody().revoke(&old.name, &revocation).await.unwrap();
    let (new, _) = revocable(&rig, Algorithm::P256, "new").await;
    new.sign(1, b"content").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_password_stops_the_making_of_a_counter_and_not_a_revocation() {
    let rig = Rig::new();
    let (key, revocation) = revocable(&rig, Algorithm::P256, "release").await;
    let tcti = tcti(&rig);
    succeed(
        "tpm2",
        rig.folder.path(),
        &["changeauth", "-c", "owner", "password", "-T", &tcti],
    );
    let made = rig
        .tpm
        .custody()
        .generate_revocable(&key_ref("new"), Algorithm::P256)
        .await;
    match made {
        Err(CustodyError::Unavailable(text)) => assert!(text.contains("tpm2_changeauth"), "{text}"),
        other => panic!("{other:?}"),
    }
    key.sign(1, b"content").await.unwrap();
    rig.tpm.custody().revoke(&key.name, &revocation).await.unwrap();
    refused(&sign_with_copy(&rig, &key).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_was_replaced_says_so_and_revokes_nothing() {
    let rig = Rig::new();
    let (key, revocation) = revocable(&rig, Algorithm::P256, "release").await;
    rig.tpm.kill_child();
    std::fs::remove_dir_all(rig.folder.path().join("tpm")).unwrap();
    let result = key.sign(1, b"content").await;
    assert!(matches!(result, Err(CustodyError::NotOurs(_))), "{result:?}");
    let result = rig.tpm.custody().revoke(&key.name, &revocation).await;
    assert!(matches!(result, Err(CustodyError::NotOurs(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_keys_than_the_tpm_has_slots_sign_in_turn() {
    let rig = Rig::new();
    let (a, _) = revocable(&rig, Algorithm::P256, "a").await;
    let (b, _) = revocable(&rig, Algorithm::P256, "b").await;
    let (c, d, e) = (rig.key("c").await, rig.key("d").await, rig.key("e").await);
    for _ in 0..3 {
        for key in [&a, &c, &d, &b, &e] {
            key.sign(1, b"content").await.unwrap();
        }
    }
    let pid = rig.tpm.swtpm_pid();
    // Nothing is left behind: no session and no key.
    let listed = succeed(
        "tpm2",
        Path::new("/"),
        &["getcap", "handles-loaded-session", "-T", &tcti(&rig)],
    );
    assert_eq!(listed.trim(), "", "{listed}");
    assert_eq!(rig.tpm.swtpm_pid(), pid);
}
