//! What goes on the audit log, and the log as a trait. Not a log: `claviger-broker` has the durable one.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::approval::ApprovalId;
use crate::custody::{Assurance, CustodyKind};
use crate::digest::{ComponentDigest, ContentDigest, ManifestDigest};
use crate::egress::Fault;
use crate::future::BoxFuture;
use crate::http::{InjectionKind, Origin};
use crate::key::{KeyAlgorithm, KeyRef};
use crate::name::{AgentName, GrantAlias, SecretName};
use crate::proposal::Wish;
use crate::refusal::{Refusal, Rule};
use crate::request::InstanceId;
use crate::rotator::ProviderId;

mod credential;

pub use credential::{CredentialName, SecretRef, SecretSource};

pub use crate::approval::{ApprovalEnd, ApprovalRequest};

/// The position of an entry in the log, counted from 0.
pub type EntryIndex = u64;

/// One entry as JSON has at most this many bytes: it fits a tlog-tiles entry bundle, whose lengths are 16 bits.
pub const MAX_ENTRY: usize = 32 * 1024;

/// One entry of the log. Holds names, digests, sizes and reasons; never content, secrets, or text that was not escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was decided or done.
    pub time: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl Entry {
    /// The time on record once this entry is: the latest of all, unless an operator vouches for an earlier clock.
    #[must_use]
    pub fn on_record(&self, before: Option<Timestamp>) -> Timestamp {
        let vouched = matches!(self.event, Event::ClockAccepted);
        match before {
            Some(before) if !vouched => self.time.max(before),
            Some(_) | None => self.time,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A host opened the log.
    HostStarted {
        /// The version of Claviger.
        version: String,
        /// The keyring's generation: an older copy of it, put back, has a lower one.
        #[serde(default)]
        keyring: u64,
        /// What recovery found after an unclean stop, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recovered: Option<Recovered>,
    },
    /// The host closed the log in order.
    HostStopped,
    /// A key was made.
    KeyCreated {
        /// Which.
        key: KeyRef,
        /// Its profile's kind.
        profile: String,
        /// Its algorithm.
        algorithm: KeyAlgorithm,
        /// Where it lives.
        custody: CustodyKind,
        /// How hard it is.
        assurance: Assurance,
        /// RFC 7638 thumbprint; of a key without a public half, its identifier.
        key_id: String,
        /// Where its material comes from, if its custody did not make it: `imported` or `restored`. Whoever has that may have the key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<String>,
    },
    /// A version of a key is in another state: an operator, a rotation or the time brought it there.
    KeyStateChanged {
        /// Which.
        key: KeyRef,
        /// The state it is in from now on, or `deleted`.
        state: String,
        /// Why, escaped, if anybody said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The keyring's generation with the change in it: an older copy of it, put back, has a lower one.
        #[serde(default)]
        keyring: u64,
    },
    /// A key was due for a new version and did not get one; it stays in use.
    RotationFailed {
        /// The version that was due.
        key: KeyRef,
        /// Why, escaped.
        detail: String,
    },
    /// An operator asks for a certificate of a key's public half. Durable before the key signs; `Settled` says what came of it.
    CertificateRequested {
        /// Which.
        key: KeyRef,
        /// Whom the certificate shall be for, escaped.
        subject: String,
    },
    /// An operator has a backup made. Durable before anything of it is written; `Settled` says what came of it.
    BackupRequested {
        /// Who, as the system knows them, escaped.
        by: String,
        /// Whose identities open it: public X25519 keys as age writes them.
        recipients: Vec<String>,
        /// How many versions of keys are in it with their material.
        keys: u64,
        /// How many versions of secrets are in it with their values.
        secrets: u64,
        /// How many versions of keys are in it without: they live in a TPM.
        left_out: u64,
    },
    /// An operator restores a backup. Durable before anything of it is; each version that is restored has an entry of its own, and `Settled`
    /// says whether all were.
    RestoreRequested {
        /// Who, as the system knows them, escaped.
        by: String,
        /// When it was made.
        made: Timestamp,
        /// The audit log of the keyring that it is of, as a verifier key, escaped.
        of: String,
        /// How many versions of keys are to be restored.
        keys: u64,
        /// How many versions of secrets are to be restored.
        secrets: u64,
        /// Whether something may become weaker than it was.
        weaken: bool,
    },
    /// An operator has the root key sealed anew. Durable before it is; `Settled` says what came of it.
    ResealRequested {
        /// Who, as the system knows them, escaped.
        by: String,
        /// What protects it until now: `passphrase`, `tpm` or `swtpm`.
        from: String,
        /// What shall protect it.
        to: String,
        /// How many versions of keys are sealed anew with it.
        keys: u64,
    },
    /// An operator asks for proof that a key lives in the TPM. Durable before the TPM certifies; `Settled` says what came of it.
    ProofRequested {
        /// Of which key.
        key: KeyRef,
        /// By which key.
        by: KeyRef,
    },
    /// An agent was admitted under a manifest.
    Admitted {
        /// The agent.
        agent: AgentName,
        /// Its code.
        component: ComponentDigest,
        /// The manifest's bytes.
        manifest: ManifestDigest,
        /// The aliases it was granted.
        grants: Vec<GrantAlias>,
        /// What each of them may use. Absent if that would not fit an entry, and from logs of earlier releases.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credentials: Option<BTreeMap<GrantAlias, Vec<CredentialName>>>,
    },
    /// An agent was not admitted.
    NotAdmitted {
        /// The agent.
        agent: AgentName,
        /// Its code.
        component: ComponentDigest,
        /// The manifest's bytes.
        manifest: ManifestDigest,
        /// Every reason.
        reasons: Vec<String>,
    },
    /// An instance began to run.
    Started {
        /// The instance.
        instance: InstanceId,
        /// The agent.
        agent: AgentName,
        /// Its code.
        component: ComponentDigest,
    },
    /// An instance ended.
    Ended {
        /// The instance.
        instance: InstanceId,
        /// The agent.
        agent: AgentName,
        /// How.
        end: InstanceEnd,
    },
    /// A use of a credential was authorised. Durable before the use; `Settled` says what came of it.
    Allowed(Use),
    /// Requests were refused.
    Denied {
        /// The instance.
        instance: InstanceId,
        /// The agent.
        agent: AgentName,
        /// The grant, or the text that named none, escaped.
        grant: String,
        /// What the agent learned.
        refusal: Refusal,
        /// Which rule refused.
        rule: Rule,
        /// What happened and what was expected.
        detail: String,
        /// How many equal refusals this entry stands for.
        count: u64,
    },
    /// What came of an authorised use.
    Settled {
        /// The entry that authorised it.
        of: EntryIndex,
        /// What came of it.
        settlement: Settlement,
        /// Of a request: what went over the wire.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traffic: Option<Traffic>,
    },
    /// Something that an operator should look at. Also in the log of the command that runs the host.
    Alert {
        /// The agent.
        agent: AgentName,
        /// The grant.
        grant: GrantAlias,
        /// What it is about.
        rule: Rule,
        /// What happened, without a secret and without the server's text.
        detail: String,
    },
    /// A version of a secret was added.
    SecretAdded {
        /// Which.
        secret: SecretRef,
        /// What it is for.
        kind: InjectionKind,
        /// Where it may be sent.
        origin: Origin,
        /// How hard it is.
        assurance: Assurance,
        /// Who put it there: an operator, an authorization server that rotated it, or a rotator.
        by: SecretSource,
    },
    /// A version of a secret is in another state, as of keys.
    SecretStateChanged {
        /// Which.
        secret: SecretRef,
        /// The state it is in from now on, or `deleted`.
        state: String,
        /// Why, escaped, if anybody said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The keyring's generation with the change in it.
        #[serde(default)]
        keyring: u64,
    },
    /// A provider issued a credential. Durable before it is kept: if that fails, it is good there and nobody has it.
    SecretIssued {
        /// The version that it becomes.
        secret: SecretRef,
        /// What the provider calls it, if it says so: by this it is withdrawn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<ProviderId>,
        /// The rotator that asked for it.
        agent: AgentName,
    },
    /// A provider was asked to take a credential no more, and agreed.
    SecretWithdrawn {
        /// Which.
        secret: SecretRef,
        /// What the provider calls it.
        id: ProviderId,
        /// Whether the provider was seen to refuse it afterwards; none if it was not tried. One that it was seen to take is tried again.
        refused: Option<bool>,
    },
    /// A secret was to be replaced by a rotator and was not, or what it replaced is not withdrawn.
    SecretRotationFailed {
        /// Which.
        secret: SecretName,
        /// Why, escaped.
        detail: String,
    },
    /// A grant was suspended.
    Suspended {
        /// The agent.
        agent: AgentName,
        /// The grant.
        grant: GrantAlias,
        /// Why: a rule that was violated, or none if an operator did it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Rule>,
    },
    /// An operator vouched for the clock after it had run ahead; times before this entry no longer count.
    ClockAccepted,
    /// An operator resumed a grant.
    Resumed {
        /// The agent.
        agent: AgentName,
        /// The grant.
        grant: GrantAlias,
    },
    /// A use waits for its approval. Durable before anybody is asked; `ApprovalEnded` says what came of it.
    ApprovalRequested(ApprovalRequest),
    /// A use does not wait any more. An approval is durable before the use that it is for is decided anew.
    ApprovalEnded {
        /// What was asked.
        #[serde(flatten)]
        request: ApprovalRequest,
        /// What came of it.
        end: ApprovalEnd,
    },
    /// An agent asks for a grant. It has none by that: an operator writes manifests.
    GrantProposed {
        /// The instance.
        instance: InstanceId,
        /// The agent.
        agent: AgentName,
        /// Its code.
        component: ComponentDigest,
        /// The alias that the grant would have.
        grant: GrantAlias,
        /// What it would allow.
        wish: Wish,
        /// Why, in the agent's words, escaped.
        reason: String,
    },
    /// An operator does not want to see a proposal any more.
    ProposalDismissed {
        /// The agent.
        agent: AgentName,
        /// The alias that the grant would have had.
        grant: GrantAlias,
    },
    /// An operator suspended an agent: every grant that it has or will have.
    AgentSuspended {
        /// The agent.
        agent: AgentName,
    },
    /// An operator resumed an agent. Grants of it that were suspended by themselves stay so.
    AgentResumed {
        /// The agent.
        agent: AgentName,
    },
    /// An operator stopped all use of every credential.
    Panic,
    /// An operator lifted the stop. What was suspended by itself stays so.
    PanicLifted,
}

/// An authorised use: which agent, under which revision of which manifest, with which version of which key, on what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The instance.
    pub instance: InstanceId,
    /// The agent.
    pub agent: AgentName,
    /// Its code.
    pub component: ComponentDigest,
    /// The manifest's bytes.
    pub manifest: ManifestDigest,
    /// The grant.
    pub grant: GrantAlias,
    /// The key and its version, if one signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyRef>,
    /// The secret and its version, if one is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// The profile's kind; of a request, the injection's, or `none`.
    pub profile: String,
    /// What was done, under a grant with rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Of a request: where to, and under which rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestLine>,
    /// The digest of the agent's content; of a request, of its head and, if it was read whole, its body. Of a box, of its context and, if it
    /// is to be opened, the box: never of what is in it.
    pub content: ContentDigest,
    /// The length of the agent's content in bytes; of a request, of its body, or the most that it may have; of a box, of what is in it.
    pub size: u64,
    /// Which use of the grant this is, counted from 1 by agent name and alias.
    pub number: u64,
    /// Under a rate: the moment at which the bucket is full again (the GCRA's theoretical arrival time).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_until: Option<Timestamp>,
    /// Under a grant whose uses must be approved: the approval that it was allowed by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
}

/// An operation that is a right of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A box is made.
    Seal,
    /// A box is opened.
    Unseal,
    /// A tag is made.
    Generate,
    /// A tag is compared.
    Verify,
}

