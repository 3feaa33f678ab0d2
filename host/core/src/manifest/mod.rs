//! The operator's manifest as types that cannot be wrong, and the way from TOML to them. Does not read files: whoever has the
//! text gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::admission::CapabilityKind;
use crate::approval::Approval;
use crate::digest::{ComponentDigest, ManifestDigest};
use crate::http::{Capture, HttpGrant};
use crate::name::{AgentName, GrantAlias, KeyName, Label, Principal, SecretName, VariableName};
use crate::profile::Narrowing;

pub mod fields;
mod hours;
mod parse;
mod pin;
mod place;
mod problem;
mod quantity;
mod rights;

pub use hours::{Hours, NotHours};
pub use problem::{Problem, Severity, code};
pub use quantity::{Bytes, NotAQuantity, Rate, format_duration, parse_duration};
pub use rights::{MacRight, SealRight, UnknownRight};

/// A manifest has at most this many bytes; one with 200 grants has about 30 000.
pub const MAX_MANIFEST: usize = 256 * 1024;
/// A manifest has at most this many grants.
pub const MAX_GRANTS: usize = 256;
/// An agent gets at most this many arguments; a command line longer than that belongs in a file.
pub const MAX_ARGS: usize = 64;
/// An agent gets at most this many environment variables; a shell's environment has about as many.
pub const MAX_ENV: usize = 64;
/// An argument, or the value of an environment variable, has at most this many bytes: both are copied for every instance.
pub const MAX_TEXT: usize = 4 * 1024;
/// An agent sees at most this many folders; each is an open descriptor for every instance.
pub const MAX_FILES: usize = 16;
/// A path has at most this many bytes: `PATH_MAX` on Linux.
pub const MAX_PATH: usize = 4 * 1024;
/// A grant has at most this many windows: all are compared at every use.
pub const MAX_HOURS: usize = 16;

/// A request's or answer's body has at most this many bytes: what is larger is sent in parts by any API.
pub const MAX_BODY: Bytes = Bytes(16 << 30);
/// A request's body that must be read whole has at most this many bytes: it is held in memory, for every request at once.
pub const MAX_WHOLE_BODY: Bytes = Bytes(16 << 20);
/// A list of names in a grant has at most this many: all are compared with each request.
pub const MAX_LIST: usize = 64;
/// A grant trusts at most this many authorities, or sends a chain of this many certificates.
pub const MAX_CERTIFICATES: usize = 16;
/// A grant has at most this many repositories of an installation: what GitHub takes.
pub const MAX_REPOSITORIES: usize = 500;

/// A grant to attest has at most this many audiences.
pub const MAX_AUDIENCES: usize = 16;
/// The life of evidence in seconds if the grant says nothing: it is shown at once.
pub const DEFAULT_EVIDENCE_LIFE: u32 = 60;

/// What one agent may do.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Manifest {
    /// The digest of the TOML text: which revision decided.
    pub digest: ManifestDigest,
    /// Who it is.
    pub agent: Agent,
    /// What it may consume.
    pub limits: Limits,
    /// What it finds in the closed subset of WASI.
    pub world: World,
    /// Which secret it replaces, if it is a rotator.
    pub rotates: Option<Rotates>,
    /// What it may do with credentials, by alias.
    pub grants: BTreeMap<GrantAlias, Grant>,
}

impl Manifest {
    /// Reads a manifest. Warnings come with the manifest; errors come all at once, instead of it.
    ///
    /// # Errors
    /// Every problem found, in the order of the text; at least one is an error.
    pub fn parse(text: &str) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        parse::parse(text)
    }

    /// The text with `digest` in `[agent]` set to this one: what `claviger pin` writes. Every other byte is kept, comments and
    /// the order of fields included.
    ///
    /// # Errors
    /// When the text is no manifest, digest aside: every problem found.
    pub fn with_digest(text: &str, digest: ComponentDigest) -> Result<String, Vec<Problem>> {
        pin::with_digest(text, digest)
    }
}

/// `[rotates]`: what makes an agent a rotator. It is run by a rotation alone, one instance for each step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotates {
    /// The secret that it replaces.
    pub secret: SecretName,
    /// The grant whose answer holds the new value. The agent learns of that answer its status alone.
    pub issue: GrantAlias,
    /// The grant that attaches the version that is tried: the new one before it is put into use, the old one after it was withdrawn.
    pub probe: GrantAlias,
    /// Where in the answer the new value is.
    pub capture: Capture,
}

/// `[agent]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Agent {
    /// Names it in the log and counts its budgets.
    pub name: AgentName,
    /// Where its component is, relative to the manifest's folder.
    pub component: String,
    /// The bytes that were approved. Written by `claviger pin`; without it the agent is not admitted.
    pub digest: Option<ComponentDigest>,
}

