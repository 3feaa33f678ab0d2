//! Bytes that no profile framed are not signed.

use claviger_core::Permit;
use claviger_core::custody::SigningKey;

async fn sign(key: &dyn SigningKey, permit: &Permit, digest: &[u8]) {
    drop(key.sign(permit, digest).await);
}

fn main() {}
