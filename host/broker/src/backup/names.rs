//! Recipients and identities, as age writes them. Not a key of the keyring: it signs nothing, and what opens a backup is kept where the
//! keyring is not.

use std::fmt;
use std::io::{BufReader, Read};
use std::str::FromStr;

use age::secrecy::ExposeSecret as _;
use age_core::primitives::bech32_decode;
use claviger_core::Secret;
use claviger_core::custody::AgreementCustody;
use claviger_core::name::escape;
use claviger_core::stack::wipe_below;
use curve25519_dalek::montgomery::MontgomeryPoint;
use serde::{Deserialize, Serialize};

use super::stream::read_header;
use super::tag::{self, TpmIdentity};
use super::{BackupError, STACK_WORDS};

/// An identity file holds at most this many identities: each is tried on each part of a header.
pub(crate) const MAX_IDENTITIES: usize = 16;
/// A recipient has at most this many characters.
const MAX_RECIPIENT: usize = 100;

/// Whom a backup is made for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    /// A public X25519 key, `age1…`.
    X25519(age::x25519::Recipient),
    /// A public P-256 key of which the private half is in a TPM, `age1tag1…`.
    Tag(age::tag::Recipient),
}

impl Recipient {
    pub(super) fn as_age(&self) -> &dyn age::Recipient {
        match &self.0 {
            Kind::X25519(recipient) => recipient,
            Kind::Tag(recipient) => recipient,
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
        if let Ok(recipient) = text.parse() {
            return Ok(Self(Kind::Tag(recipient)));
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
            Kind::Tag(recipient) => recipient.fmt(f),
        }
    }
}

impl TryFrom<String> for Recipient {
    type Error = BackupError;

    fn try_from(text: String) -> Result<Self, BackupError> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.to_string()
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

/// What opens a backup: a private X25519 key, `AGE-SECRET-KEY-1…`, or one in a TPM, `CLAVIGER-TPM-KEY-1-…`, which is of no use without it.
#[expect(missing_debug_implementations, reason = "a secret is never printed")]
pub struct Identity(Opener);

enum Opener {
    X25519(age::x25519::Identity),
    Tpm(TpmIdentity),
}

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

    /// As [`Identity::generate`], of a key that is made in a TPM and stays there.
    ///
    /// # Errors
    /// When the TPM fails, or memory cannot be locked.
    pub async fn generate_in(custody: &dyn AgreementCustody) -> Result<(Secret, Recipient), BackupError> {
        let made = custody.generate().await.map_err(BackupError::Custody)?;
        let name = tag::recipient_of(&made.public).ok_or(BackupError::Encryption)?;
        Ok((tag::line_of(&made.material)?, name.parse()?))
    }

    /// Whether it is a key in a TPM, so that a backup opens only through a keyring on that TPM.
    #[must_use]
    pub const fn is_in_tpm(&self) -> bool {
        matches!(self.0, Opener::Tpm(_))
    }

    /// Has the TPM do its part for each identity that is in it, so that these open the file from then on. Reads the file's header and
    /// leaves it where it ends, or somewhere behind; reads nothing if no identity is in a TPM.
    ///
    /// # Errors
    /// When there is no TPM or it fails, or the header cannot be read.
    pub(crate) async fn agree(
        identities: &[Self],
        custody: Option<&dyn AgreementCustody>,
        source: &mut (impl Read + Send),
    ) -> Result<(), BackupError> {
        let mut header = None;
        for identity in identities {
            let Opener::Tpm(key) = &identity.0 else {
                continue;
            };
            let custody = custody.ok_or(BackupError::NoTpm)?;
            if header.is_none() {
                header = Some(read_header(&mut BufReader::new(&mut *source))?);
            }
            key.agree(custody, header.as_deref().unwrap_or_default()).await?;
        }
        Ok(())
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
        match &self.0 {
            Opener::X25519(identity) => identity,
            Opener::Tpm(identity) => identity,
        }
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
        let line = std::str::from_utf8(line).unwrap_or_default();
        if let Some(identity) = TpmIdentity::parse(line)? {
            identities.push(Identity(Opener::Tpm(identity)));
            continue;
        }
        let identity = line.parse().map_err(|_| {
            wrong("is not an identity; expected `AGE-SECRET-KEY-1` and 58 more characters, or `CLAVIGER-TPM-KEY-1-` and base64")
        })?;
        identities.push(Identity(Opener::X25519(identity)));
    }
    if identities.is_empty() {
        return Err(BackupError::Identity {
            line: last,
            problem: "is its last, and none holds an identity (`AGE-SECRET-KEY-1…`)",
        });
    }
    Ok(identities)
}
