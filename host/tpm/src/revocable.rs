//! Keys that the TPM itself refuses once they are revoked: making, using and ending the counter that each hangs on. Not the policy:
//! `counter.rs` has that. Not the way round tss-esapi: `esys.rs`.

use claviger_core::custody::CustodyError;
use claviger_core::stack::wipe_below;
use claviger_core::{Secret, Signature};
use rand_core::{OsRng, RngCore as _};
use tss_esapi::Error;
use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, ObjectHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{NvPublic, NvPublicBuilder};
use zeroize::Zeroizing;

use crate::blob::{AUTH, Blob};
use crate::code::{Code, describe, raw};
use crate::counter::{ATTRIBUTES, Counter, FIRST_INDEX, INDEXES, SIZE};
use crate::device::{Device, Failure, KeyBlob, signature_of};
use crate::esys::{Esys, NOTHING_THERE, Refused};
use crate::link::{Link, SRK_HANDLE};
use crate::residue;

/// Random indexes that are tried before giving up: another program may have one by chance, but not so many.
const TRIES: usize = 16;

const NV_SPACE: u32 = 0x14B;
const NV_DEFINED: u32 = 0x14C;

impl Device {
    /// Makes a counter for one key. If the key is not stored afterwards, the counter stays behind.
    pub(crate) fn make_counter(&mut self) -> Result<Counter, CustodyError> {
        self.run("make a counter for a key", Link::make_counter)
    }

    /// Signs with a key that hangs on a counter.
    pub(crate) fn sign_revocable(
        &mut self,
        key: &KeyBlob,
        counter: Counter,
        digest: &[u8; 32],
    ) -> Result<Signature, CustodyError> {
        self.run("sign", |link| link.sign_revocable(key, counter, digest))
    }

    /// Opens sealed data that hangs on a counter.
    pub(crate) fn unseal_revocable(
        &mut self,
        blob: &Blob,
        auth: &[u8; AUTH],
        counter: Counter,
    ) -> Result<Secret, CustodyError> {
        let unsealed = self.run("unseal", |link| {
            link.in_unit(|unit, root| unit.unseal(root, blob, auth, counter))
        });
        wipe_below::<{ residue::STACK_WORDS }>();
        unsealed
    }

    /// Counts on, so that no TPM command uses the key any more. Doing it again changes nothing.
    pub(crate) fn end_counter(&mut self, counter: Counter) -> Result<(), CustodyError> {
        self.run("revoke a key", |link| link.end_counter(counter))
    }
}

impl Link {
    fn make_counter(&mut self) -> Result<Counter, Failure> {
        for _ in 0..TRIES {
            let index = random_index()?;
            let handle = match self
                .context()
                .nv_define_space(Provision::Owner, None, public(index)?)
            {
                Ok(handle) => handle,
                Err(error) if raw(&error) == Some(NV_DEFINED) => continue,
                Err(error) => return Err(not_defined(error)),
            };
            let made = self.start_counter(handle, index);
            if made.is_err() {
                // If this fails too, an index stays behind that nothing hangs on.
                self.context().nv_undefine_space(Provision::Owner, handle).ok();
            }
            return made;
        }
        Err(Failure::Final(CustodyError::Unavailable(
            "the TPM's indexes from 0x01b00000 on are taken by another program".to_owned(),
        )))
    }

    /// Counts once, without which a counter has no value, and reads where it stands.
    fn start_counter(&mut self, handle: NvIndexHandle, index: u32) -> Result<Counter, Failure> {
        self.context().nv_increment(NvAuth::NvIndex(handle), handle)?;
        self.close(handle.into())?;
        // Anew: counting has changed its Name.
        let handle = self.known_index(index)?;
        let value = self.value(handle)?;
        let name = self.context().tr_get_name(handle.into())?;
        self.close(handle.into())?;
        let counter = Counter::new(index, value).ok_or_else(|| fault("an index of ours is out of range"))?;
        if name.value() != counter.name() {
            return Err(fault("the TPM made another counter than it was asked for"));
        }
        Ok(counter)
    }

    fn sign_revocable(
        &mut self,
        key: &KeyBlob,
        counter: Counter,
        digest: &[u8; 32],
    ) -> Result<Signature, Failure> {
        let signature = self.in_unit(|unit, root| unit.sign(root, key, counter, digest))?;
        signature_of(&signature).ok_or_else(|| fault("the TPM gave a signature of another kind"))
    }

