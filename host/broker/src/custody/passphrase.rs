//! Sealing under a passphrase: Argon2id (RFC 9106) and XChaCha20-Poly1305. No hardware stands behind it: it is as strong as the
//! passphrase, and whoever has the sealed bytes may guess for as long as they like.

use std::fmt;
use std::sync::Arc;

use argon2::{Algorithm as Argon2Kind, Argon2, Block, Params, Version};
use chacha20poly1305::{AeadInPlace as _, KeyInit as _, XChaCha20Poly1305};
use claviger_core::custody::{Assurance, CustodyError, Sealer};
use claviger_core::{BoxFuture, Secret};
use rand_core::{OsRng, RngCore as _};
use zeroize::Zeroize as _;

/// A passphrase has at least this many bytes: below, every one can be tried whatever the cost of one try.
pub const MIN_PASSPHRASE: usize = 8;

/// What [`Sealer::seal`] promises: the most that a TPM 2.0 takes as sealed data.
const MAX_SEALED: usize = 128;
/// Argon2id with more than this is not computed when it is read: a changed blob must not take the machine's memory.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
/// As above, for time.
const MAX_PASSES: u32 = 16;
/// As above; lanes cost no more time or memory, so this only keeps the field small.
const MAX_LANES: u32 = 16;

const MAGIC: &[u8; 8] = b"CVPASS\x00\x01";
const SALT: usize = 16;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Magic, memory, passes, lanes, salt, nonce: everything before the ciphertext, and authenticated with it.
const HEADER: usize = MAGIC.len() + 3 * 4 + SALT + NONCE;

/// What one guess at the passphrase costs. Stored in the sealed bytes: what was sealed at one cost is opened at that cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    // Invariant: within the bounds above and those of RFC 9106.
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl KdfCost {
    /// RFC 9106 §4, second recommended option, in one lane: 64 MiB and three passes; some tenths of a second.
    pub const STANDARD: Self = Self {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 1,
    };

    /// The least that Argon2 allows. For tests of what is built on a sealer.
    ///
    /// # Security
    /// Protects nothing: a guess takes microseconds.
    pub const INSECURE_FOR_TESTS: Self = Self {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    /// A cost of so many KiB of memory (8 for each lane up to 1 GiB), passes (1 to 16) and lanes (1 to 16).
    ///
    /// # Errors
    /// When a number is out of these bounds.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, CustodyError> {
        if !(1..=MAX_LANES).contains(&lanes)
            || !(8 * lanes..=MAX_MEMORY_KIB).contains(&memory_kib)
            || !(1..=MAX_PASSES).contains(&passes)
        {
            return Err(CustodyError::NotOurs(format!(
                "the passphrase's cost is {memory_kib} KiB, {passes} passes, {lanes} lanes; expected at most {MAX_MEMORY_KIB} KiB, \
                 {MAX_PASSES} passes, {MAX_LANES} lanes, and 8 KiB for each lane"
            )));
        }
        Ok(Self {
            memory_kib,
            passes,
            lanes,
        })
    }
}

/// Seals under a passphrase. Stretches it once for each sealing and unsealing, with a salt of its own.
///
/// Dropping a future abandons the result; a stretching that runs on another thread goes on to its end unseen.
#[derive(Clone)]
pub struct PassphraseSealer {
    // Invariant: at least MIN_PASSPHRASE bytes.
    passphrase: Arc<Secret>,
    cost: KdfCost,
}

impl PassphraseSealer {
    /// A sealer for this passphrase; what it seals costs this much to guess at.
    ///
    /// # Errors
    /// When the passphrase is shorter than [`MIN_PASSPHRASE`] bytes.
    pub fn new(passphrase: Secret, cost: KdfCost) -> Result<Self, CustodyError> {
        if passphrase.len() < MIN_PASSPHRASE {
            return Err(CustodyError::NotOurs(format!(
                "the passphrase has {} bytes; expected at least {MIN_PASSPHRASE}",
                passphrase.len()
            )));
        }
        Ok(Self {
            passphrase: Arc::new(passphrase),
            cost,
        })
    }

