//! Every path to a TPM that is locked against guessing, full, cleared, or another one. In lockout everything goes on, since no key of ours
//! counts guesses; of a TPM that is not ours every path says so, and none makes or keeps anything there.

use std::path::Path;
use std::time::Duration;

use claviger_core::custody::MacKey;
use tss_esapi::constants::response_code::Tss2ResponseCode;

use super::attesting::{Witness, to_prove, token, witness};
use super::formats::{port, run, succeed};
use super::revocation::revocable;
use super::revocation_kinds::{mac, revocable_mac};
use super::*;
use crate::actor::Lane;
use crate::device::Device;
use crate::{RecoveryCode, Registers, TpmError};

const ROOT: &str = "root";

/// One of everything, made while the TPM was well.
struct Owned {
    settings: String,
    signing: TestKey,
    revocable: TestKey,
    revocation: Vec<u8>,
    mac: (KeyRef, Vec<u8>, Arc<dyn MacKey>),
    revocable_mac: (KeyRef, Arc<dyn MacKey>),
    revocable_sealed: Vec<u8>,
    witness: Witness,
    sealed: Vec<u8>,
    bound: Tpm,
    opens: Tpm,
    bound_sealed: Vec<u8>,
}

fn tcti(rig: &Rig) -> String {
    format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm))
}

fn secret(bytes: &[u8]) -> Secret {
    Secret::take(&mut bytes.to_vec()).unwrap()
}

async fn owned(rig: &Rig) -> Owned {
    let to = format!("0:sha256={}", "ab".repeat(32));
    succeed("tpm2", rig.folder.path(), &["pcrextend", &to, "-T", &tcti(rig)]);
    let custody = rig.tpm.custody();
    let macs = custody.macs().unwrap();
    let name = key_ref("hook");
    let stored = macs.generate(&name).await.unwrap().expose().to_vec();
    let open = macs.open(&name, secret(&stored)).await.unwrap();
    let (key, revocation) = revocable(rig, Algorithm::P256, "revocable").await;
    let registers: Registers = "sha256:0".parse().unwrap();
    let bound = rig
        .tpm
        .clone()
        .bound(registers, ROOT, RecoveryCode::random().unwrap());
    let settings = bound.settings(rig.folder.path()).unwrap();
    let binding = crate::choice::Settings::parse(&settings)
        .unwrap()
        .binding()
        .unwrap();
    Owned {
        settings: rig.tpm.settings(rig.folder.path()).unwrap(),
        signing: rig.key("signing").await,
        revocable: key,
        revocation,
        mac: (name, stored, open),
        revocable_mac: {
            let name = key_ref("revocable-hook");
            let (open, _, _) = revocable_mac(rig, &name).await;
            (name, open)
        },
        revocable_sealed: {
            let made = rig.tpm.sealer().seal_revocable(ROOT, &secret(&[7; 32])).await;
            made.unwrap().material.expose().to_vec()
        },
        witness: witness(rig, "evidence").await,
        sealed: rig.tpm.sealer().seal(ROOT, &secret(&[7; 32])).await.unwrap(),
        bound_sealed: bound.sealer().seal(ROOT, &secret(&[7; 32])).await.unwrap(),
        bound,
        opens: rig.tpm.clone().with_binding(binding),
    }
}

/// Another process that opens the keyring: it connects by the settings, to the TPM that runs.
fn connected(rig: &Rig, owned: &Owned, session: SessionKind) -> Result<Tpm, TpmError> {
    let name = crate::choice::Settings::parse(&owned.settings)
        .unwrap()
        .srk_name()
        .unwrap();
    let choice = TpmChoice::Tcti(tcti(rig));
    Tpm::start(choice, session, Some(name), Duration::from_secs(30))
}

