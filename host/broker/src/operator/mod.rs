//! What an operator does to a keyring, open or at rest: one closed enum, and one function that does it. A running host takes the same commands
//! over a socket. Not a policy, and not for agents: nothing here is linked into one.
//!
//! A new command is a variant of [`Command`], its arm in [`LocalBroker::command`](crate::LocalBroker::command), and, if its answer is of a new kind, a variant of
//! [`Reply`]. Everything that is read without the keyring open, such as lists, needs no command.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger_core::audit::SecretRef;
use claviger_core::custody::CustodyKind;
use claviger_core::http::{InjectionKind, Origin};
use claviger_core::key::{Algorithm, KeyRef, KeySpec, KeyVersion, SecretSpec};
use claviger_core::profile::Profile;
use claviger_core::secret::MAX_SECRET;
use claviger_core::{AgentName, GrantAlias, KeyName, SecretName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::keyring::{LifeEvent, Reason, RotationPlan, Start};
use crate::local::Due;

mod client;
mod error;
mod obey;
mod server;
mod wire;

pub use client::{Client, ClientError};
pub use error::{CommandError, Fault, Problem};
pub use server::{ControlError, MAX_CONNECTIONS, SOCKET};
pub use wire::{MAX_FRAME, PROTOCOL};

pub(crate) use server::Control;
#[cfg(test)]
pub(crate) use server::is_ours;

/// A value that goes with a command has at most this many bytes.
pub const MAX_VALUE: usize = MAX_SECRET;
/// A status names at most this many agents of each kind.
pub const MAX_NAMED: usize = 1000;

/// What an operator wants done. Plain data with bounded parts; a secret value goes beside it, never in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Say what runs, and what is suspended or stopped. Changes nothing.
    Status,
    /// Suspend one grant.
    SuspendGrant {
        /// Whose.
        agent: AgentName,
        /// Which.
        grant: GrantAlias,
    },
    /// Resume a suspended grant.
    ResumeGrant {
        /// Whose.
        agent: AgentName,
        /// Which.
        grant: GrantAlias,
    },
    /// Suspend every grant that an agent has or will have.
    SuspendAgent {
        /// Which.
        agent: AgentName,
    },
    /// Resume a suspended agent.
    ResumeAgent {
        /// Which.
        agent: AgentName,
    },
    /// Stop all use of every credential.
    Panic,
    /// Let credentials be used again.
    LiftPanic,
    /// Make a key.
    CreateKey {
        /// Its name.
        name: KeyName,
        /// What it is for.
        profile: Profile,
        /// Its algorithm; if none is said, what the profile needs or the custody is best at.
        algorithm: Option<Algorithm>,
        /// Where it lives; if nothing is said, in the hardest custody there is.
        custody: Option<CustodyKind>,
        /// When it is rotated.
        plan: RotationPlan,
        /// Whether its purge is locked.
        locked: bool,
    },
    /// Take a version of a key, or the one in use, out of use, or back into it.
    ChangeKey {
        /// Which.
        key: KeySpec,
        /// How.
        change: Change,
    },
    /// Make the next version of a key.
    RotateKey {
        /// Which.
        name: KeyName,
        /// Only if this version is the one in use.
        of: Option<KeyVersion>,
        /// How long the version before stays retiring; if nothing is said, as planned.
        overlap: Option<Duration>,
        /// Whether the new version is used at once.
        start: Start,
    },
    /// Put the pending version of a key into use.
    PromoteKey {
        /// Which.
        name: KeyName,
    },
    /// Give up the pending version of a key.
    CancelKey {
        /// Which.
        name: KeyName,
    },
    /// Set when a key is rotated.
    PlanKey {
        /// Which.
        name: KeyName,
        /// When.
        plan: RotationPlan,
        /// Whether its purge is locked from now on. A lock is never taken away.
        locked: bool,
    },
    /// Replace a key of which somebody else may have the material, and revoke its versions, or one of them.
    CompromiseKey {
        /// Which.
        key: KeySpec,
        /// Why.
        reason: Option<String>,
    },
    /// Delete a key; it can be restored for so long.
    DeleteKey {
        /// Which.
        name: KeyName,
        /// For how long.
        window: Duration,
    },
    /// Take a deletion back.
    RestoreKey {
        /// Of which key.
        name: KeyName,
    },
    /// Destroy the material of a deleted key after its window.
    PurgeKey {
        /// Which.
        name: KeyName,
    },
    /// Rotate every key that is due.
    RotateDue,
    /// Ask for a certificate of a key.
    RequestCertificate {
        /// Which key.
        name: KeyName,
        /// Whom it is for, `CN=release-bot` say.
        subject: String,
    },
    /// Add a secret. Its value goes beside the command.
    AddSecret {
        /// Its name.
        name: SecretName,
        /// What it is for.
        kind: InjectionKind,
        /// Where alone it may be sent.
        origin: Origin,
        /// When it stops being accepted, if that is known.
        expires: Option<Timestamp>,
        /// How often it shall be replaced.
        rotate_every: Option<Duration>,
    },
    /// Put a new value in the place of a secret's. It goes beside the command.
    ReplaceSecret {
        /// Which.
        name: SecretName,
        /// When it stops being accepted, if that is known.
        expires: Option<Timestamp>,
        /// How often it shall be replaced; if nothing is said, as before.
        rotate_every: Option<Duration>,
    },
    /// Add a new value for a secret that waits beside the one in use. It goes beside the command.
    StageSecret {
        /// Which.
        name: SecretName,
        /// When it stops being accepted, if that is known.
        expires: Option<Timestamp>,
        /// How often it shall be replaced; if nothing is said, as before.
        rotate_every: Option<Duration>,
    },
    /// Put the pending value of a secret into use.
    PromoteSecret {
        /// Which.
        name: SecretName,
    },
    /// Give up the pending value of a secret.
    CancelSecret {
        /// Which.
        name: SecretName,
    },
    /// Set when a secret shall be replaced.
    PlanSecret {
        /// Which.
        name: SecretName,
        /// How often.
        rotate_every: Option<Duration>,
        /// How long the value before is kept.
        overlap: Duration,
        /// Whether its purge is locked from now on. A lock is never taken away.
        locked: bool,
    },
    /// Take a version of a secret, or the one in use, out of use, or back into it.
    ChangeSecret {
        /// Which.
        secret: SecretSpec,
        /// How.
        change: Change,
    },
    /// Delete a secret; it can be restored for so long.
    DeleteSecret {
        /// Which.
        name: SecretName,
        /// For how long.
        window: Duration,
    },
    /// Take a deletion back.
    RestoreSecret {
        /// Of which secret.
        name: SecretName,
    },
    /// Destroy the values of a deleted secret after its window.
    PurgeSecret {
        /// Which.
        name: SecretName,
    },
    /// Sign a checkpoint of the audit log.
    Checkpoint,
    /// Vouch for the clock after it had run ahead.
    AcceptClock,
}

