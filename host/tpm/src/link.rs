//! One connection to a TPM, with its storage root key, its session and the keys loaded through it. Ends as a whole: what broke
//! is not mended here but made anew by `device.rs`.

use std::str::FromStr as _;

use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::{SessionType, StartupType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Private, Public, SensitiveData, SymmetricDefinition};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::{Context, Error};

use claviger_core::custody::CustodyError;

use crate::choice::TpmChoice;
use crate::code::{Code, describe, raw};
use crate::device::{Created, Failure, KeyBlob, KeyId, auth};
use crate::error::TpmError;
use crate::esys::Esys;
use crate::template;
use crate::tpm::SessionKind;

/// Where the TCG puts the ECC storage root key (TPM v2.0 Provisioning Guidance §7.8).
pub(crate) const SRK_HANDLE: u32 = 0x8100_0001;

/// TPM_RC_BINDING: public and private half are not of one key.
const BINDING: u32 = 0xA5;

/// A TPM has three slots for objects at least, and the storage root key takes one while a command uses it.
const MAX_LOADED: usize = 2;

/// What a connection is to be.
pub(crate) struct LinkPlan<'a> {
    pub(crate) choice: &'a TpmChoice,
    /// The port of the private software TPM.
    pub(crate) port: Option<u16>,
    pub(crate) session: SessionKind,
    /// The Name that the storage root key must have.
    pub(crate) srk_name: Option<&'a [u8]>,
}

/// An open connection.
pub(crate) struct Link {
    context: Context,
    session: AuthSession,
    srk: KeyHandle,
    srk_name: Vec<u8>,
    // Invariant: at most MAX_LOADED, the least recently used first.
    loaded: Vec<(KeyId, KeyHandle)>,
    tcti: String,
    /// The second connection, for what this one cannot do; open once it was needed.
    unit: Option<Esys>,
}

impl Link {
    pub(crate) fn open(plan: &LinkPlan<'_>) -> Result<Self, TpmError> {
        let (mut context, tcti) = connect(plan)?;
        let (srk, srk_name) = storage_root(&mut context, plan.srk_name)?;
        let session = match plan.session {
            SessionKind::Password => AuthSession::Password,
            SessionKind::SaltedEncrypted => {
                salted_session(&mut context, srk).map_err(failed("start a session"))?
            }
        };
        context.set_sessions((Some(session), None, None));
        Ok(Self {
            context,
            session,
            srk,
            srk_name,
            loaded: Vec::new(),
            tcti,
            unit: None,
        })
    }

    pub(crate) fn srk_name(&self) -> &[u8] {
        &self.srk_name
    }

    /// Whether the TPM has the storage root key still that this connection found.
    pub(crate) fn has_root(&mut self) -> bool {
        let srk = self.srk;
        let read = self
            .context
            .execute_without_session(|context| context.read_public(srk));
        read.is_ok_and(|(_, name, _)| name.value() == self.srk_name)
    }

    /// The storage root key.
    pub(crate) const fn root(&self) -> KeyHandle {
        self.srk
    }

    pub(crate) fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    /// What commands are authorised with.
    pub(crate) const fn session(&self) -> AuthSession {
        self.session
    }

    /// The tpm2-tools name of the connection.
    pub(crate) fn tcti(&self) -> &str {
        &self.tcti
    }

    pub(crate) fn take_unit(&mut self) -> Option<Esys> {
        self.unit.take()
    }

    pub(crate) fn keep_unit(&mut self, unit: Esys) {
        self.unit = Some(unit);
    }

    /// Makes an object under the storage root key.
    pub(crate) fn create(
        &mut self,
        public: Public,
        value: &[u8],
        data: Option<&[u8]>,
    ) -> Result<Created, Failure> {
        self.make_room()?;
        let data = data.map(SensitiveData::try_from).transpose()?;
        let made = self
            .context
            .create(self.srk, public, Some(auth(value)?), data, None, None)?;
        Ok(Created {
            public: made.out_public,
            private: made.out_private,
        })
    }

