//! The counter of the TPM that a revocable key hangs on, and the policy that says so. Sends no commands: `revocable.rs` does.
//!
//! The policy of a key or sealed object is `PolicyNV(counter = value) ∧ PolicyCommandCode(the one it is for) ∧ PolicyAuthValue` (TPM 2.0 Library Part 1 §19.7, Part 3
//! §23). To revoke is to count on: a counter never goes back, and one that is removed and made again starts above everything that any
//! counter of the TPM ever was (Part 1 §37.2.4). So nothing brings the value back, whoever owns the TPM, and whatever copies of the
//! key there are.

use sha2::{Digest as _, Sha256};

/// Indexes that an owner may use (TCG Registry of reserved TPM 2.0 handles §2.2: from 0x01800000); ours are the upper quarter of them.
pub(crate) const FIRST_INDEX: u32 = 0x01B0_0000;
/// How many there are.
pub(crate) const INDEXES: u32 = 0x000F_FFFF;

/// The value's length in bytes.
pub(crate) const SIZE: u16 = 8;

/// `TPMA_NV_AUTHWRITE | TPM_NT_COUNTER | TPMA_NV_AUTHREAD | TPMA_NV_NO_DA` (Part 2 §13.4): with the index's own authorisation value, which
/// is empty, it can be read and counted on. To revoke must be possible without the owner's password; whoever can reach the TPM
/// can so revoke a key, and can use none.
pub(crate) const ATTRIBUTES: u32 = 1 << 2 | 1 << 4 | 1 << 18 | 1 << 25;
/// `TPMA_NV_WRITTEN`: set by the first count, and part of the Name from then on.
const WRITTEN: u32 = 1 << 29;

const ALG_SHA256: u16 = 0x000B;
const CC_POLICY_NV: u32 = 0x0149;
const CC_POLICY_AUTH_VALUE: u32 = 0x016B;
const CC_POLICY_COMMAND_CODE: u32 = 0x016C;
const EO_EQ: u16 = 0;

/// The one command that what hangs on a counter may be used in (Part 2 §6.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// `TPM2_Sign`.
    Sign,
    /// `TPM2_HMAC`.
    Mac,
    /// `TPM2_Unseal`.
    Unseal,
}

impl Use {
    /// Its command's code.
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Sign => 0x015D,
            Self::Mac => 0x0155,
            Self::Unseal => 0x015E,
        }
    }
}

/// A counter and the value at which its key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counter {
    // Invariant: one of INDEXES from FIRST_INDEX.
    index: u32,
    value: u64,
}

impl Counter {
    /// Its length as bytes.
    pub(crate) const LEN: usize = 12;

    /// A counter at this index, if the index is one of ours.
    pub(crate) fn new(index: u32, value: u64) -> Option<Self> {
        (FIRST_INDEX..=FIRST_INDEX + INDEXES)
            .contains(&index)
            .then_some(Self { index, value })
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (index, value) = bytes.split_first_chunk::<4>()?;
        Self::new(
            u32::from_be_bytes(*index),
            u64::from_be_bytes(*value.first_chunk::<8>()?),
        )
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (index, value) = bytes.split_at_mut(4);
        index.copy_from_slice(&self.index.to_be_bytes());
        value.copy_from_slice(&self.value.to_be_bytes());
        bytes
    }

    pub(crate) const fn index(self) -> u32 {
        self.index
    }

    pub(crate) const fn value(self) -> u64 {
        self.value
    }

    /// The Name of the index once it was counted on: the digest of its public area (Part 1 §16, `TPMS_NV_PUBLIC`).
    pub(crate) fn name(self) -> [u8; 34] {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(self.index.to_be_bytes())
            .chain_update(ALG_SHA256.to_be_bytes())
            .chain_update((ATTRIBUTES | WRITTEN).to_be_bytes())
            // No policy of its own.
            .chain_update(0_u16.to_be_bytes())
            .chain_update(SIZE.to_be_bytes())
            .finalize()
            .into();
        let mut name = [0; 34];
        let (algorithm, digest) = name.split_at_mut(2);
        algorithm.copy_from_slice(&ALG_SHA256.to_be_bytes());
        digest.copy_from_slice(&hash);
        name
    }

    /// What the `authPolicy` is of something that hangs on this counter: the digest a policy session has after the three commands.
    pub(crate) fn policy(self, used: Use) -> [u8; 32] {
        let arguments = Sha256::new()
            .chain_update(self.value.to_be_bytes())
            .chain_update(0_u16.to_be_bytes())
            .chain_update(EO_EQ.to_be_bytes())
            .finalize();
        let nv = Sha256::new()
            .chain_update([0; 32])
            .chain_update(CC_POLICY_NV.to_be_bytes())
            .chain_update(arguments)
            .chain_update(self.name())
            .finalize();
        let command = Sha256::new()
            .chain_update(nv)
            .chain_update(CC_POLICY_COMMAND_CODE.to_be_bytes())
            .chain_update(used.code().to_be_bytes())
            .finalize();
        Sha256::new()
            .chain_update(command)
            .chain_update(CC_POLICY_AUTH_VALUE.to_be_bytes())
            .finalize()
            .into()
    }
}

/// What the keyring keeps of a revocable key, to revoke it without its material: no secret.
///
/// ```text
/// u8 version = 1   u8 done   u32 index   u64 value
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) counter: Counter,
    /// Whether the TPM refuses the key by now.
    pub(crate) done: bool,
}

impl Record {
    const VERSION: u8 = 1;

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, counter) = bytes.split_first_chunk::<2>()?;
        let done = match head {
            [Self::VERSION, 0] => false,
            [Self::VERSION, 1] => true,
            _ => return None,
        };
        let counter = Counter::from_bytes(counter.try_into().ok()?)?;
        Some(Self { counter, done })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION, u8::from(self.done)];
        bytes.extend_from_slice(&self.counter.to_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_written_and_nothing_else_is() {
        let counter = Counter::new(FIRST_INDEX + 7, u64::MAX).unwrap();
        for done in [false, true] {
            let record = Record { counter, done };
            let bytes = record.to_bytes();
            assert_eq!(Record::from_bytes(&bytes), Some(record));
            for length in 0..bytes.len() {
                assert_eq!(Record::from_bytes(&bytes[..length]), None, "{length}");
            }
            assert_eq!(Record::from_bytes(&[&bytes[..], &[0]].concat()), None);
        }
        let bytes = Record { counter, done: false }.to_bytes();
        for (at, value) in [(0, 0), (0, 2), (1, 2), (2, 0), (3, 0x80)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert_eq!(Record::from_bytes(&other), None, "{at}");
        }
    }

    #[test]
    fn every_counter_and_value_has_its_own_policy() {
        let counter = |index, value| Counter::new(FIRST_INDEX + index, value).unwrap();
        let one = counter(1, 1).policy(Use::Sign);
        assert_eq!(one, counter(1, 1).policy(Use::Sign));
        assert_ne!(one, counter(1, 2).policy(Use::Sign));
        assert_ne!(one, counter(2, 1).policy(Use::Sign));
        assert_ne!(one, counter(1, 1).policy(Use::Mac));
        assert_ne!(one, counter(1, 1).policy(Use::Unseal));
        assert_eq!(Counter::new(FIRST_INDEX - 1, 1), None);
        assert_eq!(Counter::new(FIRST_INDEX + INDEXES + 1, 1), None);
    }
}
