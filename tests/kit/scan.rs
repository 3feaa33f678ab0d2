//! Looks for known secrets wherever a process leaves bytes: its memory, files, output, environment; in clear and encoded. Not a proof of
//! absence: it finds what it is given, in the encodings it knows.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The shortest piece of a secret that counts as found.
pub const WINDOW: usize = 12;
/// The longest encoding of a secret of 32 bytes: pieces this near to each other are one find.
const SPAN: u64 = 192;
/// Memory is read in pieces of this many bytes.
const PIECE: usize = 1 << 20;
/// An untouched page.
const PAGE: [u8; 4096] = [0; 4096];

/// A secret in every encoding, by the encoding's name.
///
/// # Panics
/// When the secret is shorter than [`WINDOW`].
#[must_use]
pub fn encodings(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    assert!(
        secret.len() >= WINDOW,
        "a secret of {} bytes is found anywhere",
        secret.len()
    );
    let latin: String = secret.iter().copied().map(char::from).collect();
    let percent = |keep: fn(&u8) -> bool, upper: bool| {
        let mut text = String::new();
        for byte in secret {
            match (keep(byte), upper) {
                (true, _) => text.push(char::from(*byte)),
                (false, true) => text.push_str(&format!("%{byte:02X}")),
                (false, false) => text.push_str(&format!("%{byte:02x}")),
            }
        }
        text.into_bytes()
    };
    let unreserved: fn(&u8) -> bool = |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let json = serde_json::Value::String(latin.clone()).to_string();
    let mut all = vec![
        ("raw", secret.to_vec()),
        ("reversed", secret.iter().rev().copied().collect()),
        ("hex", hex::encode(secret).into_bytes()),
        ("HEX", hex::encode_upper(secret).into_bytes()),
        ("percent", percent(unreserved, true)),
        ("percent, all", percent(|_| false, false)),
        ("json string", json.trim_matches('"').as_bytes().to_vec()),
        ("utf-8 of latin-1", latin.into_bytes()),
        ("json numbers", list(secret, ",")),
        ("debug numbers", list(secret, ", ")),
        ("utf-16", secret.iter().flat_map(|byte| [*byte, 0]).collect()),
        // As SHA-2 keeps its blocks.
        ("swapped u32", swapped::<4>(secret)),
        ("swapped u64", swapped::<8>(secret)),
    ];
    let names = [
        ["base64 +0", "base64 +1", "base64 +2"],
        ["base64url +0", "base64url +1", "base64url +2"],
    ];
    for (names, alphabet) in names.into_iter().zip([STANDARD, URL]) {
        for (skip, name) in names.into_iter().enumerate() {
            all.push((name, base64_inside(secret, skip, alphabet)));
        }
    }
    all
}

/// Whether the encoding survives a stream that is read as text, and is one word of a command line.
#[must_use]
pub fn is_text(encoding: &str) -> bool {
    !["raw", "reversed", "utf-16", "swapped u32", "swapped u64"].contains(&encoding)
}

/// Whether the encoding is the name of a file, whatever the secret.
#[must_use]
pub fn is_name(encoding: &str) -> bool {
    // Of the others, some can have a slash in them.
    encoding.eq_ignore_ascii_case("hex")
        || ["percent", "base64url", "json numbers", "debug numbers"]
            .iter()
            .any(|start| encoding.starts_with(start))
}

fn list(secret: &[u8], separator: &str) -> Vec<u8> {
    secret
        .iter()
        .map(u8::to_string)
        .collect::<Vec<_>>()
        .join(separator)
        .into_bytes()
}

fn swapped<const N: usize>(secret: &[u8]) -> Vec<u8> {
    secret
        .chunks(N)
        .flat_map(|word| word.iter().rev())
        .copied()
        .collect()
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The digits that depend on the secret alone when it starts `skip` bytes after a multiple of three.
fn base64_inside(secret: &[u8], skip: usize, alphabet: &[u8; 64]) -> Vec<u8> {
    let mut bits = vec![None; skip * 8];
    bits.extend(
        secret
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |bit| Some(byte >> bit & 1))),
    );
    bits.chunks_exact(6)
        .filter_map(|digit| {
            digit
                .iter()
                .try_fold(0_u8, |value, bit| Some(value << 1 | (*bit)?))
        })
        .map(|value| alphabet.get(usize::from(value)).copied().unwrap_or_default())
        .collect()
}

/// One place where a secret was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Which secret.
    pub secret: String,
    /// In which encoding.
    pub encoding: &'static str,
    /// Where.
    pub place: String,
    /// How many bytes into the place, or at which address.
    pub at: u64,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} as {} in {} at {:#x}",
            self.secret, self.encoding, self.place, self.at
        )
    }
}

/// Knows what to look for.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The first two bytes of any needle, as an index.
    starts: Vec<bool>,
    needles: HashMap<[u8; WINDOW], Vec<(String, &'static str)>>,
}