/// `[limits]`: every one has a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// All linear memories together. Default 64 MiB; 64 KiB to 1 GiB.
    pub memory: Bytes,
    /// Wall-clock time of one run, host calls included; the agent is killed at it. Default 60 s; 1 ms to 24 h.
    pub deadline: Duration,
    /// Processor time in the guest of one run. Default 10 s, or the deadline if that is less; 1 ms to the deadline.
    pub cpu: Duration,
    /// Bytes on stdout and on stderr, each, and of the answer. Default 1 MiB; 1 B to 16 MiB.
    pub output: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Bytes(64 << 20),
            deadline: Duration::from_secs(60),
            cpu: Duration::from_secs(10),
            output: Bytes(1 << 20),
        }
    }
}

impl Limits {
    /// Every limit by its name in the manifest, as an operator writes it, to be listed.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, String); 4] {
        [
            (fields::MEMORY.name, self.memory.to_string()),
            (fields::DEADLINE.name, format_duration(self.deadline)),
            (fields::CPU.name, format_duration(self.cpu)),
            (fields::OUTPUT.name, self.output.to_string()),
        ]
    }
}

/// What the agent finds in the closed subset of WASI: `args`, `[env]`, `[files]`. Everything else is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct World {
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// Environment variables. Nothing is inherited.
    pub env: BTreeMap<VariableName, String>,
    /// Folders, by the absolute path under which the agent sees them.
    pub files: BTreeMap<String, Folder>,
}

/// One folder of `[files]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Folder {
    /// Where it is, relative to the manifest's folder.
    pub host: String,
    /// What the agent may do in it.
    pub access: Access,
}

/// What an agent may do in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `read`.
    Read,
    /// `read-write`.
    ReadWrite,
}

/// One grant: a capability with a credential, and its constraints.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Grant {
    /// What it allows.
    pub capability: Capability,
    /// How often and when.
    pub constraints: Constraints,
}

/// What a grant allows.
#[derive(Debug, Clone, PartialEq)]
pub enum Capability {
    /// `sign = { key = "…", … }`.
    Sign {
        /// The key.
        key: KeyName,
        /// What of the key's profile.
        narrowing: Narrowing,
    },
    /// `http = { origin = "…", allow = [ … ] }`, with `inject` beside it.
    Http(Arc<HttpGrant>),
    /// `attest = { key = "…", audiences = [ … ] }`.
    Attest(AttestGrant),
    /// `seal = { key = "…", allow = [ … ] }`.
    Seal {
        /// The key.
        key: KeyName,
        /// Which operations; at least one.
        allow: BTreeSet<SealRight>,
        /// `bytes = "10 MiB"`: how much may be sealed and unsealed in all, counted on the audit log by agent name and alias.
        bytes: Option<Bytes>,
    },
    /// `mac = { key = "…", allow = [ … ] }`.
    Mac {
        /// The key.
        key: KeyName,
        /// The label of the key's profile, repeated so that the manifest can be read alone.
        label: Option<Label>,
        /// Which operations; at least one.
        allow: BTreeSet<MacRight>,
    },
}

/// For whom the host gives evidence of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttestGrant {
    /// A key with the profile `attest`.
    pub key: KeyName,
    /// Who may be shown evidence; 1 to [`MAX_AUDIENCES`]. No two grants of a manifest share one.
    pub audiences: BTreeSet<Principal>,
    /// The life of evidence in seconds; 1 to [`crate::attest::MAX_EVIDENCE_LIFE`].
    pub ttl: u32,
}

impl Capability {
    /// Which interface it needs.
    #[must_use]
    pub const fn kind(&self) -> CapabilityKind {
        match self {
            Self::Sign { .. } => CapabilityKind::Sign,
            Self::Http(_) => CapabilityKind::Http,
            Self::Attest(_) => CapabilityKind::Attest,
            Self::Seal { .. } => CapabilityKind::Seal,
            Self::Mac { .. } => CapabilityKind::Mac,
        }
    }
}

/// The constraints any grant can have. Each is checked at every use.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Constraints {
    /// `uses = 500`: how often in all, counted on the audit log by agent name and alias.
    pub uses: Option<NonZeroU64>,
    /// `rate = "30/hour"`.
    pub rate: Option<Rate>,
    /// `hours = "Mon-Fri 08:00-18:00 Europe/Zurich"`, or a list of such.
    pub hours: Vec<Hours>,
    /// `expires = 2027-01-01T00:00:00Z`: the first moment at which it no longer holds.
    pub expires: Option<Timestamp>,
    /// `on-violation = "deny" | "suspend"`.
    pub on_violation: OnViolation,
    /// `approval = "each" | "first-use"`, with `approval-timeout` beside it: who uses the grant waits for an operator.
    pub approval: Option<Approval>,
}

/// What a refused request under a grant leads to, if the agent is to blame for it: spent uses, exceeded rate, outside hours, or
/// content that does not fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnViolation {
    /// Only the refusal.
    #[default]
    Deny,
    /// The grant is suspended until an operator resumes it.
    Suspend,
}
