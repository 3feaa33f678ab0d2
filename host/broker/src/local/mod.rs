//! The broker in this process: keyring, audit log, custodies and guard behind the one trait. Not a policy: `guard` decides.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use claviger_core::approval::Subject;
use claviger_core::audit::{Event, InstanceEnd, Recovered};
use claviger_core::custody::{Assurance, Custody, Sealer};
use claviger_core::egress::{Answer, BodyStream, Egress, RequestHead, SendError};
use claviger_core::manifest::Manifest;
use claviger_core::name::escape;
use claviger_core::{
    Admission, AdmissionId, Approver, AuditError, AuditSink, BoxFuture, Broker, Clock, ComponentDigest,
    GrantAlias, InstanceId, NotAdmitted, Outcome, Refusal, Request, RequestDigest, Secret,
};

use crate::audit::{Durability, LogKey, LogKeyError, LogOptions, OpenError as LogOpenError, TileLog};
use crate::clock::SystemClock;
use crate::custody::{SealedCustody, SoftwareCustody};
use crate::keyring::{Keyring, KeyringError, Purpose, RootSpec};
use crate::ledger::Ledger;
use crate::operator::Control;

mod act;
mod admit;
mod approvals;
mod backup;
mod compromise;
mod control;
mod denials;
mod evidence;
mod grants;
mod guesses;
mod hardware;
mod import;
mod keys;
mod lives;
mod making;
mod perform;
mod proposals;
mod record;
mod reseal;
mod restore;
mod rotation;
mod rotator;
mod schedule;
mod secrets;
mod send;
mod stops;
mod symmetric;
mod tokens;

pub use approvals::{AnswerError, MAX_PENDING, MAX_PENDING_BYTES, MAX_PENDING_PER_AGENT, PendingApproval};
pub use backup::{BackUpError, BackupMade};
pub use compromise::Compromise;
pub use guesses::{MAX_GUESSES, WINDOW as GUESS_WINDOW};
pub use hardware::{Enforced, ProofError};
pub use import::{KeyImport, WrappedImport};
pub use keys::{CertificateRequestError, KeyCreation, NewKeyError};
pub use reseal::{NewRoot, ResealError, Resealing};
pub use restore::{RestoreError, Restored, Restoring};

pub use rotation::Rotation;
pub use rotator::{
    Attended, OldVersion, Replaced, SecretRotation, SecretRotationError, WITHDRAWAL, Withdrawal,
    WithdrawalEnd, due_secret,
};
pub use schedule::{Due, Rotated, STUCK_AFTER, Schedule, due};
pub use secrets::{NewSecretError, SecretCreation};
pub use send::{HookError, MAX_HOOK_ANSWER, MAX_OUTSTANDING, NotSigned, Webhook};

use admit::Admitted;
use approvals::Approvals;
use denials::Denials;
use guesses::Guesses;
use hardware::Unenforced;
use keys::OpenKeys;
use record::{PermitSink, Record};
use rotator::{Registered, Rotations, Step};
use secrets::OpenSecrets;
use send::{Exchanges, Memory, Stop, Wasted};
use tokens::{Askings, Tokens};
use tokio::sync::Semaphore;

/// What a local broker is opened with.
#[derive(Debug)]
pub struct Options {
    /// The keyring's folder.
    pub folder: PathBuf,
    /// Opens the keyring's root key.
    pub sealer: Arc<dyn Sealer>,
    /// A device that holds resident keys, if there is one.
    pub resident: Option<Arc<dyn Custody>>,
    /// Sends requests to the outside, if agents may have any sent.
    pub egress: Option<Arc<dyn Egress>>,
    /// When an audit entry counts as written.
    pub durability: Durability,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Who is asked for approvals, beside operators with [`LocalBroker::approve`].
    pub approvers: Vec<Arc<dyn Approver>>,
}

impl Options {
    /// The defaults: no resident custody, no egress, durability `sync`, the system's clock, no approver but operators.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, sealer: Arc<dyn Sealer>) -> Self {
        Self {
            folder: folder.into(),
            sealer,
            resident: None,
            egress: None,
            durability: Durability::Sync,
            clock: Arc::new(SystemClock),
            approvers: Vec::new(),
        }
    }

    /// Asks this one for approvals, too. The first answer counts.
    #[must_use]
    pub fn approver(mut self, approver: Arc<dyn Approver>) -> Self {
        self.approvers.push(approver);
        self
    }

    /// Keeps resident keys on this device.
    #[must_use]
    pub fn resident(mut self, custody: Arc<dyn Custody>) -> Self {
        self.resident = Some(custody);
        self
    }

    /// Sends requests through this. Without one, no manifest that grants any is admitted.
    #[must_use]
    pub fn egress(mut self, egress: Arc<dyn Egress>) -> Self {
        self.egress = Some(egress);
        self
    }

    /// Sets when an audit entry counts as written.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Takes the time from this clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

