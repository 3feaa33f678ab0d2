//! Fuzzes `fuzz::headers`, which says what holds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::headers::hold(data));
