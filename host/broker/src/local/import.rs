//! Keys that an operator brings, into the hands of the broker. Not the reading of their files: `import` has it.

use std::sync::Arc;

use claviger_core::custody::{CustodyError, CustodyKind, Generated};
use claviger_core::profile::Profile;
use claviger_core::{KeyName, KeyRef};

use super::LocalBroker;
use super::keys::{NewKeyError, created};
use crate::import::ImportedKey;
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
        profile.validate_new()?;
        profile.accept(algorithm)?;
        // Of a TPM that has the algorithm this is its own custody, which takes nothing: what is weaker has to be asked for.
        let kind = kind.unwrap_or_else(|| self.default_custody(algorithm));
        let custody = self.custody(kind).ok_or(NewKeyError::NoCustody(kind))?;
        let versions = self.keyring.versions(&name);
        if versions.iter().any(|record| record.state != KeyState::Destroyed) {
            return Err(NewKeyError::Exists(name));
        }
        let key = KeyRef {
            version: self.keyring.next_version(&name),
            name,
        };
        // One key has one profile: under another name it would have two.
        let known = self.keyring.keys();
        if let Some(same) = known
            .iter()
            .filter(|record| record.state != KeyState::Destroyed)
            .find(|record| record.public() == Some(private.public()))
        {
            return Err(NewKeyError::Known(same.key.clone()));
        }
        let public = private.public().clone();
        let Generated {
            public: taken,
            material,
        } = custody.import(&key, algorithm, private.into_private()).await?;
        if taken != public {
            return Err(
                CustodyError::Fault("the custody took another key than it was given".to_owned()).into(),
            );
        }
        let new = NewKey {
            key,
            profile,
            algorithm: algorithm.into(),
            custody: kind,
            assurance: self.assurance,
            identity: public.into(),
            source: KeySource::Imported,
            plan: RotationPlan::default(),
            locked: false,
            material,
            hardware: None,
        };
        let record = self.keyring.insert(new, self.clock.now())?;
        self.append(created(&record)).await?;
        Ok(record)
    }
}
