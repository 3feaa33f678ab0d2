//! Custody without a device: software keys, keys sealed by any [`Sealer`](claviger_core::custody::Sealer), and sealing under a
//! passphrase. Not a store: the keyring keeps what is made here. Not a decision: a permit must exist before a key signs.

mod passphrase;
mod sealed;
mod software;
mod symmetric;

pub use passphrase::{KdfCost, MIN_PASSPHRASE, PassphraseSealer};
pub use sealed::SealedCustody;
pub(crate) use sealed::purpose_of;
pub use software::SoftwareCustody;
pub(crate) use software::{STACK_WORDS, open, public_of};

#[cfg(test)]
pub(crate) mod permits;
