//! A permit does not leave the process.

fn needs_serialize(_: &impl serde::Serialize) {}

fn send(permit: &claviger_core::Permit) {
    needs_serialize(permit);
}

fn main() {}
