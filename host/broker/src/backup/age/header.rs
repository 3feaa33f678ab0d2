//! An age file's header: the file key, wrapped once for each recipient, and a MAC over all of it. Not the payload.

use base64ct::{Base64Unpadded, Encoding as _};
use chacha20poly1305::{AeadInPlace as _, ChaCha20Poly1305, KeyInit as _};
use claviger_core::Secret;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::keys::KEY;
use super::{BackupError, FILE_KEY, Identity, Recipient, derive, random};

const VERSION: &[u8] = b"age-encryption.org/v1\n";
const ARMOUR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
const X25519: &[u8] = b"X25519";
const WRAP: &[u8] = b"age-encryption.org/v1/X25519";
const TAG: usize = 16;
const MAC: usize = 32;
/// A full line of a stanza's body; the last one is shorter.
const BODY_LINE: usize = 64;

/// A header has at most this many bytes: sixteen recipients take 2 KiB, and other programs may add stanzas of their own.
const MAX_HEADER: usize = 32 * 1024;
/// A header has at most this many X25519 stanzas: each costs a multiplication for each identity.
const MAX_STANZAS: usize = 64;

/// A new file key and the header that holds it for these recipients.
pub(super) fn write(recipients: &[Recipient]) -> Result<(Vec<u8>, Secret), BackupError> {
    let file_key = random(FILE_KEY)?;
    let mut header = VERSION.to_vec();
    for recipient in recipients {
        let ephemeral = Identity::generate()?;
        let share = *ephemeral.recipient().point();
        // Recipients of small order are refused when they are parsed.
        let shared = ephemeral
            .agree(recipient.point())?
            .ok_or(BackupError::Encryption)?;
        let body = wrap(&shared, &share, recipient.point(), &file_key)?;
        header.extend_from_slice(b"-> X25519 ");
        header.extend_from_slice(Base64Unpadded::encode_string(&share).as_bytes());
        header.push(b'\n');
        header.extend_from_slice(Base64Unpadded::encode_string(&body).as_bytes());
        header.push(b'\n');
    }
    header.extend_from_slice(b"---");
    let mac = mac(&file_key, &header)?.finalize().into_bytes();
    header.push(b' ');
    header.extend_from_slice(Base64Unpadded::encode_string(&mac).as_bytes());
    header.push(b'\n');
    Ok((header, file_key))
}

/// Reads a header byte by byte from `next`, which gives none at the end of the file, and opens it.
pub(super) fn read(
    identities: &[Identity],
    mut next: impl FnMut() -> Result<Option<u8>, BackupError>,
) -> Result<Secret, BackupError> {
    let mut lines = Lines {
        bytes: Vec::new(),
        next: &mut next,
    };
    let first = lines.line()?;
    match first.map(|range| lines.bytes.get(range).unwrap_or_default()) {
        Some(line) if line == VERSION => {}
        Some(line) if line.starts_with(ARMOUR) => {
            return Err(BackupError::NotABackup(
                "it is an armoured age file, and backups are not; `age -d` and `age -r` make a plain one of it",
            ));
        }
        Some(_) | None => {
            return Err(BackupError::NotABackup(
                "expected a file that `claviger backup create` wrote, which starts with `age-encryption.org/v1`",
            ));
        }
    }
    let mut stanzas: Vec<Stanza> = Vec::new();
    let mut next_line = lines.line()?;
    let (covered, found) = loop {
        let start = lines.at(&next_line);
        let wrong = |what: &str| BackupError::damaged(start, format!("its header {what}"));
        let line = lines
            .text(next_line.clone())
            .ok_or_else(|| wrong("ends before its MAC"))?;
        if let Some(mac) = line.strip_prefix(b"--- ") {
            let mac: [u8; MAC] = decode(mac).ok_or_else(|| wrong("has a MAC that is none"))?;
            let covered = usize::try_from(start).unwrap_or(usize::MAX).saturating_add(3);
            break (covered, mac);
        }
        let arguments = line
            .strip_prefix(b"-> ")
            .ok_or_else(|| wrong("has a line that is no part of one"))?;
        if arguments.is_empty()
            || !arguments
                .iter()
                .all(|byte| byte.is_ascii_graphic() || *byte == b' ')
        {
            return Err(wrong("has a stanza with characters that none has"));
        }
        let words: Vec<&[u8]> = arguments.split(|byte| *byte == b' ').collect();
        if words.iter().any(|word| word.is_empty()) {
            return Err(wrong("has a stanza with an empty argument"));
        }
        let share = match words.as_slice() {
            [kind, share] if *kind == X25519 => {
                Some(decode::<KEY>(share).ok_or_else(|| wrong("has a share that is none"))?)
            }
            [kind, ..] if *kind == X25519 => return Err(wrong("has an X25519 stanza with other arguments")),
            _ => None,
        };
        // The body: full lines, then a shorter one, which may be empty.
        let mut body = Vec::new();
        loop {
            let range = lines.line()?;
            let start = lines.at(&range);
            let line = lines
                .text(range)
                .filter(|line| line.len() <= BODY_LINE)
                .ok_or_else(|| BackupError::damaged(start, "its header has a stanza without an end"))?;
            body.extend_from_slice(line);
            if line.len() < BODY_LINE {
                break;
            }
        }
        if !is_base64(&body) {
            return Err(wrong("has a stanza whose body is not base64"));
        }
        if let Some(share) = share {
            let body = decode(&body).ok_or_else(|| wrong("has a wrapped key that is none"))?;
            if stanzas.len() == MAX_STANZAS {
                return Err(wrong("has more than 64 recipients"));
            }
            stanzas.push(Stanza { share, body });
        }
        next_line = lines.line()?;
    };
    let header = lines.bytes;
    let file_key = open(&stanzas, identities)?.ok_or(BackupError::WrongIdentity {
        identities: identities.len(),
        recipients: stanzas.len(),
    })?;
    mac(&file_key, header.get(..covered).unwrap_or_default())?
        .verify_slice(&found)
        .map_err(|_| BackupError::damaged(0, "its header was changed: the MAC is another"))?;
    Ok(file_key)
}

