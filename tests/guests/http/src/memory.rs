//! All of the agent's linear memory, for whoever looks for what must not be in it. Looks for nothing itself.
#![expect(unsafe_code, reason = "an attacker reads what no object is at")]

use std::io::Write as _;

use claviger_sdk::Error;

const PAGE: usize = 64 * 1024;
/// Written at once: less than a host takes.
const PIECE: usize = 4096;

/// Prints it from the first bytes to the last, as it is while this runs.
pub(crate) fn print() -> Result<String, Error> {
    let end = core::arch::wasm32::memory_size(0) * PAGE;
    let mut out = std::io::stdout();
    let mut piece = Vec::with_capacity(PIECE);
    let mut at = PIECE;
    while at < end {
        piece.clear();
        for address in at..at + PIECE {
            let byte = std::ptr::with_exposed_provenance::<u8>(address);
            // SAFETY: the address is within linear memory, which is never unmapped and of which every byte has a value; nothing
            // else runs.
            piece.push(unsafe { byte.read_volatile() });
        }
        out.write_all(&piece)?;
        at += PIECE;
    }
    out.flush()?;
    Ok(format!("{end} bytes"))
}
