//! A secret is compared in constant time or not at all.

use claviger_core::Secret;

fn same(one: &Secret, other: &Secret) -> bool {
    one == other
}

fn main() {}
