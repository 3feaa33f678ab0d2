//! Fuzzes `fuzz::urls`, which says what holds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::urls::hold(data));
