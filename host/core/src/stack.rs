//! Overwrites what called code left on the stack. Not a guarantee: it counts on frames that lie where they lay, as compiled code has
//! them.

use zeroize::Zeroize as _;

/// Overwrites so many words of the stack below the caller: for code of others that copies a secret there and does not wipe it. A
/// function that is never inlined, called right after that code; how deep that goes is for whoever calls to know.
#[inline(never)]
pub fn wipe_below<const WORDS: usize>() {
    let mut below = [0_u64; WORDS];
    below.zeroize();
    std::hint::black_box(&below);
}
