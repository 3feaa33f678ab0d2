//! A TPM as what opens a backup: a `p256tag` stanza (<https://c2sp.org/age>) of which the TPM does the one step that needs its key. Not the
//! TPM: what holds the key is behind core's [`AgreementCustody`]. Encrypting to such a recipient is `age`'s own.
//!
//! A backup is opened in two steps, as a TPM is waited for and `age` does not wait: first every stanza that is for this key is brought to
//! the TPM, then `age` opens the file with what it said.

use std::sync::{Mutex, PoisonError};

use age::DecryptError;
use age_core::format::{FileKey, Stanza};
use age_core::primitives::{bech32_encode, hpke_open};
use base64ct::{Base64, Base64Unpadded, Encoding as _};
use bech32::Hrp;
use claviger_core::custody::{AgreementCustody, CustodyError};
use claviger_core::{PublicKey, Secret};
use hkdf::Hkdf;
use hpke::kdf::{HkdfSha256, extract_and_expand};
use hpke::kem::{DhP256HkdfSha256, SharedSecret};
use hpke::rand_core::{CryptoRng, RngCore};
use hpke::{Deserializable, HpkeError, Kem, Serializable};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::BackupError;

const RECIPIENT: &str = "age1tag";
const STANZA: &str = "p256tag";
/// The salt of the tag, and what HPKE is told.
const SALT: &[u8] = b"age-encryption.org/p256tag";
const TAG: usize = 4;
/// A point in SEC 1, not compressed.
const POINT: usize = 65;
const COORDINATE: usize = 32;
/// What a line of an identity file begins with that is of a key in a TPM; base64 follows.
pub(super) const PREFIX: &str = "CLAVIGER-TPM-KEY-1-";
/// The material of such a key has at most this many bytes; that of a TPM has some 500.
const MAX_MATERIAL: usize = 4096;
/// Stanzas of one header that are brought to a TPM; there is one for each time that a recipient was named, and a slow TPM takes a second.
const MAX_AGREED: usize = 4;

/// The recipient of a key, as age writes it.
pub(super) fn recipient_of(key: &PublicKey) -> Option<String> {
    Some(bech32_encode(Hrp::parse(RECIPIENT).ok()?, &compressed(key)?))
}

fn compressed(key: &PublicKey) -> Option<Vec<u8>> {
    let key = p256::PublicKey::from_sec1_bytes(key.as_bytes()).ok()?;
    Some(key.to_encoded_point(true).as_bytes().to_vec())
}

/// A key in a TPM, by what was kept of it.
pub(super) struct TpmIdentity {
    material: Secret,
    // Invariant: each is of a stanza whose share is a point of the curve; at most MAX_AGREED.
    agreed: Mutex<Vec<Agreed>>,
}

/// What a TPM shares with whoever made a stanza.
struct Agreed {
    share: [u8; POINT],
    own: [u8; POINT],
    secret: Secret,
}

impl TpmIdentity {
    /// Reads the line of an identity file; none if it is none of these.
    pub(super) fn parse(line: &str) -> Result<Option<Self>, BackupError> {
        let Some(text) = line.strip_prefix(PREFIX) else {
            return Ok(None);
        };
        let mut bytes = Zeroizing::new([0; MAX_MATERIAL]);
        let length = match Base64::decode(text, bytes.as_mut_slice()) {
            Ok(read) if !read.is_empty() => read.len(),
            Ok(_) | Err(_) => return Ok(None),
        };
        let material = Secret::take(bytes.get_mut(..length).unwrap_or_default())?;
        Ok(Some(Self {
            material,
            agreed: Mutex::default(),
        }))
    }

    /// Has the TPM agree on what opens the stanzas of a header that are for its key. One of another TPM agrees on none.
    pub(super) async fn agree(
        &self,
        custody: &dyn AgreementCustody,
        header: &[u8],
    ) -> Result<(), BackupError> {
        let own = custody.public(&self.material).map_err(BackupError::Custody)?;
        let mut agreed = Vec::new();
        for share in shares_for(&own, header) {
            let with = PublicKey::p256(&share)
                .map_err(|_| BackupError::damaged(0, "its header has a point that is none"))?;
            let secret = match custody.agree(&self.material, &with).await {
                Ok(secret) => secret,
                Err(CustodyError::NotOurs(_)) => continue,
                Err(error) => return Err(BackupError::Custody(error)),
            };
            let own = point(own.as_bytes()).ok_or(BackupError::Encryption)?;
            agreed.push(Agreed { share, own, secret });
        }
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner) = agreed;
        Ok(())
    }
}

impl age::Identity for TpmIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        let (_, share) = parts(stanza)?;
        let agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        let agreed = agreed.iter().find(|agreed| agreed.share == share)?;
        let share = Share::from_bytes(&share).ok()?;
        let opened = hpke_open::<AgreedKem>(&share, &Shared::of(agreed)?, SALT, &stanza.body).ok()?;
        let opened = Zeroizing::new(opened);
        Some(
            FileKey::try_init_with_mut(|key| {
                *key = opened.as_slice().try_into().map_err(|_| ())?;
                Ok(())
            })
            .map_err(|()| DecryptError::InvalidHeader),
        )
    }
}

