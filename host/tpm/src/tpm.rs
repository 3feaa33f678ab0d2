//! A connected TPM, as the rest of Claviger holds it. Not the device: one thread has that, and this asks it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use claviger_core::Algorithm;
use claviger_core::custody::{Assurance, Custody, CustodyError, Sealer};

use crate::actor::{Actor, DEADLINE, Lane};
use crate::bound::{Binding, BoundSealer};
use crate::choice::{Settings, TpmChoice};
use crate::custody::TpmCustody;
use crate::device::Device;
use crate::error::TpmError;
use crate::recovery::RecoveryCode;
use crate::registers::Registers;
use crate::sealer::TpmSealer;
use crate::swtpm::ChildId;

/// How commands are authorised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionKind {
    /// One HMAC session, salted with the storage root key, with AES-128-CFB over the first parameter both ways: what a tapped
    /// bus shows is of no use. Costs some 5 ms a command in libtss2 3.2.
    SaltedEncrypted,
    /// The authorisation value in the command. Only for the private software TPM, where there is no bus.
    Password,
}

/// What a TPM says of itself, for `claviger doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TpmFacts {
    /// `TPM_PT_MANUFACTURER`: up to four characters, such as `INTC`, `IFX` or `STM`; `IBM` is swtpm.
    pub manufacturer: String,
    /// `TPM_PT_FIRMWARE_VERSION_1` and `_2` in hexadecimal.
    pub firmware: String,
    /// How hard it is.
    pub assurance: Assurance,
    /// The Name of the storage root key in hexadecimal.
    pub srk_name: String,
    /// How commands are authorised.
    pub sessions: SessionKind,
    /// What it signs with itself. Everything else is sealed.
    pub resident_algorithms: Vec<Algorithm>,
}

/// A connected TPM. Dropping the last of it, its custody, its sealer and their keys closes the device, and ends the private
/// software TPM.
#[derive(Debug, Clone)]
pub struct Tpm {
    pub(crate) actor: Arc<Actor>,
    choice: TpmChoice,
    srk_name: Arc<[u8]>,
    assurance: Assurance,
    child: ChildId,
    binding: Option<Binding>,
    code: Option<Arc<RecoveryCode>>,
}

impl Tpm {
    /// Connects for the first time, and finds or makes the storage root key.
    ///
    /// Blocks, for up to 10 s if a software TPM has to start: in async code, call it where blocking is allowed.
    ///
    /// # Errors
    /// What is missing and how to mend it.
    pub fn connect(choice: TpmChoice) -> Result<Self, TpmError> {
        let session = match &choice {
            TpmChoice::Swtpm { .. } => SessionKind::Password,
            TpmChoice::Device(_) | TpmChoice::Tcti(_) => SessionKind::SaltedEncrypted,
        };
        Self::start(choice, session, None, DEADLINE)
    }

    /// Connects as [`Tpm::connect`] does, with [`SessionKind::SaltedEncrypted`] whatever the TPM.
    ///
    /// # Errors
    /// As [`Tpm::connect`].
    pub fn connect_encrypted(choice: TpmChoice) -> Result<Self, TpmError> {
        Self::start(choice, SessionKind::SaltedEncrypted, None, DEADLINE)
    }

    /// Connects to the TPM that [`Tpm::settings`] described for the keyring that is now in this folder. Blocks as
    /// [`Tpm::connect`] does.
    ///
    /// # Errors
    /// [`TpmError::NotOurs`] when the storage root key is another one; else as [`Tpm::connect`].
    pub fn connect_with(settings: &str, folder: &Path) -> Result<Self, TpmError> {
        let settings = Settings::parse(settings)?;
        let name = settings.srk_name()?;
        let session = match &settings.tpm {
            TpmChoice::Swtpm { .. } => SessionKind::Password,
            TpmChoice::Device(_) | TpmChoice::Tcti(_) => SessionKind::SaltedEncrypted,
        };
        let binding = settings.binding()?;
        let tpm = Self::start(settings.tpm.found_from(folder), session, Some(name), DEADLINE)?;
        Ok(tpm.with_binding(binding))
    }

