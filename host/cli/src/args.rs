//! The command line as types, and its help. Decides nothing: what cannot be wrong about one argument alone is checked here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use claviger_core::custody::CustodyKind;
use claviger_core::http::{InjectionKind, Origin};
use claviger_core::key::{KeySpec, SecretSpec};
use claviger_core::manifest::parse_duration;
use claviger_core::{AgentName, Algorithm, GrantAlias, KeyName, SecretName};
use claviger_tpm::Registers;
use jiff::Timestamp;

mod approvals;
mod attest;
pub(crate) mod life;
mod purpose;
mod recovery;
mod stops;

pub(crate) use approvals::{Approvals, Approve, Deny, Run};
pub(crate) use attest::{Attest, Nonce, Revocation};
pub(crate) use purpose::{KeyImport, KeyPublic, ProfileKind, PublicFormat, Purpose};
pub(crate) use recovery::{Backup, BackupCreate, BackupRestore, BackupShow, KeyringCommand, Reseal};
pub(crate) use stops::{Agent, Grant, GrantName, Panic};

/// Runs agents and carries their keys.
///
/// An agent is a WebAssembly component that nobody has to trust. Claviger gives it the operations that a manifest grants, logs each
/// before its result is released, and keeps the keys to itself.
#[derive(Debug, Parser)]
#[command(
    name = "claviger",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = EXIT_CODES
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// At the foot of the help; the numbers are those of [`crate::exit::Exit`].
const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 denied, 4 an approval was missing, 5 the audit log cannot be used, 6 something was \
changed or damaged. 129, 130 and 143: stopped by SIGHUP, Ctrl-C and SIGTERM.
Data goes to stdout, messages to stderr.";

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The keyring's folder [default: $XDG_DATA_HOME/claviger, or ~/.local/share/claviger]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CLAVIGER_KEYRING",
        hide_env_values = true
    )]
    pub(crate) keyring: Option<PathBuf>,
    /// Read the passphrase from this file; one newline at its end is left out
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_fd")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Read the passphrase from this open file descriptor: best a pipe, for programs started here inherit it
    #[arg(long, global = true, value_name = "N")]
    pub(crate) passphrase_fd: Option<u32>,
    /// When an audit entry counts as written: `sync` survives a power cut, `process` only the end of this process
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Durability::Sync)]
    pub(crate) durability: Durability,
    /// Write JSON to stdout, one value a line, and messages as JSON to stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// When an audit entry counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// It survives a power cut.
    Sync,
    /// It survives the end of this process, kill -9 included, but not a power cut.
    Process,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a keyring and its audit log
    Init(Init),
    /// Write a folder with a first agent and its manifest
    New(New),
    /// Make and show keys
    #[command(subcommand, arg_required_else_help = true)]
    Key(Key),
    /// Keep what servers expect to receive: tokens, passwords, API keys
    #[command(subcommand, arg_required_else_help = true)]
    Secret(Secret),
    /// Say what is due, stuck, expiring, weak, suspended or deleted
    Status,
    /// Rotate every key that is due by its plan
    Rotate(life::Rotate),
    /// Check a manifest: every problem at once, every limit, every grant in words
    Check(ManifestArg),
    /// Write the digest of the component into its manifest: approve these bytes
    Pin(Pin),
    /// Run an agent under its manifest
    Run(Run),
    /// Serve a grant of a manifest as an SSH agent, for logins at the servers that it names
    SshAgent(SshAgent),
    /// Say which rule allows or denies a use of a grant, without touching a key
    Explain(Explain),
    /// List the uses that wait for an approval, or show one of them
    Approvals(Approvals),
    /// Approve one use that waits
    Approve(Approve),
    /// Deny one use that waits
    Deny(Deny),
    /// List, suspend and resume grants, and see what agents ask for
    #[command(subcommand, arg_required_else_help = true)]
    Grant(Grant),
    /// List, suspend and resume agents as a whole
    #[command(subcommand, arg_required_else_help = true)]
    Agent(Agent),
    /// Stop all use of every credential at once, until it is lifted
    Panic(Panic),
    /// Read, verify and sign the audit log
    #[command(subcommand, arg_required_else_help = true)]
    Audit(Audit),
    /// Make and restore backups, for the day that the TPM or the disk dies
    #[command(subcommand, arg_required_else_help = true)]
    Backup(Backup),
    /// Change what protects the keyring
    #[command(subcommand, arg_required_else_help = true)]
    Keyring(KeyringCommand),
    /// Look for what is wrong or weak here, and say how to mend it
    Doctor,
    /// Write shell completions to stdout
    Completions {
        /// For which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command, to a folder
    Man {
        /// The folder; made if it is not there
        dir: PathBuf,
    },
    /// Compile a component from stdin to stdout under limits; called by `run` only
    #[command(name = "__compile", hide = true)]
    Compile,
}