/// What is done on each path, with what came of it.
async fn every_path(rig: &Rig, owned: &Owned) -> Vec<(&'static str, Result<(), CustodyError>)> {
    let custody = rig.tpm.custody();
    let attester = custody.attester().unwrap();
    let macs = custody.macs().unwrap();
    let Owned { signing, witness, .. } = owned;
    let mut ways = Vec::new();
    let mut way = |name, result: Result<(), CustodyError>| ways.push((name, result));
    way("sign", signing.sign(1, b"content").await.map(drop));
    let stored = secret(&signing.stored);
    way(
        "open a key",
        custody
            .open(&signing.name, &signing.public, stored)
            .await
            .map(drop),
    );
    way(
        "make a key",
        custody.generate(&key_ref("new"), Algorithm::P256).await.map(drop),
    );
    way(
        "sign with a revocable key",
        owned.revocable.sign(1, b"content").await.map(drop),
    );
    let stored = secret(&owned.revocable.stored);
    let (name, public) = (&owned.revocable.name, &owned.revocable.public);
    way(
        "open a revocable key",
        custody.open(name, public, stored).await.map(drop),
    );
    let made = custody.generate_revocable(&key_ref("new"), Algorithm::P256).await;
    way("make a revocable key", made.map(drop));
    let (name, stored, open) = &owned.mac;
    let input = macs::input(b"content");
    let allowed = macs::permit(name, &input).await;
    way("make a MAC", open.mac(&allowed, &input).await.map(drop));
    way(
        "open a key for MACs",
        macs.open(name, secret(stored)).await.map(drop),
    );
    way(
        "make a key for MACs",
        macs.generate(&key_ref("new")).await.map(drop),
    );
    let message = token(&witness.public, &[7; 32]);
    let allowed = permit(&witness.name, &message, 1).await;
    way(
        "give evidence",
        witness.open.evidence(&allowed, &message).await.map(drop),
    );
    let allowed = to_prove(&signing.name, &witness.name).await;
    let certified = witness
        .open
        .certify(&allowed, &signing.name, secret(&signing.stored), &[1; 32]);
    way("certify", certified.await.map(drop));
    let opened = attester.open(&witness.name, &witness.public, secret(&witness.stored));
    way("open a key for evidence", opened.await.map(drop));
    way(
        "make a key for evidence",
        attester.generate(&key_ref("new")).await.map(drop),
    );
    let sealer = rig.tpm.sealer();
    way("unseal", sealer.unseal(ROOT, &owned.sealed).await.map(drop));
    way("seal", sealer.seal(ROOT, &secret(&[1; 32])).await.map(drop));
    let bound = owned.opens.sealer();
    way(
        "unseal by registers",
        bound.unseal(ROOT, &owned.bound_sealed).await.map(drop),
    );
    let bound = owned.bound.sealer();
    way(
        "unseal by the code",
        bound.unseal(ROOT, &owned.bound_sealed).await.map(drop),
    );
    way(
        "seal by registers",
        bound.seal(ROOT, &secret(&[1; 32])).await.map(drop),
    );
    let (name, open) = &owned.revocable_mac;
    way("make a revocable MAC", mac(open, name).await.map(drop));
    let opened = sealer.unseal(ROOT, &owned.revocable_sealed).await;
    way("unseal what is revocable", opened.map(drop));
    // Last: what is revoked signs no more.
    let (name, revocation) = (&owned.revocable.name, &owned.revocation);
    way("revoke", custody.revoke(name, revocation).await.map(drop));
    ways
}

/// The handles of all indexes.
fn indexes(rig: &Rig) -> String {
    succeed(
        "tpm2",
        rig.folder.path(),
        &["getcap", "handles-nv-index", "-T", &tcti(rig)],
    )
}

