//! Keyrings that are bound to how their machine starts: what was asked for, and the file with the recovery code. Not the sealing: the TPM's
//! crate has it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use claviger_core::Secret;
use claviger_tpm::{MAX_RECOVERY_FILE, RecoveryCode, Registers};
use zeroize::Zeroizing;

use crate::command::NewFile;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::passphrase::{read_line, warn_if_shared};

/// What to type when a machine starts otherwise than before.
pub(crate) const REBIND: &str = "if you changed the firmware, the boot loader or the keys of Secure Boot: `claviger keyring reseal \
     --recovery-file FILE`, with the file that `--recovery-out` named, binds the keyring to how the machine starts now";
/// What else it may be.
pub(crate) const INTRUDER: &str =
    "if nobody changed them, somebody may have: look at the machine before you give it the code";

/// A binding that shall be made, with a new code.
pub(crate) struct NewBinding {
    pub(crate) registers: Registers,
    file: PathBuf,
    // Taken once, by whatever seals.
    code: Option<RecoveryCode>,
}

impl NewBinding {
    /// Makes a code and writes its file, before anything is sealed: without the file nobody could use the code.
    pub(crate) fn make(registers: Registers, file: &Path) -> Result<Self, Failure> {
        let code = RecoveryCode::random()?;
        let text = code.to_text()?;
        let new = NewFile::at(file)?;
        let mut out = new.as_file();
        out.write_all(text.expose())
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|error| {
                Failure::failed(format!("`{}` cannot be written", file.display())).because(Some(&error))
            })?;
        new.put()?;
        Ok(Self {
            registers,
            file: file.to_owned(),
            code: Some(code),
        })
    }

    /// The code, once.
    pub(crate) fn take_code(&mut self) -> Result<RecoveryCode, Failure> {
        self.code
            .take()
            .ok_or_else(|| Failure::failed("the recovery code was used before"))
    }

    /// Takes the file away again: nothing was sealed for its code.
    pub(crate) fn undo(&self) {
        fs::remove_file(&self.file).ok();
    }

    pub(crate) fn tell(&self, out: &Output) {
        out.note(&format!(
            "{} holds the recovery code: move it off this machine. After a change of firmware it opens the keyring, with this TPM and with \
             no other; without it only a backup does",
            self.file.display()
        ));
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }
}

/// Reads a recovery code. Its file may be a pipe.
pub(crate) fn read_code(path: &Path, out: &Output) -> Result<RecoveryCode, Failure> {
    let name = "the file with the recovery code";
    let cannot = |error: std::io::Error| {
        Failure::failed(format!("{name} `{}` cannot be read", path.display())).because(Some(&error))
    };
    let file = fs::File::open(path).map_err(cannot)?;
    warn_if_shared(&file, path, name, out).map_err(cannot)?;
    let mut bytes: Zeroizing<Vec<u8>> = read_line(file, MAX_RECOVERY_FILE).map_err(cannot)?;
    if bytes.is_empty() || bytes.len() > MAX_RECOVERY_FILE {
        return Err(Failure::failed(format!(
            "{name} has 1 to {MAX_RECOVERY_FILE} bytes; expected the one that `--recovery-out` named"
        )));
    }
    let text = Secret::take(&mut bytes).map_err(|error| Failure::of(Exit::Failed, &error))?;
    RecoveryCode::parse(&text).map_err(|error| Failure::of(Exit::Failed, &error))
}

/// A binding as it is shown, if there is one.
pub(crate) fn shown(settings: &str) -> Option<String> {
    let registers = claviger_tpm::Tpm::bound_to(settings).ok()??;
    Some(registers.to_string())
}
