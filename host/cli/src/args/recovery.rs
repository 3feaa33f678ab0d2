//! Arguments of `claviger backup …` and `claviger keyring …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use claviger_tpm::Registers;

use super::Root;

/// `claviger backup …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Write what can leave this keyring to a file that only the recipients can open
    Create(BackupCreate),
    /// Check a backup and say what is in it; never a value
    Show(BackupShow),
    /// Put what a backup holds into this keyring, best a new one
    Restore(BackupRestore),
    /// Make an identity that opens backups, and say for which recipient they have to be made; keep it where no keyring is
    Keygen {
        /// The file; it must not be there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Make it in the TPM of this keyring: backups open on this machine then, with this file, and nowhere else
        #[arg(long)]
        tpm: bool,
    },
}

/// `claviger backup create`.
#[derive(Debug, Args)]
pub(crate) struct BackupCreate {
    /// Who can open it: `age1…`, as `backup keygen` and `age-keygen` print it, or `age1tag1…`, as `backup keygen --tpm` does; may be given
    /// up to 16 times
    #[arg(long, value_name = "RECIPIENT", required = true)]
    pub(crate) recipient: Vec<String>,
    /// The file; it must not be there yet
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// `claviger backup show`.
#[derive(Debug, Args)]
pub(crate) struct BackupShow {
    /// The backup
    #[arg(value_name = "BACKUP")]
    pub(crate) file: PathBuf,
    /// The file with the identity that opens it
    #[arg(long, value_name = "FILE")]
    pub(crate) identity_file: PathBuf,
}

/// `claviger backup restore`.
#[derive(Debug, Args)]
pub(crate) struct BackupRestore {
    /// The backup
    #[arg(value_name = "BACKUP")]
    pub(crate) file: PathBuf,
    /// The file with the identity that opens it
    #[arg(long, value_name = "FILE")]
    pub(crate) identity_file: PathBuf,
    /// The verifier key of the old keyring's audit log, as `init` printed it: only a backup of that keyring is restored
    #[arg(long, value_name = "VKEY")]
    pub(crate) key: Option<String>,
    /// Restore also what was harder than this keyring is
    #[arg(long)]
    pub(crate) weaken: bool,
}

/// `claviger keyring …`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyringCommand {
    /// Seal the keyring's root key anew: under a new passphrase, by the same TPM again, or by another root
    Reseal(Reseal),
}

/// `claviger keyring reseal`.
#[derive(Debug, Args)]
pub(crate) struct Reseal {
    /// What shall protect the keyring from now on [default: what does now]
    #[arg(long, value_enum)]
    pub(crate) custody: Option<Root>,
    /// With `--custody tpm` or `swtpm`: which TPM, such as `device:/dev/tpm1`
    #[arg(long, value_name = "TCTI")]
    pub(crate) tcti: Option<String>,
    /// Read the new passphrase from this file; one newline at its end is left out [default: asked for twice]
    #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_fd")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// Read the new passphrase from this open file descriptor
    #[arg(long, value_name = "N")]
    pub(crate) new_passphrase_fd: Option<u32>,
    /// Open by this recovery code: the machine starts otherwise than the keyring was bound to, because you changed it
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_file: Option<PathBuf>,
    /// Bind the keyring to how the machine starts, by these registers (PCRs), such as `sha256:0,2,4,7`; with a new code
    #[arg(long, value_name = "REGISTERS", requires = "recovery_out")]
    pub(crate) pcr: Option<Registers>,
    /// With `--pcr`: write the new recovery code to this file, which must not be there yet
    #[arg(long, value_name = "FILE", requires = "pcr")]
    pub(crate) recovery_out: Option<PathBuf>,
    /// Bind the keyring to no start of the machine any more
    #[arg(long, conflicts_with = "pcr", requires = "weaken")]
    pub(crate) no_pcr: bool,
    /// Also if the new root is less hard than the one there is
    #[arg(long)]
    pub(crate) weaken: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::Arguments;

    #[test]
    fn a_backup_has_recipients_and_a_file_and_no_identity_is_an_argument() {
        let parse = |text: &str| Arguments::try_parse_from(text.split(' '));
        for good in [
            "claviger backup create --recipient age1a --recipient age1b --out f",
            "claviger backup show f --identity-file i",
            "claviger backup restore f --identity-file i --key k+1+a --weaken",
            "claviger backup keygen --out i",
            "claviger backup keygen --tpm --out i",
            "claviger keyring reseal",
            "claviger keyring reseal --custody passphrase --new-passphrase-file f --weaken",
            "claviger keyring reseal --recovery-file f",
            "claviger keyring reseal --pcr sha256:0,7 --recovery-out f",
            "claviger keyring reseal --no-pcr --weaken",
            "claviger init --pcr sha256:0,2,4,7 --recovery-out f",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "claviger backup create --out f",
            "claviger backup create --recipient age1a",
            "claviger backup restore f",
            "claviger backup restore f --identity AGE-SECRET-KEY-1",
            "claviger backup keygen",
            "claviger keyring reseal --new-passphrase x",
            "claviger keyring reseal --new-passphrase-file f --new-passphrase-fd 3",
            "claviger keyring reseal --no-pcr",
            "claviger keyring reseal --pcr sha256:0,7",
            "claviger keyring reseal --recovery-out f",
            "claviger init --pcr sha256:0,2,4,7",
            "claviger init --pcr sha1:0 --recovery-out f",
            "claviger init --recovery-out f",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
