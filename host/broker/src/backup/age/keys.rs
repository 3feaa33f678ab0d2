//! Recipients and identities: the two halves of an X25519 key, as age writes them. Not a key of the keyring: it signs nothing, and its
//! private half is kept where the keyring is not.

use std::fmt;
use std::str::FromStr;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use claviger_core::Secret;
use claviger_core::name::escape;
use claviger_core::stack::wipe_below;
use curve25519_dalek::montgomery::MontgomeryPoint;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use super::{BackupError, STACK_WORDS, random};

/// A scalar or a point.
pub(super) const KEY: usize = 32;
/// An identity file holds at most this many identities: each is tried on each part of a header.
pub(crate) const MAX_IDENTITIES: usize = 16;

const RECIPIENT: &str = "age";
const IDENTITY: &str = "AGE-SECRET-KEY-";
/// `AGE-SECRET-KEY-1`, 52 characters of 5 bits, 6 of checksum.
const IDENTITY_LENGTH: usize = 74;

/// Whom a backup is made for: a public X25519 key, `age1…`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recipient {
    point: [u8; KEY],
}

impl Recipient {
    pub(super) const fn point(&self) -> &[u8; KEY] {
        &self.point
    }
}

impl FromStr for Recipient {
    type Err = BackupError;

    fn from_str(text: &str) -> Result<Self, BackupError> {
        let wrong = || BackupError::Recipient(escape(text, 100));
        let decoded = CheckedHrpstring::new::<Bech32>(text).map_err(|_| wrong())?;
        let mut point = [0; KEY];
        let mut bytes = decoded.byte_iter();
        for byte in &mut point {
            *byte = bytes.next().ok_or_else(wrong)?;
        }
        let recipient = Self { point };
        // One text for a key: neither upper case nor other bits at the end.
        if bytes.next().is_some() || recipient.to_string() != text {
            return Err(wrong());
        }
        // A point of small order gives the same secret whatever is multiplied with it: nothing would be secret.
        if is_zero(&MontgomeryPoint(point).mul_clamped([0xff; KEY]).0) {
            return Err(wrong());
        }
        Ok(recipient)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<Bech32, _>(
            f,
            Hrp::parse(RECIPIENT).map_err(|_| fmt::Error)?,
            &self.point,
        )
        .map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

/// What opens a backup: a private X25519 key, `AGE-SECRET-KEY-1…`, in locked memory.
#[expect(missing_debug_implementations, reason = "a secret is never printed")]
pub struct Identity {
    // Invariant: KEY bytes.
    scalar: Secret,
}

impl Identity {
    /// A new one, from random numbers of the operating system.
    ///
    /// # Errors
    /// When there are none, or memory cannot be locked.
    pub fn generate() -> Result<Self, BackupError> {
        Ok(Self { scalar: random(KEY)? })
    }

    /// The identities of a file as `age-keygen` and [`Identity::to_text`] write them: one a line, between comments and empty lines; 1 to 16.
    ///
    /// # Errors
    /// The first line that is none of these.
    pub fn read_all(file: &Secret) -> Result<Vec<Self>, BackupError> {
        let mut identities = Vec::new();
        let mut last = 1;
        for (number, line) in file.expose().split(|byte| *byte == b'\n').enumerate() {
            last = number.saturating_add(1);
            let wrong = |problem| BackupError::Identity { line: last, problem };
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if identities.len() == MAX_IDENTITIES {
                return Err(wrong("has one identity more than the 16 that a file may have"));
            }
            if line.starts_with(b"age-encryption.org/") || line.starts_with(b"-----BEGIN AGE") {
                return Err(wrong("is an encrypted file; decrypt it with `age -d` first"));
            }
            identities.push(Self::parse(line).map_err(|error| match error {
                Parse::Form => {
                    wrong("is not an X25519 identity; expected `AGE-SECRET-KEY-1` and 58 more characters")
                }
                Parse::Memory(error) => error,
            })?);
        }
        if identities.is_empty() {
            return Err(BackupError::Identity {
                line: last,
                problem: "is its last, and none holds an identity (`AGE-SECRET-KEY-1…`)",
            });
        }
        Ok(identities)
    }

    /// As the line of an identity file, without the line's end.
    ///
    /// # Errors
    /// When memory cannot be locked.
    pub fn to_text(&self) -> Result<Secret, BackupError> {
        write_text(&self.scalar)
    }

    /// Its public half, which backups are made for.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        let point = multiply_base(&self.scalar);
        wipe_below::<STACK_WORDS>();
        Recipient { point }
    }

    /// The secret that the two halves share with these ones (RFC 7748); none with a point of small order.
    pub(super) fn agree(&self, point: &[u8; KEY]) -> Result<Option<Secret>, BackupError> {
        let shared = Secret::fill_with(KEY, |bytes| {
            multiply(&self.scalar, point, bytes);
            Ok::<(), BackupError>(())
        });
        wipe_below::<STACK_WORDS>();
        let shared = shared?;
        Ok((!is_zero(shared.expose())).then_some(shared))
    }

    fn parse(line: &[u8]) -> Result<Self, Parse> {
        let text = std::str::from_utf8(line).map_err(|_| Parse::Form)?;
        let decoded = CheckedHrpstring::new::<Bech32>(text).map_err(|_| Parse::Form)?;
        let mut bytes = decoded.byte_iter();
        let scalar = Secret::fill_with(KEY, |scalar| {
            for byte in scalar {
                *byte = bytes.next().ok_or(Parse::Form)?;
            }
            Ok::<(), Parse>(())
        })?;
        let identity = Self { scalar };
        let again = identity.to_text().map_err(Parse::Memory)?;
        if bytes.next().is_some() || !again.equals(line) {
            return Err(Parse::Form);
        }
        Ok(identity)
    }
}

enum Parse {
    Form,
    Memory(BackupError),
}

impl From<claviger_core::secret::SecretError> for Parse {
    fn from(error: claviger_core::secret::SecretError) -> Self {
        Self::Memory(error.into())
    }
}

fn write_text(scalar: &Secret) -> Result<Secret, BackupError> {
    Secret::fill_with(IDENTITY_LENGTH, |bytes| {
        let hrp = Hrp::parse(IDENTITY).map_err(|_| BackupError::Encryption)?;
        let mut place = Place { rest: bytes };
        bech32::encode_upper_to_fmt::<Bech32, _>(&mut place, hrp, scalar.expose())
            .map_err(|_| BackupError::Encryption)
    })
}

/// Writes text into bytes that are there already.
struct Place<'a> {
    rest: &'a mut [u8],
}

impl fmt::Write for Place<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let rest = std::mem::take(&mut self.rest);
        let (head, tail) = rest.split_at_mut_checked(text.len()).ok_or(fmt::Error)?;
        head.copy_from_slice(text.as_bytes());
        self.rest = tail;
        Ok(())
    }
}

fn scalar_of(secret: &Secret) -> [u8; KEY] {
    secret.expose().first_chunk().copied().unwrap_or_default()
}

/// A call of its own, so that everything it leaves on the stack is below its caller.
#[inline(never)]
fn multiply_base(scalar: &Secret) -> [u8; KEY] {
    let mut bytes = scalar_of(scalar);
    let point = MontgomeryPoint::mul_base_clamped(bytes).0;
    bytes.zeroize();
    point
}

/// As [`multiply_base`].
#[inline(never)]
fn multiply(scalar: &Secret, point: &[u8; KEY], into: &mut [u8]) {
    let mut bytes = scalar_of(scalar);
    let mut product = MontgomeryPoint(*point).mul_clamped(bytes);
    bytes.zeroize();
    into.copy_from_slice(&product.0);
    product.zeroize();
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.ct_eq(&[0; KEY]).into()
}
