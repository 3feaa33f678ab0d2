//! What the keyring knows of a key, and of itself. Not key material, and nothing secret.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use claviger_core::audit::SecretSource;
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::profile::Profile;
use claviger_core::{KeyAlgorithm, KeyIdentity, KeyRef, PublicKey, Secret};
use jiff::Timestamp;

use super::columns::{Reason, RotationPlan};
use super::life::{AHEAD, Life, LifeEvent, after};

/// What protects the root key. Fixed when the keyring is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RootKind {
    /// A passphrase, through Argon2id.
    Passphrase,
    /// A TPM that is a device of this machine.
    Tpm,
    /// A software TPM. For development.
    Swtpm,
}

impl RootKind {
    /// The name in the keyring and in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::Tpm => "tpm",
            Self::Swtpm => "swtpm",
        }
    }

    /// What a sealer for such a root must offer.
    #[must_use]
    pub const fn assurance(self) -> Assurance {
        match self {
            Self::Passphrase => Assurance::Passphrase,
            Self::Tpm => Assurance::Hardware,
            Self::Swtpm => Assurance::Swtpm,
        }
    }
}

impl fmt::Display for RootKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// No kind of root, state, custody or assurance has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, not `{found}`")]
pub struct UnknownName {
    expected: String,
    found: String,
}

impl FromStr for RootKind {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        named(text, &[Self::Passphrase, Self::Tpm, Self::Swtpm], Self::as_str)
    }
}

/// How a new keyring's root key is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSpec {
    /// By what.
    pub kind: RootKind,
    /// What the maker of the sealer needs to find it again, such as a TCTI and the name of a TPM's storage key. Not secret; at
    /// most [`super::MAX_SETTINGS`] bytes.
    pub settings: String,
}

/// What a keyring says of itself without being opened. Only opening proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyringInfo {
    /// The version of the file's format.
    pub format: u32,
    /// When it was made.
    pub created: Timestamp,
    /// What protects the root key.
    pub root: RootSpec,
    /// How hard that is.
    pub assurance: Assurance,
    /// The public key of the audit log that belongs to the keyring, as a C2SP signed-note `vkey`, once there is one.
    pub vkey: Option<String>,
    /// How many entries of that log were under its last recorded checkpoint. Fewer mean that an older log was put in its place.
    pub log_size: u64,
    /// How often the keyring was changed. Goes back only if an older copy was put in its place.
    pub generation: u64,
}

/// Where one version of a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyState {
    /// Made, not yet used.
    Pending,
    /// Used for everything.
    Active,
    /// No longer used for anything new; what it made is still accepted.
    Retiring,
    /// Kept for the record.
    Retired,
    /// Out of use until it is enabled again.
    Disabled,
    /// Out of use for good.
    Revoked,
    /// Its material is gone.
    Destroyed,
}

impl KeyState {
    /// The name in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
            Self::Destroyed => "destroyed",
        }
    }

    /// The state in a word, `deleted` of a version that is.
    pub(super) const fn standing(self, deleted: Option<Timestamp>) -> &'static str {
        match deleted {
            Some(_) => "deleted",
            None => self.as_str(),
        }
    }

    /// Whether a version in this state may be used for something new.
    pub(super) const fn is_in_use(self, deleted: Option<Timestamp>) -> bool {
        matches!(self, Self::Active) && deleted.is_none()
    }

    /// Whether what was allowed with a version in this state goes on to its end: it was not stopped, only replaced.
    pub(super) const fn may_finish(self, deleted: Option<Timestamp>) -> bool {
        matches!(self, Self::Active | Self::Retiring | Self::Retired) && deleted.is_none()
    }

    /// What an operator does to bring a version into this state, if an operator can.
    pub(crate) const fn asked(self) -> Option<LifeEvent> {
        match self {
            Self::Active => Some(LifeEvent::Enable),
            Self::Disabled => Some(LifeEvent::Disable(None)),
            Self::Revoked => Some(LifeEvent::Revoke(None)),
            Self::Pending | Self::Retiring | Self::Retired | Self::Destroyed => None,
        }
    }

    /// Whether a secret in this state still has its value: what was replaced is gone when its overlap is over.
    pub(crate) const fn keeps_value(self) -> bool {
        match self {
            Self::Pending | Self::Active | Self::Retiring | Self::Disabled | Self::Revoked => true,
            Self::Retired | Self::Destroyed => false,
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KeyState {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [
            Self::Pending,
            Self::Active,
            Self::Retiring,
            Self::Retired,
            Self::Disabled,
            Self::Revoked,
            Self::Destroyed,
        ];
        named(text, &all, Self::as_str)
    }
}

/// Where the material of a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// Its custody made it: nobody ever had it.
    Generated,
    /// An operator brought it: whoever had it before may have it still.
    Imported,
    /// An operator restored it from a backup: whoever has that, and an identity that opens it, has the key.
    Restored,
}

impl KeySource {
    /// The name in the keyring and in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generated => "generated",
            Self::Imported => "imported",
            Self::Restored => "restored",
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KeySource {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        key_source_named(text)
    }
}

/// The name of a source, read back from the keyring.
pub(super) fn key_source_named(text: &str) -> Result<KeySource, UnknownName> {
    let all = [KeySource::Generated, KeySource::Imported, KeySource::Restored];
    named(text, &all, KeySource::as_str)
}

/// The name of whoever put a secret there, read back from the keyring.
pub(super) fn secret_source_named(text: &str) -> Result<SecretSource, UnknownName> {
    named(
        text,
        &[
            SecretSource::Operator,
            SecretSource::Server,
            SecretSource::Rotator,
        ],
        SecretSource::as_str,
    )
}

