//! Private keys as OpenSSH writes them (PROTOCOL.key), through the `ssh-key` crate. No encrypted ones, none of hardware tokens.

use claviger_core::{Algorithm, PublicKey};
use ssh_key::private::{EcdsaKeypair, KeypairData};
use ssh_key::{Mpint, PrivateKey};

use super::{ImportError, ImportedKey, KeyFormat};

pub(super) fn read(block: &str) -> Result<ImportedKey, ImportError> {
    // Its parts wipe themselves when they are dropped. Its checks include that both halves of the file are of one key.
    let key = PrivateKey::from_openssh(block).map_err(|_| ImportError::Damaged(KeyFormat::Openssh))?;
    if key.is_encrypted() {
        return Err(ImportError::Encrypted);
    }
    match key.key_data() {
        KeypairData::Ed25519(pair) => ImportedKey::new(
            Algorithm::Ed25519,
            pair.private.as_ref(),
            Some(PublicKey::ed25519(&pair.public.0)),
            KeyFormat::Openssh,
        ),
        KeypairData::Ecdsa(EcdsaKeypair::NistP256 { public, private }) => ImportedKey::new(
            Algorithm::P256,
            private.as_slice(),
            Some(PublicKey::p256(public.as_bytes())),
            KeyFormat::Openssh,
        ),
        KeypairData::Rsa(pair) => {
            let number = |number: &Mpint| {
                number
                    .as_positive_bytes()
                    .map(<[u8]>::to_vec)
                    .ok_or(ImportError::Rsa)
            };
            let prime = pair.private.p.as_positive_bytes().ok_or(ImportError::Rsa)?;
            let (modulus, exponent) = (number(&pair.public.n)?, number(&pair.public.e)?);
            ImportedKey::rsa(&modulus, &exponent, prime, KeyFormat::Openssh)
        }
        // The others of the crate, which may become more.
        _ => Err(ImportError::Algorithm),
    }
}
