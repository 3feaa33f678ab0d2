//! What is settled signs nothing any more.

use claviger_core::Permit;
use claviger_core::audit::Settlement;
use claviger_core::custody::SigningKey;
use claviger_core::profile::Framed;

async fn sign_late(key: &dyn SigningKey, permit: Permit, message: &Framed) {
    permit.settle(Settlement::Released);
    drop(key.sign(&permit, message).await);
}

fn main() {}
