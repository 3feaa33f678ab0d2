//! What a secret shows is gone when the secret is.

use claviger_core::Secret;

fn keep(secret: Secret) -> &'static [u8] {
    let shown: &'static [u8] = secret.expose();
    drop(secret);
    shown
}

fn main() {}
