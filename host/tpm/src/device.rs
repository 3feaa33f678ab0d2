//! The TPM as one thread sees it: connection, storage root key, session, loaded keys, and recovery. Not a queue: `actor.rs` has
//! it. Nothing here is shared.

use std::time::Duration;

use claviger_core::custody::{Assurance, CustodyError};
use claviger_core::stack::wipe_below;
use claviger_core::{Algorithm, Secret, Signature};
use rand_core::{OsRng, RngCore as _};
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::constants::{PropertyTag, StartupType};
use tss_esapi::handles::KeyHandle;
use tss_esapi::structures::{
    Auth, Digest, HashcheckTicket, Private, Public, SensitiveData, Signature as TpmSignature,
};
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;
use tss_esapi::{Error, WrapperErrorKind};

use crate::blob::{AUTH, Blob};
use crate::choice::TpmChoice;
use crate::code::{Code, LOCKED, describe};
use crate::counter::Counter;
use crate::error::TpmError;
use crate::link::{Link, LinkPlan};
use crate::residue;
use crate::sealer::MAX_SEALED;
use crate::swtpm::{ChildId, Swtpm};
use crate::template;
use crate::tpm::{SessionKind, TpmFacts};

/// How often a command is sent again to a TPM that says "retry", "yielded" or "testing", and the first pause; it doubles each
/// time, to some 2.5 s in all.
const WAIT_TRIES: u32 = 8;
const WAIT_FIRST: Duration = Duration::from_millis(10);

/// What keys can be made and stay here. Every TPM 2.0 for PCs has both (TCG PC Client Platform TPM Profile §4.4).
pub(crate) const RESIDENT: [Algorithm; 2] = [Algorithm::P256, Algorithm::Rsa2048];

/// A key with what is needed to load it again.
pub(crate) struct KeyBlob {
    pub(crate) id: KeyId,
    pub(crate) public: Public,
    pub(crate) private: Private,
    pub(crate) auth: Secret,
    /// What it hangs on, if the TPM itself is to refuse it once it is revoked.
    pub(crate) counter: Option<Counter>,
}

/// Numbers the open keys of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyId(pub(crate) u64);

/// What a new object is stored as.
pub(crate) struct Created {
    pub(crate) public: Public,
    pub(crate) private: Private,
}

/// Why an operation on a link failed.
pub(crate) enum Failure {
    /// A command failed: decide by its code.
    Tss(Error),
    /// As that, of a command that was not sent through tss-esapi.
    Code(u32),
    /// The answer is final.
    Final(CustodyError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Tss(error)
    }
}

/// The device and everything that has to be made anew when it is lost.
pub(crate) struct Device {
    choice: TpmChoice,
    session: SessionKind,
    // Invariant: set by the first connection, and never changed.
    srk_name: Option<Vec<u8>>,
    // Every handle and session belongs to one link, so after a reset or a crash none of an older generation can be used.
    // Dropped before the child: closing a context flushes handles.
    link: Option<Link>,
    swtpm: Option<Swtpm>,
    child: ChildId,
}

impl Device {
    /// Opens the device and finds its storage root key. With `srk_name`, only the TPM that has this one.
    pub(crate) fn open(
        choice: TpmChoice,
        session: SessionKind,
        srk_name: Option<Vec<u8>>,
        child: ChildId,
    ) -> Result<Self, TpmError> {
        if let TpmChoice::Device(path) = &choice {
            crate::choice::probe_device(path)?;
        }
        let mut device = Self {
            choice,
            session,
            srk_name,
            link: None,
            swtpm: None,
            child,
        };
        device.link()?;
        Ok(device)
    }

    pub(crate) fn srk_name(&self) -> &[u8] {
        self.srk_name.as_deref().unwrap_or_default()
    }

    /// Makes a key of this template with this authorisation value. An RSA key takes a TPM some seconds.
    pub(crate) fn create_key(&mut self, template: &Public, auth: &Secret) -> Result<Created, CustodyError> {
        self.run("make a key", |link| {
            link.create(template.clone(), auth.expose(), None)
        })
    }

    /// Loads a key, to see that it can be.
    pub(crate) fn load_key(&mut self, key: &KeyBlob) -> Result<(), CustodyError> {
        self.run("load a key", |link| link.load_key(key).map(|_| ()))
    }

