//! Keys without a public half, as traits: what seals, and what makes MACs. Not the box and not the tag: `profile` writes those.

use std::fmt::Debug;
use std::sync::Arc;

use super::CustodyError;
use crate::future::BoxFuture;
use crate::key::KeyRef;
use crate::permit::Permit;
use crate::profile::{MacInput, MacValue, Plaintext, SealInput, UnsealInput};
use crate::secret::Secret;

/// Makes keys that seal (XChaCha20-Poly1305), and opens them for use. A part of the [`Custody`](super::Custody) that gives it out.
pub trait SealingCustody: Debug + Send + Sync {
    /// Makes a key and returns what the keyring stores of it, encrypted. Dropping the future may leave a finished key behind that nobody
    /// stored; it is unreachable.
    ///
    /// # Errors
    /// When the device or the system's random numbers fail.
    fn generate<'a>(&'a self, key: &'a KeyRef) -> BoxFuture<'a, Result<Secret, CustodyError>>;

    /// Opens a key from its material, for many uses. Dropping the key unloads and wipes it.
    ///
    /// # Errors
    /// When the material is not this custody's, is damaged, or belongs to another key.
    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SealingKey>, CustodyError>>;
}

/// A key that seals, open.
pub trait SealingKey: Debug + Send + Sync {
    /// Seals, under a random nonce that custody draws, and returns the whole box. Refuses a permit that does not cover exactly this input
    /// and this key ([`Permit::spend`]), or that was spent. Dropping the future abandons it.
    ///
    /// # Errors
    /// When the permit is for something else, or the device or the system's random numbers fail.
    fn seal<'a>(
        &'a self,
        permit: &'a Permit,
        input: &'a SealInput,
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>>;

    /// Opens a box; none if it does not open. Permits as for [`SealingKey::seal`].
    ///
    /// # Errors
    /// When the permit is for something else, or the device fails. That the box does not open is no error of custody.
    fn unseal<'a>(
        &'a self,
        permit: &'a Permit,
        input: &'a UnsealInput,
    ) -> BoxFuture<'a, Result<Option<Plaintext>, CustodyError>>;
}

/// Makes keys for MACs (HMAC-SHA-256), and opens them for use. A part of the [`Custody`](super::Custody) that gives it out.
pub trait MacCustody: Debug + Send + Sync {
    /// As [`SealingCustody::generate`].
    ///
    /// # Errors
    /// When the device or the system's random numbers fail.
    fn generate<'a>(&'a self, key: &'a KeyRef) -> BoxFuture<'a, Result<Secret, CustodyError>>;

    /// As [`SealingCustody::open`].
    ///
    /// # Errors
    /// When the material is not this custody's, is damaged, or belongs to another key.
    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn MacKey>, CustodyError>>;
}

/// A key for MACs, open.
pub trait MacKey: Debug + Send + Sync {
    /// The HMAC-SHA-256 of [`MacInput::message`], which has at most [`crate::profile::MAX_MAC_MESSAGE`] bytes: a device takes it in one
    /// command. Whether it is given out or compared is the caller's to know. Permits as for [`SealingKey::seal`]; dropping the future
    /// abandons it, and a device may still finish it unseen.
    ///
    /// # Errors
    /// When the permit is for something else, or the device fails; never hangs longer than the custody's own deadline.
    fn mac<'a>(
        &'a self,
        permit: &'a Permit,
        input: &'a MacInput,
    ) -> BoxFuture<'a, Result<MacValue, CustodyError>>;
}