    pub(crate) fn with_binding(self, binding: Option<Binding>) -> Self {
        Self { binding, ..self }
    }

    /// The registers that the keyring with these settings is bound to. Asks no TPM.
    ///
    /// # Errors
    /// When the settings are not those of a TPM.
    pub fn bound_to(settings: &str) -> Result<Option<Registers>, TpmError> {
        let binding = Settings::parse(settings)?.binding()?;
        Ok(binding.map(|binding| binding.registers))
    }

    /// The same TPM, which seals for this purpose so that it opens only while the registers hold what they hold when it is sealed, or by
    /// this new code. All else is sealed as before.
    #[must_use]
    pub fn bound(self, registers: Registers, purpose: &str, code: RecoveryCode) -> Self {
        Self {
            binding: Some(Binding {
                registers,
                purpose: purpose.to_owned(),
            }),
            code: Some(Arc::new(code)),
            ..self
        }
    }

    /// The same TPM, which binds nothing to registers any more.
    #[must_use]
    pub fn unbound(self) -> Self {
        Self {
            binding: None,
            code: None,
            ..self
        }
    }

    /// The same TPM, whose [`Tpm::sealer`] opens what is bound by the code, whatever the registers hold. What it seals then is bound to
    /// what they hold now, and the code stays the same.
    #[must_use]
    pub fn recovering(self, code: RecoveryCode) -> Self {
        Self {
            code: Some(Arc::new(code)),
            ..self
        }
    }

    pub(crate) fn start(
        choice: TpmChoice,
        session: SessionKind,
        srk_name: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Self, TpmError> {
        let child = ChildId::default();
        let (theirs, opening) = (choice.clone(), child.clone());
        let (actor, about) = Actor::start(
            deadline,
            child.clone(),
            move || Device::open(theirs, session, srk_name, opening),
            |device| (device.srk_name().to_vec(), device.assurance()),
        )?;
        let (srk_name, assurance) = about;
        let assurance = assurance.map_err(|error| TpmError::Open {
            place: choice.place(),
            cause: error.to_string(),
        })?;
        Ok(Self {
            actor: Arc::new(actor),
            choice,
            srk_name: srk_name.into(),
            assurance,
            child,
            binding: None,
            code: None,
        })
    }

    /// What the keyring in this folder keeps to find this TPM again and no other: JSON of at most some hundred bytes, no secret.
    ///
    /// # Errors
    /// When the path of a device or folder is not UTF-8.
    pub fn settings(&self, folder: &Path) -> Result<String, TpmError> {
        let tpm = self.choice.relative_to(folder);
        Settings::new(tpm, &self.srk_name, self.binding.as_ref()).to_text()
    }

    /// Keys that live in the TPM and sign there.
    #[must_use]
    pub fn custody(&self) -> Arc<dyn Custody> {
        Arc::new(TpmCustody::new(Arc::clone(&self.actor)))
    }

    /// Secrets that only this TPM opens.
    #[must_use]
    pub fn sealer(&self) -> Arc<dyn Sealer> {
        let (actor, assurance) = (Arc::clone(&self.actor), self.assurance);
        match &self.binding {
            Some(binding) => Arc::new(BoundSealer::new(
                actor,
                assurance,
                binding.clone(),
                self.code.clone(),
            )),
            None => Arc::new(TpmSealer::new(actor, assurance)),
        }
    }

    /// How hard it is.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// What it says of itself now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn facts(&self) -> Result<TpmFacts, CustodyError> {
        self.actor.run(Lane::Host, Device::facts).await
    }

    /// The process id of the private software TPM, if there is one and it runs.
    #[must_use]
    pub fn swtpm_pid(&self) -> Option<u32> {
        self.child.current()
    }

    /// Kills the private software TPM as a crash would.
    #[cfg(test)]
    pub(crate) fn kill_child(&self) {
        self.child.kill();
    }
}