    /// Unloads a key that is not needed any more.
    pub(crate) fn unload_key(&mut self, id: KeyId) {
        if let Some(link) = &mut self.link {
            link.forget_key(id);
        }
    }

    /// Signs a SHA-256 digest, in the scheme that the key was made for.
    pub(crate) fn sign(&mut self, key: &KeyBlob, digest: &[u8; 32]) -> Result<Signature, CustodyError> {
        if let Some(counter) = key.counter {
            return self.sign_revocable(key, counter, digest);
        }
        self.run("sign", |link| {
            let handle = link.load_key(key)?;
            // The key is not a restricted one, so no ticket is needed to show that the TPM hashed the message.
            let ticket = HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
                tag: TPM2_ST_HASHCHECK,
                hierarchy: TPM2_RH_NULL,
                digest: tss_esapi::tss2_esys::TPM2B_DIGEST::default(),
            })?;
            let digest = Digest::try_from(digest.as_slice())?;
            let signature = link
                .context()
                .sign(handle, digest, template::scheme(&key.public), ticket)?;
            signature_of(&signature).ok_or(Failure::Tss(Error::WrapperError(
                WrapperErrorKind::WrongValueFromTpm,
            )))
        })
    }

    /// Seals data under this authorisation value.
    pub(crate) fn seal(&mut self, auth: &[u8; AUTH], data: &Secret) -> Result<Created, CustodyError> {
        let template = template::sealed_data(None).map_err(|error| CustodyError::Fault(error.to_string()))?;
        self.seal_as(&template, auth, data)
    }

    /// Seals data by this template under this authorisation value.
    pub(crate) fn seal_as(
        &mut self,
        template: &Public,
        auth: &[u8; AUTH],
        data: &Secret,
    ) -> Result<Created, CustodyError> {
        let sealed = self.run("seal", |link| {
            let made = link.create(template.clone(), auth, Some(data.expose()));
            // libtss2 keeps what it last sealed. What it cannot seal again it has not kept either: the connection broke.
            drop(link.create(template::sealed_data(None)?, auth, Some(&[0; MAX_SEALED])));
            made
        });
        wipe_below::<{ residue::STACK_WORDS }>();
        sealed
    }

    /// Opens sealed data.
    pub(crate) fn unseal(&mut self, blob: &Blob, auth: &[u8; AUTH]) -> Result<Secret, CustodyError> {
        self.unseal_by(blob, auth, |link, handle| {
            Ok(link.context().unseal(handle.into())?)
        })
    }

    /// Loads sealed data, opens it in this way, and unloads it.
    pub(crate) fn unseal_by(
        &mut self,
        blob: &Blob,
        auth: &[u8; AUTH],
        mut open: impl FnMut(&mut Link, KeyHandle) -> Result<SensitiveData, Failure>,
    ) -> Result<Secret, CustodyError> {
        let unsealed = self.run("unseal", |link| {
            let handle = link.load_object(&blob.public, &blob.private, auth)?;
            let pieces = residue::Pieces::take();
            let result = open(link, handle);
            pieces.overwrite();
            link.cover_answer();
            let flushed = link.flush(handle);
            let data = result?;
            flushed?;
            // `SensitiveData` wipes itself, and what libtss2 left is overwritten: this is the one copy that stays.
            Secret::fill_with(data.len(), |bytes| {
                bytes.copy_from_slice(data.value());
                Ok::<(), claviger_core::secret::SecretError>(())
            })
            .map_err(|error| Failure::Final(error.into()))
        });
        wipe_below::<{ residue::STACK_WORDS }>();
        unsealed
    }

    /// How hard it is, by what it says of itself.
    pub(crate) fn assurance(&mut self) -> Result<Assurance, CustodyError> {
        let manufacturer = self.run("name its maker", |link| Ok(manufacturer(link)?))?;
        Ok(assurance(&self.choice, &manufacturer))
    }

    /// What `doctor` shows.
    pub(crate) fn facts(&mut self) -> Result<TpmFacts, CustodyError> {
        let (manufacturer, firmware) = self.run("describe itself", |link| {
            let manufacturer = manufacturer(link)?;
            let mut number = |tag| {
                link.context()
                    .get_tpm_property(tag)
                    .map(Option::unwrap_or_default)
            };
            let firmware = (
                number(PropertyTag::FirmwareVersion1)?,
                number(PropertyTag::FirmwareVersion2)?,
            );
            Ok((manufacturer, firmware))
        })?;
        Ok(TpmFacts {
            assurance: assurance(&self.choice, &manufacturer),
            manufacturer,
            firmware: format!("{:08x}.{:08x}", firmware.0, firmware.1),
            srk_name: hex::encode(self.srk_name()),
            sessions: self.session,
            resident_algorithms: RESIDENT.to_vec(),
        })
    }

    /// Shuts the TPM down in order if it is our own. Then everything is closed.
    pub(crate) fn close(mut self) {
        if let (Some(link), true) = (&mut self.link, self.swtpm.is_some()) {
            link.unload_all();
            // If this fails the state is as after a power cut, which swtpm survives.
            link.context()
                .execute_without_session(|c| c.shutdown(StartupType::Clear))
                .ok();
        }
        self.link = None;
        if let Some(child) = self.swtpm.take() {
            child.stop();
        }
    }

    /// Runs an operation that may be repeated: after a lost connection or reset once, for lack of slots once, and while the TPM
    /// asks for patience.
    pub(crate) fn run<T>(
        &mut self,
        doing: &'static str,
        mut operation: impl FnMut(&mut Link) -> Result<T, Failure>,
    ) -> Result<T, CustodyError> {
        let (mut linked_anew, mut slots_freed, mut waits) = (false, false, 0);
        loop {
            let (code, said) = match operation(self.link()?) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Tss(error)) => (Code::of(&error), describe(&error)),
                Err(Failure::Code(code)) => (Code::of_raw(code), format!("code {code:#x}")),
            };
            let unavailable =
                |why: &str| CustodyError::Unavailable(format!("the TPM cannot {doing}: {why} ({said})"));
            match code {
                Code::Dead | Code::Stale if !linked_anew => {
                    linked_anew = true;
                    self.unlink();
                }
                Code::Dead => {
                    self.unlink();
                    return Err(unavailable("the connection was lost twice"));
                }
                Code::Stale => {
                    self.unlink();
                    return Err(unavailable("it was reset twice"));
                }
                Code::Slots if !slots_freed => {
                    slots_freed = true;
                    self.unlink();
                }
                Code::Slots => return Err(unavailable("other programs hold all its slots")),
                Code::Wait if waits < WAIT_TRIES => {
                    std::thread::sleep(WAIT_FIRST * 2_u32.saturating_pow(waits));
                    waits += 1;
                }
                Code::Wait => return Err(unavailable("it is busy")),
                Code::Lockout => return Err(unavailable(LOCKED)),
                Code::Auth | Code::Integrity => {
                    return Err(CustodyError::NotOurs(format!(
                        "this was made by another TPM or for another purpose, or was changed ({said})"
                    )));
                }
                Code::Parameter(_) | Code::Other(_) | Code::Local => {
                    // Something nobody foresaw: nothing of this connection is trusted further.
                    self.unlink();
                    return Err(CustodyError::Fault(format!("the TPM failed to {doing} ({said})")));
                }
            }
        }
    }

    /// The connection, made if there is none.
    fn link(&mut self) -> Result<&mut Link, TpmError> {
        if self.link.is_none() {
            if let TpmChoice::Swtpm { state } = &self.choice {
                // Whatever became of the last child: collected first, so that its lock and its ports are free.
                self.swtpm = None;
                self.swtpm = Some(Swtpm::start(state, &self.child)?);
            }
            let plan = LinkPlan {
                choice: &self.choice,
                port: self.swtpm.as_ref().map(Swtpm::port),
                session: self.session,
                srk_name: self.srk_name.as_deref(),
            };
            let link = open_patiently(&plan)?;
            self.srk_name.get_or_insert_with(|| link.srk_name().to_vec());
            self.link = Some(link);
        }
        self.link.as_mut().ok_or_else(|| TpmError::Open {
            place: self.choice.place(),
            cause: "no connection".to_owned(),
        })
    }

    fn unlink(&mut self) {
        self.link = None;
    }
}

