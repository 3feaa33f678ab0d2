//! `PolicyNV`, which tss-esapi 7.7 lacks: a connection of its own on which what hangs on a counter is loaded, its policy satisfied, and
//! a digest signed, a MAC made or data unsealed, in one unit. Beside `process.rs` the only file of this crate with `unsafe`; it decides nothing and keeps nothing
//! between two units.
//!
//! A `tss_esapi::Context` neither gives its `ESYS_CONTEXT` away nor takes one, and on `/dev/tpmrm0` what one connection loaded no other
//! sees. So the whole unit is done here, by libtss2's own functions (TCG TSS 2.0 ESAPI): it computes the session's HMACs, and the
//! authorisation value never goes over the bus.

use std::ffi::{CStr, CString};
use std::ptr::{null, null_mut};

use claviger_core::Secret;
use claviger_core::secret::SecretError;

use tss_esapi::constants::tss::{
    TPM2_ALG_NULL, TPM2_ALG_SHA256, TPM2_EO_EQ, TPM2_RH_NULL, TPM2_SE_POLICY, TPM2_ST_HASHCHECK,
    TPMA_SESSION_CONTINUESESSION, TPMA_SESSION_ENCRYPT,
};
use tss_esapi::structures::{Auth, Digest, MaxBuffer, Private, Public, Signature, SymmetricDefinition};
use tss_esapi::tss2_esys::{
    ESYS_CONTEXT, ESYS_TR, ESYS_TR_NONE, ESYS_TR_PASSWORD, Esys_Finalize, Esys_FlushContext, Esys_Free,
    Esys_HMAC, Esys_Initialize, Esys_Load, Esys_PolicyAuthValue, Esys_PolicyCommandCode, Esys_PolicyNV,
    Esys_Sign, Esys_StartAuthSession, Esys_TR_Close, Esys_TR_FromTPMPublic, Esys_TR_GetName, Esys_TR_SetAuth,
    Esys_TRSess_SetAttributes, Esys_Unseal, TPM2B_AUTH, TPM2B_DIGEST, TPM2B_MAX_BUFFER, TPM2B_NAME,
    TPM2B_PUBLIC, TPM2B_SENSITIVE_DATA, TPMT_SIG_SCHEME, TPMT_SIGNATURE, TPMT_SYM_DEF, TPMT_TK_HASHCHECK,
    TSS2_RC, TSS2_TCTI_CONTEXT, Tss2_TctiLdr_Finalize, Tss2_TctiLdr_Initialize,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::blob::Blob;
use crate::counter::{Counter, Use};
use crate::device::KeyBlob;
use crate::residue::Pieces;

/// TPM_RC_HANDLE about the first handle: nothing has that number.
pub(crate) const NOTHING_THERE: u32 = 0x18B;

/// Why a unit failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A command failed with this code.
    Code(u32),
    /// The TPM does not allow the key any more: its counter is at another value, or gone.
    Revoked,
    /// The persistent key is not the storage root key that is expected.
    OtherRoot,
    /// A value cannot be handed to libtss2, or an answer not be read.
    Value,
}

/// The `TSS2_RC` of a function as a result.
fn done(code: TSS2_RC) -> Result<(), Refused> {
    if code == 0 {
        Ok(())
    } else {
        Err(Refused::Code(code))
    }
}

/// What hangs on a counter, to be loaded.
struct Object<'a> {
    public: &'a Public,
    private: &'a Private,
    auth: &'a [u8],
    counter: Counter,
}

impl<'a> Object<'a> {
    fn of(key: &'a KeyBlob, counter: Counter) -> Self {
        Self {
            public: &key.public,
            private: &key.private,
            auth: key.auth.expose(),
            counter,
        }
    }
}

/// A connection of its own.
pub(crate) struct Esys {
    // Invariant: both from libtss2's initialisation and live until `drop`, the context over this TCTI.
    context: *mut ESYS_CONTEXT,
    tcti: *mut TSS2_TCTI_CONTEXT,
}

impl Esys {
    /// Opens a connection by its tpm2-tools name.
    pub(crate) fn open(name: &str) -> Result<Self, Refused> {
        let name = CString::new(name).map_err(|_| Refused::Value)?;
        let tcti = open_tcti(&name)?;
        let mut context = null_mut();
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: `tcti` was just initialised; libtss2 writes the context's address into a local; no ABI version is asked for.
        let code = unsafe { Esys_Initialize(&raw mut context, tcti, null_mut()) };
        let this = Self { context, tcti };
        // From here `drop` closes what there is.
        done(code)?;
        Ok(this)
    }

