//! Keys of a device that agree on a secret, as a trait: they open backups on a machine that stands by. Not keys of a keyring, and no
//! agent reaches one.

use std::fmt::Debug;

use super::{CustodyError, Generated};
use crate::future::BoxFuture;
use crate::key::PublicKey;
use crate::secret::Secret;

/// Makes keys for ECDH on P-256 and uses them. A part of the [`Custody`](super::Custody) that gives it out.
pub trait AgreementCustody: Debug + Send + Sync {
    /// Makes a key. What it gives as material is of use on this device only, and is for whoever asked to keep.
    ///
    /// # Errors
    /// When the device fails.
    fn generate(&self) -> BoxFuture<'_, Result<Generated, CustodyError>>;

    /// The public half of a key, by its material.
    ///
    /// # Errors
    /// [`CustodyError::NotOurs`] when it is no material of such a key.
    fn public(&self, material: &Secret) -> Result<PublicKey, CustodyError>;

    /// The secret that a key shares with whoever has the private half of `with`, a key of P-256: the x coordinate of the product, 32 bytes
    /// (SP 800-56A §5.7.1.2).
    ///
    /// # Errors
    /// [`CustodyError::NotOurs`] when the material is another device's or was changed; else when `with` is of another algorithm, or the
    /// device fails.
    fn agree<'a>(
        &'a self,
        material: &'a Secret,
        with: &'a PublicKey,
    ) -> BoxFuture<'a, Result<Secret, CustodyError>>;
}
