//! Recipients and identities, as age writes them. Not a key of the keyring: it signs nothing, and what opens a backup is kept where the
//! keyring is not.

use std::fmt;
use std::str::FromStr;

use age::secrecy::ExposeSecret as _;
use age_core::primitives::bech32_decode;
use claviger_core::Secret;
use claviger_core::name::escape;
use claviger_core::stack::wipe_below;
use curve25519_dalek::montgomery::MontgomeryPoint;

use super::{BackupError, STACK_WORDS};

/// An identity file holds at most this many identities: each is tried on each part of a header.
pub(crate) const MAX_IDENTITIES: usize = 16;
/// A recipient has at most this many characters.
const MAX_RECIPIENT: usize = 100;

/// Whom a backup is made for.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    /// A public X25519 key, `age1…`.
    X25519(age::x25519::Recipient),
}

impl Recipient {
    pub(super) fn as_age(&self) -> &dyn age::Recipient {
        match &self.0 {
            Kind::X25519(recipient) => recipient,
        }
    }
}

impl FromStr for Recipient {
    type Err = BackupError;

    fn from_str(text: &str) -> Result<Self, BackupError> {
        let wrong = || BackupError::Recipient(escape(text, MAX_RECIPIENT));
        if text.len() > MAX_RECIPIENT {
            return Err(wrong());
        }
        let recipient: age::x25519::Recipient = text.parse().map_err(|_| wrong())?;
        // What `age` would panic about later.
        if is_of_small_order(text) {
            return Err(wrong());
        }
        Ok(Self(Kind::X25519(recipient)))
    }
}

/// Whether a point gives the same secret whatever is multiplied with it: nothing would be secret (RFC 7748 §6.1).
fn is_of_small_order(text: &str) -> bool {
    let point = bech32_decode(
        text,
        |_| (),
        |_| Ok(()),
        |_, bytes| Ok(bytes.collect::<Vec<u8>>()),
    );
    let point: Option<[u8; 32]> = point.ok().and_then(|bytes| bytes.try_into().ok());
    point.is_none_or(|point| MontgomeryPoint(point).mul_clamped([0xff; 32]).0 == [0; 32])
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::X25519(recipient) => recipient.fmt(f),
        }
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

/// What opens a backup: a private X25519 key, `AGE-SECRET-KEY-1…`.
#[expect(missing_debug_implementations, reason = "a secret is never printed")]
pub struct Identity(Box<dyn age::Identity + Send + Sync>);

impl Identity {
    /// A new one, as the line of an identity file without the line's end, and the recipient that it opens the backups of.
    ///
    /// # Errors
    /// When memory cannot be locked.
    pub fn generate() -> Result<(Secret, Recipient), BackupError> {
        let identity = age::x25519::Identity::generate();
        let text = identity.to_string();
        let kept = Secret::fill_with(text.expose_secret().len(), |bytes| {
            bytes.copy_from_slice(text.expose_secret().as_bytes());
            Ok::<(), BackupError>(())
        });
        let recipient = Recipient(Kind::X25519(identity.to_public()));
        drop((identity, text));
        wipe_below::<STACK_WORDS>();
        Ok((kept?, recipient))
    }

    /// The identities of a file as `age-keygen` and [`Identity::generate`] write them: one a line, between comments and empty lines; 1 to
    /// 16.
    ///
    /// # Errors
    /// The first line that is none of these.
    pub fn read_all(file: &Secret) -> Result<Vec<Self>, BackupError> {
        let identities = read_lines(file);
        wipe_below::<STACK_WORDS>();
        identities
    }

    pub(super) fn as_age(&self) -> &dyn age::Identity {
        &*self.0
    }
}

/// Line by line, and not by `age::IdentityFile`, so that no line is copied.
fn read_lines(file: &Secret) -> Result<Vec<Identity>, BackupError> {
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
        let identity: age::x25519::Identity = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.parse().ok())
            .ok_or_else(|| {
                wrong("is not an X25519 identity; expected `AGE-SECRET-KEY-1` and 58 more characters")
            })?;
        identities.push(Identity(Box::new(identity)));
    }
    if identities.is_empty() {
        return Err(BackupError::Identity {
            line: last,
            problem: "is its last, and none holds an identity (`AGE-SECRET-KEY-1…`)",
        });
    }
    Ok(identities)
}
