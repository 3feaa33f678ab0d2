//! One entry on the log is one permit.

use claviger_core::Permit;

fn needs_clone(_: impl Clone) {}

fn copy(permit: Permit) {
    needs_clone(permit);
}

fn main() {}
