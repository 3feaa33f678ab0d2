//! Keys in the hands of the broker: made, opened for use, closed when idle, and compared with the log. Not their storage.

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use claviger_core::audit::{Event, Settlement};
use claviger_core::custody::{Assurance, Custody, CustodyError, CustodyKind, MacKey, SealingKey, SigningKey};
use claviger_core::key::{Algorithm, KeyAlgorithm, KeyError};
use claviger_core::profile::proof::certificate_request;
use claviger_core::profile::{FrameContext, FrameError, Profile, ProfileError};
use claviger_core::{AuditError, KeyName, KeyRef, Permit};
use tokio::sync::OnceCell;

use super::hardware::{Abandoned, Enforced};
use super::making::{self, OpenKey};
use super::secrets::OpenSecrets;
use super::stops::STOPPED;
use super::{LocalBroker, OpenError};
use crate::import::ImportError;
use crate::keyring::{KeyRecord, KeySource, KeyState, KeyringError, Lock, NewKey, RotationPlan};

/// An open key that nobody used for this long is closed and wiped.
pub(super) const IDLE: Duration = Duration::from_secs(300);
/// How often idle keys are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// What to make.
#[derive(Debug, Clone)]
pub struct KeyCreation {
    /// Its name.
    pub name: KeyName,
    /// What it is for.
    pub profile: Profile,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Where it shall live. Never changed to something weaker: what is not there is an error.
    pub custody: CustodyKind,
}

/// Why a key was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewKeyError {
    /// The profile's parameters are wrong.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// There is a key of this name.
    #[error("there is a key `{0}` already; it was left as it is")]
    Exists(KeyName),
    /// The key's certificate names its public half: a new version must wait until it has one.
    #[error(
        "a certificate belongs to key `{0}`: rotate it with `--stage`, have the new version certified, and promote it"
    )]
    NeedsStaging(KeyName),
    /// The keyring has this very key.
    #[error(
        "the keyring has this key already, as `{0}`; one key has one purpose, and a second name would give it another"
    )]
    Known(KeyRef),
    /// The file that an operator brought is no key that can be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// There is no such custody here.
    #[error("this keyring has no `{0}` custody")]
    NoCustody(CustodyKind),
    /// The profile is one of keys that sign.
    #[error("keys with profile `{0}` have a public half, whose algorithm must be named")]
    HasPublicHalf(&'static str),
    /// The custody failed.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// No device there gives evidence.
    #[error(
        "`{0}` custody gives no evidence; a key with profile `attest` needs a TPM (`claviger init --custody tpm`)"
    )]
    CannotAttest(CustodyKind),
    /// Two options that exclude each other.
    #[error(
        "a key with profile `attest` cannot have `--revocation hardware`: evidence is told from when it was given"
    )]
    NotBoth,
    /// The keyring refuses the key from now on, the device not yet.
    #[error(
        "key `{key}` is revoked and this keyring refuses it, but the TPM does not refuse it yet ({cause}); it is told again whenever the \
         keyring is opened, with `claviger doctor` say"
    )]
    NotEnforcedYet {
        /// Which.
        key: KeyRef,
        /// Why.
        #[source]
        cause: Box<Self>,
    },
    /// The version is revoked, and the new one could not be made.
    #[error(
        "key `{key}` is revoked, and nothing has taken its place yet; `claviger key compromise {key}` tries again"
    )]
    NotReplaced {
        /// Which.
        key: KeyRef,
        /// Why.
        #[source]
        cause: Box<Self>,
    },
    /// The keyring failed, or has a key of this name.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The log cannot be written; what was done to the key stays, and nothing is released any more.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// Why there is no request for a certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateRequestError {
    /// There is no such key, or it is out of use.
    #[error("the keyring has no active key `{0}`")]
    NotActive(KeyName),
    /// The key's profile is another, or the subject is not a name.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// All use of credentials is stopped.
    #[error("{STOPPED}")]
    Stopped,
    /// The custody failed.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The signature cannot be written down.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The log cannot be written; nothing was signed.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// [`KeyCreation`], of a key with a public half or without.
struct Creation {
    name: KeyName,
    profile: Profile,
    algorithm: KeyAlgorithm,
    custody: CustodyKind,
}