/// One version of a key, without its material.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyRecord {
    /// Its name and version.
    pub key: KeyRef,
    /// Where it is in its life.
    pub state: KeyState,
    /// What it is for.
    pub profile: Profile,
    /// Which algorithm it is for.
    pub algorithm: KeyAlgorithm,
    /// Where its material lives.
    pub custody: CustodyKind,
    /// How hard it is.
    pub assurance: Assurance,
    /// What it is told by: its public half, if it has one.
    pub identity: KeyIdentity,
    /// When it was added.
    pub created: Timestamp,
    /// When its state last changed.
    pub updated: Timestamp,
    /// Where its material comes from.
    pub source: KeySource,
    /// When a new version takes its place. The next version takes the plan over.
    pub plan: RotationPlan,
    /// When the present state ends by itself: a retiring version retires. Of a deleted one: when it may be purged. Of a revoked one:
    /// [`KeyRecord::lacks_successor`], and since when.
    pub until: Option<Timestamp>,
    /// When it was deleted, if it is: it is used for nothing, and can be restored until it is purged.
    pub deleted: Option<Timestamp>,
    /// Why it was disabled or revoked.
    pub reason: Option<Reason>,
    /// Whether its purge is locked: the recovery window cannot be made shorter, and the lock cannot be taken away.
    pub locked: bool,
    /// What its custody keeps of its own about it; at most [`super::MAX_HARDWARE`] bytes.
    pub hardware: Option<Vec<u8>>,
}

impl KeyRecord {
    /// Its public half, if it has one.
    #[must_use]
    pub const fn public(&self) -> Option<&PublicKey> {
        self.identity.public()
    }

    /// The text that tells it in listings and on the log.
    #[must_use]
    pub fn key_id(&self) -> String {
        self.identity.key_id()
    }

    /// Its state in a word, `deleted` if it is.
    #[must_use]
    pub const fn standing(&self) -> &'static str {
        self.state.standing(self.deleted)
    }

    /// Where it is in its life.
    #[must_use]
    pub fn life(&self) -> Life {
        Life {
            state: self.state,
            until: self.until,
            deleted: self.deleted,
            reason: self.reason.clone(),
            locked: self.locked,
        }
    }

    /// Whether what it made is still good at this time: it verifies, or opens.
    #[must_use]
    pub fn is_accepted(&self, now: Timestamp) -> bool {
        let accepted = match self.state {
            KeyState::Active => true,
            KeyState::Retiring => self.until.is_some_and(|until| now < until),
            KeyState::Pending
            | KeyState::Retired
            | KeyState::Disabled
            | KeyState::Revoked
            | KeyState::Destroyed => false,
        };
        accepted && self.deleted.is_none()
    }

    /// Whether a use that was allowed with it may still be released: it was not stopped, only replaced.
    #[must_use]
    pub const fn may_finish(&self) -> bool {
        self.state.may_finish(self.deleted)
    }

    /// Whether it was compromised while it was in use, and nothing has taken its place yet.
    #[must_use]
    pub fn lacks_successor(&self) -> bool {
        self.life().lacks_successor()
    }

    /// When its plan says that a new version takes its place, by its age. One that was made after now was made by a clock that had run
    /// ahead, and is due at once.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        self.plan.every.map(|every| due(self.created, every, now))
    }

    /// Whether it may be used for something new: sign, seal, or make a MAC.
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        self.state.is_in_use(self.deleted)
    }
}

/// When something that was made then is due.
pub(super) fn due(created: Timestamp, every: Duration, now: Timestamp) -> Timestamp {
    if created > after(now, AHEAD) {
        return now;
    }
    after(created, every)
}

/// A key to add. It becomes active at once.
pub struct NewKey {
    /// Its name and version: the first, or the next.
    pub key: KeyRef,
    /// What it is for. Cannot be changed later.
    pub profile: Profile,
    /// Which algorithm it is for.
    pub algorithm: KeyAlgorithm,
    /// Where its material lives.
    pub custody: CustodyKind,
    /// How hard it is.
    pub assurance: Assurance,
    /// What it is told by.
    pub identity: KeyIdentity,
    /// Where its material comes from.
    pub source: KeySource,
    /// When a new version shall take its place.
    pub plan: RotationPlan,
    /// Whether its purge is locked.
    pub locked: bool,
    /// What custody gave for keeping.
    pub material: Secret,
    /// What custody keeps of its own about it, if anything; at most [`super::MAX_HARDWARE`] bytes.
    pub hardware: Option<Vec<u8>>,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey")
            .field("key", &self.key)
            .field("custody", &self.custody)
            .finish_non_exhaustive()
    }
}

/// The name of a custody, read back from the keyring.
pub(super) fn custody_named(text: &str) -> Result<CustodyKind, UnknownName> {
    let all = [CustodyKind::Tpm, CustodyKind::TpmSealed, CustodyKind::Software];
    named(text, &all, CustodyKind::as_str)
}

/// The name of an assurance, read back from the keyring.
pub(super) fn assurance_named(text: &str) -> Result<Assurance, UnknownName> {
    let all = [Assurance::Passphrase, Assurance::Swtpm, Assurance::Hardware];
    named(text, &all, Assurance::as_str)
}

fn named<T: Copy>(text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, UnknownName> {
    all.iter()
        .copied()
        .find(|item| name(*item) == text)
        .ok_or_else(|| UnknownName {
            expected: all
                .iter()
                .map(|item| format!("`{}`", name(*item)))
                .collect::<Vec<_>>()
                .join(" or "),
            found: claviger_core::name::escape(text, 64),
        })
}
