//! Message authentication codes. Not signatures: whoever can verify a tag under a grant with both rights can make it, too.
//!
//! ```
//! use claviger_sdk::Refusal;
//! use claviger_sdk::mac::Authenticator;
//!
//! fn ticket(mac: &Authenticator, user: &str) -> Result<(String, Vec<u8>), Refusal> {
//!     let tag = mac.generate(user)?;
//!     Ok((user.to_owned(), tag))
//! }
//!
//! fn admitted(mac: &Authenticator, (user, tag): &(String, Vec<u8>)) -> Result<bool, Refusal> {
//!     mac.verify(user, tag)
//! }
//! ```
//!
//! ```toml
//! [grants.tickets]
//! mac = { key = "tickets", label = "acme/tickets", allow = ["generate", "verify"] }
//! ```

use std::fmt;

use crate::bindings::claviger::credentials::mac as wit;
use crate::error::Refusal;

/// A grant for MACs that was opened. Every call is decided anew: one that worked can be refused later.
pub struct Authenticator(wit::Authenticator);

/// What an agent may know of the key behind a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MacInfo {
    /// `hmac-sha256`.
    pub algorithm: String,
    /// Tells the key from every other; says nothing of it.
    pub key_id: String,
    /// The version that makes tags now, counted from 1.
    pub version: u32,
    /// What its tags are for.
    pub label: String,
}

impl Authenticator {
    /// Opens the grant of this alias; at most 64 bytes. Uses nothing up. At most 64 authenticators are open at a time: the host stops an
    /// agent that opens more.
    ///
    /// # Errors
    /// When there is no such grant. Whether it would be honoured now is decided when it is used.
    pub fn open(grant: &str) -> Result<Self, Refusal> {
        Ok(Self(wit::Authenticator::open(grant)?))
    }

    /// Makes the tag of at most 1 MiB of content: 37 bytes, which say by which version of the key they were made.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn generate(&self, content: impl AsRef<[u8]>) -> Result<Vec<u8>, Refusal> {
        Ok(self.0.generate(content.as_ref())?)
    }

    /// Says whether a tag is that of the content.
    ///
    /// # Errors
    /// The host's refusal; after a few wrong tags a minute, [`Refusal::Throttled`]. A wrong tag by itself is no error.
    pub fn verify(&self, content: impl AsRef<[u8]>, tag: impl AsRef<[u8]>) -> Result<bool, Refusal> {
        Ok(self.0.verify(content.as_ref(), tag.as_ref())?)
    }

    /// Describes the key that makes tags now.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn info(&self) -> Result<MacInfo, Refusal> {
        let info = self.0.info()?;
        Ok(MacInfo {
            algorithm: info.algorithm,
            key_id: info.key_id,
            version: info.version,
            label: info.label,
        })
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticator")
    }
}