impl LocalBroker {
    /// The custody a key of this algorithm gets if the operator names none: the hardest there is.
    #[must_use]
    pub fn default_custody(&self, algorithm: impl Into<KeyAlgorithm>) -> CustodyKind {
        let algorithm = algorithm.into();
        let has = |kind: CustodyKind| {
            self.custodies
                .get(kind.as_str())
                .is_some_and(|custody| making::has(custody.as_ref(), algorithm))
        };
        if has(CustodyKind::Tpm) {
            CustodyKind::Tpm
        } else {
            match self.assurance {
                Assurance::Swtpm | Assurance::Hardware => CustodyKind::TpmSealed,
                Assurance::Passphrase => CustodyKind::Software,
            }
        }
    }

    /// Makes a key, stores it and puts it on the log.
    ///
    /// # Errors
    /// When the name is taken, the custody is not there or fails, or something cannot be written.
    pub async fn create_key(&self, creation: KeyCreation) -> Result<Arc<KeyRecord>, NewKeyError> {
        self.create_key_with(creation, RotationPlan::default(), None, Enforced::Keyring)
            .await
    }

    /// As [`LocalBroker::create_key`], with a plan for its rotation, and its purge locked if that is asked.
    ///
    /// # Errors
    /// As there; and when the plan is out of bounds.
    pub async fn create_planned_key(
        &self,
        creation: KeyCreation,
        plan: RotationPlan,
        lock: Option<Lock>,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        self.create_key_with(creation, plan, lock, Enforced::Keyring)
            .await
    }

    /// As [`LocalBroker::create_planned_key`], refused by the device, too, once it is revoked, if that is asked.
    pub(crate) async fn create_key_with(
        &self,
        creation: KeyCreation,
        plan: RotationPlan,
        lock: Option<Lock>,
        enforced: Enforced,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        let KeyCreation {
            name,
            profile,
            algorithm,
            custody,
        } = creation;
        let creation = Creation {
            name,
            profile,
            algorithm: algorithm.into(),
            custody,
        };
        self.create_first(creation, plan, lock, enforced).await
    }

    /// As [`LocalBroker::create_key`], for a key without a public half: its profile says its algorithm.
    ///
    /// # Errors
    /// As there, and when the keys of the profile have a public half.
    pub async fn create_symmetric_key(
        &self,
        name: KeyName,
        profile: Profile,
        custody: CustodyKind,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        self.create_planned_symmetric_key(name, profile, custody, RotationPlan::default(), None)
            .await
    }

    /// As [`LocalBroker::create_planned_key`], for a key without a public half: its profile says its algorithm.
    ///
    /// # Errors
    /// As there, and when the keys of the profile have a public half.
    pub async fn create_planned_symmetric_key(
        &self,
        name: KeyName,
        profile: Profile,
        custody: CustodyKind,
        plan: RotationPlan,
        lock: Option<Lock>,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        self.create_symmetric_key_with(name, profile, custody, plan, lock, Enforced::Keyring)
            .await
    }

    pub(crate) async fn create_symmetric_key_with(
        &self,
        name: KeyName,
        profile: Profile,
        custody: CustodyKind,
        plan: RotationPlan,
        lock: Option<Lock>,
        enforced: Enforced,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        let algorithm = profile
            .symmetric()
            .ok_or_else(|| NewKeyError::HasPublicHalf(profile.kind()))?;
        let creation = Creation {
            name,
            profile,
            algorithm: algorithm.into(),
            custody,
        };
        self.create_first(creation, plan, lock, enforced).await
    }

    async fn create_first(
        &self,
        creation: Creation,
        plan: RotationPlan,
        lock: Option<Lock>,
        enforced: Enforced,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        let Creation {
            name,
            profile,
            algorithm,
            custody,
        } = creation;
        profile.validate_new()?;
        profile.accept(algorithm)?;
        let versions = self.keyring.versions(&name);
        if versions.iter().any(|record| record.state != KeyState::Destroyed) {
            return Err(NewKeyError::Exists(name));
        }
        let key = KeyRef {
            version: self.keyring.next_version(&name),
            name,
        };
        let made = self.make(&key, &profile, algorithm, custody, enforced).await?;
        let abandoned = Abandoned::of(&key, custody, &made);
        let new = NewKey {
            key,
            profile,
            algorithm,
            custody,
            assurance: self.assurance,
            identity: made.identity,
            source: KeySource::Generated,
            plan,
            locked: lock.is_some(),
            material: made.material,
            hardware: made.hardware,
        };
        let record = match self.keyring.insert(new, self.now()) {
            Ok(record) => record,
            Err(error) => {
                self.abandon(abandoned).await;
                return Err(error.into());
            }
        };
        self.append(created(&record)).await?;
        Ok(record)
    }