    /// The handle of a key, loaded if it is not.
    pub(crate) fn load_key(&mut self, key: &KeyBlob) -> Result<KeyHandle, Failure> {
        if let Some(at) = self.loaded.iter().position(|(id, _)| *id == key.id) {
            let entry = self.loaded.remove(at);
            self.loaded.push(entry);
            return Ok(entry.1);
        }
        let handle = self.load_object(&key.public, &key.private, key.auth.expose())?;
        self.loaded.push((key.id, handle));
        Ok(handle)
    }

    /// Loads an object. The caller flushes it.
    pub(crate) fn load_object(
        &mut self,
        public: &Public,
        private: &Private,
        value: &[u8],
    ) -> Result<KeyHandle, Failure> {
        self.make_room()?;
        let loaded = self.context.load(self.srk, private.clone(), public.clone());
        let handle = loaded.map_err(|error| match Code::of(&error) {
            // The TPM read the blob and found it malformed.
            Code::Parameter(_) | Code::Other(BINDING) | Code::Local => Failure::Final(CustodyError::NotOurs(
                format!("the blob is damaged or not of this TPM ({})", describe(&error)),
            )),
            Code::Dead
            | Code::Stale
            | Code::Wait
            | Code::Slots
            | Code::Auth
            | Code::Integrity
            | Code::Lockout
            | Code::Other(_) => Failure::Tss(error),
        })?;
        match auth(value).and_then(|value| Ok(self.context.tr_set_auth(handle.into(), value)?)) {
            Ok(()) => Ok(handle),
            Err(failure) => {
                self.flush(handle)?;
                Err(failure)
            }
        }
    }

    pub(crate) fn flush(&mut self, handle: KeyHandle) -> Result<(), Error> {
        let handle: ObjectHandle = handle.into();
        self.context
            .execute_without_session(|context| context.flush_context(handle))
    }

    /// Has libtss2 receive something else in the buffer that a secret came through: the public area and Names of the storage root
    /// key, some 160 bytes from where the data of any answer begin. If it fails, the next command does the same.
    pub(crate) fn cover_answer(&mut self) {
        let srk = self.srk;
        self.context
            .execute_without_session(|context| context.read_public(srk))
            .ok();
    }

    /// Unloads a key if it is loaded. A failure shows at the next command.
    pub(crate) fn forget_key(&mut self, id: KeyId) {
        if let Some(at) = self.loaded.iter().position(|(loaded, _)| *loaded == id) {
            let (_, handle) = self.loaded.remove(at);
            self.flush(handle).ok();
        }
    }

    pub(crate) fn unload_all(&mut self) {
        while let Some((id, _)) = self.loaded.first().copied() {
            self.forget_key(id);
        }
    }

    /// Leaves one slot for the storage root key and one for what comes.
    pub(crate) fn make_room(&mut self) -> Result<(), Error> {
        while self.loaded.len() >= MAX_LOADED {
            let (_, handle) = self.loaded.remove(0);
            self.flush(handle)?;
        }
        Ok(())
    }
}

/// The connection, and its tpm2-tools name.
fn connect(plan: &LinkPlan<'_>) -> Result<(Context, String), TpmError> {
    let (name, ours) = match (plan.choice, plan.port) {
        (TpmChoice::Swtpm { .. }, Some(port)) => (format!("swtpm:host=127.0.0.1,port={port}"), true),
        (TpmChoice::Swtpm { .. }, None) => (String::new(), true),
        (TpmChoice::Device(path), _) => (format!("device:{}", path.display()), false),
        (TpmChoice::Tcti(name), _) => (name.clone(), false),
    };
    let conf = TctiNameConf::from_str(&name).map_err(|_| TpmError::Tcti(name.clone()))?;
    let open = |error: Error| TpmError::Open {
        place: plan.choice.place(),
        cause: format!(
            "{}; if a module is missing: `apt-get install libtss2-tcti-device0 libtss2-tcti-swtpm0`",
            describe(&error)
        ),
    };
    let mut context = Context::new(conf).map_err(open)?;
    // A device was started by the firmware. Everything else is started here, unless it was already.
    let is_device = name.starts_with("device");
    if ours || !is_device {
        context.startup(StartupType::Clear).map_err(open)?;
    }
    Ok((context, name))
}

pub(crate) fn failed(doing: &'static str) -> impl Fn(Error) -> TpmError {
    move |error| TpmError::Command {
        doing,
        cause: describe(&error),
        code: raw(&error),
    }
}

