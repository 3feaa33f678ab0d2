//! Keys in the TPM that agree on a secret: it is that of the curve, by this TPM alone, and by no key of another kind.

use p256::elliptic_curve::sec1::ToEncodedPoint as _;

use super::*;

fn copy(bytes: &[u8]) -> Secret {
    Secret::take(&mut bytes.to_vec()).unwrap()
}

/// A key in software, and its public half.
fn ephemeral() -> (p256::SecretKey, PublicKey) {
    let key = p256::SecretKey::random(&mut rand_core::OsRng);
    let public = key.public_key().to_encoded_point(false);
    (key, PublicKey::p256(public.as_bytes()).unwrap())
}

/// What the curve says that the two share.
fn shared(private: &p256::SecretKey, public: &PublicKey) -> Vec<u8> {
    let point = p256::PublicKey::from_sec1_bytes(public.as_bytes()).unwrap();
    let product = point.to_projective() * *private.to_nonzero_scalar();
    let product = product.to_affine().to_encoded_point(false);
    product.x().unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_agrees_as_the_curve_says_and_survives_a_restart() {
    for session in SESSIONS {
        let rig = Rig::with(session);
        let custody = rig.tpm.custody();
        let keys = custody.agreement().unwrap();
        let Generated { public, material } = keys.generate().await.unwrap();
        assert_eq!(keys.public(&material).unwrap(), public);
        let (private, with) = ephemeral();
        let expected = shared(&private, &public);
        assert!(keys.agree(&material, &with).await.unwrap().equals(&expected));
        rig.tpm.kill_child();
        assert!(keys.agree(&material, &with).await.unwrap().equals(&expected));
        let (_, other) = ephemeral();
        assert!(!keys.agree(&material, &other).await.unwrap().equals(&expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tpm_does_not_agree_and_nothing_but_such_a_key_does() {
    let (rig, other) = (Rig::new(), Rig::new());
    let (custody, elsewhere) = (rig.tpm.custody(), other.tpm.custody());
    let keys = custody.agreement().unwrap();
    let Generated { public, material } = keys.generate().await.unwrap();
    let (_, with) = ephemeral();
    let refused = elsewhere.agreement().unwrap().agree(&material, &with).await;
    assert!(matches!(refused, Err(CustodyError::NotOurs(_))), "another TPM");
    let signs = rig.key("signs").await;
    let stored = copy(&signs.stored);
    assert!(matches!(keys.public(&stored), Err(CustodyError::NotOurs(_))));
    assert!(matches!(
        keys.agree(&stored, &with).await,
        Err(CustodyError::NotOurs(_))
    ));
    let refused = custody
        .open(&key_ref("x"), &public, copy(material.expose()))
        .await;
    assert!(
        matches!(refused, Err(CustodyError::NotOurs(_))),
        "nor does it sign: {refused:?}"
    );
    let mut tried = 0;
    for at in (0..material.len()).step_by(29) {
        let mut damaged = material.expose().to_vec();
        damaged[at] ^= 1;
        assert!(keys.agree(&copy(&damaged), &with).await.is_err(), "{at}");
        tried += 1;
    }
    assert!(tried > 10, "{tried}");
    let rsa = rig.key_of(Algorithm::Rsa2048, "rsa").await;
    assert!(keys.agree(&material, &rsa.public).await.is_err());
    assert!(keys.agree(&material, &with).await.is_ok(), "the control");
}