    /// The HMAC of a message by a key that hangs on a counter.
    pub(crate) fn hmac_revocable(
        &mut self,
        key: &KeyBlob,
        counter: Counter,
        message: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Failure> {
        self.in_unit(|unit, root| unit.mac(root, key, counter, message))
    }

    fn in_unit<T>(
        &mut self,
        work: impl FnOnce(&mut Esys, (u32, &[u8])) -> Result<T, Refused>,
    ) -> Result<T, Failure> {
        // The unit needs the slots that `load_object` would.
        self.make_room()?;
        let name = self.srk_name().to_vec();
        let mut unit = match self.take_unit() {
            Some(unit) => unit,
            None => Esys::open(self.tcti()).map_err(refused)?,
        };
        // Dropped on any failure, so that nothing of a broken unit is left.
        let done = work(&mut unit, (SRK_HANDLE, &name)).map_err(|why| self.refused(why))?;
        self.keep_unit(unit);
        Ok(done)
    }

    /// What an answer of the unit means here.
    fn refused(&mut self, why: Refused) -> Failure {
        // The TPM may be another one by now, or have been cleared: connecting anew tells.
        if why == Refused::OtherRoot && !self.has_root() {
            return Failure::Code(NOTHING_THERE);
        }
        refused(why)
    }

    fn end_counter(&mut self, counter: Counter) -> Result<(), Failure> {
        let handle = match self.known_index(counter.index()) {
            Ok(handle) => handle,
            // It was ended, and then removed to make room. If it is ever made again it starts higher.
            Err(error) if Code::of(&error) == Code::Stale && raw(&error) == Some(NOTHING_THERE) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let ended = self.count_on(handle, counter);
        // Its room is for another key's counter. Whether that succeeds does not matter to this key; it needs the owner.
        let removed = match ended {
            Ok(true) => self.context().nv_undefine_space(Provision::Owner, handle).is_ok(),
            Ok(false) | Err(_) => false,
        };
        if !removed {
            self.close(handle.into())?;
        }
        ended.map(drop)
    }

    /// Whether the index is the key's own counter; if so, it is past the value from here on.
    fn count_on(&mut self, handle: NvIndexHandle, counter: Counter) -> Result<bool, Failure> {
        if self.context().tr_get_name(handle.into())?.value() != counter.name() {
            // Somebody put another index in its place: the policy names the old one.
            return Ok(false);
        }
        // Read first: whether a command that was cut off was done is not known, and this may be the second try.
        if self.value(handle)? == counter.value() {
            self.context().nv_increment(NvAuth::NvIndex(handle), handle)?;
        }
        if self.value(handle)? == counter.value() {
            return Err(fault("the TPM counted and the counter stands still"));
        }
        Ok(true)
    }

    fn value(&mut self, handle: NvIndexHandle) -> Result<u64, Failure> {
        let bytes = self.context().nv_read(NvAuth::NvIndex(handle), handle, SIZE, 0)?;
        let value = bytes.value().try_into().map(u64::from_be_bytes);
        value.map_err(|_| fault("the TPM gave a counter of another size"))
    }

    fn known_index(&mut self, index: u32) -> Result<NvIndexHandle, Error> {
        let handle = TpmHandle::NvIndex(NvIndexTpmHandle::new(index)?);
        let object = self
            .context()
            .execute_without_session(|context| context.tr_from_tpm_public(handle))?;
        Ok(object.into())
    }

    fn close(&mut self, mut object: ObjectHandle) -> Result<(), Error> {
        self.context().tr_close(&mut object)
    }
}

fn public(index: u32) -> Result<NvPublic, Error> {
    NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(index)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(NvIndexAttributes::try_from(ATTRIBUTES)?)
        .with_data_area_size(usize::from(SIZE))
        .build()
}

/// Random, so that two keyrings on one TPM do not look for the same one.
fn random_index() -> Result<u32, Failure> {
    let mut bytes = [0; 4];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| {
        Failure::Final(CustodyError::Unavailable(format!(
            "the system gives no random numbers: {error}"
        )))
    })?;
    Ok(FIRST_INDEX + (u32::from_be_bytes(bytes) & INDEXES))
}

fn not_defined(error: Error) -> Failure {
    let unavailable = |text: String| Failure::Final(CustodyError::Unavailable(text));
    if raw(&error) == Some(NV_SPACE) {
        return unavailable(format!(
            "the TPM has no room for another counter ({}); each key with `--revocation hardware` has one until it is revoked: revoke \
             those that are not needed, or make this key without it; `tpm2_nvreadpublic` shows what takes the room",
            describe(&error)
        ));
    }
    if Code::of(&error) == Code::Auth {
        return unavailable(format!(
            "the TPM's owner has a password, so no counter can be made ({}); make the key without `--revocation hardware`, or take the \
             password away for this one time with `tpm2_changeauth -c owner -p PASSWORD`",
            describe(&error)
        ));
    }
    error.into()
}

fn refused(why: Refused) -> Failure {
    match why {
        Refused::Code(code) => Failure::Code(code),
        Refused::Revoked => Failure::Final(CustodyError::Revoked(
            "the TPM refuses this key: it was revoked, or its counter was removed".to_owned(),
        )),
        Refused::OtherRoot => Failure::Final(CustodyError::Unavailable(
            "keys with `--revocation hardware` need this TPM's storage root key at 0x81000001, and another one is there".to_owned(),
        )),
        Refused::Value => fault("a value does not fit a command"),
    }
}

fn fault(text: &str) -> Failure {
    Failure::Final(CustodyError::Fault(text.to_owned()))
}
