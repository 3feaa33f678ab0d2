//! Key pairs for the tests of profiles. Not custody: they sign whatever they are given.

use crate::key::{Algorithm, PublicKey, Signature};

/// A key pair of each algorithm; fixed but for RSA, which `openssl` makes.
pub(super) enum Pair {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
    Rsa(Box<ring::signature::RsaKeyPair>),
}

impl Pair {
    pub(super) fn rsa() -> Self {
        let made = std::process::Command::new("openssl")
            .args([
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-outform",
                "DER",
            ])
            .output()
            .expect("openssl is missing: apt-get install openssl");
        assert!(made.status.success());
        // Which of the two encodings it is depends on the version of OpenSSL.
        let key = ring::signature::RsaKeyPair::from_der(&made.stdout)
            .or_else(|_| ring::signature::RsaKeyPair::from_pkcs8(&made.stdout));
        Self::Rsa(Box::new(key.unwrap()))
    }

    pub(super) fn both() -> [Self; 2] {
        [
            Self::Ed25519(ed25519_dalek::SigningKey::from_bytes(&[7; 32])),
            Self::P256(p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap()),
        ]
    }

    pub(super) fn public(&self) -> PublicKey {
        match self {
            Self::Rsa(key) => {
                let der = ring::signature::KeyPair::public_key(key.as_ref()).as_ref();
                PublicKey::from_bytes(Algorithm::Rsa2048, der).unwrap()
            }
            Self::Ed25519(key) => PublicKey::ed25519(key.verifying_key().as_bytes()).unwrap(),
            Self::P256(key) => {
                PublicKey::p256(key.verifying_key().to_encoded_point(true).as_bytes()).unwrap()
            }
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Signature {
        use p256::ecdsa::signature::Signer as _;
        match self {
            Self::Rsa(key) => {
                let mut bytes = [0; 256];
                key.sign(
                    &ring::signature::RSA_PKCS1_SHA256,
                    &ring::rand::SystemRandom::new(),
                    message,
                    &mut bytes,
                )
                .unwrap();
                Signature::rsa2048(bytes)
            }
            Self::Ed25519(key) => Signature::new(Algorithm::Ed25519, key.sign(message).to_bytes()),
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                Signature::new(Algorithm::P256, signature.to_bytes().into())
            }
        }
    }
}