    /// Loads the key, satisfies its policy, signs, and flushes both: nothing of it outlives this.
    pub(crate) fn sign(
        &mut self,
        root: (u32, &[u8]),
        key: &KeyBlob,
        counter: Counter,
        digest: &[u8; 32],
    ) -> Result<Signature, Refused> {
        let object = Object::of(key, counter);
        self.unit(root, &object, Use::Sign, |esys, session, key| {
            esys.sign_in(session, key, digest)
        })
    }

    /// The same with a key for MACs.
    pub(crate) fn mac(
        &mut self,
        root: (u32, &[u8]),
        key: &KeyBlob,
        counter: Counter,
        message: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Refused> {
        let object = Object::of(key, counter);
        self.unit(root, &object, Use::Mac, |esys, session, key| {
            esys.mac_in(session, key, message)
        })
    }

    /// The same with sealed data, which comes back encrypted.
    pub(crate) fn unseal(
        &mut self,
        root: (u32, &[u8]),
        blob: &Blob,
        auth: &[u8],
        counter: Counter,
    ) -> Result<Secret, Refused> {
        let object = Object {
            public: &blob.public,
            private: &blob.private,
            auth,
            counter,
        };
        let pieces = Pieces::take();
        let unsealed = self.unit(root, &object, Use::Unseal, Self::unseal_in);
        pieces.overwrite();
        // As `Link::cover_answer`: something else in the buffer that the data came through.
        if let Ok(root) = self.known(root.0) {
            self.close(root);
        }
        unsealed
    }

    fn unit<T>(
        &mut self,
        root: (u32, &[u8]),
        object: &Object<'_>,
        used: Use,
        work: impl FnOnce(&mut Self, ESYS_TR, ESYS_TR) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let parent = match self.known(root.0) {
            Err(Refused::Code(NOTHING_THERE)) => return Err(Refused::OtherRoot),
            other => other?,
        };
        let result = self.under(parent, root.1, object, used, work);
        self.close(parent);
        result
    }

    fn under<T>(
        &mut self,
        parent: ESYS_TR,
        root_name: &[u8],
        object: &Object<'_>,
        used: Use,
        work: impl FnOnce(&mut Self, ESYS_TR, ESYS_TR) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        if self.name(parent)? != root_name {
            return Err(Refused::OtherRoot);
        }
        let index = match self.known(object.counter.index()) {
            Err(Refused::Code(NOTHING_THERE)) => return Err(Refused::Revoked),
            other => other?,
        };
        let result = self.load(parent, object).and_then(|loaded| {
            let salt = match used {
                Use::Unseal => Some(parent),
                Use::Sign | Use::Mac => None,
            };
            let session = self.policy_session(salt);
            let done = session.and_then(|session| {
                let satisfied = self.satisfy(session, index, object.counter, used);
                let done = satisfied.and_then(|()| work(self, session, loaded));
                self.end(session, done)
            });
            // A key that stays behind goes with the connection, which is given up on any failure.
            let flushed = self.flush(loaded);
            done.and_then(|done| flushed.map(|()| done))
        });
        self.close(index);
        result
    }

    /// Ends a policy session: one that was satisfied stays satisfied while it lives.
    fn end<T>(&mut self, session: ESYS_TR, done: Result<T, Refused>) -> Result<T, Refused> {
        let flushed = self.flush(session);
        match done {
            // POLICY: the counter has another value. POLICY_FAIL of session 1: it has another Name, so it is another index.
            Err(Refused::Code(0x126 | 0x99D)) => Err(Refused::Revoked),
            other => other.and_then(|done| flushed.map(|()| done)),
        }
    }

    fn satisfy(
        &mut self,
        session: ESYS_TR,
        index: ESYS_TR,
        counter: Counter,
        used: Use,
    ) -> Result<(), Refused> {
        let expected: TPM2B_DIGEST = Digest::try_from(counter.value().to_be_bytes().as_slice())
            .map_err(|_| Refused::Value)?
            .into();
        let (none, context) = (ESYS_TR_NONE, self.context);
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives; the handles are of this context; the operand is a local that is only read.
        done(unsafe {
            Esys_PolicyNV(
                context,
                index,
                index,
                session,
                ESYS_TR_PASSWORD,
                none,
                none,
                &raw const expected,
                0,
                TPM2_EO_EQ,
            )
        })?;
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives, and the session is of this context.
        done(unsafe { Esys_PolicyCommandCode(context, session, none, none, none, used.code()) })?;
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: as above.
        done(unsafe { Esys_PolicyAuthValue(context, session, none, none, none) })
    }

    fn sign_in(&mut self, session: ESYS_TR, key: ESYS_TR, digest: &[u8; 32]) -> Result<Signature, Refused> {
        let digest: TPM2B_DIGEST = Digest::try_from(digest.as_slice())
            .map_err(|_| Refused::Value)?
            .into();
        let scheme = TPMT_SIG_SCHEME {
            scheme: TPM2_ALG_NULL,
            ..TPMT_SIG_SCHEME::default()
        };
        // The key is not a restricted one, so no ticket is needed to show that the TPM hashed the message.
        let ticket = TPMT_TK_HASHCHECK {
            tag: TPM2_ST_HASHCHECK,
            hierarchy: TPM2_RH_NULL,
            digest: TPM2B_DIGEST::default(),
        };
        let mut signature: *mut TPMT_SIGNATURE = null_mut();
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives; the handles are of this context; what is read are locals, and libtss2 writes the address of a
        // structure that it allocated into another.
        done(unsafe {
            Esys_Sign(
                self.context,
                key,
                session,
                ESYS_TR_NONE,
                ESYS_TR_NONE,
                &raw const digest,
                &raw const scheme,
                &raw const ticket,
                &raw mut signature,
            )
        })?;
        let answer = take(signature).ok_or(Refused::Value)?;
        Signature::try_from(answer).map_err(|_| Refused::Value)
    }

    fn mac_in(
        &mut self,
        session: ESYS_TR,
        key: ESYS_TR,
        message: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Refused> {
        let buffer: TPM2B_MAX_BUFFER = MaxBuffer::try_from(message).map_err(|_| Refused::Value)?.into();
        let mut value: *mut TPM2B_DIGEST = null_mut();
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives; the handles are of this context; the message is a local that is only read, and libtss2 writes the
        // address of a structure that it allocated into another.
        done(unsafe {
            Esys_HMAC(
                self.context,
                key,
                session,
                ESYS_TR_NONE,
                ESYS_TR_NONE,
                &raw const buffer,
                TPM2_ALG_SHA256,
                &raw mut value,
            )
        })?;
        let value = take(value).ok_or(Refused::Value)?;
        let bytes = value.buffer.first_chunk().filter(|_| value.size == 32);
        bytes.copied().map(Zeroizing::new).ok_or(Refused::Value)
    }

    fn unseal_in(&mut self, session: ESYS_TR, object: ESYS_TR) -> Result<Secret, Refused> {
        let mut data: *mut TPM2B_SENSITIVE_DATA = null_mut();
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives; the handles are of this context; libtss2 writes the address of a structure that it allocated into a
        // local.
        done(unsafe {
            Esys_Unseal(
                self.context,
                object,
                session,
                ESYS_TR_NONE,
                ESYS_TR_NONE,
                &raw mut data,
            )
        })?;
        let mut data = take(data).ok_or(Refused::Value)?;
        let bytes = data.buffer.get(..usize::from(data.size));
        let secret = bytes.ok_or(Refused::Value).and_then(|bytes| {
            let fill = |out: &mut [u8]| {
                out.copy_from_slice(bytes);
                Ok::<(), SecretError>(())
            };
            Secret::fill_with(bytes.len(), fill).map_err(|_| Refused::Value)
        });
        data.buffer.zeroize();
        secret
    }

    /// A policy session; with a salt for this key, it encrypts what is given back.
    fn policy_session(&mut self, salt: Option<ESYS_TR>) -> Result<ESYS_TR, Refused> {
        let symmetric = match salt {
            None => TPMT_SYM_DEF {
                algorithm: TPM2_ALG_NULL,
                ..TPMT_SYM_DEF::default()
            },
            Some(_) => SymmetricDefinition::AES_128_CFB
                .try_into()
                .map_err(|_| Refused::Value)?,
        };
        let mut session = ESYS_TR_NONE;
        let none = ESYS_TR_NONE;
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives; the definition is a local that is only read; no nonce is given, so libtss2 draws one; the handle
        // is written into a local.
        done(unsafe {
            Esys_StartAuthSession(
                self.context,
                salt.unwrap_or(none),
                none,
                none,
                none,
                none,
                null(),
                TPM2_SE_POLICY,
                &raw const symmetric,
                TPM2_ALG_SHA256,
                &raw mut session,
            )
        })?;
        if salt.is_none() {
            return Ok(session);
        }
        let attributes = TPMA_SESSION_CONTINUESESSION | TPMA_SESSION_ENCRYPT;
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives, and the session is of this context.
        let set = done(unsafe { Esys_TRSess_SetAttributes(self.context, session, attributes, 0xFF) });
        match set {
            Ok(()) => Ok(session),
            Err(refused) => {
                self.flush(session)?;
                Err(refused)
            }
        }
    }

    fn load(&mut self, parent: ESYS_TR, object: &Object<'_>) -> Result<ESYS_TR, Refused> {
        let public = TPM2B_PUBLIC::try_from(object.public.clone()).map_err(|_| Refused::Value)?;
        let private = object.private.clone().into();
        let mut handle = ESYS_TR_NONE;
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives, the parent is of this context, and its authorisation value is empty; both areas are locals that
        // are only read; the handle is written into a local.
        done(unsafe {
            Esys_Load(
                self.context,
                parent,
                ESYS_TR_PASSWORD,
                ESYS_TR_NONE,
                ESYS_TR_NONE,
                &raw const private,
                &raw const public,
                &raw mut handle,
            )
        })?;
        let mut auth: TPM2B_AUTH = Auth::try_from(object.auth).map_err(|_| Refused::Value)?.into();
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives, and the handle is of this context; the value is a local that is only read.
        let set = done(unsafe { Esys_TR_SetAuth(self.context, handle, &raw const auth) });
        auth.buffer.zeroize();
        match set {
            Ok(()) => Ok(handle),
            Err(refused) => {
                self.flush(handle)?;
                Err(refused)
            }
        }
    }

    /// A handle of something persistent in the TPM, by its number.
    fn known(&mut self, handle: u32) -> Result<ESYS_TR, Refused> {
        let mut object = ESYS_TR_NONE;
        let none = ESYS_TR_NONE;
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives; the handle is written into a local.
        done(unsafe { Esys_TR_FromTPMPublic(self.context, handle, none, none, none, &raw mut object) })?;
        Ok(object)
    }

    fn name(&mut self, object: ESYS_TR) -> Result<Vec<u8>, Refused> {
        let mut name: *mut TPM2B_NAME = null_mut();
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives, and the handle is of this context; libtss2 writes the address of a structure that it allocated
        // into a local.
        done(unsafe { Esys_TR_GetName(self.context, object, &raw mut name) })?;
        let name = take(name).ok_or(Refused::Value)?;
        let bytes = name.name.get(..usize::from(name.size));
        bytes.map(<[u8]>::to_vec).ok_or(Refused::Value)
    }

    fn flush(&mut self, handle: ESYS_TR) -> Result<(), Refused> {
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives, and the handle is of this context; it is not used after this.
        done(unsafe { Esys_FlushContext(self.context, handle) })
    }

    /// Forgets what [`Esys::known`] gave. Nothing changes in the TPM.
    fn close(&mut self, mut object: ESYS_TR) {
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives, and the handle is of this context; it is not used after this. A failure leaves an entry in
        // libtss2's list, which goes with the connection.
        let _ = unsafe { Esys_TR_Close(self.context, &raw mut object) };
    }
}

impl Drop for Esys {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: both are from libtss2's initialisation and are not used after this; the context first, since it uses the TCTI.
        // Finalising what was not initialised, a null pointer, does nothing.
        unsafe {
            if !self.context.is_null() {
                Esys_Finalize(&raw mut self.context);
            }
            Tss2_TctiLdr_Finalize(&raw mut self.tcti);
        }
    }
}

fn open_tcti(name: &CStr) -> Result<*mut TSS2_TCTI_CONTEXT, Refused> {
    let mut tcti = null_mut();
    #[expect(unsafe_code, reason = "libtss2 is C")]
    // SAFETY: the name ends with a zero and lives for the call; libtss2 writes the TCTI's address into a local.
    done(unsafe { Tss2_TctiLdr_Initialize(name.as_ptr(), &raw mut tcti) })?;
    Ok(tcti)
}

/// Copies a structure that libtss2 allocated, and frees it.
fn take<T: Copy>(pointer: *mut T) -> Option<T> {
    if pointer.is_null() {
        return None;
    }
    #[expect(unsafe_code, reason = "libtss2 is C")]
    // SAFETY: only called with what a function of libtss2 has just written on success: the address of one whole structure of its
    // own, of which there is no other reference, and which is to be freed with `Esys_Free`.
    unsafe {
        let copy = *pointer;
        Esys_Free(pointer.cast());
        Some(copy)
    }
}