/// `claviger init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// What protects the keyring [default: `tpm` if this machine has one; otherwise it must be chosen]
    #[arg(long, value_enum)]
    pub(crate) custody: Option<Root>,
    /// With `--custody tpm` or `swtpm`: which TPM, such as `device:/dev/tpm1` or `tabrmd:bus_name=…`
    #[arg(long, value_name = "TCTI")]
    pub(crate) tcti: Option<String>,
    /// With a TPM: bind the keyring to how the machine starts, by these registers (PCRs), such as `sha256:0,2,4,7`
    #[arg(long, value_name = "REGISTERS", requires = "recovery_out")]
    pub(crate) pcr: Option<Registers>,
    /// With `--pcr`: write the code that opens the keyring after a change of firmware to this file, which must not be there yet
    #[arg(long, value_name = "FILE", requires = "pcr")]
    pub(crate) recovery_out: Option<PathBuf>,
}

/// What protects a keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Root {
    /// The TPM of this machine: the keys are useless without it
    Tpm,
    /// A software TPM beside the keyring; for development
    Swtpm,
    /// A passphrase: as strong as the passphrase is
    Passphrase,
}

/// `claviger new`.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// The agent's name, and its folder's: 1 to 64 of a-z, 0-9 and -
    pub(crate) name: AgentName,
    /// In which language
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    pub(crate) lang: Language,
    /// Take claviger-sdk from this folder [default: the version that this command has, from the registry]
    #[arg(long, value_name = "DIR")]
    pub(crate) sdk: Option<PathBuf>,
}

/// The languages that `claviger new` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// A library that depends on claviger-sdk
    Rust,
}

/// `claviger key …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key for one purpose, fixed for good
    Create(KeyCreate),
    /// Take in a private key that was made elsewhere; it comes from stdin, a file or a file descriptor
    Import(KeyImport),
    /// List the keys
    List,
    /// Show a key: profile, custody, assurance, public key
    Show {
        /// The key, for the version in use; or `NAME@vN` for any
        key: KeySpec,
    },
    #[command(flatten)]
    Life(life::KeyLife),
    /// Prove that a key lives in the TPM: write the TPM's own word, its signature and the public keys to files
    Attest(Attest),
    /// Write a request for the certificate of a key with profile `mtls` to stdout (PKCS#10, PEM)
    Csr {
        /// The key
        name: KeyName,
        /// Whom the certificate is for, `CN=release-bot,O=Acme` say
        #[arg(long)]
        subject: String,
    },
    /// Write a public key to stdout
    Public(KeyPublic),
}

/// `claviger secret …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Add a secret; its value comes from stdin, a file or a file descriptor, without one line end at its end
    Add(SecretAdd),
    /// List the secrets; never their values
    List,
    /// Show everything about a secret but its value
    Show {
        /// The secret, for the version in use; or `NAME@vN` for any
        secret: SecretSpec,
    },
    /// Put a new value in the place of the old one, which is gone afterwards, or after its overlap
    Replace(SecretReplace),
    #[command(flatten)]
    Life(life::SecretLife),
}

