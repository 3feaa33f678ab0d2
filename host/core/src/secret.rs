//! Bytes that must not leave: in locked, non-dumpable pages, wiped on drop. Not a key: it does not know what it holds.

use memmap2::{Advice, MmapMut, MmapOptions};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// A secret has at most this many bytes: the largest is an RSA key or a refresh token. Locked pages are scarce.
pub const MAX_SECRET: usize = 64 * 1024;

/// Why secret memory could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The length is zero or over the bound.
    #[error("a secret has 1 to {MAX_SECRET} bytes, not {0}")]
    Length(usize),
    /// The system gave no page that is locked and left out of core dumps.
    #[error("cannot lock memory for a secret; raise RLIMIT_MEMLOCK (ulimit -l) and try again")]
    Locked(#[source] std::io::Error),
}

/// Secret bytes in pages of their own: locked into memory, left out of core dumps and of forked children, wiped on drop.
///
/// # Security
/// Has no `Debug`, `Clone`, `Display` or `Serialize`. Whoever calls [`Secret::expose`] copies nothing that outlives the call,
/// and wipes what it must copy.
#[expect(missing_debug_implementations, reason = "a secret is never printed")]
pub struct Secret {
    // Invariant: locked, DONTDUMP, at least `len` bytes long.
    pages: MmapMut,
    len: usize,
}

impl Secret {
    /// Makes a secret of `len` bytes, written in place by `fill`, so that no copy is left on the heap.
    ///
    /// # Errors
    /// When memory cannot be locked, and whatever `fill` fails with; what was written by then is wiped.
    pub fn fill_with<E: From<SecretError>>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut secret = Self::zeroed(len)?;
        fill(secret.bytes_mut())?;
        Ok(secret)
    }

    /// Moves these bytes into locked memory and wipes the source.
    ///
    /// # Errors
    /// When memory cannot be locked. The source is wiped then, too.
    pub fn take(bytes: &mut [u8]) -> Result<Self, SecretError> {
        let result = Self::zeroed(bytes.len()).map(|mut secret| {
            secret.bytes_mut().copy_from_slice(bytes);
            secret
        });
        bytes.zeroize();
        result
    }

    /// The secret bytes, for as long as the borrow lasts.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.pages.get(..self.len).unwrap_or_default()
    }

    /// Changes the bytes where they are: for a buffer that is filled bit by bit, or encrypted in place.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut [u8]) -> T) -> T {
        change(self.bytes_mut())
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: a secret has at least one byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Compares without telling by its duration where the difference is. Lengths are not secret.
    #[must_use]
    pub fn equals(&self, other: &[u8]) -> bool {
        self.expose().ct_eq(other).into()
    }

    fn zeroed(len: usize) -> Result<Self, SecretError> {
        if len == 0 || len > MAX_SECRET {
            return Err(SecretError::Length(len));
        }
        let pages = MmapOptions::new()
            .len(len)
            .map_anon()
            .map_err(SecretError::Locked)?;
        pages.lock().map_err(SecretError::Locked)?;
        #[cfg(target_os = "linux")]
        {
            pages.advise(Advice::DontDump).map_err(SecretError::Locked)?;
            pages.advise(Advice::DontFork).map_err(SecretError::Locked)?;
        }
        Ok(Self { pages, len })
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages.get_mut(..self.len).unwrap_or_default()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.pages.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_wipes_the_source_and_keeps_the_bytes() {
        let mut source = *b"correct horse";
        let secret = Secret::take(&mut source).unwrap();
        assert_eq!(source, [0; 13]);
        assert!(secret.equals(b"correct horse"));
        assert!(!secret.equals(b"correct hors"));
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(matches!(Secret::take(&mut []), Err(SecretError::Length(0))));
        assert!(matches!(
            Secret::take(&mut vec![1; MAX_SECRET + 1]),
            Err(SecretError::Length(_))
        ));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_pages_are_locked_and_not_dumped() {
        let secret = Secret::take(&mut [7; 32]).unwrap();
        let address = secret.expose().as_ptr().addr();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut found = None;
        let mut inside = false;
        for line in smaps.lines() {
            if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-'))
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&address);
            }
            if inside && line.starts_with("VmFlags:") {
                found = Some(line.to_owned());
            }
        }
        let flags = found.expect("the secret's mapping is listed");
        for flag in [" lo ", " dd ", " dc "] {
            assert!(flags.contains(flag), "{flag} missing in {flags}");
        }
    }
}
