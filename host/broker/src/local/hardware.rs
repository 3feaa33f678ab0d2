//! What only a device can do for a key: be refused by it once it is revoked, and be proved to live in it. Not the state of a key: the
//! keyring has that, and it holds whatever the device says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use claviger_core::attest::{AttestingKey, Certified};
use claviger_core::audit::Settlement;
use claviger_core::custody::{CustodyError, CustodyKind, Generated};
use claviger_core::key::{KeyAlgorithm, KeyIdentity, KeySpec};
use claviger_core::profile::Profile;
use claviger_core::{AuditError, KeyName, KeyRef, Permit, Secret};

use super::LocalBroker;
use super::keys::{KeyCreation, NewKeyError};
use super::making;
use super::stops::STOPPED;
use crate::keyring::{KeyRecord, KeyState, KeyringError, RotationPlan};

/// Who refuses a key once it is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforced {
    /// The keyring.
    Keyring,
    /// The device too.
    Hardware,
}

/// A key just made, for the keyring.
pub(super) struct Made {
    pub(super) identity: KeyIdentity,
    pub(super) material: Secret,
    pub(super) hardware: Option<Vec<u8>>,
}

impl From<Generated> for Made {
    fn from(made: Generated) -> Self {
        Self {
            identity: made.public.into(),
            material: made.material,
            hardware: None,
        }
    }
}

/// What a key just made has taken in the device, to be given back if it is not stored.
pub(super) struct Abandoned {
    key: KeyRef,
    custody: CustodyKind,
    hardware: Vec<u8>,
}

impl Abandoned {
    pub(super) fn of(key: &KeyRef, custody: CustodyKind, made: &Made) -> Option<Self> {
        Some(Self {
            key: key.clone(),
            custody,
            hardware: made.hardware.clone()?,
        })
    }
}

/// What the device does not know yet, and why.
pub(super) type Unenforced = Mutex<BTreeMap<(KeyName, u32), String>>;

