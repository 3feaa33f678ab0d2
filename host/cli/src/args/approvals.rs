//! `claviger run`, and `claviger approvals`, `approve` and `deny`: an agent's run, and what waits in it for an operator.

use std::path::PathBuf;

use clap::Args;
use claviger_core::SecretName;
use claviger_core::approval::ApprovalId;
use claviger_core::http::{CidrBlock, PathEncoding, Target};

use super::ManifestArg;

/// `claviger run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    /// What the agent is given
    #[arg(group = "given")]
    pub(crate) input: Option<String>,
    /// Give the agent what is in this file
    #[arg(long, value_name = "FILE", group = "given")]
    pub(crate) input_file: Option<PathBuf>,
    /// Give the agent what comes on stdin
    #[arg(long, group = "given")]
    pub(crate) stdin: bool,
    /// Ask on this terminal for the approvals that grants want; without it, `claviger approve` and `deny` answer
    #[arg(long, conflicts_with = "stdin")]
    pub(crate) ask: bool,
    /// Ask this web service for approvals, too: `https://…`, which gets JSON and answers with JSON
    #[arg(long, value_name = "URL", value_parser = url, requires = "approver_secret")]
    pub(crate) approver: Option<Target>,
    /// The secret of the keyring that signs what is asked and answered (kind `webhook-hmac`), or is sent as a bearer token (kind `bearer`)
    #[arg(long, value_name = "SECRET", requires = "approver")]
    pub(crate) approver_secret: Option<SecretName>,
    /// The manifest of a rotator: replaces its secret while the agent runs, when that is due or `claviger secret rotate` says so; may be
    /// given several times
    #[arg(long, value_name = "MANIFEST")]
    pub(crate) rotator: Vec<PathBuf>,
    /// Trust the authorities in this file for it, instead of the public ones
    #[arg(long, value_name = "PEM", requires = "approver")]
    pub(crate) approver_authorities: Option<PathBuf>,
    /// A private network that it may be in, such as `10.1.0.0/16`; may be given several times
    #[arg(long, value_name = "CIDR", requires = "approver")]
    pub(crate) approver_network: Vec<CidrBlock>,
}

fn url(text: &str) -> Result<Target, String> {
    Target::parse(text, PathEncoding::Allowed).map_err(|error| error.to_string())
}

/// `claviger approvals`.
#[derive(Debug, Args)]
pub(crate) struct Approvals {
    /// Show this one, with exactly what would be done [default: list all]
    pub(crate) id: Option<ApprovalId>,
}

/// `claviger approve`.
#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// Which: as `claviger approvals` shows it
    pub(crate) id: ApprovalId,
}

/// `claviger deny`.
#[derive(Debug, Args)]
pub(crate) struct Deny {
    /// Which: as `claviger approvals` shows it
    pub(crate) id: ApprovalId,
    /// Why, for the audit log; the agent does not learn it
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}
