//! Keys that an operator brings, into the hands of the broker. Not the reading of their files: `import` has it.

use std::sync::Arc;

use claviger_core::custody::{CustodyError, CustodyKind, Generated};
use claviger_core::profile::Profile;
use claviger_core::{KeyName, KeyRef, PublicKey, Secret};

use super::LocalBroker;
use super::keys::{NewKeyError, created};
use crate::import::{ImportError, ImportedKey};
use crate::keyring::{KeyRecord, KeySource, KeyState, NewKey, RotationPlan};

/// What to take in.
#[derive(Debug)]
pub struct KeyImport {
    /// Its name.
    pub name: KeyName,
    /// What it is for, from now on and for nothing else here. What it was used for before is not known.
    pub profile: Profile,
    /// Where it shall live; if nothing is said, in the hardest custody that takes it. Never changed to something weaker.
    pub custody: Option<CustodyKind>,
    /// The key.
    pub private: ImportedKey,
}

/// What to take in that another program had the keyring's TPM wrap.
pub struct WrappedImport {
    /// Its name.
    pub name: KeyName,
    /// What it is for, from now on and for nothing else here.
    pub profile: Profile,
    /// The file: a TSS2 PRIVATE KEY in PEM.
    pub file: Secret,
}

impl std::fmt::Debug for WrappedImport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WrappedImport")
            .field("name", &self.name)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl LocalBroker {
    /// Takes in a key that was made elsewhere, marks it as imported for good, stores it and puts it on the log.
    ///
    /// # Errors
    /// When the name is taken, the profile takes no key of this algorithm, the custody is not there or takes none that was made elsewhere,
    /// the keyring has this very key already, or something cannot be written.
    pub async fn import_key(&self, import: KeyImport) -> Result<Arc<KeyRecord>, NewKeyError> {
        let KeyImport {
            name,
            profile,
            custody: kind,
            private,
        } = import;
        let algorithm = private.algorithm();
        // What is weaker than the hardest that has the algorithm has to be asked for.
        let kind = kind.unwrap_or_else(|| self.default_custody(algorithm));
        may_be_imported(&profile)?;
        profile.accept(algorithm)?;
        let custody = self.custody(kind).ok_or(NewKeyError::NoCustody(kind))?;
        let key = self.imported_name(name)?;
        let public = private.public().clone();
        self.refuse_known(&public)?;
        let taken = custody.import(&key, algorithm, private.into_private()).await?;
        if taken.public != public {
            return Err(
                CustodyError::Fault("the custody took another key than it was given".to_owned()).into(),
            );
        }
        self.keep_imported(key, profile, kind, taken).await
    }

    /// Takes over a key that another program had the keyring's TPM wrap, as [`LocalBroker::import_key`] does one in clear. It is taken out of
    /// its file's hands no more than that: the file stays good on this TPM.
    ///
    /// # Errors
    /// As there; and when the keyring is not on a TPM, or on another one.
    pub async fn import_wrapped_key(&self, import: WrappedImport) -> Result<Arc<KeyRecord>, NewKeyError> {
        let WrappedImport { name, profile, file } = import;
        let kind = CustodyKind::Tpm;
        may_be_imported(&profile)?;
        let custody = self.custody(kind).ok_or(ImportError::Tss2)?;
        let key = self.imported_name(name)?;
        let taken = custody.import_wrapped(&key, file).await?;
        profile.accept(taken.public.algorithm())?;
        self.refuse_known(&taken.public)?;
        self.keep_imported(key, profile, kind, taken).await
    }

    fn imported_name(&self, name: KeyName) -> Result<KeyRef, NewKeyError> {
        let versions = self.keyring.versions(&name);
        if versions.iter().any(|record| record.state != KeyState::Destroyed) {
            return Err(NewKeyError::Exists(name));
        }
        Ok(KeyRef {
            version: self.keyring.next_version(&name),
            name,
        })
    }

    /// One key has one profile: under another name it would have two.
    fn refuse_known(&self, public: &PublicKey) -> Result<(), NewKeyError> {
        let known = self.keyring.keys();
        let same = known
            .iter()
            .filter(|record| record.state != KeyState::Destroyed)
            .find(|record| record.public() == Some(public));
        same.map_or(Ok(()), |same| Err(NewKeyError::Known(same.key.clone())))
    }

    async fn keep_imported(
        &self,
        key: KeyRef,
        profile: Profile,
        custody: CustodyKind,
        taken: Generated,
    ) -> Result<Arc<KeyRecord>, NewKeyError> {
        let new = NewKey {
            key,
            profile,
            algorithm: taken.public.algorithm().into(),
            custody,
            assurance: self.assurance,
            identity: taken.public.into(),
            source: KeySource::Imported,
            plan: RotationPlan::default(),
            locked: false,
            material: taken.material,
            hardware: None,
        };
        let record = self.keyring.insert(new, self.clock.now())?;
        self.append(created(&record)).await?;
        Ok(record)
    }
}

/// Keys for evidence come in pairs that a TPM made, and so does what they prove.
fn may_be_imported(profile: &Profile) -> Result<(), NewKeyError> {
    profile.validate_new()?;
    if matches!(profile, Profile::Attest {}) {
        return Err(ImportError::Evidence.into());
    }
    Ok(())
}
