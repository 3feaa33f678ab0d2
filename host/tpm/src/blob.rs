//! What is stored of a key or a sealed secret: the TSS2 PRIVATE KEY PEM (draft-bottomley-tpm2-keys) after its authorisation
//! value. Not encrypted here: the TPM encrypted the private part, and the keyring encrypts the whole of a key's.
//!
//! ```text
//! u8 version = 1   [u8; 32] value   -----BEGIN TSS2 PRIVATE KEY----- …
//! ```
//! From the 34th byte it is the file that `openssl` with tpm2-openssl reads.

use der::asn1::{ObjectIdentifier, OctetString};
use der::pem::LineEnding;
use der::{DecodePem as _, EncodePem as _, Sequence};
use tss_esapi::structures::{Private, Public};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};
use zeroize::Zeroizing;

use crate::counter::Counter;

/// A stored blob is at most this long: a P-256 key takes some 500 bytes, an RSA key 1200, the largest sealed secret 900.
pub(crate) const MAX_BLOB: usize = 4 * 1024;

/// The length of an authorisation value in bytes: that of the Name's hash, the most a TPM takes.
pub(crate) const AUTH: usize = 32;

const VERSION: u8 = 1;
/// What a revocable key's begins with instead.
const REVOCABLE: u8 = 2;
/// What two keys' begin with.
const PAIR: u8 = 3;

const LOADABLE_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.10.1.3");
const SEALED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.10.1.5");

/// The owner's hierarchy, whose primary key of template H-2 is the parent.
const OWNER: u32 = 0x4000_0001;

/// What a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A key to load.
    Key,
    /// Sealed data.
    Sealed,
}

impl Kind {
    const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::Key => LOADABLE_KEY,
            Self::Sealed => SEALED_DATA,
        }
    }
}

/// `TPMKey` of the draft, without the policies we do not use.
#[derive(Sequence)]
struct TpmKey {
    oid: ObjectIdentifier,
    parent: u32,
    public: OctetString,
    private: OctetString,
}

impl der::pem::PemLabel for TpmKey {
    const PEM_LABEL: &'static str = "TSS2 PRIVATE KEY";
}

/// A blob taken apart.
pub(crate) struct Blob {
    pub(crate) value: Zeroizing<[u8; AUTH]>,
    pub(crate) public: Public,
    pub(crate) private: Private,
}

/// Why bytes are not a blob of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("the blob is not one of this TPM's: expected version {VERSION}, a value and a TSS2 PRIVATE KEY")]
    Form,
    #[error("the blob is of another kind than expected")]
    Kind,
    #[error("the blob cannot be encoded")]
    Encoding,
}

/// Puts a blob together.
pub(crate) fn encode(
    kind: Kind,
    value: &[u8; AUTH],
    public: &Public,
    private: &Private,
) -> Result<Zeroizing<Vec<u8>>, BlobError> {
    let bad = |_| BlobError::Encoding;
    let area = public.marshall().map_err(|_| BlobError::Encoding)?;
    let key = TpmKey {
        oid: kind.oid(),
        parent: OWNER,
        public: OctetString::new(sized(&area)?).map_err(bad)?,
        private: OctetString::new(sized(private.value())?).map_err(bad)?,
    };
    let pem = key.to_pem(LineEnding::LF).map_err(bad)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 + AUTH + pem.len()));
    bytes.push(VERSION);
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(pem.as_bytes());
    Ok(bytes)
}

/// Takes a blob apart, and takes no looser form than [`encode`] writes.
pub(crate) fn decode(kind: Kind, bytes: &[u8]) -> Result<Blob, BlobError> {
    if bytes.len() > MAX_BLOB {
        return Err(BlobError::Form);
    }
    let (version, rest) = bytes.split_first().ok_or(BlobError::Form)?;
    let (value, pem) = rest.split_first_chunk::<AUTH>().ok_or(BlobError::Form)?;
    if *version != VERSION {
        return Err(BlobError::Form);
    }
    let pem = std::str::from_utf8(pem).map_err(|_| BlobError::Form)?;
    let key = TpmKey::from_pem(pem).map_err(|_| BlobError::Form)?;
    if key.oid != kind.oid() || key.parent != OWNER {
        return Err(BlobError::Kind);
    }
    let area = unsized_(key.public.as_bytes())?;
    let public = Public::unmarshall(area).map_err(|_| BlobError::Form)?;
    let private = Private::try_from(unsized_(key.private.as_bytes())?).map_err(|_| BlobError::Form)?;
    // Unmarshalling ignores what follows and fields it has no name for, and PEM may end with a newline or not: only what would be
    // written itself is accepted.
    if *encode(kind, value, &public, &private).map_err(|_| BlobError::Form)? != *bytes {
        return Err(BlobError::Form);
    }
    Ok(Blob {
        value: Zeroizing::new(*value),
        public,
        private,
    })
}

