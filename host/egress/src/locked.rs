//! Secrets put together from pieces in locked memory, and written from there. Encodes nothing itself.

use bytes::Bytes;
use claviger_core::egress::SendError;
use claviger_core::secret::SecretError;
use claviger_core::{Refusal, Secret};

/// A secret as the owner of bytes that are written and not copied before.
struct Exposed(Secret);

impl AsRef<[u8]> for Exposed {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// The bytes of a secret, without a copy; wiped with the last of them.
pub(crate) fn bytes(secret: Secret) -> Bytes {
    Bytes::from_owner(Exposed(secret))
}

/// The pieces one after another. They are asked for twice: for their length, and to be copied.
///
/// # Errors
/// When there is no locked memory for so much.
pub(crate) fn gather<'a, I: Iterator<Item = &'a [u8]>>(pieces: impl Fn() -> I) -> Result<Secret, SendError> {
    let len = pieces().map(<[u8]>::len).sum();
    let secret = Secret::fill_with(len, |out| {
        let mut rest = out;
        for piece in pieces() {
            let (here, after) = rest
                .split_at_mut_checked(piece.len())
                .ok_or(SecretError::Length(len))?;
            here.copy_from_slice(piece);
            rest = after;
        }
        Ok::<_, SecretError>(())
    });
    secret.map_err(|_| UNAVAILABLE)
}

/// The host has no locked memory left.
pub(crate) const UNAVAILABLE: SendError = SendError::Refused {
    refusal: Refusal::Unavailable,
    grant: None,
};
