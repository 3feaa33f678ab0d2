//! A secret does not get into a log by accident.

fn print(secret: &claviger_core::Secret) -> String {
    format!("{secret:?}")
}

fn main() {}