    /// Takes the version of a key that is in use, or was last, out of use (`Disabled`, `Revoked`) or back into it (`Active`, from `Disabled` only). Holds
    /// from the next request on; what is being signed is not released.
    ///
    /// # Errors
    /// When there is no such key, it cannot become that, or something cannot be written. If only the log failed, the key is in the
    /// new state, and nothing is released any more.
    pub async fn set_key_state(
        &self,
        name: &KeyName,
        state: KeyState,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        let current = self.current_key(name)?;
        let event = state.asked().ok_or_else(|| KeyringError::Transition {
            key: current.key.clone(),
            from: current.state,
            to: state,
        })?;
        self.step_key(&current.key, &event).await
    }

    /// Makes a request for a certificate (PKCS#10, PEM) of the pending, else the active version of a key with the profile `mtls`, signed by that key. On the
    /// log before the key signs. Dropping the future abandons it, which is logged.
    ///
    /// # Errors
    /// When there is no such key or it is not active, its profile is another, the subject is not a name such as `CN=release-bot`, or
    /// custody or the log fails.
    pub async fn certificate_request(
        &self,
        name: &KeyName,
        subject: &str,
    ) -> Result<String, CertificateRequestError> {
        // The one that waits first: it is waiting for its certificate.
        let record = self
            .keyring
            .pending(name)
            .filter(|record| record.deleted.is_none())
            .or_else(|| self.keyring.key(name))
            .ok_or_else(|| CertificateRequestError::NotActive(name.clone()))?;
        let context = FrameContext {
            key: record
                .public()
                .ok_or_else(|| CertificateRequestError::NotActive(name.clone()))?,
            now: self.clock.now(),
            nonce: [0; 16],
        };
        let (message, request) = certificate_request(&record.profile, subject, &context)?;
        let recording = {
            let mut ledger = self.ledger();
            if ledger.in_panic() {
                return Err(CertificateRequestError::Stopped);
            }
            let now = self.clock.now();
            let time = ledger.latest().map_or(now, |latest| latest.max(now));
            ledger.saw(time);
            ledger.certified(&record.key);
            Permit::to_certify(
                Arc::clone(&self.permits),
                Arc::clone(&self.clock),
                time,
                record.key.clone(),
                subject,
                &message,
            )
        };
        let permit = recording.await?;
        let key = match self.open_key(&record).await {
            Ok(key) => key,
            Err(error) => {
                permit.settle(Settlement::Failed);
                return Err(error.into());
            }
        };
        let signed = key.sign(&permit, &message).await;
        let _releasing = self.record.releasing();
        let finished = signed
            .map_err(CertificateRequestError::from)
            .and_then(|signature| Ok(request.finish(&signature)?))
            .and_then(|pem| {
                if self.in_panic() {
                    return Err(CertificateRequestError::Stopped);
                }
                Ok(pem)
            });
        permit.settle(if finished.is_ok() {
            Settlement::Released
        } else {
            Settlement::Failed
        });
        finished
    }

    /// Compares keyring and log. A generation below one on the log means that an older copy was put back. A key without an entry was made just before a crash and is logged now; an entry without its key
    /// means that the database was put back or edited.
    pub(super) fn reconcile(&self) -> Result<(), OpenError> {
        let ledger = self.snapshot();
        let records = self.keyring.keys();
        let generation = self.keyring.info().generation;
        if generation < ledger.keyring() {
            return Err(OpenError::Disagree(format!(
                "the keyring is at generation {generation}, the log has seen {}: an older copy was put back",
                ledger.keyring()
            )));
        }
        for (key, key_id) in ledger.keys() {
            match records.iter().find(|record| record.key == *key) {
                None => {
                    return Err(OpenError::Disagree(format!(
                        "the log says that key `{key}` was made, the keyring does not have it"
                    )));
                }
                Some(record) if record.key_id() != key_id => {
                    return Err(OpenError::Disagree(format!(
                        "key `{key}` is not the one that the log names"
                    )));
                }
                Some(_) => {}
            }
        }
        self.reconcile_secrets(&ledger)?;
        for record in &records {
            let mut known = ledger.key_standing(&record.key);
            if !ledger.keys().any(|(key, _)| *key == record.key) {
                self.note(created(record));
                known = Some(KeyState::Active.as_str());
            }
            // Changed just before a crash, or by a release that did not say.
            if known != Some(record.standing()) {
                self.note(self.key_changed(record));
            }
        }
        Ok(())
    }

