//! A secret is in one place.

use claviger_core::Secret;

fn needs_clone(_: impl Clone) {}

fn copy(secret: Secret) {
    needs_clone(secret);
}

fn main() {}