    async fn seal_now(&self, purpose: &str, secret: &Secret) -> Result<Vec<u8>, CustodyError> {
        if secret.len() > MAX_SEALED {
            return Err(CustodyError::Fault(format!(
                "a sealed secret has at most {MAX_SEALED} bytes, not {}",
                secret.len()
            )));
        }
        let header = Header::new(self.cost)?;
        let mut blob = header.bytes.to_vec();
        // The plaintext is encrypted where it is copied to, in locked memory; only ciphertext is copied on.
        let cipher = self.cipher(&header).await?;
        let mut tag = [0; TAG];
        let sealed = Secret::fill_with(secret.len(), |bytes| {
            bytes.copy_from_slice(secret.expose());
            tag = cipher
                .encrypt_in_place_detached(&header.nonce.into(), &associated(purpose, &header.bytes), bytes)
                .map_err(|_| CustodyError::Fault("sealing under the passphrase failed".to_owned()))?
                .into();
            Ok::<(), CustodyError>(())
        })?;
        blob.extend_from_slice(sealed.expose());
        blob.extend_from_slice(&tag);
        Ok(blob)
    }

    async fn unseal_now(&self, purpose: &str, sealed: &[u8]) -> Result<Secret, CustodyError> {
        let (header, rest) = Header::read(sealed)?;
        let (ciphertext, tag) = rest
            .split_at_checked(rest.len().saturating_sub(TAG))
            .ok_or_else(damaged)?;
        let tag: [u8; TAG] = tag.try_into().map_err(|_| damaged())?;
        if ciphertext.is_empty() || ciphertext.len() > MAX_SEALED {
            return Err(damaged());
        }
        let cipher = self.cipher(&header).await?;
        Secret::fill_with(ciphertext.len(), |bytes| {
            bytes.copy_from_slice(ciphertext);
            cipher
                .decrypt_in_place_detached(
                    &header.nonce.into(),
                    &associated(purpose, &header.bytes),
                    bytes,
                    &tag.into(),
                )
                .map_err(|_| {
                    CustodyError::NotOurs("the passphrase is wrong, or the keyring was changed".to_owned())
                })
        })
    }

    async fn cipher(&self, header: &Header) -> Result<XChaCha20Poly1305, CustodyError> {
        let (passphrase, cost, salt) = (Arc::clone(&self.passphrase), header.cost, header.salt);
        let stretch = move || stretch(&passphrase, cost, &salt);
        // Tenths of a second of pure computation: not on a thread that others wait for, if there is such a thing.
        let key = match tokio::runtime::Handle::try_current() {
            Ok(runtime) => runtime
                .spawn_blocking(stretch)
                .await
                .map_err(|e| CustodyError::Unavailable(format!("the passphrase was not stretched: {e}")))??,
            Err(_) => stretch()?,
        };
        XChaCha20Poly1305::new_from_slice(key.expose())
            .map_err(|_| CustodyError::Fault("the stretched passphrase has a wrong length".to_owned()))
    }
}

impl Sealer for PassphraseSealer {
    fn assurance(&self) -> Assurance {
        Assurance::Passphrase
    }

    fn seal<'a>(
        &'a self,
        purpose: &'a str,
        secret: &'a Secret,
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        Box::pin(self.seal_now(purpose, secret))
    }

    fn unseal<'a>(
        &'a self,
        purpose: &'a str,
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        Box::pin(self.unseal_now(purpose, sealed))
    }
}

impl fmt::Debug for PassphraseSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassphraseSealer")
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

struct Header {
    bytes: [u8; HEADER],
    cost: KdfCost,
    salt: [u8; SALT],
    nonce: [u8; NONCE],
}