/// Puts the counter that a key hangs on before its blob: `u8 2   [u8; 12] counter   blob`.
pub(crate) fn with_counter(counter: Counter, blob: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 + Counter::LEN + blob.len()));
    bytes.push(REVOCABLE);
    bytes.extend_from_slice(&counter.to_bytes());
    bytes.extend_from_slice(blob);
    bytes
}

/// The counter that a key hangs on, if it is a revocable one, and its blob.
pub(crate) fn split_counter(bytes: &[u8]) -> Result<(Option<Counter>, &[u8]), BlobError> {
    match bytes.split_first() {
        Some((&REVOCABLE, rest)) => {
            let (counter, blob) = rest.split_first_chunk().ok_or(BlobError::Form)?;
            Ok((Some(Counter::from_bytes(counter).ok_or(BlobError::Form)?), blob))
        }
        Some(_) | None => Ok((None, bytes)),
    }
}

/// Puts the blobs of two keys together that are one for the keyring: `u8 3   u16 length of the first   blob   blob`.
pub(crate) fn pair(first: &[u8], second: &[u8]) -> Result<Zeroizing<Vec<u8>>, BlobError> {
    let length = u16::try_from(first.len()).map_err(|_| BlobError::Encoding)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(3 + first.len() + second.len()));
    bytes.push(PAIR);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(first);
    bytes.extend_from_slice(second);
    Ok(bytes)
}

/// The blobs of [`pair`].
pub(crate) fn split_pair(bytes: &[u8]) -> Result<(&[u8], &[u8]), BlobError> {
    let (kind, rest) = bytes.split_first().ok_or(BlobError::Form)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(BlobError::Form)?;
    if *kind != PAIR {
        return Err(BlobError::Kind);
    }
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .ok_or(BlobError::Form)
}

/// A TPM2B: two bytes of length, then the bytes.
fn sized(bytes: &[u8]) -> Result<Vec<u8>, BlobError> {
    let length = u16::try_from(bytes.len()).map_err(|_| BlobError::Encoding)?;
    let mut out = Vec::with_capacity(2 + bytes.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(out)
}

pub(crate) fn unsized_(bytes: &[u8]) -> Result<&[u8], BlobError> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or(BlobError::Form)?;
    if usize::from(u16::from_be_bytes(*length)) == rest.len() {
        Ok(rest)
    } else {
        Err(BlobError::Form)
    }
}

#[cfg(test)]
mod tests {
    use claviger_core::Algorithm;

    use super::*;
    use crate::template;

    fn sample() -> Zeroizing<Vec<u8>> {
        let private = Private::try_from(vec![0xAB; 120]).unwrap();
        encode(
            Kind::Key,
            &[7; AUTH],
            &template::signing_key(Algorithm::P256, None).unwrap().unwrap(),
            &private,
        )
        .unwrap()
    }

    #[test]
    fn a_blob_is_read_as_written() {
        let bytes = sample();
        let blob = decode(Kind::Key, &bytes).unwrap();
        assert_eq!(*blob.value, [7; AUTH]);
        assert_eq!(blob.private.value(), [0xAB; 120]);
        assert_eq!(
            blob.public,
            template::signing_key(Algorithm::P256, None).unwrap().unwrap()
        );
        assert!(bytes[33..].starts_with(b"-----BEGIN TSS2 PRIVATE KEY-----\n"));
    }

    #[test]
    fn a_blob_of_another_kind_version_or_length_is_refused() {
        let bytes = sample();
        assert!(matches!(decode(Kind::Sealed, &bytes), Err(BlobError::Kind)));
        let mut other = bytes.to_vec();
        other[0] = 2;
        assert!(matches!(decode(Kind::Key, &other), Err(BlobError::Form)));
        for length in 0..bytes.len() {
            assert!(decode(Kind::Key, &bytes[..length]).is_err(), "{length}");
        }
        let mut long = bytes.to_vec();
        long.resize(MAX_BLOB + 1, b'\n');
        assert!(matches!(decode(Kind::Key, &long), Err(BlobError::Form)));
    }

    #[test]
    fn what_stands_before_a_blob_is_read_as_written_and_nothing_else_is() {
        let blob = sample();
        let counter = Counter::new(crate::counter::FIRST_INDEX, 9).unwrap();
        let hung = with_counter(counter, &blob);
        assert_eq!(split_counter(&hung).unwrap(), (Some(counter), blob.as_slice()));
        assert_eq!(split_counter(&blob).unwrap(), (None, blob.as_slice()));
        for length in 1..=Counter::LEN {
            assert!(split_counter(&hung[..length]).is_err(), "{length}");
        }
        let two = pair(&blob, &blob).unwrap();
        assert_eq!(split_pair(&two).unwrap(), (blob.as_slice(), blob.as_slice()));
        assert!(split_pair(&blob).is_err());
        assert!(split_pair(&two[..blob.len()]).is_err());
    }
}