/// Why a local broker cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The keyring cannot be opened.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The audit log's key cannot be made.
    #[error(transparent)]
    LogKey(#[from] LogKeyError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogOpenError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Making the keyring was interrupted before it had an audit log. It holds no keys.
    #[error("making the keyring in `{}` was interrupted; it holds no keys: remove the folder and make it again", .0.display())]
    Unfinished(PathBuf),
    /// The log and the keyring contradict each other.
    #[error("the keyring and the audit log disagree: {0}")]
    Disagree(String),
}

/// Decides, logs and uses the credentials of one keyring. One at a time has a keyring open.
pub struct LocalBroker {
    // Declared before the keyring: the socket is removed while its folder is still this process's.
    control: Mutex<Option<Control>>,
    keyring: Arc<Keyring>,
    record: Arc<Record>,
    // The same record, for permits.
    permits: Arc<dyn AuditSink>,
    custodies: BTreeMap<&'static str, Arc<dyn Custody>>,
    // What opened the root key: it seals and opens what is kept under the same.
    sealer: Arc<dyn Sealer>,
    assurance: Assurance,
    durability: Durability,
    clock: Arc<dyn Clock>,
    recovered: Option<Recovered>,
    admissions: RwLock<HashMap<AdmissionId, Arc<Admitted>>>,
    next_admission: AtomicU64,
    instances: RwLock<HashMap<InstanceId, Arc<Instance>>>,
    open_keys: Arc<OpenKeys>,
    open_secrets: Arc<OpenSecrets>,
    egress: Option<Arc<dyn Egress>>,
    exchanges: Arc<Exchanges>,
    rotations: Arc<Rotations>,
    rotators: Registered,
    // Requests for new credentials: what a provider has issued is kept, whoever goes away.
    issuings: Askings,
    approvals: Approvals,
    // For the bodies of requests that are held whole, of all instances.
    bodies: Memory,
    tokens: Tokens,
    // When the schedule looks again after a failure.
    retry: Mutex<Option<jiff::Timestamp>>,
    unenforced: Unenforced,
    guesses: Guesses,
    // For what must go on when whoever asked for it goes away: a token that a server has rotated is kept.
    me: Weak<Self>,
}

/// One running instance.
struct Instance {
    id: InstanceId,
    admitted: Arc<Admitted>,
    // Of a rotator: the step that it was started for.
    step: Option<Arc<Step>>,
    denials: Mutex<Denials>,
    // One for each request that is under way.
    outstanding: Arc<Semaphore>,
    // For the bodies of its requests that are held whole, and what was read of some in vain.
    bodies: Memory,
    wasted: Wasted,
}

impl Instance {
    /// What an approval of this under one of its grants is bound to.
    fn request_of(&self, alias: &GrantAlias, subject: &Subject) -> RequestDigest {
        let Admitted {
            agent,
            component,
            manifest,
            ..
        } = &*self.admitted;
        subject.request(agent, component, manifest, alias)
    }
}

impl LocalBroker {
    /// Makes a keyring and its audit log in the folder, and opens them.
    ///
    /// # Errors
    /// When there is one already, or either cannot be made. What was made is left as it is; it holds no keys, and
    /// [`LocalBroker::open`] names it as unfinished.
    pub async fn create(options: Options, root: RootSpec) -> Result<Arc<Self>, OpenError> {
        let keyring = Keyring::create(
            &options.folder,
            root,
            options.sealer.as_ref(),
            options.clock.now(),
        )
        .await?;
        let key = log_key(&keyring)?;
        let vkey = key.vkey();
        let log = TileLog::create(LogOptions {
            folder: options.folder.join(AUDIT_FOLDER),
            durability: options.durability,
            key,
            clock: Arc::clone(&options.clock),
        })?;
        log.close()?;
        // Last: a keyring that records its log has one, and a log that is gone later was removed.
        keyring.set_vkey(&vkey)?;
        drop(log);
        Self::over(keyring, options).await
    }

