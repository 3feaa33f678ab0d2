//! Keys that another program had this TPM wrap, in the form that `openssl` with tpm2-openssl, `tpm2_encodeobject` and others write (TSS2 PRIVATE
//! KEY, draft-bottomley-tpm2-keys): loadable under the storage root key, or importable by it. Not our own blobs: `blob.rs` has those, and reads
//! nothing looser than it writes.
//!
//! Such a file keeps being good on this TPM: whoever has it uses the key by its old authorisation value. What is stored has a new one.

use claviger_core::custody::{CustodyError, Generated};
use claviger_core::{PublicKey, Secret};
use der::asn1::{Any, ObjectIdentifier, OctetString};
use der::{DecodePem as _, Sequence};
use sha2::{Digest as _, Sha256};
use tss_esapi::handles::ObjectHandle;
use tss_esapi::structures::{EncryptedSecret, Private, Public, SymmetricDefinitionObject};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};

use crate::blob::{self, Kind, MAX_BLOB, unsized_};
use crate::code::{Code, describe};
use crate::custody::read;
use crate::device::{Device, Failure, auth, random_secret};
use crate::link::{Link, SRK_HANDLE};
use crate::template;

const LOADABLE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.10.1.3");
const IMPORTABLE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.10.1.4");
/// The owner's hierarchy: its primary key of template H-2, which is our storage root key.
const OWNER: u32 = 0x4000_0001;

/// What is signed to see that a key is one: no message of any profile.
const PROBE: &[u8] = b"claviger: a key that was imported works";

/// `TPMKey` of the draft.
#[derive(Sequence)]
pub(crate) struct WrappedKey {
    pub(crate) oid: ObjectIdentifier,
    /// Whether the authorisation value is empty. Not believed, the TPM knows: tpm2-tools 5.4 say of a key without a password that it has
    /// one, and tpm2-openssl 1.1 writes a "true" that is none in DER.
    #[asn1(context_specific = "0", optional = "true", tag_mode = "EXPLICIT")]
    pub(crate) empty_auth: Option<Any>,
    #[asn1(context_specific = "1", optional = "true", tag_mode = "EXPLICIT")]
    pub(crate) policy: Option<Any>,
    #[asn1(context_specific = "2", optional = "true", tag_mode = "EXPLICIT")]
    pub(crate) secret: Option<OctetString>,
    #[asn1(context_specific = "3", optional = "true", tag_mode = "EXPLICIT")]
    pub(crate) auth_policy: Option<Any>,
    #[asn1(context_specific = "4", optional = "true", tag_mode = "EXPLICIT")]
    pub(crate) description: Option<Any>,
    pub(crate) parent: u32,
    pub(crate) public: OctetString,
    pub(crate) private: OctetString,
}

impl der::pem::PemLabel for WrappedKey {
    const PEM_LABEL: &'static str = "TSS2 PRIVATE KEY";
}

/// A file taken apart: a key that can be taken, if this TPM wrapped it.
pub(crate) struct Wrapped {
    public: Public,
    key: PublicKey,
    private: Private,
    /// Of an importable key, by what the parent opens it.
    seed: Option<Vec<u8>>,
}

/// Reads such a file.
pub(crate) fn parse(file: &[u8]) -> Result<Wrapped, CustodyError> {
    let not_ours = |why: &str| CustodyError::NotOurs(format!("the wrapped key is not taken: {why}"));
    let form = || not_ours("its file is damaged; expected one TSS2 PRIVATE KEY in PEM");
    if file.len() > MAX_BLOB {
        return Err(form());
    }
    let key = WrappedKey::from_pem(file.trim_ascii()).map_err(|_| form())?;
    if key.policy.is_some() || key.auth_policy.is_some() {
        return Err(not_ours(
            "it may be used under a policy only, and nothing here satisfies one",
        ));
    }
    if ![OWNER, SRK_HANDLE].contains(&key.parent) {
        return Err(not_ours(&format!(
            "its parent is {:#010x}; expected the owner's ECC storage root key (0x40000001 or 0x81000001)",
            key.parent
        )));
    }
    let seed = match (key.oid, &key.secret) {
        (LOADABLE, None) => None,
        (IMPORTABLE, Some(secret)) => Some(unsized_(secret.as_bytes()).map_err(|_| form())?.to_vec()),
        (_, _) => return Err(not_ours("it is neither a loadable nor an importable key")),
    };
    let area = unsized_(key.public.as_bytes()).map_err(|_| form())?;
    let public = Public::unmarshall(area).map_err(|_| form())?;
    // Unmarshalling passes over what it has no name for.
    if public.marshall().ok().as_deref() != Some(area) {
        return Err(form());
    }
    let found = template::taken_key(&public).ok_or_else(|| {
        not_ours(
            "expected a P-256 key or an RSA key of 2048 bits that signs, with SHA-256 and without a policy",
        )
    })?;
    let private = Private::try_from(unsized_(key.private.as_bytes()).map_err(|_| form())?);
    Ok(Wrapped {
        public,
        key: found,
        private: private.map_err(|_| form())?,
        seed,
    })
}