impl Header {
    fn new(cost: KdfCost) -> Result<Self, CustodyError> {
        let (mut salt, mut nonce) = ([0; SALT], [0; NONCE]);
        OsRng
            .try_fill_bytes(&mut salt)
            .and_then(|()| OsRng.try_fill_bytes(&mut nonce))
            .map_err(|e| CustodyError::Unavailable(format!("the system gave no random numbers: {e}")))?;
        let numbers = [cost.memory_kib, cost.passes, cost.lanes].map(u32::to_be_bytes);
        let parts = [MAGIC.as_slice(), numbers.as_flattened(), &salt, &nonce].concat();
        Ok(Self {
            bytes: parts.try_into().map_err(|_| damaged())?,
            cost,
            salt,
            nonce,
        })
    }

    fn read(sealed: &[u8]) -> Result<(Self, &[u8]), CustodyError> {
        let (bytes, rest) = sealed.split_first_chunk::<HEADER>().ok_or_else(damaged)?;
        let (magic, fields) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
        if magic != MAGIC {
            return Err(damaged());
        }
        let (memory_kib, fields) = number(fields)?;
        let (passes, fields) = number(fields)?;
        let (lanes, fields) = number(fields)?;
        let (salt, nonce) = fields.split_first_chunk::<SALT>().ok_or_else(damaged)?;
        let header = Self {
            bytes: *bytes,
            cost: KdfCost::new(memory_kib, passes, lanes)?,
            salt: *salt,
            nonce: nonce.try_into().map_err(|_| damaged())?,
        };
        Ok((header, rest))
    }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), CustodyError> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
    Ok((u32::from_be_bytes(*number), rest))
}

fn associated(purpose: &str, header: &[u8]) -> Vec<u8> {
    let length = u64::try_from(purpose.len()).unwrap_or(u64::MAX).to_be_bytes();
    [
        b"claviger seal v1".as_slice(),
        &length,
        purpose.as_bytes(),
        header,
    ]
    .concat()
}