impl Scanner {
    /// Looks for nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            starts: vec![false; 1 << 16],
            needles: HashMap::new(),
        }
    }

    /// Looks for any piece of [`WINDOW`] bytes of any encoding of this secret.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        for (encoding, bytes) in encodings(secret) {
            for window in bytes.windows(WINDOW) {
                // A piece such as `, 12, 34, 5` or `00 00 00` is in any memory.
                let mut distinct = window.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                let dull = encoding.ends_with("numbers") || distinct.len() < 5;
                let Ok(key) = <[u8; WINDOW]>::try_from(window) else {
                    continue;
                };
                if !dull {
                    self.insert(key, name, encoding);
                }
            }
            if encoding.ends_with("numbers")
                && let Some(key) = bytes.first_chunk::<WINDOW>()
            {
                self.insert(*key, name, encoding);
            }
        }
    }

    fn insert(&mut self, key: [u8; WINDOW], name: &str, encoding: &'static str) {
        if let Some(start) = self.starts.get_mut(index(&key)) {
            *start = true;
        }
        let found = self.needles.entry(key).or_default();
        let item = (name.to_owned(), encoding);
        if !found.contains(&item) {
            found.push(item);
        }
    }

    /// What is in these bytes; overlapping pieces of one find are one hit.
    #[must_use]
    pub fn scan(&self, place: &str, base: u64, bytes: &[u8]) -> Vec<Hit> {
        let mut hits: Vec<Hit> = Vec::new();
        for (at, window) in (base..).zip(bytes.windows(WINDOW)) {
            if !self.starts.get(index(window)).copied().unwrap_or_default() {
                continue;
            }
            for (secret, encoding) in self.needles.get(window).into_iter().flatten() {
                let near =
                    |hit: &Hit| hit.secret == *secret && hit.encoding == *encoding && at - hit.at < SPAN;
                if !hits.iter().rev().take(64).any(near) {
                    hits.push(Hit {
                        secret: secret.clone(),
                        encoding,
                        place: place.to_owned(),
                        at,
                    });
                }
            }
        }
        hits
    }

    /// What is in this file, or in every file of this folder, and in their names.
    ///
    /// # Panics
    /// When one cannot be read.
    #[must_use]
    pub fn scan_files(&self, path: &Path) -> Vec<Hit> {
        let mut hits = self.scan("a file's name", 0, path.as_os_str().as_encoded_bytes());
        if path.is_dir() {
            for file in std::fs::read_dir(path).expect("a folder") {
                hits.extend(self.scan_files(&file.expect("a file").path()));
            }
        } else if path.is_file() {
            hits.extend(self.scan(
                &path.display().to_string(),
                0,
                &std::fs::read(path).expect("a file"),
            ));
        }
        hits
    }

    /// What is in this core dump, or any other large file, read piece by piece.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn scan_core(&self, path: &Path) -> Vec<Hit> {
        let core = File::open(path).expect("a core");
        let length = core.metadata().expect("a length").len();
        let place = path.display().to_string();
        let (mut hits, mut carry) = (Vec::new(), Vec::new());
        let mut from = 0;
        while from < length {
            let mut piece = vec![0; usize::try_from(length - from).unwrap_or(PIECE).min(PIECE)];
            core.read_exact_at(&mut piece, from).expect("a core");
            self.scan_pages(&place, from, &piece, &mut carry, &mut hits);
            from += piece.len() as u64;
        }
        hits
    }

    /// What is in the memory of a process that stands still: what a core dump would have, and what it would leave out.
    ///
    /// # Panics
    /// When its memory cannot be read.
    #[must_use]
    pub fn scan_memory(&self, pid: u32) -> Memory {
        let mut found = Memory::default();
        let memory = File::open(format!("/proc/{pid}/mem")).expect("memory that this user may read");
        for mapping in mappings(pid) {
            let mut carry: Vec<u8> = Vec::new();
            let mut from = mapping.from;
            while from < mapping.to {
                let length = usize::try_from(mapping.to - from).unwrap_or(PIECE).min(PIECE);
                let mut piece = vec![0; length];
                if let Err(error) = memory.read_exact_at(&mut piece, from) {
                    assert!(mapping.may_be_unreadable(), "{}: {error}", mapping.name);
                    break;
                }
                found.bytes += length as u64;
                let hits = if mapping.dumped {
                    &mut found.dumped
                } else {
                    &mut found.left_out
                };
                self.scan_pages(&mapping.name, from, &piece, &mut carry, hits);
                from += length as u64;
            }
        }
        found
    }

    /// Searches a piece page by page; `carry` is the end of the page before it, and becomes the end of its last.
    fn scan_pages(&self, place: &str, base: u64, piece: &[u8], carry: &mut Vec<u8>, hits: &mut Vec<Hit>) {
        for (at, page) in (base..).step_by(PAGE.len()).zip(piece.chunks(PAGE.len())) {
            // A find over the border of two pages.
            let start = at - carry.len() as u64;
            if page != PAGE.as_slice() {
                carry.extend_from_slice(page);
                hits.extend(self.scan(place, start, carry));
            }
            carry.clear();
            carry.extend_from_slice(
                page.get(page.len().saturating_sub(WINDOW - 1)..)
                    .unwrap_or_default(),
            );
        }
    }
}