    /// Opens the keyring and its audit log, replays the log into the ledger, and compares the two.
    ///
    /// # Errors
    /// When either cannot be opened or they contradict each other.
    pub async fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        let keyring = Keyring::open(&options.folder, options.sealer.as_ref()).await?;
        Self::over(keyring, options).await
    }

    async fn over(keyring: Keyring, options: Options) -> Result<Arc<Self>, OpenError> {
        let Options {
            folder,
            sealer,
            resident,
            egress,
            durability,
            clock,
            approvers,
        } = options;
        let keyring = Arc::new(keyring);
        let info = keyring.info();
        if info.vkey.is_none() {
            return Err(OpenError::Unfinished(folder));
        }
        let key = log_key(&keyring)?;
        let mut ledger = Ledger::default();
        let (log, recovered) = TileLog::open(
            LogOptions {
                folder: folder.join(AUDIT_FOLDER),
                durability,
                key,
                clock: Arc::clone(&clock),
            },
            &mut |index, entry| ledger.apply(index, entry),
        )?;
        if log.signed_size() < info.log_size {
            return Err(OpenError::Disagree(format!(
                "the log's checkpoint covers {} entries, the keyring has seen one over {}: an older log was put in its place",
                log.signed_size(),
                info.log_size
            )));
        }
        let mut custodies: BTreeMap<&'static str, Arc<dyn Custody>> = BTreeMap::new();
        let software: Arc<dyn Custody> = Arc::new(SoftwareCustody);
        // Sealed by a passphrase would be software under a harder name.
        let sealed: Option<Arc<dyn Custody>> = match info.assurance {
            Assurance::Passphrase => None,
            Assurance::Swtpm | Assurance::Hardware => Some(Arc::new(SealedCustody::new(Arc::clone(&sealer)))),
        };
        for custody in [Some(software), sealed, resident].into_iter().flatten() {
            custodies.insert(custody.kind().as_str(), custody);
        }
        let record = Record::new(log, ledger, Arc::clone(&clock));
        let open_secrets = Arc::new(OpenSecrets::default());
        let broker = Arc::new_cyclic(|me| Self {
            control: Mutex::new(None),
            keyring,
            permits: Arc::new(PermitSink(Arc::clone(&record))),
            record,
            custodies,
            sealer,
            assurance: info.assurance,
            durability,
            clock,
            recovered,
            admissions: RwLock::default(),
            next_admission: AtomicU64::new(1),
            instances: RwLock::default(),
            open_keys: OpenKeys::with_idle_sweep(&open_secrets),
            open_secrets,
            egress,
            exchanges: Arc::default(),
            rotations: Arc::default(),
            rotators: Registered::default(),
            issuings: Askings::default(),
            approvals: Approvals::with(approvers),
            bodies: Memory::of_host(),
            tokens: Tokens::default(),
            retry: Mutex::default(),
            unenforced: Unenforced::default(),
            guesses: Guesses::default(),
            me: Weak::clone(me),
        });
        broker.reconcile()?;
        let started = Event::HostStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            keyring: broker.keyring.info().generation,
            recovered: broker.recovered.clone(),
        };
        broker.append(started).await?;
        broker.pass_time().await.map_err(|error| match error {
            NewKeyError::Keyring(error) => OpenError::Keyring(error),
            NewKeyError::Audit(error) => OpenError::Audit(error),
            other => OpenError::Disagree(other.to_string()),
        })?;
        broker.enforce_revocations().await;
        Ok(broker)
    }

    /// Closes the log in order: everything durable, a signed checkpoint, open keys wiped. What is asked afterwards is refused. A request
    /// for a token or a new credential that was sent is waited for, for some 35 s at most: the server may have replaced one, and the new one
    /// must be kept. Dropping the future before that loses it.
    ///
    /// # Errors
    /// When the log cannot be written; nothing was released that is not on it.
    pub async fn close(&self) -> Result<(), AuditError> {
        // First: a command that is being done is done on an open log.
        self.stop_control().await;
        self.exchanges.close();
        self.approvals.close();
        let running: Vec<_> = read(&self.instances).keys().copied().collect();
        for instance in running {
            self.end(instance, InstanceEnd::Dropped);
        }
        tokio::join!(self.tokens.finish(), self.issuings.finish());
        self.open_keys.close_all();
        self.open_secrets.close_all();
        self.tokens.forget_all();
        // Not waited for by itself: closing makes everything durable, or fails.
        self.note(Event::HostStopped);
        self.record.log.close()?;
        self.record_log_size();
        Ok(())
    }

    /// Signs a checkpoint of the audit log now and returns it.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn checkpoint(&self) -> Result<String, AuditError> {
        let note = self.record.log.checkpoint().await?;
        self.record_log_size();
        Ok(note)
    }

    /// Lets the keyring remember how long the log is, so that an older log in its place is noticed. Only of a checkpoint that
    /// survives a power cut: otherwise the power cut would look like an attack.
    fn record_log_size(&self) {
        match self.durability {
            // A keyring that cannot be written keeps the size it knows: it notices less, and refuses nothing.
            Durability::Sync => drop(self.keyring.set_log_size(self.record.log.signed_size())),
            Durability::Process => {}
        }
    }

    /// The key that authenticates compiled components: of this keyring, for nothing else.
    ///
    /// # Errors
    /// When memory cannot be locked.
    pub fn compile_cache_key(&self) -> Result<Secret, KeyringError> {
        self.keyring.subkey(Purpose::CompileCache, 32)
    }

    /// Vouches for the system's clock after it had run ahead: an operator's decision, on record.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn accept_clock(&self) -> Result<(), AuditError> {
        self.record.accept_clock().await.map(drop)
    }

    /// The keyring.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// What recovery found when the log was opened after an unclean stop.
    #[must_use]
    pub const fn recovered(&self) -> Option<&Recovered> {
        self.recovered.as_ref()
    }

    /// What the log says now.
    #[must_use]
    pub fn snapshot(&self) -> Ledger {
        self.ledger().clone()
    }

    async fn append(&self, event: Event) -> Result<u64, AuditError> {
        self.record.append(event).await
    }

    fn note(&self, event: Event) {
        self.record.note(event);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.record.ledger()
    }

    fn instance(&self, who: InstanceId) -> Option<Arc<Instance>> {
        read(&self.instances).get(&who).cloned()
    }
}

