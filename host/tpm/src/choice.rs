//! Which TPM, and what a keyring keeps to find the same one again. Not the connection: `device.rs` opens it.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bound::Binding;
use crate::error::TpmError;
use crate::registers::NotRegisters;

/// The kernel's resource manager: several programs can use the TPM behind it without seeing each other's objects.
pub(crate) const DEFAULT_DEVICE: &str = "/dev/tpmrm0";

/// Settings are at most this long: a path and a Name.
const MAX_SETTINGS: usize = 8 * 1024;

/// Which TPM to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum TpmChoice {
    /// A TPM of this machine, through this device: `/dev/tpmrm0` unless there are several.
    Device(PathBuf),
    /// A private software TPM, started as a child. For development: whoever has its folder has the keys, and while it runs
    /// any user of the machine can talk to it on loopback (not read the authorisation values, without which no key signs).
    Swtpm {
        /// Its folder: made with mode 0700 if it is not there.
        state: PathBuf,
    },
    /// Another connection by its tpm2-tools name: `device:/dev/tpm1`, `tabrmd:bus_name=…`, `swtpm:host=…,port=…`.
    Tcti(String),
}

impl TpmChoice {
    /// `/dev/tpmrm0`, if this user can open it.
    ///
    /// # Errors
    /// What is missing and the command that mends it. Never falls back to software.
    pub fn detect() -> Result<Self, TpmError> {
        let choice = Self::Device(DEFAULT_DEVICE.into());
        probe_device(Path::new(DEFAULT_DEVICE))?;
        Ok(choice)
    }

    /// The same choice with a software TPM's folder told from the keyring's, so that the keyring can be moved.
    pub(crate) fn relative_to(&self, folder: &Path) -> Self {
        match self {
            Self::Swtpm { state } => {
                let state = state
                    .strip_prefix(folder)
                    .map_or_else(|_| state.clone(), Path::to_path_buf);
                Self::Swtpm { state }
            }
            Self::Device(_) | Self::Tcti(_) => self.clone(),
        }
    }

    /// The same choice with a software TPM's folder where the keyring now is.
    pub(crate) fn found_from(self, folder: &Path) -> Self {
        match self {
            Self::Swtpm { state } => Self::Swtpm {
                state: folder.join(state),
            },
            Self::Device(_) | Self::Tcti(_) => self,
        }
    }

    /// How an operator knows it.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Device(path) => path.display().to_string(),
            Self::Swtpm { state } => format!("swtpm in {}", state.display()),
            Self::Tcti(name) => name.clone(),
        }
    }
}

/// Whether this user can open the device. Opening the resource manager disturbs nobody else.
pub(crate) fn probe_device(path: &Path) -> Result<(), TpmError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => TpmError::NoDevice(path.to_owned()),
            io::ErrorKind::PermissionDenied => TpmError::NoAccess(path.to_owned()),
            _ => TpmError::Open {
                place: path.display().to_string(),
                cause: error.to_string(),
            },
        }),
    }
}

/// What a keyring keeps: which TPM, and the Name of its storage root key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    schema: u32,
    pub(crate) tpm: TpmChoice,
    // Invariant: a TPM Name in lower-case hexadecimal.
    srk: String,
    /// What opens only when the machine starts as it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bound: Option<BoundTo>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundTo {
    // Invariant: the text of `Registers`.
    registers: String,
    purpose: String,
}

impl Settings {
    const SCHEMA: u32 = 1;

    pub(crate) fn new(tpm: TpmChoice, srk_name: &[u8], binding: Option<&Binding>) -> Self {
        Self {
            schema: Self::SCHEMA,
            tpm,
            srk: hex::encode(srk_name),
            bound: binding.map(|binding| BoundTo {
                registers: binding.registers.to_string(),
                purpose: binding.purpose.clone(),
            }),
        }
    }

    /// What is bound to how the machine starts, if anything is.
    pub(crate) fn binding(&self) -> Result<Option<Binding>, TpmError> {
        let Some(bound) = &self.bound else {
            return Ok(None);
        };
        let registers = bound.registers.parse();
        Ok(Some(Binding {
            registers: registers.map_err(|error: NotRegisters| TpmError::Settings(error.to_string()))?,
            purpose: bound.purpose.clone(),
        }))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, TpmError> {
        let bad = |why: String| TpmError::Settings(why);
        if text.len() > MAX_SETTINGS {
            return Err(bad(format!(
                "expected at most {MAX_SETTINGS} bytes, not {}",
                text.len()
            )));
        }
        let settings: Self = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if settings.schema != Self::SCHEMA {
            return Err(bad(format!(
                "expected schema {}, not {}",
                Self::SCHEMA,
                settings.schema
            )));
        }
        settings.srk_name()?;
        settings.binding()?;
        Ok(settings)
    }

    pub(crate) fn srk_name(&self) -> Result<Vec<u8>, TpmError> {
        // The algorithm's two bytes and a SHA-256 digest.
        match hex::decode(&self.srk) {
            Ok(name) if name.len() == 34 => Ok(name),
            Ok(_) | Err(_) => Err(TpmError::Settings(
                "expected a Name of 34 bytes in hexadecimal".to_owned(),
            )),
        }
    }

    pub(crate) fn to_text(&self) -> Result<String, TpmError> {
        serde_json::to_string(self).map_err(|e| TpmError::Settings(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_written_and_nothing_looser() {
        let choice = TpmChoice::Swtpm {
            state: "/k/tpm".into(),
        };
        let text = Settings::new(choice.clone(), &[7; 34], None).to_text().unwrap();
        let read = Settings::parse(&text).unwrap();
        assert_eq!(read.tpm, choice);
        assert_eq!(read.srk_name().unwrap(), [7; 34]);
        for bad in [
            "",
            "{}",
            &text.replace("\"schema\":1", "\"schema\":2"),
            &text.replace("\"srk\"", "\"extra\":1,\"srk\""),
            &text.replace("0707", "07"),
            &text.replace("0707", "zz07"),
            &" ".repeat(MAX_SETTINGS + 1),
        ] {
            assert!(Settings::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_keyring_that_was_moved_finds_its_software_tpm() {
        let choice = TpmChoice::Swtpm {
            state: "/old/keyring/swtpm".into(),
        };
        let moved = choice
            .relative_to(Path::new("/old/keyring"))
            .found_from(Path::new("/new"));
        assert_eq!(
            moved,
            TpmChoice::Swtpm {
                state: "/new/swtpm".into()
            }
        );
        // One that is kept elsewhere stays there.
        let kept = choice
            .relative_to(Path::new("/other"))
            .found_from(Path::new("/new"));
        assert_eq!(kept, choice);
    }

    #[test]
    fn a_missing_device_is_named_with_what_to_do() {
        let error = probe_device(Path::new("/nonexistent/tpmrm0")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tpmrm0"), "{error}");
        assert!(error.to_string().contains("passphrase"), "{error}");
        let denied = TpmError::NoAccess(DEFAULT_DEVICE.into()).to_string();
        assert!(denied.contains("usermod -aG tss"), "{denied}");
    }
}