/// The Name of the storage root key, which must be the pinned one. Checked before salting, since a salt is encrypted to this key
/// and whoever holds another one reads every session; and before anything is kept in a TPM that is not ours.
fn pinned_name(context: &mut Context, srk: KeyHandle, expected: Option<&[u8]>) -> Result<Vec<u8>, TpmError> {
    let name = name_of(context, srk)?;
    match expected {
        Some(expected) if expected != name => Err(TpmError::NotOurs {
            expected: hex::encode(expected),
            found: hex::encode(&name),
        }),
        Some(_) | None => Ok(name),
    }
}

fn name_of(context: &mut Context, key: KeyHandle) -> Result<Vec<u8>, TpmError> {
    let name = context
        .tr_get_name(key.into())
        .map_err(failed("name its storage root key"))?;
    Ok(name.value().to_vec())
}

/// The persistent storage root key if there is one of our template, else one made from it, persistent if the owner lets us.
fn storage_root(context: &mut Context, expected: Option<&[u8]>) -> Result<(KeyHandle, Vec<u8>), TpmError> {
    let template = template::storage_root().map_err(failed("describe a storage root key"))?;
    let persistent =
        PersistentTpmHandle::new(SRK_HANDLE).map_err(failed("name the storage root key's place"))?;
    match context.tr_from_tpm_public(TpmHandle::Persistent(persistent)) {
        Ok(object) => {
            let handle = KeyHandle::from(object);
            // libtss2 computes the Name from the public area it was given and will salt with. That it is the pinned one says that
            // the area is the one which was of the template then: nothing is left to read.
            if let Some(expected) = expected
                && name_of(context, handle)? == expected
            {
                return Ok((handle, expected.to_vec()));
            }
            let (public, _, _) = context
                .read_public(handle)
                .map_err(failed("read its storage root key"))?;
            if template::is_of(&public, &template) {
                let name = pinned_name(context, handle, expected)?;
                return Ok((handle, name));
            }
        }
        Err(error) => match Code::of(&error) {
            // Nothing is there.
            Code::Stale => {}
            Code::Dead
            | Code::Wait
            | Code::Slots
            | Code::Auth
            | Code::Integrity
            | Code::Lockout
            | Code::Parameter(_)
            | Code::Other(_)
            | Code::Local => return Err(failed("read its storage root key")(error)),
        },
    }
    // The owner's password is empty here or unknown; a session with it protects nothing.
    context.execute_with_session(Some(AuthSession::Password), |context| {
        let made = context
            .create_primary(Hierarchy::Owner, template, None, None, None, None)
            .map_err(|error| match Code::of(&error) {
                Code::Auth => TpmError::OwnerPassword,
                Code::Dead
                | Code::Stale
                | Code::Wait
                | Code::Slots
                | Code::Integrity
                | Code::Lockout
                | Code::Parameter(_)
                | Code::Other(_)
                | Code::Local => failed("make its storage root key")(error),
            })?;
        let name = pinned_name(context, made.key_handle, expected)?;
        let kept = context.evict_control(
            Provision::Owner,
            made.key_handle.into(),
            Persistent::Persistent(persistent),
        );
        match kept {
            Ok(object) => {
                context
                    .execute_without_session(|c| c.flush_context(made.key_handle.into()))
                    .map_err(failed("flush a key"))?;
                Ok((KeyHandle::from(object), name))
            }
            // Another key has the place, or there is no room: it is made again at each start, with the same Name.
            Err(_) => Ok((made.key_handle, name)),
        }
    })
}

/// A session whose secret is encrypted to the storage root key, and which encrypts the first parameter both ways.
fn salted_session(context: &mut Context, srk: KeyHandle) -> Result<AuthSession, Error> {
    let session = context
        .start_auth_session(
            Some(srk),
            None,
            None,
            SessionType::Hmac,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )?
        .ok_or(Error::WrapperError(
            tss_esapi::WrapperErrorKind::WrongValueFromTpm,
        ))?;
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_continue_session(true)
        .with_decrypt(true)
        .with_encrypt(true)
        .build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    Ok(session)
}
