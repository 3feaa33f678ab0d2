//! A use has one end.

use claviger_core::Permit;
use claviger_core::audit::Settlement;

fn settle_twice(permit: Permit) {
    permit.settle(Settlement::Released);
    permit.settle(Settlement::Failed);
}

fn main() {}
