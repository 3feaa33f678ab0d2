//! A permit does not get into a log by accident.

fn print(permit: &claviger_core::Permit) -> String {
    format!("{permit:?}")
}

fn main() {}