/// A request on the log: what an operator wrote of it, and nothing that an agent chose but its method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// What it is for.
    pub purpose: RequestPurpose,
    /// Where to.
    pub origin: Origin,
    /// The route of the grant that it falls under, `GET /repos/*` say.
    pub route: String,
    /// The most bytes of body that may come back.
    pub answer: u64,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestPurpose {
    /// The agent's own.
    Agent,
    /// The host's, for a token. Not counted as a use of the grant.
    Token,
    /// The host's, to have a use approved. Not counted as a use of the grant.
    Approval,
    /// None of its own: a signature for a token request or for a connection. Not counted as a use of the grant.
    Proof,
}

/// What went over the wire for one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The answer's status, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes of the request's body.
    pub sent: u64,
    /// Bytes of the answer's body.
    pub received: u64,
    /// Whether the credential left the host with the request.
    pub injected: bool,
    /// How the exchange failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// What came of an authorised use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settlement {
    /// The result was given to the agent.
    Released,
    /// The operation failed; nothing was released.
    Failed,
    /// The box does not open, or the tag is another; the agent learned that.
    Mismatch,
    /// The agent went away before the operation ended.
    Abandoned,
    /// The host died in between; written by recovery.
    Indeterminate,
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum InstanceEnd {
    /// It returned.
    Finished,
    /// It returned an error of its own.
    Failed,
    /// It was stopped at a limit.
    Stopped {
        /// Which limit of the manifest.
        limit: StopLimit,
    },
    /// It trapped: a fault of its code.
    Trapped {
        /// The trap, in the engine's words, escaped; no agent text.
        trap: String,
    },
    /// The embedder dropped it.
    Dropped,
}

