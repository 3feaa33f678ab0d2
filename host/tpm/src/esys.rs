//! `PolicyNV`, which tss-esapi 7.7 lacks: a connection of its own on which a key that hangs on a counter is loaded, its policy satisfied,
//! and a digest signed, in one unit. Beside `process.rs` the only file of this crate with `unsafe`; it decides nothing and keeps nothing
//! between two units.
//!
//! A `tss_esapi::Context` neither gives its `ESYS_CONTEXT` away nor takes one, and on `/dev/tpmrm0` what one connection loaded no other
//! sees. So the whole unit is done here, by libtss2's own functions (TCG TSS 2.0 ESAPI): it computes the session's HMACs, and the
//! authorisation value never goes over the bus.

use std::ffi::{CStr, CString};
use std::ptr::{null, null_mut};

use tss_esapi::constants::tss::{
    TPM2_ALG_NULL, TPM2_ALG_SHA256, TPM2_CC_Sign, TPM2_EO_EQ, TPM2_RH_NULL, TPM2_SE_POLICY, TPM2_ST_HASHCHECK,
};
use tss_esapi::structures::{Auth, Digest, Signature};
use tss_esapi::tss2_esys::{
    ESYS_CONTEXT, ESYS_TR, ESYS_TR_NONE, ESYS_TR_PASSWORD, Esys_Finalize, Esys_FlushContext, Esys_Free,
    Esys_Initialize, Esys_Load, Esys_PolicyAuthValue, Esys_PolicyCommandCode, Esys_PolicyNV, Esys_Sign,
    Esys_StartAuthSession, Esys_TR_Close, Esys_TR_FromTPMPublic, Esys_TR_GetName, Esys_TR_SetAuth,
    TPM2B_AUTH, TPM2B_DIGEST, TPM2B_NAME, TPM2B_PUBLIC, TPMT_SIG_SCHEME, TPMT_SIGNATURE, TPMT_SYM_DEF,
    TPMT_TK_HASHCHECK, TSS2_RC, TSS2_TCTI_CONTEXT, Tss2_TctiLdr_Finalize, Tss2_TctiLdr_Initialize,
};
use zeroize::Zeroize as _;

use crate::counter::Counter;
use crate::device::KeyBlob;

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
        let parent = match self.known(root.0) {
            Err(Refused::Code(NOTHING_THERE)) => return Err(Refused::OtherRoot),
            other => other?,
        };
        let result = self.sign_under(parent, root.1, key, counter, digest);
        self.close(parent);
        result
    }

    fn sign_under(
        &mut self,
        parent: ESYS_TR,
        root_name: &[u8],
        key: &KeyBlob,
        counter: Counter,
        digest: &[u8; 32],
    ) -> Result<Signature, Refused> {
        if self.name(parent)? != root_name {
            return Err(Refused::OtherRoot);
        }
        let index = match self.known(counter.index()) {
            Err(Refused::Code(NOTHING_THERE)) => return Err(Refused::Revoked),
            other => other?,
        };
        let result = self.load(parent, key).and_then(|loaded| {
            let signed = self.sign_with(loaded, index, counter, digest);
            // A key that stays behind goes with the connection, which is given up on any failure.
            let flushed = self.flush(loaded);
            signed.and_then(|signature| flushed.map(|()| signature))
        });
        self.close(index);
        result
    }

    fn sign_with(
        &mut self,
        key: ESYS_TR,
        index: ESYS_TR,
        counter: Counter,
        digest: &[u8; 32],
    ) -> Result<Signature, Refused> {
        let session = self.policy_session()?;
        let signed = self
            .satisfy(session, index, counter)
            .and_then(|()| self.sign_in(session, key, digest));
        // Whatever came of it: a policy that was satisfied stays satisfied while its session lives.
        let flushed = self.flush(session);
        match signed {
            // POLICY: the counter has another value. POLICY_FAIL of session 1: it has another Name, so it is another index.
            Err(Refused::Code(0x126 | 0x99D)) => Err(Refused::Revoked),
            other => other.and_then(|signature| flushed.map(|()| signature)),
        }
    }

    fn satisfy(&mut self, session: ESYS_TR, index: ESYS_TR, counter: Counter) -> Result<(), Refused> {
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
        done(unsafe { Esys_PolicyCommandCode(context, session, none, none, none, TPM2_CC_Sign) })?;
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

    fn policy_session(&mut self) -> Result<ESYS_TR, Refused> {
        let symmetric = TPMT_SYM_DEF {
            algorithm: TPM2_ALG_NULL,
            ..TPMT_SYM_DEF::default()
        };
        let mut session = ESYS_TR_NONE;
        let none = ESYS_TR_NONE;
        #[expect(unsafe_code, reason = "libtss2 is C")]
        // SAFETY: the context lives; the definition is a local that is only read; no nonce is given, so libtss2 draws one; the handle
        // is written into a local.
        done(unsafe {
            Esys_StartAuthSession(
                self.context,
                none,
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
        Ok(session)
    }

    fn load(&mut self, parent: ESYS_TR, key: &KeyBlob) -> Result<ESYS_TR, Refused> {
        let public = TPM2B_PUBLIC::try_from(key.public.clone()).map_err(|_| Refused::Value)?;
        let private = key.private.clone().into();
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
        let mut auth: TPM2B_AUTH = Auth::try_from(key.auth.expose())
            .map_err(|_| Refused::Value)?
            .into();
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
