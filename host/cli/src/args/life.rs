//! The part of the command line about the lives of keys and secrets: rotation, revocation, deletion.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use claviger_core::key::{KeySpec, SecretSpec};
use claviger_core::{KeyName, SecretName};

use super::SecretReplace;

/// When a new version takes a key's place.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rotation")]
#[group(id = "rotation-plan")]
pub(crate) struct Plan {
    /// Rotate it at this age, such as `90d`; `claviger rotate --due` and hosts that run do it [default: never by itself]
    #[arg(long, value_name = "DURATION", value_parser = super::plan)]
    pub(crate) rotate_every: Option<Duration>,
    /// Rotate it after so many uses [default: never by itself]
    #[arg(long, value_name = "N")]
    pub(crate) rotate_uses: Option<NonZeroU64>,
    /// How long the version before still verifies and opens after a rotation; it signs and seals no more; `0s` for not at all
    /// [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = overlap)]
    pub(crate) overlap: Option<Duration>,
    /// Once deleted, keep it recoverable for at least 30 days; cannot be taken back
    #[arg(long)]
    pub(crate) purge_lock: bool,
}

/// `claviger key …`, of a key's life.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyLife {
    /// Make the next version of a key; the one before retires over its overlap
    Rotate {
        /// The key
        name: KeyName,
        /// How long the version before still verifies and opens [default: as planned]
        #[arg(long, value_name = "DURATION", value_parser = overlap)]
        overlap: Option<Duration>,
        /// Let the new version wait until `key promote`, so that whoever verifies can learn of it first
        #[arg(long)]
        stage: bool,
        /// Only if this version, `NAME@vN`, is the one in use: asked twice, it rotates once
        #[arg(long, value_name = "VERSION")]
        of: Option<KeySpec>,
    },
    /// Put the pending version of a key into use
    Promote {
        /// The key
        name: KeyName,
    },
    /// Give up the pending version of a key; its material is destroyed
    Cancel {
        /// The key
        name: KeyName,
    },
    /// Set when a key is rotated
    Plan {
        /// The key
        name: KeyName,
        #[command(flatten)]
        plan: Plan,
    },
    /// Revoke a key of which somebody else may have the material, at once; then replace it, and say what the old versions did
    Compromise {
        /// The key, for all its versions; or `NAME@vN` for one
        key: KeySpec,
        /// Why, for the log and the listings [default: compromised]
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take a key out of use until it is enabled again
    Disable {
        /// The key, for the version in use; or `NAME@vN`
        key: KeySpec,
        /// Why, for the log and the listings
        #[arg(long)]
        reason: Option<String>,
    },
    /// Put a disabled key back into use
    Enable {
        /// The key, or `NAME@vN`
        key: KeySpec,
    },
    /// Take a key out of use for good
    Revoke {
        /// The key, for the version in use; or `NAME@vN`
        key: KeySpec,
        /// Why, for the log and the listings
        #[arg(long)]
        reason: Option<String>,
    },
    /// Delete a key: it is out of use at once, can be restored for a while, and its name stays reserved
    Rm {
        /// The key
        name: KeyName,
        /// How long it can be restored
        #[arg(long, value_name = "DURATION", value_parser = overlap, default_value = "30d")]
        window: Duration,
    },
    /// Take a deletion back
    Restore {
        /// The key
        name: KeyName,
    },
    /// Destroy the material of a deleted key, after its recovery window
    Purge {
        /// The key
        name: KeyName,
    },
}

/// `claviger secret …`, of a secret's life.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretLife {
    /// Have a rotator replace a secret at whoever issues it; or, without one, add a new value that waits until `secret promote`
    Rotate(SecretRotate),
    /// Put the pending value of a secret into use; the one before is kept over its overlap, then destroyed
    Promote {
        /// The secret
        name: SecretName,
    },
    /// Give up the pending value of a secret, which is destroyed
    Cancel {
        /// The secret
        name: SecretName,
    },
    /// Set when a secret shall be replaced
    Plan {
        /// The secret
        name: SecretName,
        /// How often it shall be replaced, such as `90d` [default: no plan]
        #[arg(long, value_name = "DURATION", value_parser = super::plan)]
        rotate_every: Option<Duration>,
        /// How long the value before is kept after a replacement, unused
        #[arg(long, value_name = "DURATION", value_parser = overlap, default_value = "0s")]
        overlap: Duration,
        /// Once deleted, keep it recoverable for at least 30 days; cannot be taken back
        #[arg(long)]
        purge_lock: bool,
    },
    /// Revoke a secret that somebody else may have, at once; then take a new value if one is given, and say what the old ones were used
    /// for
    Compromise {
        /// The secret, for all its versions but one that waits; or `NAME@vN` for one
        secret: SecretSpec,
        /// Why, for the log and the listings [default: compromised]
        #[arg(long)]
        reason: Option<String>,
        /// Read the new value from this file, without one line end at its end [default: none; `secret replace` takes one later]
        #[arg(long, value_name = "FILE", conflicts_with = "fd")]
        file: Option<PathBuf>,
        /// Read the new value from this file descriptor, without one line end at its end
        #[arg(long, value_name = "N")]
        fd: Option<u32>,
    },
    /// Take a secret out of use until it is enabled again, and stop what is under way with it
    Disable {
        /// The secret, for the version in use; or `NAME@vN`
        secret: SecretSpec,
        /// Why, for the log and the listings
        #[arg(long)]
        reason: Option<String>,
    },
    /// Put a disabled secret back into use
    Enable {
        /// The secret, or `NAME@vN`
        secret: SecretSpec,
    },
    /// Take a secret out of use for good, and stop what is under way with it
    Revoke {
        /// The secret, for the version in use; or `NAME@vN`
        secret: SecretSpec,
        /// Why, for the log and the listings
        #[arg(long)]
        reason: Option<String>,
    },
    /// Delete a secret: it is out of use at once, can be restored for a while, and its name stays reserved
    Rm {
        /// The secret
        name: SecretName,
        /// How long it can be restored
        #[arg(long, value_name = "DURATION", value_parser = overlap, default_value = "30d")]
        window: Duration,
    },
    /// Take a deletion back
    Restore {
        /// The secret
        name: SecretName,
    },
    /// Destroy the values of a deleted secret, after its recovery window
    Purge {
        /// The secret
        name: SecretName,
    },
}

/// `claviger secret rotate`.
#[derive(Debug, Args)]
pub(crate) struct SecretRotate {
    /// The rotator's manifest: has its provider issue a new value, tries it, puts it into use and withdraws the old one. A running host
    /// that has this keyring open uses its own, which it was started with
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = ["file", "fd", "expires", "rotate_every", "stage"])]
    pub(crate) with: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) value: SecretReplace,
}

/// `claviger rotate`.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Rotate what is due: for a timer
    #[arg(long, required = true)]
    pub(crate) due: bool,
    /// Only say what is due
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// A rotator's manifest: rotates its secret, too, if that is due. Can be given several times; a running host uses its own
    #[arg(long, value_name = "MANIFEST", conflicts_with = "dry_run")]
    pub(crate) with: Vec<PathBuf>,
}

/// As a plan, and nothing at all.
pub(super) fn overlap(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" | "0d" => Ok(Duration::ZERO),
        _ => super::plan(text),
    }
}