/// The audit log's folder in the keyring's folder.
pub const AUDIT_FOLDER: &str = "audit";

/// The log's key is derived from the root key: whoever opens the keyring can sign, nobody else.
fn log_key(keyring: &Keyring) -> Result<LogKey, OpenError> {
    Ok(LogKey::from_seed(
        LOG_ORIGIN,
        keyring.subkey(Purpose::AuditLog, 32)?,
    )?)
}

/// The log's origin (C2SP tlog-checkpoint). Logs of different keyrings differ by their keys.
const LOG_ORIGIN: &str = "claviger/audit";

impl Broker for LocalBroker {
    fn admit<'a>(
        &'a self,
        manifest: &'a Manifest,
        component: ComponentDigest,
    ) -> BoxFuture<'a, Result<Admission, NotAdmitted>> {
        Box::pin(self.admit_agent(manifest, component))
    }

    fn withdraw(&self, admission: AdmissionId, reasons: Vec<String>) {
        let Some(admitted) = write(&self.admissions).remove(&admission) else {
            return;
        };
        if !reasons.is_empty() {
            let reasons = reasons
                .iter()
                .take(admit::MAX_LOGGED_REASONS)
                .map(|text| escape(text, 200))
                .collect();
            self.note(Event::NotAdmitted {
                agent: admitted.agent.clone(),
                component: admitted.component,
                manifest: admitted.manifest,
                reasons,
            });
        }
    }

    fn start(&self, admission: AdmissionId) -> Result<InstanceId, Refusal> {
        let admitted = read(&self.admissions)
            .get(&admission)
            .cloned()
            .ok_or(Refusal::NotGranted)?;
        // A rotator is run by a rotation alone.
        let step = match &admitted.rotates {
            Some(rotates) => Some(self.rotations.step(&rotates.secret).ok_or(Refusal::NotGranted)?),
            None => None,
        };
        // What an agent does without credentials is not run unrecorded either.
        self.record.log.check_usable().map_err(|_| Refusal::Unavailable)?;
        let id = InstanceId(self.ledger().next_instance());
        self.note(Event::Started {
            instance: id,
            agent: admitted.agent.clone(),
            component: admitted.component,
        });
        let instance = Instance {
            id,
            admitted,
            step,
            denials: Mutex::new(Denials::new(self.clock.now())),
            outstanding: Arc::new(Semaphore::new(MAX_OUTSTANDING)),
            bodies: Memory::of_instance(),
            wasted: Wasted::new(self.clock.now()),
        };
        write(&self.instances).insert(id, Arc::new(instance));
        Ok(id)
    }

    fn end(&self, who: InstanceId, how: InstanceEnd) {
        let Some(instance) = write(&self.instances).remove(&who) else {
            return;
        };
        self.exchanges.stop(Stop::Ended, |one| one.instance == Some(who));
        self.flush_denials(&instance);
        self.note(Event::Ended {
            instance: who,
            agent: instance.admitted.agent.clone(),
            end: how,
        });
    }

    fn perform(&self, who: InstanceId, request: Request) -> BoxFuture<'_, Result<Outcome, Refusal>> {
        Box::pin(self.perform_request(who, request))
    }

    fn send(
        &self,
        who: InstanceId,
        head: RequestHead,
        body: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<Answer, SendError>> {
        Box::pin(self.send_request(who, head, body))
    }
}

impl std::fmt::Debug for LocalBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalBroker")
            .field("keyring", &self.keyring)
            .finish_non_exhaustive()
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
