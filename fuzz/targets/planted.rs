//! A fault that is there to be found: if the engine does not find it in seconds, it does not see into the code that it runs, and what
//! it says of the other targets is worth nothing.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // One comparison after the other, so that only who sees each of them succeed gets to the last.
    let mut fits = 0;
    for (given, wanted) in data.iter().zip(b"keys") {
        if given != wanted {
            break;
        }
        fits += 1;
    }
    assert!(fits < 4, "planted");
});
