//! A secret does not get into a message by accident.

fn print(secret: &claviger_core::Secret) -> String {
    format!("{secret}")
}

fn main() {}
