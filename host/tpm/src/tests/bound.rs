//! What is bound to how the machine starts: registers that change, the code that opens nonetheless, and what is kept when it is sealed again.

use super::formats::{port, run, succeed, take_apart};
use super::*;
use crate::{RecoveryCode, Registers};

const ROOT: &str = "root";

fn tcti(rig: &Rig) -> String {
    format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm))
}

/// Measures something, as firmware does.
fn measure(rig: &Rig, register: u32) {
    let digest = "ab".repeat(32);
    let to = format!("{register}:sha256={digest}");
    succeed("tpm2", rig.folder.path(), &["pcrextend", &to, "-T", &tcti(rig)]);
}

fn registers() -> Registers {
    "sha256:0,2,4,7".parse().unwrap()
}

fn secret(byte: u8) -> Secret {
    Secret::take(&mut [byte; 32]).unwrap()
}

fn again(code: &RecoveryCode) -> RecoveryCode {
    RecoveryCode::parse(&code.to_text().unwrap()).unwrap()
}

/// A TPM of a machine that measured something, bound, the code, and something sealed.
async fn bound(session: SessionKind) -> (Rig, Tpm, RecoveryCode, Vec<u8>) {
    let rig = Rig::with(session);
    measure(&rig, 0);
    let code = RecoveryCode::random().unwrap();
    let tpm = rig.tpm.clone().bound(registers(), ROOT, again(&code));
    let sealed = tpm.sealer().seal(ROOT, &secret(7)).await.unwrap();
    (rig, tpm, code, sealed)
}

/// The same TPM as whoever opens the keyring has it: without the code.
fn opener(rig: &Rig, tpm: &Tpm) -> Tpm {
    let settings = tpm.settings(rig.folder.path()).unwrap();
    assert_eq!(Tpm::bound_to(&settings).unwrap(), Some(registers()));
    let binding = crate::choice::Settings::parse(&settings)
        .unwrap()
        .binding()
        .unwrap();
    rig.tpm.clone().with_binding(binding)
}

