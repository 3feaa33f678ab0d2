//! Fuzzes `fuzz::json`, which says what holds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::json::hold(data));
