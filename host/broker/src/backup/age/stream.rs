//! An age file's payload: chunks of 64 KiB, each encrypted and authenticated in its place, the last one marked as such (STREAM). What is
//! not encrypted stands in one locked buffer. Not what the payload says.

use std::io::{BufRead, BufReader, Read, Write};

use chacha20poly1305::{AeadInPlace as _, ChaCha20Poly1305, KeyInit as _};
use claviger_core::Secret;
use rand_core::{OsRng, RngCore as _};

use super::{BackupError, Identity, Recipient, derive, header};

const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
const NONCE: usize = 16;

/// The nonce of a chunk: its number in 11 bytes, then whether it is the last. A file of 2^64 chunks is not written.
fn nonce(number: u64, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    if let Some(place) = nonce.get_mut(3..11) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    if let Some(flag) = nonce.last_mut() {
        *flag = u8::from(last);
    }
    nonce
}

fn cipher(key: &Secret) -> Result<ChaCha20Poly1305, BackupError> {
    ChaCha20Poly1305::new_from_slice(key.expose()).map_err(|_| BackupError::Encryption)
}

/// A file that is being written. Dropping it leaves a file that does not open.
pub(in crate::backup) struct Sealing<W> {
    out: W,
    key: Secret,
    chunk: Secret,
    // Invariant: at most CHUNK.
    filled: usize,
    number: u64,
}

impl<W: Write> Sealing<W> {
    /// Writes the header for these recipients.
    pub(in crate::backup) fn new(mut out: W, recipients: &[Recipient]) -> Result<Self, BackupError> {
        let (header, file_key) = header::write(recipients)?;
        let mut salt = [0; NONCE];
        OsRng
            .try_fill_bytes(&mut salt)
            .map_err(|e| BackupError::Random(e.to_string()))?;
        let key = derive(&file_key, &salt, b"payload")?;
        out.write_all(&header)
            .and_then(|()| out.write_all(&salt))
            .map_err(BackupError::writing)?;
        Ok(Self {
            out,
            key,
            chunk: buffer()?,
            filled: 0,
            number: 0,
        })
    }

    /// Adds bytes, which are copied into locked memory and nowhere else.
    pub(in crate::backup) fn write(&mut self, mut bytes: &[u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            // A full chunk goes only when more follows: the last one must not be empty.
            if self.filled == CHUNK {
                self.flush(false)?;
            }
            let room = CHUNK.saturating_sub(self.filled).min(bytes.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            let start = self.filled;
            self.chunk.change(|chunk| {
                if let Some(place) = chunk.get_mut(start..start.saturating_add(now.len())) {
                    place.copy_from_slice(now);
                }
            });
            self.filled = start.saturating_add(now.len());
            bytes = later;
        }
        Ok(())
    }

    /// Writes the last chunk.
    pub(in crate::backup) fn finish(mut self) -> Result<W, BackupError> {
        self.flush(true)?;
        Ok(self.out)
    }

    fn flush(&mut self, last: bool) -> Result<(), BackupError> {
        let (cipher, nonce, filled) = (cipher(&self.key)?, nonce(self.number, last), self.filled);
        let tag = self
            .chunk
            .change(|chunk| {
                let text = chunk.get_mut(..filled).unwrap_or_default();
                cipher.encrypt_in_place_detached(&nonce.into(), &[], text)
            })
            .map_err(|_| BackupError::Encryption)?;
        let sealed = self.chunk.expose().get(..filled).unwrap_or_default();
        self.out
            .write_all(sealed)
            .and_then(|()| self.out.write_all(&tag))
            .map_err(BackupError::writing)?;
        self.filled = 0;
        self.number = self.number.saturating_add(1);
        Ok(())
    }
}

/// A file that is being read.
pub(in crate::backup) struct Opened<R> {
    source: BufReader<R>,
    /// How many bytes of the file were read.
    at: u64,
    /// Where the chunk starts that is in memory.
    chunk_at: u64,
    key: Secret,
    chunk: Secret,
    // Invariant: `taken` ≤ `filled` ≤ CHUNK.
    filled: usize,
    taken: usize,
    number: u64,
    last: bool,
}

impl<R: Read> Opened<R> {
    /// Reads the header and opens it with one of these identities.
    pub(in crate::backup) fn new(source: R, identities: &[Identity]) -> Result<Self, BackupError> {
        let mut source = BufReader::new(source);
        let mut at: u64 = 0;
        let file_key = header::read(identities, || {
            let mut byte = [0];
            let got = fill(&mut source, &mut byte)?;
            at = at.saturating_add(u64::try_from(got).unwrap_or(u64::MAX));
            Ok((got == 1).then_some(byte[0]))
        })?;
        let mut salt = [0; NONCE];
        if fill(&mut source, &mut salt)? != NONCE {
            return Err(BackupError::damaged(at, "it ends where its content should start"));
        }
        at = at.saturating_add(u64::try_from(NONCE).unwrap_or(u64::MAX));
        Ok(Self {
            source,
            at,
            chunk_at: at,
            key: derive(&file_key, &salt, b"payload")?,
            chunk: buffer()?,
            filled: 0,
            taken: 0,
            number: 0,
            last: false,
        })
    }

