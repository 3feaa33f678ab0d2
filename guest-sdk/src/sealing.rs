//! Boxes that only the host opens again. Not encryption for others: nobody outside this host has the key.
//!
//! ```
//! use claviger_sdk::Refusal;
//! use claviger_sdk::sealing::Sealer;
//!
//! fn remember(sealer: &Sealer, user: &str, token: &[u8]) -> Result<Vec<u8>, Refusal> {
//!     sealer.seal(token, format!("token of {user}"))
//! }
//!
//! fn recall(sealer: &Sealer, user: &str, sealed: &[u8]) -> Result<Vec<u8>, Refusal> {
//!     // The box of another user does not open: its context is another.
//!     sealer.unseal(sealed, format!("token of {user}"))
//! }
//! ```
//!
//! ```toml
//! [grants.state]
//! seal = { key = "state", allow = ["seal", "unseal"], bytes = "10 MiB" }
//! ```

use std::fmt;

use crate::bindings::claviger::credentials::sealing as wit;
use crate::error::Refusal;

/// A grant to seal or unseal that was opened. Every call is decided anew: one that worked can be refused later.
pub struct Sealer(wit::Sealer);

/// What an agent may know of the key behind a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealerInfo {
    /// `xchacha20-poly1305`.
    pub algorithm: String,
    /// Tells the key from every other; says nothing of it.
    pub key_id: String,
    /// The version that seals now, counted from 1.
    pub version: u32,
}

impl Sealer {
    /// Opens the grant of this alias; at most 64 bytes. Uses nothing up. At most 64 sealers are open at a time: the host stops an agent that
    /// opens more.
    ///
    /// # Errors
    /// When there is no such grant. Whether it would be honoured now is decided when it is used.
    pub fn open(grant: &str) -> Result<Self, Refusal> {
        Ok(Self(wit::Sealer::open(grant)?))
    }

    /// Seals at most 64 KiB for a context of 1 to 1024 bytes. The box has 45 bytes more than the text.
    ///
    /// The context is not in the box and not secret: say in it what the box is for and whose it is, so that no box is taken for another.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn seal(&self, plaintext: impl AsRef<[u8]>, context: impl AsRef<[u8]>) -> Result<Vec<u8>, Refusal> {
        Ok(self.0.seal(plaintext.as_ref(), context.as_ref())?)
    }

    /// Opens a box with the context that it was sealed with.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if it does not open, whatever the reason; after a few such a minute, [`Refusal::Throttled`]. Otherwise the host's
    /// refusal.
    pub fn unseal(&self, sealed: impl AsRef<[u8]>, context: impl AsRef<[u8]>) -> Result<Vec<u8>, Refusal> {
        Ok(self.0.unseal(sealed.as_ref(), context.as_ref())?)
    }

    /// Describes the key that seals now.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn info(&self) -> Result<SealerInfo, Refusal> {
        let info = self.0.info()?;
        Ok(SealerInfo {
            algorithm: info.algorithm,
            key_id: info.key_id,
            version: info.version,
        })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}
