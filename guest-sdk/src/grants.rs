//! What an agent was granted, and asking for more. A list to plan by, not a promise: every use is decided anew.

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

/// What an agent would like to be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wish {
    /// To sign with the key of this name; at most 64 bytes.
    Sign {
        /// The key.
        key: String,
    },
    /// To send requests.
    Http {
        /// Where to, such as `https://api.example.com`; at most 512 bytes.
        origin: String,
        /// Which, such as `GET /repos/*`: 1 to 16, of at most 512 bytes each.
        allow: Vec<String>,
    },
}

/// Asks the operator for a grant that would have this alias. Gives none: it goes on record as a proposal, and whether it becomes a grant
/// of a later run, an operator decides. The reason is cut to 200 characters. Asking for the same again does nothing.
///
/// # Errors
/// `Invalid` if no manifest could have such a grant, or the agent has one of this alias. `Throttled` if 20 proposals of the agent wait, or
/// another one of this alias.
pub fn request_grant(alias: &str, wish: &Wish, reason: &str) -> Result<(), Refusal> {
    let wish = match wish {
        Wish::Sign { key } => wit::Wish::Sign(key.clone()),
        Wish::Http { origin, allow } => wit::Wish::Http(wit::WishedRequests {
            origin: origin.clone(),
            allow: allow.clone(),
        }),
    };
    Ok(wit::request(alias, &wish, reason)?)
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