    /// Fills these bytes, or says that the payload ends before.
    pub(in crate::backup) fn read(&mut self, mut bytes: &mut [u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            if self.taken == self.filled && !self.next_chunk()? {
                return Err(BackupError::damaged(self.at, "it ends before its last item"));
            }
            let have = self
                .chunk
                .expose()
                .get(self.taken..self.filled)
                .unwrap_or_default();
            let count = have.len().min(bytes.len());
            let (now, later) = bytes.split_at_mut_checked(count).ok_or(BackupError::Encryption)?;
            now.copy_from_slice(have.get(..count).unwrap_or_default());
            self.taken = self.taken.saturating_add(count);
            bytes = later;
        }
        Ok(())
    }

    /// Whether the payload is over.
    pub(in crate::backup) fn is_over(&mut self) -> Result<bool, BackupError> {
        Ok(self.taken == self.filled && !self.next_chunk()?)
    }

    fn next_chunk(&mut self) -> Result<bool, BackupError> {
        if self.last {
            return Ok(false);
        }
        let mut sealed = vec![0; CHUNK + TAG];
        let got = fill(&mut self.source, &mut sealed)?;
        self.chunk_at = self.at;
        self.at = self.at.saturating_add(u64::try_from(got).unwrap_or(u64::MAX));
        let ends = self.source.fill_buf().map_err(BackupError::reading)?.is_empty();
        let changed = || BackupError::damaged(self.chunk_at, "what follows does not authenticate");
        let length = got.checked_sub(TAG).ok_or_else(changed)?;
        let (text, rest) = sealed.split_at_checked(length).ok_or_else(changed)?;
        let tag: [u8; TAG] = *rest.first_chunk().ok_or_else(changed)?;
        // An empty last chunk is that of an empty file alone.
        if length == 0 && self.number > 0 {
            return Err(changed());
        }
        let (cipher, nonce) = (cipher(&self.key)?, nonce(self.number, ends));
        self.chunk
            .change(|chunk| {
                let place = chunk.get_mut(..length).unwrap_or_default();
                place.copy_from_slice(text);
                cipher.decrypt_in_place_detached(&nonce.into(), &[], place, &tag.into())
            })
            .map_err(|_| BackupError::damaged(self.chunk_at, "what follows does not authenticate"))?;
        self.filled = length;
        self.taken = 0;
        self.number = self.number.saturating_add(1);
        self.last = ends;
        Ok(length > 0)
    }
}

/// Reads until the bytes are full or the file ends.
fn fill(source: &mut impl Read, bytes: &mut [u8]) -> Result<usize, BackupError> {
    let mut got = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => got = got.saturating_add(count),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BackupError::reading(error)),
        }
    }
    Ok(got)
}

fn buffer() -> Result<Secret, BackupError> {
    Secret::fill_with(CHUNK, |_| Ok::<(), BackupError>(()))
}