#[track_caller]
fn names(result: &Result<Secret, CustodyError>, registers: &str) {
    match result {
        Err(CustodyError::StartChanged(text)) => {
            assert!(text.contains(&format!(": {registers} changed (")), "{text}");
        }
        other => panic!("{:?}", other.as_ref().map(|_| ())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_start_opens_nothing_and_the_changed_registers_are_named() {
    for session in SESSIONS {
        let (rig, tpm, _, sealed) = bound(session).await;
        let opener = opener(&rig, &tpm);
        let open = async || opener.sealer().unseal(ROOT, &sealed).await;
        assert!(
            open().await.unwrap().equals(&[7; 32]),
            "the control: nothing changed"
        );
        measure(&rig, 5);
        assert!(
            open().await.unwrap().equals(&[7; 32]),
            "the control: a register that is not asked for"
        );
        measure(&rig, 4);
        names(&open().await, "sha256:4");
        measure(&rig, 7);
        names(&open().await, "sha256:4,7");
        // What is sealed for another purpose goes on.
        let other = opener.sealer().seal("other", &secret(3)).await.unwrap();
        measure(&rig, 0);
        assert!(
            opener
                .sealer()
                .unseal("other", &other)
                .await
                .unwrap()
                .equals(&[3; 32])
        );
        // Nothing stays behind in the TPM.
        let listed = succeed(
            "tpm2",
            rig.folder.path(),
            &["getcap", "handles-loaded-session", "-T", &tcti(&rig)],
        );
        let own = usize::from(session == SessionKind::SaltedEncrypted);
        assert_eq!(listed.lines().count(), own, "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tpm_itself_refuses_whoever_says_that_other_values_were_meant() {
    let (rig, tpm, _, sealed) = bound(SessionKind::Password).await;
    let opener = opener(&rig, &tpm);
    measure(&rig, 7);
    // The values in the file as they are now: the policy of the blob does not have them.
    let now = rig
        .tpm
        .actor
        .run(crate::actor::Lane::Host, |device| {
            device.run("read", |link| registers().read(link))
        })
        .await
        .unwrap();
    let mut forged = sealed.clone();
    forged[3..3 + now.len()].copy_from_slice(&now);
    let refused = opener.sealer().unseal(ROOT, &forged).await.map(drop);
    assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
    // By hand, with the value of the blob and without the policy, and with a policy of what is there now.
    let length = usize::from(u16::from_be_bytes(
        sealed[3 + now.len()..5 + now.len()].try_into().unwrap(),
    ));
    let blob = &sealed[5 + now.len()..5 + now.len() + length];
    let folder = rig.folder.path();
    std::fs::write(folder.join("key.tss"), &blob[33..]).unwrap();
    take_apart(folder);
    let auth = crate::sealer::value(blob[1..33].try_into().unwrap(), ROOT);
    let auth = hex::encode(*auth);
    let tcti = tcti(&rig);
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
    for how in [format!("hex:{auth}"), format!("pcr:sha256:0,2,4,7+hex:{auth}")] {
        let output = run(
            "tpm2",
            folder,
            &["unseal", "-c", "o.ctx", "-p", &how, "-T", &tcti],
        );
        assert!(!output.status.success(), "{how}");
        succeed("tpm2", folder, &["flushcontext", "-t", "-T", &tcti]);
        succeed("tpm2", folder, &["flushcontext", "-l", "-T", &tcti]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_opens_after_a_change_and_what_is_sealed_then_opens_without_it() {
    for session in SESSIONS {
        let (rig, tpm, code, sealed) = bound(session).await;
        measure(&rig, 7);
        let wrong = opener(&rig, &tpm).recovering(RecoveryCode::random().unwrap());
        let refused = wrong.sealer().unseal(ROOT, &sealed).await.map(drop);
        match refused {
            Err(CustodyError::NotOurs(text)) => assert!(text.contains("recovery code"), "{text}"),
            other => panic!("{other:?}"),
        }
        let recovering = opener(&rig, &tpm).recovering(again(&code)).sealer();
        let opened = recovering.unseal(ROOT, &sealed).await.unwrap();
        assert!(opened.equals(&[7; 32]));
        let resealed = recovering.seal(ROOT, &opened).await.unwrap();
        let plain = opener(&rig, &tpm).sealer();
        assert!(plain.unseal(ROOT, &resealed).await.unwrap().equals(&[7; 32]));
        names(&plain.unseal(ROOT, &sealed).await, "sha256:7");
        // Sealed again without the code at hand, which stays good.
        let third = plain.seal(ROOT, &opened).await.unwrap();
        measure(&rig, 2);
        names(&plain.unseal(ROOT, &third).await, "sha256:2");
        let recovering = opener(&rig, &tpm).recovering(again(&code)).sealer();
        assert!(recovering.unseal(ROOT, &third).await.unwrap().equals(&[7; 32]));
        // The code is for the one purpose.
        let refused = recovering.unseal("other", &third).await.map(drop);
        assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_is_of_no_use_in_another_tpm() {
    let (_rig, _, code, sealed) = bound(SessionKind::Password).await;
    let other = Rig::new();
    measure(&other, 0);
    let stranger = other.tpm.clone().bound(registers(), ROOT, again(&code));
    let refused = stranger.sealer().unseal(ROOT, &sealed).await.map(drop);
    assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_opens_nothing_and_a_tpm_that_measured_nothing_binds_nothing() {
    let (rig, tpm, _, sealed) = bound(SessionKind::Password).await;
    let opener = opener(&rig, &tpm);
    for at in (0..sealed.len()).step_by(29).chain([0, 1, 2, 3]) {
        let mut bytes = sealed.clone();
        bytes[at] ^= 1;
        let opened = opener.sealer().unseal(ROOT, &bytes).await;
        // The second blob is not read while the first opens.
        let second = 5 + 128 + usize::from(u16::from_be_bytes(sealed[131..133].try_into().unwrap()));
        assert_eq!(opened.is_ok(), at >= second, "{at}");
    }
    let fresh = Rig::new();
    let tpm = fresh
        .tpm
        .clone()
        .bound(registers(), ROOT, RecoveryCode::random().unwrap());
    match tpm.sealer().seal(ROOT, &secret(7)).await {
        Err(CustodyError::Unavailable(text)) => assert!(text.contains("nothing was ever measured"), "{text}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}
