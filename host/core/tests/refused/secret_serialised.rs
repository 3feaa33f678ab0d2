//! A secret does not leave the process.

fn needs_serialize(_: &impl serde::Serialize) {}

fn send(secret: &claviger_core::Secret) {
    needs_serialize(secret);
}

fn main() {}