/// `claviger secret add`.
#[derive(Debug, Args)]
pub(crate) struct SecretAdd {
    /// Its name: 1 to 64 of a-z, 0-9 and -
    pub(crate) name: SecretName,
    /// How it is attached: bearer, basic, header, query, oauth-client, oauth-refresh, oauth-subject, aws-sigv4 or webhook-hmac; fixed for
    /// good
    #[arg(long)]
    pub(crate) kind: InjectionKind,
    /// The one origin that it may be sent to, such as `https://api.github.com`; fixed for good
    #[arg(long)]
    pub(crate) origin: Origin,
    /// When whoever issued it stops taking it, such as `2027-01-01T00:00:00Z` [default: not known]
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<Timestamp>,
    /// How often it shall be replaced, such as `90d`; `doctor` and `check` say when it is due [default: no plan]
    #[arg(long, value_name = "DURATION", value_parser = plan)]
    pub(crate) rotate_every: Option<Duration>,
    /// How long the value before is kept after a replacement, unused
    #[arg(long, value_name = "DURATION", value_parser = life::overlap, default_value = "0s")]
    pub(crate) overlap: Duration,
    /// Once deleted, keep it recoverable for at least 30 days; cannot be taken back
    #[arg(long)]
    pub(crate) purge_lock: bool,
    #[command(flatten)]
    pub(crate) value: SecretValue,
}

/// `claviger secret replace`.
#[derive(Debug, Args)]
pub(crate) struct SecretReplace {
    /// The secret
    pub(crate) name: SecretName,
    /// When whoever issued it stops taking the new value [default: not known]
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<Timestamp>,
    /// How often it shall be replaced [default: as before]
    #[arg(long, value_name = "DURATION", value_parser = plan)]
    pub(crate) rotate_every: Option<Duration>,
    /// Let the new value wait until `secret promote`
    #[arg(long)]
    pub(crate) stage: bool,
    #[command(flatten)]
    pub(crate) value: SecretValue,
}

/// Where a value comes from: stdin if nothing is said. Never an argument or the environment, which other processes can read.
#[derive(Debug, Args)]
pub(crate) struct SecretValue {
    /// Read the value from this file, without one line end at its end [default: stdin]
    #[arg(long, value_name = "FILE", conflicts_with = "fd")]
    pub(crate) file: Option<PathBuf>,
    /// Read the value from this file descriptor, without one line end at its end
    #[arg(long, value_name = "N")]
    pub(crate) fd: Option<u32>,
}

/// `claviger key create`.
#[derive(Debug, Args)]
pub(crate) struct KeyCreate {
    /// Its name: 1 to 64 of a-z, 0-9 and -
    pub(crate) name: KeyName,
    #[command(flatten)]
    pub(crate) purpose: Purpose,
    /// Its algorithm, `ed25519`, `p256` or `rsa2048` [default: what the profile needs; else p256 where a TPM holds it, ed25519 with a
    /// passphrase]
    #[arg(long)]
    pub(crate) algorithm: Option<Algorithm>,
    /// Where it lives [default: the hardest that this keyring has for the algorithm]
    #[arg(long, value_enum)]
    pub(crate) custody: Option<Custody>,
    /// Who refuses it once it is revoked
    #[arg(long, value_enum, default_value_t)]
    pub(crate) revocation: Revocation,
    #[command(flatten)]
    pub(crate) plan: life::Plan,
}

/// Where a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Custody {
    /// In the TPM, which signs; the key never leaves it
    Tpm,
    /// Sealed by the TPM, opened in locked memory while in use
    TpmSealed,
    /// Encrypted in the keyring, opened in locked memory while in use
    Software,
}

impl From<Custody> for CustodyKind {
    fn from(custody: Custody) -> Self {
        match custody {
            Custody::Tpm => Self::Tpm,
            Custody::TpmSealed => Self::TpmSealed,
            Custody::Software => Self::Software,
        }
    }
}

