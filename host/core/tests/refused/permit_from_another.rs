//! A permit is not made from another one with a field exchanged.

use claviger_core::{KeyRef, Permit};

fn widen(mut permit: Permit, key: KeyRef) -> Permit {
    permit.key = Some(key);
    permit
}

fn main() {}