/// Opens a connection, and waits for a TPM that says "retry" or tests itself, as one does after the machine started.
fn open_patiently(plan: &LinkPlan<'_>) -> Result<Link, TpmError> {
    let mut waits = 0;
    loop {
        match Link::open(plan) {
            Err(TpmError::Command { code: Some(code), .. })
                if Code::of_raw(code) == Code::Wait && waits < WAIT_TRIES =>
            {
                std::thread::sleep(WAIT_FIRST * 2_u32.saturating_pow(waits));
                waits += 1;
            }
            result => return result,
        }
    }
}

/// A signature as core has it, if it is of a kind that our keys make.
pub(crate) fn signature_of(signature: &TpmSignature) -> Option<Signature> {
    match signature {
        TpmSignature::EcDsa(pair) => {
            let mut bytes = [0_u8; 64];
            let (r, s) = bytes.split_at_mut(32);
            template::left_pad(r, pair.signature_r().value())?;
            template::left_pad(s, pair.signature_s().value())?;
            Some(Signature::new(Algorithm::P256, bytes))
        }
        TpmSignature::RsaSsa(number) => {
            let mut bytes = [0_u8; 256];
            template::left_pad(&mut bytes, number.signature().value())?;
            Some(Signature::rsa2048(bytes))
        }
        TpmSignature::RsaPss(_)
        | TpmSignature::EcDaa(_)
        | TpmSignature::Sm2(_)
        | TpmSignature::EcSchnorr(_)
        | TpmSignature::Hmac(_)
        | TpmSignature::Null => None,
    }
}