/// A manifest.
#[derive(Debug, Args)]
pub(crate) struct ManifestArg {
    /// The manifest's file
    #[arg(value_name = "MANIFEST")]
    pub(crate) path: PathBuf,
}

/// `claviger pin`.
#[derive(Debug, Args)]
pub(crate) struct Pin {
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    /// Only show what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `claviger ssh-agent`.
#[derive(Debug, Args)]
pub(crate) struct SshAgent {
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    /// The grant's alias in the manifest; its key has the profile `ssh-auth`
    pub(crate) grant: GrantAlias,
    /// Where the socket is made; what `ssh` finds in SSH_AUTH_SOCK. Its folder should be yours alone
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
}

/// `claviger explain`.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    /// The grant's alias in the manifest, or a request such as 'GET https://api.example.com/v1/items'
    #[arg(value_name = "GRANT|REQUEST", value_parser = asked)]
    pub(crate) asked: Asked,
    /// A header field of the request, such as 'content-type: application/json'; can be given several times
    #[arg(long, value_name = "FIELD", value_parser = header_field)]
    pub(crate) header: Vec<(String, String)>,
    /// The body of the request, in a file
    #[arg(long, value_name = "FILE")]
    pub(crate) body: Option<PathBuf>,
    /// At this time instead of now, such as 2027-01-01T08:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<Timestamp>,
}

/// What an explanation is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Grant(GrantAlias),
    Request { method: String, url: String },
}

/// A request has a space, and an alias has none.
fn asked(text: &str) -> Result<Asked, String> {
    match text.split_once(' ') {
        // Anything else about it is for the rules to say.
        Some((method, url)) if url.contains("://") => Ok(Asked::Request {
            method: method.to_owned(),
            url: url.to_owned(),
        }),
        Some(_) => Err("expected a grant's alias, or a request: a method, one space and a URL".to_owned()),
        None => text
            .parse()
            .map(Asked::Grant)
            .map_err(|error: claviger_core::name::NotAName| {
                format!("{error}, or a request with one space: a method and a URL")
            }),
    }
}

fn header_field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("expected a name, a colon and a value")?;
    Ok((name.to_owned(), value.trim_start_matches(' ').to_owned()))
}

/// `claviger audit …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Show the last entries
    Tail {
        /// How many
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20)]
        count: u64,
        /// Go on showing entries as they are written
        #[arg(short, long)]
        follow: bool,
    },
    /// Show one entry
    Show {
        /// Its index, counted from 0
        index: u64,
        /// With the proof that it is in the log (RFC 6962)
        #[arg(long)]
        proof: bool,
    },
    /// Verify the whole log and its signed checkpoint
    Verify {
        /// The log's verifier key, kept elsewhere [default: the one in the keyring, which proves less]
        #[arg(long, value_name = "VKEY")]
        key: Option<String>,
    },
    /// Sign a checkpoint of the log now
    Checkpoint,
    /// Vouch for the system's clock after it had run ahead
    AcceptClock,
}

/// A rotation plan: days, or what a manifest takes for a duration; at least a second.
fn plan(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').map(str::trim_end);
    let parsed = match days {
        Some(days) if !days.is_empty() && days.bytes().all(|b| b.is_ascii_digit()) => days
            .parse::<u32>()
            .ok()
            .map(|days| Duration::from_secs(u64::from(days) * 86_400)),
        Some(_) => None,
        None => parse_duration(text).ok(),
    };
    parsed.filter(|every| every.as_secs() > 0).ok_or_else(|| {
        "expected a whole number and one of the units s, min, h and d, such as `90d`".to_owned()
    })
}

fn whole_seconds(text: &str) -> Result<u32, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    match u32::try_from(duration.as_secs()) {
        Ok(seconds) if duration.subsec_nanos() == 0 => Ok(seconds),
        Ok(_) | Err(_) => Err("expected whole seconds, such as `10 min`".to_owned()),
    }
}

#[cfg(test)]
mod tests;