/// Why there is no proof of where a key lives.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// There is no such key, or its material is gone.
    #[error("the keyring has no key `{0}` whose material is still there")]
    NoKey(KeySpec),
    /// There is no active key with this profile.
    #[error(
        "key `{0}` is not an active one with profile `attest`; make one with `claviger key create {0} --profile attest`"
    )]
    NoAttester(KeyName),
    /// The key does not live in a TPM.
    #[error(
        "key `{key}` is in `{custody}` custody: only a key in `tpm` custody can be proved to live in a TPM"
    )]
    NotResident {
        /// Which.
        key: KeyRef,
        /// Where it is.
        custody: CustodyKind,
    },
    /// All use of credentials is stopped.
    #[error("{STOPPED}")]
    Stopped,
    /// The keyring failed.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The device failed.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The log cannot be written; nothing was certified.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl LocalBroker {
    /// As [`LocalBroker::create_key`], for a key that the device itself refuses once it is revoked, also to whoever puts an older copy of
    /// the keyring back.
    ///
    /// # Errors
    /// [`CustodyError::NotEnforced`] where no device can; else as [`LocalBroker::create_key`].
    pub async fn create_key_revocable_by_hardware(
        &self,
        creation: KeyCreation,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        self.create_key_with(creation, RotationPlan::default(), None, Enforced::Hardware)
            .await
    }

    /// As [`LocalBroker::create_symmetric_key`], for a key that the device itself refuses once it is revoked, also to whoever puts an older
    /// copy of the keyring back.
    ///
    /// # Errors
    /// [`CustodyError::NotEnforced`] where no device can; else as [`LocalBroker::create_symmetric_key`].
    pub async fn create_symmetric_key_revocable_by_hardware(
        &self,
        name: KeyName,
        profile: Profile,
        custody: CustodyKind,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        let plan = RotationPlan::default();
        self.create_symmetric_key_with(name, profile, custody, plan, None, Enforced::Hardware)
            .await
    }

    /// Gives back the room in the device that a key took which was not stored.
    pub(super) async fn abandon(&self, abandoned: Option<Abandoned>) {
        let Some(Abandoned {
            key,
            custody,
            hardware,
        }) = abandoned
        else {
            return;
        };
        if let Some(custody) = self.custody(custody) {
            // If this fails too, the room stays taken by what nothing hangs on.
            drop(custody.revoke(&key, &hardware).await);
        }
    }

    /// Makes what one version of a key of this profile is. Nothing is stored.
    pub(super) async fn make(
        &self,
        key: &KeyRef,
        profile: &Profile,
        algorithm: KeyAlgorithm,
        kind: CustodyKind,
        enforced: Enforced,
    ) -> Result<Made, NewKeyError> {
        let custody = || self.custody(kind).ok_or(NewKeyError::NoCustody(kind));
        let attests = matches!(profile, Profile::Attest {});
        match (enforced, attests) {
            (Enforced::Hardware, true) => Err(NewKeyError::NotBoth),
            (Enforced::Hardware, false) => {
                let custody = custody()?;
                if !making::has(custody.as_ref(), algorithm) {
                    return Err(making::lacking(kind, algorithm).into());
                }
                Ok(match algorithm {
                    KeyAlgorithm::Signing(algorithm) => {
                        let made = custody.generate_revocable(key, algorithm).await?;
                        Made {
                            hardware: Some(made.revocation),
                            ..Made::from(made.generated)
                        }
                    }
                    KeyAlgorithm::Symmetric(algorithm) => {
                        let made = custody.generate_symmetric_revocable(key, algorithm).await?;
                        Made {
                            identity: KeyIdentity::Symmetric(making::identifier()?),
                            material: made.material,
                            hardware: Some(made.revocation),
                        }
                    }
                })
            }
            (Enforced::Keyring, true) => {
                let attester = custody()?.attester().ok_or(NewKeyError::CannotAttest(kind))?;
                Ok(attester.generate(key).await?.into())
            }
            (Enforced::Keyring, false) => {
                let (identity, material) = self.make_key(key, algorithm, kind).await?;
                Ok(Made {
                    identity,
                    material,
                    hardware: None,
                })
            }
        }
    }

    /// Has the device refuse a key that the keyring says is gone for good. Does nothing for a key that no device refuses, or that it
    /// refuses already.
    ///
    /// # Errors
    /// When the device fails. The keyring refuses the key all the same, and the device is told at the next opening.
    pub(super) async fn enforce_revocation(&self, record: &KeyRecord) -> Result<(), NewKeyError> {
        let Some(revocation) = &record.hardware else {
            return Ok(());
        };
        let told = match self.custody(record.custody) {
            Some(custody) => custody.revoke(&record.key, revocation).await,
            None => Err(CustodyError::Unavailable(format!(
                "the {} custody of key `{}` is not here",
                record.custody, record.key
            ))),
        };
        let known = told.map_err(NewKeyError::from).and_then(|kept| {
            if kept == *revocation {
                return Ok(());
            }
            Ok(self.keyring.set_hardware(&record.key, kept)?)
        });
        let id = (record.key.name.clone(), record.key.version.0);
        let mut unenforced = self.unenforced.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Ok(()) => {
                unenforced.remove(&id);
                Ok(())
            }
            Err(error) => {
                unenforced.insert(id, error.to_string());
                Err(NewKeyError::NotEnforcedYet {
                    key: record.key.clone(),
                    cause: Box::new(error),
                })
            }
        }
    }

    /// Tells the device again what it may not know: a crash, or a device that failed, came between the keyring and it. A failure
    /// keeps nobody from the keyring: [`LocalBroker::unenforced`] says what is left.
    pub(super) async fn enforce_revocations(&self) {
        for record in self.keyring.keys() {
            if gone_for_good(record.state) {
                drop(self.enforce_revocation(&record).await);
            }
        }
    }

    /// Keys that the keyring says are revoked and that the device may not refuse yet, each with why.
    #[must_use]
    pub fn unenforced(&self) -> Vec<String> {
        let unenforced = self.unenforced.lock().unwrap_or_else(PoisonError::into_inner);
        unenforced
            .iter()
            .map(|((name, version), why)| format!("key `{name}@v{version}`: {why}"))
            .collect()
    }

    /// Has the TPM certify that a key lives in it, by the restricted key beside the active version of `by`, which has the profile
    /// `attest`. Of the version that is named, or the newest, whatever its state. On the log before the TPM is asked. Dropping the future
    /// abandons it, which is logged.
    ///
    /// # Errors
    /// When there is no such key, one of the two does not live in a TPM, or the TPM or the log fails.
    pub async fn prove_resident(
        &self,
        spec: &KeySpec,
        by: &KeyName,
        nonce: &[u8],
    ) -> Result<Certified, ProofError> {
        let versions = self.keyring.versions(&spec.name);
        let subject = versions
            .iter()
            .filter(|record| spec.version.is_none_or(|version| record.key.version == version))
            .rfind(|record| record.state != KeyState::Destroyed)
            .ok_or_else(|| ProofError::NoKey(spec.clone()))?;
        if subject.custody != CustodyKind::Tpm {
            return Err(ProofError::NotResident {
                key: subject.key.clone(),
                custody: subject.custody,
            });
        }
        let by = self
            .keyring
            .key(by)
            .filter(|record| matches!(record.profile, Profile::Attest {}))
            .ok_or_else(|| ProofError::NoAttester(by.clone()))?;
        let recording = {
            let mut ledger = self.ledger();
            if ledger.in_panic() {
                return Err(ProofError::Stopped);
            }
            let now = self.clock.now();
            let time = ledger.latest().map_or(now, |latest| latest.max(now));
            ledger.saw(time);
            Permit::to_prove(
                Arc::clone(&self.permits),
                Arc::clone(&self.clock),
                time,
                subject.key.clone(),
                by.key.clone(),
            )
        };
        let permit = recording.await?;
        let certified = async {
            let key = self.open_attesting(&by).await?;
            let material = self.keyring.material(&subject.key)?;
            Ok(key.certify(&permit, &subject.key, material, nonce).await?)
        }
        .await;
        let _releasing = self.record.releasing();
        // A device may have taken seconds: what was stopped meanwhile proves nothing.
        let certified = certified.and_then(|certified| {
            let active = self.keyring.key(&by.key.name);
            match active.filter(|active| active.key == by.key) {
                _ if self.in_panic() => Err(ProofError::Stopped),
                Some(_) => Ok(certified),
                None => Err(ProofError::NoAttester(by.key.name.clone())),
            }
        });
        permit.settle(match &certified {
            Ok(_) => Settlement::Released,
            Err(_) => Settlement::Failed,
        });
        certified
    }

    /// Opens a key with the profile `attest`. Not kept open: evidence is asked for now and then.
    pub(super) async fn open_attesting(
        &self,
        record: &KeyRecord,
    ) -> Result<Arc<dyn AttestingKey>, CustodyError> {
        let absent = || {
            CustodyError::Unavailable(format!(
                "the {} custody of key `{}` is not here or gives no evidence",
                record.custody, record.key
            ))
        };
        let custody = self.custody(record.custody).ok_or_else(absent)?;
        let attester = custody.attester().ok_or_else(absent)?;
        let public = record.public().ok_or_else(absent)?;
        let material = self
            .keyring
            .material(&record.key)
            .map_err(|error| CustodyError::Fault(error.to_string()))?;
        attester.open(&record.key, public, material).await
    }
}

/// States that no key comes back from.
pub(super) const fn gone_for_good(state: KeyState) -> bool {
    match state {
        KeyState::Revoked | KeyState::Destroyed => true,
        KeyState::Pending
        | KeyState::Active
        | KeyState::Retiring
        | KeyState::Retired
        | KeyState::Disabled => false,
    }
}