fn index(window: &[u8]) -> usize {
    window
        .first_chunk::<2>()
        .map_or(0, |start| usize::from(u16::from_le_bytes(*start)))
}

/// What was found in a memory.
#[derive(Debug, Default)]
pub struct Memory {
    /// In what a core dump has.
    pub dumped: Vec<Hit>,
    /// In what it leaves out (`VmFlags: dd`).
    pub left_out: Vec<Hit>,
    /// How many bytes were read.
    pub bytes: u64,
}

struct Mapping {
    from: u64,
    to: u64,
    name: String,
    dumped: bool,
    // Invariant: false if there is a page in it, in memory or swapped out.
    untouched: bool,
}

impl Mapping {
    /// Guard pages, and what the kernel maps of its own.
    fn may_be_unreadable(&self) -> bool {
        !self.name.starts_with('r') || self.name.contains("[vvar") || self.name.contains("[vsyscall]")
    }
}

/// The writable memory around this address, up to what the process cannot write to on either side: a linear memory between its
/// guards.
///
/// # Panics
/// When the address is in none.
#[must_use]
pub fn writable_around(pid: u32, address: u64) -> Range<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process of this user");
    let mut around: Option<Range<u64>> = None;
    for line in maps.lines() {
        let Some((range, rest)) = line.split_once(' ') else {
            continue;
        };
        let (from, to) = range.split_once('-').expect("a range");
        let from = u64::from_str_radix(from, 16).expect("an address");
        let to = u64::from_str_radix(to, 16).expect("an address");
        if !rest.starts_with("rw") {
            continue;
        }
        around = match around {
            Some(range) if range.end == from => Some(range.start..to),
            Some(range) if range.contains(&address) => return range,
            _ => Some(from..to),
        };
    }
    around
        .filter(|range| range.contains(&address))
        .expect("a writable address")
}

/// Everything but files that nobody wrote to: their bytes are those on disk.
fn mappings(pid: u32) -> Vec<Mapping> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process of this user");
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        let range = first.split_once('-').and_then(|(from, to)| {
            Some((
                u64::from_str_radix(from, 16).ok()?,
                u64::from_str_radix(to, 16).ok()?,
            ))
        });
        if let Some((from, to)) = range {
            let name = format!(
                "{} {}",
                words.next().unwrap_or_default(),
                words.nth(3).unwrap_or("anonymous")
            );
            let name_is_private = name.ends_with("p anonymous");
            mappings.push(Mapping {
                from,
                to,
                name,
                dumped: true,
                // Of a file or shared memory, others may have touched pages that this process did not.
                untouched: name_is_private,
            });
        } else if let (true, Some(mapping)) = (["Rss:", "Swap:"].contains(&first), mappings.last_mut()) {
            mapping.untouched &= words.next() == Some("0");
        } else if let (Some(flags), Some(mapping)) = (line.strip_prefix("VmFlags:"), mappings.last_mut()) {
            mapping.dumped = !flags.split_ascii_whitespace().any(|flag| flag == "dd");
        }
    }
    // What the engine reserves is some hundred GiB, none of which was touched.
    mappings.retain(|mapping| {
        (mapping.name.starts_with("rw") || !mapping.name.contains('/')) && !mapping.untouched
    });
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"\x01\x92 q\"\\~\xff\x10ABcd/+xyz\x7f";

    #[test]
    fn the_encodings_are_those_of_others() {
        let all: HashMap<_, _> = encodings(b"secret?>\"\xfe\xff!").into_iter().collect();
        for (encoding, expected) in [
            ("hex", "7365637265743f3e22feff21"),
            ("percent", "secret%3F%3E%22%FE%FF%21"),
            ("json numbers", "115,101,99,114,101,116,63,62,34,254,255,33"),
            ("base64 +0", "c2VjcmV0Pz4i/v8h"),
            ("base64url +0", "c2VjcmV0Pz4i_v8h"),
            // Of "a" and "ab" before the secret, without the digits that depend on them.
            ("base64 +1", "NlY3JldD8+Iv7/I"),
            ("base64 +2", "zZWNyZXQ/PiL+/y"),
        ] {
            assert_eq!(String::from_utf8_lossy(&all[encoding]), expected, "{encoding}");
        }
    }

    #[test]
    fn a_secret_is_found_in_every_encoding_and_any_piece_of_it() {
        let mut scanner = Scanner::new();
        scanner.add("it", SECRET);
        for (encoding, bytes) in encodings(SECRET) {
            let text = [b"before".as_slice(), &bytes, b"after"].concat();
            assert!(
                scanner
                    .scan("", 0, &text)
                    .iter()
                    .any(|hit| hit.encoding == encoding),
                "{encoding}"
            );
        }
        for piece in SECRET.windows(WINDOW) {
            assert_eq!(
                scanner.scan("", 0, piece).first().map(|hit| hit.encoding),
                Some("raw")
            );
        }
        assert_eq!(scanner.scan("", 0, &SECRET[..WINDOW - 1]), []);
        assert_eq!(scanner.scan("", 0, b"nothing of it is in here"), []);
    }
}