impl Command {
    /// Whether a secret value goes beside it.
    #[must_use]
    pub const fn takes_value(&self) -> bool {
        match self {
            Self::AddSecret { .. } | Self::ReplaceSecret { .. } | Self::StageSecret { .. } => true,
            Self::Status
            | Self::SuspendGrant { .. }
            | Self::ResumeGrant { .. }
            | Self::SuspendAgent { .. }
            | Self::ResumeAgent { .. }
            | Self::Panic
            | Self::LiftPanic
            | Self::CreateKey { .. }
            | Self::ChangeKey { .. }
            | Self::RotateKey { .. }
            | Self::PromoteKey { .. }
            | Self::CancelKey { .. }
            | Self::PlanKey { .. }
            | Self::CompromiseKey { .. }
            | Self::DeleteKey { .. }
            | Self::RestoreKey { .. }
            | Self::PurgeKey { .. }
            | Self::RotateDue
            | Self::RequestCertificate { .. }
            | Self::PromoteSecret { .. }
            | Self::CancelSecret { .. }
            | Self::PlanSecret { .. }
            | Self::ChangeSecret { .. }
            | Self::DeleteSecret { .. }
            | Self::RestoreSecret { .. }
            | Self::PurgeSecret { .. }
            | Self::Checkpoint
            | Self::AcceptClock => false,
        }
    }
}

/// Into or out of use. A reason is for the log and the listings; it is escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// Out of use until it is enabled again.
    Disable {
        /// Why.
        reason: Option<String>,
    },
    /// Back into use, if it was disabled.
    Enable,
    /// Out of use for good.
    Revoke {
        /// Why.
        reason: Option<String>,
    },
}

impl Change {
    fn event(self) -> LifeEvent {
        match self {
            Self::Disable { reason } => LifeEvent::Disable(because(reason)),
            Self::Enable => LifeEvent::Enable,
            Self::Revoke { reason } => LifeEvent::Revoke(because(reason)),
        }
    }
}

fn because(reason: Option<String>) -> Option<Reason> {
    reason.as_deref().and_then(Reason::new)
}

/// What came of a command. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// It is done.
    Done {
        /// What an operator may have meant otherwise.
        warning: Option<String>,
    },
    /// It is done to these versions of keys. What they are now is in the keyring, for everybody to read.
    Keys(Vec<KeyRef>),
    /// It is done to these versions of secrets.
    Secrets(Vec<SecretRef>),
    /// A text that was made: a checkpoint, a request for a certificate.
    Text(String),
    /// What runs and what does not.
    Status(Status),
    /// A key was replaced because somebody else may have its material.
    Compromised {
        /// The versions that are revoked now, or were before.
        revoked: Vec<KeyRef>,
        /// What takes their place, if something does.
        replaced_by: Option<KeyRef>,
    },
    /// What was due, and what came of it.
    Rotated(Vec<RotatedKey>),
}

/// A key that was due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotatedKey {
    /// The version that was due.
    pub key: KeyRef,
    /// Why.
    pub due: Due,
    /// The new version, if there is one.
    pub new: Option<KeyRef>,
    /// Why there is none, escaped.
    pub error: Option<String>,
}

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Status {
    /// Whether all use of every credential is stopped.
    pub panic: bool,
    /// Agents that are suspended as a whole; at most [`MAX_NAMED`].
    pub suspended: Vec<AgentName>,
    /// How many instances of each agent run; at most [`MAX_NAMED`] agents.
    pub running: BTreeMap<AgentName, u64>,
    /// How many requests are under way.
    pub requests: u64,
}
