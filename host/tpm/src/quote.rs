//! The two commands with which the TPM speaks of itself: `Quote` over its registers, `Certify` over a key that it has. Not the keys:
//! `attester.rs` makes and opens them.

use claviger_core::attest::QUOTED_PCRS;
use claviger_core::custody::CustodyError;
use sha2::{Digest as _, Sha256};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Attest, AttestInfo, Data, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, SignatureScheme,
};
use tss_esapi::traits::Marshall as _;
use tss_esapi::{Error, WrapperErrorKind};

use claviger_core::Signature;

use crate::device::{Device, Failure, KeyBlob, signature_of};
use crate::link::Link;

/// A register may be extended between reading and quoting, though after the start of the machine hardly one of these is.
const TRIES: usize = 4;

/// What the TPM said, as it signed it, and the signature.
pub(crate) struct Attested {
    pub(crate) attest: Vec<u8>,
    pub(crate) signature: Signature,
}

impl Device {
    /// Quotes the registers with `extra` beside them, and gives their values.
    pub(crate) fn quote(
        &mut self,
        ak: &KeyBlob,
        extra: &[u8; 32],
    ) -> Result<(Attested, Vec<u8>), CustodyError> {
        self.run("quote its registers", |link| {
            for _ in 0..TRIES {
                let pcrs = registers(link)?;
                let handle = link.load_key(ak)?;
                let answer = link.context().quote(
                    handle,
                    Data::try_from(extra.as_slice())?,
                    SignatureScheme::Null,
                    selection()?,
                )?;
                let AttestInfo::Quote { info } = answer.0.attested() else {
                    return Err(wrong());
                };
                // What is given out as their values is what was quoted.
                if info.pcr_digest().value() == Sha256::digest(&pcrs).as_slice() {
                    return Ok((attested(&answer)?, pcrs));
                }
            }
            Err(Failure::Final(CustodyError::Unavailable(
                "the TPM's registers change while they are quoted".to_owned(),
            )))
        })
    }

    /// Certifies that a key is loaded in this TPM, under its Name.
    pub(crate) fn certify(
        &mut self,
        ak: &KeyBlob,
        subject: &KeyBlob,
        extra: &[u8],
    ) -> Result<Attested, CustodyError> {
        self.run("certify a key", |link| {
            let by = link.load_key(ak)?;
            let handle = link.load_key(subject)?;
            let extra = Data::try_from(extra)?;
            // Both keys are asked for their authorisation value. A second session that encrypts would be one too many; these hide
            // nothing, and with a session the value itself is not sent.
            let first = link.session();
            let result = link
                .context()
                .execute_with_sessions((Some(first), Some(AuthSession::Password), None), |context| {
                    context.certify(handle.into(), by, extra, SignatureScheme::Null)
                });
            attested(&result?)
        })
    }
}

fn registers(link: &mut Link) -> Result<Vec<u8>, Failure> {
    let selection = selection()?;
    let (_, _, values) = link
        .context()
        .execute_without_session(|context| context.pcr_read(selection))?;
    let values: Vec<u8> = values
        .value()
        .iter()
        .flat_map(|value| value.value().to_vec())
        .collect();
    // A TPM may give fewer than it was asked for; every one that we know gives eight at once.
    if values.len() == QUOTED_PCRS * 32 {
        Ok(values)
    } else {
        Err(Failure::Final(CustodyError::Unavailable(
            "the TPM has no registers of SHA-256, or not all of 0 to 7; switch its SHA-256 bank on in the firmware's set-up".to_owned(),
        )))
    }
}

fn selection() -> Result<PcrSelectionList, Error> {
    let slots = [
        PcrSlot::Slot0,
        PcrSlot::Slot1,
        PcrSlot::Slot2,
        PcrSlot::Slot3,
        PcrSlot::Slot4,
        PcrSlot::Slot5,
        PcrSlot::Slot6,
        PcrSlot::Slot7,
    ];
    PcrSelectionListBuilder::new()
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()
}

fn attested(answer: &(Attest, tss_esapi::structures::Signature)) -> Result<Attested, Failure> {
    Ok(Attested {
        attest: answer.0.marshall()?,
        signature: signature_of(&answer.1).ok_or_else(wrong)?,
    })
}

const fn wrong() -> Failure {
    Failure::Tss(Error::WrapperError(WrapperErrorKind::WrongValueFromTpm))
}
