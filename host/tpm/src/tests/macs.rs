//! Keys for MACs in the TPM: the value is that of RFC 2104 over the framed message, by a key that nothing else opens or uses.

use claviger_core::custody::MacKey;
use claviger_core::profile::{MacInput, Profile};

use super::formats::{port, succeed, take_apart};
use super::*;

pub(super) fn input(content: &[u8]) -> MacInput {
    let profile = Profile::Mac {
        label: "a".repeat(64).parse().unwrap(),
    };
    profile.macs(None).unwrap().frame(content).unwrap()
}

pub(super) async fn permit(key: &KeyRef, input: &MacInput) -> Permit {
    let allowed = Use {
        instance: InstanceId(1),
        agent: "tester".parse().unwrap(),
        component: ComponentDigest::of(b"component"),
        manifest: ManifestDigest::of(b"manifest"),
        grant: "mac".parse().unwrap(),
        key: Some(key.clone()),
        secret: None,
        profile: "mac".to_owned(),
        operation: None,
        request: None,
        content: input.content(),
        size: input.size() as u64,
        number: 1,
        rate_until: None,
        approval: None,
    };
    let sink = Arc::new(CountingSink::default());
    Permit::to_use(
        sink,
        Arc::new(Epoch),
        Timestamp::UNIX_EPOCH,
        allowed,
        input.into(),
    )
    .await
    .unwrap()
}

async fn mac(open: &Arc<dyn MacKey>, key: &KeyRef, content: &[u8]) -> Vec<u8> {
    let input = input(content);
    let allowed = permit(key, &input).await;
    let value = open.mac(&allowed, &input).await.unwrap();
    let again = open.mac(&allowed, &input).await;
    assert!(matches!(again, Err(CustodyError::PermitMismatch)));
    value.tag(KeyVersion::FIRST)[5..].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mac_is_the_tpms_own_over_the_framed_message_and_survives_a_restart() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let folder = rig.folder.path();
        let custody = rig.tpm.custody();
        let macs = custody.macs().unwrap();
        let (name, other) = (key_ref("hook"), key_ref("other"));
        let stored = macs.generate(&name).await.unwrap().expose().to_vec();
        let material = |bytes: &[u8]| Secret::take(&mut bytes.to_vec()).unwrap();
        let open = macs.open(&name, material(&stored)).await.unwrap();
        let first = mac(&open, &name, b"content").await;
        assert_eq!(mac(&open, &name, b"content").await, first);
        assert_ne!(mac(&open, &name, b"content.").await, first);
        rig.tpm.kill_child();
        assert_eq!(mac(&open, &name, b"content").await, first);
        drop(open);
        let open = macs.open(&name, material(&stored)).await.unwrap();
        assert_eq!(mac(&open, &name, b"content").await, first);

        // Another program asks the same key for the same message.
        std::fs::write(folder.join("key.tss"), &stored[33 + 33..]).unwrap();
        take_apart(folder);
        std::fs::write(folder.join("message"), input(b"content").message()).unwrap();
        let tcti = format!("swtpm:host=127.0.0.1,port={}", port(&rig.tpm));
        let auth = format!("hex:{}", hex::encode(&stored[34..66]));
        let tpm2 = |args: &[&str]| succeed("tpm2", folder, &[args, &["-T", &tcti]].concat());
        tpm2(&["flushcontext", "-t"]);
        tpm2(&[
            "load",
            "-C",
            "0x81000001",
            "-u",
            "pub",
            "-r",
            "priv",
            "-c",
            "mac.ctx",
        ]);
        tpm2(&["flushcontext", "-t"]);
        tpm2(&["hmac", "-c", "mac.ctx", "-p", &auth, "-o", "value", "message"]);
        assert_eq!(std::fs::read(folder.join("value")).unwrap(), first);

        // Not as another key, not damaged, not as a key that signs; nor a key that signs as one for MACs.
        let signs = rig.key("signs").await;
        for (name, stored) in [(&other, &stored), (&name, &signs.stored)] {
            let refused = macs.open(name, material(stored)).await;
            assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
        }
        let mut disguised = stored[..33].to_vec();
        disguised.extend_from_slice(&signs.stored);
        for at in (0..stored.len()).step_by(37) {
            let mut damaged = stored.clone();
            damaged[at] ^= 1;
            // The authorisation value is the TPM's to judge, when it is used.
            if !(34..66).contains(&at) {
                assert!(macs.open(&name, material(&damaged)).await.is_err(), "{at}");
            }
        }
        let refused = macs.open(&name, material(&disguised)).await;
        assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
        let refused = custody.open(&name, &signs.public, material(&stored)).await;
        assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "{refused:?}");
        // A permit for another key is none for this.
        let asked = input(b"content");
        let elsewhere = permit(&other, &asked).await;
        assert!(matches!(
            open.mac(&elsewhere, &asked).await,
            Err(CustodyError::PermitMismatch)
        ));
    }
}
