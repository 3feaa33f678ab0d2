//! The registers (PCRs) in which a TPM keeps how its machine was started, and the policy that names some of them. Sends no command but
//! `PCR_Read`; `bound.rs` seals by them.

use std::fmt;
use std::str::FromStr;

use claviger_core::custody::CustodyError;
use sha2::{Digest as _, Sha256};
use tss_esapi::Error;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{PcrSelectionList, PcrSelectionListBuilder, PcrSlot};

use crate::device::Failure;
use crate::link::Link;

/// The length of a register of SHA-256.
pub(crate) const VALUE: usize = 32;

const ALG_SHA256: u16 = 0x000B;
const CC_POLICY_PCR: u32 = 0x017F;
const CC_POLICY_AUTH_VALUE: u32 = 0x016B;
const BANK: &str = "sha256:";
/// A TPM gives some eight at once.
const MAX_READS: usize = 16;

/// Those that only a restart of the machine sets back (TCG PC Client Platform TPM Profile §4.6). The rest, 16 to 23, programs can set
/// back: nothing is bound to them.
const SLOTS: [PcrSlot; 16] = [
    PcrSlot::Slot0,
    PcrSlot::Slot1,
    PcrSlot::Slot2,
    PcrSlot::Slot3,
    PcrSlot::Slot4,
    PcrSlot::Slot5,
    PcrSlot::Slot6,
    PcrSlot::Slot7,
    PcrSlot::Slot8,
    PcrSlot::Slot9,
    PcrSlot::Slot10,
    PcrSlot::Slot11,
    PcrSlot::Slot12,
    PcrSlot::Slot13,
    PcrSlot::Slot14,
    PcrSlot::Slot15,
];

/// Some of the registers 0 to 15 of the SHA-256 bank, as `sha256:0,2,4,7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    // Invariant: not zero. Bit n is register n.
    bits: u16,
}

/// Why a text names no registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected `sha256:` and some of the registers 0 to 15, each once and in order, such as `sha256:0,2,4,7`"
)]
pub struct NotRegisters;

impl FromStr for Registers {
    type Err = NotRegisters;

    fn from_str(text: &str) -> Result<Self, NotRegisters> {
        let mut bits = 0_u16;
        for number in text.strip_prefix(BANK).ok_or(NotRegisters)?.split(',') {
            let register: u32 = number.parse().map_err(|_| NotRegisters)?;
            let bit = 1_u16.checked_shl(register).ok_or(NotRegisters)?;
            // No sign, no leading zero, none twice, none out of order: one text for one choice.
            if bit <= bits || register.to_string() != number {
                return Err(NotRegisters);
            }
            bits |= bit;
        }
        Ok(Self { bits })
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(BANK)?;
        for (at, number) in self.numbers().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{number}")?;
        }
        Ok(())
    }
}

impl Registers {
    pub(crate) fn from_bits(bits: u16) -> Option<Self> {
        (bits != 0).then_some(Self { bits })
    }

    pub(crate) const fn bits(self) -> u16 {
        self.bits
    }

    /// How many there are.
    pub(crate) const fn count(self) -> usize {
        self.bits.count_ones() as usize
    }

    fn numbers(self) -> impl Iterator<Item = usize> {
        (0..SLOTS.len()).filter(move |number| self.bits >> number & 1 == 1)
    }

    /// As a command takes them.
    pub(crate) fn selection(self) -> Result<PcrSelectionList, Error> {
        let slots: Vec<PcrSlot> = self
            .numbers()
            .filter_map(|number| SLOTS.get(number).copied())
            .collect();
        PcrSelectionListBuilder::new()
            .with_selection(HashingAlgorithm::Sha256, &slots)
            .build()
    }

    /// The policy `PolicyPCR ∧ PolicyAuthValue` over these values (Library Part 3 §23.7 and §23.17): the digest that a session has after both.
    pub(crate) fn policy(self, values: &[u8]) -> [u8; 32] {
        let [high, low] = self.bits.to_be_bytes();
        let pcr = Sha256::new()
            .chain_update([0; 32])
            .chain_update(CC_POLICY_PCR.to_be_bytes())
            // TPML_PCR_SELECTION: one bank, three bytes of its registers.
            .chain_update(1_u32.to_be_bytes())
            .chain_update(ALG_SHA256.to_be_bytes())
            .chain_update([3, low, high, 0])
            .chain_update(Sha256::digest(values))
            .finalize();
        Sha256::new()
            .chain_update(pcr)
            .chain_update(CC_POLICY_AUTH_VALUE.to_be_bytes())
            .finalize()
            .into()
    }

    /// Which of them differ between two readings: none if they are the same.
    pub(crate) fn changed(self, before: &[u8], now: &[u8]) -> Option<Self> {
        let values = before.chunks(VALUE).zip(now.chunks(VALUE));
        let bits = self
            .numbers()
            .zip(values)
            .filter(|(_, (before, now))| before != now)
            .fold(0, |bits, (number, _)| bits | 1 << number);
        Self::from_bits(bits)
    }

    /// Their values one after the other, lowest first.
    pub(crate) fn read(self, link: &mut Link) -> Result<Vec<u8>, Failure> {
        let mut left = self;
        let mut values: Vec<(usize, Vec<u8>)> = Vec::new();
        for _ in 0..MAX_READS {
            let selection = left.selection()?;
            let (_, given, digests) = link
                .context()
                .execute_without_session(|context| context.pcr_read(selection))?;
            let given: Vec<usize> = given
                .get_selections()
                .iter()
                .flat_map(|selection| {
                    left.numbers()
                        .filter(|n| SLOTS.get(*n).is_some_and(|slot| selection.is_selected(*slot)))
                })
                .collect();
            if given.is_empty() || given.len() != digests.value().len() {
                break;
            }
            for (number, digest) in given.into_iter().zip(digests.value()) {
                values.push((number, digest.value().to_vec()));
                left.bits &= !(1 << number);
            }
            if left.bits == 0 {
                values.sort();
                return Ok(values.into_iter().flat_map(|(_, value)| value).collect());
            }
        }
        Err(Failure::Final(CustodyError::Unavailable(
            "the TPM has no registers of SHA-256, or not all that are asked for; switch its SHA-256 bank on in the firmware's set-up"
                .to_owned(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_one_text_and_nothing_else_is_one() {
        for good in [
            "sha256:0",
            "sha256:0,2,4,7",
            "sha256:15",
            "sha256:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        ] {
            assert_eq!(good.parse::<Registers>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "sha256:",
            "sha256",
            "0,2",
            "sha1:0",
            "sha384:0",
            "SHA256:0",
            "sha256:16",
            "sha256:23",
            "sha256:0,0",
            "sha256:2,0",
            "sha256:0,",
            "sha256:,0",
            "sha256: 0",
            "sha256:+1",
            "sha256:01",
            "sha256:-1",
            "sha256:4294967296",
        ] {
            assert!(bad.parse::<Registers>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_choice_and_every_value_has_its_own_policy_and_what_changed_is_named() {
        let registers: Registers = "sha256:0,4,9".parse().unwrap();
        let values = [1; 96];
        let mut other = values;
        other[40] ^= 1;
        assert_ne!(registers.policy(&values), registers.policy(&other));
        let more: Registers = "sha256:0,4,10".parse().unwrap();
        assert_ne!(registers.policy(&values), more.policy(&values));
        assert_eq!(registers.changed(&values, &values), None);
        assert_eq!(
            registers.changed(&values, &other).unwrap().to_string(),
            "sha256:4"
        );
    }
}
