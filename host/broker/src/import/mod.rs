//! Reads the private key that an operator brings, in the forms that other programs write. Nothing here writes one: no private key is ever
//! exported, in any form.
//!
//! Buffers of ours are wiped. Whoever made the file may have copies; that is what an imported key is marked for.

use std::fmt;
use std::str::FromStr;

use claviger_core::custody::CustodyKind;
use claviger_core::key::KeyError;
use claviger_core::stack::wipe_below;
use claviger_core::{Algorithm, PublicKey, Secret};
use serde::{Deserialize, Serialize};

use crate::custody::{STACK_WORDS, public_of};

mod jwk;
mod openssh;
mod pem;
#[cfg(test)]
mod tests;

/// A file with a private key has at most this many bytes; an RSA key of 4096 bits, which is refused by name, has some 3,500.
pub const MAX_FILE: usize = 16 * 1024;

/// A form that private keys come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFormat {
    /// PKCS#8 in PEM (RFC 5958, RFC 7468): `openssl genpkey`.
    Pkcs8,
    /// SEC 1 in PEM (RFC 5915): `openssl ecparam -genkey`.
    Sec1,
    /// PKCS#1 in PEM (RFC 8017): `openssl genrsa -traditional`.
    Pkcs1,
    /// OpenSSH's own (PROTOCOL.key): `ssh-keygen`.
    Openssh,
    /// JSON Web Key (RFC 7517, RFC 8037).
    Jwk,
    /// Wrapped by a TPM, in PEM (draft-bottomley-tpm2-keys): tpm2-openssl, `tpm2_encodeobject`.
    Tss2,
}

impl KeyFormat {
    /// The name on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pkcs8 => "pkcs8",
            Self::Sec1 => "sec1",
            Self::Pkcs1 => "pkcs1",
            Self::Openssh => "openssh",
            Self::Jwk => "jwk",
            Self::Tss2 => "tss2",
        }
    }
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KeyFormat {
    type Err = ImportError;
    fn from_str(text: &str) -> Result<Self, ImportError> {
        [
            Self::Pkcs8,
            Self::Sec1,
            Self::Pkcs1,
            Self::Openssh,
            Self::Jwk,
            Self::Tss2,
        ]
        .into_iter()
        .find(|format| format.as_str() == text)
        .ok_or(ImportError::UnknownFormat)
    }
}

/// Why a file is not a private key that can be imported. Quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// No format has this name.
    #[error("expected `pkcs8`, `sec1`, `pkcs1`, `openssh`, `jwk` or `tss2`")]
    UnknownFormat,
    /// Too long.
    #[error("a file with a private key has at most {MAX_FILE} bytes, this one has {0}")]
    TooLong(usize),
    /// Not text.
    #[error("the private key is not text; expected PEM or JSON (`openssl pkey -inform DER` writes PEM)")]
    NotText,
    /// None of the forms that are read.
    #[error("no private key is there; expected PKCS#8, SEC 1, PKCS#1 or OpenSSH in PEM, or a JWK")]
    NotAKey,
    /// Another form than was said.
    #[error("the private key is in the form `{found}`, not `{expected}`")]
    OtherFormat {
        /// What was said.
        expected: KeyFormat,
        /// What it is.
        found: KeyFormat,
    },
    /// More than one.
    #[error("there is more than one private key; expected one")]
    Several,
    /// A public key alone.
    #[error("this is a public key; expected the private one")]
    Public,
    /// It is encrypted, as PEM.
    #[error("the private key is encrypted; say where its passphrase is: `--key-passphrase-file FILE`")]
    Encrypted,
    /// It is encrypted, as OpenSSL did before PKCS#8.
    #[error(
        "the private key is encrypted in a way that nothing else uses any more; decrypt it into a pipe: `openssl pkey -in FILE | claviger key import …`"
    )]
    EncryptedOldPem,
    /// It belongs to a TPM.
    #[error(
        "the key is wrapped by a TPM, which alone can take it: that needs a keyring on that TPM, and custody `tpm`; or make a new key with \
         `claviger key create`"
    )]
    Tss2,
    /// For evidence.
    #[error("a key with profile `attest` is made in the TPM that gives the evidence, and is not imported")]
    Evidence,
    /// RSA of another sort.
    #[error(
        "of RSA, keys of 2048 bits with the exponent 65537 and two primes are imported, and no others; make a new one with `claviger key create`"
    )]
    Rsa,
    /// Another curve or algorithm.
    #[error("the private key is neither Ed25519, ECDSA on P-256 nor RSA, and no profile has use for another")]
    Algorithm,
    /// A key that is not well formed.
    #[error("the private key is damaged: its {0} cannot be read")]
    Damaged(KeyFormat),
    /// The public half in the file is another's.
    #[error("the public key in the file does not belong to the private one")]
    Mismatch,
    /// Locked memory could not be had.
    #[error("memory for the private key cannot be locked")]
    Memory,
}