fn stretch(passphrase: &Secret, cost: KdfCost, salt: &[u8]) -> Result<Secret, CustodyError> {
    let fault = |e: argon2::Error| CustodyError::Fault(format!("the passphrase was not stretched: {e}"));
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(fault)?;
    let mut blocks: Vec<Block> = Vec::new();
    let count = params.block_count();
    blocks.try_reserve_exact(count).map_err(|_| {
        CustodyError::Unavailable(format!(
            "stretching the passphrase takes {} KiB of memory, which the system does not give",
            cost.memory_kib
        ))
    })?;
    blocks.resize(count, Block::default());
    let result = Secret::fill_with(32, |key| {
        Argon2::new(Argon2Kind::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(passphrase.expose(), salt, key, &mut blocks)
            .map_err(fault)
    });
    // The working memory is too large to lock. It does not outlive this call.
    blocks.zeroize();
    result
}

fn damaged() -> CustodyError {
    CustodyError::NotOurs("these bytes were not sealed under a passphrase, or were changed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(passphrase: &str) -> PassphraseSealer {
        let secret = Secret::take(&mut passphrase.to_owned().into_bytes()).unwrap();
        PassphraseSealer::new(secret, KdfCost::INSECURE_FOR_TESTS).unwrap()
    }

    fn secret() -> Secret {
        Secret::take(&mut [7; 32]).unwrap()
    }

    #[tokio::test]
    async fn what_was_sealed_opens_for_the_same_purpose_and_passphrase_only() {
        let sealed = sealer("correct horse").seal("root", &secret()).await.unwrap();
        assert!(
            sealer("correct horse")
                .unseal("root", &sealed)
                .await
                .unwrap()
                .equals(&[7; 32])
        );
        assert!(matches!(
            sealer("correct horse").unseal("root2", &sealed).await,
            Err(CustodyError::NotOurs(_))
        ));
        let Err(CustodyError::NotOurs(text)) = sealer("correct hors3").unseal("root", &sealed).await else {
            panic!("a wrong passphrase opened it");
        };
        assert_eq!(text, "the passphrase is wrong, or the keyring was changed");
    }

    #[tokio::test]
    async fn any_changed_or_missing_byte_is_refused() {
        let sealer = sealer("correct horse");
        let sealed = sealer.seal("root", &secret()).await.unwrap();
        let mut refused = 0;
        for at in 0..sealed.len() {
            // The highest bits of the memory field would ask for up to 1 GiB, which is allowed and slow; see the test of bounds.
            if (8..20).contains(&at) {
                continue;
            }
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer.unseal("root", &changed).await.is_err(), "byte {at}");
            assert!(sealer.unseal("root", &sealed[..at]).await.is_err(), "cut at {at}");
            refused += 2;
        }
        assert!(refused > 150, "{refused}");
        assert!(sealer.unseal("root", &sealed).await.is_ok(), "the control");
    }

    #[tokio::test]
    async fn a_cost_beyond_the_bounds_is_refused_before_it_is_paid() {
        let sealer = sealer("correct horse");
        let sealed = sealer.seal("root", &secret()).await.unwrap();
        for (memory, passes, lanes) in [
            (u32::MAX, 1, 1),
            (MAX_MEMORY_KIB + 1, 1, 1),
            (8, MAX_PASSES + 1, 1),
            (8, 0, 1),
            (0, 1, 1),
            (7, 1, 1),
            (8, 1, 2),
            (8, 1, u32::MAX),
        ] {
            let mut changed = sealed.clone();
            changed[8..20].copy_from_slice([memory, passes, lanes].map(u32::to_be_bytes).as_flattened());
            let Err(CustodyError::NotOurs(text)) = sealer.unseal("root", &changed).await else {
                panic!("{memory} {passes} {lanes} was accepted");
            };
            assert!(text.contains("cost"), "{text}");
        }
        let mut cheaper = sealed.clone();
        cheaper[8..12].copy_from_slice(&16_u32.to_be_bytes());
        assert!(
            sealer.unseal("root", &cheaper).await.is_err(),
            "an allowed cost, but not the one it was sealed at"
        );
    }

    #[tokio::test]
    async fn no_two_sealings_share_a_salt_or_a_nonce() {
        let sealer = sealer("correct horse");
        let first = sealer.seal("root", &secret()).await.unwrap();
        let second = sealer.seal("root", &secret()).await.unwrap();
        assert_ne!(first[20..20 + SALT], second[20..20 + SALT]);
        assert_ne!(first[20 + SALT..HEADER], second[20 + SALT..HEADER]);
    }

    #[test]
    fn a_short_passphrase_is_refused() {
        for (passphrase, good) in [("1234567", false), ("12345678", true)] {
            let secret = Secret::take(&mut passphrase.to_owned().into_bytes()).unwrap();
            assert_eq!(
                PassphraseSealer::new(secret, KdfCost::STANDARD).is_ok(),
                good,
                "{passphrase}"
            );
        }
    }

    #[test]
    fn sealing_works_without_a_runtime() {
        let sealer = sealer("correct horse");
        let secret = secret();
        let mut future = sealer.seal("root", &secret);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Ok(sealed)) = future.as_mut().poll(&mut context) else {
            panic!("not ready at once");
        };
        assert!(sealed.len() > HEADER);
    }

    #[test]
    fn the_standard_cost_is_the_one_of_rfc_9106_and_stretches_like_the_reference() {
        assert_eq!(KdfCost::new(64 * 1024, 3, 1).unwrap(), KdfCost::STANDARD);
        // From the test vectors of the reference implementation: version 0x13, t = 2, m = 2^8 KiB, p = 1.
        let passphrase = Secret::take(&mut b"password".to_vec()).unwrap();
        let key = stretch(&passphrase, KdfCost::new(256, 2, 1).unwrap(), b"somesalt").unwrap();
        assert_eq!(
            hex::encode(key.expose()),
            "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"
        );
    }
}
