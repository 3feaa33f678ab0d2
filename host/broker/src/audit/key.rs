//! The log's own key: Ed25519, signs checkpoints as C2SP signed notes and nothing else. Not an agent's key: no grant names it.

use std::fmt;

use claviger_core::{AuditError, Secret};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use signed_note::{Note, Signer, StandardVerifier, VerifierList};
use tlog_tiles::{Checkpoint, Hash};

/// An origin has at most this many bytes: it is one line of each checkpoint, and a name on screens.
pub const MAX_ORIGIN: usize = 128;

/// Why there is no log key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogKeyError {
    /// The origin cannot stand in a signed note.
    #[error("a log's origin has 1 to {MAX_ORIGIN} visible ASCII characters without `+`")]
    Origin,
    /// The seed is not one.
    #[error("the seed of a log's key has 32 bytes, not {0}")]
    Seed(usize),
}

/// Signs the checkpoints of one log.
///
/// # Security
/// The seed stays in locked memory; the expanded key exists only while a checkpoint is signed, and is wiped.
pub struct LogKey {
    origin: String,
    // Invariant: 32 bytes.
    seed: Secret,
    public: VerifyingKey,
}

impl LogKey {
    /// A key from its seed (RFC 8032), under the log's origin (C2SP tlog-checkpoint; the key has the same name).
    ///
    /// # Errors
    /// When the origin cannot stand in a signed note, or the seed has not 32 bytes.
    pub fn from_seed(origin: &str, seed: Secret) -> Result<Self, LogKeyError> {
        if origin.is_empty()
            || origin.len() > MAX_ORIGIN
            || !origin.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
        {
            return Err(LogKeyError::Origin);
        }
        let bytes: &[u8; 32] = seed
            .expose()
            .try_into()
            .map_err(|_| LogKeyError::Seed(seed.len()))?;
        let public = SigningKey::from_bytes(bytes).verifying_key();
        Ok(Self {
            origin: origin.to_owned(),
            seed,
            public,
        })
    }

    /// The public key as a C2SP signed-note verifier key: what `audit verify` and standard verifiers take.
    #[must_use]
    pub fn vkey(&self) -> String {
        signed_note::new_ed25519_verifier_key(&self.origin, &self.public)
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The signed checkpoint of a tree.
    pub(super) fn sign_checkpoint(&self, size: u64, root: Hash) -> Result<String, AuditError> {
        let checkpoint = Checkpoint::new(&self.origin, size, root, "")
            .map_err(|error| AuditError::Signer(error.to_string()))?;
        let mut note =
            Note::new(&checkpoint.to_bytes(), &[]).map_err(|error| AuditError::Signer(error.to_string()))?;
        note.add_sigs(&[self])
            .map_err(|error| AuditError::Signer(error.to_string()))?;
        String::from_utf8(note.to_bytes()).map_err(|error| AuditError::Signer(error.to_string()))
    }
}

impl Signer for LogKey {
    fn name(&self) -> &str {
        &self.origin
    }

    fn key_id(&self) -> u32 {
        // 1 is the algorithm byte of Ed25519 in C2SP signed-note.
        let mut public = vec![1];
        public.extend_from_slice(self.public.as_bytes());
        signed_note::key_id(&self.origin, &public)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        let seed: &[u8; 32] = self
            .seed
            .expose()
            .try_into()
            .map_err(|_| ed25519_dalek::SignatureError::new())?;
        Ok(SigningKey::from_bytes(seed).try_sign(message)?.to_vec())
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogKey({})", self.vkey())
    }
}

/// Why a checkpoint is not one of this log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The verifier key is not one.
    #[error("the verifier key is malformed; expected `name+8 hexadecimal digits+base64` (C2SP signed-note)")]
    Vkey,
    /// The checkpoint is not a signed note with a tree head in it.
    #[error("the checkpoint is malformed; expected a C2SP signed note")]
    Malformed,
    /// The signature is missing or wrong.
    #[error("the checkpoint is not signed by the log's key: {0}")]
    Signature(String),
    /// It is the checkpoint of another log.
    #[error("the checkpoint is of log `{found}`, expected `{expected}`")]
    Origin {
        /// What it says.
        found: String,
        /// What the key is for.
        expected: String,
    },
}

/// Reads a checkpoint and checks its signature.
pub(super) fn check(note: &[u8], vkey: &str) -> Result<Checkpoint, CheckpointError> {
    let verifier = StandardVerifier::new(vkey).map_err(|_| CheckpointError::Vkey)?;
    let expected = vkey.split_once('+').map_or(vkey, |(name, _)| name).to_owned();
    let note = Note::from_bytes(note).map_err(|_| CheckpointError::Malformed)?;
    note.verify(&VerifierList::new(vec![Box::new(verifier)]))
        .map_err(|error| CheckpointError::Signature(error.to_string()))?;
    let checkpoint = Checkpoint::from_bytes(note.text()).map_err(|_| CheckpointError::Malformed)?;
    if checkpoint.origin() != expected {
        return Err(CheckpointError::Origin {
            found: claviger_core::name::escape(checkpoint.origin(), MAX_ORIGIN),
            expected,
        });
    }
    Ok(checkpoint)
}

/// Reads a checkpoint without a key, for readers that prove nothing by it.
pub(super) fn parse(note: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let note = Note::from_bytes(note).map_err(|_| CheckpointError::Malformed)?;
    Checkpoint::from_bytes(note.text()).map_err(|_| CheckpointError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(origin: &str) -> Result<LogKey, LogKeyError> {
        LogKey::from_seed(origin, Secret::take(&mut [7; 32]).unwrap())
    }

    #[test]
    fn a_checkpoint_is_accepted_only_under_its_own_key_and_origin() {
        let signed = key("log.example/a").unwrap();
        let note = signed.sign_checkpoint(5, Hash([9; 32])).unwrap();
        let checkpoint = check(note.as_bytes(), &signed.vkey()).unwrap();
        assert_eq!((checkpoint.size(), *checkpoint.hash()), (5, Hash([9; 32])));

        let other = LogKey::from_seed("log.example/a", Secret::take(&mut [8; 32]).unwrap()).unwrap();
        assert!(matches!(
            check(note.as_bytes(), &other.vkey()),
            Err(CheckpointError::Signature(_))
        ));
        let renamed = key("log.example/b").unwrap();
        assert!(matches!(
            check(note.as_bytes(), &renamed.vkey()),
            Err(CheckpointError::Signature(_))
        ));
        let forged = note.replacen("\n5\n", "\n6\n", 1);
        assert!(matches!(
            check(forged.as_bytes(), &signed.vkey()),
            Err(CheckpointError::Signature(_))
        ));
    }

    #[test]
    fn origins_and_seeds_are_bounded() {
        for bad in ["", "a b", "a+b", "a\nb", "ä", &"a".repeat(MAX_ORIGIN + 1)] {
            assert_eq!(key(bad).unwrap_err(), LogKeyError::Origin, "{bad:?}");
        }
        let short = LogKey::from_seed("a", Secret::take(&mut [7; 31]).unwrap());
        assert_eq!(short.unwrap_err(), LogKeyError::Seed(31));
    }
}
