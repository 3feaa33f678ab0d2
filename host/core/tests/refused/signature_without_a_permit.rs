//! No permit, no signature: not even an absent one is taken.

use claviger_core::custody::SigningKey;
use claviger_core::profile::Framed;

async fn sign(key: &dyn SigningKey, message: &Framed) {
    drop(key.sign(None, message).await);
}

fn main() {}
