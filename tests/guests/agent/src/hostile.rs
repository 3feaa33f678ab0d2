//! What only an attacker does: endless work, all memory, lists that are not there. Safe for the host, or a test fails.
#![expect(unsafe_code, reason = "an attacker does not keep to safe Rust")]

use std::hint::black_box;
use std::sync::Mutex;

use claviger_sdk::Error;
use claviger_sdk::bindings::claviger::credentials::signing;

/// Computes for ever.
pub(crate) fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Takes memory until there is none.
pub(crate) fn allocate() -> ! {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        taken.push(black_box(vec![1; 1 << 20]));
    }
}

/// Calls itself until the stack ends. It keeps nothing in linear memory, whose own stack would end first.
#[inline(never)]
pub(crate) fn recurse(depth: u64) -> u64 {
    if depth < 2 {
        return depth;
    }
    recurse(depth - 1).wrapping_mul(31) ^ recurse(depth - 2)
}

/// Says that it has this much to sign, wherever it may be.
pub(crate) fn sign_claimed(alias: &str, bytes: usize) -> Result<String, Error> {
    let signer = signing::Signer::open(alias).map_err(claviger_sdk::Refusal::from)?;
    // SAFETY: none. The list reaches beyond the memory; the host must see that.
    let claimed = unsafe { std::slice::from_raw_parts(std::ptr::without_provenance(16), bytes) };
    let signature = signer.sign(claimed).map_err(claviger_sdk::Refusal::from)?;
    Ok(format!("signed {}", signature.len()))
}

/// Asks the host for this many random bytes at once, which the standard library never does.
pub(crate) fn random(bytes: usize) -> Result<String, Error> {
    let got = wasi::wasi::random::random::get_random_bytes(u64::try_from(bytes)?);
    Ok(format!("random {}", got.len()))
}

mod wasi {
    claviger_sdk::wit_bindgen::generate!({
        inline: "
            package claviger:test-guest;
            world random { import wasi:random/random@0.2.0; }
            package wasi:random@0.2.0 {
                interface random { get-random-bytes: func(len: u64) -> list<u8>; get-random-u64: func() -> u64; }
            }
        ",
        runtime_path: "::claviger_sdk::wit_bindgen::rt",
        generate_all,
    });
}

static HELD: Mutex<String> = Mutex::new(String::new());

/// Keeps text in memory, for a later run that must not find it.
pub(crate) fn hold(text: &str) -> String {
    if let Ok(mut held) = HELD.lock() {
        held.push_str(text);
    }
    "held".to_owned()
}

static HELD_BYTES: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Keeps bytes in memory that nobody else has: they came as hexadecimal digits.
pub(crate) fn hold_hex(digits: &str) -> Result<String, Error> {
    let bytes = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair)?, 16).map_err(Error::from))
        .collect::<Result<Vec<u8>, Error>>()?;
    let count = bytes.len();
    if let Ok(mut held) = HELD_BYTES.lock() {
        held.push(bytes);
    }
    Ok(format!("held {count}"))
}

/// What an earlier run kept: nothing.
pub(crate) fn held() -> String {
    HELD.lock().map(|held| held.clone()).unwrap_or_default()
}
