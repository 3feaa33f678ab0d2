//! There is no permit from nothing.

fn forge() -> claviger_core::Permit {
    Default::default()
}

fn main() {}
