//! What holds of hostile bytes, one function for each target: it panics where something does not hold. Not the engine that looks for
//! such bytes: `targets/` has one file for each, and `cargo xtask fuzz` runs them.
#![forbid(unsafe_code)]

pub mod headers;
pub mod json;
pub mod scrubber;
pub mod urls;

/// The first line of an input, and what follows it.
fn split(data: &[u8]) -> Option<(&str, &[u8])> {
    let at = data.iter().position(|byte| *byte == b'\n')?;
    let (first, rest) = data.split_at_checked(at)?;
    Some((std::str::from_utf8(first).ok()?, rest.get(1..)?))
}