/// The tag and the share of a stanza, if it is one of these and well made.
fn parts(stanza: &Stanza) -> Option<([u8; TAG], [u8; POINT])> {
    match (stanza.tag.as_str(), stanza.args.as_slice()) {
        (STANZA, [tag, share]) => Some((decoded(tag)?, decoded(share)?)),
        _ => None,
    }
}

fn decoded<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    let whole = Base64Unpadded::decode(text, &mut bytes).ok()?.len() == LENGTH;
    whole.then_some(bytes)
}

fn point(bytes: &[u8]) -> Option<[u8; POINT]> {
    bytes.try_into().ok()
}

/// The shares of the stanzas whose tag says that they are for this key. The tag is no secret, and may lie.
fn shares_for(own: &PublicKey, header: &[u8]) -> Vec<[u8; POINT]> {
    /// Is for nothing: `age` shows it every stanza.
    struct Looking<'a> {
        own: &'a [u8],
        found: Mutex<Vec<[u8; POINT]>>,
    }
    impl age::Identity for Looking<'_> {
        fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
            let (tag, share) = parts(stanza)?;
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            if tag == tag_of(&share, self.own) && found.len() < MAX_AGREED && !found.contains(&share) {
                found.push(share);
            }
            None
        }
    }
    let own = compressed(own).unwrap_or_default();
    let looking = Looking {
        own: &own,
        found: Mutex::default(),
    };
    // A nonce has to follow a header, and is of no account here.
    let file = [header, &[0; super::stream::NONCE]].concat();
    let looked = age::Decryptor::new_buffered(file.as_slice())
        .and_then(|file| file.decrypt(std::iter::once(&looking as &dyn age::Identity)));
    drop(looked);
    looking.found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What a stanza with this share says whom it is for.
fn tag_of(share: &[u8], own: &[u8]) -> [u8; TAG] {
    let own = Sha256::digest(own);
    let input = [share, own.get(..TAG).unwrap_or_default()].concat();
    let (tag, _) = Hkdf::<Sha256>::extract(Some(SALT), &input);
    tag.first_chunk().copied().unwrap_or_default()
}

type Share = <DhP256HkdfSha256 as Kem>::EncappedKey;
type Point = <DhP256HkdfSha256 as Kem>::PublicKey;

/// DHKEM(P-256, HKDF-SHA256) (RFC 9180 §4.1) by whoever has no private key and was told what it gives: it opens, and does nothing else.
struct AgreedKem;

/// In the place of the private key.
#[derive(Clone, PartialEq, Eq)]
struct Shared {
    secret: Zeroizing<[u8; COORDINATE]>,
    own: Point,
}

impl Shared {
    fn of(agreed: &Agreed) -> Option<Self> {
        Some(Self {
            secret: Zeroizing::new(agreed.secret.expose().try_into().ok()?),
            own: Point::from_bytes(&agreed.own).ok()?,
        })
    }
}

impl Serializable for Shared {
    type OutputSize = <<DhP256HkdfSha256 as Kem>::PrivateKey as Serializable>::OutputSize;

    fn write_exact(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.secret.as_slice());
    }
}

impl Deserializable for Shared {
    fn from_bytes(_: &[u8]) -> Result<Self, HpkeError> {
        Err(HpkeError::ValidationError)
    }
}

impl Kem for AgreedKem {
    type PublicKey = Point;
    type PrivateKey = Shared;
    type EncappedKey = Share;
    type NSecret = <DhP256HkdfSha256 as Kem>::NSecret;
    const KEM_ID: u16 = DhP256HkdfSha256::KEM_ID;

    fn sk_to_pk(shared: &Shared) -> Point {
        shared.own.clone()
    }

    /// A key that nobody has the private half of.
    fn derive_keypair(seed: &[u8]) -> (Shared, Point) {
        let (_, own) = DhP256HkdfSha256::derive_keypair(seed);
        let secret = Zeroizing::default();
        (
            Shared {
                secret,
                own: own.clone(),
            },
            own,
        )
    }

    fn decap(
        shared: &Shared,
        sender: Option<&Point>,
        share: &Share,
    ) -> Result<SharedSecret<Self>, HpkeError> {
        if sender.is_some() {
            return Err(HpkeError::DecapError);
        }
        let suite = [b"KEM".as_slice(), &Self::KEM_ID.to_be_bytes()].concat();
        let context = [share.to_bytes(), shared.own.to_bytes()].concat();
        let mut secret = SharedSecret::default();
        extract_and_expand::<HkdfSha256>(shared.secret.as_slice(), &suite, &context, &mut secret.0)
            .map_err(|_| HpkeError::DecapError)?;
        Ok(secret)
    }

    fn encap<R: CryptoRng + RngCore>(
        _: &Point,
        _: Option<(&Shared, &Point)>,
        _: &mut R,
    ) -> Result<(SharedSecret<Self>, Share), HpkeError> {
        Err(HpkeError::EncapError)
    }
}

/// The line of an identity file that keeps this material.
pub(super) fn line_of(material: &Secret) -> Result<Secret, BackupError> {
    let length = PREFIX
        .len()
        .saturating_add(Base64::encoded_len(material.expose()));
    Secret::fill_with(length, |bytes| {
        let (prefix, text) = bytes
            .split_at_mut_checked(PREFIX.len())
            .ok_or(BackupError::Encryption)?;
        prefix.copy_from_slice(PREFIX.as_bytes());
        Base64::encode(material.expose(), text).map_err(|_| BackupError::Encryption)?;
        Ok(())
    })
}
