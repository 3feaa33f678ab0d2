//! A secret is not built from pages that nobody locked.

fn unlocked(pages: memmap2::MmapMut) -> claviger_core::Secret {
    claviger_core::Secret { pages, len: 32 }
}

fn main() {}
