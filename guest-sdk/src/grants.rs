//! What an agent was granted. A list to plan by, not a promise: every use is decided anew.

use crate::bindings::claviger::credentials::grants as wit;
use crate::error::Refusal;

/// One grant as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The alias to open it by.
    pub alias: String,
    /// Its capability: `sign`, `http`, `seal` or `mac`.
    pub capability: String,
    /// Uses left, if they are counted.
    pub uses_left: Option<u64>,
    /// When it ends, in seconds since 1970-01-01T00:00:00Z, if it ends.
    pub expires: Option<u64>,
    /// Whether a use would be refused now, and why.
    pub refused: Option<Refusal>,
}

/// Lists the agent's own grants by alias.
///
/// # Errors
/// The host's refusal.
pub fn grants() -> Result<Vec<Grant>, Refusal> {
    Ok(wit::list()?.into_iter().map(described).collect())
}

fn described(info: wit::GrantInfo) -> Grant {
    Grant {
        alias: info.alias,
        capability: info.capability,
        uses_left: info.uses_left,
        expires: info.expires,
        refused: info.refused.map(Refusal::from),
    }
}