/// The limit that stopped an instance: one of the manifest, or one that every instance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopLimit {
    /// Wall-clock time, host calls included.
    Deadline,
    /// Processor time in the guest.
    Cpu,
    /// Linear memory, all memories together.
    Memory,
    /// Table elements.
    Tables,
    /// The stack.
    Stack,
    /// Bytes lifted in one host call.
    HostCall,
    /// Open handles.
    Handles,
    /// Bytes on stdout or stderr.
    Output,
}

/// What recovery found when a log was opened after an unclean stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// How many whole entries were kept.
    pub entries: u64,
    /// How many bytes of a torn last entry were dropped. Nothing was released under it.
    pub dropped_bytes: u64,
    /// How many authorised uses had no settlement.
    pub indeterminate: u64,
}

/// An append-only log. Whoever gets `Ok` from [`AuditSink::append`] knows that the entry survives what the log's durability
/// promises.
pub trait AuditSink: Debug + Send + Sync {
    /// Appends an entry; the future ends when it is durable. The entry is taken, in the order of the calls, when this is called;
    /// dropping the future does not take it back.
    ///
    /// # Errors
    /// When the entry is not known to be durable. From then on every append fails until the log is opened anew.
    fn append(&self, entry: Entry) -> BoxFuture<'static, Result<EntryIndex, AuditError>>;

    /// Adds an entry without waiting. It is on the log before any entry appended later. A failure shows at the next append.
    fn note(&self, entry: Entry);

    /// Makes everything durable and signs a checkpoint (C2SP tlog-checkpoint).
    ///
    /// # Errors
    /// When the log or its key cannot be used.
    fn checkpoint(&self) -> BoxFuture<'_, Result<String, AuditError>>;
}

/// Why the log cannot be used. Whatever it is, nothing is released.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// Writing or syncing failed, now or earlier.
    #[error("the audit log cannot be written: {0}")]
    Write(std::sync::Arc<std::io::Error>),
    /// The entry is over its bound.
    #[error("an audit entry has at most {MAX_ENTRY} bytes, this one {0}")]
    TooLarge(usize),
    /// The log on disk is not what was written.
    #[error("the audit log is damaged: {0}")]
    Damaged(String),
    /// The log was closed.
    #[error("the audit log is closed")]
    Closed,
    /// The log's key cannot sign.
    #[error("the audit log's checkpoint cannot be signed: {0}")]
    Signer(String),
}