/// A private key that was read. Its public half was derived from it; that of an RSA key is compared with it by the TPM that takes it.
pub struct ImportedKey {
    // Invariant: 32 bytes, of which `public` was derived; of RSA, the modulus in `public` and what the file says is a prime of it.
    private: Secret,
    public: PublicKey,
    format: KeyFormat,
}

impl ImportedKey {
    /// Reads a private key, in this form or in whichever it is.
    ///
    /// # Errors
    /// When it is none that can be imported; the text says what to do.
    pub fn read(file: &Secret, format: Option<KeyFormat>) -> Result<Self, ImportError> {
        let read = read(file, format);
        wipe_below::<STACK_WORDS>();
        read
    }

    /// Its public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Its algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    /// The form that it came in.
    #[must_use]
    pub const fn format(&self) -> KeyFormat {
        self.format
    }

    /// What [`Custody::import`](claviger_core::custody::Custody::import) takes, for custody alone.
    pub(crate) fn into_private(self) -> Secret {
        self.private
    }

    /// Takes an RSA key by its numbers, all big-endian and without leading zeros.
    fn rsa(modulus: &[u8], exponent: &[u8], prime: &[u8], format: KeyFormat) -> Result<Self, ImportError> {
        if exponent != [1, 0, 1] {
            return Err(ImportError::Rsa);
        }
        let public = PublicKey::rsa2048(modulus).map_err(|_| ImportError::Rsa)?;
        // The primes of every key that a TPM takes have half of its bits each.
        if prime.len() != modulus.len() / 2 {
            return Err(ImportError::Rsa);
        }
        let private = Secret::fill_with(modulus.len() + prime.len(), |bytes| {
            let (first, second) = bytes.split_at_mut(modulus.len());
            first.copy_from_slice(modulus);
            second.copy_from_slice(prime);
            Ok::<(), claviger_core::secret::SecretError>(())
        })?;
        Ok(Self {
            private,
            public,
            format,
        })
    }

    /// Takes a seed or scalar; checks it against the public half that came with it, if one did.
    fn new(
        algorithm: Algorithm,
        private: &[u8],
        public: Option<Result<PublicKey, KeyError>>,
        format: KeyFormat,
    ) -> Result<Self, ImportError> {
        let private = Secret::fill_with(LENGTH, |bytes| {
            if private.len() != LENGTH {
                return Err(ImportError::Damaged(format));
            }
            bytes.copy_from_slice(private);
            Ok(())
        })?;
        let derived = public_of(algorithm, &private).map_err(|_| ImportError::Damaged(format))?;
        match public {
            None => {}
            Some(Ok(public)) if public == derived => {}
            Some(Ok(_) | Err(_)) => return Err(ImportError::Mismatch),
        }
        Ok(Self {
            private,
            public: derived,
            format,
        })
    }
}

impl fmt::Debug for ImportedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedKey")
            .field("public", &self.public)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl From<claviger_core::secret::SecretError> for ImportError {
    fn from(_: claviger_core::secret::SecretError) -> Self {
        Self::Memory
    }
}

/// Whether a file holds a key that a TPM wrapped, which is not read here but taken as it is.
///
/// # Errors
/// When another form, or another custody than the TPM's, was said.
pub(crate) fn is_wrapped(
    file: &Secret,
    wanted: Option<KeyFormat>,
    custody: Option<CustodyKind>,
) -> Result<bool, ImportError> {
    const BEGIN: &[u8] = b"-----BEGIN TSS2 PRIVATE KEY-----";
    let wrapped = file.expose().trim_ascii_start().starts_with(BEGIN);
    match (wanted, custody) {
        _ if !wrapped => Ok(false),
        (Some(expected), _) if expected != KeyFormat::Tss2 => Err(ImportError::OtherFormat {
            expected,
            found: KeyFormat::Tss2,
        }),
        (_, Some(CustodyKind::Software | CustodyKind::TpmSealed)) => Err(ImportError::Tss2),
        (_, Some(CustodyKind::Tpm) | None) => Ok(true),
    }
}

/// A seed (RFC 8032) and a P-256 scalar (SEC 1) have as many bytes.
const LENGTH: usize = 32;

#[inline(never)]
fn read(file: &Secret, wanted: Option<KeyFormat>) -> Result<ImportedKey, ImportError> {
    if file.len() > MAX_FILE {
        return Err(ImportError::TooLong(file.len()));
    }
    let text = std::str::from_utf8(file.expose()).map_err(|_| ImportError::NotText)?;
    let (format, part) = if text.trim_start().starts_with('{') {
        (KeyFormat::Jwk, text)
    } else {
        pem::find(text)?
    };
    if let Some(expected) = wanted.filter(|wanted| *wanted != format) {
        return Err(ImportError::OtherFormat {
            expected,
            found: format,
        });
    }
    match format {
        KeyFormat::Pkcs8 => pem::pkcs8(part),
        KeyFormat::Sec1 => pem::sec1(part),
        KeyFormat::Pkcs1 => pem::pkcs1(part),
        KeyFormat::Openssh => openssh::read(part),
        KeyFormat::Jwk => jwk::read(part),
        KeyFormat::Tss2 => Err(ImportError::Tss2),
    }
}
