//! What a raw response code means for us (TPM 2.0 Library Part 2 §6.6, TSS 2.0 Overview §7). Not `Tss2ResponseCode::kind`: that
//! ignores which layer spoke, so a lost connection can pass for a TPM's answer.

use tss_esapi::Error;
use tss_esapi::constants::response_code::Tss2ResponseCode;

/// What to do about a failed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The connection or the context is gone for good: open another.
    Dead,
    /// A handle or session is no longer known, as after a reset of the TPM: open everything anew.
    Stale,
    /// Try again in a moment.
    Wait,
    /// No slot for another object or session.
    Slots,
    /// The authorisation value is wrong.
    Auth,
    /// The blob was made by another TPM or owner, or was changed.
    Integrity,
    /// Locked against guessing.
    Lockout,
    /// Another value of a command's parameter was expected.
    Parameter(u32),
    /// Anything else that the TPM or libtss2 says.
    Other(u32),
    /// The wrapper refused a value, or did not understand an answer.
    Local,
}

impl Code {
    pub(crate) fn of(error: &Error) -> Self {
        raw(error).map_or(Self::Local, Self::of_raw)
    }

    pub(crate) fn of_raw(code: u32) -> Self {
        const LAYER_TPM: u32 = 0;
        const LAYER_ESYS: u32 = 7;
        const LAYER_TCTI: u32 = 10;
        const LAYER_RESOURCE_MANAGER: u32 = 11;
        const ESYS_BAD_SEQUENCE: u32 = 7;
        let (layer, low) = ((code >> 16) & 0xFF, code & 0xFFFF);
        match layer {
            LAYER_TCTI => return Self::Dead,
            LAYER_ESYS if low == ESYS_BAD_SEQUENCE => return Self::Dead,
            // The kernel's resource manager answers for the TPM.
            LAYER_TPM | LAYER_RESOURCE_MANAGER => {}
            _ => return Self::Other(code),
        }
        match low {
            0x100 => Self::Stale, // INITIALIZE: reset, and not started since
            0x908 | 0x90A | 0x922 => Self::Wait,
            0x902..=0x904 => Self::Slots,
            0x910..=0x91E => Self::Stale,
            0x921 => Self::Lockout,
            _ if low & 0x80 == 0 => Self::Other(code),
            // Format one: the number of the error is in the low six bits, what it is about in the others.
            _ => match (low & 0x3F, low & 0x40 != 0) {
                (0x0E | 0x22, _) => Self::Auth,
                (0x1F, _) => Self::Integrity,
                (0x0B, false) => Self::Stale, // HANDLE: nothing there
                (_, true) => Self::Parameter(code),
                (_, false) => Self::Other(code),
            },
        }
    }
}

/// The number behind an error of libtss2 or the TPM, which the wrapper only gives as text.
pub(crate) fn raw(error: &Error) -> Option<u32> {
    let text = match error {
        Error::WrapperError(_) => return None,
        Error::Tss2Error(Tss2ResponseCode::Success) => return Some(0),
        Error::Tss2Error(Tss2ResponseCode::FormatZero(code)) => code.to_string(),
        Error::Tss2Error(Tss2ResponseCode::FormatOne(code)) => code.to_string(),
    };
    let (_, digits) = text.rsplit_once("0x")?;
    u32::from_str_radix(digits, 16).ok()
}

/// What there is to do about a TPM that is locked against guessing.
pub(crate) const LOCKED: &str = "it is locked against guessing; no key of ours causes this; see `tpm2_getcap properties-variable` and \
     `tpm2_dictionarylockout --clear-lockout`";

/// The error for an operator: its number, then the words libtss2 has for it.
pub(crate) fn describe(error: &Error) -> String {
    match raw(error) {
        Some(code) if Code::of_raw(code) == Code::Lockout => format!("{LOCKED} (code {code:#x})"),
        Some(code) => format!("code {code:#x}, {error}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_means_what_was_seen_when_it_came() {
        for (code, expected) in [
            (0x000a_000a, Code::Dead),
            (0x0007_0007, Code::Dead),
            (0x910, Code::Stale),
            (0x918, Code::Stale),
            (0x18b, Code::Stale),
            (0x902, Code::Slots),
            (0x903, Code::Slots),
            (0x98e, Code::Auth),
            (0x9a2, Code::Auth),
            (0x1df, Code::Integrity),
            (0x921, Code::Lockout),
            (0x922, Code::Wait),
            (0x908, Code::Wait),
            (0x90a, Code::Wait),
            (0x12f, Code::Other(0x12f)),
            (0x1d5, Code::Parameter(0x1d5)),
            (0x0007_0902, Code::Other(0x0007_0902)),
            (0x000b_0902, Code::Slots),
        ] {
            assert_eq!(Code::of_raw(code), expected, "{code:#x}");
        }
    }
}
