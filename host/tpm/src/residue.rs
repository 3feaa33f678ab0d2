//! Overwrites what libtss2 leaves of a secret in the memory that it freed; on the stack, `claviger_core::stack` does. Not a guarantee: it
//! counts on an allocator that hands out first what was freed last on the same thread, as that of glibc does.

use std::hint::black_box;

use tss_esapi::tss2_esys::TPM2B_SENSITIVE_DATA;

/// What libtss2 allocates for the data that it unsealed, in bytes.
const UNSEALED: usize = size_of::<TPM2B_SENSITIVE_DATA>();
/// The sizes of glibc's pieces differ by this.
const STEP: usize = 16;
const FILL: u8 = 0xA5;
/// glibc keeps up to seven freed pieces of a size for the thread that freed them.
const KEPT: usize = 8;
/// How deep a command goes with its structures on the stack, in an unoptimised build, with room to spare; in words.
pub(crate) const STACK_WORDS: usize = 8192;

/// Takes the freed pieces that the thread keeps, so that the one that libtss2 frees next is the one that is handed out next.
pub(crate) struct Pieces(Vec<Vec<u8>>);

impl Pieces {
    pub(crate) fn take() -> Self {
        Self(pieces())
    }

    /// Overwrites the piece that was freed since.
    pub(crate) fn overwrite(self) {
        drop(black_box(pieces()));
        drop(self.0);
    }
}

fn pieces() -> Vec<Vec<u8>> {
    let mut all = Vec::with_capacity(2 * KEPT);
    // glibc rounds up by one step when the rest would be too small to keep.
    for size in [UNSEALED, UNSEALED + STEP] {
        for _ in 0..KEPT {
            // Not zeroes: zeroed memory is not taken from the same place.
            let mut piece = Vec::with_capacity(size);
            piece.resize(size, FILL);
            all.push(black_box(piece));
        }
    }
    all
}
