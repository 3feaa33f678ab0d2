//! The code that opens a bound keyring when its machine starts otherwise than before. Not a passphrase: it is random, so that there is nothing
//! to guess, and it is of no use without the TPM. Not a backup.
//!
//! ```text
//! claviger-recovery-XXXXXXXX-XXXXXXXX-XXXXXXXX-XXXXXXXX-XXXXXXXX
//! ```
//! Four groups of hexadecimal digits are the code, the fifth is the beginning of `SHA-256("claviger recovery v1" ‖ 0x00 ‖ code)`: whoever
//! typed it from paper learns that it is mistyped, and not that it is another keyring's.

use std::fmt;

use claviger_core::Secret;
use claviger_core::custody::CustodyError;
use rand_core::{OsRng, RngCore as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// 128 bits: each try is a command of the TPM.
pub(crate) const CODE: usize = 16;

/// A file with a code has at most this many bytes.
pub const MAX_RECOVERY_FILE: usize = 256;

const CHECK: usize = 4;
const PREFIX: &[u8] = b"claviger-recovery";
const DOMAIN: &[u8] = b"claviger recovery v1\0";

/// A recovery code.
pub struct RecoveryCode {
    // Invariant: CODE bytes.
    code: Secret,
}

/// Why a text is no recovery code. Quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotRecoveryCode {
    /// It has another form.
    #[error("expected `claviger-recovery-` and five groups of eight hexadecimal digits")]
    Form,
    /// A digit is wrong.
    #[error("the recovery code is mistyped: its last group does not fit the others")]
    Mistyped,
    /// Locked memory could not be had.
    #[error("memory for the recovery code cannot be locked")]
    Memory,
}

impl RecoveryCode {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random numbers or no locked memory.
    pub fn random() -> Result<Self, CustodyError> {
        let code = Secret::fill_with(CODE, |bytes| {
            OsRng
                .try_fill_bytes(bytes)
                .map_err(|e| CustodyError::Unavailable(format!("the system gives no random numbers: {e}")))
        })?;
        Ok(Self { code })
    }

    /// Reads one. Spaces, line ends and hyphens between digits do not matter, nor does upper case.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &Secret) -> Result<Self, NotRecoveryCode> {
        let mut rest = text.expose().trim_ascii();
        rest = match rest.split_at_checked(PREFIX.len()) {
            Some((head, rest)) if head.eq_ignore_ascii_case(PREFIX) => rest,
            Some(_) | None => return Err(NotRecoveryCode::Form),
        };
        let mut bytes = Zeroizing::new([0_u8; CODE + CHECK]);
        let mut digits = rest
            .iter()
            .filter(|byte| !byte.is_ascii_whitespace() && **byte != b'-');
        for byte in bytes.iter_mut() {
            for _ in 0..2 {
                let digit = digits.next().and_then(|digit| char::from(*digit).to_digit(16));
                let digit = digit.and_then(|digit| u8::try_from(digit).ok());
                *byte = *byte << 4 | digit.ok_or(NotRecoveryCode::Form)?;
            }
        }
        if digits.next().is_some() {
            return Err(NotRecoveryCode::Form);
        }
        let (code, check) = bytes.split_at(CODE);
        if check != checksum(code) {
            return Err(NotRecoveryCode::Mistyped);
        }
        let code = Secret::fill_with(CODE, |bytes| {
            bytes.copy_from_slice(code);
            Ok::<(), claviger_core::secret::SecretError>(())
        });
        code.map(|code| Self { code })
            .map_err(|_| NotRecoveryCode::Memory)
    }

    /// As it is written to a file, without a line end.
    ///
    /// # Errors
    /// When there is no locked memory.
    pub fn to_text(&self) -> Result<Secret, CustodyError> {
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_RECOVERY_FILE));
        text.extend_from_slice(PREFIX);
        let check = checksum(self.code.expose());
        for (at, byte) in self.code.expose().iter().chain(&check).enumerate() {
            if at % 4 == 0 {
                text.push(b'-');
            }
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).map_or(b'0', |digit| digit as u8));
            }
        }
        Ok(Secret::take(&mut text)?)
    }

    pub(crate) fn expose(&self) -> &[u8] {
        self.code.expose()
    }
}

impl fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecoveryCode").finish_non_exhaustive()
    }
}

fn checksum(code: &[u8]) -> [u8; CHECK] {
    let hash: [u8; 32] = Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(code)
        .finalize()
        .into();
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RecoveryCode, NotRecoveryCode> {
        RecoveryCode::parse(&Secret::take(&mut text.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn a_code_is_read_as_written_or_typed_and_a_wrong_digit_is_noticed() {
        let code = RecoveryCode::random().unwrap();
        let text = String::from_utf8(code.to_text().unwrap().expose().to_vec()).unwrap();
        assert_eq!(text.len(), 17 + 5 * 9);
        let spaced = text.to_uppercase().replace('-', " ").replacen(' ', "-", 1);
        for good in [text.clone(), format!(" {text}\n"), spaced] {
            assert_eq!(parse(&good).unwrap().expose(), code.expose(), "{good}");
        }
        for at in (18..text.len()).filter(|at| text.as_bytes()[*at] != b'-') {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let refused = parse(std::str::from_utf8(&bytes).unwrap());
            assert_eq!(refused.unwrap_err(), NotRecoveryCode::Mistyped, "{at}");
        }
        for bad in [
            "claviger-recovery",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}0"),
            &text.replace('-', "x"),
        ] {
            assert_eq!(parse(bad).unwrap_err(), NotRecoveryCode::Form, "{bad}");
        }
        assert!(!format!("{code:?}").contains(&text[18..26]));
    }
}