/// How many there are; a listing ends after some two hundred.
fn index_count(rig: &Rig) -> u32 {
    let said = succeed(
        "tpm2",
        rig.folder.path(),
        &["getcap", "properties-variable", "-T", &tcti(rig)],
    );
    let (_, rest) = said.split_once("TPM2_PT_HR_NV_INDEX: 0x").unwrap();
    u32::from_str_radix(rest.lines().next().unwrap().trim(), 16).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_lockout_every_path_goes_on() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let folder = rig.folder.path();
        let owned = owned(&rig).await;
        let tcti = tcti(&rig);
        std::fs::write(folder.join("data"), "12345678").unwrap();
        let tpm2 = |args: &[&str]| run("tpm2", folder, &[args, &["-T", &tcti]].concat());
        // Somebody else's index, which counts guesses, and a guesser. (An object would have to be flushed, and on a TPM without a resource
        // manager ours would go with it.)
        let index = "0x01500001";
        let define = [
            "nvdefine",
            index,
            "-C",
            "o",
            "-s",
            "8",
            "-p",
            "right",
            "-a",
            "authread|authwrite",
        ];
        assert!(tpm2(&define).status.success());
        assert!(
            tpm2(&["nvwrite", index, "-P", "right", "-i", "data"])
                .status
                .success()
        );
        let read = |password: &str| {
            let output = tpm2(&["nvread", index, "-P", password]);
            (
                output.status.success(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            )
        };
        assert!(read("right").0, "the control: it opens");
        for _ in 0..4 {
            assert!(!read("wrong").0);
        }
        let (opened, said) = read("right");
        assert!(
            !opened && said.contains("0x921"),
            "the control: the TPM is locked: {said}"
        );

        for (name, result) in every_path(&rig, &owned).await {
            assert!(result.is_ok(), "{name}: {result:?}");
        }
        let again = connected(&rig, &owned, session).unwrap();
        assert!(
            again
                .sealer()
                .unseal(ROOT, &owned.sealed)
                .await
                .unwrap()
                .equals(&[7; 32])
        );
        again.facts().await.unwrap();
        assert!(!read("right").0, "the control: it is locked still");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lock_does_stop_says_so_and_what_ends_it() {
    let rig = Rig::new();
    // Nothing of ours counts guesses, so the answer is made here, at both doors that answers come through.
    let locked =
        |device: &mut Device| device.run("sign", |_| Err::<(), _>(crate::device::Failure::Code(0x921)));
    let error = rig.tpm.actor.run(Lane::Host, locked).await.unwrap_err();
    let CustodyError::Unavailable(text) = error else {
        panic!("{error:?}");
    };
    assert!(
        text.contains("locked against guessing") && text.contains("tpm2_dictionarylockout --clear-lockout"),
        "{text}"
    );
    let code = Tss2ResponseCode::from(0x921);
    let error = crate::link::failed("make its storage root key")(tss_esapi::Error::Tss2Error(code));
    let text = error.to_string();
    assert!(
        text.contains("locked against guessing") && text.contains("tpm2_dictionarylockout --clear-lockout"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_was_cleared_or_replaced_under_a_running_host_is_not_ours_on_every_path() {
    for replaced in [false, true] {
        for session in SESSIONS {
            let rig = Rig::with(session);
            let owned = owned(&rig).await;
            for (name, result) in every_path(&rig, &owned).await {
                assert!(result.is_ok(), "the control: {name}: {result:?}");
            }
            // Not the one that was revoked.
            let (key, revocation) = revocable(&rig, Algorithm::P256, "revocable").await;
            let owned = Owned {
                revocable: key,
                revocation,
                ..owned
            };
            if replaced {
                rig.tpm.kill_child();
                std::fs::remove_dir_all(rig.folder.path().join("tpm")).unwrap();
            } else {
                succeed("tpm2", rig.folder.path(), &["clear", "-T", &tcti(&rig)]);
            }
            for (name, result) in every_path(&rig, &owned).await {
                match result {
                    Err(CustodyError::NotOurs(text)) => {
                        assert!(
                            text.contains("another TPM, or the TPM was cleared"),
                            "{name}: {text}"
                        );
                    }
                    other => panic!("{name}, replaced: {replaced}, {session:?}: {other:?}"),
                }
            }
            if !replaced {
                let refused = connected(&rig, &owned, session).map(drop).unwrap_err();
                assert!(matches!(refused, TpmError::NotOurs { .. }), "{refused:?}");
                assert_eq!(indexes(&rig), "", "nothing was made in a TPM that is not ours");
                let kept = ["getcap", "handles-persistent", "-T", &tcti(&rig)];
                assert_eq!(succeed("tpm2", Path::new("/"), &kept), "");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tpm_makes_no_half_of_a_revocable_key_and_everything_else_goes_on() {
    let rig = Rig::new();
    let owned = owned(&rig).await;
    let mut last = None;
    while last.is_none() {
        let part = |device: &mut Device| Ok((0..50).find_map(|_| device.make_counter().err()));
        last = rig.tpm.actor.run(Lane::Host, part).await.unwrap();
    }
    let before = index_count(&rig);
    let ways = every_path(&rig, &owned).await;
    assert_eq!(
        index_count(&rig),
        before - 1,
        "no index of what was not made is left, and that of the revoked key is gone"
    );
    for (name, result) in ways {
        match (name, result) {
            ("make a revocable key", Err(CustodyError::Unavailable(text))) => {
                assert!(text.contains("no room for another counter"), "{text}");
                assert!(text.contains("revoke") && text.contains("without it"), "{text}");
            }
            ("make a revocable key", other) => panic!("{other:?}"),
            (name, result) => assert!(result.is_ok(), "{name}: {result:?}"),
        }
    }
}
