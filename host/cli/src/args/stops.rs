//! `claviger grant …`, `claviger agent …` and `claviger panic`: what an operator stops, and lets go on.

use clap::{Args, Subcommand};
use claviger_core::{AgentName, GrantAlias};

/// `claviger grant …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Grant {
    /// List the grants that the audit log knows: uses, suspensions
    List,
    /// Suspend a grant, from the next request on
    Suspend(GrantName),
    /// Resume a suspended grant
    Resume(GrantName),
    /// List the grants that agents ask for, as lines for their manifests
    Proposals,
    /// Put a proposal aside
    Dismiss(GrantName),
}

/// A grant of an agent.
#[derive(Debug, Args)]
pub(crate) struct GrantName {
    /// The agent's name in its manifest
    pub(crate) agent: AgentName,
    /// The grant's alias in the manifest
    pub(crate) grant: GrantAlias,
}

/// `claviger agent …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// List the agents that the audit log knows: uses, suspensions
    List,
    /// Suspend every grant that an agent has or will have, and stop what is under way for it
    Suspend {
        /// The agent's name in its manifest
        name: AgentName,
    },
    /// Resume a suspended agent; grants that were suspended by themselves stay so
    Resume {
        /// The agent's name in its manifest
        name: AgentName,
    },
}

/// `claviger panic`.
#[derive(Debug, Args)]
pub(crate) struct Panic {
    /// Let credentials be used again; what was suspended, disabled or revoked by itself stays so
    #[arg(long)]
    pub(crate) lift: bool,
}
