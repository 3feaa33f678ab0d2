//! What must not compile: permits forged, copied, printed or used twice, and secrets that get out. Not behaviour: who reaches a permit
//! at all is tested where permits are made.
//!
//! Each file in `refused` is one attack, with what the compiler says to it beside it; `TRYBUILD=overwrite` writes that anew after a
//! change of compiler. The control is below: the same calls, where they may be made.

use claviger_core::audit::Settlement;
use claviger_core::custody::SigningKey;
use claviger_core::profile::Framed;
use claviger_core::{KeyRef, KeyVersion, Permit, Secret};

#[test]
fn permits_and_secrets_are_not_forged_copied_or_shown() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}

fn needs_clone(_: impl Clone) {}

fn needs_serialize(_: &impl serde::Serialize) {}

fn needs_deserialize<T: serde::de::DeserializeOwned>() {}

#[expect(dead_code, reason = "that it compiles is the control")]
async fn a_permit_is_used_and_then_settled(key: &dyn SigningKey, permit: Permit, message: &Framed) -> String {
    let signed = key.sign(&permit, message).await;
    permit.settle(Settlement::Released);
    format!("{signed:?}")
}

#[test]
fn what_may_be_copied_and_shown_compiles() {
    let key = KeyRef {
        name: "release".parse().unwrap(),
        version: KeyVersion::FIRST,
    };
    needs_serialize(&key);
    needs_deserialize::<KeyRef>();
    assert_ne!(format!("{key:?}"), format!("{key}"));
    needs_clone(key);
    let secret = Secret::take(&mut [7; 32]).unwrap();
    let shown: &[u8] = secret.expose();
    assert!(secret.equals(shown));
    drop(secret);
}
