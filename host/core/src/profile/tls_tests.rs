//! What a key of the profile `mtls` signs, and what it does not.

use super::proof::{MAX_SUBJECT, certificate_request, certificate_verify};
use super::proof_tests::handshake;
use super::test_keys::Pair;
use super::tests::context;
use super::*;

#[test]
fn only_the_end_of_a_client_s_handshake_is_signed() {
    let [_, pair] = Pair::both();
    let key = pair.public();
    let frame = |content: &[u8]| certificate_verify(&Profile::Mtls {}, content, &context(&key));
    for hash in [32, 48] {
        let framed = frame(&handshake(hash)).unwrap();
        assert_eq!(framed.message(), handshake(hash), "the control");
    }
    let server = [&[0x20; 64][..], b"TLS 1.3, server CertificateVerify\0", &[1; 32]].concat();
    let short = [&[0x20; 63][..], b"TLS 1.3, client CertificateVerify\0", &[1; 32]].concat();
    let cut = handshake(32).split_off(1);
    for bad in [
        &b""[..],
        &[0x20; 64],
        &server,
        &short,
        &cut,
        &handshake(0),
        &handshake(31),
        &handshake(33),
        &handshake(64),
        &[0xEE; 32],
    ] {
        assert_eq!(frame(bad).err(), Some(FrameError::Handshake));
    }
    let signature = pair
        .sign(frame(&handshake(32)).unwrap().message())
        .to_der()
        .unwrap();
    assert!(p256::ecdsa::DerSignature::try_from(signature.as_slice()).is_ok());
}

#[test]
fn openssl_accepts_a_request_for_a_certificate_and_not_a_changed_one() {
    let [_, pair] = Pair::both();
    let key = pair.public();
    let subject = "CN=claviger,OU=Robots,O=Acme";
    let (framed, request) = certificate_request(&Profile::Mtls {}, subject, &context(&key)).unwrap();
    let pem = request.clone().finish(&pair.sign(framed.message())).unwrap();
    let forged = request.finish(&pair.sign(b"something else")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (pem, accepted) in [(pem, true), (forged, false)] {
        let file = folder.path().join("request.pem");
        std::fs::write(&file, pem).unwrap();
        let out = std::process::Command::new("openssl")
            .args(["req", "-verify", "-noout", "-subject", "-in"])
            .arg(&file)
            .output()
            .expect("openssl is missing: apt-get install openssl");
        let text = String::from_utf8_lossy(&out.stdout).replace(' ', "");
        let said = String::from_utf8_lossy(&out.stderr).to_lowercase();
        assert_eq!(said.contains("verify ok"), accepted, "{said}");
        assert!(text.contains("O=Acme,OU=Robots,CN=claviger"), "{text}");
    }
    let long = format!("CN={}", "a".repeat(MAX_SUBJECT));
    for bad in ["", "claviger", "CN=a\nb", &long, "XX=a"] {
        let refused = certificate_request(&Profile::Mtls {}, bad, &context(&key)).err();
        assert_eq!(refused, Some(FrameError::Subject), "{bad:?}");
    }
}