/// Four characters in a number, as `TPM_PT_MANUFACTURER` has them, made safe to show.
fn text(number: u32) -> String {
    let bytes: Vec<u8> = number.to_be_bytes().into_iter().filter(|b| *b != 0).collect();
    claviger_core::name::escape(&String::from_utf8_lossy(&bytes), 8)
        .trim()
        .to_owned()
}

/// `TPM_PT_MANUFACTURER`. A TPM that has none says nothing.
fn manufacturer(link: &mut Link) -> Result<String, Error> {
    let number = link.context().get_tpm_property(PropertyTag::Manufacturer)?;
    Ok(text(number.unwrap_or_default()))
}

/// Who makes TPMs that are part of a machine: chips, and firmware in a processor's own protected part (TCG TPM Vendor ID Registry;
/// `CROS` is Chromebooks' chip). Left out, because their TPMs are programs: `IBM` (swtpm, QEMU, VirtualBox), `MSFT` (Hyper-V and
/// Azure; also Pluton, which cannot be told from them), `GOOG`, `AMZN`, `VMW`, and the simulators' `XYZZ` and `SIM…`. A program that
/// nobody has heard of is not on the list either; one that lies is not found out.
const HARDWARE_MAKERS: [&str; 22] = [
    "AMD", "ATML", "BRCM", "CROS", "CSCO", "FLYS", "HISI", "IFX", "INTC", "LEN", "NSM", "NTC", "NTZ", "QCOM",
    "ROCC", "SECE", "SMSC", "SMSN", "SNS", "STM", "TXN", "WEC",
];

/// How hard it is. Only what is known to be part of a machine is called hardware: a virtual machine's TPM is a program of whoever
/// runs the machine, though a guest has it as a device.
pub(crate) fn assurance(choice: &TpmChoice, manufacturer: &str) -> Assurance {
    match choice {
        TpmChoice::Swtpm { .. } => Assurance::Swtpm,
        TpmChoice::Tcti(name) if name.starts_with("swtpm") || name.starts_with("mssim") => Assurance::Swtpm,
        TpmChoice::Device(_) | TpmChoice::Tcti(_) if HARDWARE_MAKERS.contains(&manufacturer) => {
            Assurance::Hardware
        }
        TpmChoice::Device(_) | TpmChoice::Tcti(_) => Assurance::Swtpm,
    }
}

/// 32 random bytes in locked memory, for an authorisation value.
pub(crate) fn random_secret() -> Result<Secret, CustodyError> {
    Secret::fill_with(AUTH, |bytes| {
        OsRng
            .try_fill_bytes(bytes)
            .map_err(|e| CustodyError::Unavailable(format!("the system gives no random numbers: {e}")))
    })
}

/// What an object may be used with, in the form libtss2 takes.
pub(crate) fn auth(bytes: &[u8]) -> Result<Auth, Failure> {
    Ok(Auth::try_from(bytes)?)
}