    pub(super) async fn open_key(
        &self,
        record: &Arc<KeyRecord>,
    ) -> Result<Arc<dyn SigningKey>, CustodyError> {
        match self.opened(record).await? {
            OpenKey::Signing(key) => Ok(key),
            OpenKey::Sealing(_) | OpenKey::Mac(_) => Err(of_another_kind(&record.key)),
        }
    }

    pub(super) async fn open_sealing_key(
        &self,
        record: &Arc<KeyRecord>,
    ) -> Result<Arc<dyn SealingKey>, CustodyError> {
        match self.opened(record).await? {
            OpenKey::Sealing(key) => Ok(key),
            OpenKey::Signing(_) | OpenKey::Mac(_) => Err(of_another_kind(&record.key)),
        }
    }

    pub(super) async fn open_mac_key(
        &self,
        record: &Arc<KeyRecord>,
    ) -> Result<Arc<dyn MacKey>, CustodyError> {
        match self.opened(record).await? {
            OpenKey::Mac(key) => Ok(key),
            OpenKey::Signing(_) | OpenKey::Sealing(_) => Err(of_another_kind(&record.key)),
        }
    }

    async fn opened(&self, record: &Arc<KeyRecord>) -> Result<OpenKey, CustodyError> {
        let slot = self.open_keys.slot(&record.key);
        let key = slot
            .get_or_try_init(|| async {
                let custody = self.custody(record.custody).ok_or_else(|| {
                    CustodyError::Unavailable(format!(
                        "the {} custody of key `{}` is not here",
                        record.custody, record.key
                    ))
                })?;
                let material = self
                    .keyring
                    .material(&record.key)
                    .map_err(|error| CustodyError::Fault(error.to_string()))?;
                making::open(custody.as_ref(), record, material).await
            })
            .await?;
        // Looked at after it was opened: what is opened later was stopped before, and what was opened before is closed by the stop.
        if self.in_panic() {
            self.open_keys.close(&record.key);
            return Err(CustodyError::Unavailable(STOPPED.to_owned()));
        }
        Ok(key.clone())
    }

    pub(super) fn custody(&self, kind: CustodyKind) -> Option<&Arc<dyn Custody>> {
        self.custodies.get(kind.as_str())
    }
}

pub(super) fn created(record: &KeyRecord) -> Event {
    Event::KeyCreated {
        key: record.key.clone(),
        profile: record.profile.kind().to_owned(),
        algorithm: record.algorithm,
        custody: record.custody,
        assurance: record.assurance,
        key_id: record.key_id(),
        source: match record.source {
            KeySource::Generated => None,
            KeySource::Imported | KeySource::Restored => Some(record.source.to_string()),
        },
    }
}

fn of_another_kind(key: &KeyRef) -> CustodyError {
    CustodyError::Fault(format!("key `{key}` is of another kind than its profile"))
}

type Slot = Arc<OnceCell<OpenKey>>;

/// The keys that are open, each closed when it was idle for a while.
pub(super) struct OpenKeys {
    slots: Mutex<HashMap<KeyRef, (Slot, Instant)>>,
    // Dropping it ends the sweeping thread.
    _alive: SyncSender<()>,
}

impl OpenKeys {
    /// The thread that closes idle keys closes idle secrets, too.
    pub(super) fn with_idle_sweep(secrets: &Arc<OpenSecrets>) -> Arc<Self> {
        let (alive, gone) = sync_channel(0);
        let keys = Arc::new(Self {
            slots: Mutex::default(),
            _alive: alive,
        });
        let weak = (Arc::downgrade(&keys), Arc::downgrade(secrets));
        let sweep = move || {
            while gone.recv_timeout(SWEEP) == Err(RecvTimeoutError::Timeout) {
                let (Some(keys), Some(secrets)) = (weak.0.upgrade(), weak.1.upgrade()) else {
                    return;
                };
                keys.close_idle(Instant::now());
                secrets.close_idle(Instant::now());
            }
        };
        // Without the thread keys stay open until the broker is closed, which is what happens to busy ones anyway.
        drop(
            std::thread::Builder::new()
                .name("claviger-idle".to_owned())
                .spawn(sweep),
        );
        keys
    }

    fn slot(&self, key: &KeyRef) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((slot, used)) = slots.get_mut(key) {
            *used = Instant::now();
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        slots.insert(key.clone(), (Arc::clone(&slot), Instant::now()));
        slot
    }

    fn close_idle(&self, now: Instant) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, (_, used)| now.saturating_duration_since(*used) < IDLE);
    }

    pub(super) fn close(&self, key: &KeyRef) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    pub(super) fn close_all(&self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
