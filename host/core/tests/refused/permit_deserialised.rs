//! A permit does not come from outside of the process.

fn needs_deserialize<T: serde::de::DeserializeOwned>() {}

fn receive() {
    needs_deserialize::<claviger_core::Permit>();
}

fn main() {}