struct Stanza {
    share: [u8; KEY],
    body: [u8; FILE_KEY + TAG],
}

fn open(stanzas: &[Stanza], identities: &[Identity]) -> Result<Option<Secret>, BackupError> {
    for identity in identities {
        let own = identity.recipient();
        for stanza in stanzas {
            // A share of small order is nobody's.
            let Some(shared) = identity.agree(&stanza.share)? else {
                continue;
            };
            if let Some(file_key) = unwrap(&shared, &stanza.share, own.point(), &stanza.body)? {
                return Ok(Some(file_key));
            }
        }
    }
    Ok(None)
}

fn wrapping_key(
    shared: &Secret,
    share: &[u8; KEY],
    recipient: &[u8; KEY],
) -> Result<ChaCha20Poly1305, BackupError> {
    let key = derive(shared, &[*share, *recipient].concat(), WRAP)?;
    ChaCha20Poly1305::new_from_slice(key.expose()).map_err(|_| BackupError::Encryption)
}

fn wrap(
    shared: &Secret,
    share: &[u8; KEY],
    recipient: &[u8; KEY],
    file_key: &Secret,
) -> Result<[u8; FILE_KEY + TAG], BackupError> {
    let cipher = wrapping_key(shared, share, recipient)?;
    let mut tag = [0; TAG];
    // Encrypted where it is copied to; the key is fresh, so that its nonce may be zero.
    let sealed = Secret::fill_with(FILE_KEY, |bytes| {
        bytes.copy_from_slice(file_key.expose());
        tag = cipher
            .encrypt_in_place_detached(&[0; 12].into(), &[], bytes)
            .map_err(|_| BackupError::Encryption)?
            .into();
        Ok::<(), BackupError>(())
    })?;
    let mut body = [0; FILE_KEY + TAG];
    let (key, rest) = body.split_at_mut(FILE_KEY);
    key.copy_from_slice(sealed.expose());
    rest.copy_from_slice(&tag);
    Ok(body)
}

fn unwrap(
    shared: &Secret,
    share: &[u8; KEY],
    recipient: &[u8; KEY],
    body: &[u8; FILE_KEY + TAG],
) -> Result<Option<Secret>, BackupError> {
    let cipher = wrapping_key(shared, share, recipient)?;
    let (sealed, tag) = body.split_at(FILE_KEY);
    let tag: [u8; TAG] = tag.try_into().map_err(|_| BackupError::Encryption)?;
    let mut opens = false;
    let file_key = Secret::fill_with(FILE_KEY, |bytes| {
        bytes.copy_from_slice(sealed);
        opens = cipher
            .decrypt_in_place_detached(&[0; 12].into(), &[], bytes, &tag.into())
            .is_ok();
        Ok::<(), BackupError>(())
    })?;
    Ok(opens.then_some(file_key))
}

fn mac(file_key: &Secret, header: &[u8]) -> Result<Hmac<Sha256>, BackupError> {
    let key = derive(file_key, &[], b"header")?;
    let mut mac =
        <Hmac<Sha256> as hmac::Mac>::new_from_slice(key.expose()).map_err(|_| BackupError::Encryption)?;
    mac.update(header);
    Ok(mac)
}

/// Bytes of this length in the one base64 that they have.
fn decode<const LENGTH: usize>(text: &[u8]) -> Option<[u8; LENGTH]> {
    let text = std::str::from_utf8(text).ok()?;
    let mut bytes = [0; LENGTH];
    let decoded = Base64Unpadded::decode(text, &mut bytes).ok()?;
    let whole = decoded.len() == LENGTH && Base64Unpadded::encode_string(decoded) == text;
    whole.then_some(bytes)
}

/// Whether this is the one base64 of some bytes, or of none.
fn is_base64(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| {
        Base64Unpadded::decode_vec(text).is_ok_and(|bytes| Base64Unpadded::encode_string(&bytes) == text)
    })
}

/// The lines of a header, as far as they were read.
struct Lines<'a> {
    bytes: Vec<u8>,
    next: &'a mut dyn FnMut() -> Result<Option<u8>, BackupError>,
}

impl Lines<'_> {
    /// Where the next line lies, its end included; none if the file ends before it does.
    fn line(&mut self) -> Result<Option<std::ops::Range<usize>>, BackupError> {
        let start = self.bytes.len();
        while let Some(byte) = (self.next)()? {
            if self.bytes.len() == MAX_HEADER {
                return Err(BackupError::damaged(0, "its header has over 32 KiB"));
            }
            self.bytes.push(byte);
            if byte == b'\n' {
                return Ok(Some(start..self.bytes.len()));
            }
            // What does not start like a header is not read on for long.
            if start == 0 && self.bytes.len() > VERSION.len() + ARMOUR.len() {
                return Ok(Some(start..self.bytes.len()));
            }
        }
        Ok(None)
    }

    /// A line without its end.
    fn text(&self, range: Option<std::ops::Range<usize>>) -> Option<&[u8]> {
        self.bytes.get(range?)?.strip_suffix(b"\n")
    }

    /// Where it starts; where the file ends, if it does.
    fn at(&self, range: &Option<std::ops::Range<usize>>) -> u64 {
        let at = range.as_ref().map_or(self.bytes.len(), |range| range.start);
        u64::try_from(at).unwrap_or(u64::MAX)
    }
}
