//! Wraps a private key so that one storage key alone can import it: the outer wrapper of a duplicate, without an inner one (TPM 2.0 Library
//! Part 1 §23.3, for an elliptic parent §C.6). Sends nothing and knows no custody: `import.rs` does.
//!
//! The seed is made by an ephemeral key against the parent's public one, so the private key goes over no bus in clear, whatever session
//! carries it.

use aes::Aes128;
use cfb_mode::BufEncryptor;
use cfb_mode::cipher::KeyIvInit as _;
use hmac::{Hmac, Mac as _};
use p256::PublicKey;
use p256::ecdh::EphemeralSecret;
use p256::elliptic_curve::sec1::{FromEncodedPoint as _, ToEncodedPoint as _};
use p256::{EncodedPoint, FieldBytes};
use rand_core::OsRng;
use sha2::{Digest as _, Sha256};
use tss_esapi::structures::Public;
use tss_esapi::traits::Marshall as _;
use zeroize::Zeroizing;

use crate::template::left_pad;

const ALG_RSA: u16 = 0x0001;
const ALG_ECC: u16 = 0x0023;
const ALG_SHA256: u16 = 0x000B;

/// A private key as a TPM has it: the scalar of an elliptic key, one prime of an RSA key.
pub(crate) enum Sensitive<'a> {
    Ecc(&'a [u8]),
    Rsa(&'a [u8]),
}

/// What `TPM2_Import` takes.
pub(crate) struct Wrapped {
    /// `TPM2B_PRIVATE` without its length: the integrity value, and what it is over.
    pub(crate) duplicate: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET` without its length: the ephemeral key's point.
    pub(crate) seed: Vec<u8>,
}

/// Why it could not be wrapped: a public area that cannot be marshalled or is no elliptic key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the storage root key or the key to import cannot be used")]
pub(crate) struct NotWrapped;

/// The Name of an object: the digest of its public area.
pub(crate) fn name(public: &Public) -> Result<Vec<u8>, NotWrapped> {
    let area = public.marshall().map_err(|_| NotWrapped)?;
    Ok([&ALG_SHA256.to_be_bytes()[..], &Sha256::digest(area)].concat())
}

/// Wraps a private key with this authorisation value, to this public area, for this parent.
pub(crate) fn wrap(
    sensitive: &Sensitive<'_>,
    auth: &[u8],
    public: &Public,
    parent: &Public,
) -> Result<Wrapped, NotWrapped> {
    let name = name(public)?;
    let (seed, ephemeral) = seed_for(parent)?;
    let mut area = sensitive_area(sensitive, auth)?;
    let key = kdf_a(&seed, b"STORAGE\0", &name, 128)?;
    let key = key.get(..16).ok_or(NotWrapped)?;
    // The key is used once, so no vector is needed.
    BufEncryptor::<Aes128>::new_from_slices(key, &[0; 16])
        .map_err(|_| NotWrapped)?
        .encrypt(&mut area);
    let integrity = kdf_a(&seed, b"INTEGRITY\0", &[], 256)?;
    let mut mac = hmac(&*integrity)?;
    mac.update(&area);
    mac.update(&name);
    let mut duplicate = sized(&mac.finalize().into_bytes())?.to_vec();
    duplicate.extend_from_slice(&area);
    Ok(Wrapped {
        duplicate,
        seed: ephemeral,
    })
}

/// `TPM2B_SENSITIVE`.
fn sensitive_area(sensitive: &Sensitive<'_>, auth: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotWrapped> {
    let (kind, private) = match sensitive {
        Sensitive::Ecc(scalar) => (ALG_ECC, *scalar),
        Sensitive::Rsa(prime) => (ALG_RSA, *prime),
    };
    // Room for all of it, so that nothing unwiped is left of a shorter one.
    let mut area = Zeroizing::new(Vec::with_capacity(16 + auth.len() + private.len()));
    area.extend_from_slice(&kind.to_be_bytes());
    area.extend_from_slice(&sized(auth)?);
    // No seed: it is for keys that have children, or no public half.
    area.extend_from_slice(&sized(&[])?);
    area.extend_from_slice(&sized(private)?);
    sized(&area)
}

/// A seed that the parent alone can find, and the point by which it does.
fn seed_for(parent: &Public) -> Result<(Zeroizing<[u8; 32]>, Vec<u8>), NotWrapped> {
    let Public::Ecc { unique, .. } = parent else {
        return Err(NotWrapped);
    };
    let (mut x, mut y) = (FieldBytes::default(), FieldBytes::default());
    left_pad(&mut x, unique.x().value()).ok_or(NotWrapped)?;
    left_pad(&mut y, unique.y().value()).ok_or(NotWrapped)?;
    let point = EncodedPoint::from_affine_coordinates(&x, &y, false);
    let theirs = Option::<PublicKey>::from(PublicKey::from_encoded_point(&point)).ok_or(NotWrapped)?;
    let ephemeral = EphemeralSecret::random(&mut OsRng);
    let ours = ephemeral.public_key().to_encoded_point(false);
    let (Some(our_x), Some(our_y)) = (ours.x(), ours.y()) else {
        return Err(NotWrapped);
    };
    let shared = ephemeral.diffie_hellman(&theirs);
    // KDFe (Part 1 §11.4.10.3).
    let seed: [u8; 32] = Sha256::new()
        .chain_update(1_u32.to_be_bytes())
        .chain_update(shared.raw_secret_bytes())
        .chain_update(b"DUPLICATE\0")
        .chain_update(our_x)
        .chain_update(x)
        .finalize()
        .into();
    let point = [sized(our_x)?.as_slice(), sized(our_y)?.as_slice()].concat();
    Ok((Zeroizing::new(seed), point))
}

/// KDFa with HMAC-SHA-256 (Part 1 §11.4.10.2), of one block; the label ends with a zero.
fn kdf_a(key: &[u8; 32], label: &[u8], context: &[u8], bits: u32) -> Result<Zeroizing<[u8; 32]>, NotWrapped> {
    let mut mac = hmac(key)?;
    mac.update(&1_u32.to_be_bytes());
    mac.update(label);
    mac.update(context);
    mac.update(&bits.to_be_bytes());
    Ok(Zeroizing::new(mac.finalize().into_bytes().into()))
}

fn hmac(key: &[u8]) -> Result<Hmac<Sha256>, NotWrapped> {
    Hmac::new_from_slice(key).map_err(|_| NotWrapped)
}

/// A TPM2B: two bytes of length, then the bytes.
fn sized(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotWrapped> {
    let length = u16::try_from(bytes.len()).map_err(|_| NotWrapped)?;
    let mut out = Zeroizing::new(Vec::with_capacity(2 + bytes.len()));
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(out)
}