impl Device {
    /// Takes such a key: gives it a new authorisation value, and signs with it once.
    pub(crate) fn take_wrapped(&mut self, wrapped: &Wrapped) -> Result<Generated, CustodyError> {
        let value = random_secret()?;
        let private = self.run("take a key", |link| link.take_wrapped(wrapped, &value))?;
        let value = value.expose().first_chunk();
        let value =
            value.ok_or_else(|| CustodyError::Fault("an authorisation value has 32 bytes".to_owned()))?;
        let mut stored = blob::encode(Kind::Key, value, &wrapped.public, &private)
            .map_err(|error| CustodyError::Fault(error.to_string()))?;
        let (public, loadable) = read(&stored)?;
        let digest: [u8; 32] = Sha256::digest(PROBE).into();
        let signed = self.sign(&loadable, &digest);
        self.unload_key(loadable.id);
        wrapped.key.verify(PROBE, &signed?).map_err(|_| {
            CustodyError::NotOurs("the wrapped key signs with another one than its file says".to_owned())
        })?;
        Ok(Generated {
            public,
            material: Secret::take(&mut stored)?,
        })
    }
}

impl Link {
    fn take_wrapped(&mut self, wrapped: &Wrapped, value: &Secret) -> Result<Private, Failure> {
        let private = match &wrapped.seed {
            None => wrapped.private.clone(),
            Some(seed) => self.import_wrapped(wrapped, seed)?,
        };
        let handle = self.load_object(&wrapped.public, &private, &[])?;
        let root = self.root();
        let changed = auth(value.expose()).and_then(|value| {
            let changed = self.context().object_change_auth(
                ObjectHandle::from(handle),
                ObjectHandle::from(root),
                value,
            );
            changed.map_err(|error| match Code::of(&error) {
                Code::Auth => Failure::Final(CustodyError::NotOurs(
                    "the wrapped key is not taken: it has a password; `tpm2_changeauth` gives it an empty one, which is replaced when it is \
                     imported"
                        .to_owned(),
                )),
                Code::Dead
                | Code::Stale
                | Code::Wait
                | Code::Slots
                | Code::Integrity
                | Code::Lockout
                | Code::Parameter(_)
                | Code::Other(_)
                | Code::Local => Failure::Tss(error),
            })
        });
        let flushed = self.flush(handle);
        let changed = changed?;
        flushed?;
        Ok(changed)
    }

    fn import_wrapped(&mut self, wrapped: &Wrapped, seed: &[u8]) -> Result<Private, Failure> {
        self.make_room()?;
        let root = self.root();
        let imported = self.context().import(
            ObjectHandle::from(root),
            None,
            wrapped.public.clone(),
            wrapped.private.clone(),
            EncryptedSecret::try_from(seed)?,
            SymmetricDefinitionObject::Null,
        );
        imported.map_err(|error| match Code::of(&error) {
            Code::Parameter(_) => Failure::Final(CustodyError::NotOurs(format!(
                "the key was wrapped for another TPM, or is damaged ({})",
                describe(&error)
            ))),
            Code::Dead
            | Code::Stale
            | Code::Wait
            | Code::Slots
            | Code::Auth
            | Code::Integrity
            | Code::Lockout
            | Code::Other(_)
            | Code::Local => Failure::Tss(error),
        })
    }
}
